"""How an answer looks that is plain text, for pipes and scripts.

Knows: which stream carries what (the answer stdout, everything else stderr or the status line).
Refuses to know: models and conversations, what is said of a prompt (answer_progress.py).
"""

from slmchat.terminal.answer_progress import AnswerProgress, ReadPrompt
from slmchat.terminal.console import Console
from slmchat.terminal.doubt import AnswerText
from slmchat.terminal.ticker import Ticker
from slmchat.wording import counted

# Between two drawings of the status line, in seconds; and between two looks whether there is something to say.
_PERIOD_S = 0.25
_SAYING_PERIOD_S = 1.0


class PlainView:
    """The answer as it comes on stdout; thinking and progress on stderr (progress only on a terminal)."""

    def __init__(
        self, console: Console, *, is_silent: bool = False, shows_doubt: bool = False, is_raw: bool = False
    ) -> None:
        """`is_silent`: nothing of the answer is written, a terminal sees how long it is by now; `shows_doubt`: unsure
        tokens are underlined; `is_raw`: the user wants the terminal to obey the model."""
        self._console = console
        self._is_silent = is_silent
        self._text = AnswerText(console, shows_doubt=shows_doubt, is_raw=is_raw)
        self._progress = AnswerProgress()
        self._has_begun = False  # something of it is on the screen, so that no line can be redrawn there
        self._is_thinking = False
        period_s = _PERIOD_S if console.has_status_line else _SAYING_PERIOD_S
        is_told = console.has_status_line or console.says_status
        self._ticker = Ticker(lambda: console.gate.run(self._tell), period_s) if is_told else None

    def prefill(self, event: ReadPrompt) -> None:
        self._progress.reads(event)

    def thinking(self, text: str) -> None:
        self._begin()
        self._progress.came()
        self._is_thinking = True
        self._console.aside(text)

    def answer(self, text: str) -> None:
        self._progress.came()
        if self._is_thinking or not self._is_silent:
            self._begin()
        if self._is_thinking:
            self._is_thinking = False
            self._console.aside("\n")
        if self._is_silent:
            self._has_begun = False
        else:
            self._text.write(text)

    def logprob(self, logprob: float) -> None:
        self._text.logprob(logprob)

    def close(self) -> None:
        if self._ticker is not None:
            self._ticker.stop()
        self._begin()

    def _begin(self) -> None:
        """From here on the place where the status line stood is the text's."""
        if not self._has_begun and self._ticker is not None:
            self._console.gate.run(self._clear)
        self._has_begun = True

    def _clear(self) -> None:
        self._has_begun = True
        self._console.status("")

    def _tell(self) -> None:
        if self._has_begun:
            return
        if self._progress.is_answering:
            self._console.status(f"answering: {counted(self._progress.n_tokens, 'token')} (Ctrl-C stops)")
        else:
            self._console.status(f"{self._progress.reading()} (Ctrl-C cancels)")
