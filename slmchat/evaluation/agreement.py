"""How much a quantization says the same as a larger one of the same model, at every place of a text.

A score in a task needs hundreds of items to tell two quantizations apart; what both expect next needs a page of text.
Two figures: how often their most probable token is the same, and the Kullback-Leibler divergence of what they expect,

    KL(P || Q) = sum over the vocabulary of P(t) * (ln P(t) - ln Q(t)),   in nats,

where P is what the reference (the largest one) expects and Q what the other one does: 0 where they are the same. It is
what `llama-perplexity --kl-divergence` tells, whose method is taken over (llama.cpp, tools/perplexity): the text is cut
into windows that are read from an empty cache, and the second half of each counts, where a place has enough before it.

Both models are in memory and read the text side by side, so that a few dozen places are held at a time, and nothing is
rounded to be kept. Logarithms are taken in double precision over the whole vocabulary.

Knows: windows, both figures, their intervals. Refuses to know: which models are installed, files, terminals.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from typing import Any

from slmchat.engine.api import TextLogits
from slmchat.engine.cancellable import CancelFlag, CancelScope
from slmchat.engine.probabilities import kl_divergence
from slmchat.errors import usage_error
from slmchat.evaluation.records import Agreement
from slmchat.evaluation.statistics import Interval, mean_interval
from slmchat.lazy_dataclasses import dataclass

WINDOW = 512
"""Tokens of a window, with the mark of its beginning."""

_WINDOWS = 8
"""As many windows are read when nobody says: 2,048 places count, and a 1B model needs about a minute for each pair."""

_SHORTEST = 32
"""Tokens of the shortest text: with fewer before it, what a model expects says little."""


@dataclass(slots=True)
class _Places:
    """The places of one window that count."""

    same: list[bool] = field(default_factory=list)
    divergences: list[float] = field(default_factory=list)


def windows_of(tokens: Sequence[int], mark: Sequence[int], *, most: int = _WINDOWS) -> list[list[int]]:
    """The first windows of a text; each begins with the mark of a text's beginning, as the text does (none: `mark` is
    empty).

    A text that is shorter than a window is one. Raises `SlmError` (USAGE) for one of less than 32 tokens.
    """
    if len(tokens) < _SHORTEST:
        raise usage_error(
            f"the text has {len(tokens):,} tokens, and fewer than {_SHORTEST} say nothing.",
            "a longer --text FILE; or without it, the text of the suite",
        )
    if len(tokens) <= WINDOW:
        return [list(tokens)]
    rest, each = tokens[len(mark) :], WINDOW - len(mark)
    return [[*mark, *rest[begin : begin + each]] for begin in range(0, len(rest) - each + 1, each)][:most]


def measure_agreement(
    name: str,
    reference: TextLogits,
    other: TextLogits,
    text: str,
    cancellable: CancelScope,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Agreement | None:
    """How much `other` says the same as `reference` (called `name`) over a text; None when it was cancelled before a
    window was done. `tell` hears how many windows are done, and of how many.

    Raises `SlmError`: USAGE for a text that is too short or that the two read as different tokens, and what reading
    raises.
    """
    tokens = reference.tokens(text)
    if other.tokens(text) != tokens:
        raise usage_error(f"it reads the text as other tokens than {name}: the two are not the same model.")
    is_cancelled = CancelFlag(reference, other)
    windows = windows_of(tokens, reference.tokens(""))
    done: list[_Places] = []
    with cancellable(is_cancelled):
        for window in windows:
            tell(len(done), len(windows))
            places = _compared(reference, other, window)
            if is_cancelled():
                break
            done.append(places)
    return _agreement(name, done) if done else None


def _compared(reference: TextLogits, other: TextLogits, window: Sequence[int]) -> _Places:
    """Both figures at the places of the second half of a window; the last one has nothing behind it, and counts."""
    found = _Places()
    for place, (ours, theirs) in enumerate(zip(_rows(reference, window), _rows(other, window), strict=False)):
        if place >= len(window) // 2:
            found.same.append(int(ours.argmax()) == int(theirs.argmax()))
            found.divergences.append(kl_divergence(ours, theirs))
    return found


def _rows(reader: TextLogits, window: Sequence[int]) -> Iterator[Any]:
    for piece in reader.read(window):
        yield from piece


def _agreement(name: str, windows: Sequence[_Places]) -> Agreement:
    same = [[float(each) for each in window.same] for window in windows]
    divergences = [window.divergences for window in windows]
    n_places = sum(map(len, same))
    top, low, high = _mean_with_interval(same)
    kl, kl_low, kl_high = _mean_with_interval(divergences)
    return Agreement(
        reference=name,
        n_tokens=n_places,
        top_token=top,
        top_token_interval=Interval(max(0.0, low), min(1.0, high)),
        kl_divergence=kl,
        kl_interval=Interval(max(0.0, kl_low), kl_high),
    )


def _mean_with_interval(windows: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """The mean of all places, and its 95 % interval: over windows, as places of one window are alike; where there is
    only one, over its places."""
    places = [value for window in windows for value in window]
    mean = math.fsum(places) / len(places)
    values = [math.fsum(window) / len(window) for window in windows] if len(windows) > 1 else places
    interval = mean_interval(values)
    return mean, interval.low, interval.high
