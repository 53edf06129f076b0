"""What pipes and arguments bring: standard input that stays silent, arguments that are not text, lines of an answer."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from slmchat import cli
from slmchat.commands.endings import exit_code
from slmchat.engine.results import FinishReason, Timings, Usage
from slmchat.errors import ExitCode
from slmchat.generation import response
from slmchat.terminal import piped
from slmchat.terminal.console import Console
from slmchat.terminal.plain_view import PlainView
from slmchat.terminal.screen import Screen


class _Told(io.StringIO):
    """A stderr that says when something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.happened = threading.Event()

    def write(self, text: str) -> int:
        self.happened.set()
        return super().write(text)


def test_silence_on_standard_input_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piped, "TOLD_AFTER_S", 0.0)
    reader, writer = os.pipe()
    told = _Told()

    def write() -> None:
        told.happened.wait(300)
        os.write(writer, b"late")
        os.close(writer)

    threading.Thread(target=write, daemon=True).start()
    with os.fdopen(reader) as stdin:
        assert piped.read_piped(Console(stdin, io.StringIO(), told, {})) == b"late"
    assert told.getvalue() == "waiting for standard input (none? < /dev/null)\n"


def test_input_that_is_there_is_read_without_a_word() -> None:
    err = io.StringIO()
    console = Console(io.StringIO("here"), io.StringIO(), err, {})
    assert piped.read_piped(console) == b"here"
    parts = iter([b"a", b"b", b""])
    read = piped.telling_when_idle(lambda size: next(parts), console)
    assert [read(9), read(9), read(9)] == [b"a", b"b", b""]
    assert err.getvalue() == ""


class _Writes(io.StringIO):
    """A stdout that keeps what each flush sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []

    def flush(self) -> None:
        self.sent.append(self.getvalue())
        self.seek(0)
        self.truncate()


def test_whole_lines_go_into_a_pipe() -> None:
    out = _Writes()
    console = Console(io.StringIO(), out, io.StringIO(), {})
    view = PlainView(console)
    for piece in ("one ", "line\nan", "other\n\nla", "st"):
        view.answer(piece)
    view.close()
    console.write("\n")
    assert out.sent == ["one line\n", "another\n\n", "last\n"]


@pytest.mark.real
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_whole_lines_go_out_also_where_python_is_not_to_buffer(unbuffered: str) -> None:
    """As in many container images."""
    script = """
import sys
from slmchat import cli
from slmchat.terminal.console import Console
cli.run_cli(["--version"])
Console().write("half")
print("written", file=sys.stderr, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        assert process.stderr.readline() == b"written\n"
        written = os.read(process.stdout.fileno(), 1000)
        process.stdin.close()
        assert (written.count(b"\n"), b"half" in written, process.stdout.read()) == (1, False, b"half")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["run", "caf\udce9"], "the prompt"),
        (["run", "-s", "caf\udce9", "x"], "--system"),
        (["run", "--stop", "a", "--stop", "\udce9", "x"], "--stop"),
        (["batch", "caf\udce9"], "the prompt"),
        (["batch", "--choices", "a,\udce9"], "--choices"),
    ],
)
def test_arguments_that_are_not_text_are_refused(
    arguments: list[str], what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SLM_HOME", str(tmp_path))
    assert cli.run_cli(arguments) == 2
    assert f"slm: {what} is not UTF-8 text: byte 0xe9 at character" in capsys.readouterr().err


def test_one_token_has_no_rate() -> None:
    def rate(n_tokens: int, seconds: float) -> float | None:
        usage, timings = Usage(5, 0, n_tokens), Timings(1.0, seconds, 0.5)
        return response.generation_tps(usage, timings)

    assert [rate(0, 0.0), rate(1, 1e-6), rate(2, 0.0), rate(10, 2.0)] == [None, None, None, 5.0]


@pytest.mark.parametrize(
    ("n_ctx", "n_trained", "way"),
    [
        (2304, 8192, "--ctx 4608"),
        (6000, 8192, "the most for this model: --ctx 8192"),
        (8192, 8192, "the model was trained for 8,192"),
    ],
)
def test_a_full_window_is_told_with_the_option_that_helps(n_ctx: int, n_trained: int, way: str) -> None:
    err = io.StringIO()
    console = Console(io.StringIO(), io.StringIO(), err, {})
    assert exit_code(FinishReason.CONTEXT, console, n_ctx, n_trained) is ExitCode.CONTEXT
    assert f"the end of the context window of {n_ctx:,} tokens" in err.getvalue()
    assert way in err.getvalue()


@pytest.mark.parametrize(("seconds", "told"), [(100, "0.4"), (4, "10"), (1, "40")])
def test_a_slow_device_does_not_read_a_prompt_with_0_tokens_a_second(seconds: float, told: str) -> None:
    timings = Timings(prompt_s=seconds, generation_s=1, ttft_s=seconds)
    assert f", {told} prompt tok/s," in response.describe(FinishReason.STOP, Usage(40, 0, 3), timings)


def test_a_line_that_does_not_end_goes_out_in_parts() -> None:
    """However much the buffer of the stream holds: 128 KiB in Python 3.14."""
    raw = io.BytesIO()
    screen = Screen(io.TextIOWrapper(io.BufferedWriter(raw, 1 << 20), encoding="utf-8"))
    for _ in range(5000):
        screen.write("word ")
    assert 15_000 <= len(raw.getvalue()) < 25_000
    screen.write("\n")
    assert len(raw.getvalue()) == 25_001
