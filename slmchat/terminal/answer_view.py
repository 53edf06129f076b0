"""How an answer looks in a chat: as Markdown with a status line.

Knows: dim thinking, what is drawn of an answer while it comes. One that is plain text: plain_view.py.
Refuses to know: models and conversations, where a status line lies (answer_screen.py), what it says of a prompt
(answer_progress.py).
"""

from typing import TYPE_CHECKING

from slmchat.terminal.answer_progress import AnswerProgress, ReadPrompt
from slmchat.terminal.answer_screen import AnswerScreen
from slmchat.terminal.console import Console
from slmchat.terminal.doubt import AnswerText
from slmchat.terminal.screen import DIM

if TYPE_CHECKING:
    from slmchat.terminal.markdown import MarkdownStream


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
        behind: str = "",
    ) -> None:
        """`progress` is told what comes; `screen`: whose line says so meanwhile.

        `shows_doubt`: unsure tokens are underlined; the answer is then the plain text, not Markdown.
        `is_raw`: where it is plain, the user wants the terminal to obey the model. `behind`: what the screen has of
        this answer already.
        """
        self._console = console
        self._progress = progress
        self._screen = screen
        self._is_plain = is_plain
        self._shows_doubt = shows_doubt
        self._text = AnswerText(console, shows_doubt=shows_doubt, is_raw=is_raw)
        self._shows_thinking = shows_thinking
        self._stage = "waiting"  # then "thinking", "answer"
        self._ends_line = True
        self._dim = DIM if console.has_color else None
        self._markdown = self._new_markdown()
        if self._markdown is not None and behind:
            self._markdown.goes_on_behind(behind)

    def prefill(self, event: ReadPrompt) -> None:
        self._progress.reads(event)

    def thinking(self, text: str) -> None:
        self._progress.came()
        if self._shows_thinking:
            self._screen.begins()
            self._console.write(text, self._dim)
        elif self._stage == "waiting":  # the screen goes on saying how far it is: nothing else would
            self._console.write("(thinking; /think show)\n", self._dim)
        self._stage = "thinking"

    def answer(self, text: str) -> None:
        self._progress.came()
        self._screen.begins()
        if self._stage == "thinking":
            self._console.write("\n\n" if self._shows_thinking else "\n")
        self._stage = "answer"
        self._ends_line = text.endswith("\n")
        if self._markdown is not None:
            self._markdown.feed(text)
        else:
            self._text.write(text)

    def logprob(self, logprob: float) -> None:
        self._text.logprob(logprob)

    def close(self) -> None:
        if self._stage == "thinking" and self._shows_thinking:
            self._console.write("\n")
        elif self._stage == "answer" and self._markdown is not None:
            self._markdown.close()
        elif self._stage == "answer" and not self._ends_line:
            self._console.write("\n")

    def _new_markdown(self) -> "MarkdownStream | None":
        if self._is_plain or self._shows_doubt or self._console.is_dumb or not self._console.is_stdout_tty:
            return None
        from slmchat.terminal.markdown import MarkdownStream

        return MarkdownStream(
            self._console.send, width=lambda: self._console.size[0], has_color=self._console.has_color
        )
