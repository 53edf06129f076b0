"""Facts about this device. Every fact has a source and may be unknown; unknown is None, never a guess.

Knows: what the operating system says about memory, cores, disk, power and the kind of device.
Refuses to know: what anyone does with it, and GPUs (llama.cpp's own backends know those: engine/devices.py).
"""

import sys
from pathlib import Path

from slmchat.hardware import cores, memory, power
from slmchat.hardware.cores import cpu_quota, physical_cores, usable_cpus
from slmchat.hardware.facts import Fact
from slmchat.hardware.memory import ROOT, total_memory
from slmchat.lazy_dataclasses import dataclass

__all__ = ["Device", "Fact", "cpu_quota", "device", "physical_cores", "total_memory", "usable_cpus"]


@dataclass(frozen=True, slots=True)
class Device:
    """This device as far as it is known. Sizes in bytes; a control group's limits are taken into account."""

    total_memory: Fact[int]
    available_memory: Fact[int]
    address_space: Fact[int]
    physical_cores: Fact[int]
    performance_cores: Fact[int]
    efficiency_cores: Fact[int]
    cpu_quota: Fact[float]
    processor: Fact[str]
    instruction_sets: Fact[tuple[str, ...]]
    is_on_battery: Fact[bool]
    battery_percent: Fact[int]


def device(root: Path = ROOT) -> Device:
    """What is known of this device now."""
    performance, efficiency = cores.kinds(root)
    is_on_battery, percent = power.power(root)
    quota = cpu_quota(root)
    counted = "the affinity mask and the topology below /sys" if sys.platform == "linux" else "psutil"
    return Device(
        total_memory=memory.total(root),
        available_memory=memory.available(root),
        address_space=memory.address_space(),
        physical_cores=Fact(physical_cores(root), counted),
        performance_cores=performance,
        efficiency_cores=efficiency,
        cpu_quota=Fact(quota, "cpu.max of its control group" if quota else "no control group limits it"),
        processor=cores.processor(root),
        instruction_sets=cores.instruction_sets(root),
        is_on_battery=is_on_battery,
        battery_percent=percent,
    )


def free_disk(place: Path) -> Fact[int]:
    """Bytes that this user may still write at a place, or at the nearest directory above it that exists."""
    import shutil

    for directory in (place, *place.parents):
        try:
            return Fact(shutil.disk_usage(directory).free, str(directory))
        except OSError:
            continue
    return Fact(None, str(place))
