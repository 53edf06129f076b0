"""How a generation looks: plain for pipes and screen readers, Markdown with a status line for a chat.

Knows: which stream carries what (the answer stdout, everything else stderr or the status line), dim thinking.
Refuses to know: models and conversations, where a status line lies (answer_screen.py), what it says of a prompt
(answer_progress.py).
"""

from typing import TYPE_CHECKING

from slmchat.engine.api import Prefill
from slmchat.terminal.answer_progress import AnswerProgress
from slmchat.terminal.answer_screen import AnswerScreen
from slmchat.terminal.console import Console
from slmchat.terminal.doubt import style_of
from slmchat.terminal.screen import DIM, ControlSequences
from slmchat.terminal.ticker import Ticker
from slmchat.wording import counted

if TYPE_CHECKING:
    from slmchat.terminal.markdown import MarkdownStream

# Between two drawings of the status line, in seconds.
_PERIOD_S = 0.25


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
        self._progress = AnswerProgress()
        self._has_begun = False  # something of it is on the screen, so that no line can be redrawn there
        self._is_thinking = False
        self._ticker = Ticker(lambda: console.gate.run(self._tell), _PERIOD_S) if console.has_status_line else None

    def prefill(self, event: Prefill) -> None:
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
        elif self._is_raw:
            self._console.send(ControlSequences(text))
        else:
            self._console.write(text, style_of(self._doubt) if self._shows_doubt else None)
        self._doubt = 0.0

    def logprob(self, logprob: float) -> None:
        self._doubt = min(self._doubt, logprob)

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


class ChatView:
    """The answer as Markdown (or plain), and dim thinking that can be folded."""

    def __init__(
        self,
        console: Console,
        *,
        is_plain: bool,
        shows_thinking: bool,
        progress: AnswerProgress,
        screen: AnswerScreen,
        shows_doubt: bool = False,
        is_raw: bool = False,
    ) -> None:
        """`progress` is told what comes; `screen`: whose line says so meanwhile.

        `shows_doubt`: unsure tokens are underlined; the answer is then the plain text, not Markdown.
        `is_raw`: where it is plain, the user wants the terminal to obey the model.
        """
        self._console = console
        self._progress = progress
        self._screen = screen
        self._is_plain = is_plain
        self._is_raw = is_raw
        self._shows_doubt = shows_doubt
        self._doubt = 0.0
        self._shows_thinking = shows_thinking
        self._stage = "waiting"  # then "thinking", "answer"
        self._ends_line = True
        self._dim = DIM if console.has_color else None
        self._markdown = self._new_markdown()

    def prefill(self, event: Prefill) -> None:
        self._progress.reads(event)

    def thinking(self, text: str) -> None:
        self._begin()
        if self._shows_thinking:
            self._console.write(text, self._dim)
        elif self._stage == "waiting":
            self._console.write("(thinking; /think show)", self._dim)
        self._stage = "thinking"

    def answer(self, text: str) -> None:
        self._begin()
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

    def _begin(self) -> None:
        self._progress.came()
        self._screen.begins()

    def _new_markdown(self) -> "MarkdownStream | None":
        if self._is_plain or self._shows_doubt or self._console.is_dumb or not self._console.is_stdout_tty:
            return None
        from slmchat.terminal.markdown import MarkdownStream

        return MarkdownStream(
            self._console.send, width=lambda: self._console.size[0], has_color=self._console.has_color
        )
