"""Code infill: the exact tokens of a gap, what fits around the cursor, places in files, inserting. Tiny real models."""

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import fork_server
import pytest
from conftest import Outcome, environment, run_slm
from gguf import GGUFReader
from gguf_samples import GEMMA_INFILL, QWEN_INFILL, write_tiny_llama

from slmchat.commands.infill_target import place_of, read_target
from slmchat.conversation.infill import Gap, SourceFile, fit, lay_out, left_out
from slmchat.engine import llama
from slmchat.engine.api import InfillTokens
from slmchat.engine.requests import Limits, SessionSettings
from slmchat.engine.results import Finish
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.private_files import replace_content

pytestmark = pytest.mark.real

SERVER = os.environ.get("SLM_LLAMA_SERVER") or shutil.which("llama-server")
CODE = "the first line\nthe second line\nthe third line\nthe last line\n"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BPE vocabulary with Qwen2.5-Coder's infill tokens."""
    path = tmp_path_factory.mktemp("qwen") / "qwen.gguf"
    return write_tiny_llama(
        path, chat_template=None, tokenizer="bpe", extra_control_tokens=QWEN_INFILL, context_length=4096
    )


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece vocabulary that declares CodeGemma's infill tokens as user-defined, as the real files do."""
    path = tmp_path_factory.mktemp("gemma") / "gemma.gguf"
    return write_tiny_llama(path, chat_template=None, user_defined_tokens=GEMMA_INFILL)


@contextlib.contextmanager
def loaded(path: Path) -> Iterator[llama.LlamaEngine]:
    engine = llama.load(path)
    try:
        yield engine
    finally:
        engine.close()


def spelled(path: Path, gap: Gap) -> list[str]:
    """The tokens of a gap's prompt, as the vocabulary spells them."""
    with loaded(path) as engine:
        assert engine.info.infill
        return [engine.vocabulary.text_of(id) for id in engine.vocabulary.tokenize(lay_out(gap, engine.info.infill))]


def generated(path: Path, gap: Gap, number: int, order: str = "psm") -> tuple[int, ...]:
    """The greedy tokens of a fill."""
    with loaded(path) as engine:
        assert engine.info.infill
        session = engine.open_session(SessionSettings(n_ctx=512, threads=2, threads_batch=2))
        prompt = lay_out(gap, replace(engine.info.infill, is_suffix_first=order == "spm"))
        *_, finish = session.generate(prompt, SamplerSettings(temperature=0), Limits(number))
        session.close()
        assert isinstance(finish, Finish) and finish.tokens is not None
        return finish.tokens


class TestLayout:
    def test_repository_and_files_of_qwen(self, qwen: Path) -> None:
        gap = Gap(" the first", " the word", "go.py", "project", (SourceFile("see.py", " hello"),))
        assert spelled(qwen, gap) == [
            *("<|repo_name|>", *"project", "Ċ"),
            *("<|file_sep|>", *"see.py", "Ċ", "Ġhello"),
            *("<|file_sep|>", *"go.py", "Ċ"),
            *("<|fim_prefix|>", "Ġthe", "Ġfirst"),
            *("<|fim_suffix|>", "Ġthe", "Ġword"),
            "<|fim_middle|>",
        ]

    def test_texts_without_a_file_have_no_names(self, qwen: Path) -> None:
        gap = Gap(" the", "", "", "project")
        assert spelled(qwen, gap) == ["<|fim_prefix|>", "Ġthe", "<|fim_suffix|>", "<|fim_middle|>"]

    def test_begin_of_sequence_and_the_separator_of_codegemma(self, gemma: Path) -> None:
        alone = ["<|fim_prefix|>", "▁the", "<|fim_suffix|>", "▁word", "<|fim_middle|>"]
        assert spelled(gemma, Gap("the", "word", "go.py", "project")) == ["<s>", *alone]
        gap = Gap("the", "word", "go.py", "project", (SourceFile("see.py", "hello"),))
        assert spelled(gemma, gap) == ["<s>", "▁hello", "<|file_separator|>", *alone]

    def test_without_a_separator_other_files_are_snippets(self, tmp_path: Path) -> None:
        path = write_tiny_llama(
            tmp_path / "bare.gguf", chat_template=None, tokenizer="bpe", extra_control_tokens=QWEN_INFILL[:3]
        )
        gap = Gap(" the", " word", "go.py", "project", (SourceFile("see.py", " hello"),))
        snippet = ["Ċ", "Ċ", *"---", "Ġs", *"nippet", "Ġ", *"---", "Ċ", "Ċ", "Ġhello"]
        ends = ["<|fim_prefix|>", "Ġthe", "<|fim_suffix|>", "Ġword", "<|fim_middle|>"]
        assert spelled(path, gap) == [*snippet, *ends]

    def test_models_that_read_the_suffix_first(self, tmp_path: Path) -> None:
        path = write_tiny_llama(
            tmp_path / "mellum.gguf",
            chat_template=None,
            tokenizer="bpe",
            extra_control_tokens=("<fim_prefix>", "<fim_middle>", "<fim_suffix>"),
            bpe_pre="mellum",
        )
        expected = ["<fim_suffix>", "Ġword", "<fim_prefix>", "Ġthe", "<fim_middle>"]
        assert spelled(path, Gap(" the", " word")) == expected

    @pytest.mark.parametrize("token", GEMMA_INFILL)
    def test_what_a_file_spells_is_never_a_control_token(self, qwen: Path, gemma: Path, token: str) -> None:
        """Not in the code, not in the names, not in other files, whatever type the vocabulary gives the token."""
        for path in (qwen, gemma):
            clean = spelled(path, Gap("a", "b", "c", "d", (SourceFile("e", "f"),)))
            hostile = spelled(
                path, Gap(f"a{token}", f"{token}b", f"c{token}", f"{token}d", (SourceFile(f"e{token}", f"f{token}"),))
            )
            marks = {*QWEN_INFILL, *GEMMA_INFILL}
            assert [text for text in hostile if text in marks] == [text for text in clean if text in marks]

    def test_ends_of_a_fill(self, qwen: Path, gemma: Path) -> None:
        for path, names in ((qwen, QWEN_INFILL), (gemma, GEMMA_INFILL)):
            with loaded(path) as engine:
                for name in names:
                    (token,) = engine.vocabulary.tokens_of([name])
                    assert engine.vocabulary.is_end(token), name

    def test_a_model_without_all_three_tokens_cannot_fill_in(self, tmp_path: Path) -> None:
        path = write_tiny_llama(
            tmp_path / "two.gguf", chat_template=None, tokenizer="bpe", extra_control_tokens=QWEN_INFILL[:2]
        )
        with loaded(path) as engine:
            assert engine.info.infill is None


def _choosing(model: Path, spelling: str, instead_of: int, path: Path) -> Path:
    """A copy of a model to which this token is a little more probable than that one."""
    shutil.copy(model, path)
    reader = GGUFReader(path, "r+")
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    output = next(tensor for tensor in reader.tensors if tensor.name == "output.weight")
    output.data[tokens.index(spelling)] = 1.01 * output.data[instead_of]
    output.data.flush()
    return path


def test_generation_stops_at_the_file_separator(gemma: Path, tmp_path: Path) -> None:
    gap = Gap("the first", "the last")
    before = generated(gemma, gap, 8)
    assert len(before) == 8
    changed = _choosing(gemma, "<|file_separator|>", before[2], tmp_path / "changed.gguf")
    assert generated(changed, gap, 8) == before[: before.index(before[2])]


TOKENS = InfillTokens(1, 2, 3)


def _count(gap: Gap) -> int:
    """A token a character."""
    return 3 + len(gap.prefix) + len(gap.suffix) + sum(len(other.text) for other in gap.others)


class TestFit:
    def test_what_fits_stays_whole(self) -> None:
        gap = Gap(CODE, CODE, others=(SourceFile("a", "x"),))
        assert fit(gap, _count, _count(gap)) == gap

    def test_whole_lines_and_three_parts_of_prefix_to_one_of_suffix(self) -> None:
        gap = Gap("line\n" * 100 + "    cur", "sor\n" + "tail\n" * 100)
        kept = fit(gap, _count, 103)
        assert kept is not None
        assert kept.suffix == "sor\n" + "tail\n" * 4
        assert kept.prefix == "line\n" * 13 + "    cur"
        assert left_out(gap, kept) == ["the first 87 lines", "the last 96 lines"]

    @pytest.mark.parametrize(("prefix", "suffix"), [(10, 1000), (1000, 10), (0, 1000), (1000, 0)])
    def test_what_one_end_does_not_need_the_other_gets(self, prefix: int, suffix: int) -> None:
        kept = fit(Gap("a\n" * (prefix // 2), "b\n" * (suffix // 2)), _count, 103)
        assert kept is not None
        assert _count(kept) == 103
        assert min(prefix, suffix) in (len(kept.prefix), len(kept.suffix))

    def test_a_line_longer_than_the_window_is_cut_around_the_cursor(self) -> None:
        kept = fit(Gap("a" * 5000 + "<", ">" + "b" * 5000), _count, 43)
        assert kept is not None
        assert (kept.prefix, kept.suffix) == ("a" * 29 + "<", ">" + "b" * 9)

    def test_other_files_take_half_at_most_and_are_left_out_whole(self) -> None:
        others = (SourceFile("small", "s" * 20), SourceFile("large", "l" * 60), SourceFile("huge", "h" * 100_000))
        gap = Gap("a\n" * 500, "", others=others)
        kept = fit(gap, _count, 103)
        assert kept is not None
        assert kept.others == others[:1]
        assert len(kept.prefix) == 50
        assert left_out(gap, kept) == ["the first 475 lines", "large", "huge"]

    def test_no_room_at_all(self) -> None:
        assert fit(Gap("a", "b"), _count, 3) is None
        assert fit(Gap("", ""), _count, 4) == Gap("", "")

    def test_a_huge_file_is_not_counted_whole(self, qwen: Path) -> None:
        """10 MB of code: everything far from the cursor is cut off before it becomes tokens."""
        longest = 0

        def count(gap: Gap) -> int:
            nonlocal longest
            longest = max(longest, len(gap.prefix) + len(gap.suffix))
            return _count(gap)

        kept = fit(Gap("the line\n" * 1_000_000, "a tail\n" * 100_000), count, 2048)
        assert kept is not None
        assert longest < 40_000
        assert 2000 < _count(kept) <= 2048


class TestPlaces:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("main.py:12", ("main.py", 12, None)),
            ("main.py:12:5", ("main.py", 12, 5)),
            ("C:\\main.py:12", ("C:\\main.py", 12, None)),
            ("odd:name:3:4", ("odd:name", 3, 4)),
            ("-:1", ("-", 1, None)),
        ],
    )
    def test_reading(self, text: str, expected: tuple[str, int, int | None]) -> None:
        place = place_of(text)
        assert (place.file, place.line, place.column) == expected

    def test_a_file_whose_name_ends_like_a_line(self, tmp_path: Path) -> None:
        (tmp_path / "log:7").write_text("x\n" * 5)
        place = place_of(f"{tmp_path}/log:7:2")
        assert (place.file, place.line, place.column) == (f"{tmp_path}/log:7", 2, None)

    @pytest.mark.parametrize("text", ["main.py", "main.py:", ":3", "main.py:x", "main.py:-1", "main.py:1.5", ""])
    def test_no_place(self, text: str) -> None:
        with pytest.raises(SlmError) as caught:
            place_of(text)
        assert caught.value.exit_code is ExitCode.USAGE
        assert "FILE:LINE" in (caught.value.hint or "")

    @pytest.mark.parametrize(
        ("data", "place", "before", "after"),
        [
            (b"ab\ncd\n", "1", "ab", "\ncd\n"),
            (b"ab\ncd\n", "2:1", "ab\n", "cd\n"),
            (b"ab\ncd\n", "2:3", "ab\ncd", "\n"),
            (b"ab\ncd\n", "3", "ab\ncd\n", ""),
            (b"ab\ncd", "2", "ab\ncd", ""),
            (b"", "1", "", ""),
            (b"ab\r\ncd\r\n", "1", "ab", "\r\ncd\r\n"),
            (b"ab\r\ncd\r\n", "2:2", "ab\r\nc", "d\r\n"),
            (b"\tab\n", "1:2", "\t", "ab\n"),
            ("é漢😀x\n".encode(), "1:4", "é漢😀", "x\n"),
            (b"\xef\xbb\xbfab\n", "1:2", "a", "b\n"),
            ("a\x0cb\x85\u2028c\nd".encode(), "2:1", "a\x0cb\x85\u2028c\n", "d"),
        ],
    )
    def test_where_the_cursor_is(self, tmp_path: Path, data: bytes, place: str, before: str, after: str) -> None:
        file = tmp_path / "code"
        file.write_bytes(data)
        target = read_target(place_of(f"{file}:{place}"), is_written=False)
        assert (target.text[: target.offset], target.text[target.offset :]) == (before, after)
        assert target.with_text("") == data  # not a byte of the file is touched

    @pytest.mark.parametrize(
        ("place", "says"),
        [
            ("0", "has no line 0: lines count from 1 to 3 here"),
            ("4", "has no line 4: lines count from 1 to 3 here"),
            ("99999999999999999999", "has no line 99999999999999999999"),
            ("2:0", "line 2 of {file} has no column 0: columns count from 1 to 3 there"),
            ("2:4", "line 2 of {file} has no column 4: columns count from 1 to 3 there"),
        ],
    )
    def test_beyond_the_ends(self, tmp_path: Path, place: str, says: str) -> None:
        file = tmp_path / "code"
        file.write_bytes(b"ab\r\ncd\r\n")
        with pytest.raises(SlmError) as caught:
            read_target(place_of(f"{file}:{place}"), is_written=False)
        assert caught.value.exit_code is ExitCode.USAGE
        assert says.format(file=file) in caught.value.message

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b"ab\ncd\n", b"a1\n2b\ncd\n"),
            (b"ab\r\ncd\r\n", b"a1\r\n2b\r\ncd\r\n"),
            (b"ab", b"a1\n2b"),
            (b"\xef\xbb\xbfab\r\ncd", b"\xef\xbb\xbfa1\r\n2b\r\ncd"),
        ],
    )
    def test_inserting_keeps_line_ends_and_byte_order_marks(self, tmp_path: Path, data: bytes, expected: bytes) -> None:
        file = tmp_path / "code"
        file.write_bytes(data)
        assert read_target(place_of(f"{file}:1:2"), is_written=False).with_text("1\n2") == expected


class TestReplacing:
    def test_permissions_stay_and_nothing_is_left_behind(self, tmp_path: Path) -> None:
        file = tmp_path / "script.sh"
        file.write_bytes(b"old")
        file.chmod(0o755)
        replace_content(file, b"old", b"new")
        assert file.read_bytes() == b"new"
        assert stat.S_IMODE(file.stat().st_mode) == 0o755
        assert [path.name for path in tmp_path.iterdir()] == ["script.sh"]

    @pytest.mark.parametrize("is_gone", [False, True])
    def test_a_file_that_changed_meanwhile_is_left_alone(self, tmp_path: Path, is_gone: bool) -> None:
        file = tmp_path / "main.py"
        file.write_bytes(b"edited")
        if is_gone:
            file.unlink()
        with pytest.raises(SlmError) as caught:
            replace_content(file, b"old", b"new")
        assert caught.value.exit_code is ExitCode.STORAGE
        assert [path.read_bytes() for path in tmp_path.iterdir()] == ([] if is_gone else [b"edited"])


def _fill(model: Path, *more: str | Path) -> Sequence[str | Path]:
    return ["run", "-m", model, "-n", "6", *more]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "project" / "code.txt"
    path.parent.mkdir()
    path.write_text(CODE)
    return path


class TestCommand:
    def test_the_fill_alone_is_on_stdout_and_greedy_by_default(
        self, slm: Callable[..., Outcome], qwen: Path, file: Path
    ) -> None:
        first = slm(*_fill(qwen, "--infill", f"{file}:2:5"))
        assert (first.code, first.err) == (0, "")
        assert len(first.out) > 6
        assert slm(*_fill(qwen, "--infill", f"{file}:2:5")) == first
        assert file.read_text() == CODE
        with loaded(qwen) as engine:
            gap = Gap("the first line\nthe ", CODE[19:], "code.txt", "project")
            expected = b"".join(map(engine.vocabulary.piece, generated(qwen, gap, 6))).decode("utf-8", "replace")
        assert first.out == expected + "\n"

    def test_texts_and_files_as_ends(self, slm: Callable[..., Outcome], qwen: Path, tmp_path: Path) -> None:
        ends = tmp_path / "prefix", tmp_path / "suffix"
        ends[0].write_bytes(b" the first\r\n the")
        ends[1].write_bytes(b"\r\n the last\r\n")
        given = slm(*_fill(qwen, "--prefix", " the first\n the", "--suffix", "\n the last\n"))
        assert given.code == 0, given.err
        assert slm(*_fill(qwen, "--prefix", f"@{ends[0]}", "--suffix", f"@{ends[1]}")) == given
        assert slm(*_fill(qwen, "--prefix", "@-", "--suffix", f"@{ends[1]}"), stdin=ends[0].read_bytes()) == given
        swapped = slm(*_fill(qwen, "--prefix", f"@{ends[0]}", "--suffix", f"@{ends[1]}", "--infill-order", "spm"))
        assert swapped.out != given.out

    def test_json(self, slm: Callable[..., Outcome], qwen: Path, file: Path) -> None:
        done = slm(*_fill(qwen, "--infill", f"{file}:2", "--json"))
        answer = json.loads(done.out)
        assert (done.code, done.err) == (0, "")
        assert answer["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 6
        assert answer["infill"] == {
            "file": str(file),
            "line": 2,
            "column": 16,
            "order": "psm",
            "prefix_characters": 30,
            "suffix_characters": 30,
            "left_out": [],
            "is_written": False,
        }

    def test_the_buffer_of_an_editor_on_stdin(self, slm: Callable[..., Outcome], qwen: Path) -> None:
        done = slm(*_fill(qwen, "--infill", "-:2", "--json"), stdin=CODE)
        answer = json.loads(done.out)
        assert answer["infill"]["file"] == "-"
        assert answer["infill"]["prefix_characters"] == 30

    def test_other_files_are_part_of_the_prompt(
        self, slm: Callable[..., Outcome], qwen: Path, file: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "other.txt"
        other.write_text("hello world " * 5)
        sizes = [
            json.loads(slm(*_fill(qwen, "--infill", f"{file}:2", "--json", *more)).out)["usage"]["prompt_tokens"]
            for more in ((), ("-f", str(other)))
        ]
        assert sizes[1] > sizes[0] + 10

    def test_a_small_window_is_told_and_can_be_refused(
        self, slm: Callable[..., Outcome], qwen: Path, file: Path
    ) -> None:
        file.write_text(CODE * 200)
        done = slm(*_fill(qwen, "--infill", f"{file}:400", "--ctx", "256", "--json"))
        answer = json.loads(done.out)
        assert done.code == 0
        assert done.err.startswith(
            "slm: warning: left out, to fit a context window of 256 tokens (a larger one: --ctx N): "
        )
        assert [text.split()[1] for text in answer["infill"]["left_out"]] == ["first", "last"]
        assert 150 < answer["usage"]["prompt_tokens"] <= 250
        assert answer["infill"]["prefix_characters"] > answer["infill"]["suffix_characters"] > 0
        refused = slm(*_fill(qwen, "--infill", f"{file}:400", "--ctx", "256", "--on-overflow", "fail"))
        assert (refused.code, refused.out) == (7, "")
        assert "256 tokens" in refused.err
        tight = slm(*_fill(qwen, "--infill", f"{file}:400", "--ctx", "256"), "-n", "250")
        assert (tight.code, tight.out) == (7, "")
        assert "no room" in tight.err

    def test_a_model_without_infill_tokens_names_those_that_have_them(
        self, slm: Callable[..., Outcome], file: Path, tmp_path: Path
    ) -> None:
        model = write_tiny_llama(tmp_path / "plain.gguf", chat_template=None)
        done = slm(*_fill(model, "--infill", f"{file}:2"))
        assert (done.code, done.out) == (2, "")
        assert "has no tokens for filling in code" in done.err
        assert "codegemma:2b, qwen2.5-coder:0.5b" in done.err

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--infill", "{file}:2", "hello"], "no place for an instruction"),
            (["--infill", "{file}:2", "-s", "Be brief."], "no place for an instruction"),
            (["--infill", "{file}:2", "--prefix", "x"], "--prefix and --suffix have no place beside it"),
            (["--write"], "need a place to fill in"),
            (["--prefix", "x", "--write"], "--write needs the file"),
            (["--infill", "-:2", "--write"], "--write needs the file"),
            (["--prefix", "@-", "--suffix", "@-"], "only one of the inputs"),
            (["--prefix", "x", "--infill-order", "mid"], "--infill-order cannot be 'mid'"),
            (["--prefix", "x", "--on-overflow", "explode"], "--on-overflow cannot be 'explode'"),
            (["--infill", "{file}"], "is not a place in a file"),
            (["--infill", "{file}:9"], "has no line 9"),
            (["--infill", "/nonexistent/file:9"], "/nonexistent/file cannot be read: No such file"),
            (["--infill", "~no-such-user/file:9"], "~no-such-user/file cannot be read: No such file"),
            (["--infill", "/:9", "--write"], "/ cannot be read: Is a directory"),
            (["--prefix", "@/nonexistent/file"], "/nonexistent/file cannot be read: No such file"),
            (["--infill", "{latin}:1"], "is not UTF-8 text"),
            (["--infill", "{binary}:1"], "is a binary file"),
        ],
    )
    def test_bad_input_is_one_sentence_and_exit_2(
        self, slm: Callable[..., Outcome], qwen: Path, file: Path, tmp_path: Path, arguments: list[str], says: str
    ) -> None:
        (tmp_path / "latin").write_bytes(b"caf\xe9")
        (tmp_path / "binary").write_bytes(b"a\0b")
        names = {"file": file, "latin": tmp_path / "latin", "binary": tmp_path / "binary"}
        done = slm(*_fill(qwen, *(text.format(**names) for text in arguments)))
        assert (done.code, done.out) == (2, "")
        first, *rest = done.err.splitlines()
        assert first.startswith("slm: ") and says in first
        assert all(line.startswith("hint: ") for line in rest)


class TestWriting:
    @pytest.mark.parametrize("more", [[], ["--private"]])
    def test_the_fill_is_inserted_inside_the_seal(
        self, slm: Callable[..., Outcome], qwen: Path, file: Path, tmp_path: Path, more: list[str]
    ) -> None:
        """In a directory that the seal would not let slm write otherwise: not below the temporary one."""
        (tmp_path / "temporary").mkdir()
        file.write_bytes(CODE.replace("\n", "\r\n").encode())
        file.chmod(0o640)
        link = tmp_path / "link"
        link.symlink_to(file)
        arguments = _fill(qwen, "--infill", f"{link}:2:5", "--write")
        done = slm(*more, *arguments, env={"TMPDIR": str(tmp_path / "temporary")})
        assert done.code == 0, done.err
        assert f"{link}: " in done.err and "inserted at line 2, column 5" in done.err
        assert "cut off" in done.err  # -n 6
        fill = done.out[:-1].replace("\n", "\r\n")
        assert file.read_bytes().decode() == f"the first line\r\nthe {fill}" + CODE[19:].replace("\n", "\r\n")
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
        assert link.is_symlink()
        assert [path.name for path in file.parent.iterdir()] == ["code.txt"]

    def test_what_a_model_hides_is_visible_in_the_file(
        self, slm: Callable[..., Outcome], gemma: Path, file: Path, tmp_path: Path
    ) -> None:
        model = write_tiny_llama(
            tmp_path / "bidi.gguf", chat_template=None, user_defined_tokens=(*GEMMA_INFILL, "\u202e")
        )
        first = generated(model, Gap("the", "", "code.txt", "project"), 1)[0]
        model = _choosing(model, "\u202e", first, tmp_path / "hostile.gguf")
        file.write_text("the")
        assert slm("run", "-m", model, "-n", "1", "--infill", f"{file}:1", "--write").code == 0
        assert file.read_text() == "the<U+202E>"

    def test_json_says_that_it_was_written(self, slm: Callable[..., Outcome], qwen: Path, file: Path) -> None:
        answer = json.loads(slm(*_fill(qwen, "--infill", f"{file}:4", "--write", "--json")).out)
        assert answer["infill"]["is_written"] is True
        assert file.read_text() == CODE[:-1] + answer["completion"] + "\n"

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everything")
    def test_a_file_that_may_not_be_written_is_refused_before_anything_runs(
        self, slm: Callable[..., Outcome], qwen: Path, file: Path
    ) -> None:
        file.chmod(0o400)
        done = slm(*_fill(qwen, "--infill", f"{file}:4", "--write"))
        assert (done.code, done.out) == (10, "")
        assert file.read_text() == CODE

    def test_a_change_while_it_computes_is_not_overwritten(self, qwen: Path, file: Path, home: Path) -> None:
        """The first byte on stdout says that the file has been read; then somebody else saves it."""
        arguments = ["run", "-m", str(qwen), "-n", "1500", "--ctx", "4096", "--infill", f"{file}:4", "--write"]
        program = _started(arguments, home)
        assert program.stdout and program.stdout.read(1)
        file.write_text("saved by an editor\n")
        _, errors = program.communicate(timeout=300)
        assert program.returncode == 10
        assert b"has changed meanwhile" in errors
        assert file.read_text() == "saved by an editor\n"
        assert [path.name for path in file.parent.iterdir()] == ["code.txt"]

    def test_ctrl_c_writes_nothing(self, qwen: Path, file: Path, home: Path) -> None:
        arguments = ["run", "-m", str(qwen), "-n", "3000", "--ctx", "4096", "--infill", f"{file}:4", "--write"]
        program = _started(arguments, home)
        assert program.stdout and program.stdout.read(1)
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=300)
        assert program.returncode == 130
        assert b"was left as it is" in errors
        assert file.read_text() == CODE


def _started(arguments: Sequence[str], home: Path) -> "subprocess.Popen[bytes]":
    return fork_server.popen(
        [sys.executable, "-m", "slmchat", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(home),
        bufsize=0,
    )


@pytest.mark.skipif(SERVER is None, reason="no llama-server on the PATH or in SLM_LLAMA_SERVER")
class TestAgainstLlamaServer:
    @pytest.mark.parametrize("order", ["psm", "spm"])
    @pytest.mark.parametrize("kind", ["qwen", "gemma"])
    def test_the_same_greedy_tokens(
        self, request: pytest.FixtureRequest, order: str, kind: str, tmp_path: Path, home: Path
    ) -> None:
        """llama-server writes "myproject" and "filename" where slm has the real names, so these are the real names."""
        if kind == "gemma" and order == "spm":
            pytest.skip("one order is enough here")
        model = request.getfixturevalue(kind)
        file = tmp_path / "myproject" / "filename"
        file.parent.mkdir()
        file.write_text(CODE)
        with _serving(model, *(["--spm-infill"] if order == "spm" else [])) as url:
            theirs = _post(
                f"{url}/infill",
                {
                    "input_prefix": CODE[:19],
                    "input_suffix": CODE[19:],
                    "n_predict": 24,
                    "temperature": 0,
                    "repeat_penalty": 1,
                    "return_tokens": True,
                },
            )
        done = run_slm(
            *["run", "-m", model, "-n", "24", "--json", "--infill", f"{file}:2:5", "--infill-order", order],
            home=home,
        )
        ours = json.loads(done.out)
        assert ours["usage"]["prompt_tokens"] == theirs["tokens_evaluated"]
        gap = Gap(CODE[:19], CODE[19:], "filename", "myproject")
        assert list(generated(model, gap, 24, order)) == theirs["tokens"]
        assert ours["usage"]["completion_tokens"] == 24


@contextlib.contextmanager
def _serving(model: Path, *more: str) -> Iterator[str]:
    """llama-server on a free loopback port, ready to answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    arguments = ["-m", model, "--port", port, "-c", 4096, "-b", 512, "-t", 2, "-np", 1, "--no-warmup", *more]
    server = subprocess.Popen([str(SERVER), *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"{url}/health")
                break
            assert server.poll() is None
            time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


def _post(url: str, body: dict[str, object]) -> dict[str, object]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        found: dict[str, object] = json.load(answer)
        return found
