"""Temperatures of the probabilities of choices: what is fitted, what it is worth, and rows with labels in `slm batch`."""

import json
import math
import random
from pathlib import Path

import pytest
from test_batch_questions import ASKED, Batch, batch

from slmchat.engine.results import Score
from slmchat.errors import ExitCode
from slmchat.generation.calibration import Labelled, calibrated, calibration_error, fitted_temperature, scaled

__all__ = ["batch"]


def _drawn(n: int, temperature: float, seed: int = 3) -> list[Labelled]:
    """Rows whose labels come as often as their probabilities with this temperature say."""
    draw = random.Random(seed)
    rows: list[Labelled] = []
    for _ in range(n):
        share = draw.uniform(0.3, 0.7)
        told = {"a": share, "b": 1 - share}
        truth = scaled(told, temperature)
        rows.append((told, draw.choices(list(truth), list(truth.values()))[0]))
    return rows


def test_the_temperature_is_that_by_which_the_labels_came() -> None:
    for temperature in (0.25, 1.0, 4.0):
        assert fitted_temperature(_drawn(2_000, temperature)) == pytest.approx(temperature, rel=0.25)


def test_scaling_keeps_the_order_and_the_sum() -> None:
    made = scaled({"a": 0.5, "b": 0.3, "c": 0.2}, 0.5)
    assert made == pytest.approx({"a": 25 / 38, "b": 9 / 38, "c": 4 / 38})
    assert scaled({"a": 1.0, "b": 0.0}, 0.05) == {"a": 1.0, "b": 0.0}


def test_the_error_is_how_far_confidence_and_accuracy_are_apart() -> None:
    rows: list[Labelled] = [({"a": 0.9, "b": 0.1}, "a")] * 6 + [({"a": 0.9, "b": 0.1}, "b")] * 4
    assert calibration_error(rows) == pytest.approx(0.3)
    assert calibration_error([*rows, *[({"a": 0.4, "b": 0.6}, "b")] * 10]) == pytest.approx((0.3 + 0.4) / 2)


def test_what_is_told_is_measured_on_rows_that_nothing_was_fitted_on() -> None:
    found = calibrated(_drawn(400, 0.2))
    assert found.error > 0.15 and found.scaled_error < 0.09
    assert found.scaled_error == pytest.approx(found.floor, abs=0.05)
    noise: list[Labelled] = [({"a": 0.6, "b": 0.4}, "ab"[n % 2]) for n in range(40)]
    assert calibrated(noise).temperature > 5  # nothing is known: no choice is surer than another


class _Shop(Batch):
    """Unsure by nature: a choice whose word is in the row is a little more probable, and right nine times of ten."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(tmp_path, monkeypatch)
        self.engine.score = lambda prompt, text: Score((0.2 if text.strip() in prompt else 0.0,))

    def known(self, n: int, *fields: tuple[str, str, str], name: str = "known.jsonl") -> str:
        rows = []
        for number in range(n):
            row = {"text": " ".join(pair[1 + number % 2] for pair in fields)}
            row |= {field: (one, other)[(number + (number % 10 == 0)) % 2] for field, one, other in fields}
            rows.append(json.dumps(row))
        (self.folder / name).write_text("\n".join(rows))
        return str(self.folder / name)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Shop:
    return _Shop(tmp_path, monkeypatch)


def test_known_rows_make_the_probabilities_as_sure_as_they_are_right(shop: _Shop) -> None:
    asked = ("--choices", "good,bad", *shop.out, "How is it?")
    assert shop("good\nbad\n", *asked).code == 0
    unsure = shop.records[0]["probabilities"]["good"]
    assert unsure == pytest.approx(1 / (1 + math.exp(-0.2)), abs=1e-5)
    done = shop("good\nbad\n", "--overwrite", "--labelled", shop.known(100, ("label", "good", "bad")), *asked)
    assert done.code == 0, done.err
    assert "fitted on 100 known rows (90% right)" in done.err and "calibration error 0.350 without it" in done.err
    first, second = shop.records
    assert first["probabilities"]["good"] == second["probabilities"]["bad"] == pytest.approx(0.9, abs=0.01)
    assert first["made_with"]["options"]["labelled"] == "known.jsonl"


def test_each_question_has_its_own_temperature(shop: _Shop) -> None:
    known = shop.known(60, ("mood", "good", "bad"), ("topic", "food", "service"))
    done = shop("good food\n", "--labelled", known, *ASKED, *shop.out, "What is the {name}?")
    assert done.code == 0, done.err
    assert "mood: temperature" in done.err and "topic: temperature" in done.err
    shares = shop.records[0]["probabilities"]
    assert shares["mood"]["good"] == pytest.approx(0.9, abs=0.02) == shares["topic"]["food"]


def test_too_few_labels_or_none_are_a_sentence(shop: _Shop) -> None:
    asked = ("--choices", "good,bad", "How is it?")
    done = shop("good\n", "--labelled", shop.known(12, ("label", "good", "bad")), *asked)
    assert done.code == ExitCode.USAGE and "12 rows have a choice in the field 'label', and a fit needs 20" in done.err
    done = shop("good\n", "--labelled", shop.known(40, ("mood", "good", "bad")), *asked)
    assert done.code == ExitCode.USAGE and "0 rows have a choice" in done.err
    done = shop("good\n", "--labelled", str(shop.folder / "none.jsonl"), *asked)
    assert done.code == ExitCode.USAGE and "none.jsonl" in done.err
    done = shop("good\n", "--labelled", "x.jsonl", "How is it?")
    assert done.code == ExitCode.USAGE and "--labelled needs --choices" in done.err
