"""Completions of one open model, one after the other in one context window: laid out, checked for room, generated.

`slm run` generates once, in a window made for its prompt; the Python API keeps the window open.
Knows: what stands between a prompt and its completion in the right format.
Refuses to know: where a prompt comes from, who reads the completion, exit codes.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import lru_cache
from typing import Protocol

from slmchat.conversation import window
from slmchat.conversation.layouts import layout_of
from slmchat.conversation.template import ChatTemplate
from slmchat.engine.api import Engine, ModelInfo, Pool, Session
from slmchat.engine.cancellable import CancelFlag, Cancellable, CancelScope
from slmchat.engine.requests import Limits, Prompt, Request
from slmchat.engine.results import Finish
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.thinking import UNASKED, Thinking
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.generation import classify, params, structured
from slmchat.generation.attempts import generate_valid
from slmchat.generation.call_notation import CallNotation, notation_of
from slmchat.generation.classify import CONTENT_FREE, Classification, ClassificationTask
from slmchat.generation.priors import Priors
from slmchat.generation.prompt import Layout, PromptRequest, begins_thought, layout, thinks
from slmchat.generation.response import Completion, Response, StreamHandler, completion_of, consume_stream
from slmchat.generation.structured import ResponseFormat
from slmchat.generation.tools import Toolbox
from slmchat.lazy_dataclasses import dataclass
from slmchat.models.open import OpenModel
from slmchat.sanitize import Sanitizer

# Room for a completion when nobody says how long it may become, in tokens.
COMPLETION_ROOM = 2048


class GenerationDelegate(Protocol):
    """Who reads a completion while it comes."""

    def handler(self) -> StreamHandler:
        """What gets the events of one generation."""
        ...

    def cancellable(self, session: Cancellable) -> AbstractContextManager[None]:
        """While this lasts, the generation can be cancelled."""
        ...

    @property
    def may_retry(self) -> bool:
        """Whether a second completion may take the place of the first."""
        ...

    def on_retry(self, error: SlmError) -> None:
        """The first completion is not in the format (why: `error`); there will be a second one."""
        ...

    def on_fallback(self, response: Response) -> None:
        """The first completion counts after all: the second one has no end."""
        ...


class OneAttempt:
    """What is the same in every `GenerationDelegate` that takes the first completion, right or not."""

    @property
    def may_retry(self) -> bool:
        return False

    def on_retry(self, error: SlmError) -> None: ...

    def on_fallback(self, response: Response) -> None: ...


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """A request laid out for one model: its prompt, and how many tokens that is."""

    request: PromptRequest
    lay_out: Layout
    prompt: Prompt
    n_prompt: int
    is_raw: bool
    response_format: ResponseFormat | None = None
    task: ClassificationTask | None = None
    thinking: Thinking = UNASKED

    @property
    def keeps_space(self) -> bool:
        """Whether white space at the beginning of the completion counts, and nothing in it is taken for a thought."""
        is_bare_format = self.response_format is not None and not self.response_format.thinks_first
        return self.is_raw or is_bare_format or bool(self.request.answer)

    def thinks(self, engine: Engine) -> bool:
        """Whether the completion begins with a thought, as far as anybody can tell."""
        if self.response_format is not None or self.task is not None:
            return self.response_format is not None and self.response_format.thinks_first
        return thinks(engine, self.thinking, is_raw=self.is_raw)

    def limits(self, limits: Limits, info: ModelInfo) -> Limits:
        """These limits with what is asked of thinking."""
        return params.with_thinking(
            limits, self.thinking, info.architecture, is_raw=self.is_raw or bool(self.request.answer)
        )


class Generator:
    """A loaded model and one context window of it."""

    def __init__(self, opened: OpenModel) -> None:
        """Waits for the model. Raises what its loading raised."""
        self.opened = opened
        self.engine = opened.engine
        self._session: Session | None = None
        self._scorer: Pool | None = None
        self._pool: Pool | None = None
        self._pool_ctx = 0
        self.priors = Priors(opened)
        self._has_told_of_thinking = False
        self._told_of: ResponseFormat | None = None

    # The prompt

    def prepare(
        self,
        request: PromptRequest,
        *,
        is_raw: bool,
        response_format: ResponseFormat | None = None,
        task: ClassificationTask | None = None,
        thinking: Thinking = UNASKED,
    ) -> PreparedPrompt:
        """The prompt as this model gets it. Raises `SlmError` as `layout` does; USAGE: a format or no template for an
        answer that goes on."""
        if request.answer and (is_raw or response_format is not None):
            what = "a raw prompt" if is_raw else "an answer in a given format"
            raise usage_error(f"{what} cannot go on with an answer that was cut.")
        for note in response_format.notes if response_format is not self._told_of and response_format else ():
            self.opened.reporter.note(note)
        self._told_of = response_format
        lay_out = layout(
            self.engine,
            is_raw=is_raw,
            instruction=response_format,
            closes_thought=task is not None,
            goes_on=bool(request.answer),
            thinking=thinking,
            tell=self._tell_of_thinking,
        )
        prompt = request.prompt(lay_out)
        if response_format is not None:
            response_format = replace(response_format, thinks_first=begins_thought(prompt))
        n_prompt = self.opened.count(prompt, self._most_tokens)
        return PreparedPrompt(request, lay_out, prompt, n_prompt, is_raw, response_format, task, thinking)

    @property
    def _most_tokens(self) -> int:
        """Tokens of the largest window that there may be."""
        asked = self.opened.options.ctx or self.opened.settings.n_ctx or 0
        return max(self.n_ctx, asked, self.engine.info.trained_context_length)

    def toolbox_for(self, toolbox: Toolbox) -> Toolbox:
        """The functions in the notation in which this model calls them."""
        info = self.engine.info
        return toolbox.in_notation(_notation_of(info.chat_template or "", info.bos_text, info.eos_text))

    def with_tools(self, request: PromptRequest, toolbox: Toolbox) -> PromptRequest:
        """The request with what the model is told of functions. Raises `SlmError` (USAGE) where it has no template."""
        words = layout_of(self.engine.info, is_raw=False).tool_words
        told = request.with_answers(toolbox.rewritten).with_system(toolbox.instruction(words))
        return told.with_behind(toolbox.behind(request.instruction))

    def _tell_of_thinking(self, sentence: str) -> None:
        """Once for a model: it has no switch."""
        if not self._has_told_of_thinking:
            self._has_told_of_thinking = True
            self.opened.reporter.note(sentence)

    def fitted(self, prepared: PreparedPrompt, n_ctx: int, *, is_trimmed: bool) -> PreparedPrompt:
        """The same, or when it does not fit into a window of `n_ctx` tokens one with less of its input.

        Raises `SlmError` (CONTEXT) when nothing may or can be trimmed.
        """
        max_tokens = self.opened.options.max_tokens
        if window.fits(prepared.n_prompt, n_ctx, max_tokens):
            return prepared
        if is_trimmed:
            trimmed = prepared.request.trimmed(prepared.lay_out, self.engine, n_ctx, max_tokens, self.opened.reporter)
            return replace(prepared, prompt=trimmed)
        info = self.engine.info
        if info.has_exact_counts:  # else it is the engine that knows, and says so
            raise _too_long(prepared.n_prompt, n_ctx, max_tokens, info.trained_context_length)
        return prepared

    # The window

    def open_for(self, prepared: PreparedPrompt, *, is_trimmed: bool, n_answers: int = 1) -> PreparedPrompt:
        """Make a window for this prompt and its completion, or a pool for several; the prompt as it fits in.

        Raises `SlmError`: NO_FIT, CONTEXT as `fitted` does, DAMAGED for an adapter.
        """
        least = None if self.opened.options.ctx else prepared.n_prompt + 1
        asked = self.opened.options.ctx or self.opened.settings.n_ctx
        wanted = window_for(prepared.n_prompt, self._room_for(prepared), self.engine.info, asked)
        n_ctx = self.opened.window(wanted, least=least)
        prepared = self.fitted(prepared, n_ctx, is_trimmed=is_trimmed)
        if prepared.task is not None:
            self.open_scorer(n_ctx)
        elif n_answers > 1:
            self._pool, self._pool_ctx = self.opened.open_pool_for(n_ctx, n_answers, prepared.request.pictures), n_ctx
        else:
            self.open(n_ctx, is_multi_turn=prepared.response_format is not None, may_grow=True)
        return prepared

    def has_room_for(self, prepared: PreparedPrompt) -> bool:
        """Whether the window of a server that has the model is large enough, and its engine takes such a prompt."""
        warm_ctx = self.opened.warm_ctx
        if warm_ctx is None:
            return True
        return not prepared.request.pictures and prepared.n_prompt + self._room_for(prepared) <= warm_ctx

    def _room_for(self, prepared: PreparedPrompt) -> int:
        """Tokens that the window has to hold behind the prompt."""
        if prepared.task is not None:
            return classify.ROOM
        max_tokens = self.opened.options.max_tokens
        if prepared.response_format is not None:
            return structured.room_for(max_tokens, prepared.response_format.room_to_think(prepared.thinking))
        return max_tokens or COMPLETION_ROOM

    @property
    def n_ctx(self) -> int:
        """The context window in tokens; 0: not known."""
        return self._session.n_ctx if self._session is not None else self._pool_ctx

    def open(self, n_ctx: int, *, is_multi_turn: bool = True, may_grow: bool = False) -> None:
        """Make the context window. `is_multi_turn`: more than one generation will follow in it. `may_grow`: for a long
        completion it becomes larger, as far as memory goes, where nobody asked for a size.

        Raises `SlmError` (NO_FIT, and DAMAGED for an adapter).
        """
        self._session = self.opened.open_session(n_ctx, is_multi_turn=is_multi_turn, may_grow=may_grow)

    def take_pool(self) -> Pool:
        """The pool that `open_for` has made; whoever takes it closes it."""
        pool, self._pool = self._pool, None
        assert pool is not None
        return pool

    def use(self, session: Session) -> None:
        """Generate in this window, which somebody else has made."""
        self._session = session

    def open_scorer(self, n_ctx: int) -> None:
        """Make a context window for choices, if there is none. Raises `SlmError` as `open` does, and USAGE where the
        engine has no probabilities."""
        if self._scorer is None:
            self._scorer = self.opened.open_scorer(n_ctx, are_all_there=True)
            self._pool_ctx = n_ctx

    # Completions

    def generate(
        self,
        prepared: PreparedPrompt,
        sampler: SamplerSettings,
        limits: Limits,
        delegate: GenerationDelegate,
        *,
        takes_cut: bool = False,
    ) -> Completion:
        """The completion; its value where it has a format (None without one, and when it was cancelled).

        What is asked of thinking is added to the `limits`. `takes_cut`: one in a format that is cut off counts,
        without a value, where there is no second attempt.

        Raises `SlmError`: CONTEXT when the prompt leaves no room, UNSATISFIED when a second attempt is not right
        either. The window stays usable.
        """

        limits = prepared.limits(limits, self.engine.info)

        def once(sampler: SamplerSettings, limits: Limits) -> Response:
            session = self._session
            assert session is not None
            # before the handler: what it cancels must have begun
            events = session.generate(prepared.prompt, sampler, limits)
            with delegate.cancellable(session):
                return consume_stream(
                    events,
                    delegate.handler(),
                    sanitizer=None if self.opened.options.raw_output else Sanitizer(show_invisible=False),
                    keeps_space=prepared.keeps_space,
                    is_thinking=begins_thought(prepared.prompt),
                )

        if prepared.response_format is None:
            return completion_of(once(sampler, limits))
        made, value = generate_valid(
            prepared.response_format,
            sampler,
            limits,
            once,
            on_retry=delegate.on_retry,
            on_fallback=delegate.on_fallback,
            may_retry=delegate.may_retry,
            takes_cut=takes_cut,
        )
        return completion_of(made, value)

    def classify(
        self, prepared: Sequence[PreparedPrompt], cancellable: CancelScope
    ) -> list[tuple[Classification, Finish]] | None:
        """Which of its choices each prompt is: what they begin with is read once. None when that was cancelled.

        Raises `SlmError`, as CONTEXT.
        """
        scorer = self._scorer
        assert scorer is not None
        is_cancelled = CancelFlag(scorer)
        found: dict[int, tuple[Classification, Finish]] = {}
        with cancellable(is_cancelled):
            tasks = [each.task for each in prepared if each.task is not None]
            priors = []
            for each, task in zip(prepared, tasks, strict=True):
                empty = [each.request.without_input(each.lay_out, text) for text in CONTENT_FREE]
                priors.append(self.priors.of(task, scorer, empty))
                if priors[-1] is None and task.is_calibrated:
                    return None
            runs = scorer.run(
                iter(
                    Request(number, each.prompt, choices=task.choices(each.prompt))
                    for number, (each, task) in enumerate(zip(prepared, tasks, strict=True))
                )
            )
            if is_cancelled():  # between the two runs: the second one does not know
                return None
            for done in runs:
                if done.error is not None:
                    raise done.error
                if done.finish is not None:
                    found[done.id] = tasks[done.id].classification(done.scores, priors[done.id]), done.finish
        return [found[number] for number in range(len(prepared))] if len(found) == len(prepared) else None

    def close(self) -> None:
        """Free the window and the weights."""
        if self._session is not None:
            self._session.close()
            self._session = None
        if self._scorer is not None:
            self._scorer.close()
            self._scorer = None
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        self.opened.close()


@lru_cache(maxsize=8)
def _notation_of(template: str, bos_text: str, eos_text: str) -> CallNotation | None:
    """In which notation a model with this chat template calls functions; None: nobody knows."""
    if not template:
        return None
    return notation_of(ChatTemplate(template, bos_text=bos_text, eos_text=eos_text).calls_written)


def window_for(n_prompt: int, room: int, info: ModelInfo, asked: int | None = None) -> int:
    """A context window of the size asked for, else just large enough for a prompt and `room` tokens behind it."""
    trained = info.trained_context_length
    if not info.has_exact_counts:
        return trained  # it has the window that it has
    if asked:
        return asked
    needed = n_prompt + max(room, window.MIN_COMPLETION_TOKENS)
    return window.size_for(needed, trained)


def _too_long(n_prompt: int, n_ctx: int, max_tokens: int | None, n_trained: int) -> SlmError:
    larger = f"a larger one: --ctx {n_prompt + COMPLETION_ROOM}" if n_prompt < n_trained else None
    return SlmError(
        window.overflow("the prompt is", n_prompt, n_ctx, max_tokens)
        + ("." if larger else f"; this model was trained for {n_trained:,}."),
        hint=f"{larger or 'a shorter input'}; or leave out the end of the input: --on-overflow trim",
        exit_code=ExitCode.CONTEXT,
    )
