"""Which graphics processors this device has, by what the operating system says, whatever llama.cpp was built for.

Knows: /sys/class/drm, the drivers of NVIDIA and of Windows' Linux (WSL), Apple's own chips.
Refuses to know: what llama.cpp can compute on (engine/devices.py), what anyone does about a difference.
"""

import platform
import sys
from pathlib import Path

from slmchat.hardware.facts import Fact, number_of, text_of
from slmchat.hardware.memory import ROOT
from slmchat.lazy_dataclasses import dataclass

# PCI vendors that llama.cpp has backends for (https://pci-ids.ucw.cz); the others draw the screen of virtual machines.
_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}

# A graphics processor with less memory of its own borrows the processor's, and gains little for one conversation.
_OWN_MEMORY = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class Graphics:
    """One graphics processor. `maker`: NVIDIA, AMD, Intel or Apple. `is_fast`: with memory of its own (or Apple's)."""

    maker: str
    name: str
    is_fast: bool


def graphics(root: Path = ROOT) -> Fact[tuple[Graphics, ...]]:
    """The graphics processors that could compute; None where this system is not asked (Windows)."""
    if sys.platform == "darwin":
        is_arm = platform.machine() == "arm64"
        return Fact((Graphics("Apple", "Apple silicon", True),) if is_arm else (), "the processor's kind")
    if sys.platform == "win32":
        return Fact(None, "not looked for on Windows")
    found = [*_of_nvidia(root), *_of_drm(root)]
    return Fact(tuple(found), "/proc/driver/nvidia, /dev/dxg, /sys/class/drm")


def driver(root: Path = ROOT) -> str:
    """What tells one version of the drivers from another: what NVIDIA's says of itself, and the kernel, which has those
    of the others in it."""
    nvidia = (text_of(root / "proc/driver/nvidia/version") or "").partition("\n")[0].strip()
    return "; ".join(filter(None, (nvidia, platform.release())))


def _of_nvidia(root: Path) -> list[Graphics]:
    """What NVIDIA's driver lists; without its driver a card cannot compute, whatever the bus says."""
    try:
        cards = sorted((root / "proc/driver/nvidia/gpus").iterdir())
    except OSError:
        cards = []
    if not cards and (root / "dev/dxg").exists() and (root / "usr/lib/wsl/lib/libcuda.so.1").exists():
        return [Graphics("NVIDIA", "NVIDIA through WSL", True)]
    found = []
    for card in cards:
        lines = (text_of(card / "information") or "").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
        found.append(Graphics("NVIDIA", names[0] if names else "NVIDIA", True))
    return found


def _of_drm(root: Path) -> list[Graphics]:
    found = []
    for card in sorted((root / "sys/class/drm").glob("card[0-9]")):
        maker = _VENDORS.get(text_of(card / "device/vendor") or "")
        if maker in ("AMD", "Intel"):
            own = number_of(card / "device/mem_info_vram_total") or 0  # amdgpu's; i915 and xe have none
            found.append(
                Graphics(maker, f"{maker} {text_of(card / 'device/device') or ''}".strip(), own >= _OWN_MEMORY)
            )
    return found
