"""`slm batch`: order, bounded memory, what goes on after an interruption, exit codes; the real program on tiny models."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fork_server
import pytest
from batch_desk import Desk
from conftest import Outcome, environment
from fake_engine import FakeEngine
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama

from slmchat.cli import run_cli
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.generation.batch.progress import Progress
from slmchat.generation.batch.recipe import Recipe, check_same, recipe_of
from slmchat.generation.batch.records import Expected, RecordWriter, Window, cut, open_output, read_begun
from slmchat.generation.batch.rows import Row
from slmchat.options import BestOfOptions, ChoiceOptions, GenerationOptions
from slmchat.terminal.console import Console


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def _rows(*texts: str) -> Iterator[Row]:
    return (Row(number, text, number) for number, text in enumerate(texts, 1))


class TestOrder:
    def test_records_stand_in_input_order_whatever_is_done_first(self, desk: Desk) -> None:
        desk.engine = FakeEngine(answer=lambda prompt: f"<{prompt}>", n_held=20, pick=lambda held: held - 1)
        assert desk.run(_rows(*(f"t{n}" for n in range(100)))) is ExitCode.DONE
        assert [record["id"] for record in desk.records] == list(range(1, 101))
        assert all(record["completion"] == f"<{record['input']}>" for record in desk.records)

    def test_a_record_is_written_as_soon_as_it_is_its_turn(self, desk: Desk) -> None:
        seen: list[int] = []

        def rows() -> Iterator[Row]:
            for number in range(1, 6):
                seen.append(len(desk.file.read_text().splitlines()))
                yield Row(number, "x", number)

        desk.run(rows())
        assert seen == [0, 1, 2, 3, 4]

    def test_nothing_new_is_taken_while_the_oldest_is_slow(self) -> None:
        window = Window(3)
        assert [window.enter(1) for _ in range(3)] == [0, 1, 2]
        assert not window._has_room(1)
        assert list(window.leave(2, b"c")) == []
        assert list(window.leave(1, b"b")) == []
        assert not window._has_room(1)  # finished rows count until they are written
        leaving = window.leave(0, b"a")
        assert next(leaving) == (0, b"a")
        assert not window._has_room(1)  # it is being written
        assert list(leaving) == [(1, b"b"), (2, b"c")]
        assert window._has_room(1)

    def test_large_rows_are_fewer_at_once(self) -> None:
        window = Window(100)
        window.enter(10**9)  # one is let in, however large
        assert not window._has_room(1)


class TestRecords:
    def test_a_record(self, desk: Desk) -> None:
        desk.engine.answer = lambda prompt: "fine\x1b[31m\u202e"
        desk.run(_rows("a\u202eb"))
        assert desk.records == [
            {
                "id": 1,
                "input": "a\u202eb",
                "completion": "fine\u202e",
                "finish_reason": "stop",
                "usage": {"prompt_tokens": 3, "cached_tokens": 0, "completion_tokens": 1},
                "seed": 5,
                "error": None,
            }
        ]
        assert "\u202e" not in desk.file.read_text()  # escaped: safe to look at

    def test_a_row_that_fails_is_a_record(self, desk: Desk) -> None:
        too_long = SlmError("the prompt is too long.", exit_code=ExitCode.CONTEXT)
        desk.engine.answer = lambda prompt: too_long if prompt == "b" else "yes"
        rows = iter([Row(1, "a", 1), Row(2, "b", 2), Row(3, "{", 3, error="line 3 is not JSON"), Row(4, "d", 4)])
        assert desk.run(rows) is ExitCode.ROWS_FAILED
        assert [record["error"] for record in desk.records] == [
            None,
            "the prompt is too long.",
            "line 3 is not JSON.",
            None,
        ]
        assert desk.records[2] == {
            **{"id": 3, "input": "{", "completion": None, "finish_reason": None, "usage": None},
            "error": "line 3 is not JSON.",
        }
        assert "2 of 4 rows failed" in desk.errors.getvalue()

    def test_an_exit_code_of_their_own_when_all_failed_alike(self, desk: Desk) -> None:
        desk.engine.answer = lambda prompt: SlmError("too long.", exit_code=ExitCode.CONTEXT)
        assert desk.run(_rows("a", "b")) is ExitCode.CONTEXT

    def test_without_echo_a_fingerprint_stands_for_the_input(self, tmp_path: Path) -> None:
        desk = Desk(tmp_path, is_echoed=False)
        desk.run(_rows("secret", "other", "secret"))
        marks = [record["input_sha256"] for record in desk.records]
        assert marks[0] == marks[2] != marks[1]
        assert "secret" not in desk.file.read_text()


class TestResume:
    TEXTS = tuple(f"text {n}" for n in range(10))

    @pytest.mark.parametrize("cut", [0, 1, 30, 200, 201, 500, 10_000])
    @pytest.mark.parametrize("is_echoed", [True, False])
    def test_nothing_is_lost_or_repeated_wherever_it_was_cut(self, tmp_path: Path, cut: int, is_echoed: bool) -> None:
        whole = Desk(tmp_path, is_echoed=is_echoed)
        whole.run(_rows(*self.TEXTS))
        expected = whole.file.read_bytes()
        whole.file.write_bytes(expected[:cut])
        asked: list[str] = []

        def answer(prompt: str) -> str:
            asked.append(prompt)
            return "yes"

        whole.engine = FakeEngine(answer=answer)
        assert whole.run(_rows(*self.TEXTS), goes_on=True) is ExitCode.DONE
        assert whole.file.read_bytes() == expected
        assert len(asked) == 10 - expected[:cut].count(b"\n")

    def test_other_inputs_are_refused_and_the_file_stays(self, desk: Desk) -> None:
        desk.run(_rows("a", "b"))
        before = desk.file.read_bytes()
        for texts, says in (
            (("a", "x", "c"), "record 2 is not for input 2"),
            (("a",), "more records than there are inputs"),
        ):
            with pytest.raises(SlmError, match=says):
                desk.run(_rows(*texts), goes_on=True)
        assert desk.file.read_bytes() == before
        desk.file.write_bytes(b"no record\n" + before)
        with pytest.raises(SlmError, match="line 1 is not a record"):
            desk.run(_rows("a", "b"), goes_on=True)

    def test_failures_of_the_first_part_count(self, desk: Desk) -> None:
        desk.run(iter([Row(1, "", 1, error="line 1 is broken")]))
        rows = iter([Row(1, "", 1, error="line 1 is broken"), Row(2, "b", 2)])
        assert desk.run(rows, goes_on=True) is ExitCode.ROWS_FAILED
        assert [record["error"] for record in desk.records] == ["line 1 is broken.", None]

    def test_a_file_is_not_overwritten_unasked(self, desk: Desk) -> None:
        desk.run(_rows("a"))
        with pytest.raises(SlmError, match="is there already"):
            desk.run(_rows("b"))
        assert desk.records[0]["input"] == "a"
        with pytest.raises(SlmError, match="input and output at once"):
            open_output(desk.file, [desk.file], may_exist=True)


def test_a_file_belongs_to_one_batch_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "out"
    first = open_output(file, [], may_exist=True)
    os.write(first, b"x")
    with pytest.raises(SlmError, match="is being written by another slm batch") as caught:
        open_output(file, [], may_exist=True)
    assert caught.value.exit_code is ExitCode.STORAGE
    with pytest.raises(SlmError, match="is being written"):  # rather than "is there already"
        open_output(file, [], may_exist=False)
    os.close(first)
    os.close(open_output(file, [], may_exist=True))
    assert list(tmp_path.iterdir()) == [file]  # no lock lies about
    os.close(open_output(Path(os.devnull), [], may_exist=True))
    many = [open_output(Path(os.devnull), [], may_exist=True) for _ in range(2)]  # nothing to protect there
    for descriptor in many:
        cut(descriptor, 0)  # and nothing to take back
        os.close(descriptor)


def test_a_pipe_tells_that_its_reader_has_gone(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    descriptor = open_output(pipe, [], may_exist=False)
    writer = RecordWriter(descriptor, "pipe", lambda: None)
    cut(descriptor, 0)
    writer.write(b"{}\n")
    assert os.read(reader, 10) == b"{}\n"
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        writer.write(b"{}\n")
    os.close(descriptor)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-o", ""], "-o needs the name of a file."),
        (["-o", "."], "-o: . is a directory."),
        (["-o", "none/out.jsonl"], "-o: there is no directory "),
        (["--resume", "none/out.jsonl"], "--resume: there is no directory "),
        (["--resume", os.devnull], f"--resume: {os.devnull} is not a regular file."),
    ],
)
def test_an_output_that_cannot_be_is_said_before_the_model_is_looked_for(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["batch", "hi", *arguments], environ={}) == ExitCode.USAGE
    assert capsys.readouterr().err.startswith(f"slm: {says}")


class TestRecipe:
    RECIPE = Recipe("tiny", "abc", {"temperature": 0.0})

    def test_what_differs_is_named(self, tmp_path: Path) -> None:
        check_same(self.RECIPE, self.RECIPE.as_json(), tmp_path)
        for before, says in (
            ({"prompt": "x"}, "another prompt."),
            ({"model": "big"}, r"another model \(big\)"),
            ({"options": {}}, r"other options \(temperature not given\)"),
            ({"options": {"temperature": 0.0, "ctx": 512}}, r"other options \(ctx 512\)"),
            ({"prompt": 1, "options": None}, "another prompt and other options"),
        ):
            with pytest.raises(SlmError, match=says) as caught:
                check_same(self.RECIPE, {**self.RECIPE.as_json(), **before}, tmp_path)
            assert caught.value.exit_code is ExitCode.USAGE

    def test_only_what_decides_an_answer_counts(self) -> None:
        def made(**given: Any) -> Recipe:
            options = GenerationOptions(**given)
            sampler = SamplerSettings().with_values(options.sampler_values())
            return recipe_of("tiny", "x", None, [], None, sampler, options, None, (ChoiceOptions(), BestOfOptions()))

        assert made(threads=3, force=True, kv_type="f16", device="none") == made()
        assert made().options == {}
        for given in (
            {"max_tokens": 5},
            {"stop": ["a"]},
            {"temperature": 0.0},
            {"seed": 0},
            {"raw": True},
            {"ctx": 99},
        ):
            assert made(**given).options.keys() == given.keys()

    def test_the_first_record_tells_it_and_a_resumed_batch_finds_it(self, desk: Desk) -> None:
        desk.made_with = self.RECIPE.as_json()
        desk.run(_rows("a", "b"))
        assert [record.get("made_with") for record in desk.records] == [desk.made_with, None]
        with desk.file.open("rb") as file:
            expected = iter([Expected(1, "a", 1), Expected(2, "b", 2)])
            assert read_begun(file.fileno(), desk.file, expected).made_with == desk.made_with


def test_a_full_disk_keeps_whole_records_only(tmp_path: Path) -> None:
    file = tmp_path / "out"
    descriptor = open_output(file, [], may_exist=False)
    writer = RecordWriter(descriptor, str(file), lambda: None)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # as a disk with 100 bytes left
    try:
        writer.write(b"a" * 59 + b"\n")
        with pytest.raises(SlmError, match="the disk is full") as caught:
            writer.write(b"b" * 59 + b"\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        os.close(descriptor)
    assert caught.value.exit_code is ExitCode.STORAGE
    assert caught.value.hint and "--resume" in caught.value.hint
    assert file.read_bytes() == b"a" * 59 + b"\n"


def test_progress_tells_rate_and_time_left() -> None:
    now = [0.0]
    progress = Progress(Console(io.StringIO(), io.StringIO(), io.StringIO(), {}), 1000, clock=lambda: now[0])
    for row in range(1, 11):
        now[0] += 1
        progress.add(row * 10, is_failed=row == 3)
    assert progress.line(100) == "10 rows, 1.0 rows/s, 1 failed, 1:30 left"
    now[0] = 3600 * 2
    assert progress.line(100) == "10 rows, 0.0014 rows/s, 1 failed, 18:00:00 left"


@pytest.mark.slow
def test_memory_stays_flat_over_many_rows(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    rows = (Row(number, f"row {number} " + "x" * 200, number) for number in range(1, 40_001))
    desk.run(_until(rows, 2_000))
    os.unlink(desk.file)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    desk.run(rows)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8_000  # KiB; the records have 16 MiB
    assert desk.file.stat().st_size > 14_000_000


def _until(rows: Iterator[Row], count: int) -> Iterator[Row]:
    for _ in range(count):
        yield next(rows)


# The real program.


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_llama(
        tmp_path / "tiny.gguf", chat_template=CHATML_TEMPLATE, extra_control_tokens=("<|im_start|>", "<|im_end|>")
    )


def _arguments(tiny: Path, *more: str | Path) -> list[str]:
    return ["batch", "-m", str(tiny), "--temp", "0", "-n", "5", *map(str, more)]


def _records(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.real
class TestProgram:
    def test_rows_say_what_run_says(self, slm: Callable[..., Outcome], tiny: Path) -> None:
        texts = ["hello world", "the people", "", "water and oil"]
        done = slm(*_arguments(tiny, "--parallel", "2"), "What is it?", stdin="\r\n".join(texts))
        assert (done.code, done.err) == (0, "")
        records = _records(done.out)
        assert [(record["id"], record["input"]) for record in records] == [(1, texts[0]), (2, texts[1]), (4, texts[3])]
        alone = slm("run", "-m", tiny, "--temp", "0", "-n", "5", "--json", "What is it?", stdin=texts[0])
        said = json.loads(alone.out)
        assert records[0]["completion"] == said["completion"]
        assert records[0]["usage"]["prompt_tokens"] == said["usage"]["prompt_tokens"]

    def test_fields_of_csv_and_json(self, slm: Callable[..., Outcome], tiny: Path) -> None:
        done = slm(*_arguments(tiny), "{a} or {b}?", stdin='a,b\none,two\n"broken\n')
        assert done.code == ExitCode.ROWS_FAILED
        first, second = _records(done.out)
        assert (first["id"], first["input"], first["error"]) == (2, {"a": "one", "b": "two"}, None)
        assert (second["id"], second["error"]) == (3, "line 3: not CSV (unexpected end of data).")
        done = slm(*_arguments(tiny, "--input-field", "q"), stdin='{"id": "x", "q": "hello"}\n{"z": 1}\n')
        assert done.code == ExitCode.ROWS_FAILED
        first, second = _records(done.out)
        assert (first["id"], first["input"]) == ("x", "hello")
        assert second["error"] == "there is no field 'q' (fields: z)."

    def test_files_are_inputs(self, slm: Callable[..., Outcome], tiny: Path, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("hello")
        done = slm(*_arguments(tiny, "-f", tmp_path / "a.txt", "-f", tmp_path / "none.txt"), "Sum up.")
        assert done.code == ExitCode.ROWS_FAILED
        assert [record["id"] for record in _records(done.out)] == [str(tmp_path / "a.txt"), str(tmp_path / "none.txt")]

    def test_rows_that_do_not_fit(self, slm: Callable[..., Outcome], tiny: Path) -> None:
        rows = "hello\n" + "word " * 400 + "\n"
        done = slm(*_arguments(tiny), stdin=rows)
        assert done.code == 7
        assert "the context window holds 256" in _records(done.out)[1]["error"]
        done = slm(*_arguments(tiny, "--on-overflow", "trim"), stdin=rows)
        assert done.code == 0, done.err
        assert _records(done.out)[1]["trimmed_characters"] > 500
        assert "1 row did not fit" in done.err

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--parallel", "0"], "--parallel cannot be '0'"),
            (["--format", "xml"], "--format cannot be 'xml'"),
            (["-o", "a", "--resume", "b"], "cannot stand together"),
            (["--on-overflow", "explode"], "--on-overflow cannot be"),
        ],
    )
    def test_bad_options(self, slm: Callable[..., Outcome], tiny: Path, arguments: list[str], says: str) -> None:
        done = slm(*_arguments(tiny, *arguments), stdin="x\n")
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("slm: ")
        assert says in done.err

    def test_minus_is_stdout(self, slm: Callable[..., Outcome], tiny: Path) -> None:
        done = slm(*_arguments(tiny, "-o", "-"), "What is it?", stdin="hello\n")
        assert (done.code, [record["input"] for record in _records(done.out)]) == (0, ["hello"]), done.err

    def test_nothing_comes_of_nothing(self, slm: Callable[..., Outcome], tiny: Path) -> None:
        done = slm(*_arguments(tiny), "What?", stdin="")
        assert (done.code, done.out) == (0, "")

    def test_the_same_file_for_another_question(self, slm: Callable[..., Outcome], tiny: Path, tmp_path: Path) -> None:
        file = tmp_path / "out.jsonl"

        def ask(prompt: str, texts: str, *more: str) -> Outcome:
            return slm(*_arguments(tiny, "--resume", file, *more), prompt, stdin=texts)

        assert ask("What?", "one\n").code == 0
        before = file.read_bytes()
        refused = ask("Why?", "one\ntwo\n")
        assert (refused.code, refused.out) == (2, "")
        assert f"the records in {file} were made with another prompt." in refused.err
        assert "--allow-changes" in refused.err
        assert file.read_bytes() == before
        assert ask("Why?", "one\ntwo\n", "--allow-changes").code == 0
        first, second = _records(file.read_text())
        assert first["made_with"]["prompt"] != second["made_with"]["prompt"]
        assert ask("Why?", "one\ntwo\nthree\n", "--threads", "1").code == 0  # the last one counts
        del first["made_with"]
        file.write_text(json.dumps(first) + "\n")  # of an older slm
        done = ask("Why?", "one\ntwo\n")
        assert done.code == 0
        assert "does not tell which prompt and model made it" in done.err

    @pytest.mark.parametrize(
        ("arguments", "stdin", "says"),
        [
            (["Translate {text}"], "hello\n", "there is no field 'text' (fields: hello).\nhint: {} in the prompt"),
            (
                ["About {titel}"],
                "title,body\na,b\n",
                "no field 'titel' (fields: title, body).\nhint: did you mean title?",
            ),
            (
                ["About {texts}"],
                '{"text": "a"}\n{"text": "b"}\n',
                "no field 'texts' (fields: text).\nhint: did you mean",
            ),
            (["--input-field", "q"], "a,b\n1,2\n", "there is no field 'q' (fields: a, b)"),
            (["--format", "csv", "What?"], "a,b\n1,2\n", "it is not clear which field is the input (fields: a, b)"),
            (["--format", "lines", "--input-field", "q"], "a\n", "--input-field q needs rows with fields"),
            (["What?"], b"a\0b\0c\0\n\0", "the input is UTF-16LE text without a byte order mark"),
            (["What?"], b"%PDF-1.7\n\0\xff\n", "the input is a PDF, not text"),
        ],
    )
    def test_what_no_row_can_give_is_told_before_a_model_is_loaded(
        self, slm: Callable[..., Outcome], arguments: list[str], stdin: str | bytes, says: str
    ) -> None:
        done = slm("batch", "-m", "none.gguf", *arguments, stdin=stdin)
        assert (done.code, done.out) == (2, "")
        assert says in done.err

    @pytest.mark.parametrize(
        ("arguments", "stdin", "says"),
        [
            (["What?"], "", "there were no inputs"),
            (["What?"], "\n  \n\r\n", "there were no inputs"),
            (["{a}"], "a,b\n", "the CSV has a header and no rows"),
        ],
    )
    def test_nothing_to_do_is_told(
        self, slm: Callable[..., Outcome], tiny: Path, arguments: list[str], stdin: str, says: str
    ) -> None:
        done = slm(*_arguments(tiny), *arguments, stdin=stdin)
        assert (done.code, done.out, done.err) == (0, "", f"slm: warning: {says}: nothing was done.\n")

    def test_what_powershell_writes(self, slm: Callable[..., Outcome], tiny: Path) -> None:
        done = slm(*_arguments(tiny), stdin="\ufeffcaf\u00e9\r\n\U0001f600\r\n".encode("utf-16-le"))
        assert (done.code, done.err) == (0, "")
        assert [record["input"] for record in _records(done.out)] == ["caf\u00e9", "\U0001f600"]

    def test_a_disk_that_is_full(self, home: Path, tiny: Path) -> None:
        with open("/dev/full", "wb") as full:
            done = fork_server.run(
                [sys.executable, "-m", "slmchat", *_arguments(tiny)],
                input=b"hello\n",
                stdout=full,
                stderr=subprocess.PIPE,
                env=environment(home),
                timeout=300,
                check=False,
            )
        assert done.returncode == 10
        assert b"slm: standard output cannot be written: the disk is full" in done.stderr
        assert b"Traceback" not in done.stderr

    def test_a_reader_that_goes_ends_it_quietly(self, home: Path, tiny: Path) -> None:
        with self._begun(home, tiny) as program:
            assert program.stdin and program.stdout and program.stderr
            program.stdin.write(b"hello\n")
            program.stdin.flush()
            assert json.loads(program.stdout.readline())["id"] == 1  # before the input has ended
            program.stdout.close()
            program.stdin.write(b"the people\n" * 20)
            program.stdin.flush()
            assert program.wait(300) == 0
            assert program.stderr.read() == b""

    def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(self, home: Path, tiny: Path, tmp_path: Path) -> None:
        inputs = [f"hello {n}" for n in range(30)]
        file = tmp_path / "out.jsonl"
        with self._begun(home, tiny, "--resume", file) as program:
            assert program.stdin and program.stderr
            program.stdin.write("".join(f"{text}\n" for text in inputs[:3]).encode())
            program.stdin.flush()
            while not file.exists() or file.read_bytes().count(b"\n") < 3:
                assert program.poll() is None
            program.send_signal(signal.SIGINT)  # it waits for more input now
            assert program.wait(300) == 130
            said = program.stderr.read().decode()
        assert "interrupted; 3 rows are written" in said
        assert f"--resume {file}" in said
        with file.open("ab") as out:
            out.write(b'{"id": 4, "inp')  # as if it had been killed in the middle of a record
        done = fork_server.run(
            [sys.executable, "-m", "slmchat", *_arguments(tiny, "--resume", file)],
            input="".join(f"{text}\n" for text in inputs).encode(),
            capture_output=True,
            env=environment(home),
            timeout=300,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert [record["input"] for record in _records(file.read_text())] == inputs
        assert file.stat().st_mode & 0o777 == 0o600

    @staticmethod
    def _begun(home: Path, tiny: Path, *more: str | Path) -> "subprocess.Popen[bytes]":
        return fork_server.popen(
            [sys.executable, "-m", "slmchat", *_arguments(tiny, *more)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(home),
        )
