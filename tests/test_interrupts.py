"""Two Ctrl-C always end slm, whatever native code does; a second one that came too soon does not cost the chat."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import native_faults
import pytest
from conftest import environment
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama
from terminal import Terminal

from slmchat.terminal import interrupts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")

# Who presses twice must have the first one heard: the kernel makes one signal of two that wait.
SOON = """
import os, signal, types
from slmchat.terminal import interrupts
interrupts.GRACE_S = 0.3
def read(descriptor, size):
    heard = os.read(descriptor, size)
    if signal.SIGINT in heard:
        os.write(2, b"(heard)")
    return heard
interrupts.os = types.SimpleNamespace(**{**vars(os), "read": read})
"""


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


PRESS = """
import ctypes, os, signal, sys, threading
from slmchat.commands import process_end
from slmchat.engine.callbacks import guarded
from slmchat.terminal import interrupts
{listen}
def press(_data=None):
    if not pressed:
        pressed.append(1)
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(10):
            pass
    return 0
pressed = []
{callback}
with {around}:
    try:
        {native}
        threading.Event().wait(300)
        print("lost")
    except KeyboardInterrupt:
        print("came", len(pressed))
"""
QSORT = """compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)({function})
libc = ctypes.CDLL(None)
numbers = (ctypes.c_int * 8)(*range(8))"""


@pytest.mark.real
@pytest.mark.parametrize("function", ["lambda a, b: press()", "guarded(lambda a, b: press(), instead=0)"])
@pytest.mark.parametrize("listen", ["process_end.take_over(); interrupts.watch()", ""], ids=["slm", "a program"])
def test_ctrl_c_inside_a_function_called_by_native_code_is_not_lost(listen: str, function: str) -> None:
    """In a program that uses slm, which has its own handlers, the functions are guarded."""
    if not listen and not function.startswith("guarded"):
        pytest.skip("not a function of slm")
    native = "libc.qsort(numbers, ctypes.c_size_t(8), ctypes.c_size_t(4), compare)"
    script = PRESS.format(
        listen=listen, callback=QSORT.format(function=function), around="threading.Lock()", native=native
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert (done.stdout, done.stderr) == ("came 1\n", "")


# Both signals are pending and are let through at once: SIGINT, the higher number, is handled first and sets Python's
# flag, then SIGHUP's handler, which is the callback, finds it before its first line.
BEFORE_THE_FIRST_LINE = """
import ctypes, signal, threading
from slmchat.engine.callbacks import guarded
libc = ctypes.CDLL(None)
called = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(guarded(lambda number: 0, instead=0))
libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.signal(signal.SIGHUP, ctypes.cast(called, ctypes.c_void_p))
both = {signal.SIGHUP, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, both)
for number in both:
    signal.raise_signal(number)
nothing = ctypes.create_string_buffer(256)
try:
    libc.pthread_sigmask(int(signal.SIG_SETMASK), nothing, None)
    threading.Event().wait(300)
    print("lost")
except KeyboardInterrupt:
    print("came")
"""


@pytest.mark.real
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the order of signals is Linux's")
def test_ctrl_c_before_the_first_line_of_such_a_function_comes_again_and_says_nothing() -> None:
    """In a program that uses slm: every Ctrl-C while a model computes comes so."""
    done = subprocess.run(
        [sys.executable, "-c", BEFORE_THE_FIRST_LINE], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.stdout, done.stderr) == ("came\n", "")


TAKEN_ELSEWHERE = """
import signal, threading
from queue import SimpleQueue
from slmchat.terminal import interrupts
interrupts.listen()
press = lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT)
cancelled = []
def cancel():
    cancelled.append(1)
    queue.put(None)
queue = SimpleQueue()
with interrupts.cancelling(cancel):
    threading.Timer(0.1, press).start()
    queue.get()
try:
    threading.Timer(0.1, press).start()
    queue.get()
except KeyboardInterrupt:
    print("heard", len(cancelled))
"""


@pytest.mark.real
def test_ctrl_c_that_does_not_end_the_wait_of_the_main_thread_is_heard() -> None:
    # as when it comes in the moment before the wait begins
    done = subprocess.run([sys.executable, "-c", TAKEN_ELSEWHERE], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "heard 1\n", "")


@pytest.mark.real
def test_another_error_in_a_destructor_is_one_sentence() -> None:
    script = """
from slmchat.commands import process_end
process_end.take_over()
class Broken:
    def __del__(self):
        raise ValueError("\\x1b[31mbad")
Broken()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    first, hint = done.stderr.splitlines()
    assert (done.returncode, first) == (0, "slm: an error of slm's own, beside what it does: ValueError: bad.")
    assert "SLM_DEBUG=1" in hint


@pytest.mark.real
def test_ctrl_c_while_a_context_opens_ends_slm(model: Path, home: Path) -> None:
    """llama.cpp logs while it opens one, into a function of slm: nobody must press twice."""
    log = (
        "import collections, signal; from slmchat.engine import native; native._log = type('Log', (collections.deque,), "
        "{'append': lambda self, line, seen=[]: (seen or seen.append(1) or os.kill(os.getpid(), signal.SIGINT), "
        "collections.deque.append(self, line))[1]})()"
    )
    done = subprocess.run(
        native_faults.program("llama_init_from_model", 0, log, ["run", "-m", model, "hi"]),
        capture_output=True, text=True, env=environment(home), stdin=subprocess.DEVNULL, timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "")


# What the program says on its terminal when it begins to hang: a key pressed before that would simply be heard.
HANGS = "it hangs now"


def _hangs(faults: Path, name: str, after: int, *arguments: str | Path) -> list[str]:
    fault = f"os.write(2, b'\\n({HANGS})\\n'); {native_faults.native(faults, 'spin')}"
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
        terminal.wait_for(r"\(heard\)")
        terminal.interrupt()
        terminal.wait_for(r"ended with 130\ndone")
    assert (tmp_path / "before").read_text() == (tmp_path / "after").read_text()


@pytest.mark.real
def test_two_quick_ones_stop_an_answer_and_keep_the_chat(model: Path, home: Path) -> None:
    slowly = "import time; time.sleep(0.02)"  # an answer does not end by itself before the keys come
    program = native_faults.program("llama_decode", 0, slowly, ["chat", model, "--temp", "0"])
    with Terminal([], home=home, program=program) as terminal:
        terminal.wait_for(r"\n> ?(\n|$)")
        for turn in (1, 2):
            terminal.enter(f"hello {turn}")
            terminal.wait_for(lambda: "Ctrl-C stops" in terminal.screen.display[-1])  # of this answer
            terminal.interrupt()
            terminal.interrupt()
            terminal.wait_for_count(r"stopped; /continue|cancelled", turn)
            terminal.type("\x15")  # the second one may have given the message back
        terminal.enter("/exit")
        assert terminal.end() == 0
        assert "Traceback" not in terminal.everything


@pytest.mark.real
def test_ctrl_c_while_the_terminal_is_given_back_does_not_cost_the_keys(model: Path, home: Path) -> None:
    """Between the end of an answer and the next prompt a thread that reads keys has to end."""
    press = (
        "import os, signal, sys; from slmchat.terminal.ticker import Ticker; stop = Ticker.stop\n"
        "def pressed(self):\n"
        "    Ticker.stop = stop\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    stop(self)\n"
        "Ticker.stop = pressed\n"
        f"sys.argv = ['slm', 'chat', {str(model)!r}, '-n', '3']\n"
        "from slmchat.__main__ import main\n"
        "sys.exit(main())"
    )
    with Terminal([], home=home, program=(sys.executable, "-c", press)) as terminal:
        terminal.wait_for(r"\n> ?(\n|$)")
        terminal.enter("hello")
        terminal.wait_for(r"cut at the limit[\s\S]*\(cancelled\)")
        assert terminal.screen.margins is None  # the whole window scrolls
        terminal.enter("are you there")
        terminal.wait_for_count("cut at the limit", 2)
        terminal.enter("/exit")
        assert terminal.end() == 0


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
