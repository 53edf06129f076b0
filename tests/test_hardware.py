"""Facts about the device, read from planted trees in place of /proc and /sys."""

import os
from pathlib import Path

import pytest

from slmchat import hardware
from slmchat.hardware import cores, memory, power

GIB = 1 << 30


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return root


CGROUPS = {
    "version 2": {
        "proc/self/cgroup": "0::/app/inner",
        "sys/fs/cgroup/app/memory.max": str(GIB),
        "sys/fs/cgroup/app/memory.current": str(GIB // 2),
        "sys/fs/cgroup/app/memory.stat": f"anon 5\ninactive_file {GIB // 8}\nactive_file {GIB // 8}",
        "sys/fs/cgroup/app/inner/memory.max": "max",
        "sys/fs/cgroup/app/cpu.max": "150000 100000",
    },
    "version 1": {
        "proc/self/cgroup": "5:cpu,cpuacct:/app\n4:memory:/app",
        "sys/fs/cgroup/memory/app/memory.limit_in_bytes": str(GIB),
        "sys/fs/cgroup/memory/app/memory.usage_in_bytes": str(GIB // 2),
        "sys/fs/cgroup/memory/app/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 4}",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        "sys/fs/cgroup/cpu/app/cpu.cfs_quota_us": "150000",
        "sys/fs/cgroup/cpu/app/cpu.cfs_period_us": "100000",
    },
    "a namespace entered from outside": {
        "proc/self/cgroup": "0::/../../app",
        "sys/fs/cgroup/memory.max": str(GIB),
        "sys/fs/cgroup/memory.current": str(GIB // 4),
        "sys/fs/cgroup/cpu.max": "150000 100000",
    },
}


@pytest.mark.parametrize("files", CGROUPS.values(), ids=CGROUPS.keys())
def test_a_container_is_as_small_as_its_limit(files: dict[str, str], tmp_path: Path) -> None:
    root = plant(tmp_path, files)
    assert hardware.total_memory(root) == GIB
    available = memory.available(root)
    assert available.value == GIB // 4 * 3
    assert "control group" in available.source
    assert cores.cpu_quota(root) == 1.5


def test_without_limits_it_is_the_machine(tmp_path: Path) -> None:
    import psutil

    root = plant(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "max"})
    assert hardware.total_memory(root) == psutil.virtual_memory().total
    assert cores.cpu_quota(root) is None


def _cpus(name: str, values: list[int]) -> dict[str, str]:
    files = {f"sys/devices/system/cpu/cpu{cpu}/{name}": str(value) for cpu, value in enumerate(values)}
    return files | {f"sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list": str(cpu) for cpu in range(len(values))}


@pytest.mark.parametrize(
    ("files", "fast", "slow"),
    [
        (_cpus("cpu_capacity", [290, 290, 290, 290, 790, 790, 790, 1024]), 4, 4),  # a phone: little, big, prime
        (_cpus("cpufreq/cpuinfo_max_freq", [1800000] * 4 + [2800000] * 4), 4, 4),
        (_cpus("cpufreq/cpuinfo_max_freq", [4700000, 4700000, 4600000, 4500000] * 2), 8, 0),  # boost ranks of one kind
        ({**_cpus("x", [0] * 8), "sys/devices/cpu_atom/cpus": "4-7"}, 4, 4),  # Intel's hybrids
        ({}, None, None),
    ],
)
def test_fast_and_slow_cores(
    files: dict[str, str], fast: int | None, slow: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "usable_cpus", lambda: frozenset(range(8)))
    monkeypatch.setattr(cores.sys, "platform", "linux")
    performance, efficiency = cores.kinds(plant(tmp_path, files))
    assert (performance.value, efficiency.value) == (fast, slow)


def test_cores_of_a_mask_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable_cpus", lambda: frozenset(range(4)))
    files = {
        f"sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list": "0,2" if cpu % 2 == 0 else "1,3" for cpu in range(4)
    }
    assert hardware.physical_cores(plant(tmp_path, files)) == 2


def test_cores_are_counted_without_proc_and_sys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unmounted(*, logical: bool) -> int:
        raise FileNotFoundError(2, "No such file or directory", "/proc/cpuinfo")

    monkeypatch.setattr("psutil.cpu_count", unmounted)
    monkeypatch.setattr(cores, "usable_cpus", lambda: frozenset(range(3)))
    monkeypatch.setattr(cores.os, "cpu_count", lambda: 8)
    assert hardware.physical_cores(tmp_path) == 3


@pytest.mark.parametrize(
    ("line", "sets"),
    [
        (
            "flags\t\t: fpu pni ssse3 avx avx2 fma f16c avx512f",
            ("SSE3", "SSSE3", "AVX", "AVX2", "FMA", "F16C", "AVX512"),
        ),
        ("Features\t: fp asimd asimdhp asimddp i8mm", ("NEON", "FP16", "DOTPROD", "MATMUL_INT8")),
        ("nothing: here", None),
    ],
)
def test_instruction_sets_by_ggmls_names(
    line: str, sets: tuple[str, ...] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores.sys, "platform", "linux")
    found = cores.instruction_sets(plant(tmp_path, {"proc/cpuinfo": line})).value
    assert found == sets


@pytest.mark.parametrize(
    ("files", "on_battery", "percent"),
    [
        ({"BAT0/type": "Battery", "BAT0/status": "Discharging", "BAT0/capacity": "40", "AC/online": "0"}, True, 40),
        ({"BAT0/type": "Battery", "BAT0/status": "Charging", "BAT0/capacity": "90"}, False, 90),
        ({"BAT0/type": "Battery", "BAT0/status": "Unknown", "AC/type": "Mains", "AC/online": "0"}, None, None),
        ({"hid/type": "Battery", "hid/scope": "Device", "hid/status": "Discharging"}, False, None),  # a mouse
    ],
)
def test_battery_or_mains(files: dict[str, str], on_battery: bool | None, percent: int | None, tmp_path: Path) -> None:
    root = plant(tmp_path, {f"sys/class/power_supply/{name}": text for name, text in files.items()})
    is_on_battery, charge = power.power(root)
    assert (is_on_battery.value, charge.value) == (on_battery, percent)


def test_android_is_told_by_its_marks() -> None:
    phone = {"ANDROID_ROOT": "/system", "ANDROID_DATA": "/data", "PREFIX": "/data/data/com.termux/files/usr"}
    assert power.is_android(phone).value


def test_every_fact_of_this_device_has_a_source() -> None:
    from dataclasses import fields

    found = hardware.device()
    for field in fields(found):
        assert getattr(found, field.name).source
    assert 0 < (found.available_memory.value or 0) <= (found.total_memory.value or 0)


@pytest.mark.skipif(os.name != "posix", reason="RLIMIT_AS")
def test_a_limit_of_the_address_space_counts_what_is_mapped() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (64 * GIB, before[1]))
    try:
        left = memory.address_space().value
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert left is not None
    assert 0 < left < 64 * GIB
