"""The model of a chat: loaded behind the prompt, in a context window of its own, and what it sees of the conversation.

Knows: the layout of its prompts and what they count, whose words its KV cache holds, another model or other adapters
for the same conversation.
Refuses to know: how a question becomes an answer, and what happens when the window is full (chat_session.py).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from slmchat.conversation.layouts import Layout, layout_of
from slmchat.conversation.messages import Conversation, Message, Role, alternating
from slmchat.conversation.pictures import Picture
from slmchat.engine.api import Session
from slmchat.engine.requests import Adapter, Limits, Prompt
from slmchat.engine.results import Event
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.thinking import Thinking, ThinkingMode
from slmchat.errors import SlmError
from slmchat.generation import params
from slmchat.generation.prompt import PLACEHOLDER, no_switch
from slmchat.models.backend import BackendModel
from slmchat.models.open import OpenModel
from slmchat.options import GenerationOptions
from slmchat.reporting import Reporter


class ChatModel:
    """A model and the conversation that it is in."""

    def __init__(
        self,
        opened: OpenModel,
        conversation: Conversation,
        options: GenerationOptions,
        is_saved: Callable[[str], bool],
    ) -> None:
        """`options`: of this chat, where they differ from those with which the model was opened. `is_saved`: whether
        the conversation with this id is on the disk; only then its KV state may be, too."""
        self.conversation = conversation
        self.options = options
        self.pictures: list[Picture] = []  # those of the next message
        self.examples: list[Message] = []
        self.sampler_changes: dict[str, float] = {}
        self._is_seed_reset = False  # `--seed` was taken back
        self.limits = params.limits(options)
        self.thinking = params.thinking_of(options, opened.settings)
        self.asked_ctx = options.ctx or opened.settings.n_ctx
        self.threads = options.threads
        self._is_saved = is_saved
        self._session: Session | None = None
        self._layout: Layout | None = None
        self._counted: tuple[object, int] = (None, 0)  # what was counted last, and how much it is
        self._held_by: str | None = None  # the conversation whose words the KV cache holds
        self._begin(opened)

    def _begin(self, opened: OpenModel) -> None:
        self.opened = opened
        self._has_told_of_pictures = self._has_told_of_thinking = False

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
        if self._session is not None and self._held_by is not None and self._is_saved(self._held_by):
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

    def count(self, messages: Sequence[Message], *, goes_on: bool = False, most: int | None = None) -> int:
        """Tokens of the prompt for these messages, template included; 0 for none. A guess where `about` says so.

        `most`: as `Engine.count` has it.
        """
        if not messages:
            return 0
        return self.opened.engine.count(self.prompt(messages, goes_on=goes_on), most)

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

    def count_text(self, text: str) -> int:
        """Tokens of a text by itself; `AtLeast` so many where no window holds it."""
        n_ctx = self.ready().n_ctx
        return self.opened.count_text(text, n_ctx or None)

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

    # Generations

    def _limits(self, limits: Limits, asked: Thinking) -> Limits:
        """These limits with what is asked of thinking."""
        architecture = self.opened.engine.info.architecture
        return params.with_thinking(limits, asked, architecture, is_raw=self.options.raw)

    def _without_thought(self) -> Layout:
        """The layout for an answer at once. An endpoint lays out itself, and is asked as always."""
        return layout_of(self.opened.engine.info, is_raw=self.options.raw, mode=ThinkingMode.OFF)

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
