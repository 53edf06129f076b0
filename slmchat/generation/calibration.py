"""How far probabilities are from how often they are right, and the temperature that brings them closer.

Knows: the expected calibration error (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2; ten
bins), temperature scaling (section 4.2), measuring it on rows that it was not fitted on.
Refuses to know: models, files.
"""

import math
import random
from collections.abc import Mapping, Sequence

from slmchat.lazy_dataclasses import dataclass

_BINS = 10
_LOWEST, _HIGHEST = 0.05, 20.0
_STEPS = 40  # of the golden section: the temperature is then known to 8 digits
_LEAST = 1e-300  # a probability that was rounded to nothing

LEAST_ROWS = 20
"""A temperature that is fitted on fewer rows says more about them than about the model."""

Labelled = tuple[Mapping[str, float], str]
"""The probability of each choice, and which of them is right."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was fitted on known rows. `error`: the calibration error as it is; `scaled_error`: with a temperature, that
    of each half of the rows fitted on the other half. `floor`: what probabilities that are right to the letter would
    have on so many rows, by chance alone."""

    temperature: float
    n_rows: int
    accuracy: float
    error: float
    scaled_error: float
    floor: float

    def __str__(self) -> str:
        return (
            f"temperature {self.temperature:.2f}, fitted on {self.n_rows:,} known rows ({self.accuracy:.0%} right): "
            f"calibration error {self.error:.3f} without it, {self.scaled_error:.3f} with it, "
            f"{self.floor:.3f} by chance alone"
        )


def scaled(probabilities: Mapping[str, float], temperature: float) -> dict[str, float]:
    """The probabilities with their logarithms divided by the temperature; their sum is 1."""
    logs = {text: math.log(max(share, _LEAST)) / temperature for text, share in probabilities.items()}
    highest = max(logs.values())
    weights = {text: math.exp(value - highest) for text, value in logs.items()}
    whole = sum(weights.values())
    return {text: weight / whole for text, weight in weights.items()}


def calibration_error(rows: Sequence[Labelled]) -> float:
    """Of each bin the distance of confidence and accuracy, weighted by its rows."""
    bins: list[list[float]] = [[] for _ in range(_BINS)]
    for probabilities, label in rows:
        best = max(probabilities, key=lambda text: probabilities[text])
        share = probabilities[best]
        bins[min(_BINS - 1, int(share * _BINS))].append(share - (best == label))
    return sum(abs(sum(gaps)) for gaps in bins) / len(rows)


def fitted_temperature(rows: Sequence[Labelled]) -> float:
    """The temperature with which the labels are most probable, 0.05 to 20: the loss has one minimum in its inverse."""

    # how much less probable than the right choice each one is, so that nothing overflows
    behind = [
        [math.log(max(share, _LEAST)) - math.log(max(shares[label], _LEAST)) for share in shares.values()]
        for shares, label in rows
    ]

    def loss(log_temperature: float) -> float:
        inverse = math.exp(-log_temperature)
        return sum(math.log(sum(math.exp(min(gap * inverse, 700)) for gap in gaps)) for gaps in behind)

    low, high, ratio = math.log(_LOWEST), math.log(_HIGHEST), (math.sqrt(5) - 1) / 2
    first, second = high - ratio * (high - low), low + ratio * (high - low)
    at_first, at_second = loss(first), loss(second)
    for _ in range(_STEPS):
        if at_first < at_second:
            high, second, at_second = second, first, at_first
            first = high - ratio * (high - low)
            at_first = loss(first)
        else:
            low, first, at_first = first, second, at_second
            second = low + ratio * (high - low)
            at_second = loss(second)
    return math.exp((low + high) / 2)


def calibrated(rows: Sequence[Labelled]) -> Calibration:
    """The temperature of these rows, and what it is worth on rows that it was not fitted on."""
    order = list(rows)
    random.Random(0).shuffle(order)  # rows often stand there sorted by label
    halves = order[::2], order[1::2]
    others = [
        (scaled(probabilities, temperature), label)
        for temperature, rest in zip(map(fitted_temperature, halves), halves[::-1], strict=True)
        for probabilities, label in rest
    ]
    right = sum(max(shares, key=lambda text: shares[text]) == label for shares, label in rows)
    return Calibration(
        fitted_temperature(rows),
        len(rows),
        right / len(rows),
        calibration_error(rows),
        calibration_error(others),
        _floor([shares for shares, _ in others]),
    )


def _floor(told: Sequence[Mapping[str, float]]) -> float:
    """The mean error of these probabilities where each label is drawn by them: what so few rows cannot tell from 0."""
    draw, times = random.Random(1), 20
    errors = [
        calibration_error([(shares, draw.choices(list(shares), list(shares.values()))[0]) for shares in told])
        for _ in range(times)
    ]
    return sum(errors) / times
