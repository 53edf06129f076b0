"""What `slm tune` measured, kept for each model on this device: the file `tuning.json` in slm's data directory.

Knows: the record, what makes it invalid (another processor, number of processors, build, model file).
Refuses to know: how it is measured (tune.py).
"""

import json
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

from slmchat import hardware, kept_json
from slmchat.errors import SlmError
from slmchat.lazy_dataclasses import dataclass
from slmchat.private_files import write_private
from slmchat.settings import KV_TYPES, Settings
from slmchat.wording import counted

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Tuning:
    """How to compute with one model here. None means: as without tuning.

    `gains`: for each group of settings by which factor the chosen one was faster; `is_disturbed`: other programs
    computed meanwhile. `measured_at`: UTC in ISO 8601.
    """

    threads: int | None = None
    threads_batch: int | None = None
    batch_tokens: int | None = None
    flash_attention: bool | None = None
    kv_type: str | None = None
    gains: dict[str, float] = field(default_factory=dict)
    is_disturbed: bool = False
    measured_at: str = ""

    def in_words(self) -> str:
        """What differs from the usual, and by how much it is faster; empty when nothing does."""
        told = {
            "generation": self.threads and f"{counted(self.threads, 'thread')} to generate",
            "prompt": self.threads_batch and f"{counted(self.threads_batch, 'thread')} to read prompts",
            "batch": self.batch_tokens and f"batches of {counted(self.batch_tokens, 'token')}",
            "flash attention": self.flash_attention is not None
            and f"flash attention {'on' if self.flash_attention else 'off'}",
            "KV type": self.kv_type and f"KV cache in {self.kv_type}",
        }
        return ", ".join(
            f"{words} ({self.gains[name] - 1:+.0%})" if name in self.gains else words
            for name, words in told.items()
            if words
        )


UNTUNED = Tuning()


def of(model: Path, settings: Settings) -> Tuning:
    """What was measured for this file on this device; `UNTUNED` when nothing was, or something has changed since.

    On its battery a device uses fewer threads; then what was measured about threads does not count.
    """
    found = kept(model, settings)
    if found is None:
        return UNTUNED
    if (found.threads or found.threads_batch) and hardware.power.power()[0].value:
        return Tuning(None, None, found.batch_tokens, found.flash_attention, found.kv_type, found.gains)
    return found


def kept(model: Path, settings: Settings) -> Tuning | None:
    """The record of this file on this device, None without a valid one."""
    found = _read(settings)
    entry = found.get("models", {}).get(str(model)) if found.get("device") else None
    if entry is None or found["device"] != _device() or entry.get("stamp") != _stamp(model):
        return None
    try:
        return _valid(Tuning(**entry["tuning"]))
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
    ):  # damaged, or of another slm: measured again
        return None


def keep(model: Path, tuning: Tuning, settings: Settings) -> None:
    """Write the record down, whole or not at all; those of files that are gone or changed go. Raises `SlmError`."""
    found, device = _read(settings), _device()
    models = found.get("models", {}) if found.get("device") == device else {}
    models = {name: entry for name, entry in models.items() if entry.get("stamp") == _stamp(Path(name))}
    models[str(model)] = {"stamp": _stamp(model), "tuning": asdict(tuning)}
    write_private(_file(settings), json.dumps({"device": device, "models": models}, indent=2).encode())


def forget(settings: Settings, model: Path | None = None) -> int:
    """Forget the record of a model, or all; how many there were. Raises `SlmError` (storage)."""
    found = _read(settings)
    models = found.get("models", {})
    gone = [name for name in models if model is None or name == str(model)]
    if gone:
        left = {name: entry for name, entry in models.items() if name not in gone}
        write_private(_file(settings), json.dumps({**found, "models": left}, indent=2).encode())
    return len(gone)


def _valid(tuning: Tuning) -> Tuning:
    """The tuning, if every value is of a kind that a session can be opened with. Raises `ValueError`."""
    counts = (tuning.threads, tuning.threads_batch, tuning.batch_tokens)
    if any(count is not None and (type(count) is not int or not 1 <= count <= 4096) for count in counts):
        raise ValueError("no count")
    if tuning.kv_type not in (None, *KV_TYPES) or tuning.flash_attention not in (None, True, False):
        raise ValueError("no type")
    tuning.in_words()
    return tuning


def _file(settings: Settings) -> Path:
    return settings.paths.data / "tuning.json"


def _read(settings: Settings) -> dict[str, Any]:
    """What the file holds; nothing when there is none or it is damaged."""
    found = kept_json.read(_file(settings))
    is_whole = isinstance(found, dict) and isinstance(found.get("models"), dict)
    return found if is_whole and all(isinstance(entry, dict) for entry in found["models"].values()) else {}


def _device() -> dict[str, Any]:
    """What the measurements depend on besides the model: another of these, and they are not used."""
    from slmchat.engine import native

    try:
        build = list(native.build())
    except (OSError, SlmError):
        build = []
    return {
        "format": _FORMAT,
        "processor": hardware.cores.processor().value,
        "processors": len(hardware.usable_cpus()) or hardware.physical_cores(),
        "quota": hardware.cpu_quota(),
        "build": build,
    }


def _stamp(model: Path) -> list[int] | None:
    try:
        found = model.stat()
    except (OSError, ValueError):  # also: a null character in the name
        return None
    return [found.st_size, found.st_mtime_ns]
