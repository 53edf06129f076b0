"""How a generation looks: plain for pipes and screen readers, Markdown with a status line for a chat.

Knows: which stream carries what (the answer stdout, everything else stderr or the status line), dim thinking, percent
and time left of a long prompt. Refuses to know: models and conversations.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from slmchat.engine.api import Prefill
from slmchat.terminal.console import Console
from slmchat.terminal.doubt import style_of
from slmchat.terminal.screen import DIM, ControlSequences
from slmchat.terminal.status_bar import StatusBar
from slmchat.wording import counted

if TYPE_CHECKING:
    from slmchat.terminal.markdown import MarkdownStream

# A prefill shorter than this is not worth a line, in seconds.
_QUIET_PREFILL_S = 0.5
# Between two lines of progress where no line can be rewritten, in seconds.
_TELL_S = 5.0
# Between two counts of an answer that is not shown while it comes, in seconds.
_COUNT_S = 0.25


class PrefillProgress:
    """Percent, tokens per second and time left of a prompt that takes a while."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def line(self, event: Prefill) -> str | None:
        """What to show now; None while it is not worth showing."""
        elapsed = time.perf_counter() - self._start
        evaluated = event.done - event.cached
        if event.done >= event.total or not evaluated or elapsed < _QUIET_PREFILL_S:
            return None
        rate = evaluated / elapsed
        left = (event.total - event.done) / rate
        return (
            f"reading the prompt: {100 * event.done // event.total} % of {event.total:,} tokens, "
            f"{rate:,.0f} tokens/s, {left:,.0f} s left (Ctrl-C cancels)"
        )


class PlainView:
    """The answer as it comes on stdout; thinking and progress on stderr (progress only on a terminal)."""

    def __init__(
        self, console: Console, *, is_silent: bool = False, shows_doubt: bool = False, is_raw: bool = False
    ) -> None:
        """`is_silent`: nothing of the answer is written, a terminal sees how long it is by now; `shows_doubt`: unsure
        tokens are underlined; `is_raw`: the user wants the terminal to obey the model."""
        self._console = console
        self._is_raw = is_raw
        self._is_silent = is_silent
        self._shows_doubt = shows_doubt
        self._doubt = 0.0
        self._n_pieces = 0
        self._told_at = 0.0
        self._progress = PrefillProgress()
        self._has_status = False
        self._is_thinking = False

    def prefill(self, event: Prefill) -> None:
        line = self._progress.line(event)
        if line:
            self._has_status = True
            self._console.status(line)

    def thinking(self, text: str) -> None:
        self._clear_status()
        self._is_thinking = True
        self._console.aside(text)

    def answer(self, text: str) -> None:
        if self._is_thinking or not self._is_silent:
            self._clear_status()
        if self._is_thinking:
            self._is_thinking = False
            self._console.aside("\n")
        if self._is_silent:
            self._count()
        elif self._is_raw:
            self._console.send(ControlSequences(text))
        else:
            self._console.write(text, style_of(self._doubt) if self._shows_doubt else None)
        self._doubt = 0.0

    def logprob(self, logprob: float) -> None:
        self._doubt = min(self._doubt, logprob)

    def close(self) -> None:
        self._clear_status()

    def _count(self) -> None:
        self._n_pieces += 1
        now = time.perf_counter()
        if now - self._told_at >= _COUNT_S:
            self._told_at = now
            self._has_status = True
            self._console.status(f"answering: {counted(self._n_pieces, 'token')} (Ctrl-C stops)")

    def _clear_status(self) -> None:
        if self._has_status:
            self._console.status("")
            self._has_status = False


class ChatView:
    """The answer as Markdown (or plain), dim thinking that can be folded, a status line with live tokens per second."""

    def __init__(
        self,
        console: Console,
        *,
        is_plain: bool,
        shows_thinking: bool,
        status: Callable[[], str],
        shows_doubt: bool = False,
        is_raw: bool = False,
    ) -> None:
        """`status` is what the line says before the speed: model, tokens of the window.

        `shows_doubt`: unsure tokens are underlined; the answer is then the plain text, not Markdown.
        `is_raw`: where it is plain, the user wants the terminal to obey the model.
        """
        self._console = console
        self._is_plain = is_plain
        self._is_raw = is_raw
        self._shows_doubt = shows_doubt
        self._doubt = 0.0
        self._shows_thinking = shows_thinking
        self._status = status
        self._progress = PrefillProgress()
        self._first: float | None = None
        self._tokens = 0
        self._told_at = 0.0
        self._stage = "waiting"  # then "thinking", "answer"
        self._ends_line = True
        self._dim = DIM if console.has_color else None
        self._markdown = self._new_markdown()
        self._bar = StatusBar(
            console.send,
            is_enabled=console.is_stdout_tty and not console.is_dumb and not is_plain,
            has_color=console.has_color,
            size=lambda: console.size,
        )

    def prefill(self, event: Prefill) -> None:
        line = self._progress.line(event)
        if line and self._bar.is_enabled:
            self._bar.draw(line, is_now=True)
        elif line and time.perf_counter() - self._told_at > _TELL_S:  # a screen reader gets a line now and then
            self._told_at = time.perf_counter()
            self._console.note(line)

    def thinking(self, text: str) -> None:
        self._tick()
        if self._shows_thinking:
            self._console.write(text, self._dim)
        elif self._stage == "waiting":
            self._console.write("(thinking; /think show)", self._dim)
        self._stage = "thinking"

    def answer(self, text: str) -> None:
        self._tick()
        if self._stage == "thinking":
            self._console.write("\n\n")
        self._stage = "answer"
        self._ends_line = text.endswith("\n")
        if self._markdown is not None:
            self._markdown.feed(text)
        elif self._is_raw:
            self._console.send(ControlSequences(text))
        else:
            self._console.write(text, style_of(self._doubt) if self._shows_doubt else None)
            self._doubt = 0.0

    def logprob(self, logprob: float) -> None:
        self._doubt = min(self._doubt, logprob)

    def close(self) -> None:
        if self._stage == "thinking":
            self._console.write("\n")
        elif self._stage == "answer" and self._markdown is not None:
            self._markdown.close()
        elif self._stage == "answer" and not self._ends_line:
            self._console.write("\n")
        self._bar.close()

    def _tick(self) -> None:
        now = time.perf_counter()
        if self._first is None:
            self._first = now
        self._tokens += 1
        elapsed = now - self._first
        rate = f" · {(self._tokens - 1) / elapsed:.1f} tokens/s" if elapsed > 0.3 else ""
        self._bar.draw(f"{self._status()} · {self._tokens:,} tokens{rate} (Ctrl-C stops)")

    def _new_markdown(self) -> "MarkdownStream | None":
        if self._is_plain or self._shows_doubt or self._console.is_dumb or not self._console.is_stdout_tty:
            return None
        from slmchat.terminal.markdown import MarkdownStream

        return MarkdownStream(
            self._console.send, width=lambda: self._console.size[0], has_color=self._console.has_color
        )
