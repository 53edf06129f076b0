"""What is known of llama.cpp on this machine: tried once (self_test.py), kept, and in force for everything that loads.

Knows: on which machines the self-test is worth its time, what a verdict depends on, the small files that keep it.
Refuses to know: how something is tried, what a user is told.

Where nothing special is in play, nothing is tried. On x86-64 without AMX and on 64-bit Arm without SVE, SME and
KleidiAI, and without a GPU, llama.cpp's fast way is the one that everybody's processor takes (AVX2, AVX-512; NEON, dot
products): it is as well tested as the plain way, and needs no instruction that the plain way does not need. Should it
end slm all the same, a mark of that is left (engine/crash_markers.py), and the self-test is made then.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slmchat import kept_json
from slmchat.engine import devices, native, threads
from slmchat.engine.library import LibraryKind
from slmchat.engine.limits import ALL, HANGS, Attempt, EngineLimits, SelfTestVerdict
from slmchat.errors import SlmError
from slmchat.file_hashes import short_sha256
from slmchat.hardware import cores
from slmchat.lazy_dataclasses import dataclass
from slmchat.private_files import write_private

_FORMAT = 1

FORCE = "SLM_SELF_TEST"
"""Internal: "always" makes the self-test on every machine (the tests do)."""

# What no common processor has, by ggml's names (ggml-cpu.cpp, ggml_backend_cpu_get_features), and the flag that the
# processor must have for it (hardware/cores.py). KleidiAI is a library of kernels and needs none.
_SPECIAL = {"AMX_INT8": "AMX_INT8", "SVE": "SVE", "SME": "SME", "KLEIDIAI": None, "RISCV_V": "RVV"}
_COMMON_MACHINES = ("x86_64", "amd64", "i686", "aarch64", "arm64")

# By these variables a user takes GPUs from the drivers' sight.
_CHOICES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES")

# A verdict that says "hangs" may come from a machine that was very busy: it is found again after a day.
_HANGS_S = 86_400


@dataclass(frozen=True, slots=True)
class KnownVerdict:
    """A verdict in force. `is_tried`: it was found by trying; `is_new`: in this process."""

    verdict: SelfTestVerdict
    is_tried: bool = False
    is_new: bool = False


_lock = threading.Lock()
_known: KnownVerdict | None = None
_directory: Path | None = None
_may_keep = True


def place_in_use() -> Path | None:
    """The directory that `library` was given in this process; None when it was not."""
    return _directory


def may_keep() -> bool:
    """Whether what is found out may be written there: nobody in this process has asked for nothing to be kept."""
    return _may_keep


def library(
    place: Path | None = None, *, is_forced: bool = False, is_wanted: bool = False, is_kept: bool = True
) -> KnownVerdict:
    """What works of the library in use: known in this process, kept in `place`, or tried now.

    Asked first with the place; later callers need not name it. Without one, or where it cannot be written (a home that
    is read-only, `--private`), the verdict lasts as long as the process. `is_forced`: try it, whatever is known.
    `is_wanted`: try it where nothing is known, also if it need not be. `is_kept`: a new verdict may be written.
    Raises `SlmError` without llama.cpp.
    """
    global _known, _directory, _may_keep
    with _lock:
        _directory, _may_keep = place or _directory, _may_keep and is_kept
        if _known is None or is_forced:
            _known = _found(_directory, is_forced=is_forced, is_wanted=is_wanted, is_kept=is_kept)
        return _known


def expected(place: Path) -> EngineLimits:
    """What is open, for those who only count memory: nothing is tried for them, and llama.cpp is only asked which
    library it is where something has been found to be closed (a `false` in one of the files)."""
    if _known is not None:
        return _known.verdict.limits
    is_limited = any("false" in json.dumps(kept_json.read(file)) for file in place.glob("*.json"))
    return library(place).verdict.limits if is_limited else ALL


def tried(place: Path) -> KnownVerdict:
    """As `library`, and tried now if it has not been: for whoever wants to know."""
    known = library(place, is_wanted=True)
    return known if known.is_tried else library(place, is_forced=True)


def limits_of(model: Path, place: Path | None = None) -> EngineLimits:
    """What may be used with this model: what works of the library, and of that what has not ended slm with it.

    `place` as in `library`.
    """
    limits = library(place).verdict.limits
    if _directory is None:
        return limits
    kept = of_model(model)
    return limits if kept is None else limits.both(kept.limits)


def keep_of_model(model: Path, verdict: SelfTestVerdict) -> None:
    """Keep what works with this model; nothing where no verdict can be kept."""
    if _directory is not None:
        _write(_file(_directory, model), _model_key(model), verdict)


def of_model(model: Path) -> SelfTestVerdict | None:
    """The kept verdict on a model, None without one."""
    return None if _directory is None else _read(_file(_directory, model), lambda: _model_key(model))


def _found(place: Path | None, *, is_forced: bool, is_wanted: bool, is_kept: bool) -> KnownVerdict:
    file = None if place is None else _file(place, native.library().path)
    kept = _read(file, library_key) if file is not None and not is_forced else None
    if kept is not None:
        return KnownVerdict(kept, is_tried=True)
    if not (is_forced or is_wanted or _is_needed()):
        return KnownVerdict(SelfTestVerdict())
    from slmchat.engine import self_test  # and what starts processes: not for every run

    verdict = self_test.try_library(threads.of_this_device())
    if verdict.untried and "AMX_INT8" in _special_here():  # the one that is known to crash
        verdict = SelfTestVerdict(
            ALL.without("has_extra_buffers"), verdict.attempts, verdict.seconds, untried=verdict.untried
        )
    if is_kept and file is not None and not verdict.untried and not verdict.is_broken:
        _write(file, library_key(), verdict)
    return KnownVerdict(verdict, is_tried=True, is_new=True)


def _is_needed() -> bool:
    """Whether this library takes ways on this machine that are not everybody's, or is one that nobody knows."""
    return (
        os.environ.get(FORCE) == "always"
        or native.library().kind is LibraryKind.EXPLICIT
        or _machine() not in _COMMON_MACHINES
        or native.has_gpu_backend()
        or bool(_special_here())
    )


def _machine() -> str:
    """The processor's kind, as `platform.machine` has it, which takes 3 ms to import."""
    if hasattr(os, "uname"):
        return os.uname().machine.lower()
    return os.environ.get("PROCESSOR_ARCHITECTURE", "").lower()  # Windows


def _special_here() -> set[str]:
    """What is special and both the build and the processor have."""
    built = _SPECIAL.keys() & devices.library_features()
    here = cores.instruction_sets().value if built else ()
    return {name for name in built if here is None or _SPECIAL[name] is None or _SPECIAL[name] in here}


def library_key() -> dict[str, Any]:
    """What anything depends on that is found out about the library: its file and build, the processor, the GPUs.

    The GPUs are those that the system tells: the library would have to start their drivers, and the seal is not closed
    yet for whoever asks first.
    """
    from slmchat.hardware import graphics

    gpus = (graphics.graphics().value or ()) if native.has_gpu_backend() else ()
    return {
        "library": str(native.library().path),
        "build": list(native.build()),
        "processor": cores.processor().value,
        "sets": list(cores.instruction_sets().value or ()),
        "gpus": [[gpu.maker, gpu.name] for gpu in gpus],
        "chosen": [os.environ.get(name) for name in _CHOICES] if native.has_gpu_backend() else [],
        "driver": graphics.driver() if native.has_gpu_backend() else "",
        "is_parallel": threads.of_this_device() > 1,
    }


def _model_key(model: Path) -> dict[str, Any]:
    try:
        found = model.stat()
    except OSError:
        return {}
    return {**library_key(), "model": [str(model), found.st_size, found.st_mtime_ns]}


def _file(place: Path, subject: Path) -> Path:
    return place / f"{short_sha256(os.fsencode(subject.absolute()))[:16]}.json"


def _read(file: Path, key: Callable[[], dict[str, Any]]) -> SelfTestVerdict | None:
    """The verdict in a file; None when there is none, it is damaged, too old or of something else."""
    found = kept_json.read(file)
    try:
        if found["format"] != _FORMAT or found["key"] != key():
            return None
        attempts = tuple(Attempt(_limits(each["limits"]), str(each["fault"])) for each in found["attempts"])
        verdict = SelfTestVerdict(_limits(found["limits"]), attempts, float(found["seconds"]))
        age = time.time() - float(found["tried_at"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    return None if _hangs(attempts) and not 0 <= age < _HANGS_S else verdict


def _hangs(attempts: Iterable[Attempt]) -> bool:
    return any(attempt.fault == HANGS for attempt in attempts)


def _limits(found: dict[str, Any]) -> EngineLimits:
    if any(type(value) is not bool for value in found.values()):
        raise ValueError("no limits")
    return EngineLimits(**found)


def _write(file: Path, key: dict[str, Any], verdict: SelfTestVerdict) -> None:
    """Whole or not at all. Two processes at once find the same; the later one is kept."""
    content = {
        "format": _FORMAT,
        "key": key,
        "limits": asdict(verdict.limits),
        "attempts": [asdict(attempt) for attempt in verdict.attempts],
        "seconds": round(verdict.seconds, 3),
        "tried_at": time.time(),
    }
    try:
        write_private(file, json.dumps(content, indent=1).encode())
    except SlmError:  # read-only, full, or behind the seal of --private: it is tried again the next time
        return
