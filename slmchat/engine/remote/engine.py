"""A model of an OpenAI-compatible endpoint (`RemoteEngine`) and one conversation with it (`RemoteSession`).

Knows: which model is meant, how an answer becomes the records of every engine, what can only be guessed from here.
Refuses to know: conversations, terminals, where the endpoint and its key are kept (endpoints.py).

The model is laid out and counted over there: messages are sent as turns, and token counts are estimates until the
endpoint tells its own. A session has a connection of its own, so that many can ask at once.
"""

import difflib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from slmchat.endpoints import Endpoint
from slmchat.engine.api import (
    Adapter,
    Chance,
    Chunk,
    Event,
    Finish,
    FinishReason,
    Limits,
    ModelInfo,
    Pool,
    Prefill,
    Prompt,
    SessionSettings,
    Timings,
    Usage,
)
from slmchat.engine.remote import completion, dialect, errors
from slmchat.engine.remote.adapters import RemoteAdapter, list_adapters
from slmchat.engine.remote.bounds import Bounds
from slmchat.engine.remote.cancel import Cancelled
from slmchat.engine.remote.client import Client
from slmchat.engine.remote.completion import CharacterJoiner, Counted, Said
from slmchat.engine.remote.dialect import Listed
from slmchat.engine.remote.route import Route
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError

if TYPE_CHECKING:
    from slmchat.engine.remote.pool import RemotePool

# Bytes of UTF-8 for one token of English text, before the endpoint has told better; tokens around a message.
_BYTES_PER_TOKEN = 4.0
_TOKENS_PER_TURN = 4
# Pixels of an image for one token: patches of 28 by 28 (Qwen-VL and its like; others take fewer tokens).
_PIXELS_PER_TOKEN = 28 * 28
# What a guess may be off by before it is believed.
_SANE = (0.5, 16.0)

_DONE = "[DONE]"
# Statuses with which servers refuse a field that they do not know, or a stream; 200: the error is in the answer.
_NOT_TAKEN = frozenset({200, 400, 405, 406, 415, 422, 501})
# Seconds for the end of a stream after its last event: long enough for a packet, too short to notice.
_END_S = 0.02


class RemoteEngine:
    """A model over there. Implements `Engine`."""

    def __init__(self, client: Client, new_client: Callable[[], Client], model: Listed) -> None:
        """`client` has asked for the models; the first session goes on with its connection."""
        self.endpoint = client.endpoint
        self.model = model
        self.left_out: frozenset[str] = frozenset()  # fields that this endpoint refuses
        self._told: set[str] = set()
        self._new_client = new_client
        self._spare: Client | None = client
        self._n_ctx = model.n_ctx or 0
        self._bytes_per_token = _BYTES_PER_TOKEN

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(
            architecture="remote",
            trained_context_length=self._n_ctx,
            chat_template=None,
            bos_text="",
            eos_text="",
            has_own_layout=True,
            has_exact_counts=False,
        )

    @property
    def n_ctx(self) -> int:
        """The context window in tokens, 0 while the endpoint has not told it."""
        return self._n_ctx

    def count(self, prompt: Prompt) -> int:
        """About how many tokens the prompt has; better once the endpoint has counted one itself."""
        size = sum(len(part.text.encode()) for part in prompt.parts)
        return round(size / self._bytes_per_token) + _tokens_besides(prompt)

    def open_session(self, settings: SessionSettings) -> "RemoteSession":
        """A new conversation. The endpoint decides how it computes: of the `settings` only the adapters have a say.

        Raises `SlmError` as `RemoteSession.set_adapters` does.
        """
        client, self._spare = self._spare or self._new_client(), None
        session = RemoteSession(self, client)
        if settings.adapters:
            session.set_adapters(settings.adapters)
        return session

    def open_pool(self, settings: SessionSettings, parallel: int | None = None) -> "RemotePool":
        """Up to `parallel` requests at once; the endpoint decides how it computes them."""
        from slmchat.engine.remote.pool import AT_ONCE, RemotePool

        most, why = parallel or AT_ONCE, "as asked for" if parallel else "more: --parallel N"
        if self.model.kind.answers_one:
            most, why = 1, "a second one would end the first on this server"
        return RemotePool(lambda: self.open_session(settings), most, why)

    def open_scorer(self, settings: SessionSettings) -> Pool:
        """Never: the API has no field for the probability of a text that is given."""
        raise SlmError(
            f"--choices needs probabilities of whole texts, which {self.endpoint.address} does not tell.",
            hint='a choice that is generated: --regex "(yes|no)" or --fields "mood enum(good|bad)"',
            exit_code=ExitCode.USAGE,
        )

    def close(self) -> None:
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    def learn(self, prompt: Prompt, counted: Counted) -> None:
        """The endpoint has counted a prompt: later guesses follow it."""
        size = sum(len(part.text.encode()) for part in prompt.parts)
        tokens = counted.prompt - _tokens_besides(prompt)
        if size >= 200 and tokens > 0:
            self._bytes_per_token = min(max(size / tokens, _SANE[0]), _SANE[1])

    def learn_blindness(self) -> None:
        """The endpoint has refused pictures."""
        self.model = replace(self.model, sees=False)

    def is_new(self, sentence: str) -> bool:
        """Whether this has not been told yet: what an endpoint does at every answer is told once."""
        is_new = sentence not in self._told
        self._told.add(sentence)
        return is_new

    def learn_window(self, n_ctx: int) -> None:
        """The endpoint has told its context window, in an error for example."""
        self._n_ctx = n_ctx


def _tokens_besides(prompt: Prompt) -> int:
    """About how many tokens are not of the text: around each message, and for images."""
    images = [part.image for part in prompt.parts if part.image is not None]
    return _TOKENS_PER_TURN * len(prompt.turns) + sum(
        math.ceil(image.width * image.height / _PIXELS_PER_TOKEN) for image in images
    )


def load(
    endpoint: Endpoint, key: str | None, name: str | None, route: Route, tell: Callable[[str], None]
) -> RemoteEngine:
    """The model of this name on an endpoint, or its only one. `tell` hears what the user should know meanwhile.

    Raises `SlmError`: NETWORK when the endpoint cannot be asked, NO_MODEL with the closest names.
    """

    def new_client() -> Client:
        return Client(endpoint, key, route, tell)

    client = new_client()
    name = name or endpoint.model
    models = _models(client, must_tell=name is None)
    return RemoteEngine(client, new_client, Listed(name) if models is None and name else choose(models, name, endpoint))


def list_models(endpoint: Endpoint, key: str | None, route: Route, tell: Callable[[str], None]) -> tuple[Listed, ...]:
    """The models of an endpoint. Raises `SlmError` (network)."""
    client = Client(endpoint, key, route, tell)
    try:
        return _models(client, must_tell=True) or ()
    finally:
        client.close()


def _models(client: Client, *, must_tell: bool) -> tuple[Listed, ...] | None:
    """What `/models` lists; None where an endpoint has no such list, unless it `must_tell`."""
    try:
        found = dialect.listed(client.get("/models"))
    except errors.Refusal as refusal:
        if refusal.status not in (404, 405, 501):
            raise
        if must_tell:
            raise errors.lists_nothing(client.endpoint, refusal) from refusal
        return None
    if found is None and must_tell:
        raise errors.garbled(client.endpoint, "it is not a list of models")
    return found


def served_adapters(
    endpoint: Endpoint, key: str | None, route: Route, tell: Callable[[str], None]
) -> tuple[RemoteAdapter, ...]:
    """The LoRA adapters of an endpoint. Raises `SlmError` as `list_adapters` does."""
    client = Client(endpoint, key, route, tell)
    try:
        return list_adapters(client)
    finally:
        client.close()


def choose(models: tuple[Listed, ...] | None, name: str | None, endpoint: Endpoint) -> Listed:
    """The model that is meant. Raises `SlmError` (no model)."""
    models = models or ()
    where = endpoint.address
    hint = f"slm list --endpoint {endpoint.asked_as}"
    if name is None:
        if len(models) == 1:
            return models[0]
        what = "has no model" if not models else f"has {len(models):,} models and none is chosen"
        raise SlmError(f"{where} {what}.", hint=f"name one with -m; {hint}", exit_code=ExitCode.NO_MODEL)
    for spelled in (name, f"{name}:latest"):  # as Ollama reads a name without a tag
        for model in models:
            if spelled in (model.id, *model.aliases):
                return model
    same = [model for model in models if model.id.casefold() == name.casefold()]
    if len(same) == 1:
        return same[0]
    near = _near(name, [model.id for model in models])
    hint = f"did you mean {', '.join(near)}?" if near else hint
    raise SlmError(f"{where} has no model '{name}'.", hint=hint, exit_code=ExitCode.NO_MODEL)


def _near(name: str, ids: list[str]) -> list[str]:
    folded = {id.casefold(): id for id in ids}
    for id in ids:  # llama-server names a model by its file
        folded.setdefault(id.rpartition("/")[2].casefold().removesuffix(".gguf"), id)
    close = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.6)
    parts = [low for low in folded if name.casefold() in low]
    return list(dict.fromkeys(folded[low] for low in [*close, *parts]))[:3]


@dataclass(slots=True)
class _Run:
    """Counts and clocks of one generation."""

    start: float
    n_estimated: int
    seed: int
    bounds: Bounds
    first: float | None = None
    has_text: bool = False
    has_thought: bool = False
    calls_tool: bool = False
    counted: Counted | None = None
    reason: str | None = None
    progress: tuple[int, int, int] | None = None
    has_choice: bool = False
    is_done: bool = False
    fields: dict[str, Any] = field(default_factory=dict)
    answer: CharacterJoiner = field(default_factory=CharacterJoiner)
    thought: CharacterJoiner = field(default_factory=CharacterJoiner)

    def finish(self, reason: FinishReason) -> Finish:
        now = time.perf_counter()
        first = self.first if self.first is not None else now
        counted = self.counted or Counted(self.n_estimated, self.bounds.pieces, 0)
        return Finish(
            reason=reason,
            usage=Usage(counted.prompt, counted.cached, counted.completion, is_estimate=self.counted is None),
            timings=Timings(
                prompt_s=first - self.start,
                generation_s=now - first,
                ttft_s=None if self.first is None else first - self.start,
            ),
            seed=self.seed,
            tokens=None,
        )


def _shows_pictures(prompt: Prompt) -> bool:
    return any(turn.images for turn in prompt.turns)


class RemoteSession:
    """One conversation over a connection of its own. Implements `Session`."""

    def __init__(self, engine: RemoteEngine, client: Client) -> None:
        self._engine = engine
        self._client = client
        self._adapters: tuple[RemoteAdapter, ...] | None = None  # None: those that the server applies by itself

    @property
    def n_ctx(self) -> int:
        """The context window in tokens; 0: the endpoint does not say."""
        return self._engine.n_ctx

    def cancel(self) -> None:
        """Close the stream that is read (or awaited), end a pause; from any thread or a signal handler."""
        self._client.cancel.set()

    def set_adapters(self, adapters: Sequence[Adapter]) -> None:
        """Ask for these adapters of the server, and no others, from the next request on."""
        self._adapters = tuple(one for one in adapters if isinstance(one, RemoteAdapter))

    def keep(self, owner: str, *, is_resting: bool = False) -> None:
        """Nothing: the state is the endpoint's."""

    def pause(self, seconds: float) -> bool:
        """Wait before asking again; False as soon as somebody cancels."""
        try:
            self._client.cancel.sleep(seconds)
        except Cancelled:
            return False
        return True

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        """Ask, and pass the answer on as it comes: `Prefill`* -> `Chunk`* -> `Finish`.

        A `cancel` counts from this call on. Raises `SlmError`: NETWORK for whatever happens on the way, CONTEXT when
        the endpoint says that the prompt does not fit, USAGE for what it does not take; the session stays usable.
        """
        self._client.cancel.reset()
        if dialect.goes_on(prompt) and not self._engine.model.kind.can_go_on:
            raise SlmError(
                f"{self._engine.endpoint.address} cannot go on with an answer that was cut, as far as slm knows.",
                hint="/retry asks the question again",
                exit_code=ExitCode.USAGE,
            )
        if _shows_pictures(prompt) and self._engine.model.sees is False:
            raise errors.does_not_see(self._engine.endpoint)
        return self._generate(prompt, sampler.with_seed(), limits)

    def _generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        bounds = Bounds(limits.max_tokens, self._engine.endpoint.timeout_s)
        run = _Run(time.perf_counter(), self._engine.count(prompt), sampler.seed or 0, bounds)
        run.fields = dialect.body(self._engine.model, prompt, sampler, limits)
        if self._adapters is not None:
            run.fields["lora"] = [{"id": one.number, "scale": one.scale} for one in self._adapters]
        yield Prefill(0, run.n_estimated, 0)
        try:
            yield from self._answer(prompt, run)
        except Cancelled:
            self._client.close()
            yield run.finish(FinishReason.INTERRUPTED)
            return
        if run.counted is not None:
            self._engine.learn(prompt, run.counted)
        reason = self._reason(run, limits)
        self._tell_of_nothing(run, reason)
        yield run.finish(reason)

    def _answer(self, prompt: Prompt, run: _Run) -> Iterator[Event]:
        path = "/chat/completions" if prompt.turns else "/completions"
        for name in self._engine.left_out - {"stream"}:
            run.fields.pop(name, None)
        if "stream" in self._engine.left_out:
            run.fields = dialect.unstreamed(run.fields)
        while True:
            try:
                yield from self._read(path, run)
                return
            except errors.Refusal as refusal:
                if refusal.said.n_ctx:
                    self._engine.learn_window(refusal.said.n_ctx)
                if refusal.said.is_about_pictures and _shows_pictures(prompt):
                    self._engine.learn_blindness()
                    raise errors.does_not_see(self._engine.endpoint, refusal) from refusal
                if run.first is not None or not self._is_taken_without(run, refusal):
                    raise

    def _is_taken_without(self, run: _Run, refusal: errors.Refusal) -> bool:
        """Leave a field out that the endpoint refuses, and say so; False when that is not what it refuses."""
        if refusal.status not in _NOT_TAKEN:
            return False
        fewer = dialect.without_refused(run.fields, refusal.said.text, refusal.said.param)
        if fewer is None:
            return False
        name, run.fields = fewer
        if name != "max_tokens":
            self._engine.left_out |= {name}
            if name in ("temperature", "top_p", "top_k", "min_p", "seed", "repeat_penalty", "repetition_penalty"):
                self._client.tell(f"{self._engine.endpoint.address} does not take {name}: it is left out")
        return True

    def _read(self, path: str, run: _Run) -> Iterator[Event]:
        endpoint = self._engine.endpoint
        stream = self._client.events(path, run.fields)
        try:
            for data in stream:
                if data.strip() == _DONE and not run.is_done:
                    run.is_done = True
                    self._client.expect_end(_END_S)
                elif not run.is_done:
                    yield from self._records(self._said(data, run), run)
                if run.bounds.is_cut:
                    break
        except errors.Truncated:
            if run.reason is None:  # else all has been said, and only the usage may be missing
                raise
        finally:
            stream.close()
        yield from self._chunks(run.thought.flush(), run.answer.flush(), ())
        if not run.has_choice:
            hint = "a prompt that is too long for it ends so on some servers; its log says why"
            raise errors.garbled(endpoint, "there is no completion in it", hint)
        if run.reason is None and run.bounds.is_full:
            run.reason = "length"
        if run.reason is None and (not run.is_done or self._engine.model.kind.answers_one):
            raise errors.truncated(endpoint)

    def _said(self, data: str, run: _Run) -> Said:
        endpoint = self._engine.endpoint
        try:
            return completion.read(data)
        except completion.Malformed as error:
            raise errors.garbled(endpoint, str(error)) from error
        except completion.ErrorEvent as error:
            status = errors.Said(str(error)).status
            if status is not None and run.first is None:
                raise self._client.refusal(status, str(error)) from error
            raise errors.of_event(endpoint, str(error), is_begun=run.first is not None) from error

    def _records(self, said: Said, run: _Run) -> Iterator[Event]:
        run.counted = said.counted or run.counted
        run.reason = said.reason or run.reason
        run.has_choice = run.has_choice or said.has_choice
        run.calls_tool = run.calls_tool or said.calls_tool
        if said.has_others:
            self._tell_once("sends several answers to one question; slm takes the first")
        if said.progress and run.first is None and said.progress != run.progress:
            run.progress = said.progress
            done, total, cached = said.progress
            yield Prefill(done, total, cached)
            self._client.allow("rest", self._engine.endpoint.timeout_s)
        if said.text or said.thinking or said.calls_tool:
            yield from self._piece(said, run)
        if said.brings_something:
            self._wait_for_more(run)

    def _piece(self, said: Said, run: _Run) -> Iterator[Event]:
        """A part of the answer, as much of it as there may be."""
        with errors.translated(self._engine.endpoint):
            admitted = run.bounds.admit(said.thinking + said.text, said.counted.completion if said.counted else None)
        if run.bounds.is_cut:
            run.reason = "length"
            self._tell_once("does not keep to -n: slm takes no more of its answer")
        thinking, text = admitted[: len(said.thinking)], admitted[len(said.thinking) :]
        if run.first is None and admitted:
            run.first = time.perf_counter()
            if run.progress is None:
                yield Prefill(run.n_estimated, run.n_estimated, 0)
        run.has_text = run.has_text or bool(text.strip())
        run.has_thought = run.has_thought or bool(thinking)
        yield from self._chunks(run.thought.feed(thinking), run.answer.feed(text), said.chances)

    @staticmethod
    def _chunks(thinking: str, text: str, chances: tuple[Chance, ...]) -> Iterator[Event]:
        if thinking:
            yield Chunk(thinking, (), True)
        if text:
            yield Chunk(text, (), False, chances=chances)

    def _wait_for_more(self, run: _Run) -> None:
        """Give the next part of the answer its time: little when all has been said."""
        if run.reason is not None or run.bounds.is_full:
            self._client.expect_end(run.bounds.patience_at_the_end)
        else:
            self._client.allow(*run.bounds.patience(self._client.waited_s))

    def _tell_once(self, what: str) -> None:
        if self._engine.is_new(what):
            self._client.tell(f"{self._engine.endpoint.address} {what}")

    def _tell_of_nothing(self, run: _Run, reason: FinishReason) -> None:
        """An answer without text is no silence: why there is none."""
        if run.has_text:
            return
        what = "ended without an answer"
        if run.calls_tool:
            what = "answers with a call of a tool, which slm did not offer, and without text"
        elif run.has_thought and reason is not FinishReason.STOP:
            what = "was still thinking when its tokens were used up: there is no answer (more of them: -n N)"
        elif run.has_thought:
            what = "thought, and ended without an answer"
        self._client.tell(f"{self._engine.endpoint.address} {what}")

    def _reason(self, run: _Run, limits: Limits) -> FinishReason:
        """The finish reason in slm's words. `length` is the limit that was asked for, else the window's end."""
        if run.reason not in ("length", "max_tokens"):
            if run.reason == "content_filter":
                self._client.tell(f"{self._engine.endpoint.address} ended the answer: its content filter stepped in")
            return FinishReason.STOP
        if run.bounds.is_cut:
            return FinishReason.LENGTH
        if run.counted is None or limits.max_tokens is None:
            return FinishReason.LENGTH if limits.max_tokens is not None else FinishReason.CONTEXT
        return FinishReason.LENGTH if run.counted.completion >= limits.max_tokens else FinishReason.CONTEXT
