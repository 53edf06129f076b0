"""What a build of one's own gains on this device: the part of `slm tune` about libraries.

Knows: which two libraries are compared, what is said where there is only one.
Refuses to know: how they are measured (engine/library_comparison.py), what a build needs (docs/install.md).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from slmchat import hardware
from slmchat.engine import devices, library, native
from slmchat.engine.library import LibraryKind, NativeLibrary
from slmchat.engine.library_comparison import Comparison, compare
from slmchat.engine.throughput import Workload
from slmchat.lazy_dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OwnBuild:
    """What is known of it. `gain`: what it gains; None: not measured, or it was tried (`is_measured`) in vain.

    `missing`: instruction sets of this processor that the library in use does without.
    """

    used: NativeLibrary
    is_measured: bool = False
    gain: Comparison | None = None
    missing: tuple[str, ...] = ()

    def in_words(self) -> str:
        """One sentence, with the command where one is to be run."""
        if self.gain is not None:
            return f"{self.gain.in_words()}, beside the other library"
        if self.is_measured:
            return "could not be measured beside the other library in time"
        if self.used.kind is LibraryKind.OWN:
            return "in use; there is no other library to compare it with"
        if not self.missing:
            return "nothing to gain that could be told: the library in use has the instruction sets of this processor"
        command = library.build_command("-DGGML_NATIVE=on")
        return (
            f"can be faster: the library in use does without {', '.join(self.missing)}, which this processor has. "
            f"Build it, then run slm tune again: {command}"
        )


def look(
    model: Path, threads: tuple[int, int], tokens: Sequence[int], work: Workload, is_cancelled: Callable[[], bool]
) -> OwnBuild:
    """Measure the own build beside the library that would be used without it, where both are here.

    Raises `Cancelled`.
    """
    used = native.library()
    own, prebuilt = library.own_build(), library.prebuilt()
    other = prebuilt if used.kind is LibraryKind.OWN else used
    if own is not None and other is not None and not own.path.samefile(other.path):
        return OwnBuild(used, True, compare((other, own), model, threads, tokens, work, is_cancelled))
    here, built = hardware.cores.instruction_sets().value or (), devices.build_features()
    return OwnBuild(used, missing=tuple(name for name in here if built is not None and name not in built))
