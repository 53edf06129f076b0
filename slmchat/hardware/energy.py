"""Joules that were used between two moments, from counters of this device; where there are none, the reason.

What is told is what a counter has counted, with the words for what it covers: the processor's packages with whatever
else ran on them, the whole device while it lives on its battery, this process by the estimate of macOS. Nothing is
made of watts that somebody assumes. A counter that moves in large steps tells nothing of a short time: then there is no
figure.

Knows: powercap (RAPL), batteries, `proc_pid_rusage`, counters that begin again at 0, who may read them.
Refuses to know: what the energy was used for.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from slmchat.hardware.facts import number_of, text_of
from slmchat.hardware.memory import ROOT
from slmchat.lazy_dataclasses import dataclass

# A figure is told from so many steps of the counter on: one more or less at each end is then a fifth of it at most.
_LEAST_STEPS = 10

# What a processor takes between two updates of its counter, in joules: 100 W for a millisecond (Intel's Software
# Developer's Manual, volume 3B, "RAPL Interfaces": the counters are updated about every millisecond).
_UPDATE_J = 0.1

_MICRO = 1e-6
_HOUR_S = 3600.0


class _Unreadable(Exception):
    """A counter does not tell; the text says why, without a full stop."""


class EnergyMeter:
    """Counts from the moment when it is made. `covers`: what its joules were used by, in words; `source`: whose counter
    that is; `why_not`: why it counts nothing (then the others are empty), None while it counts."""

    def __init__(
        self,
        advances: Sequence[Callable[[], float]] = (),
        covers: str = "",
        source: str = "",
        *,
        step: float | None = _UPDATE_J,
        why_not: str | None = None,
    ) -> None:
        """`advances`: for each counter a function that gives the joules since it was called last. `step`: joules by
        which they move at once; None: not known, and the smallest change that is seen stands for it."""
        self._advances = advances
        self._joules = 0.0
        self._step = step
        self._is_seen = step is None
        self.covers = covers
        self.source = source
        self.why_not = why_not

    def read(self) -> float:
        """Joules since it was made; more than a few minutes should not lie between two calls (a counter of RAPL may
        begin again at 0 twice). 0 where it counts nothing."""
        if self.why_not is not None:
            return self._joules
        try:
            more = sum(advance() for advance in self._advances)
        except _Unreadable as error:
            self.why_not, self.covers, self.source = str(error), "", ""
            return self._joules
        self._joules += more
        if self._is_seen and more > 0:
            self._step = more if self._step is None else min(self._step, more)
        return self._joules

    def is_enough(self, joules: float) -> bool:
        """Whether so many joules are a measurement: the counter works, and moves in steps that are small beside it."""
        return self.why_not is None and self._step is not None and joules >= _LEAST_STEPS * self._step


def energy_meter(root: Path = ROOT, platform: str = sys.platform) -> EnergyMeter:
    """The best counter of this device, begun now: the processor's before the battery's."""
    if platform == "darwin":
        return _of_process()
    reasons = []
    for begin in (_of_packages, _of_battery):
        try:
            return begin(root)
        except _Unreadable as error:
            reasons.append(str(error))
    return EnergyMeter(why_not="; ".join(reasons))


# The processor: /sys/class/powercap


@dataclass(slots=True)
class _Zone:
    """A zone of powercap (Documentation/power/powercap/powercap.rst): microjoules that begin again at 0."""

    place: Path
    most: int
    last: int

    def __call__(self) -> float:
        now = number_of(self.place / "energy_uj")
        if now is None:
            raise _Unreadable(f"{self.place / 'energy_uj'} can no longer be read")
        more = now - self.last if now >= self.last else self.most - self.last + now
        self.last = now
        return more * _MICRO


def _of_packages(root: Path) -> EnergyMeter:
    """All packages and their memory. The cores and the graphics inside of a package are part of it, and `psys` has both
    in it; `intel-rapl-mmio` is the same package over another register."""
    powercap = root / "sys/class/powercap"
    places = _directories(powercap)
    zones = [place for place in places if place.name.startswith("intel-rapl:")]
    named = [(text_of(place / "name") or "", place) for place in zones]
    packages = [place for name, place in named if name.startswith("package")]
    if not packages:
        raise _Unreadable(f"{powercap} has no counter of a processor")
    memory = [place for name, place in named if name == "dram"]
    counters = [_zone(place) for place in (*packages, *memory)]
    what = "the processor" if len(packages) == 1 else f"{len(packages)} processors"
    covers = f"{what} and {'its' if len(packages) == 1 else 'their'} memory" if memory else what
    return EnergyMeter(counters, f"{covers}, with all programs", str(powercap))


def _zone(place: Path) -> _Zone:
    now, most = number_of(place / "energy_uj"), number_of(place / "max_energy_range_uj")
    if now is None or most is None:
        file = place / "energy_uj"
        if file.exists() and not os.access(file, os.R_OK):
            raise _Unreadable(f"only root may read the processor's counters ({file})")
        raise _Unreadable(f"{file} cannot be read")
    return _Zone(place, most, now)


# The battery: /sys/class/power_supply (Documentation/ABI/testing/sysfs-class-power: micro-units)


@dataclass(slots=True)
class _Battery:
    """What a battery has given. `charge_counter` is what Android's fuel gauges have."""

    place: Path
    last: float

    def __call__(self) -> float:
        if text_of(self.place / "status") != "Discharging":
            raise _Unreadable("the device was plugged in meanwhile")
        now = _left(self.place)
        if now is None:
            raise _Unreadable(f"{self.place} can no longer be read")
        more, self.last = self.last - now, now
        if more < 0:
            raise _Unreadable("the battery's counter went up while it gave energy")
        return more


def _of_battery(root: Path) -> EnergyMeter:
    supplies = root / "sys/class/power_supply"
    batteries = [
        place
        for place in _directories(supplies)
        if text_of(place / "type") == "Battery" and text_of(place / "scope") != "Device"
    ]
    if not batteries:
        raise _Unreadable(f"{supplies} shows no battery")
    giving = [place for place in batteries if text_of(place / "status") == "Discharging"]
    if not giving:
        raise _Unreadable("the device is on mains, where a battery tells nothing")
    counters = []
    for place in giving:
        left = _left(place)
        if left is None:
            raise _Unreadable(f"{place} does not tell how much energy is left")
        counters.append(_Battery(place, left))
    return EnergyMeter(counters, "the whole device, from its battery", str(supplies), step=None)


def _left(battery: Path) -> float | None:
    """Joules that are left in it: a charge counts with the voltage of this moment."""
    energy = number_of(battery / "energy_now")  # microwatt-hours
    if energy is not None:
        return energy * _MICRO * _HOUR_S
    charges = (number_of(battery / name) for name in ("charge_now", "charge_counter"))  # microampere-hours
    charge, voltage = next((each for each in charges if each is not None), None), number_of(battery / "voltage_now")
    return None if charge is None or voltage is None else charge * _MICRO * _HOUR_S * voltage * _MICRO


def _directories(place: Path) -> list[Path]:
    try:
        return sorted(place.iterdir())
    except OSError:
        return []


# macOS: what the kernel accounts to a process, without root

# <sys/resource.h>: RUSAGE_INFO_V6; struct rusage_info_v6 has 16 bytes of uuid and then 64-bit numbers, of which
# ri_energy_nj is the 41st (macOS 13 and later). Watts of the whole machine need root (powermetrics).
_RUSAGE_INFO_V6 = 6
_UUID_BYTES = 16
_NUMBERS = 56
_ENERGY_NJ = 40


def _of_process() -> EnergyMeter:
    """The process's own energy as macOS estimates it: processor cores alone. On some machines it stays at 0."""
    try:
        last = _energy_nj()
    except _Unreadable as error:
        return EnergyMeter(why_not=str(error))

    def advance() -> float:
        nonlocal last
        now = _energy_nj()
        more, last = now - last, now
        return more * 1e-9

    return EnergyMeter((advance,), "slm's own use of the processor, as macOS estimates it", "proc_pid_rusage")


def _energy_nj() -> int:
    import ctypes

    try:
        library = ctypes.CDLL(None)
        # int proc_pid_rusage(int pid, int flavor, rusage_info_t * buffer);
        ask = library.proc_pid_rusage
    except (OSError, AttributeError, TypeError) as error:
        raise _Unreadable("this system does not tell the energy of a process") from error
    buffer = ctypes.create_string_buffer(_UUID_BYTES + 8 * _NUMBERS)
    if ask(os.getpid(), _RUSAGE_INFO_V6, ctypes.byref(buffer)) != 0:
        raise _Unreadable("this macOS does not tell the energy of a process")
    place = _UUID_BYTES + 8 * _ENERGY_NJ
    return int.from_bytes(buffer.raw[place : place + 8], sys.byteorder)
