"""How sure a score is: intervals and comparisons, by formulas that can be looked up.

Knows: the intervals of a share (Wilson) and of a mean (Student), the paired bootstrap of a difference.
Refuses to know: models and tasks.
"""

import math
import random
from collections.abc import Sequence

from slmchat.lazy_dataclasses import dataclass

# The 97.5th percentile of the normal distribution: an interval that holds the true value 95 times in 100.
_Z = 1.959963984540054

# How often items are drawn for a bootstrap, and how many draws that may be together: a second of one core.
_RESAMPLES, _LEAST_RESAMPLES = 10_000, 1_000
_MOST_DRAWS = 4_000_000
_SEED = 20_261_126


@dataclass(frozen=True, slots=True)
class Interval:
    """From `low` to `high`, both included."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


def wilson(n_right: int, n: int) -> Interval:
    """The 95 % interval of a share of which `n_right` of `n` were seen (Wilson 1927); 0 to 1 where nothing was.

    It stays inside 0 to 1 and is not empty at 0 of n and n of n, as the textbook interval is.
    """
    if n == 0:
        return Interval(0.0, 1.0)
    share, z2 = n_right / n, _Z * _Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Interval(0.0 if n_right == 0 else middle - half, 1.0 if n_right == n else middle + half)


@dataclass(frozen=True, slots=True)
class Difference:
    """The score of one model less that of another on the same items, and its 95 % interval (paired bootstrap)."""

    value: float
    interval: Interval
    n: int

    @property
    def is_clear(self) -> bool:
        """Whether zero is outside of the interval: the two differ by more than the luck of these items."""
        return not self.interval.holds(0.0)


def paired_difference(one: Sequence[float], other: Sequence[float]) -> Difference:
    """How much better `one` is: the mean of the differences item by item. Both have the same items in the same order.

    Items are drawn with replacement 10,000 times (of more than 400 items less often; Efron 1979); the middle 95 % of
    these means is the interval. With a fixed seed, so that the same items give the same interval.
    """
    n = len(one)
    if n == 0 or len(other) != n:
        raise ValueError("a difference needs the same items on both sides, at least one")
    gaps = [a - b for a, b in zip(one, other, strict=True)]
    drawn = random.Random(_SEED)
    n_means = max(_LEAST_RESAMPLES, min(_RESAMPLES, _MOST_DRAWS // n))
    means = sorted(sum(drawn.choices(gaps, k=n)) / n for _ in range(n_means))
    cut = round(0.025 * n_means)
    return Difference(sum(gaps) / n, Interval(means[cut], means[-1 - cut]), n)


# The 97.5th percentiles of Student's t for 1 to 30 degrees of freedom, and about that for more (Cornish and Fisher).
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def mean_interval(values: Sequence[float]) -> Interval:
    """The 95 % interval of the mean of independent values (Student 1908). Raises ValueError for fewer than two."""
    n = len(values)
    if n < 2:
        raise ValueError("one value has no interval")
    mean = math.fsum(values) / n
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    factor = _T[n - 2] if n - 2 < len(_T) else _Z + (_Z**3 + _Z) / (4 * (n - 1))
    return Interval(mean - factor * error, mean + factor * error)
