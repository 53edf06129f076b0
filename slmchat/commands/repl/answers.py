"""How the answers of a chat are shown, and what is asked while they are made.

Knows: which view an answer has, the terminal from Enter to the next prompt, the questions about a full window, how an
answer has ended. Refuses to know: the loop and the commands (app.py), how an answer is made (chat_session.py).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from slmchat.conversation import window
from slmchat.engine.cancellable import Cancellable
from slmchat.engine.results import FinishReason
from slmchat.errors import ExitCode, SlmError
from slmchat.generation.chat_session import Overflow
from slmchat.generation.response import Response, StreamHandler, describe, silence
from slmchat.options import GenerationOptions
from slmchat.terminal.answer_progress import AnswerProgress
from slmchat.terminal.answer_screen import AnswerScreen
from slmchat.terminal.answer_view import ChatView
from slmchat.terminal.console import Console
from slmchat.terminal.interrupts import cancelled_by_ctrl_c
from slmchat.terminal.sentence_view import SentenceView
from slmchat.terminal.typed_ahead import TypedAhead

# What helps when all of an answer was thought.
_THOUGHT_HELP = ", /think N limits the thought, /think off leaves it out"
# An answer that takes so long is not watched, in seconds.
_LONG_S = 10.0


class AnswerDisplay:
    """Implements `ChatDelegate`."""

    def __init__(
        self,
        console: Console,
        typed: TypedAhead,
        options: GenerationOptions,
        *,
        has_bell: bool,
        line: Callable[[AnswerProgress], str],
        ask: Callable[[str, Sequence[tuple[str, str]]], str | None],
        is_saved: Callable[[str], bool],
    ) -> None:
        """`line`: what is said of an answer while it is made, asked from another thread. `ask` puts a question of one
        key. `is_saved`: as `ChatDelegate` has it."""
        self._console = console
        self._ask = ask
        self._is_raw = options.raw_output
        self._overflow = options.on_overflow
        self._has_bell = has_bell
        self._progress = AnswerProgress()
        self._goes_on = False  # what is shown is the rest of an answer
        self.is_saved = is_saved
        self.is_plain = console.is_dumb or not console.has_color
        self.shows_thinking = True
        self.shows_doubt = False
        self._screen = AnswerScreen(console, typed, lambda: line(self._progress), is_redrawn=not self.is_plain)

    # The terminal while an answer is made

    @contextmanager
    def held(self) -> Iterator[None]:
        """From Enter to the next prompt: the terminal says what is being done, and keeps what is typed."""
        self._progress = AnswerProgress()
        with self._screen.held():
            yield

    @contextmanager
    def cancellable(self, session: Cancellable) -> Iterator[None]:
        """While this lasts, Ctrl-C cancels this."""
        with cancelled_by_ctrl_c(session), self._screen.held():
            yield

    def ask(self, question: str, choices: Sequence[tuple[str, str]]) -> str | None:
        """The key of one of the choices (key, what it does), None for none of them."""
        with self._screen.released():
            return self._ask(question, choices)

    # What is shown

    def handler(self, behind: str = "") -> StreamHandler:
        self._progress = AnswerProgress()
        self._goes_on = bool(behind)
        if self._console.is_accessible and not self._is_raw:
            return SentenceView(
                self._console, shows_thinking=self.shows_thinking, progress=self._progress, screen=self._screen
            )
        return ChatView(
            self._console,
            is_plain=self.is_plain,
            shows_thinking=self.shows_thinking,
            progress=self._progress,
            screen=self._screen,
            shows_doubt=self.shows_doubt,
            is_raw=self._is_raw,
            behind=behind,
        )

    def reading(self) -> StreamHandler:
        """What shows that a prompt is read, and nothing of what is generated."""
        from slmchat.retrieval.steps import ReadingHandler  # asked for documents alone

        self._progress = AnswerProgress()
        return ReadingHandler(self._progress.reads)

    def tell_end(self, answer: Response, n_ctx: int) -> None:
        """Say how an answer ended, when the user should know. `n_ctx`: tokens of the window, 0: not known."""
        assert answer.finish is not None
        reason, usage = answer.finish.reason, answer.finish.usage
        size = f" of {n_ctx:,} tokens" if n_ctx else ""
        reasons = {
            FinishReason.LENGTH: "cut at the limit of tokens; /continue goes on",
            FinishReason.CONTEXT: f"the context window{size} is full; /continue makes room",
            FinishReason.REPETITION: "ended, since it went round in circles; /retry asks again, /continue goes on",
            FinishReason.INTERRUPTED: "stopped; /continue goes on",
        }
        empty = silence(answer, usage, reason)
        if self._goes_on and not answer.text and reason is FinishReason.STOP:
            self._console.note("(nothing more came: the model ended the answer here)")
        elif empty:
            self._console.note(f"({empty}; /retry asks again{_THOUGHT_HELP if answer.thinking else ''})")
        elif not answer.text:
            self._console.note("(stopped before the answer; /retry asks again)")
        elif reason in reasons:
            self._console.note(f"({reasons[reason]})")
        if self._console.is_verbose:
            self._console.note(describe(reason, usage, answer.finish.timings))
        if self._has_bell and (self._console.is_accessible or self._progress.elapsed() >= _LONG_S):
            self._console.ring()
        if not self._console.is_accessible:
            self._console.note("")

    # What is asked

    def on_overflow(self, overflow: Overflow) -> str:
        what = "The conversation with this message is" if overflow.can_begin_afresh else "The conversation is"
        numbers = f"{window.overflow(what, overflow.n_prompt, overflow.n_ctx, about=overflow.about)}."
        if self._overflow == "trim":
            self._console.note(numbers)
            return "drop"
        if self._overflow == "fail":
            raise SlmError(numbers, hint="/clear starts afresh; /set ctx N makes it larger", exit_code=ExitCode.CONTEXT)
        choices = [("d", "drop the oldest exchanges (the model forgets them, you keep them; /compact undo goes back)")]
        if overflow.can_summarise:
            choices.append(("s", "summarise them with the model; you see the summary before it stands for them"))
        if overflow.can_begin_afresh:
            choices.append(("f", "start a fresh conversation with this message"))
        choices.append(("c", "cancel"))
        answer = self.ask(numbers, choices)
        return {"d": "drop", "s": "summarise", "f": "fresh"}.get(answer or "c", "cancel")

    def on_summary(self, summary: str) -> str:
        choices = [
            ("y", "let it stand for what was said before (/compact undo goes back)"),
            ("d", "drop what was said before, without the summary"),
            ("c", "cancel"),
        ]
        answer = self.ask("The summary is above.", choices)
        return {"y": "keep", "d": "drop"}.get(answer or "c", "cancel")
