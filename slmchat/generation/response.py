"""Following one generation: prefill progress, thinking, the answer as it comes, how it ended.

`run` and `chat` loop over the same records here; a `StreamHandler` decides what each of them looks like.
Knows: the order of the records, what is an answer and what only thinking.
Refuses to know: how the prompt was made, how anything is drawn.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from slmchat.conversation.thinking import ThinkingSplitter
from slmchat.engine.api import Chance, Chunk, Event, Finish, Prefill, Usage
from slmchat.sanitize import Sanitizer


class StreamHandler(Protocol):
    """What shows a generation."""

    def prefill(self, event: Prefill) -> None:
        """The prompt is being evaluated."""
        ...

    def thinking(self, text: str) -> None:
        """Part of what a reasoning model says before its answer."""
        ...

    def doubt(self, logprob: float) -> None:
        """The next part of the answer has a token with this log-probability (0: as sure as can be, or not told)."""
        ...

    def answer(self, text: str) -> None:
        """Part of the answer. Raises BrokenPipeError when the reader has gone."""
        ...

    def close(self) -> None:
        """The generation has ended, one way or another."""
        ...


class NullHandler:
    """A view of an answer that is wanted whole. Implements `StreamHandler`."""

    def prefill(self, event: Prefill) -> None: ...

    def thinking(self, text: str) -> None: ...

    def doubt(self, logprob: float) -> None: ...

    def answer(self, text: str) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Response:
    """A completion so far, or whole when `finish` is set.

    `has_marks`: the text lacks the marks of a thought that the tokens hold, so that they are of no use to a later
    prompt, which leaves thoughts out. `chances`: of all tokens, where they were asked for.
    """

    text: str = ""
    thinking: str = ""
    has_marks: bool = False
    finish: Finish | None = None
    chances: tuple[Chance, ...] = ()


def consume_stream(
    events: Iterable[Event],
    view: StreamHandler,
    *,
    sanitizer: Sanitizer | None,
    keeps_space: bool = False,
    is_thinking: bool = False,
    on_growth: Callable[[Response], None] | None = None,
) -> Response:
    """Show a generation and return it whole.

    Unless `keeps_space`, white space at the beginning is left out: templates end in a line break, models add another.
    `is_thinking`: the template has opened a thought already. Control sequences are removed by `sanitizer`, before they
    are kept; None leaves them. What else a terminal must not get is the view's own business. `on_growth` hears of the
    answer at every chunk, so that nothing said is lost. The view is closed in any case.
    """
    heard = ResponseBuilder(view, None if keeps_space else ThinkingSplitter(opened=is_thinking))
    finish: Finish | None = None
    try:
        for event in events:
            if isinstance(event, Prefill):
                view.prefill(event)
            elif isinstance(event, Chunk):
                heard.chances += event.chances
                view.doubt(min((chance.logprob for chance in event.chances), default=0.0))
                heard.put(sanitizer.feed(event.text) if sanitizer else event.text, is_thought=event.is_thinking)
                if on_growth is not None:
                    on_growth(heard.answer())
            else:
                finish = event
        heard.put(sanitizer.flush() if sanitizer else "")
        heard.flush()
    finally:
        view.close()
    return heard.answer(finish)


class ResponseBuilder:
    """What has come so far, thoughts apart from the answer where there is a `splitter`."""

    def __init__(self, view: StreamHandler, splitter: ThinkingSplitter | None) -> None:
        self._view = view
        self._splitter = splitter
        # a str would be copied at every chunk: a cost per token that grows with the answer
        self._text, self._thinking = io.StringIO(), io.StringIO()
        self.chances: list[Chance] = []

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
        chances = tuple(self.chances) if finish is not None else ()
        return Response(self._text.getvalue(), self._thinking.getvalue(), has_marks, finish, chances)

    def _show(self, piece: str, *, is_thought: bool) -> None:
        if is_thought:
            self._thinking.write(piece)
            self._view.thinking(piece)
            return
        piece = piece.lstrip() if self._splitter is not None and not self._text.tell() else piece
        if piece:
            self._text.write(piece)
            self._view.answer(piece)


def usage_fields(usage: Usage) -> dict[str, object]:
    """The token counts as `--json` and the records of a batch have them."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        **(
            {"drafted_tokens": usage.drafted_tokens, "accepted_tokens": usage.accepted_tokens}
            if usage.drafted_tokens
            else {}
        ),
        **({"is_estimate": True} if usage.is_estimate else {}),
    }


def logprob_fields(chances: Sequence[Chance]) -> list[dict[str, object]]:
    """The chances of all tokens as `--logprobs` has them in JSON; `bytes` where they are known."""

    def fields(text: str, logprob: float, data: bytes | None) -> dict[str, object]:
        known = {} if data is None else {"bytes": list(data)}
        return {"token": text, **known, "logprob": round(logprob, 6)}

    return [
        {
            **fields(chance.text, chance.logprob, chance.data),
            "top": [
                fields(text, logprob, data)
                for (text, logprob), data in zip(chance.alternatives, chance.alternative_data, strict=True)
            ],
        }
        for chance in chances
    ]


def generation_tps(finish: Finish) -> float | None:
    """Tokens a second of the completion; None for a single one, which the prompt gives: it takes no time of its own."""
    usage, timings = finish.usage, finish.timings
    if usage.completion_tokens < 2 or timings.generation_s <= 0:
        return None
    return usage.completion_tokens / timings.generation_s


def describe(finish: Finish) -> str:
    """One line of statistics for `-v` and the chat."""
    usage, timings = finish.usage, finish.timings
    evaluated = usage.prompt_tokens - usage.cached_tokens
    about = "about " if usage.is_estimate else ""
    parts = [f"{about}{usage.prompt_tokens:,} prompt tokens"]
    if usage.cached_tokens:
        parts[0] += f" ({usage.cached_tokens:,} cached)"
    if evaluated and timings.prompt_s > 0:
        parts.append(f"{evaluated / timings.prompt_s:.0f} prompt tok/s")
    parts.append(f"{about}{usage.completion_tokens:,} completion tokens")
    if usage.drafted_tokens:
        share = usage.accepted_tokens / usage.drafted_tokens
        parts.append(f"{usage.accepted_tokens:,} of {usage.drafted_tokens:,} drafted tokens accepted ({share:.0%})")
    if (rate := generation_tps(finish)) is not None:
        parts.append(f"{rate:.1f} generation tok/s")
    if timings.ttft_s is not None:
        parts.append(f"first token after {timings.ttft_s:.2f} s")
    parts.append(f"finish reason {finish.reason}")
    return ", ".join(parts)
