"""A native abort while a model is loaded: told once at the next start, and never blamed on anything else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import environment, run_slm
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama

from slmchat.catalog import suspects

pytestmark = pytest.mark.real

# The real program, in which llama.cpp's loading does what the name says.
DIES = """
import os, signal, sys, threading, time
from slmchat.engine import llama
def load(path, *, gpu_layers=None):
    {how}
llama.load = load
sys.argv = ["slm", "run", "-m", {model!r}, *{flags!r}, "hi"]
from slmchat.__main__ import main
sys.exit(main())
"""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
ABORTED = "os.abort()"
CTRL_C = "signal.pthread_kill(threading.main_thread().ident, signal.SIGINT); time.sleep(9)"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "tiny.gguf", chat_template=CHATML_TEMPLATE, context_length=2048)


def _dies(model: Path, home: Path, how: str, *flags: str) -> int:
    script = DIES.format(how=how, model=str(model), flags=flags)
    return subprocess.run(
        [sys.executable, "-c", script], env=environment(home), capture_output=True, stdin=subprocess.DEVNULL, timeout=60
    ).returncode


def _marks(home: Path) -> list[Path]:
    return [file for file in home.rglob("*") if file.parent.name == "loading"]


@pytest.mark.parametrize("how", [KILLED, ABORTED])
def test_it_is_told_once_and_the_next_run_goes_on(model: Path, home: Path, how: str) -> None:
    assert _dies(model, home, how) < 0
    (mark,) = _marks(home)
    assert mark.stat().st_mode & 0o777 == 0o600
    assert mark.parent.stat().st_mode & 0o777 == 0o700
    first, second = (run_slm("run", "-m", model, "-n", "1", "hi", home=home) for _ in range(2))
    assert first.code == second.code == 0, first.err
    assert first.err.count("while it was loading") == 1
    assert f"slm verify {model}" in first.err
    assert second.err == ""
    assert _marks(home) == []


def test_another_model_is_not_suspect(model: Path, home: Path, tmp_path: Path) -> None:
    _dies(model, home, KILLED)
    other = write_tiny_llama(tmp_path / "other.gguf", chat_template=CHATML_TEMPLATE, context_length=2048)
    assert run_slm("run", "-m", other, "-n", "1", "hi", home=home).err == ""


def test_ctrl_c_while_loading_leaves_no_mark(model: Path, home: Path) -> None:
    assert _dies(model, home, CTRL_C) == 130
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
    mine = suspects.Mark(tmp_path, model)
    mine.set()
    assert not suspects.take(tmp_path, model)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        (file,) = suspects.directory(tmp_path).iterdir()
        theirs = file.with_name(file.name.replace(str(os.getpid()), str(other.pid)))
        theirs.touch()
        assert not suspects.take(tmp_path, model)
        other.communicate(b"\n")
    assert suspects.take(tmp_path, model)
    assert not suspects.take(tmp_path, model)
    assert file.exists()
    mine.clear()
    assert not file.exists()


def test_a_disk_that_refuses_the_mark_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "loading").write_text("a file, no directory")
    mark = suspects.Mark(tmp_path, tmp_path / "m.gguf")
    mark.set()
    assert not suspects.take(tmp_path, tmp_path / "m.gguf")
    mark.clear()
