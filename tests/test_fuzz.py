"""A short run of every fuzzer; the long ones are `python tests/fuzz/fuzz_*.py --count 100000`."""

import importlib
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent / "fuzz"
NAMES = sorted(file.stem for file in FUZZ.glob("fuzz_*.py"))


def test_all_four_are_here() -> None:
    assert NAMES == ["fuzz_gguf", "fuzz_models_toml", "fuzz_sanitize", "fuzz_template"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_short(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from slmchat.conversation import template_budget

    monkeypatch.syspath_prepend(str(FUZZ))
    for limit in ("MAX_SECONDS", "MAX_STEPS"):  # the fuzzer of templates lowers them
        monkeypatch.setattr(template_budget, limit, getattr(template_budget, limit))
    fuzzer, runner = importlib.import_module(name), importlib.import_module("runner")
    assert runner.failures(fuzzer.target, 300, 1_000_000) == (300, [])
    sys.modules.pop(name)


def test_a_failure_is_found_and_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FUZZ))
    runner = importlib.import_module("runner")

    def fails(random: object) -> None:
        assert random.random() < 0.9  # type: ignore[attr-defined]

    count, found = runner.failures(fails, 100, 0)
    assert count == 100 and found
    assert runner.failures(fails, 1, found[0]) == (1, [found[0]])
