"""What ends slm from below is one sentence, with the terminal as it was; nothing else is started, nothing is lost."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import fork_server
import native_faults
import pytest
from conftest import environment, run_slm
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama
from gguf_surgery import with_keys
from terminal import Terminal

from slmchat.engine import crash_report, native_calls
from slmchat.engine.native_calls import NativeCall

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's signals")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(
        tmp_path_factory.mktemp("model") / "tiny.gguf", chat_template=CHATML_TEMPLATE, context_length=2048
    )


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return native_faults.library(tmp_path_factory.mktemp("faults"))


def _run(command: Sequence[str], home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return fork_server.run(
        command, env=environment(home, more), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300
    )


def _is_one_sentence(said: str) -> bool:
    first, *others = said.splitlines()
    return first.startswith("slm: ") and first.endswith(".") and [line[:6] for line in others] == ["hint: "]


# What is said


def test_a_failed_check_blames_the_file_until_something_was_computed_with_it() -> None:
    file = Path("/models/m.gguf")
    work = NativeCall("computing with {}", file, is_computing=True)
    first = crash_report._explained("a check of its own failed", "GGML_ASSERT(x) failed, ops.cpp:1", work)
    assert first.exit_code == 6
    assert "cannot use m.gguf" in first.message
    native_calls._proven.add(file)
    try:
        later = crash_report._explained("a check of its own failed", "GGML_ASSERT(x) failed, ops.cpp:1", work)
    finally:
        native_calls._proven.discard(file)
    assert later.exit_code == 1
    assert "computing with m.gguf" in later.message


def test_a_model_of_slms_own_is_not_blamed() -> None:
    """As when the speed of the device is measured: nobody can do anything about that file."""
    inner = NativeCall("loading {}", Path("/tmp/zeros.gguf"))
    with native_calls.own_errand("measuring the speed of this device"):
        native_calls._running.append(inner)
        try:
            error = crash_report._explained("a check of its own failed", "", native_calls.now())
        finally:
            native_calls._running.remove(inner)
    assert error.exit_code == 1
    assert "while measuring the speed of this device" in error.message
    assert "zeros" not in error.message


def test_a_mapped_file_that_was_cut_is_found(tmp_path: Path) -> None:
    import mmap

    whole, cut = tmp_path / "whole file.gguf", tmp_path / "cut file.gguf"
    for file in (whole, cut):
        file.write_bytes(bytes(5 * mmap.PAGESIZE + 1))
    maps = []
    for file in (whole, cut):
        with file.open("rb") as opened:
            maps.append(mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ))
    os.truncate(cut, 4 * mmap.PAGESIZE)
    assert crash_report.cut_files() == [cut]
    for each in maps:
        each.close()


# Files that llama.cpp's own checks stop at, with slm's header check left out

ABORTING: dict[str, dict[str, str | int | float | None]] = {
    "no layers": {"llama.block_count": 0},
    "100000 layers": {"llama.block_count": 100_000},
    "rope": {"llama.rope.scaling.type": "weird"},
    "experts": {"llama.expert_count": 8},
    "epsilon": {"llama.attention.layer_norm_rms_epsilon": -1.0},
    "none": {"tokenizer.ggml.model": "none"},
    "no_vocab": {"tokenizer.ggml.model": "no_vocab"},
    "bert": {"tokenizer.ggml.model": "bert"},
    "t5": {"general.architecture": "t5"},
    "gpt2 as llama": {"tokenizer.ggml.model": "llama"},  # std::terminate: no such byte tokens
    "gpt2 as rwkv": {"tokenizer.ggml.model": "rwkv"},
}

# Each file in a child of its own: it is loaded, and makes two tokens.
_EACH_IN_A_CHILD = """
import os, sys
from pathlib import Path
from slmchat.commands import process_end
process_end.take_over()
from slmchat.engine import llama, native
from slmchat.engine.requests import Limits, Part, Prompt, SessionSettings
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import SlmError
native.bindings()
def use(path):
    session = llama.load(Path(path), gpu_layers=0).open_session(SessionSettings(n_ctx=256, threads=2, threads_batch=2))
    prompt = Prompt((Part("hello w\\u00f6rld 12", is_template=False),))
    list(session.generate(prompt, SamplerSettings(temperature=0), Limits(2)))
for path in sys.argv[1:]:
    reader, writer = os.pipe()
    if not os.fork():
        os.dup2(writer, 2)
        try:
            use(path)
        except SlmError as error:
            process_end._say(error)
            os._exit(error.exit_code)
        os._exit(0)
    os.close(writer)
    said = open(reader).read()
    print(os.waitstatus_to_exitcode(os.wait()[1]), ascii(said))
"""


@pytest.mark.real
def test_every_header_that_stops_llama_cpp_is_a_sentence_and_exit_6(model: Path, tmp_path: Path, home: Path) -> None:
    bpe = write_tiny_llama(tmp_path / "bpe.gguf", chat_template=CHATML_TEMPLATE, tokenizer="bpe")
    files = [
        with_keys(bpe if name.startswith("gpt2") else model, tmp_path / f"{name}.gguf", keys)
        for name, keys in ABORTING.items()
    ]
    done = _run([sys.executable, "-c", _EACH_IN_A_CHILD, *map(str, files)], home)
    found = dict(zip(ABORTING, done.stdout.splitlines(), strict=True))
    for name, line in found.items():
        code, _, said = line.partition(" ")
        assert code == "6", (name, line)
        assert f"{name}.gguf" in said, (name, line)
        assert said.startswith("'slm: llama.cpp cannot "), (name, line)
    assert "GGML_ASSERT" in found["no layers"]
    assert "not caught" in found["gpt2 as llama"]
    assert "terminate called" not in done.stderr


@pytest.mark.real
def test_no_debugger_is_started_and_no_mark_is_left(model: Path, tmp_path: Path, home: Path) -> None:
    """ggml would start gdb or lldb from the PATH. What is told now is not told again at the next start."""
    bpe = write_tiny_llama(tmp_path / "bpe.gguf", chat_template=CHATML_TEMPLATE, tokenizer="bpe")
    bad = with_keys(bpe, tmp_path / "bad.gguf", {"tokenizer.ggml.model": "llama"})
    for name in ("gdb", "lldb"):
        tool = tmp_path / name
        tool.write_text(f"#!/bin/sh\n: > '{tmp_path}/started'\n")
        tool.chmod(0o755)
    script = "import sys, slmchat; slmchat.load(sys.argv[1]).complete('hello')"
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    as_library = _run([sys.executable, "-c", script, str(bad)], home, PATH=path)
    assert as_library.returncode in (-signal.SIGABRT, 1)  # 1: refused by its header
    told = _run([sys.executable, "-m", "slmchat", "run", "-m", str(bad), "hi"], home, PATH=path)
    assert told.returncode in (2, 6)
    assert _is_one_sentence(told.stderr), told.stderr
    assert not (tmp_path / "started").exists()
    assert not list((home / "data" / "loading").glob("*"))


@pytest.mark.real
def test_a_program_that_uses_slm_gets_the_sentence_and_keeps_its_signals(model: Path, tmp_path: Path) -> None:
    bad = with_keys(model, tmp_path / "bad.gguf", ABORTING["no layers"])
    script = (
        "import signal, sys; from pathlib import Path; from slmchat.engine import llama\n"
        "try: llama.load(Path(sys.argv[1]))\n"
        "finally: print('never')"
    )
    done = _run([sys.executable, "-c", script, str(bad)], tmp_path)
    assert done.returncode == -signal.SIGABRT
    assert done.stdout == ""
    assert done.stderr.startswith("slmchat: llama.cpp cannot use bad.gguf: ")
    assert len(done.stderr.splitlines()) == 1


# Signals


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "after", "how", "code", "said"),
    [
        ("llama_model_load_from_file", 0, signal.SIGFPE, 6, "(arithmetic error) while loading tiny.gguf"),
        ("llama_decode", 0, signal.SIGSEGV, -signal.SIGSEGV, "(segmentation fault) while computing with tiny.gguf"),
        ("llama_decode", 2, signal.SIGILL, -signal.SIGILL, "(illegal instruction) while computing with tiny.gguf"),
        ("llama_decode", 2, signal.SIGABRT, -signal.SIGABRT, "(abort) while computing with tiny.gguf"),
    ],
)
def test_a_crash_on_a_thread_of_the_library(
    model: Path, faults: Path, home: Path, name: str, after: int, how: int, code: int, said: str
) -> None:
    fault = native_faults.native(faults, "crash", how)
    done = _run(native_faults.program(name, after, fault, ["run", "-m", model, "-n", "9", "hi"]), home)
    assert done.returncode == code
    assert said in done.stderr
    assert _is_one_sentence(done.stderr), done.stderr


@pytest.mark.real
def test_a_model_file_that_is_cut_during_an_answer(tmp_path: Path, home: Path) -> None:
    """A real SIGBUS: llama.cpp touches a page of the mapped file that is not there any more."""
    model = write_tiny_llama(tmp_path / "tiny.gguf", chat_template=CHATML_TEMPLATE, context_length=2048)
    python, flag, script = native_faults.program(
        "llama_decode", 2, "os.ftruncate(int(os.environ['TEST_MODEL']), 24576)", ["run", "-m", model, "-n", "99", "hi"]
    )
    # opened before the seal closes, as whoever cuts the file is outside of it
    opened = f"import os; os.environ['TEST_MODEL'] = str(os.open({str(model)!r}, os.O_RDWR))\n"
    done = _run([python, flag, opened + script], home)
    assert done.returncode == 6
    assert "tiny.gguf was cut short while slm was using it" in done.stderr
    assert _is_one_sentence(done.stderr), done.stderr


# The terminal


@pytest.mark.real
def test_a_chat_that_crashes_leaves_the_terminal_as_it_was_and_the_conversation(
    model: Path, faults: Path, home: Path, tmp_path: Path
) -> None:
    chat = native_faults.program(
        "llama_decode", 30, native_faults.native(faults, "crash", signal.SIGSEGV), ["chat", model]
    )
    shell = 'stty echo; stty -a > before; "$@"; stty -a > after; echo ended; cat'
    command = ["-c", shell, "sh", *chat]
    with Terminal(command, home=home, program=("sh",), columns=60, lines=20, cwd=tmp_path) as terminal:
        terminal.wait_for(r"\n> ?(\n|$)")
        terminal.enter("tell me something")
        terminal.wait_for("ended")
        assert "slm: llama.cpp crashed (segmentation fault) while computing" in terminal.text
        assert "Fatal Python error" not in terminal.everything
        assert terminal.screen.margins in (None, (0, 19))
        assert not any("tokens" in line for line in terminal.text.splitlines()[-1:])  # the status line is gone
        lines = terminal.text.splitlines()
        assert next(line for line in lines if "slm: llama.cpp" in line).startswith("slm: ")
        terminal.press("echoed\r")
        terminal.wait_for("echoed\n+echoed")
    assert (tmp_path / "before").read_text() == (tmp_path / "after").read_text()
    shown = run_slm("sessions", "search", "something", home=home)
    assert "tell me something" in shown.out


@pytest.mark.real
def test_a_crash_behind_the_prompt_gives_the_terminal_back(
    model: Path, faults: Path, home: Path, tmp_path: Path
) -> None:
    """The model is loaded while the line is edited, in raw mode."""
    fault = "__import__('time').sleep(2); " + native_faults.native(faults, "crash", signal.SIGSEGV)
    chat = native_faults.program("llama_model_load_from_file", 0, fault, ["chat", model])
    shell = 'stty -a > before; "$@"; echo "ended with $?"; stty -a > after; echo done'
    command = ["-c", shell, "sh", *chat]
    with Terminal(command, home=home, program=("sh",), columns=60, lines=20, cwd=tmp_path) as terminal:
        terminal.wait_for("ended with 6\ndone")
        assert "slm: llama.cpp crashed (segmentation fault) while loading" in terminal.text
        assert "\x1b[?2004l" in terminal.raw[terminal.raw.rindex("\x1b[?2004h") :]
    assert (tmp_path / "before").read_text() == (tmp_path / "after").read_text()
