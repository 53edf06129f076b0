"""What is in use of the device: the peak of this process, and what other programs take."""

from types import SimpleNamespace

import psutil
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


def test_an_idle_processor_and_one_that_waits_for_a_disk_are_not_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    def times(**more: float) -> SimpleNamespace:
        return SimpleNamespace(**{"user": 1.0, "system": 1.0, "idle": 50.0, "iowait": 7.0, "guest": 0.5, **more})

    monkeypatch.setattr(psutil, "cpu_times", times)
    assert usage._counted() is not None
    assert usage._counted()[1] == 2.0  # type: ignore[index]
    monkeypatch.setattr(psutil, "cpu_times", lambda: times(steal=3.0))
    assert usage._counted()[1] == 5.0  # type: ignore[index]


def test_a_system_that_hides_it_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError("/proc/stat")

    monkeypatch.setattr(psutil, "cpu_times", refuse)
    assert OthersWatch().share() is None
