"""A conversation with a model: what is said, by which model, in which window.

Knows: loading behind the prompt, one exchange from question to answer, what happens when the window is full, another
model or another session for the same chat. Refuses to know: keys, commands and the loop (chat.py,
commands/repl/slash_commands.py); what must be shown or asked goes through a `ChatDelegate`.

Nothing said is lost: a question is in the tree (and so in the archive) before the model sees it, the answer grows there
as it comes, and an error or Ctrl-C leaves everything in place.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

from slmchat.conversation import window
from slmchat.conversation.attachments import Attachment, compose
from slmchat.conversation.messages import Conversation, Message, Node, Role, alternating, title_of
from slmchat.conversation.pictures import Picture
from slmchat.conversation.template import Layout, layout_of, raw_prompt
from slmchat.engine.api import Adapter, Event, Finish, FinishReason, Limits, Prompt, Session
from slmchat.engine.cancellable import Cancellable
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.thinking import Thinking, ThinkingMode
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import params
from slmchat.generation.prompt import PLACEHOLDER, begins_thought, no_switch
from slmchat.generation.response import Response, StreamHandler, consume_stream
from slmchat.lazy_dataclasses import dataclass
from slmchat.models.backend import BackendModel
from slmchat.models.open import OpenModel
from slmchat.options import GenerationOptions
from slmchat.reporting import Reporter
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
    may stand in another conversation, and not the rest of an answer.
    """

    n_prompt: int
    n_ctx: int
    can_summarise: bool = True
    can_begin_afresh: bool = True


class ChatDelegate(Protocol):
    """The door around a chat session: what shows an answer, and what asks the user."""

    def handler(self) -> StreamHandler:
        """What gets the events of one generation."""
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


class ChatSession:
    """The state of one chat."""

    def __init__(
        self, opened: OpenModel, conversation: Conversation, options: GenerationOptions, delegate: ChatDelegate
    ) -> None:
        """`options`: of this chat, where they differ from those with which the model was opened."""
        self.conversation = conversation
        self.options = options
        self.attachments: list[Attachment] = []
        self.pictures: list[Picture] = []
        self.examples: list[Message] = []
        self.sampler_changes: dict[str, float] = {}
        self._is_seed_reset = False  # `--seed` was taken back
        self.limits = params.limits(options)
        self.thinking = params.thinking_of(options, opened.settings)
        self.asked_ctx = options.ctx or opened.settings.n_ctx
        self.threads = options.threads
        self._delegate = delegate
        self._session: Session | None = None
        self._layout: Layout | None = None
        self._counted: tuple[object, int] = (None, 0)  # what was counted last, and how much it is
        self._held_by: str | None = None  # the conversation whose words the KV cache holds
        self._begin(opened)

    def _begin(self, opened: OpenModel) -> None:
        self.opened = opened
        self.last: Finish | None = None
        self._has_told_of_pictures = self._has_told_of_mending = self._has_told_of_thinking = False

    # The model

    @property
    def model(self) -> BackendModel:
        return self.opened.model

    @property
    def reporter(self) -> Reporter:
        return self.opened.reporter

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The LoRA adapters that count."""
        return self.opened.adapters

    @property
    def n_ctx(self) -> int:
        """The context window in tokens; 0 while the model is not loaded."""
        return self._session.n_ctx if self._session else 0

    @property
    def trained_ctx(self) -> int:
        """The context window in tokens for which the model was trained; 0 while that is not known."""
        return self.opened.trained_context_length if self.opened.is_loaded else 0

    @property
    def label(self) -> str:
        """The model's name as it is shown."""
        return self.model.label

    @property
    def about(self) -> str:
        """What stands before a number of tokens: "about " where it is a guess, "" where it is counted."""
        return "" if not self.opened.is_loaded or self.opened.engine.info.has_exact_counts else "about "

    @property
    def has_own_layout(self) -> bool:
        """Whether the engine lays the conversation out by itself; then nobody here knows the exact prompt."""
        return self.opened.is_loaded and self.opened.engine.info.has_own_layout

    @property
    def window_size(self) -> int:
        """The context window in tokens, also before it is opened; 0 while that is not known."""
        return self.n_ctx or self.opened.expected_window(self.asked_ctx)

    @property
    def tokens_used(self) -> int:
        """Tokens that the conversation takes of the window as it stands now; 0 while that is not known.

        Asked at every drawing of a line: counted only when something has changed, and never waited for.
        """
        engine, said, system = self.opened.engine_if_there, self.conversation, self.conversation.system_text()
        if engine is None or not (said.current or system):
            return 0
        mode = self.thinking.mode
        state = (self.model.key, mode, said.current, said.current and said.current.message, said.seen_from, system)
        if state != self._counted[0]:
            try:
                layout = self._layout or layout_of(engine.info, is_raw=self.options.raw, mode=mode)
                self._counted = (state, engine.count(layout.render(alternating(self._visible_messages()))))
            except SlmError:  # no chat template, say: the next message tells it
                self._counted = (state, 0)
        return self._counted[1]

    @property
    def sampler(self) -> SamplerSettings:
        """The sampler settings in force, /set included."""
        recommended = params.sampler_settings(self.model, self.opened.settings, self.options, self._thinks)
        sampler = recommended.with_values(self.sampler_changes)
        return replace(sampler, seed=None) if self._is_seed_reset else sampler

    def _thinks(self) -> bool:
        """Whether the next answer begins with a thought; not known while the model is not loaded."""
        return self._layout is not None and self._layout.thinks

    def change_sampler(self, name: str, value: float | None) -> None:
        """`/set`: this value from now on; None: as it was without. A seed is then another one each time."""
        self.sampler_changes.pop(name, None)
        if name == "seed":
            self._is_seed_reset = value is None
        if value is not None:
            self.sampler_changes[name] = value

    def ready(self) -> Session:
        """The session, after waiting for the model if it is still loading. Raises what the loading raised."""
        if self._needs_own_engine():
            self._leave_server()
        engine = self.opened.engine
        self.opened.check_file()
        if self._layout is None:
            self._layout = layout_of(engine.info, is_raw=self.options.raw, mode=self.thinking.mode)
            self._tell_of_thinking()
        if self._session is None:
            self._session = self.opened.open_session(self.opened.window(self.asked_ctx), threads=self.threads)
        return self._session

    def _needs_own_engine(self) -> bool:
        """Whether a server of this user that has the model cannot do what is asked now, or has ended."""
        opened = self.opened
        if opened.warm_ctx is None:
            return False
        if opened.is_server_gone or not opened.has_room_in_server(self.asked_ctx):
            return True
        are_shown = self.pictures or any(node.message.pictures for node in self.conversation.visible())
        return bool(are_shown) or self.threads != opened.options.threads

    def _leave_server(self) -> None:
        if self.opened.warm_ctx is not None:
            self.reopen()
            self.opened.load_here()

    def go_private(self) -> None:
        """From now on nothing is written, and nothing that was written is looked at."""
        self._leave_server()
        self.opened.go_private()

    def switch_model(self, open_other: Callable[[], OpenModel]) -> None:
        """Let another model go on with the conversation, with its own adapters; the present one is freed first."""
        self.close()
        self._begin(open_other())

    def keep(self, *, is_resting: bool = False) -> None:
        """Store the KV state with the conversation whose words it holds, so that it goes on at once when it is resumed.

        `is_resting`: more is to come, so only what is worth it and what nobody notices.
        """
        if self._session is not None and self._held_by is not None and self._delegate.is_saved(self._held_by):
            self._session.keep(self._held_by, is_resting=is_resting)

    def set_adapters(self, chosen: Sequence[Adapter]) -> None:
        """Let these LoRA adapters count from the next exchange on. Raises `SlmError`; then all is as it was."""
        self._leave_server()  # which has its own
        if self._session is not None:
            self.keep()
            self._session.set_adapters(chosen)
        self.opened.set_adapters(chosen)

    def reopen(self) -> None:
        """Make the context window anew (another size, other threads) before the next exchange."""
        if self._session is not None:
            self.keep()
            self._session.close()
            self._session = self._held_by = None

    def close(self) -> None:
        """Free the KV cache and the weights."""
        self.reopen()
        self.opened.close()
        self._layout = None

    # Prompts

    def prompt(self, messages: Sequence[Message], *, goes_on: bool = False) -> Prompt:
        """The prompt for these messages; `goes_on`: it ends inside the last one, an answer that was cut."""
        self.ready()
        assert self._layout is not None
        return self._layout.render(alternating(messages), goes_on=goes_on)

    def count(self, messages: Sequence[Message], *, goes_on: bool = False) -> int:
        """Tokens of the prompt for these messages, template included; 0 for none. A guess where `about` says so."""
        if not messages:
            return 0
        return self.opened.engine.count(self.prompt(messages, goes_on=goes_on))

    def set_thinking(self, asked: Thinking) -> None:
        """Let the model think, or not, from the next exchange on."""
        if asked.mode is not self.thinking.mode:
            self._layout, self._has_told_of_thinking = None, False
        self.thinking = asked

    def _tell_of_thinking(self) -> None:
        """Once for each model and mode: its template has no switch."""
        assert self._layout is not None
        if not self.options.raw and not self._layout.has_thinking_switch and not self._has_told_of_thinking:
            self._has_told_of_thinking = True
            self.reporter.note(no_switch(self.thinking, "/think"))

    def set_max_tokens(self, max_tokens: int) -> None:
        """Limit the answers from now on."""
        self.limits = replace(self.limits, max_tokens=max_tokens)

    def count_text(self, text: str) -> int:
        """Tokens of a text by itself."""
        self.ready()
        return self.opened.engine.count(raw_prompt([Message(Role.USER, text)]))

    def cost_of(self, picture: Picture) -> int:
        """Tokens that a picture takes. Raises `SlmError` when this model cannot be shown it."""
        self.model.check_vision(self.opened.settings)
        self.ready()
        return self.opened.cost(picture)

    def messages(self) -> list[Message]:
        """What the model sees: the system message, the examples of a persona, the visible part of the path.

        A model that cannot be shown pictures gets the messages without them; the user is told so once.
        """
        is_blind = not self.model.supports_vision and any(node.message.pictures for node in self.conversation.visible())
        if is_blind and not self._has_told_of_pictures:
            self._has_told_of_pictures = True
            self.reporter.note(f"({self.label} does not see the pictures of this conversation)")
        return self._visible_messages()

    def _visible_messages(self) -> list[Message]:
        said = self.conversation.as_messages(self.model.key)
        if not self.model.supports_vision:
            said = [replace(message, pictures=()) for message in said]
        head = 1 if said and said[0].role is Role.SYSTEM else 0
        return [*said[:head], *self.examples, *said[head:]]

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
        self.conversation.title = self.conversation.title or title_of(text)  # without what is attached
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
        return self._follow(self._generate(prompt, sampler, limits), prompt, StreamingMessage(self))

    def _limits(self, limits: Limits, asked: Thinking) -> Limits:
        """These limits with what is asked of thinking."""
        architecture = self.opened.engine.info.architecture
        return params.with_thinking(limits, asked, architecture, is_raw=self.options.raw)

    def _without_thought(self) -> Layout:
        """The layout for an answer at once. An endpoint lays out itself, and is asked as always."""
        return layout_of(self.opened.engine.info, is_raw=self.options.raw, mode=ThinkingMode.OFF)

    def go_on(self) -> Response | None:
        """Let the last answer go on where it stopped; None when cancelled before anything came."""
        self.ready()
        node = self.conversation.current
        if node is None or node.message.role is not Role.ASSISTANT:
            raise SlmError("there is no answer to continue.", exit_code=ExitCode.USAGE)
        if not node.message.text:
            raise SlmError("the answer was cut before it began.", hint="/retry asks again", exit_code=ExitCode.USAGE)
        if not self._make_room(goes_on=True):
            return None
        prompt = self.prompt(self.messages(), goes_on=True)
        events = self._generate(prompt, self.sampler, self.limits)
        return self._follow(events, prompt, StreamingMessage(self, node, node.message), goes_on=True)

    def _generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        """A generation for the present conversation; what another one has left in the KV cache is stored before."""
        session = self.ready()
        if self._held_by != self.conversation.id:
            self.keep()
            self._held_by = self.conversation.id
        return session.generate(replace(prompt, owner=self.conversation.id), sampler, limits)

    def _with_cache_hints(self, prompt: Prompt) -> Prompt:
        """For the first message: another chat may begin with the same system message and examples."""
        said = self.messages()
        if len(self.conversation.visible()) > 1 or len(said) < 2:
            return prompt
        return replace(prompt, cache_hints=(self.prompt([*said[:-1], Message(Role.USER, PLACEHOLDER)]),))

    def _follow(
        self, events: Iterator[Event], prompt: Prompt, growing: "StreamingMessage", *, goes_on: bool = False
    ) -> Response | None:
        with self._delegate.cancellable(self.ready()):
            answer = consume_stream(
                events,
                self._delegate.handler(),
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
        n_prompt = self.count(messages, goes_on=goes_on)
        if window.fits(n_prompt, n_ctx):
            return True
        n_least = self._check_fits_alone(messages, n_ctx, goes_on=goes_on)
        can_summarise = window.fits(n_least + self._summary_room, n_ctx)
        choice = self._delegate.on_overflow(Overflow(n_prompt, n_ctx, can_summarise, can_begin_afresh=not goes_on))
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
        n_alone = self.count([*head, *messages[last:]], goes_on=goes_on)
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
        head = len(messages) - len(visible)

        def count(kept: Sequence[Message]) -> int:
            return self.count(kept, goes_on=goes_on) + room

        place = window.drop_oldest(messages, head, count, self.ready().n_ctx)
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
            raise SlmError("there is nothing to summarise before the last exchange.", exit_code=ExitCode.USAGE)
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
        session = self.ready()
        request = Message(Role.USER, _SUMMARY_REQUEST)
        asked = [*messages, request]
        dropped = window.drop_oldest(asked, head, lambda kept: self.count(kept) + self._summary_room, session.n_ctx)
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


class StreamingMessage:
    """An answer in the tree while it is generated: a new node, or one that goes on."""

    def __init__(self, session: ChatSession, node: Node | None = None, before: Message | None = None) -> None:
        self._session = session
        self._node = node
        self._before = before

    def grow(self, answer: Response) -> None:
        """Called at every chunk; the node is made with the first one."""
        if answer.text or answer.thinking:
            self._put(self._message(answer, None, is_cut=True))

    def complete(self, answer: Response) -> bool:
        """The generation has ended; False when it was cancelled before anything came."""
        finish = answer.finish
        assert finish is not None
        has_said = bool(answer.text or answer.thinking)
        if has_said or finish.reason is not FinishReason.INTERRUPTED:
            tokens = None if answer.has_marks else finish.tokens
            self._put(self._message(answer, tokens, is_cut=finish.reason is not FinishReason.STOP))
        if self._session.conversation.recorder is not None:
            self._session.conversation.recorder.flush()
        return has_said or finish.reason is not FinishReason.INTERRUPTED

    def _put(self, message: Message) -> None:
        if self._node is None:
            self._node = self._session.conversation.add(message)
        else:
            self._session.conversation.update(self._node, message)

    def _message(self, answer: Response, tokens: tuple[int, ...] | None, *, is_cut: bool) -> Message:
        before = self._before or Message(Role.ASSISTANT, "", tokens=())
        thinking = before.thinking + answer.thinking
        is_exact = tokens is not None and before.tokens is not None
        return Message(
            Role.ASSISTANT,
            before.text + answer.text,
            (before.tokens or ()) + (tokens or ()) if is_exact else None,
            is_cut,
            thinking,
            self._session.model.key,
        )
