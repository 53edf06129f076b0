"""While an answer streams the terminal has one owner: what is on the screen when the window changes, slm is stopped and
continued, keys are pressed, and when nothing comes for long. On a real pty, with a model that takes its time."""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import native_faults
import pytest
from conftest import run_slm
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama
from terminal import Terminal

from slmchat.engine.results import Prefill
from slmchat.terminal.answer_progress import AnswerProgress
from slmchat.terminal.typed_ahead import PASTE_BEGINS, PASTE_ENDS, TypedAhead

needs_pty = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

# A token takes so long that there is time to press keys, in seconds.
SLOWLY = "import time; time.sleep(0.02)"
# After some tokens none comes any more until there is this file.
HELD = "[time.sleep(0.02) for _ in iter(lambda: calls > 12 and not os.path.exists({gate!r}), False)]"
_PROMPT = r"\n> ?(\n|$)"

Open = Callable[..., Terminal]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(
        tmp_path_factory.mktemp("model") / "tiny.gguf", chat_template=CHATML_TEMPLATE, context_length=4096
    )


@pytest.fixture
def slow_chat(model: Path, home: Path) -> Iterator[Open]:
    """`slow_chat(*options)` opens a chat with some tokens a second; closed at the end of the test."""
    opened: list[Terminal] = []

    def call(*options: str, gate: Path | None = None, **more: object) -> Terminal:
        slowly = SLOWLY if gate is None else f"{SLOWLY}; {HELD.format(gate=str(gate))}"
        program = native_faults.program("llama_decode", 0, slowly, ["chat", model, "--temp", "0", *options])
        opened.append(Terminal([], home=home, program=program, **more))  # type: ignore[arg-type]
        opened[-1].wait_for(_PROMPT)
        return opened[-1]

    yield call
    for terminal in opened:
        terminal.__exit__()


def _answers(home: Path) -> list[str]:
    return _said(home, "assistant")


def _said(home: Path, role: str) -> list[str]:
    (session,) = json.loads(run_slm("sessions", "list", "--json", home=home).out)
    exported = run_slm("sessions", "export", str(session["id"]), "--format", "json", home=home)
    return [said["text"] for said in json.loads(exported.out)["messages"] if said["role"] == role]


def _letters(text: str) -> str:
    """What is left of a text when it was wrapped and its Markdown rendered."""
    return re.sub(r"[^A-Za-z0-9]", "", text)


def _is_answering(terminal: Terminal) -> bool:
    return "Ctrl-C stops" in terminal.screen.display[-1]


@needs_pty
@pytest.mark.real
@pytest.mark.parametrize("from_height", [8, 24], ids=["a full window", "room below"])
def test_changes_of_the_window_destroy_nothing(slow_chat: Open, home: Path, from_height: int) -> None:
    terminal = slow_chat(columns=80, lines=from_height)
    terminal.enter("hello")
    terminal.wait_for(lambda: _is_answering(terminal))
    for lines in (6, 14, 7, 24, 5, 12, 9, 20):
        terminal.resize(80, lines)
        before = len(terminal.everything)
        terminal.wait_for(lambda before=before: len(terminal.everything) > before + 60)
    terminal.interrupt()
    terminal.wait_for(r"\(stopped; /continue goes on\)")
    shown = terminal.everything.partition("> hello")[2].partition("(stopped")[0]
    terminal.enter("/exit")
    assert terminal.end() == 0
    (said,) = _answers(home)
    assert _letters(shown) == _letters(said)
    assert "Ctrl-C stops" not in terminal.everything


@needs_pty
@pytest.mark.real
def test_the_environment_does_not_say_how_high_the_window_is(slow_chat: Open) -> None:
    terminal = slow_chat(lines=20, env={"LINES": "10", "COLUMNS": "30"})
    terminal.enter("hello")
    terminal.wait_for(lambda: _is_answering(terminal))
    assert len(terminal.screen.display) == 20


@needs_pty
@pytest.mark.real
@pytest.mark.skipif(not shutil.which("bash"), reason="needs a shell with job control")
def test_a_stopped_answer_gives_the_terminal_back_and_takes_it_again(model: Path, home: Path, tmp_path: Path) -> None:
    program = native_faults.program("llama_decode", 0, SLOWLY, ["chat", model, "--temp", "0"])
    (tmp_path / "slow").write_text(f"exec {shlex.join(program)}\n")
    with Terminal(["--norc", "-i"], home=home, program=("bash",), cwd=tmp_path, lines=12, echo=True) as terminal:
        terminal.press("PS1='READY> '; stty -a > before; sh ./slow\r")
        terminal.wait_for(_PROMPT)
        terminal.enter("hello")
        terminal.wait_for(lambda: _is_answering(terminal))
        terminal.press("\x1a")
        terminal.wait_for("Stopped")
        terminal.press("stty -a > stopped; seq 1 30; echo all of it\r")
        terminal.wait_for(r"\nall of it")
        assert terminal.screen.margins is None  # the whole window scrolls
        assert "Ctrl-C stops" not in terminal.text
        terminal.press("fg\r")
        terminal.wait_for(lambda: _is_answering(terminal))
        terminal.press("not into the answer")
        terminal.wait_for(r"queued: not into the answer · ")
        terminal.interrupt()
        terminal.wait_for(r"\(stopped[\s\S]*> not into the answer")
        terminal.type("\x15")
        terminal.enter("/exit")
        terminal.wait_for(r"> /exit\n[\s\S]*READY> ?$")
        terminal.press("stty -a > after\r")
        terminal.press("exit\r")
        terminal.end()
    before = (tmp_path / "before").read_text()
    assert (tmp_path / "stopped").read_text() == before
    assert (tmp_path / "after").read_text() == before


@needs_pty
@pytest.mark.real
class TestKeys:
    def test_what_is_typed_ahead_is_shown_and_sent_when_the_answer_is_there(self, slow_chat: Open, home: Path) -> None:
        gate = home / "gate"
        terminal = slow_chat("-n", "20", gate=gate)
        terminal.enter("first")
        terminal.wait_for(lambda: _is_answering(terminal))
        terminal.press("secone\x7fd")
        terminal.wait_for(r"queued: second · tiny")
        terminal.press("\r")
        terminal.wait_for(r"queued: second ⏎ · tiny")
        terminal.press("/exit\r")
        gate.touch()
        assert terminal.end() == 0
        assert len(_answers(home)) == 2
        assert re.search(r"cut at the limit[\s\S]*> second\n[\s\S]*cut at the limit[\s\S]*> /exit", terminal.everything)

    def test_it_survives_ctrl_c_and_may_be_long(self, slow_chat: Open, home: Path) -> None:
        terminal = slow_chat()
        terminal.enter("first")
        terminal.wait_for(lambda: _is_answering(terminal))
        terminal.press("a word " * 1000 + "the end")  # a line of a terminal's driver holds 4,095 bytes
        terminal.wait_for("queued: ….*the end")
        terminal.interrupt()
        terminal.wait_for(r"\(stopped[\s\S]*> .*\[pasted text: ")
        terminal.enter("")
        terminal.wait_for(lambda: _is_answering(terminal))
        terminal.interrupt()
        terminal.wait_for_count(r"\(stopped", 2)
        terminal.enter("/exit")
        terminal.end()
        assert _said(home, "user")[1] == "a word " * 1000 + "the end"

    def test_a_queued_message_is_not_sent_when_the_answer_was_stopped(self, slow_chat: Open, home: Path) -> None:
        terminal = slow_chat()
        terminal.enter("first")
        terminal.wait_for(lambda: _is_answering(terminal))
        terminal.press("second\r")
        terminal.wait_for(r"queued: second ⏎")
        terminal.interrupt()
        terminal.wait_for(r"\(stopped[\s\S]*> second")
        terminal.type("\x15")
        terminal.enter("/exit")
        assert terminal.end() == 0
        assert _said(home, "user") == ["first"]

    def test_a_message_typed_while_slm_starts_is_sent(self, model: Path, home: Path) -> None:
        # -q: a start of Python and no fork, which is at the prompt as soon as the keys come
        started = (sys.executable, "-q", "-m", "slmchat")
        with Terminal(["chat", model, "-n", "4"], home=home, echo=True, program=started) as terminal:
            terminal.press("first\r")
            terminal.wait_for(r"> first\n[\s\S]*cut at the limit")
            terminal.enter("/exit")
            assert terminal.end() == 0
        assert _said(home, "user") == ["first"]

    def test_esc_stops_an_answer_and_keeps_what_came(self, slow_chat: Open, home: Path) -> None:
        terminal = slow_chat()
        terminal.enter("hello")
        terminal.wait_for(lambda: _is_answering(terminal))
        terminal.press("\x1b[Aa")  # an arrow begins with Esc, too
        terminal.wait_for("queued: a")
        terminal.press("\x1b")
        terminal.wait_for(r"\(stopped; /continue goes on\)")
        terminal.type("\x15")
        terminal.enter("/exit")
        assert terminal.end() == 0
        assert _answers(home)[0]


@needs_pty
@pytest.mark.real
class TestSignOfLife:
    """llama.cpp does not come back from the first tokens of the prompt."""

    @pytest.fixture
    def hanging(self, tmp_path: Path, model: Path) -> Callable[..., list[str]]:
        fault = native_faults.native(native_faults.library(tmp_path), "spin")
        return lambda *words: native_faults.program("llama_decode", 0, fault, words)

    def test_of_a_chat(self, hanging: Callable[..., list[str]], model: Path, home: Path) -> None:
        with Terminal([], home=home, program=hanging("chat", model)) as terminal:
            terminal.wait_for(_PROMPT)
            terminal.enter("What takes so long? " * 20)
            terminal.wait_for(r"tiny\.gguf · reading \d{3} tokens · Ctrl-C cancels")

    def test_of_a_chat_that_redraws_nothing(self, hanging: Callable[..., list[str]], model: Path, home: Path) -> None:
        with Terminal([], home=home, program=hanging("chat", model, "--plain")) as terminal:
            terminal.wait_for(_PROMPT)
            terminal.enter("What takes so long? " * 20)
            terminal.wait_for(r"\(reading \d{3} tokens\)")

    def test_of_a_chat_in_a_low_window(self, hanging: Callable[..., list[str]], model: Path, home: Path) -> None:
        with Terminal([], home=home, program=hanging("chat", model), lines=4) as terminal:
            terminal.wait_for(_PROMPT)
            terminal.enter("What takes so long?")
            terminal.wait_for(r"reading \d+ tokens · Ctrl-C cancels")

    def test_of_a_single_prompt(self, hanging: Callable[..., list[str]], model: Path, home: Path) -> None:
        with Terminal([], home=home, program=hanging("run", "-m", model, "What takes so long?")) as terminal:
            terminal.wait_for(r"reading \d+ tokens \(Ctrl-C cancels\)")


def test_the_time_left_is_told_from_what_was_read_between_two_records() -> None:
    now = 0.0
    progress = AnswerProgress(lambda: now)
    assert progress.reading() == "reading"
    progress.reads(Prefill(100, 2276, 100, live=lambda: 100 + 1088))
    assert progress.reading() == "reading 2,176 tokens"
    now = 14.0
    assert progress.reading() == "reading 2,176 tokens, 14 s left"
    progress.came()
    assert (progress.n_used, progress.speed()) == (2277, "")
    now = 15.0
    progress.came()
    progress.came()
    assert (progress.n_used, progress.speed()) == (2279, "2 tok/s")


class TestTypedAhead:
    def test_enter_ends_a_message_and_lines_of_a_paste_do_not(self) -> None:
        typed = TypedAhead()
        for at, data in enumerate(
            (b"one", b"\r", b"two\r", PASTE_BEGINS + b"a\rb\r", b"c" + PASTE_ENDS, b"!\r", b"rest")
        ):
            typed.add(data, float(at))
        assert typed.shown == "one ⏎ two ⏎ a b c! ⏎ rest"
        assert typed.take() == ("one", True)
        assert typed.take() == ("two", True)
        assert typed.take() == ("\x1b[200~a\rb\rc\x1b[201~!", True)
        assert typed.take() == ("rest", False)
        assert typed.take() == ("", False)

    def test_lines_that_come_at_once_are_a_paste(self) -> None:
        typed = TypedAhead()
        typed.add(b"one\r\ntwo\r\n", 1.0)
        typed.add(b"three\r", 1.01)
        typed.add(b"\r", 2.0)
        assert typed.take() == ("\x1b[200~one\r\ntwo\r\nthree\r\x1b[201~", True)

    def test_nothing_is_sent_of_what_is_taken_as_one_text(self) -> None:
        typed = TypedAhead()
        typed.add(b"one\r", 1.0)
        typed.add(b"two", 2.0)
        assert typed.take_all() == "one\ntwo"
        assert typed.take() == ("", False)
