"""Two Ctrl-C always end slm, whatever native code does; a second one that came too soon does not cost the chat."""

import os
import signal
import sys
from pathlib import Path

import native_faults
import pytest
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama
from terminal import Terminal

from slmchat.terminal import interrupts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")

SOON = "from slmchat.terminal import interrupts; interrupts.GRACE_S = 0.3;"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(
        tmp_path_factory.mktemp("model") / "tiny.gguf", chat_template=CHATML_TEMPLATE, context_length=2048
    )


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return native_faults.library(tmp_path_factory.mktemp("faults"))


def test_ctrl_c_cancels_once_and_then_interrupts() -> None:
    before, cancelled = signal.getsignal(signal.SIGINT), []

    def press_twice() -> None:
        with interrupts.cancelling(lambda: cancelled.append(1)):
            os.kill(os.getpid(), signal.SIGINT)
            assert cancelled == [1]
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        press_twice()
    assert signal.getsignal(signal.SIGINT) is before


def test_somebody_elses_wakeup_descriptor_comes_back() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer)
    try:
        with interrupts.left_alone():
            pass
        assert signal.set_wakeup_fd(writer) == writer
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)


# What the program says on its terminal when it begins to hang: a key pressed before that would simply be heard.
HANGS = "it hangs now"


def _hangs(faults: Path, name: str, after: int, *arguments: str | Path) -> list[str]:
    fault = f"os.write(2, b'({HANGS})'); {native_faults.native(faults, 'spin')}"
    python, flag, script = native_faults.program(name, after, fault, arguments)
    return [python, flag, SOON + script]


@pytest.mark.real
def test_a_hang_is_told_and_a_second_ctrl_c_ends_it(model: Path, faults: Path, home: Path) -> None:
    hangs = _hangs(faults, "llama_decode", 3, "run", "-m", model, "-n", "50", "hi")
    with Terminal([], home=home, program=hangs) as terminal:
        terminal.wait_for(HANGS)
        terminal.interrupt()
        terminal.wait_for("it has not stopped yet; Ctrl-C again ends slm")
        terminal.interrupt()
        assert terminal.end() == 130


@pytest.mark.real
def test_two_at_once_end_a_hang_while_loading_and_leave_no_mark(model: Path, faults: Path, home: Path) -> None:
    hangs = _hangs(faults, "llama_model_load_from_file", 0, "run", "-m", model, "hi")
    with Terminal([], home=home, program=hangs) as terminal:
        terminal.wait_for(HANGS)
        assert list((home / "data").glob("loading/*"))
        terminal.interrupt()
        terminal.interrupt()
        assert terminal.end() == 130, terminal.everything
    assert not list((home / "data").glob("loading/*"))


@pytest.mark.real
def test_a_hang_in_a_chat_ends_with_the_terminal_as_it_was(
    model: Path, faults: Path, home: Path, tmp_path: Path
) -> None:
    hangs = _hangs(faults, "llama_decode", 20, "chat", model)
    shell = 'trap : INT; stty -a > before; "$@"; echo "ended with $?"; stty -a > after; echo done'
    with Terminal(["-c", shell, "sh", *hangs], home=home, program=("sh",), cwd=tmp_path) as terminal:
        terminal.wait_for(r"\n> ?(\n|$)")
        terminal.enter("hello")
        terminal.wait_for(HANGS)
        terminal.interrupt()
        terminal.interrupt()
        terminal.wait_for(r"ended with 130\ndone")
    assert (tmp_path / "before").read_text() == (tmp_path / "after").read_text()


@pytest.mark.real
def test_two_quick_ones_stop_an_answer_and_keep_the_chat(model: Path, home: Path) -> None:
    with Terminal(["chat", model], home=home) as terminal:
        terminal.wait_for(r"\n> ?(\n|$)")
        for turn in (1, 2):
            terminal.enter(f"hello {turn}")
            terminal.wait_for(lambda: "Ctrl-C stops" in terminal.screen.display[-1])  # of this answer
            terminal.interrupt()
            terminal.interrupt()
            terminal.wait_for_count(r"stopped; /continue|cancelled", turn)
        terminal.wait_for(r"\n> ?\n")
        terminal.enter("/exit")
        assert terminal.end() == 0
        assert "Traceback" not in terminal.everything


@pytest.mark.real
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the process through /proc")
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT], ids=lambda number: number.name)
def test_a_signal_in_an_answer_leaves_the_terminal_as_it_was(
    ending: signal.Signals, model: Path, faults: Path, home: Path, tmp_path: Path
) -> None:
    """The main thread is inside native code that does not come back; the shell's terminal has its echo all the same."""
    hangs = _hangs(faults, "llama_decode", 20, "chat", model)
    shell = f'trap : {ending.name[3:]}; stty -a > before; "$@"; echo "ended with $?"; stty -a > after; echo done'
    with Terminal(["-c", shell, "sh", *hangs], home=home, program=("sh",), cwd=tmp_path) as terminal:
        terminal.wait_for(r"\n> ?(\n|$)")
        terminal.enter("hello")
        terminal.wait_for(HANGS)
        shell_pid = terminal.child.pid
        (slm,) = Path(f"/proc/{shell_pid}/task/{shell_pid}/children").read_text().split()
        os.kill(int(slm), ending)
        terminal.wait_for(rf"ended with {128 + ending}\ndone")
    assert (tmp_path / "before").read_text() == (tmp_path / "after").read_text()
