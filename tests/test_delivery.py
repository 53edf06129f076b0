"""What of an answer goes where: code blocks, files that are replaced whole or not at all, standard output."""

import io
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fork_server
import pytest
from conftest import Outcome, environment, run_slm
from endpoint_server import EndpointServer, stream
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama

from slmchat.commands.output import OutputWriter
from slmchat.conversation.code_blocks import code_blocks
from slmchat.engine.results import FinishReason, Timings, Usage
from slmchat.errors import ExitCode, SlmError
from slmchat.generation.response import Completion
from slmchat.options import OutputOptions
from slmchat.terminal.console import Console
from slmchat.terminal.plain_view import PlainView

TWO = "Here:\n\n```python title\nprint(1)\n```\n\nor\n\n~~~sh\necho 2\n~~~\nDone."


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (TWO, [("python", "print(1)\n"), ("sh", "echo 2\n")]),
        ("no code, `x` at most\n\n    indented", []),
        ("````md\n```py\nx\n```\n````\n```\ny\n```", [("md", "```py\nx\n```\n"), ("", "y\n")]),
        ("1. do\n   ```py\n   x\n     y\n   ```\n2. end", [("py", "x\n  y\n")]),
        ("> ```\n> quoted\n> ```\n", [("", "quoted\n")]),
        ("```\n```\n\n```\nreal\n```", [("", "real\n")]),
        ("a ``` b\n\n```\r\nx\r\n```\r\n", [("", "x\n")]),
        ("```js\nlet a = `b`\n\n", [("js", "let a = `b`\n\n")]),
        ("", []),
    ],
)
def test_fences_are_those_of_commonmark(text: str, found: list[tuple[str, str]]) -> None:
    assert [(block.language, block.text) for block in code_blocks(text)] == found


@pytest.mark.parametrize(
    ("text", "is_open"),
    [
        ("```\nx\n```", False),
        ("```\nx\n    y", True),
        ("```\nx", True),
        ("```\nx\n\n\n", True),
        ("````\nx\n```\n", True),
        ("> ```\n> x\n\nbehind it", False),  # the quotation ends it
    ],
)
def test_a_block_without_its_end_is_open(text: str, is_open: bool) -> None:
    (block,) = code_blocks(text)
    assert block.is_open is is_open


class Desk:
    """A delivery with what came out of it."""

    def __init__(self, *, is_structured: bool = False, **options: Any) -> None:
        self.out, self.err = io.StringIO(), io.StringIO()
        console = Console(io.StringIO(), self.out, self.err, environ={})
        self._writer = OutputWriter(OutputOptions(**options), console, is_structured=is_structured, is_raw_output=False)

    def give(self, text: str, reason: FinishReason = FinishReason.STOP, *, discard_partial: bool = False) -> int:
        completion = Completion(text, None, "", reason, Usage(1, 0, 1), Timings(0.1, 0.1, 0.1), 1)
        try:
            self._writer.write(completion, {"completion": text}, discard_partial=discard_partial)
        except SlmError as error:
            self.err.write(error.message)
            return int(error.exit_code)
        return 0


def test_the_first_and_the_last_block() -> None:
    first, last = Desk(extract=True), Desk(extract_last=True)
    assert (first.give(TWO), last.give(TWO)) == (0, 0)
    assert (first.out.getvalue(), last.out.getvalue()) == ("print(1)\n", "echo 2\n")


def test_without_a_block_nothing_is_on_stdout_and_the_answer_is_not_lost() -> None:
    desk = Desk(extract=True)
    assert desk.give("I cannot do that.") == ExitCode.UNSATISFIED
    assert desk.out.getvalue() == ""
    assert "I cannot do that." in desk.err.getvalue() and "no fenced code block" in desk.err.getvalue()


@pytest.mark.parametrize("reason", [FinishReason.LENGTH, FinishReason.CONTEXT])
def test_half_a_block_is_none_and_a_forgotten_fence_is_no_loss(reason: FinishReason) -> None:
    desk = Desk(extract=True)
    assert desk.give("```sh\nrm -rf /tmp/x", reason) == ExitCode.UNSATISFIED
    assert desk.out.getvalue() == "" and "cut off" in desk.err.getvalue()
    forgetful = Desk(extract=True)
    assert (forgetful.give("```sh\nrm -rf /tmp/x"), forgetful.out.getvalue()) == (0, "rm -rf /tmp/x\n")
    whole = Desk(extract=True)
    assert (whole.give("```\nx\n```\n\n```\nhal", reason), whole.out.getvalue()) == (0, "x\n")


def test_json_has_the_block_beside_the_completion() -> None:
    desk, none = Desk(extract=True, json=True), Desk(extract=True, json=True)
    assert desk.give(TWO) == 0
    assert json.loads(desk.out.getvalue()) == {"completion": TWO, "code": "print(1)\n", "language": "python"}
    assert none.give("none") == ExitCode.UNSATISFIED
    assert json.loads(none.out.getvalue()) == {"completion": "none", "code": None, "language": None}


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(SlmError, match="cannot be combined") as caught:
        Desk(extract=True, extract_last=True)
    assert caught.value.exit_code is ExitCode.USAGE
    with pytest.raises(SlmError, match="a given format"):
        Desk(extract=True, is_structured=True)


def test_a_file_is_replaced_and_keeps_its_mode_and_its_link(tmp_path: Path) -> None:
    file, link = tmp_path / "answer.txt", tmp_path / "link"
    file.write_text("old")
    file.chmod(0o664)
    link.symlink_to(file)
    desk = Desk(output=str(link))
    assert desk.give("new") == 0
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode), link.is_symlink()) == ("new\n", 0o664, True)
    assert desk.out.getvalue() == "" and str(link) in desk.err.getvalue()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answer.txt", "link"]


def test_a_new_file_is_the_owners_alone_and_has_json_or_code(tmp_path: Path) -> None:
    file = tmp_path / "answer"
    assert Desk(output=str(file), json=True).give("hi") == 0
    assert json.loads(file.read_text()) == {"completion": "hi"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert Desk(output=str(file), extract=True).give(TWO) == 0
    assert file.read_text() == "print(1)\n"


def test_minus_is_stdout() -> None:
    desk = Desk(output="-")
    assert (desk.give("hi"), desk.out.getvalue()) == (0, "hi\n")


@pytest.mark.parametrize("text", ["none", "```\ncut"])
def test_an_answer_that_is_not_right_leaves_the_file_as_it_was(tmp_path: Path, text: str) -> None:
    file = tmp_path / "answer"
    file.write_text("old")
    assert Desk(output=str(file), extract=True).give(text, FinishReason.LENGTH) == ExitCode.UNSATISFIED
    assert file.read_text() == "old"


def test_an_interrupted_answer_goes_to_stdout_and_the_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "answer"
    file.write_text("old")
    desk, structured = Desk(output=str(file)), Desk(output=str(file), is_structured=True)
    assert desk.give("half an ans", FinishReason.INTERRUPTED) == 0
    assert (file.read_text(), desk.out.getvalue()) == ("old", "half an ans\n")
    structured.give('{"a": ', FinishReason.INTERRUPTED, discard_partial=True)
    assert (file.read_text(), structured.out.getvalue()) == ("old", "")


def test_a_pipe_is_written_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert Desk(output=str(pipe)).give("hi") == 0
        assert os.read(reader, 100) == b"hi\n"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_what_the_shell_has_open_is_written_and_keeps_what_is_in_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    reading, writing = os.pipe()
    descriptors = [os.open(log, os.O_WRONLY), writing]
    link = tmp_path / "link"
    link.symlink_to(f"/dev/fd/{writing}")
    try:
        for name in (f"/dev/fd/{descriptors[0]}", f"/dev/fd/{writing}", str(link)):
            assert Desk(output=name).give("hi") == 0
        assert (log.read_text(), os.read(reading, 100)) == ("before\nhi\n", b"hi\nhi\n")
    finally:
        for descriptor in (*descriptors, reading):
            os.close(descriptor)


def test_an_empty_name_is_not_a_directory() -> None:
    with pytest.raises(SlmError, match="-o needs the name of a file"):
        Desk(output="")


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [("", 2, "is a directory"), ("none/answer", 2, "there is no directory"), ("n" * 300, 10, "cannot be used")],
)
def test_what_cannot_be_written_is_said_before_the_model_is_asked(
    tmp_path: Path, name: str, code: int, said: str
) -> None:
    with pytest.raises(SlmError, match=said) as caught:
        Desk(output=f"{tmp_path}/{name}")
    assert caught.value.exit_code == code


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_llama(
        tmp_path / "tiny.gguf", chat_template=CHATML_TEMPLATE, extra_control_tokens=("<|im_start|>", "<|im_end|>")
    )


@pytest.mark.slow
def test_a_terminal_sees_how_long_an_answer_is_that_is_not_shown() -> None:
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    out, err = io.StringIO(), Tty()
    view = PlainView(Console(io.StringIO(), out, err, environ={}), is_silent=True)
    view.answer("one")
    deadline = time.monotonic() + 300
    while "answering: 1 token " not in err.getvalue():
        assert time.monotonic() < deadline
    view.close()
    assert err.getvalue().endswith("\r\x1b[K") and out.getvalue() == ""


@pytest.mark.real
class TestProgram:
    def test_a_sealed_process_writes_what_was_named_and_nothing_beside_it(
        self, slm: Callable[..., Outcome], tiny: Path, outside: Path
    ) -> None:
        for more in ([], ["--private"]):
            done = slm("run", "-m", tiny, "-n", "3", "--temp", "0", "-o", outside / "answer", "hello", *more)
            assert (done.code, done.out, (outside / "answer").is_file()) == (0, "", True), done.err
            (outside / "answer").unlink()
        assert list(outside.iterdir()) == []

    def test_a_full_disk_keeps_the_old_file_and_gives_the_answer(
        self, home: Path, tiny: Path, tmp_path: Path, outside: Path
    ) -> None:
        file = outside / "answer"
        file.write_text("old")
        model = ("run", "--private", "-m", str(tiny), "-n", "8", "--temp", "0", "hello")
        usual = run_slm(*model, home=home)
        full = fork_server.run(
            [sys.executable, "-m", "slmchat", *model, "-o", str(file)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(home),
            timeout=300,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2, 2)),
        )
        assert (full.returncode, full.stdout.decode()) == (10, usual.out), full.stderr
        assert b"disk is full" in full.stderr and b"standard output instead" in full.stderr
        assert (file.read_text(), list(outside.iterdir())) == ("old", [file])

    def test_the_code_of_an_endpoints_answer(self, slm: Callable[..., Outcome], tmp_path: Path, outside: Path) -> None:
        with EndpointServer() as server:
            server.usual = stream("Sure:\n\n```python\nprint(", "1)\n```\nBye.")
            asked = ("run", "--endpoint", server.url, "-m", "small", "print one")
            assert slm(*asked, "-x").out == "print(1)\n"
            done = slm(*asked, "-x", "-o", outside / "one.py")
        assert (done.code, done.out, (outside / "one.py").read_text()) == (0, "", "print(1)\n"), done.err


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory that is neither the current one, nor temporary, nor slm's: a sealed process may not write there."""
    made = Path(tempfile.mkdtemp(prefix="slm-test-", dir=Path.home()))
    yield made
    shutil.rmtree(made)
