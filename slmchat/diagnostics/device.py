"""The checks of `slm doctor` that need no model: processor, build of llama.cpp, GPU, memory, power, seal.

Knows: which facts about a device are faults for slm, and the command that mends each.
Refuses to know: how facts are gathered (hardware/, engine/devices.py, privacy/); files below slm's directories
(diagnostics/storage.py).
"""

import sys
from collections.abc import Iterator

from slmchat.diagnostics.findings import Check, Finding, fine, note, wrong
from slmchat.engine.devices import ComputeDevice
from slmchat.engine.library import LibraryKind, NativeLibrary, build_command, mending_command, reinstall_command
from slmchat.engine.limits import SelfTestVerdict
from slmchat.errors import SlmError
from slmchat.hardware import Device, compilers
from slmchat.hardware.facts import Fact
from slmchat.hardware.graphics import Graphics
from slmchat.lazy_dataclasses import dataclass
from slmchat.privacy.seal import SealStatus
from slmchat.wording import counted, in_bytes

# Without these llama.cpp's kernels take several times as long; without the others some tens of percent.
_ESSENTIAL = ("AVX", "AVX2", "FMA", "F16C", "NEON", "DOTPROD")

# The build option of llama.cpp for each maker's devices (docs/install.md).
_BACKENDS = {
    "NVIDIA": "-DGGML_CUDA=on",
    "AMD": "-DGGML_VULKAN=on",
    "Intel": "-DGGML_VULKAN=on",
    "Apple": "-DGGML_METAL=on",
}

# The smallest models of the catalog need about this much; a comfortable one of a billion parameters this much.
_LEAST_MEMORY, _GOOD_MEMORY = 400_000_000, 1_500_000_000


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the checks look at. `features`: instruction sets that llama.cpp's build uses, None: not told.

    `library`: the one in use, and `fault` why it cannot be used, or why there is none. `declared`: the version of
    llama-cpp-python, whose declarations are used with every library; `wanted` the one that slm was made for.
    `self_test`: what of llama.cpp's ways works here, None: it could not be asked.
    """

    device: Device
    graphics: Fact[tuple[Graphics, ...]]
    library: NativeLibrary | None
    fault: SlmError | None
    declared: str
    wanted: str | None
    features: tuple[str, ...] | None
    has_gpu_backend: bool
    compute: tuple[ComputeDevice, ...]
    threads: int
    seal: SealStatus
    self_test: SelfTestVerdict | None = None


def rebuild(facts: Facts, options: str = "-DGGML_NATIVE=on") -> str:
    """What builds llama-cpp-python for this very device; with a compiler that does AMX rightly where it has that."""
    if "AMX_INT8" not in (facts.device.instruction_sets.value or ()):
        return build_command(options, facts.wanted)
    compiler = compilers.for_amx()
    if compiler is not None:
        return build_command(options, facts.wanted, compiler)
    command = build_command(options, facts.wanted, ("clang", "clang++"))
    return f"install clang, or GCC 13 or newer (older ones build AMX kernels that crash); then {command}"


def _library(facts: Facts) -> Iterator[Finding]:
    if facts.fault is not None:
        why = "nothing can be answered without it"
        yield wrong(facts.fault.message.rstrip("."), why, facts.fault.hint or rebuild(facts))
    elif facts.wanted is not None and facts.declared != facts.wanted:
        yield wrong(
            f"llama-cpp-python is {facts.declared}, and this slm was made for {facts.wanted}",
            "its low-level functions change from version to version: wrong calls can crash",
            rebuild(facts),
        )
    elif facts.library is not None:
        yield fine(facts.library.in_words())


def _instructions(facts: Facts) -> Iterator[Finding]:
    here, built = facts.device.instruction_sets.value, facts.features
    if here is None or built is None:
        unknown = "which instruction sets the processor has" if here is None else "what the build of llama.cpp uses"
        yield note(
            f"{unknown} is not known", "a build without them is several times slower", "slm bench shows the speed"
        )
        return
    missing = [name for name in here if name not in built]
    essential = [name for name in missing if name in _ESSENTIAL]
    mend = rebuild(facts) if missing else ""
    if essential:
        why = "prompts and answers take several times as long as they could"
        yield wrong(f"the build of llama.cpp does without {', '.join(essential)}, which the processor has", why, mend)
    elif missing:
        why = "a build for this very processor can be some tens of percent faster"
        yield note(f"the build of llama.cpp does without {', '.join(missing)}, which the processor has", why, mend)
    else:
        yield fine(f"the build uses what the processor has: {', '.join(here) or 'nothing special'}")


# What it costs to leave out a way of llama.cpp's.
_COSTS = {
    "has_extra_buffers": "prompts are read more slowly, with AMX several times",
    "has_flash_attention": "long conversations are slower and take more memory",
    "has_gpu": "the processor computes everything, many times slower than the GPU would",
    "has_threads": "one core computes everything",
}


def _self_test(facts: Facts) -> Iterator[Finding]:
    found = facts.self_test
    if found is None:
        return
    if facts.library is not None and facts.library.kind is LibraryKind.EXPLICIT:
        mend = mending_command(facts.library)
    else:
        mend = f"the prebuilt library: {reinstall_command()}; or a build of your own: {rebuild(facts)}"
    steps = "; ".join(f"{attempt.in_words()}: {attempt.fault or 'works'}" for attempt in found.attempts)
    if found.is_broken:
        yield wrong(f"llama.cpp {found.fault}, even with its most careful settings", "nothing can be answered", mend)
    elif found.untried:
        kept = f"; {found.limits.in_words()} stays out" if found.limits.forbidden else ""
        why = "a fault of llama.cpp on this machine shows only when it ends slm"
        yield note(f"llama.cpp could not be tried ({found.untried}){kept}", why, "slm doctor, once more")
    elif found.limits.forbidden:
        why = "; ".join(_COSTS[name] for name in found.limits.forbidden)
        what = f"llama.cpp goes wrong on this machine, and slm leaves out {found.limits.in_words()} ({steps})"
        yield note(what, why, mend)
    else:
        yield fine(f"llama.cpp computes the same in its fast ways as in the plain one (tried in {found.seconds:.1f} s)")


def _gpu(facts: Facts) -> Iterator[Finding]:
    found = [device for device in facts.compute if device.is_gpu]
    for device in found:
        free = f", {in_bytes(device.free_memory)} of its memory free" if device.free_memory else ""
        yield fine(f"{device.description or device.name}{free}")
    if found:
        return
    if facts.graphics.value is None:
        yield note("whether there is a GPU is not known", "one would make answers faster", "docs/install.md, GPU")
    elif facts.has_gpu_backend:
        yield wrong(
            "llama.cpp was built for a GPU and finds none",
            "everything is computed by the processor",
            "check the GPU's driver (nvidia-smi, vulkaninfo); in a container, pass the device in",
        )
    elif not facts.graphics.value:
        yield fine("none, and none is needed")
    for card in facts.graphics.value or () if not facts.has_gpu_backend else ():
        mend = rebuild(facts, _BACKENDS[card.maker])
        if card.is_fast:
            why = "the processor computes everything, many times slower than the GPU would"
            yield wrong(f"{card.name} is here, and the build of llama.cpp cannot use it", why, mend)
        else:
            why = "it shares the processor's memory: prompts may be read faster, answers hardly"
            yield note(f"{card.name} is here, and the build of llama.cpp cannot use it", why, mend)


def _processor(facts: Facts) -> Iterator[Finding]:
    device = facts.device
    n_cores = device.physical_cores.value
    cores = "the number of cores is not known" if n_cores is None else counted(n_cores, "core")
    if device.performance_cores.value and device.efficiency_cores.value:
        cores += f" ({device.performance_cores.value} of them fast)"
    yield fine(f"{device.processor.value or 'not named'}: {cores}, of which slm uses at most {facts.threads}")
    quota = device.cpu_quota.value
    if quota is not None and quota < 2:
        yield note(
            f"a control group allows {quota:.2g} processors' worth of time",
            "answers come at the pace of that share",
            "give the container more: docker run --cpus N",
        )


def _memory(facts: Facts) -> Iterator[Finding]:
    free, total = facts.device.available_memory.value or 0, facts.device.total_memory.value or 0
    what = f"{in_bytes(total)}, {in_bytes(free)} available"
    if facts.device.address_space.value is not None:
        what += f"; ulimit -v leaves {in_bytes(facts.device.address_space.value)}"
        free = min(free, facts.device.address_space.value)
    do = "close other programs; slm list --available marks what fits"
    if free < _LEAST_MEMORY:
        yield wrong(what, "that is too little even for the smallest models", do)
    elif free < _GOOD_MEMORY:
        yield note(what, "only models of some hundred million parameters fit now", do)
    else:
        yield fine(what)


def _power(facts: Facts) -> Iterator[Finding]:
    on_battery, percent = facts.device.is_on_battery.value, facts.device.battery_percent.value
    if on_battery:
        charge = f" ({percent} %)" if percent is not None else ""
        yield note(
            f"this device runs on its battery{charge}",
            "slm computes with half of the cores then, for a little less speed and much less power",
            "plug it in, or ask for more: --threads N",
        )
    elif on_battery is False:
        yield fine("mains")


def _seal(facts: Facts) -> Iterator[Finding]:
    seal = facts.seal
    if seal.gaps:
        yield note(
            "the seal is not whole: " + "; ".join(seal.gaps),
            "the network is closed to slm itself; --offline refuses to go on",
            "a kernel from 5.13 on has Landlock (docs/privacy.md)",
        )
        return
    if not seal.is_enforced_by_kernel:
        yield wrong(
            "the kernel does not enforce the seal: " + "; ".join(seal.details),
            "only Python code is kept from the network; llama.cpp, which reads foreign files, is not",
            "docs/privacy.md says which systems have a mechanism; slm privacy shows what is in force",
        )
        return
    yield fine(f"{seal.mechanism}, enforced by the kernel")
    if sys.platform == "linux" and seal.landlock_abi is None:
        yield note(
            "this kernel has no Landlock",
            "the network is closed all the same; files elsewhere can be written by a program that breaks out",
            "a kernel from 5.13 on has it (docs/privacy.md)",
        )


CHECKS: tuple[Check[Facts], ...] = (
    Check("library", _library),
    Check("instruction sets", _instructions),
    Check("self-test", _self_test),
    Check("gpu", _gpu),
    Check("processor", _processor),
    Check("memory", _memory),
    Check("power", _power),
    Check("seal", _seal),
)
