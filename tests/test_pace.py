"""The pace of a device, measured: what is believed when processor time is counted in ticks, or others compute."""

import time
from pathlib import Path

import pytest

from slmchat.engine import pace
from slmchat.errors import SlmError

pytestmark = pytest.mark.real

THREADS = 2


def _counted(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Processor time in ticks of 4 ms, of `share` of the time of both threads."""
    start = time.perf_counter()
    monkeypatch.setattr(
        pace.time, "process_time", lambda: int((time.perf_counter() - start) * THREADS * share * 250) / 250
    )


def test_ticks_of_the_scheduler_do_not_look_like_other_programs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _counted(monkeypatch, 1.0)
    found = pace.measure(THREADS, tmp_path)
    assert found.layer_seconds > 0
    assert set(found.rates) == {"Q8_0", "Q4_K", "Q5_0"}
    assert all(rate > 0 and cost >= 0 for rate, cost in found.rates.values())
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_believed_while_others_have_the_processors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _counted(monkeypatch, 0.5)
    with pytest.raises(SlmError, match="other programs keep the processor busy"):
        pace.measure(THREADS, tmp_path)
    assert list(tmp_path.iterdir()) == []
