"""A conversation with a model, exchange by exchange.

Knows: one exchange from question to answer, what happens when the window is full.
Refuses to know: what the model sees and when it is loaded (chat_model.py); keys, commands and the loop
(commands/repl/app.py); what must be shown or asked goes through a `ChatDelegate`.

Nothing said is lost: a question is in the tree (and so in the archive) before the model sees it, the answer grows there
as it comes, and an error or Ctrl-C leaves everything in place.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

from slmchat.conversation import window
from slmchat.conversation.attachments import Attachment, compose
from slmchat.conversation.messages import Conversation, Message, Role, alternating
from slmchat.engine.cancellable import Cancellable
from slmchat.engine.requests import Limits, Prompt
from slmchat.engine.results import Event, Finish, FinishReason
from slmchat.engine.thinking import Thinking, ThinkingMode
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.generation.chat_model import ChatModel
from slmchat.generation.prompt import begins_thought
from slmchat.generation.response import Response, StreamHandler, consume_stream
from slmchat.generation.streaming_message import StreamingMessage
from slmchat.lazy_dataclasses import dataclass
from slmchat.models.open import OpenModel
from slmchat.options import GenerationOptions
from slmchat.sanitize import Sanitizer
from slmchat.wording import counted

# Tokens that a summary of what was said before may take: at most so many, and this share of the window.
_SUMMARY_TOKENS, _SUMMARY_SHARE = 256, 0.25
_SUMMARY_REQUEST = (
    "Summarise our conversation so far in a few short sentences. Keep names, numbers and decisions. "
    "Write only the summary."
)


@dataclass(frozen=True, slots=True)
class Overflow:
    """A prompt that does not fit: its tokens and those of the context window.

    `can_summarise`: a summary would leave room for the rest. `can_begin_afresh`: what is asked for is a message, which
    may stand in another conversation, and not the rest of an answer. `about`: "about " where the tokens are a guess.
    """

    n_prompt: int
    n_ctx: int
    can_summarise: bool = True
    can_begin_afresh: bool = True
    about: str = ""


class ChatDelegate(Protocol):
    """The door around a chat session: what shows an answer, and what asks the user."""

    def handler(self, behind: str = "") -> StreamHandler:
        """What gets the events of one generation. `behind`: the text of the answer that goes on."""
        ...

    def on_overflow(self, overflow: Overflow) -> str:
        """What to do: "drop" the oldest exchanges, "summarise" them, start "fresh", or "cancel"."""
        ...

    def on_summary(self, summary: str) -> str:
        """A summary is to stand for the oldest exchanges: "keep" it, "drop" them without one, or "cancel"."""
        ...

    def cancellable(self, session: Cancellable) -> AbstractContextManager[None]:
        """While this lasts, Ctrl-C cancels the generation."""
        ...

    def is_saved(self, id: str) -> bool:
        """Whether the conversation with this id is on the disk; only then its KV state may be, too."""
        ...


class ChatSession(ChatModel):
    """The state of one chat."""

    def __init__(
        self, opened: OpenModel, conversation: Conversation, options: GenerationOptions, delegate: ChatDelegate
    ) -> None:
        """`options` as in `ChatModel`."""
        self.attachments: list[Attachment] = []
        self._delegate = delegate
        super().__init__(opened, conversation, options, delegate.is_saved)

    def _begin(self, opened: OpenModel) -> None:
        super()._begin(opened)
        self.last: Finish | None = None
        self._has_told_of_mending = False

    # Exchanges

    def send(self, text: str) -> Response | None:
        """A new user message and its answer.

        None when it was cancelled before anything came of it: then the question has left the current path (it stays
        in the tree), as it has when `SlmError` is raised.
        """
        if self.pictures:
            self.model.check_vision(self.opened.settings)
        self._leave_question()
        # before the model is waited for: what ends slm while it loads must not take the message along
        self.conversation.add(Message(Role.USER, compose(text, self.attachments), pictures=tuple(self.pictures)))
        try:
            answer = self.answer()
        finally:
            self._leave_question()
        if answer is not None:
            self.attachments, self.pictures = [], []
        return answer

    def _leave_question(self) -> None:
        """A question without an answer leaves the path (it stays in the tree): the next one stands in its place."""
        end = self.conversation.current
        if end is not None and end.message.role is Role.USER:
            self.conversation.go_to(end.parent)

    def answer(self) -> Response | None:
        """An answer to the question at the end of the path, as a new child of it; None when cancelled.

        It may have moved to a conversation of its own by then. When nothing comes of it, all is as it was.
        """
        before, question = self.conversation, self.conversation.current
        answer = None
        try:
            answer = self._answer()
        finally:
            if answer is None and self.conversation is not before:
                self.conversation = before
                before.go_to(question)
        return answer

    def _answer(self) -> Response | None:
        self.ready()
        if not self._make_room():
            return None
        question = self.conversation.current
        sampler = self.sampler
        if sampler.seed is not None and question is not None:  # a retry with a fixed seed is another answer
            sampler = replace(sampler, seed=(sampler.seed + len(question.children)) % 2**32)
        said = self.messages()
        if len(alternating(said)) < len(said) and not self._has_told_of_mending:
            self._has_told_of_mending = True
            self.reporter.note("(a question here has no answer: the model gets it together with the next one)")
        prompt = self._with_cache_hints(self.prompt(said))
        limits = self._limits(self.limits, self.thinking)
        growing = StreamingMessage(self.conversation, self.model.key)
        return self._follow(self._generate(prompt, sampler, limits), prompt, growing)

    def go_on(self) -> Response | None:
        """Let the last answer go on where it stopped; None when cancelled before anything came."""
        self.ready()
        node = self.conversation.current
        if node is None or node.message.role is not Role.ASSISTANT:
            raise usage_error("there is no answer to continue.")
        if not node.message.text:
            raise usage_error("the answer was cut before it began.", "/retry asks again")
        if not self._make_room(goes_on=True):
            return None
        prompt = self.prompt(self.messages(), goes_on=True)
        growing = StreamingMessage(self.conversation, self.model.key, node)
        return self._follow(self._generate(prompt, self.sampler, self.limits), prompt, growing, goes_on=True)

    def _follow(
        self, events: Iterator[Event], prompt: Prompt, growing: StreamingMessage, *, goes_on: bool = False
    ) -> Response | None:
        with self._delegate.cancellable(self.ready()):
            answer = consume_stream(
                events,
                self._delegate.handler(growing.begun),
                sanitizer=None if self.options.raw_output else Sanitizer(show_invisible=False),
                keeps_space=goes_on or self.options.raw,
                is_thinking=begins_thought(prompt) and not goes_on,
                on_growth=growing.grow,
            )
        assert answer.finish is not None
        self.last = answer.finish
        return answer if growing.complete(answer) else None

    # The window

    def _make_room(self, *, goes_on: bool = False) -> bool:
        """See that the conversation fits into the window, asking what to do when it does not; False: cancelled.

        Raises `SlmError` (CONTEXT) for a message that nothing makes room for.
        """
        n_ctx = self.ready().n_ctx
        messages = self.messages()
        n_prompt = self.count(messages, goes_on=goes_on, most=n_ctx)
        if window.fits(n_prompt, n_ctx):
            return True
        n_least = self._check_fits_alone(messages, n_ctx, goes_on=goes_on)
        can_summarise = window.fits(n_least + self._summary_room, n_ctx)
        overflow = Overflow(n_prompt, n_ctx, can_summarise, can_begin_afresh=not goes_on, about=self.about)
        choice = self._delegate.on_overflow(overflow)
        if choice == "cancel":
            return False
        if choice == "fresh":
            self._start_fresh()
            return True
        return self._shorten(is_summarising=choice == "summarise", goes_on=goes_on)

    def _check_fits_alone(self, messages: Sequence[Message], n_ctx: int, *, goes_on: bool) -> int:
        """Tokens of the last exchange without those before it. Raises `SlmError` (CONTEXT) when they are too many."""
        head = messages[: len(messages) - len(self.conversation.visible())]
        last = next(place for place, said in reversed(list(enumerate(messages))) if said.role is Role.USER)
        n_alone = self.count([*head, *messages[last:]], goes_on=goes_on, most=n_ctx)
        if window.fits(n_alone, n_ctx):
            return n_alone
        n_others = self.count([*head, Message(Role.USER, "")])
        n_room = max(0, n_ctx - n_others - window.least_room(None))
        what = "the answer with its question has" if goes_on else "this message has"
        raise SlmError(
            f"{what} {self.about}{counted(n_alone - n_others, 'token')}, and the context window of {n_ctx:,} "
            f"has room for {self.about}{n_room:,}.",
            hint="a larger window: /set ctx N" if goes_on else "shorten it; or a larger window: /set ctx N",
            exit_code=ExitCode.CONTEXT,
        )

    def _shorten(self, *, is_summarising: bool, goes_on: bool) -> bool:
        """Let the model see only the newest exchanges, and a summary of the others if asked for; False: cancelled."""
        visible = self.conversation.visible()
        messages = self.messages()
        room = self._summary_room if is_summarising else 0
        n_ctx = self.ready().n_ctx
        head = len(messages) - len(visible)

        def count(kept: Sequence[Message]) -> int:
            return self.count(kept, goes_on=goes_on, most=n_ctx) + room

        place = window.drop_oldest(messages, head, count, n_ctx)
        summary = self.conversation.summary
        if is_summarising:
            summary = self._summary(messages[: head + place], head)
            choice = self._delegate.on_summary(summary)
            if choice == "cancel":
                return False
            summary = summary if choice == "keep" else self.conversation.summary
        self.conversation.see_from(visible[place], summary)
        instead = "; a summary stands for them" if summary else ""
        of_all = counted(len(visible), "message")
        self.reporter.note(f"(the model no longer sees the oldest {place} of {of_all}{instead})")
        return True

    def compact(self) -> bool:
        """Let a summary stand for all but the last exchange; False: cancelled. Raises `SlmError` (USAGE)."""
        self.ready()
        visible, messages = self.conversation.visible(), self.messages()
        questions = [place for place, node in enumerate(visible) if node.message.role is Role.USER]
        if len(questions) < 2:
            raise usage_error("there is nothing to summarise before the last exchange.")
        place, head = questions[-1], len(messages) - len(visible)
        summary = self._summary(messages[: head + place], head)
        if self._delegate.on_summary(summary) != "keep":
            return False
        self.conversation.see_from(visible[place], summary)
        return True

    @property
    def _summary_room(self) -> int:
        n_ctx = self.n_ctx
        return min(_SUMMARY_TOKENS, int(_SUMMARY_SHARE * n_ctx)) if n_ctx else _SUMMARY_TOKENS

    def _summary(self, messages: Sequence[Message], head: int) -> str:
        """What was said before, in the model's own words; of more than fits, the newest part."""
        session, n_ctx = self.ready(), self.n_ctx
        request = Message(Role.USER, _SUMMARY_REQUEST)
        asked = [*messages, request]

        def count(kept: Sequence[Message]) -> int:
            return self.count(kept, most=n_ctx) + self._summary_room

        dropped = window.drop_oldest(asked, head, count, n_ctx)
        prompt = self._without_thought().render(alternating([*asked[:head], *asked[head + dropped :]]))
        limits = self._limits(
            Limits(self._summary_room), self.thinking if self.has_own_layout else Thinking(ThinkingMode.OFF, 0)
        )
        events = self._generate(prompt, replace(self.sampler, temperature=0.0), limits)
        self.reporter.note("(a summary of what was said before:)")
        with self._delegate.cancellable(session):
            answer = consume_stream(events, self._delegate.handler(), sanitizer=Sanitizer(show_invisible=False))
        if answer.finish is not None and answer.finish.reason is FinishReason.INTERRUPTED:
            raise SlmError("the summary was cancelled; nothing has changed.", exit_code=ExitCode.INTERRUPTED)
        return answer.text.strip()

    def _start_fresh(self) -> None:
        """The question moves to a conversation of its own; the old one stays as it was."""
        question = self.conversation.current
        assert question is not None
        old = self.conversation
        old.go_to(question.parent)
        self.conversation = Conversation(old.system, old.recorder)
        self.conversation.add(question.message)
