"""Showing one generation: prefill progress, the completion as it comes, statistics.

`run` and `chat` loop over the same records here. Knows: which stream gets what.
Refuses to know: how the prompt was made.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from slmchat.engine.api import Chunk, Event, Finish, Prefill
from slmchat.terminal.console import Console

# A prefill shorter than this is not worth a progress line, in seconds.
_QUIET_PREFILL_S = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole completion and how it ended."""

    text: str
    finish: Finish


class _PrefillLine:
    """Percent, tokens per second and time left of a prompt that takes a while; on a terminal's stderr only."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.perf_counter()
        self._is_shown = False

    def update(self, event: Prefill) -> None:
        elapsed = time.perf_counter() - self._start
        evaluated = event.done - event.cached
        if event.done >= event.total or not evaluated or elapsed < _QUIET_PREFILL_S:
            return
        rate = evaluated / elapsed
        left = (event.total - event.done) / rate
        self._is_shown = True
        self._console.status(
            f"reading the prompt: {100 * event.done // event.total} % of {event.total:,} tokens, "
            f"{rate:.0f} tokens/s, {left:.0f} s left"
        )

    def clear(self) -> None:
        if self._is_shown:
            self._console.status("")
            self._is_shown = False


def show(
    events: Iterable[Event], console: Console, *, is_raw_output: bool, keeps_space: bool, is_silent: bool = False
) -> Answer:
    """Write the completion to stdout as it comes and return it whole.

    Unless `keeps_space`, leading white space is left out: templates end in a line break, models add another.
    `is_silent`: nothing is written (for `--json`). Control sequences are removed from what is written and returned,
    unless `is_raw_output`. Raises BrokenPipeError when the reader has gone.
    """
    line = _PrefillLine(console)
    sanitizer = None if is_raw_output else console.sanitizer()
    written: list[str] = []
    finish: Finish | None = None

    def put(text: str) -> None:
        if not written and not keeps_space:
            text = text.lstrip()
        if not text:
            return
        written.append(text)
        if not is_silent:
            console.write(text)

    for event in events:
        if isinstance(event, Prefill):
            line.update(event)
        elif isinstance(event, Chunk):
            line.clear()
            put(sanitizer.feed(event.text) if sanitizer else event.text)
        else:
            finish = event
    line.clear()
    if sanitizer:
        put(sanitizer.flush())
    assert finish is not None, "a generation ends with a Finish"
    return Answer("".join(written), finish)


def describe(finish: Finish) -> str:
    """One line of statistics for `-v` and the chat."""
    usage, timings = finish.usage, finish.timings
    evaluated = usage.prompt_tokens - usage.cached_tokens
    parts = [f"{usage.prompt_tokens:,} prompt tokens"]
    if usage.cached_tokens:
        parts[0] += f" ({usage.cached_tokens:,} cached)"
    if evaluated and timings.prompt_s > 0:
        parts.append(f"{evaluated / timings.prompt_s:.0f} prompt tok/s")
    parts.append(f"{usage.completion_tokens:,} completion tokens")
    if usage.completion_tokens and timings.generation_s > 0:
        parts.append(f"{usage.completion_tokens / timings.generation_s:.1f} generation tok/s")
    if timings.ttft_s is not None:
        parts.append(f"first token after {timings.ttft_s:.2f} s")
    parts.append(f"finish reason {finish.reason}")
    return ", ".join(parts)
