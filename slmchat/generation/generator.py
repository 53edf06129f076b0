"""Questions to a loaded model, one after the other in one context window: laid out, checked for room, answered.

`slm run` asks once, in a window made for its question; the Python API (api/) keeps the window open.
Knows: what stands between a question and its answer of the right shape.
Refuses to know: where a question comes from, who listens to the answer, exit codes.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from slmchat.conversation import window
from slmchat.conversation.pictures import Picture
from slmchat.conversation.thinking import opens_thinking
from slmchat.engine.api import Adapter, Finish, Job, Limits, Pool, Prompt, Session
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import response, structured
from slmchat.generation.classify import CONTENT_FREE, Classification, ClassificationTask, content_free_prior
from slmchat.generation.prompt import Layout, PromptRequest, layout
from slmchat.generation.response import Response, StreamHandler
from slmchat.generation.structured import ResponseFormat
from slmchat.models import loader, vision
from slmchat.models.loader import Cancellable, Loading
from slmchat.options import GenerationOptions
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.terminal.sanitize import Sanitizer

# Room for a completion when nobody says how long it may become, in tokens.
COMPLETION_ROOM = 2048


class GenerationDelegate(Protocol):
    """Who hears an answer."""

    def view(self) -> StreamHandler:
        """A new view for one generation."""
        ...

    def sanitizer(self) -> Sanitizer | None:
        """What removes control sequences from the answer; None leaves them."""
        ...

    def cancellable(self, session: Session) -> AbstractContextManager[None]:
        """While this lasts, the generation can be cancelled."""
        ...

    def on_retry(self, error: SlmError) -> None:
        """The first answer is not of the shape (why: `error`); there will be a second one."""
        ...


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """A question laid out for one model: its prompt, and how many tokens that is."""

    question: PromptRequest
    lay_out: Layout
    prompt: Prompt
    n_prompt: int
    is_raw: bool
    shape: ResponseFormat | None = None
    choosing: ClassificationTask | None = None

    @property
    def keeps_space(self) -> bool:
        """Whether white space at the beginning of the answer counts, and nothing in it is taken for a thought."""
        return self.is_raw or self.shape is not None


@dataclass(frozen=True, slots=True)
class _Prior:
    """How probable these texts are behind prompts whose input says nothing."""

    empty: Sequence[Prompt]
    texts: tuple[str, ...]
    values: tuple[float, ...]


class _Cancelled:
    """A pool that is run twice for one question, and whether it was cancelled in any of the two or between them."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True
        self._pool.cancel()


class Generator:
    """A loaded model and one context window of it."""

    def __init__(self, loading: Loading, options: GenerationOptions, settings: Settings, console: Console) -> None:
        """Waits for the model. Raises what its loading raised."""
        self.engine = loading.engine()
        self._loading = loading
        self._options = options
        self._settings = settings
        self._console = console
        self._session: Session | None = None
        self._scorer: Pool | None = None
        self._known: _Prior | None = None

    def describe(self, shown: Sequence[Picture]) -> list[str]:
        """A line for each picture: name, size, tokens. Raises `SlmError` for one that cannot be taken in."""
        return vision.describe(shown, self.engine)

    def request(
        self,
        question: PromptRequest,
        *,
        is_raw: bool,
        shape: ResponseFormat | None = None,
        choosing: ClassificationTask | None = None,
    ) -> PreparedPrompt:
        """The question as this model is asked it. Raises `SlmError` as `layout` does; USAGE: choices by sight."""
        if choosing is not None and question.pictures:
            raise SlmError("what is seen in a picture cannot be one of given choices.", exit_code=ExitCode.USAGE)
        lay_out = layout(self.engine, is_raw=is_raw, told=shape or choosing)
        prompt = question.prompt(lay_out)
        return PreparedPrompt(question, lay_out, prompt, self.engine.count(prompt), is_raw, shape, choosing)

    def fitted(self, request: PreparedPrompt, n_ctx: int, *, is_trimmed: bool) -> PreparedPrompt:
        """The request, or when it does not fit into a window of `n_ctx` tokens one with less of its input.

        Raises `SlmError` (CONTEXT) when nothing may or can be trimmed.
        """
        max_tokens = self._options.max_tokens
        if window.fits(request.n_prompt, n_ctx, max_tokens):
            return request
        if is_trimmed:
            trimmed = request.question.trimmed(request.lay_out, self.engine, n_ctx, max_tokens, self._console)
            return replace(request, prompt=trimmed)
        if self.engine.info.has_exact_counts:  # else it is the engine that knows, and says so
            raise _too_long(request.n_prompt, n_ctx, max_tokens, self.engine.info.trained_context_length)
        return request

    def open(
        self, n_ctx: int, *, draft: Path | None = None, is_multi_turn: bool = True, laid: Sequence[Adapter] = ()
    ) -> None:
        """Make the context window. `is_multi_turn`: more than one question will follow. `laid`: LoRA adapters that count.

        Raises `SlmError` (NO_FIT, and DAMAGED for an adapter).
        """
        store = loader.kv_store(self._settings)
        made = loader.session_settings(self._options, self._settings, n_ctx, store, draft, self._loading.path)
        self._session = self.engine.open_session(replace(made, is_multi_turn=is_multi_turn, adapters=tuple(laid)))

    def open_scorer(self, n_ctx: int, *, laid: Sequence[Adapter] = ()) -> None:
        """Make a context window for choices, if there is none. Raises `SlmError` as `open` does, and USAGE where the
        engine has no probabilities."""
        if self._scorer is None:
            made = loader.session_settings(self._options, self._settings, n_ctx, model=self._loading.path)
            self._scorer = self.engine.open_scorer(replace(made, adapters=tuple(laid)))

    def choose(
        self, request: PreparedPrompt, cancellable: Callable[[Cancellable], AbstractContextManager[None]]
    ) -> tuple[Classification, Finish] | None:
        """Which of the request's choices it is; None when that was cancelled. Raises `SlmError`, as CONTEXT."""
        choosing, scorer = request.choosing, self._scorer
        assert choosing is not None
        assert scorer is not None
        asked = _Cancelled(scorer)
        with cancellable(asked):
            prior = self._prior_of(request, choosing, scorer)
            if prior is None and choosing.is_calibrated:
                return None
            runs = scorer.run(iter([Job(0, request.prompt, choices=choosing.choices(request.prompt))]))
            if asked.is_cancelled:  # between the two runs: the second one does not know
                return None
            for done in runs:
                if done.error is not None:
                    raise done.error
                if done.finish is not None:
                    return choosing.verdict(done.scores, prior), done.finish
        return None

    def _prior_of(
        self, request: PreparedPrompt, choosing: ClassificationTask, scorer: Pool
    ) -> tuple[float, ...] | None:
        """As `choosing.prior_of`, but not again for another input to the same question."""
        empty = [request.question.without_input(request.lay_out, text) for text in CONTENT_FREE]
        if self._known is None or self._known.empty != empty or self._known.texts != choosing.texts:
            values = content_free_prior(choosing, scorer, empty)
            if values is None:
                return None
            self._known = _Prior(empty, choosing.texts, values)
        return self._known.values if choosing.is_calibrated else None

    def ask(
        self, request: PreparedPrompt, sampler: SamplerSettings, limits: Limits, listener: GenerationDelegate
    ) -> tuple[Response, object]:
        """The answer, and its value where it has a shape (None without one, and when it was cancelled).

        Raises `SlmError`: CONTEXT when the prompt leaves no room, UNSATISFIED when a second attempt is not right
        either. The window stays usable.
        """

        def once(sampler: SamplerSettings, limits: Limits) -> Response:
            session = self._opened()
            # before the handler: what it cancels must have begun
            events = session.generate(request.prompt, sampler, limits)
            with listener.cancellable(session):
                return response.consume_stream(
                    events,
                    listener.view(),
                    sanitizer=listener.sanitizer(),
                    keeps_space=request.keeps_space,
                    is_thinking=opens_thinking(request.prompt.parts[-1].text),
                )

        if request.shape is None:
            return once(sampler, limits), None
        return structured.generate_valid(request.shape, sampler, limits, once, on_retry=listener.on_retry)

    @property
    def n_ctx(self) -> int:
        """The context window in tokens."""
        return self._opened().n_ctx

    def close(self) -> None:
        """Free the window and the weights."""
        if self._session is not None:
            self._session.close()
            self._session = None
        if self._scorer is not None:
            self._scorer.close()
            self._scorer = None
        self.engine.close()

    def _opened(self) -> Session:
        assert self._session is not None
        return self._session


def _too_long(n_prompt: int, n_ctx: int, max_tokens: int | None, n_trained: int) -> SlmError:
    larger = f"a larger one: --ctx {n_prompt + COMPLETION_ROOM}" if n_prompt < n_trained else None
    return SlmError(
        window.overflow("the prompt is", n_prompt, n_ctx, max_tokens)
        + ("." if larger else f"; this model was trained for {n_trained:,}."),
        hint=f"{larger or 'a shorter input'}; or leave out the end of the input: --on-overflow trim",
        exit_code=ExitCode.CONTEXT,
    )
