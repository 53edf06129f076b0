"""How many threads compute, from one moment to the next.

Knows: that llama.cpp's threads wait for each other by spinning, so that one more than there are free cores costs
more than one fewer; how to tell from processor time that another program has taken a core, and that it has left.
Refuses to know: how cores and their time are counted (hardware), how llama.cpp is told (context.py).

The time per token is no measure of it: it grows with the context, differs from model to model, and falls and rises
with the clock of the processor. Processor time is: what all processors were busy with, less what this process used,
is what others took; and spinning threads that got less than the whole time were kept waiting by them.
"""

import math
import time

from slmchat import hardware
from slmchat.hardware import load, power
from slmchat.lazy_dataclasses import dataclass

# Seconds between two looks. Counters move in ticks of 10 ms, so that a shorter one would see noise.
WINDOW_S = 0.2

# Processors' worth of other people's work that is let be (a browser, a clock), and the share of a processor that must
# come free before a thread is added again: between the two nothing changes.
# The counters' ticks make that unsure by a little for every processor.
LET_BE, UNSURE = 0.4, 0.02
COMES_FREE = 0.75

# Without counters of the whole machine: a thread fewer below this share of the time that our threads should have had,
# and a look with one more after this many seconds, twice as many each time it fails.
KEPT_WAITING = 0.8
FIRST_PROBE_S, LAST_PROBE_S = 1.0, 32.0


def choose(
    physical_cores: int, quota: float | None, *, performance_cores: int | None = None, is_on_battery: bool = False
) -> int:
    """The most threads to use: a core each of those for performance, or the whole processors that a cgroup allows.

    Cores for efficiency are left out: every layer waits for the slowest thread. On the battery it is half of them,
    rounded up: reading the weights is bound by the memory, which half the cores nearly saturate for much less power.
    """
    cores = min(performance_cores or physical_cores, physical_cores)
    if is_on_battery:
        cores = math.ceil(cores / 2)
    return max(1, cores if quota is None else min(cores, int(quota)))


def of_this_device() -> int:
    """`choose` with what this device is and whether it runs on its battery now."""
    from slmchat.hardware import cores

    performance, _ = cores.kinds()
    is_on_battery, _ = power.power()
    return choose(
        hardware.physical_cores(),
        hardware.cpu_quota(),
        performance_cores=performance.value,
        is_on_battery=bool(is_on_battery.value),
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters at one moment, in seconds: the clock, this process's processor time, everyone's (None: not told)."""

    clock: float
    own: float
    everyone: float | None


class Controller:
    """Decides from samples how many threads to use. Pure: it reads no clock."""

    def __init__(self, most: int, processors: int, first: Sample) -> None:
        """`most`: threads when nobody else computes. `processors`: logical ones that this process may use."""
        self.most = most
        self.threads = most
        self._processors = max(processors, most)
        self._last = first
        self._is_probing = False
        self._probe_after = FIRST_PROBE_S
        self._probe_at = first.clock

    def feed(self, now: Sample, *, is_computing: bool = True) -> int:
        """The threads to use from here on. `is_computing`: they have computed since the last sample, or rested."""
        span = now.clock - self._last.clock
        if span < WINDOW_S:
            return self.threads
        own = (now.own - self._last.own) / span
        waited = max(0.0, self.threads - own) if is_computing else 0.0
        if now.everyone is None or self._last.everyone is None:
            if is_computing:
                self._by_waiting(now.clock, 1 - waited / self.threads)
        else:
            others = max(0.0, (now.everyone - self._last.everyone) / span - own)
            # who shares a core with us takes half of it and would take all: the time our threads waited shows how much
            self._by_others(others + min(waited, others))
        self._last = now
        return self.threads

    def _by_others(self, taken: float) -> None:
        free = self._processors - taken
        let_be = LET_BE + UNSURE * self._processors
        if free < self.threads - let_be:
            self.threads = max(1, math.floor(free + LET_BE))  # rather one too few: one too many costs more
        elif self.threads < self.most and free >= self.threads + COMES_FREE:
            self.threads = min(self.most, max(self.threads + 1, math.floor(free + 1 - COMES_FREE)))

    def _by_waiting(self, clock: float, got: float) -> None:
        """`got`: share of their time that the threads were let compute."""
        if got < KEPT_WAITING:
            if self._is_probing:
                self.threads -= 1
                self._probe_after = min(LAST_PROBE_S, 2 * self._probe_after)
            else:
                self.threads = min(max(1, self.threads - 1), max(1, round(self.threads * got)))
                self._probe_after = FIRST_PROBE_S
            self._is_probing, self._probe_at = False, clock + self._probe_after
        elif self._is_probing:
            self._is_probing = False
            self._probe_after, self._probe_at = FIRST_PROBE_S, clock
        if not self._is_probing and self.threads < self.most and got >= KEPT_WAITING and clock >= self._probe_at:
            self.threads += 1
            self._is_probing = True


def sample() -> Sample:
    """The counters now. Takes some 50 us."""
    return Sample(time.perf_counter(), time.process_time(), load.busy_seconds(hardware.usable_cpus()))


class Watch:
    """A controller with the clocks of this process: a look costs reading a clock, five times a second all counters."""

    def __init__(self, most: int, started: Sample) -> None:
        """`started`: a sample from some time before; what others have taken since then counts at the first look."""
        self._controller = Controller(most, len(hardware.usable_cpus()) or most, started)
        self._next = 0.0

    def look(self, *, is_computing: bool = True) -> int:
        """The threads to use now. `is_computing`: they have computed since the last look."""
        clock = time.perf_counter()
        if clock < self._next and is_computing:
            return self._controller.threads
        self._next = clock + WINDOW_S
        return self._controller.feed(sample(), is_computing=is_computing)
