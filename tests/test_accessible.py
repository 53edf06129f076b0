"""A chat for people who do not see the screen: plain lines, whole sentences, and no place is ever written twice."""

import io
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyte
import pytest
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama
from terminal import Terminal

from slmchat.engine.results import Prefill
from slmchat.terminal.answer_progress import AnswerProgress
from slmchat.terminal.answer_screen import AnswerScreen
from slmchat.terminal.console import Console
from slmchat.terminal.plain_view import PlainView
from slmchat.terminal.sentence_view import SentenceView
from slmchat.terminal.typed_ahead import TypedAhead


class _Once(pyte.Screen):  # type: ignore[misc]
    """A screen that remembers every place of the text that was written, however far it has scrolled."""

    def __init__(self, columns: int, lines: int) -> None:
        self.places: list[tuple[int, int]] = []
        self._scrolled = 0
        super().__init__(columns, lines)

    def draw(self, data: str) -> None:
        for char in data:
            if self.cursor.x == self.columns:
                super().draw(char)
                self.places.append((self._scrolled + self.cursor.y, 0))
            else:
                self.places.append((self._scrolled + self.cursor.y, self.cursor.x))
                super().draw(char)

    def index(self) -> None:
        self._scrolled += self.cursor.y == self.lines - 1
        super().index()


@pytest.mark.real
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("way", ["--plain", "SLM_ACCESSIBLE"])
def test_nothing_is_written_twice(home: Path, tmp_path: Path, way: str) -> None:
    model = write_tiny_llama(tmp_path / "tiny.gguf", chat_template=CHATML_TEMPLATE, context_length=2048)
    options, env = (["--plain"], {}) if way == "--plain" else ([], {"SLM_ACCESSIBLE": "1"})
    terminal = Terminal(
        ["chat", model, "-n", "30", "--temp", "0", "--bell", *options],
        home=home,
        env=env,
        echo=True,
        columns=60,
        lines=9,
    )
    with terminal:
        for number, typed in enumerate(("What is a river?", "/set temp 0.1", "/retry", "/sessions", "/context"), 1):
            terminal.wait_for(lambda number=number: len(re.findall(r"^\a?> ", terminal.raw, re.M)) >= number)
            terminal.press(typed + "\r")
        terminal.wait_for(r"the chat template's own marks")
        terminal.press("/exit\r")
        assert terminal.end() == 0
    assert "\x1b" not in terminal.raw and "\b" not in terminal.raw
    assert not re.search(r"\r(?!\n)", terminal.raw)
    assert terminal.raw.count("\a") == 2  # an answer and a retry
    assert re.search(
        r"> What is a river\?\r\n(\(reading[^\n]*\n)?\(answer\)\r\n[^\n]+\r\n\(end\)\r\n\(cut", terminal.raw
    )
    screen = _Once(60, 9)
    pyte.Stream(screen).feed(terminal.raw)
    assert len(screen.places) == len(set(screen.places)) > 500


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_takes_long_is_said_in_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A download or a long prompt must not be silence; nor a line for each number."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    console = Console(io.StringIO(), io.StringIO(), _Terminal(), {})
    console.is_accessible = True
    with console.progress("model.gguf") as progress:
        for second in range(25):
            now = float(second)
            progress(second * 10_000_000, 250_000_000)
    console.status("loading")
    console.status("loading")
    console.status("")
    assert console.stderr.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "(model.gguf: 0 bytes of 250.0 MB)",
        "(model.gguf: 100.0 MB of 250.0 MB)",
        "(model.gguf: 200.0 MB of 250.0 MB)",
        "(loading)",
    ]


def test_a_prompt_that_is_read_for_long_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: list[Callable[[], None]] = []

    class ByHand:
        """A ticker whose time comes when the test says so."""

        def __init__(self, tick: Callable[[], None], period_s: float) -> None:
            ticks.append(tick)

        def stop(self) -> None:
            ticks.clear()

    monkeypatch.setattr("slmchat.terminal.plain_view.Ticker", ByHand)
    console = Console(io.StringIO(), io.StringIO(), _Terminal(), {})
    console.is_accessible = True
    view = PlainView(console)
    view.prefill(Prefill(0, 2_176, 0))
    (tick,) = ticks
    tick()
    view.answer("Yes.")
    view.close()
    assert re.fullmatch(r"\(reading 2,176 tokens.*\)\n", console.stderr.getvalue())  # type: ignore[attr-defined]
    assert console.stdout.getvalue() == "Yes."  # type: ignore[attr-defined]


def test_a_folded_thought_is_not_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    console = Console(io.StringIO(), io.StringIO(), io.StringIO(), {})
    screen = AnswerScreen(console, TypedAhead(), lambda: "", is_redrawn=False)
    view = SentenceView(console, shows_thinking=False, progress=AnswerProgress(), screen=screen)
    for _ in range(25):
        now += 1.0
        view.thinking("Hm")
    assert console.stderr.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "(still thinking: 11 tokens)",
        "(still thinking: 21 tokens)",
    ]


def test_an_answer_comes_in_sentences_with_its_parts_named() -> None:
    class Written(io.StringIO):
        def __init__(self) -> None:
            super().__init__()
            self.parts: list[str] = []

        def write(self, text: str) -> int:
            self.parts.append(text)
            return super().write(text)

    out = Written()
    console = Console(io.StringIO(), out, io.StringIO(), {})
    screen = AnswerScreen(console, TypedAhead(), lambda: "", is_redrawn=False)
    view = SentenceView(console, shows_thinking=True, progress=AnswerProgress(), screen=screen)
    view.thinking("Hm, ")
    view.thinking("a question")
    for piece in ("It ", "is 3", ".5 km. Or", " not! Yes", " (really).", " So\nit", " is"):
        view.answer(piece)
    view.close()
    said = "".join(out.parts)
    assert said == "(thinking)\nHm, a question\n(answer)\nIt is 3.5 km. Or not! Yes (really). So\nit is\n(end)\n"
    console = Console(io.StringIO(), out := Written(), io.StringIO(), {})
    out.isatty = lambda: True  # type: ignore[method-assign]
    console = Console(io.StringIO(), out, io.StringIO(), {})
    view = SentenceView(console, shows_thinking=False, progress=AnswerProgress(), screen=screen)
    view.thinking("Hm")
    for piece in ("It ", "is.", " Or", " not"):
        view.answer(piece)
    view.close()
    assert out.parts == ["(thinking)\n", "(answer)\n", "It is.", " Or not", "\n", "(end)\n"]
