"""How far the probabilities of `--choices` are from how often they are right, as they are and after temperature scaling.

Usage: slm batch --choices ... < slmchat/evaluation/suite/sentiment.jsonl > records.jsonl
       python tests/calibration.py slmchat/evaluation/suite/sentiment.jsonl records.jsonl [temperature]

With a temperature, the error with that one is printed as well: one that was fitted elsewhere.
"""

import json
import sys
from pathlib import Path

from slmchat.generation.calibration import Labelled, calibrated, calibration_error, scaled


def main() -> None:
    labels = [json.loads(line)["label"] for line in Path(sys.argv[1]).read_text().splitlines()]
    records = [json.loads(line) for line in Path(sys.argv[2]).read_text().splitlines()]
    found = [record["probabilities"] for record in records if record.get("probabilities")]
    names = {text: label for text, label in zip(found[0], dict.fromkeys(labels), strict=True)}
    rows: list[Labelled] = [
        ({names[text]: share for text, share in shares.items()}, label)
        for shares, label in zip(found, labels, strict=True)
    ]
    print(calibrated(rows))
    for temperature in map(float, sys.argv[3:]):
        error = calibration_error([(scaled(shares, temperature), label) for shares, label in rows])
        print(f"with temperature {temperature:.2f}: {error:.3f}")


if __name__ == "__main__":
    main()
