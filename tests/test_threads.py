"""Threads that give way: the choice for a device, and the controller against a simulated machine."""

import random
from pathlib import Path

import pytest

from slmchat.engine import threads
from slmchat.engine.threads import WINDOW_S, Controller, Sample, choose
from slmchat.hardware import load


class Machine:
    """Processors shared fairly: our spinning threads and other people's busy ones each want a whole processor."""

    def __init__(self, processors: int, *, tells_all: bool = True) -> None:
        self.processors = processors
        self.tells_all = tells_all
        self.clock = self.own = self.others = 0.0
        self._noise = random.Random(1)
        self.controller = Controller(processors, processors, self._sample())

    def pass_time(self, seconds: float, busy: int, *, is_computing: bool = True) -> list[int]:
        """The thread counts over this time, while `busy` other threads compute."""
        seen = []
        for _ in range(round(seconds / WINDOW_S)):
            ours = self.controller.threads if is_computing else 0
            share = min(1.0, self.processors / max(1, ours + busy))
            self.clock += WINDOW_S
            self.own += ours * share * WINDOW_S * self._noise.uniform(0.97, 1)
            self.others += (busy * share + self._noise.uniform(0, 0.1)) * WINDOW_S
            seen.append(self.controller.feed(self._sample(), is_computing=is_computing))
        return seen

    def _sample(self) -> Sample:
        return Sample(self.clock, self.own, self.own + self.others if self.tells_all else None)


@pytest.mark.parametrize("processors", [2, 4, 8, 16, 64])
class TestController:
    def test_nobody_else_no_change(self, processors: int) -> None:
        assert set(Machine(processors).pass_time(20, 0)) == {processors}

    def test_it_gives_way_at_once_and_comes_back_within_two_seconds(self, processors: int) -> None:
        machine = Machine(processors)
        machine.pass_time(2, 0)
        seen = machine.pass_time(10, processors // 2)
        assert all(processors // 2 - 1 <= count <= processors // 2 + 1 for count in seen[2:])
        assert all(count >= 1 for count in seen)
        assert machine.pass_time(2, 0)[-1] == processors

    def test_all_cores_taken_leaves_one(self, processors: int) -> None:
        assert min(Machine(processors).pass_time(10, 2 * processors)) == 1

    def test_who_was_busy_while_we_rested_is_known_before_we_begin(self, processors: int) -> None:
        machine = Machine(processors)
        assert machine.pass_time(0.4, processors // 2, is_computing=False)[-1] == max(1, processors // 2)

    def test_resting_alone_is_no_sign_of_others(self, processors: int) -> None:
        assert set(Machine(processors).pass_time(5, 0, is_computing=False)) == {processors}


class TestWithoutCounters:
    """Android does not tell how busy the processors are: only how long our own threads were kept waiting."""

    def test_it_gives_way_and_tries_again_ever_more_seldom(self) -> None:
        machine = Machine(4, tells_all=False)
        seen = machine.pass_time(120, 2)
        settled = seen[50:]
        assert min(settled) >= 1
        assert sum(count > 2 for count in settled) / len(settled) < 0.03

    def test_it_comes_back(self) -> None:
        machine = Machine(4, tells_all=False)
        machine.pass_time(3, 2)
        assert machine.pass_time(8, 0)[-1] == 4


class TestChoice:
    def test_cores_quota_and_kinds(self) -> None:
        assert choose(8, None) == 8
        assert choose(8, 2.5) == 2
        assert choose(8, 0.5) == 1
        assert choose(10, None, performance_cores=4) == 4
        assert choose(10, None, performance_cores=0) == 10
        assert choose(2, None, performance_cores=4) == 2  # the affinity mask leaves two

    def test_half_of_them_on_the_battery(self) -> None:
        assert [choose(cores, None, is_on_battery=True) for cores in (1, 2, 3, 8)] == [1, 1, 2, 4]
        assert choose(10, None, performance_cores=4, is_on_battery=True) == 2

    def test_this_device(self) -> None:
        assert 1 <= threads.of_this_device() <= 512


class TestCounters:
    STAT = (
        "cpu  999 0 0 0 0 0 0 0 0 0\n"
        "cpu0 100 10 20 5000 300 1 2 50 40 0\n"
        "cpu1 200 0 0 7000 0 0 0 0 0 0\n"
        "intr 12345 0 0\n"
    )

    def test_busy_is_all_but_idle_and_waiting(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc" / "stat").write_text(self.STAT)
        monkeypatch.setattr(load.sys, "platform", "linux")
        monkeypatch.setattr(load.os, "sysconf", lambda name: 100, raising=False)
        assert load.busy_seconds((), tmp_path) == pytest.approx(3.83)
        assert load.busy_seconds({1}, tmp_path) == pytest.approx(2.0)

    def test_unknown_where_the_file_is_not(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(load.sys, "platform", "linux")
        assert load.busy_seconds((), tmp_path) is None

    @pytest.mark.parametrize(
        ("running", "others"), [((1,), 0), ((3, 3, 3, 3, 3), 2), ((4, 1), 0), ((3, 2, 3, 2, 4), 1)]
    )
    def test_others_are_the_fewest_that_run_beside_this_one(
        self, running: tuple[int, ...], others: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looks = iter(running)
        (tmp_path / "proc").mkdir()

        def plant(_seconds: float = 0) -> None:
            (tmp_path / "proc" / "stat").write_text(f"{self.STAT}procs_running {next(looks)}\nprocs_blocked 0\n")

        monkeypatch.setattr(load.sys, "platform", "linux")
        monkeypatch.setattr(load.time, "sleep", plant)
        plant()
        assert load.others_running(tmp_path) == others

    def test_who_runs_is_unknown_where_the_file_is_not(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(load.sys, "platform", "linux")
        assert load.others_running(tmp_path) is None

    @pytest.mark.real
    def test_the_counters_of_this_machine_grow(self) -> None:
        before, clock = threads.sample(), 0.0
        while clock < 0.1:
            clock = threads.sample().own - before.own
        after = threads.sample()
        if before.everyone is not None and after.everyone is not None:
            assert after.everyone - before.everyone >= 0.05
