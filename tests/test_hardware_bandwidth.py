"""The measured bandwidth of the memory: a plausible number, soon, that leaves nothing behind."""

import threading

import pytest

from slmchat import hardware
from slmchat.hardware import bandwidth


@pytest.mark.real
def test_a_copy_moves_a_plausible_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "_SECONDS", 0.05)
    # from the slowest single board to more than any cache gives
    assert 1e8 < bandwidth.measure_copy_bandwidth() < 1e13
    assert not [thread for thread in threading.enumerate() if thread.name == "bandwidth"]


def test_a_small_device_is_measured_with_small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    make = bandwidth.ctypes.create_string_buffer

    def counted(size: int) -> object:
        asked.append(size)
        return make(size)

    monkeypatch.setattr(bandwidth, "_SECONDS", 0.0)
    monkeypatch.setattr(hardware, "total_memory", lambda: 64 << 20)
    monkeypatch.setattr(bandwidth.ctypes, "create_string_buffer", counted)
    assert bandwidth.measure_copy_bandwidth() > 0
    assert 0 < sum(asked) <= (64 << 20) // 8
