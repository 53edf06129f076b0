"""Processor cores: how many, which are fast, how much of them a container may use, what instructions they have.

Knows: where Linux, macOS, Android and Windows say so. Refuses to know: how many threads anyone starts.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

from slmchat.hardware.facts import Fact, number_of, text_of
from slmchat.hardware.memory import ROOT, control_groups

# A core counts as one for efficiency when it has less than this share of the largest core (Arm's `cpu_capacity`: little
# cores have 0.2 to 0.45), or of its highest frequency where no capacity is told (little cores run at 0.55 to 0.7 of the
# big ones; the cores of one kind differ by less than 0.1 through boost ranks).
EFFICIENT_CAPACITY = 0.5
EFFICIENT_FREQUENCY = 0.75

# Names in /proc/cpuinfo (x86 `flags`, Arm `Features`) -> the names that ggml's kernels are known by.
INSTRUCTION_SETS = {
    "sse3": "SSE3", "pni": "SSE3", "ssse3": "SSSE3", "avx": "AVX", "avx2": "AVX2", "fma": "FMA", "f16c": "F16C",
    "bmi2": "BMI2", "avx_vnni": "AVX_VNNI", "avx512f": "AVX512", "avx512vbmi": "AVX512_VBMI",
    "avx512_vnni": "AVX512_VNNI", "avx512_bf16": "AVX512_BF16", "amx_int8": "AMX_INT8",
    "asimd": "NEON", "neon": "NEON", "asimdhp": "FP16", "asimddp": "DOTPROD", "i8mm": "MATMUL_INT8", "sve": "SVE",
    "sme": "SME", "v": "RVV",
}  # fmt: skip

# Apple's names (sysctl) for the same.
_SYSCTL_SETS = {
    "hw.optional.avx1_0": "AVX", "hw.optional.avx2_0": "AVX2", "hw.optional.fma": "FMA", "hw.optional.f16c": "F16C",
    "hw.optional.avx512f": "AVX512", "hw.optional.neon": "NEON", "hw.optional.arm.AdvSIMD": "NEON",
    "hw.optional.arm.FEAT_FP16": "FP16", "hw.optional.arm.FEAT_DotProd": "DOTPROD",
    "hw.optional.arm.FEAT_I8MM": "MATMUL_INT8", "hw.optional.arm.FEAT_SME": "SME",
}  # fmt: skip

# winnt.h: PF_* numbers of IsProcessorFeaturePresent.
_WINDOWS_SETS = {13: "SSE3", 36: "SSSE3", 39: "AVX", 40: "AVX2", 41: "AVX512", 19: "NEON", 43: "DOTPROD"}


def physical_cores(root: Path = ROOT) -> int:
    """Physical cores that this process may use: those of its affinity mask, two threads of one core counted once."""
    usable = usable_cpus()
    cores = {_siblings(root, cpu) for cpu in usable}
    if usable and None not in cores:
        return len(cores)
    counted = _counted_cores() or os.cpu_count() or 1
    return max(1, min(counted, len(usable) or counted))


def _counted_cores() -> int | None:
    try:
        import psutil
    except ImportError:  # Android
        return None
    with suppress(OSError):  # /proc is not mounted
        return psutil.cpu_count(logical=False)
    return None


def usable_cpus() -> frozenset[int]:
    """Logical processors in this process's affinity mask; empty where the system does not tell."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()


def cpu_quota(root: Path = ROOT) -> float | None:
    """Processors' worth of time that a control group (a container) allows, None without a limit.

    Version 2: `cpu.max` ("QUOTA PERIOD" in microseconds, or "max"); version 1: `cpu.cfs_quota_us` (-1: none) and
    `cpu.cfs_period_us`; of this process's group and those above it.
    """
    quotas: list[float] = []
    for version, group in control_groups(root, "cpu"):
        if version == 2:
            quota, _, period = (text_of(group / "cpu.max") or "max").partition(" ")
            allowed, span = (int(number) if number.isdecimal() else None for number in (quota, period))
        else:
            allowed, span = number_of(group / "cpu.cfs_quota_us"), number_of(group / "cpu.cfs_period_us")
        if allowed and span:
            quotas.append(allowed / span)
    return min(quotas, default=None)


def kinds(root: Path = ROOT) -> tuple[Fact[int], Fact[int]]:
    """Physical cores for performance and for efficiency that this process may use."""
    if sys.platform == "darwin":
        fast, slow = (sysctl(f"hw.perflevel{level}.physicalcpu") for level in (0, 1))
        source = "sysctl hw.perflevel0/1.physicalcpu"
        return Fact(fast, source), Fact(None if fast is None else slow or 0, source)
    cpus = usable_cpus()
    if not cpus:
        return (Fact(None, "this system does not tell"),) * 2
    slow_cpus, source = _slow_cpus(root, cpus)
    if slow_cpus is None:
        return Fact(None, source), Fact(None, source)
    fast_count, slow_count = (
        len({_siblings(root, cpu) or str(cpu) for cpu in some}) for some in (cpus - slow_cpus, slow_cpus)
    )
    return Fact(fast_count, source), Fact(slow_count, source)


def _slow_cpus(root: Path, cpus: frozenset[int]) -> tuple[frozenset[int] | None, str]:
    """The processors of efficiency cores among these and how that is known; None: not known."""
    atoms = text_of(root / "sys/devices/cpu_atom/cpus")
    if atoms is not None:
        return frozenset(_listed(atoms)) & cpus, "/sys/devices/cpu_atom/cpus"
    base = root / "sys/devices/system/cpu"
    for name, share in (("cpu_capacity", EFFICIENT_CAPACITY), ("cpufreq/cpuinfo_max_freq", EFFICIENT_FREQUENCY)):
        found = {cpu: number_of(base / f"cpu{cpu}" / name) for cpu in cpus}
        values = {cpu: value for cpu, value in found.items() if value}
        if len(values) == len(cpus):
            largest = max(values.values())
            return frozenset(cpu for cpu, value in values.items() if value < share * largest), str(base / "cpu*" / name)
    return None, f"neither capacity nor frequency below {base}"


def _listed(text: str) -> list[int]:
    """The processors of a kernel list such as `0-3,8`."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdecimal():
            found += range(int(first), int(last or first) + 1)
    return found


def _siblings(root: Path, cpu: int) -> str | None:
    return text_of(root / f"sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list")


def processor(root: Path = ROOT) -> Fact[str]:
    """What the processor is called."""
    if sys.platform == "darwin":
        return Fact(sysctl_text("machdep.cpu.brand_string"), "sysctl machdep.cpu.brand_string")
    fields = _cpuinfo(root)
    for key in ("model name", "Hardware", "Processor", "uarch"):
        if fields.get(key):
            return Fact(fields[key], "/proc/cpuinfo")
    return Fact(os.environ.get("PROCESSOR_IDENTIFIER"), "PROCESSOR_IDENTIFIER, /proc/cpuinfo")


def instruction_sets(root: Path = ROOT) -> Fact[tuple[str, ...]]:
    """The instruction sets that matter to llama.cpp, by ggml's names."""
    if sys.platform == "darwin":
        found = [name for key, name in _SYSCTL_SETS.items() if sysctl(key)]
        return Fact(_unique(found) or None, "sysctl hw.optional")
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.windll.kernel32
        found = [name for number, name in _WINDOWS_SETS.items() if kernel.IsProcessorFeaturePresent(number)]
        return Fact(_unique(found) or None, "IsProcessorFeaturePresent")
    fields = _cpuinfo(root)
    words = (fields.get("flags") or fields.get("Features") or "").split()
    found = [name for word, name in INSTRUCTION_SETS.items() if word in words]
    return Fact(_unique(found) if words else None, "/proc/cpuinfo")


def _unique(names: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _cpuinfo(root: Path) -> dict[str, str]:
    """The fields of the first processor; of two with one name the first."""
    fields: dict[str, str] = {}
    for line in (text_of(root / "proc/cpuinfo") or "").splitlines():
        key, mark, value = line.partition(":")
        if mark:
            fields.setdefault(key.strip(), value.strip())
    return fields


def sysctl(name: str) -> int | None:
    """A whole number from macOS's sysctl, None where it has none of that name."""
    raw = _sysctl_bytes(name)
    return int.from_bytes(raw, sys.byteorder) if raw is not None and len(raw) in (4, 8) else None


def sysctl_text(name: str) -> str | None:
    """A text from macOS's sysctl."""
    raw = _sysctl_bytes(name)
    return raw.rstrip(b"\0").decode("utf-8", "replace") if raw else None


def _sysctl_bytes(name: str) -> bytes | None:
    import ctypes
    import ctypes.util

    libc = ctypes.CDLL(ctypes.util.find_library("c"))
    buffer, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
    # int sysctlbyname(const char *name, void *oldp, size_t *oldlenp, void *newp, size_t newlen);
    if libc.sysctlbyname(name.encode(), buffer, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return None
    return buffer.raw[: size.value]
