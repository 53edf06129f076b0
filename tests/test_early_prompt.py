"""The prompt of a chat stands before its line editor is imported: keys are kept, what goes wrong meanwhile is told."""

import shlex
import shutil
import sys
from pathlib import Path

import pytest
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama
from terminal import Terminal

pytestmark = [pytest.mark.real, pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminal")]

# The real program, which imports what the editor needs when there is a file.
HELD = """
import importlib.abc, importlib.machinery, os, sys, threading
class Held(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "slmchat.commands.repl.app":
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path)
        run = found.loader.exec_module
        def held(module):
            while not os.path.exists({gate!r}):
                threading.Event().wait(0.01)
            run(module)
        found.loader.exec_module = held
        return found
sys.meta_path.insert(0, Held())
sys.argv = ["slm", *{arguments!r}]
from slmchat.__main__ import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(
        tmp_path_factory.mktemp("model") / "tiny.gguf", chat_template=CHATML_TEMPLATE, context_length=2048
    )


@pytest.fixture
def gate(home: Path) -> Path:
    """The file that lets the imports go on; the seal leaves slm's own home readable."""
    home.mkdir(exist_ok=True)
    return home / "gate"


def _chat(gate: Path, *arguments: str | Path) -> list[str]:
    script = HELD.format(gate=str(gate), arguments=["chat", *map(str, arguments)])
    return [sys.executable, "-q", "-c", script]  # -q: a start of Python, and no fork that has imported everything


def test_what_is_typed_before_the_editor_is_there_is_sent_by_it(model: Path, home: Path, gate: Path) -> None:
    with Terminal([], home=home, program=_chat(gate, model, "-n", "3")) as terminal:
        terminal.wait_for(r"Ctrl-D leaves\.\n> ?$")
        terminal.press("hi there")
        terminal.wait_for(r"> hi there$")
        terminal.press("\r")
        terminal.wait_for(r"> hi there ⏎$")
        terminal.press("ant\x7fd")
        terminal.wait_for(r"> hi there ⏎ and$")
        gate.touch()
        terminal.wait_for(r"> hi there\n")
        terminal.wait_for(r"> and\n")
        assert terminal.everything.count("hi there") == 1
        assert terminal.everything.count("/help lists") == 1
        terminal.type("\x15\x04")
        assert terminal.end() == 0


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_a_window_that_has_no_room_for_it_is_no_end_of_the_chat(
    columns: int, model: Path, home: Path, gate: Path
) -> None:
    with Terminal([], home=home, program=_chat(gate, model, "-n", "3"), columns=columns, lines=5) as terminal:
        terminal.wait_for(lambda: "\x1b[K\x1b[0;36;1m> " in terminal.raw)  # the prompt
        terminal.press("hi there")
        gate.touch()
        terminal.type("\x15\x04")
        assert terminal.end() == 0


def test_a_pasted_text_of_lines_is_one_message(model: Path, home: Path, gate: Path) -> None:
    with Terminal([], home=home, program=_chat(gate, model, "-n", "3")) as terminal:
        terminal.wait_for(r"Ctrl-D leaves\.\n> ?$")
        terminal.press("\x1b[200~one\rtwo\x1b[201~\r")
        gate.touch()
        terminal.wait_for(r"> one\n +two\n")


def test_an_error_takes_the_place_of_the_prompt_and_the_terminal_is_as_it_was(
    model: Path, home: Path, gate: Path, tmp_path: Path
) -> None:
    command = _chat(gate, model, "--file", tmp_path / "missing.txt")
    shell = 'stty -a > before; "$@"; echo "ended with $?"; stty -a > after; echo done'
    with Terminal(["-c", shell, "sh", *command], home=home, program=("sh",), cwd=tmp_path, columns=40) as terminal:
        terminal.wait_for(r"\n> ?$")
        gate.touch()
        terminal.wait_for(r"ended with 2\ndone")
        assert "> " not in terminal.everything
        assert "missing.txt" in terminal.everything.replace("\n", "")
    assert (tmp_path / "before").read_text() == (tmp_path / "after").read_text()


def test_ctrl_c_at_it_ends_slm_with_the_terminal_as_it_was(model: Path, home: Path, gate: Path, tmp_path: Path) -> None:
    shell = 'trap : INT; stty -a > before; "$@"; echo "ended with $?"; stty -a > after; echo done'
    with Terminal(["-c", shell, "sh", *_chat(gate, model)], home=home, program=("sh",), cwd=tmp_path) as terminal:
        terminal.wait_for(r"\n> ?$")
        terminal.interrupt()
        terminal.wait_for(r"ended with 130\ndone")
    assert (tmp_path / "before").read_text() == (tmp_path / "after").read_text()


def test_where_lines_are_the_terminals_own_there_is_none(model: Path, home: Path, gate: Path) -> None:
    gate.touch()
    with Terminal([], home=home, program=_chat(gate, model, "--plain", "-n", "3")) as terminal:
        terminal.wait_for(r"Ctrl-D leaves\.\n> ?$")
        assert "\x1b[?2004h" not in terminal.raw


@pytest.mark.skipif(not shutil.which("bash"), reason="needs a shell with job control")
def test_ctrl_z_waits_for_the_editor_and_the_shell_gets_its_terminal(
    model: Path, home: Path, gate: Path, tmp_path: Path
) -> None:
    (tmp_path / "chat").write_text(f"exec {shlex.join(_chat(gate, model))}\n")
    with Terminal(["--norc", "-i"], home=home, program=("bash",), cwd=tmp_path, echo=True) as terminal:
        terminal.press("PS1='READY> '; stty -a > before; sh ./chat\r")
        terminal.wait_for(r"Ctrl-D leaves\.\n> ?$")
        terminal.press("half\x1a")
        gate.touch()
        terminal.wait_for("Stopped")
        terminal.press("stty -a > stopped; echo all of it\r")
        terminal.wait_for(r"\nall of it")
        terminal.press("fg\r")
        terminal.wait_for(r"fg\n[\s\S]*> half\n")
        terminal.type("\x15\x04")
        terminal.wait_for(r"READY> ?$")
    assert (tmp_path / "stopped").read_text() == (tmp_path / "before").read_text()
