"""A native abort while a model is loaded: told once at the next start, and never blamed on anything else."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import fork_server
import pytest
from conftest import environment, run_slm
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama
from terminal import Terminal

from slmchat.engine import crash_markers
from slmchat.engine.crash_markers import Ended

pytestmark = pytest.mark.real

# The real program, in which a step of llama.cpp's does what `how` says.
DIES = """
import contextlib, os, signal, sys, threading, time
from slmchat.engine import llama
load = llama.load
class Session:
    def __init__(self, session):
        self.session = session
    def generate(self, *given):
        events = self.session.generate(*given)
        yield next(events)
        {decoding}
        yield from events
        {afterwards}
    def __getattr__(self, name):
        return getattr(self.session, name)
class Engine:
    def __init__(self, engine):
        self.engine = engine
    def open_session(self, *given):
        {opening}
        return Session(self.engine.open_session(*given))
    def __getattr__(self, name):
        return getattr(self.engine, name)
def loads(path, **options):
    {loading}
    return Engine(load(path, **options))
llama.load = loads
sys.argv = ["slm", *{arguments!r}]
from slmchat.__main__ import main
sys.exit(main())
"""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
# In native code, as llama.cpp would: the interpreter is free meanwhile.
ABORTED = "import ctypes; ctypes.CDLL(None).abort()"
FAULT = "import ctypes; ctypes.CDLL(None).strlen(ctypes.c_void_p(8))"
# At once, although the main thread is inside a call of the C library: as in a decode that takes long.
TERMINATED = "os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)"
HUNG_UP = "os.kill(os.getpid(), signal.SIGHUP); time.sleep(9)"
CTRL_C = "signal.pthread_kill(threading.main_thread().ident, signal.SIGINT); time.sleep(9)"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "tiny.gguf", chat_template=CHATML_TEMPLATE, context_length=2048)


def _script(arguments: Sequence[str], how: str, at: str) -> str:
    steps = {"loading": "pass", "opening": "pass", "decoding": "pass", "afterwards": "pass"}
    return DIES.format(**{**steps, at: how}, arguments=arguments)


def _dies(model: Path, home: Path, how: str, *flags: str, at: str = "loading") -> int:
    script = _script(["run", "-m", str(model), *flags, "-n", "2", "hi"], how, at)
    return fork_server.run(
        [sys.executable, "-c", script],
        env=environment(home),
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    ).returncode


def _marks(home: Path) -> list[Path]:
    return [file for file in home.rglob("*") if file.parent.name == "loading"]


@pytest.mark.parametrize(
    ("how", "at"), [(KILLED, "loading"), (ABORTED, "loading"), (ABORTED, "opening"), (FAULT, "decoding")]
)
def test_it_is_told_once_and_the_next_run_goes_on(model: Path, home: Path, how: str, at: str) -> None:
    assert _dies(model, home, how, at=at) < 0
    (mark,) = _marks(home)
    assert mark.stat().st_mode & 0o777 == 0o600
    assert mark.parent.stat().st_mode & 0o777 == 0o700
    kept = {"SLM_VERDICTS": str(home / "verdicts")}
    first, second = (run_slm("run", "-m", model, "-n", "1", "hi", home=home, env=kept) for _ in range(2))
    assert first.code == second.code == 0, first.err
    assert first.err.count("while it was loading") == 1
    if how == KILLED:
        assert "was killed" in first.err
        assert "memory" in first.err
    else:
        # the second: here the library crashes by itself with all that it can, and is used with less
        assert re.search("tried again in a process of its own and works now|goes on without, and that works", first.err)
    assert "damaged" not in first.err
    assert second.err == ""
    assert _marks(home) == []


@pytest.mark.parametrize(("at", "is_told"), [("decoding", True), ("afterwards", False)])
def test_a_chat_that_dies_before_its_first_token_is_told(model: Path, home: Path, at: str, is_told: bool) -> None:
    script = _script(["chat", "-n", "2", str(model)], ABORTED, at)
    terminal = Terminal([], home=home, program=(sys.executable, "-c", script))
    terminal.wait_for(r"\n> ?(\n|$)")
    terminal.enter("hi")
    terminal.end()
    assert terminal.child.signalstatus == signal.SIGABRT
    assert len(_marks(home)) == is_told
    told = run_slm("run", "-m", model, "-n", "1", "hi", home=home).err
    assert ("beginning its first answer" in told) == is_told


def test_another_model_is_not_suspect(model: Path, home: Path, tmp_path: Path) -> None:
    _dies(model, home, KILLED)
    other = write_tiny_llama(tmp_path / "other.gguf", chat_template=CHATML_TEMPLATE, context_length=2048)
    assert run_slm("run", "-m", other, "-n", "1", "hi", home=home).err == ""


def test_ctrl_c_while_loading_leaves_no_mark(model: Path, home: Path) -> None:
    assert _dies(model, home, CTRL_C) == 130
    assert _marks(home) == []


@pytest.mark.parametrize(("how", "at"), [(TERMINATED, "loading"), (HUNG_UP, "loading"), (TERMINATED, "decoding")])
def test_an_end_that_somebody_wished_is_not_told(model: Path, home: Path, how: str, at: str) -> None:
    assert _dies(model, home, how, at=at) == -(signal.SIGHUP if how == HUNG_UP else signal.SIGTERM)
    assert run_slm("run", "-m", model, "-n", "1", "hi", home=home).err == ""
    assert _marks(home) == []


def test_a_signal_that_is_ignored_stays_ignored_and_spoils_no_mark(model: Path, home: Path) -> None:
    """As under nohup: what ends slm afterwards is told."""
    ignored = f"os.kill(os.getpid(), signal.SIGHUP); {ABORTED}"
    script = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + DIES.format(
        loading=ignored, opening="pass", decoding="pass", afterwards="pass", arguments=["run", "-m", str(model), "hi"]
    )
    done = fork_server.run([sys.executable, "-c", script], env=environment(home), capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGABRT
    assert "crashed" in run_slm("run", "-m", model, "-n", "1", "hi", home=home).err


def test_after_the_first_token_the_model_is_not_suspect(model: Path, home: Path) -> None:
    assert _dies(model, home, ABORTED, at="afterwards") == -signal.SIGABRT
    assert _marks(home) == []


def test_private_leaves_no_mark(model: Path, home: Path) -> None:
    assert _dies(model, home, KILLED, "--private") < 0
    assert _marks(home) == []


def test_a_file_that_is_refused_leaves_no_mark(tmp_path: Path, home: Path) -> None:
    from gguf_samples import gguf

    bad = tmp_path / "bad.gguf"
    bad.write_bytes(gguf())
    assert run_slm("run", "-m", bad, "hi", home=home).code == 6
    assert _marks(home) == []


def test_a_loading_that_goes_on_elsewhere_is_not_told(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    mine = crash_markers.CrashMarker(tmp_path, model)
    mine.set()
    assert crash_markers.take(tmp_path, model) is None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        (file,) = crash_markers.directory(tmp_path).iterdir()
        theirs = file.with_name(file.name.replace(str(os.getpid()), str(other.pid)))
        theirs.touch()
        assert crash_markers.take(tmp_path, model) is None
        other.communicate(b"\n")
    assert crash_markers.take(tmp_path, model) is Ended.KILLED
    assert crash_markers.take(tmp_path, model) is None
    assert file.exists()
    mine.clear()
    assert not file.exists()


def test_a_disk_that_refuses_the_mark_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "loading").write_text("a file, no directory")
    mark = crash_markers.CrashMarker(tmp_path, tmp_path / "m.gguf")
    mark.set()
    assert crash_markers.take(tmp_path, tmp_path / "m.gguf") is None
    mark.clear()
