"""How far the probabilities of `--choices` are from how often they are right, as they are and after temperature scaling.

Usage: slm batch --choices ... < slmchat/evaluation/suite/sentiment.jsonl > records.jsonl
       python tests/calibration.py slmchat/evaluation/suite/sentiment.jsonl records.jsonl

The expected calibration error over ten bins (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2). The
temperature is fitted on one half of the rows and measured on the other, both ways, so that it is not measured on itself.
"""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

_BINS = 10
_TEMPERATURES = [0.1 * 1.05**step for step in range(100)]  # 0.1 to 12.5

Row = tuple[dict[str, float], str]


def scaled(probabilities: dict[str, float], temperature: float) -> dict[str, float]:
    """The probabilities with their logarithms divided by the temperature."""
    weights = {text: max(share, 1e-9) ** (1 / temperature) for text, share in probabilities.items()}
    return {text: weight / sum(weights.values()) for text, weight in weights.items()}


def error(rows: Sequence[Row]) -> float:
    """The expected calibration error: of each bin the distance of confidence and accuracy, weighted by its rows."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(_BINS)]
    for probabilities, label in rows:
        best = max(probabilities, key=lambda text: probabilities[text])
        share = probabilities[best]
        bins[min(_BINS - 1, int(share * _BINS))].append((share, best == label))
    gaps = [abs(sum(share for share, _ in each) - sum(right for _, right in each)) for each in bins]
    return sum(gaps) / len(rows)


def fitted(rows: Sequence[Row]) -> float:
    """The temperature with which the labels are most probable."""

    def loss(temperature: float) -> float:
        return -sum(math.log(scaled(probabilities, temperature)[label]) for probabilities, label in rows)

    return min(_TEMPERATURES, key=loss)


def main() -> None:
    labels = [json.loads(line)["label"] for line in Path(sys.argv[1]).read_text().splitlines()]
    records = [json.loads(line) for line in Path(sys.argv[2]).read_text().splitlines()]
    found = [record["probabilities"] for record in records if record.get("probabilities")]
    names = {text: label for text, label in zip(found[0], dict.fromkeys(labels), strict=True)}
    rows: list[Row] = [
        ({names[text]: share for text, share in shares.items()}, label)
        for shares, label in zip(found, labels, strict=True)
    ]
    halves = [
        [row for number, row in enumerate(rows) if number // 2 % 2 == half] for half in (0, 1)
    ]  # in pairs of labels
    temperatures = [fitted(half) for half in halves]
    others = [
        (scaled(probabilities, temperature), label)
        for temperature, half in zip(temperatures, halves[::-1], strict=True)
        for probabilities, label in half
    ]
    right = sum(max(shares, key=lambda text: shares[text]) == label for shares, label in rows)
    print(f"accuracy {right / len(rows):.2f}, error {error(rows):.3f}, scaled {error(others):.3f}, ", end="")
    print(f"temperatures {temperatures[0]:.2f} and {temperatures[1]:.2f}")


if __name__ == "__main__":
    main()
