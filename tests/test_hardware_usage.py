"""What is in use of the device: the peak of this process, and what other programs take."""

import pytest

from slmchat.hardware import usage
from slmchat.hardware.usage import OthersWatch, peak_memory


def test_the_peak_holds_what_was_once_there() -> None:
    before = peak_memory()
    block = bytearray(b"x") * (64 << 20)
    del block
    after = peak_memory()
    assert before is not None and after is not None
    assert 1 << 20 < before < 1 << 40
    assert after >= 64 << 20
    assert peak_memory() == pytest.approx(after, rel=0.2)


def test_what_others_take_is_the_busy_time_less_the_own(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(10.0, 100.0, 5.0), (20.0, 118.0, 13.0)])  # seconds: clock, all processors busy, own
    monkeypatch.setattr(usage, "_counted", lambda: next(readings))
    monkeypatch.setattr(usage.os, "cpu_count", lambda: 4)
    assert OthersWatch().share() == pytest.approx((18 - 8) / 40)


def test_a_system_that_hides_it_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage.load, "busy_seconds", lambda _cpus: None)
    assert OthersWatch().share() is None
