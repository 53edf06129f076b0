"""What a benchmark says: a target, what was measured against it, and the raw numbers.

Every `bench_*.py` has `measure(repeat: int) -> list[Target]`; `sections.py` lists them, `__main__.py` runs them.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

# Seconds after which a target is not measured once more (`--patience`): a section should take about a minute.
patience_s = 15.0


@dataclass(frozen=True)
class Target:
    """One target and how far it was reached.

    `ratios`: one value for each repetition, measured side by side (ours against the peer's); their median counts.
    `raw`: what the ratios were made of, by name with unit ("slm tok/s": [...]). `is_at_least`: the median must reach
    `target`; else it must not exceed it. `unit` is set where the values are no ratios ("ms", "MiB").
    """

    name: str
    target: float
    ratios: Sequence[float]
    raw: Mapping[str, Sequence[float]]
    is_at_least: bool
    unit: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        return min(self.ratios), max(self.ratios)

    @property
    def is_met(self) -> bool:
        return self.median >= self.target if self.is_at_least else self.median <= self.target

    @property
    def wanted(self) -> str:
        return f"{'>=' if self.is_at_least else '<='} {self.target:g}{' ' + self.unit if self.unit else ''}"


def rounds(repeat: int) -> Iterator[int]:
    """0, 1, ... for each measurement of a target: at most `repeat`, at least one, none after `patience_s`."""
    end = time.perf_counter() + patience_s
    for number in range(repeat):
        if number and time.perf_counter() > end:
            return
        yield number


def pairs(
    repeat: int, ours: Callable[[], float], theirs: Callable[[], float]
) -> tuple[list[float], list[float], list[float]]:
    """Ratios ours/theirs with both raw lists: measured alternately, so that what disturbs one disturbs the other.

    The order changes with every pair, because the second of two often finds a warmer or a slower machine.
    """
    mine: list[float] = []
    others: list[float] = []
    for number in rounds(repeat):
        for is_ours in (True, False) if number % 2 == 0 else (False, True):
            (mine if is_ours else others).append(ours() if is_ours else theirs())
    return [a / b for a, b in zip(mine, others, strict=True)], mine, others
