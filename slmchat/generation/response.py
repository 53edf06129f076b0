"""A response while it comes, and the completion that it becomes: one record for the command line, Python and JSON.

Every door consumes the events of a generation here; a `StreamHandler` decides what each of them looks like.
Knows: the order of the records, what is an answer and what only thinking.
Refuses to know: how the prompt was made, how anything is drawn.
"""

import io
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from slmchat.conversation.thinking import ThinkingSplitter, opens_thinking
from slmchat.engine.requests import Prompt
from slmchat.engine.results import Chunk, Event, Finish, FinishReason, Prefill, Result, Timings, TokenLogprob, Usage
from slmchat.lazy_dataclasses import dataclass
from slmchat.sanitize import Sanitizer

if TYPE_CHECKING:  # most completions are the only one
    from slmchat.generation.ballot import Ballot


class StreamHandler(Protocol):
    """What shows a generation."""

    def prefill(self, event: Prefill) -> None:
        """The prompt is being evaluated."""
        ...

    def thinking(self, text: str) -> None:
        """Part of what a reasoning model says before its answer."""
        ...

    def logprob(self, logprob: float) -> None:
        """The next part of the answer has a token with this log-probability (0: as sure as can be, or not told)."""
        ...

    def answer(self, text: str) -> None:
        """Part of the answer. Raises BrokenPipeError when the reader has gone."""
        ...

    def close(self) -> None:
        """The generation has ended, one way or another."""
        ...


class NullHandler:
    """A handler for a completion that is wanted whole. Implements `StreamHandler`."""

    def prefill(self, event: Prefill) -> None: ...

    def thinking(self, text: str) -> None: ...

    def logprob(self, logprob: float) -> None: ...

    def answer(self, text: str) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Response:
    """A completion so far, or whole when `finish` is set.

    `has_marks`: the text lacks the marks of a thought that the tokens hold, so that they are of no use to a later
    prompt, which leaves thoughts out. `logprobs`: of all tokens, where they were asked for.
    """

    text: str = ""
    thinking: str = ""
    has_marks: bool = False
    finish: Finish | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


def consume_stream(
    events: Iterable[Event],
    handler: StreamHandler,
    *,
    sanitizer: Sanitizer | None,
    keeps_space: bool = False,
    is_thinking: bool = False,
    on_growth: Callable[[Response], None] | None = None,
) -> Response:
    """Show a generation and return it whole.

    Unless `keeps_space`, white space at the beginning is left out: templates end in a line break, models add another.
    `is_thinking`: the template has opened a thought already. Control sequences are removed by `sanitizer`, before they
    are kept; None leaves them. What else a terminal must not get is the handler's own business. `on_growth` hears of
    the answer at every chunk, so that nothing said is lost. The handler is closed in any case.
    """
    builder = ResponseBuilder(handler, None if keeps_space else ThinkingSplitter(opened=is_thinking))
    finish: Finish | None = None
    try:
        for event in events:
            if isinstance(event, Prefill):
                handler.prefill(event)
            elif isinstance(event, Chunk):
                builder.logprobs += event.logprobs
                handler.logprob(min((token_logprob.logprob for token_logprob in event.logprobs), default=0.0))
                builder.put(sanitizer.feed(event.text) if sanitizer else event.text, is_thought=event.is_thinking)
                if on_growth is not None:
                    on_growth(builder.answer())
            else:
                finish = event
        builder.put(sanitizer.flush() if sanitizer else "")
        builder.flush()
    finally:
        try:
            if isinstance(events, Generator):  # interrupted here, it would end when its traceback goes: under the next
                events.close()
        finally:
            handler.close()
    return builder.answer(finish)


def response_of(done: Result, prompt: Prompt, *, keeps_space: bool, is_sanitized: bool = True) -> Response:
    """The response that a request of a pool has come to; `done` is no error. The rest is as `consume_stream` has it."""
    assert done.finish is not None
    return consume_stream(
        (Chunk(done.thinking, (), is_thinking=True), Chunk(done.text, (), logprobs=done.logprobs), done.finish),
        NullHandler(),
        sanitizer=Sanitizer(show_invisible=False) if is_sanitized else None,
        keeps_space=keeps_space,
        is_thinking=not keeps_space and opens_thinking(prompt.parts[-1].text),
    )


class ResponseBuilder:
    """What has come so far, thoughts apart from the answer where there is a `splitter`."""

    def __init__(self, handler: StreamHandler, splitter: ThinkingSplitter | None) -> None:
        self._handler = handler
        self._splitter = splitter
        # a str would be copied at every chunk: a cost per token that grows with the answer
        self._text, self._thinking = io.StringIO(), io.StringIO()
        self.logprobs: list[TokenLogprob] = []

    def put(self, piece: str, *, is_thought: bool = False) -> None:
        if is_thought or self._splitter is None:
            self._show(piece, is_thought=is_thought)
            return
        for part in self._splitter.feed(piece):
            self._show(part.text, is_thought=part.is_thinking)

    def flush(self) -> None:
        for part in self._splitter.flush() if self._splitter else ():
            self._show(part.text, is_thought=part.is_thinking)

    def answer(self, finish: Finish | None = None) -> Response:
        has_marks = finish is not None and self._splitter is not None and self._splitter.has_marks
        logprobs = tuple(self.logprobs) if finish is not None else ()
        return Response(self._text.getvalue(), self._thinking.getvalue(), has_marks, finish, logprobs)

    def _show(self, piece: str, *, is_thought: bool) -> None:
        if is_thought:
            self._thinking.write(piece)
            self._handler.thinking(piece)
            return
        piece = piece.lstrip() if self._splitter is not None and not self._text.tell() else piece
        if piece:
            self._text.write(piece)
            self._handler.answer(piece)


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion; `str()` gives its text.

    `text`: without control sequences of terminals and without a thought.
    `value`: what it says where it was asked for with a schema, fields or JSON (a dict, list, ...), the text itself
    where it was asked for with a regular expression or a grammar, else None.
    `thinking`: what a reasoning model said before its answer, "" where there was nothing.
    `finish_reason`: "stop" (the model's own end or a stop sequence), "length" (`max_tokens`), "context" (the context
    window is full), "repetition" (it went round in circles, without `max_tokens`) or "interrupted" (it was cancelled).
    `usage` in tokens, `timings` in seconds; `seed` repeats the completion with the same settings. `logprobs`: of all
    its tokens, where they were asked for. `best_of`: the vote by which it was chosen among several, None where it is
    the only one.
    """

    text: str
    value: Any
    thinking: str
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    seed: int
    logprobs: tuple[TokenLogprob, ...] = ()
    best_of: "Ballot | None" = None

    def __str__(self) -> str:
        return self.text

    def as_json(self) -> dict[str, object]:
        """The keys that every JSON of a completion has (docs/commands.md)."""
        return {
            "completion": self.text,
            **({"thinking": self.thinking} if self.thinking else {}),
            "finish_reason": self.finish_reason.value,
            "usage": usage_fields(self.usage),
            **({"best_of": self.best_of.as_json()} if self.best_of else {}),
        }

    def record(self, model: str, load_s: float) -> dict[str, object]:
        """The object of `--json`: docs/commands.md has its keys. `load_s`: seconds until the model was there."""
        return {"model": model, **self.as_json(), "timings": self._timings_as_json(load_s), "seed": self.seed}

    def _timings_as_json(self, load_s: float) -> dict[str, object]:
        """Seconds, and tokens a second."""
        timings, evaluated = self.timings, self.usage.prompt_tokens - self.usage.cached_tokens
        rate = generation_tps(self.usage, timings)
        return {
            "load_s": round(load_s, 4),
            "prompt_s": round(timings.prompt_s, 4),
            "generation_s": round(timings.generation_s, 4),
            "prompt_tps": round(evaluated / timings.prompt_s, 2) if timings.prompt_s else None,
            "generation_tps": None if rate is None else round(rate, 2),
            "ttft_s": None if timings.ttft_s is None else round(timings.ttft_s, 4),
        }


def completion_of(made: Response, value: object = None) -> Completion:
    """The completion that a whole response is."""
    finish = made.finish
    assert finish is not None
    return Completion(
        made.text, value, made.thinking, finish.reason, finish.usage, finish.timings, finish.seed, made.logprobs
    )


def interrupted(n_prompt: int) -> Completion:
    """Of a generation that was cancelled where nothing is said before all is done. `n_prompt`: tokens."""
    usage, timings = Usage(n_prompt, 0, 0), Timings(0.0, 0.0, None)
    return Completion("", None, "", FinishReason.INTERRUPTED, usage, timings, 0)


def usage_fields(usage: Usage) -> dict[str, object]:
    """The token counts as `--json` and the records of a batch have them."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        **({"thinking_tokens": usage.thinking_tokens} if usage.thinking_tokens else {}),
        **(
            {"drafted_tokens": usage.drafted_tokens, "accepted_tokens": usage.accepted_tokens}
            if usage.drafted_tokens
            else {}
        ),
        **({"is_estimate": True} if usage.is_estimate else {}),
    }


def logprob_fields(logprobs: Sequence[TokenLogprob]) -> list[dict[str, object]]:
    """The logprobs of all tokens as `--logprobs` has them in JSON; `bytes` where they are known."""

    def fields(text: str, logprob: float, data: bytes | None) -> dict[str, object]:
        known = {} if data is None else {"bytes": list(data)}
        return {"token": text, **known, "logprob": round(logprob, 6)}

    return [
        {
            **fields(token_logprob.text, token_logprob.logprob, token_logprob.data),
            "top": [
                fields(text, logprob, data)
                for (text, logprob), data in zip(
                    token_logprob.alternatives, token_logprob.alternative_data, strict=True
                )
            ],
        }
        for token_logprob in logprobs
    ]


def silence(made: Completion | Response, usage: Usage, reason: FinishReason) -> str | None:
    """Why a completion has no answer, without a full stop; None when it has one, or somebody stopped it."""
    if made.text.strip() or reason is FinishReason.INTERRUPTED:
        return None
    if not made.thinking:
        return "the answer is empty: the model ended it at once" if reason is FinishReason.STOP else None
    thought = f"the model thought ({usage.thinking_tokens or usage.completion_tokens:,} tokens)"
    why = {
        FinishReason.LENGTH: "and its limit of tokens was used up",
        FinishReason.CONTEXT: "and the context window was full",
        FinishReason.REPETITION: "and went round in circles",
    }
    return f"there is no answer: {thought} {why.get(reason, 'and ended there')}"


def generation_tps(usage: Usage, timings: Timings) -> float | None:
    """Tokens a second of the completion; None for a single one, which the prompt gives: it takes no time of its own."""
    if usage.completion_tokens < 2 or timings.generation_s <= 0:
        return None
    return usage.completion_tokens / timings.generation_s


def describe(reason: FinishReason, usage: Usage, timings: Timings) -> str:
    """One line of statistics for `-v` and the chat."""
    evaluated = usage.prompt_tokens - usage.cached_tokens
    about = "about " if usage.is_estimate else ""
    parts = [f"{about}{usage.prompt_tokens:,} prompt tokens"]
    if usage.cached_tokens:
        parts[0] += f" ({usage.cached_tokens:,} cached)"
    if evaluated and timings.prompt_s > 0:
        prompt_rate = evaluated / timings.prompt_s
        parts.append(f"{prompt_rate:.{0 if prompt_rate >= 10 else 1}f} prompt tok/s")
    thought = f" ({usage.thinking_tokens:,} of them thinking)" if usage.thinking_tokens else ""
    parts.append(f"{about}{usage.completion_tokens:,} completion tokens{thought}")
    if usage.drafted_tokens:
        share = usage.accepted_tokens / usage.drafted_tokens
        parts.append(f"{usage.accepted_tokens:,} of {usage.drafted_tokens:,} drafted tokens accepted ({share:.0%})")
    if (rate := generation_tps(usage, timings)) is not None:
        parts.append(f"{rate:.1f} generation tok/s")
    if timings.ttft_s is not None:
        parts.append(f"first token after {timings.ttft_s:.2f} s")
    parts.append(f"finish reason {reason}")
    return ", ".join(parts)
