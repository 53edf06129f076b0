"""An answer for people who hear it: whole sentences, one after the other, and lines that say what comes.

A screen reader reads what is written, when it is written. Single tokens, colours and lines that change are noise.

Knows: where a sentence ends. Refuses to know: who reads it out.
"""

import re
import time

from slmchat.engine.results import Prefill
from slmchat.terminal.answer_progress import AnswerProgress
from slmchat.terminal.answer_screen import AnswerScreen
from slmchat.terminal.console import Console
from slmchat.wording import counted

THINKING, ANSWER, END = "(thinking)", "(answer)", "(end)"

# Between two lines that say how far a folded thought is, in seconds.
_TELL_S = 10.0

# A sentence ends at a line end, or at its mark and what closes behind it, when a space follows. CJK needs none.
_SENTENCE = re.compile(r"[^\n]*?(?:\n|[.!?…]+[\"'”’)\]]*(?=[ \t])|[。！？]+)")


class SentenceView:
    """Implements `StreamHandler`."""

    def __init__(
        self, console: Console, *, shows_thinking: bool, progress: AnswerProgress, screen: AnswerScreen
    ) -> None:
        self._console = console
        self._shows_thinking = shows_thinking
        self._progress = progress
        self._screen = screen
        self._part = ""  # the line that said what comes
        self._told_at = 0.0
        self._waiting = ""
        self._ends_line = True

    def prefill(self, event: Prefill) -> None:
        self._progress.reads(event)

    def logprob(self, logprob: float) -> None:
        """Nothing of it can be heard."""

    def thinking(self, text: str) -> None:
        self._begin(THINKING)
        if self._shows_thinking:
            self._say(text)
        elif time.monotonic() - self._told_at >= _TELL_S:  # silence would be taken for the end
            self._told_at = time.monotonic()
            self._console.note(f"(still thinking: {counted(self._progress.n_tokens, 'token')})")

    def answer(self, text: str) -> None:
        self._begin(ANSWER)
        self._say(text)

    def close(self) -> None:
        if self._part:
            self._finish()
            self._console.write(f"{END}\n")

    def _begin(self, part: str) -> None:
        self._progress.came()
        self._screen.begins()
        if part != self._part:
            self._finish()
            self._part, self._told_at = part, time.monotonic()
            self._console.write(f"{part}\n")

    def _say(self, text: str) -> None:
        self._waiting += text
        end = 0
        for sentence in _SENTENCE.finditer(self._waiting):
            end = sentence.end()
        if end:
            self._write(self._waiting[:end])
            self._waiting = self._waiting[end:]

    def _finish(self) -> None:
        """What waits, whole or not, and the end of its line."""
        self._write(self._waiting)
        self._waiting = ""
        if not self._ends_line:
            self._write("\n")

    def _write(self, text: str) -> None:
        if text:
            self._ends_line = text.endswith("\n")
            self._console.write(text)
