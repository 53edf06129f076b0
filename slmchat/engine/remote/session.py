"""One conversation with a model of an OpenAI-compatible endpoint (`RemoteSession`).

Knows: how an answer becomes the records of every engine, what is asked again without a field that was refused, what is
told of an answer that is none. Refuses to know: which model is meant (engine.py), what its answers have taught so far
(known_model.py), connections (client.py).
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import Any

from slmchat.engine.remote import completion, dialect, errors
from slmchat.engine.remote.adapters import RemoteAdapter
from slmchat.engine.remote.bounds import Bounds
from slmchat.engine.remote.cancel import Cancelled
from slmchat.engine.remote.client import Client
from slmchat.engine.remote.completion import AnswerEvent, CharacterJoiner, Counted
from slmchat.engine.remote.error_words import ErrorWords
from slmchat.engine.remote.known_model import KnownModel
from slmchat.engine.requests import Adapter, Limits, Prompt
from slmchat.engine.results import Chunk, Event, Finish, FinishReason, Prefill, Timings, TokenLogprob, Usage
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import usage_error
from slmchat.lazy_dataclasses import dataclass

_DONE = "[DONE]"
# Fields whose loss the user is told.
_WISHES = ("temperature", "top_p", "top_k", "min_p", "seed", "repeat_penalty", "repetition_penalty")
# Statuses with which servers refuse a field that they do not know, or a stream; 200: the error is in the answer.
_NOT_TAKEN = frozenset({200, 400, 405, 406, 415, 422, 501})
# Seconds for the end of a stream after its last event: long enough for a packet, too short to notice.
_END_S = 0.02


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
            usage=Usage(
                counted.prompt,
                counted.cached,
                counted.completion,
                is_estimate=self.counted is None,
                thinking_tokens=counted.thinking,
            ),
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

    def __init__(self, model: KnownModel, client: Client) -> None:
        self._model = model
        self._client = client
        self._adapters: tuple[RemoteAdapter, ...] = ()

    @property
    def n_ctx(self) -> int:
        """The context window in tokens; 0: the endpoint does not say."""
        return self._model.n_ctx

    def cancel(self) -> None:
        """Close the stream that is read (or awaited), end a pause; from any thread or a signal handler."""
        self._client.cancel.set()

    def set_adapters(self, adapters: Sequence[Adapter]) -> None:
        """Ask for these adapters of the server, and no others, from the next request on.

        None named: those that the server applies by itself, which an empty list means to llama-server as well
        (server-context.cpp, `launch_slot_with_task`). To have none at all, name them with scale 0.
        """
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
        if dialect.goes_on(prompt) and not self._model.listed.kind.can_go_on:
            raise usage_error(
                f"{self._model.endpoint.address} cannot go on with an answer that was cut, as far as slm knows.",
                "/retry asks the question again",
            )
        if _shows_pictures(prompt) and self._model.listed.sees is False:
            raise errors.does_not_see(self._model.endpoint)
        return self._generate(prompt, sampler.with_seed(), limits)

    def _generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        bounds = Bounds(limits.max_tokens, self._model.endpoint.timeout_s)
        run = _Run(time.perf_counter(), self._model.count(prompt), sampler.seed or 0, bounds)
        run.fields = dialect.body(self._model.listed, prompt, sampler, limits)
        lacking = dialect.not_asked(self._model.listed.kind, limits.thinking) if prompt.turns else None
        if lacking:
            self._tell_once(lacking)
        if self._adapters:
            run.fields["lora"] = [{"id": one.number, "scale": one.scale} for one in self._adapters]
        yield Prefill(0, run.n_estimated, 0)
        try:
            yield from self._answer(prompt, run)
        except Cancelled:
            self._client.close()
            yield run.finish(FinishReason.INTERRUPTED)
            return
        if run.counted is not None:
            self._model.learn(prompt, run.counted)
        reason = self._reason(run, limits)
        self._tell_of_nothing(run, reason)
        yield run.finish(reason)

    def _answer(self, prompt: Prompt, run: _Run) -> Iterator[Event]:
        path = "/chat/completions" if prompt.turns else "/completions"
        for name in self._model.left_out - {"stream"}:
            run.fields.pop(name, None)
        if "stream" in self._model.left_out:
            run.fields = dialect.unstreamed(run.fields)
        while True:
            try:
                yield from self._read(path, run)
                return
            except errors.Refusal as refusal:
                if refusal.said.n_ctx:
                    self._model.learn_window(refusal.said.n_ctx)
                if refusal.said.is_about_pictures and _shows_pictures(prompt):
                    self._model.learn_blindness()
                    raise errors.does_not_see(self._model.endpoint, refusal) from refusal
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
            self._model.left_out |= {name}
            if name in (*_WISHES, *dialect.THINKING_FIELDS):
                self._client.tell(f"{self._model.endpoint.address} does not take {name}: it is left out")
        return True

    def _read(self, path: str, run: _Run) -> Iterator[Event]:
        endpoint = self._model.endpoint
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
        if run.reason is None and (not run.is_done or self._model.listed.kind.answers_one):
            raise errors.truncated(endpoint)

    def _said(self, data: str, run: _Run) -> AnswerEvent:
        endpoint = self._model.endpoint
        try:
            return completion.read(data)
        except completion.MalformedEvent as error:
            raise errors.garbled(endpoint, str(error)) from error
        except completion.ErrorEvent as error:
            status = ErrorWords(str(error)).status
            if status is not None and run.first is None:
                raise self._client.refusal(status, str(error)) from error
            raise errors.of_event(endpoint, str(error), is_begun=run.first is not None) from error

    def _records(self, said: AnswerEvent, run: _Run) -> Iterator[Event]:
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
            self._client.allow("rest", self._model.endpoint.timeout_s)
        if said.text or said.thinking or said.calls_tool:
            yield from self._piece(said, run)
        if said.brings_something:
            self._wait_for_more(run)

    def _piece(self, said: AnswerEvent, run: _Run) -> Iterator[Event]:
        """A part of the answer, as much of it as there may be."""
        with errors.translated(self._model.endpoint):
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
        yield from self._chunks(run.thought.feed(thinking), run.answer.feed(text), said.logprobs)

    @staticmethod
    def _chunks(thinking: str, text: str, logprobs: tuple[TokenLogprob, ...]) -> Iterator[Event]:
        if thinking:
            yield Chunk(thinking, (), True)
        if text:
            yield Chunk(text, (), False, logprobs=logprobs)

    def _wait_for_more(self, run: _Run) -> None:
        """Give the next part of the answer its time: little when all has been said."""
        if run.reason is not None or run.bounds.is_full:
            self._client.expect_end(run.bounds.patience_at_the_end)
        else:
            self._client.allow(*run.bounds.patience(self._client.waited_s))

    def _tell_once(self, what: str) -> None:
        if self._model.is_new(what):
            self._client.tell(f"{self._model.endpoint.address} {what}")

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
        self._client.tell(f"{self._model.endpoint.address} {what}")

    def _reason(self, run: _Run, limits: Limits) -> FinishReason:
        """The finish reason in slm's words. `length` is the limit that was asked for, else the window's end."""
        if run.reason not in ("length", "max_tokens"):
            if run.reason == "content_filter":
                self._client.tell(f"{self._model.endpoint.address} ended the answer: its content filter stepped in")
            return FinishReason.STOP
        if run.bounds.is_cut:
            return FinishReason.LENGTH
        if run.counted is None or limits.max_tokens is None:
            return FinishReason.LENGTH if limits.max_tokens is not None else FinishReason.CONTEXT
        return FinishReason.LENGTH if run.counted.completion >= limits.max_tokens else FinishReason.CONTEXT
