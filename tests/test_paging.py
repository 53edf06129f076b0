"""A mixture of experts that does not fit into memory: what a token reads from the disk, and how long a piece takes."""

import os
from pathlib import Path

import pytest

from slmchat import settings
from slmchat.fit.memory import Load
from slmchat.fit.plan import FitVerdict, Room, plan
from slmchat.fit.shape import Matrix, ModelShape
from slmchat.fit.speed import Rate, Throughput
from slmchat.hardware import paging
from slmchat.hardware.paging import seconds_per_piece
from slmchat.models.device_fit import ForDevice
from slmchat.terminal.console import Console

MIB = 1 << 20


def _mixture() -> ModelShape:
    """1,600 MiB of experts in 64 matrices, of which a token uses two in sixteen, beside 100 MiB that it reads whole."""
    expert = Matrix("Q8_0", 512, 512 * 16, 400 * MIB, 50 * MIB, is_output=False)
    other = Matrix("Q8_0", 512, 512, 100 * MIB, 100 * MIB, is_output=False)
    return ModelShape(
        context_length=2048, layers=(), matrices=(other, *[expert] * 4), vocabulary=1000, merges=0,
        embedding=512, feed_forward=1024, attention=512, experts=16, experts_used=2, weight_bytes=1700 * MIB,
    )  # fmt: skip


@pytest.mark.parametrize(("room", "share"), [(600, 0.25), (1000, 0.5), (350, 0.09)])
def test_of_the_experts_that_a_token_uses_those_are_read_that_have_no_room(room: int, share: float) -> None:
    found = plan(_mixture(), Load(512), Room(room * MIB, 24_000 * MIB))
    assert found.verdict is FitVerdict.PAGES
    anonymous = found.memory.anonymous / MIB
    kept = (room - anonymous - 100) / 1600
    assert found.paged.pieces == pytest.approx(8 * (1 - kept))
    assert found.paged.piece_bytes == 25 * MIB
    assert kept == pytest.approx(share, abs=0.06)


def test_what_fits_reads_nothing_from_the_disk() -> None:
    assert plan(_mixture(), Load(512), Room(24_000 * MIB, 24_000 * MIB)).paged.pieces == 0


@pytest.mark.real
@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="nothing to take a file out of memory with")
def test_a_file_that_is_not_in_memory_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(os.urandom(MIB) * 128)
    assert seconds_per_piece(file, MIB, 2) is None  # in memory: it was just written
    descriptor = os.open(file, os.O_RDWR)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    measured = seconds_per_piece(file, MIB, 2)
    if measured is None:
        pytest.skip("this file system keeps files in memory")
    assert 0 < measured < 60


def test_a_file_that_is_missing_or_small_is_not_measured(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x" * 5000)
    assert seconds_per_piece(tmp_path / "small", 4000, 1) is None
    assert seconds_per_piece(tmp_path / "missing", 4000, 1) is None


def test_the_speed_that_is_told_counts_the_disk_and_nothing_is_told_without_its_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = ForDevice(settings.load({"SLM_HOME": str(tmp_path)}), Console(environ={}))
    in_memory = Throughput({kind: Rate(20e9, 0.0) for kind in ("Q8_0", "Q4_K", "Q5_0")}, 1e-5)
    monkeypatch.setattr(ForDevice, "throughput", in_memory)
    monkeypatch.setattr(ForDevice, "available_memory", Room(600 * MIB, 24_000 * MIB))
    monkeypatch.setattr(paging, "seconds_per_piece", lambda *_given: 0.05)
    assert device.fit_report(_mixture()).speed is None
    told = device.fit_report(_mixture(), files=[tmp_path / "model.gguf"]).speed
    # some six of eight pieces, 50 ms each; 16 ms were all of it in memory
    assert told == pytest.approx(1 / (0.016 + 6 * 0.05), rel=0.1)
