"""What has been measured of the throughput of this device, kept in a file and completed a little at a time.

Knows: what a measurement depends on, how much of it a command may do, when not to begin: another program computes, or
the last attempt failed less than an hour ago. Refuses to know: what is done with it, how a token is timed
(device_throughput.py).

All of it takes half a second on a quiet device and longer on others. No command makes a person wait for that: each
measures for at most `SLICE_S`, keeps what it has, and the next one goes on. On a device on which nothing is done in
that time, `LONG_SLICE_S`: without a figure, nobody is told how fast a model is there.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Any

from slmchat import hardware, kept_json
from slmchat.engine import native, threads
from slmchat.engine.throughput_points import MODELS, MOST_SHRUNK, Point
from slmchat.errors import SlmError
from slmchat.hardware import load
from slmchat.lazy_dataclasses import dataclass
from slmchat.private_files import make_private, write_private

# Seconds of one command: loading llama.cpp and cleaning up make 0.2 of it.
SLICE_S = 0.17
LONG_SLICE_S = 0.6
RETRY_AFTER_S = 3600.0

_FORMAT = 2


@dataclass(frozen=True, slots=True)
class KeptThroughput:
    """What has been measured so far. `shrunk`: the models had to be so many times smaller to be done in time.

    `failed_at`: seconds since 1970 of the last attempt that failed, None when the last one did not.
    """

    key: Mapping[str, Any]
    points: Mapping[str, Point] = field(default_factory=dict)
    shrunk: int = 1
    failed_at: float | None = None

    @property
    def threads(self) -> int:
        return int(self.key["threads"])

    @property
    def missing(self) -> tuple[str, ...]:
        """The models that have not been measured yet, those first that tell most."""
        return tuple(name for name in MODELS if name not in self.points)

    @property
    def slice_s(self) -> float:
        """Seconds that the next measurement may take."""
        return SLICE_S if self.shrunk < MOST_SHRUNK else LONG_SLICE_S

    @property
    def may_go_on(self) -> bool:
        """Whether something is missing and nothing failed within the last hour. A clock that was set back counts as
        one."""
        return bool(self.missing) and (self.failed_at is None or not 0 <= time.time() - self.failed_at < RETRY_AFTER_S)


def key_of(chosen_threads: int | None) -> dict[str, Any]:
    """What the throughput depends on: another processor, library or number of threads is measured again."""
    try:
        library = list(native.build())
    except (SlmError, OSError):  # there is none; whoever measures is told
        library = []
    return {
        "format": _FORMAT,
        "processor": hardware.cores.processor().value,
        "sets": list(hardware.cores.instruction_sets().value or ()),
        "library": library,
        "threads": chosen_threads or threads.of_this_device(),
    }


def read(file: Path, key: Mapping[str, Any]) -> KeptThroughput:
    """What the file keeps for this key; nothing when there is none, when it is damaged or keeps another key."""
    found = kept_json.read(file)
    try:
        if found["key"] != key:
            return KeptThroughput(key)
        failed_at = found["failed_at"]
        return KeptThroughput(
            key,
            {name: _point(found["points"][name]) for name in MODELS if name in found["points"]},
            min(MOST_SHRUNK, max(1, int(found["shrunk"]))),
            None if failed_at is None else float(failed_at),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):  # none yet, or damaged: measured again
        return KeptThroughput(key)


def _point(found: Mapping[str, Any]) -> Point:
    point = Point(int(found["bytes"]), int(found["rows"]), int(found["layers"]), float(found["seconds"]))
    if min(point.bytes, point.rows, point.layers) < 1 or not 0 < point.seconds < 60:
        raise ValueError("no measurement")
    return point


def go_on(kept: KeptThroughput, file: Path, cache: Path) -> tuple[KeptThroughput, str]:
    """Measure a little more, for at most `kept.slice_s`, and keep it in `file`; what is known now, and a sentence.

    Nothing is measured while other programs want the processors that it needs. A failure is kept too. Temporary files
    are written to `cache`. Raises `SlmError` (storage) when the disk refuses.
    """
    others, processors = load.others_running(), os.cpu_count() or 1
    if others is not None and others + kept.threads > processors:
        return kept, "the speed of this device is not measured now: other programs keep the processor busy."
    from slmchat.engine import device_throughput  # with all of llama.cpp

    # kept before it is tried: a library that takes the process down must not do so at every command
    _write(replace(kept, failed_at=time.time()), file)
    try:
        make_private(cache)
        found = device_throughput.measure(kept.threads, cache, kept.missing, seconds=kept.slice_s, shrunk=kept.shrunk)
    except (SlmError, OSError) as error:
        now = replace(kept, failed_at=time.time(), shrunk=1)
        told = f"the speed of this device could not be measured; slm tries again in an hour: {error}"
    else:
        now = _with(kept, found)
        told = f"the speed of this device: {len(now.points)} of {len(MODELS)} measurements are made."
    _write(now, file)
    return now, told


def _write(kept: KeptThroughput, file: Path) -> None:
    write_private(file, json.dumps(asdict(kept), indent=2).encode())


def _with(kept: KeptThroughput, found: Mapping[str, Point]) -> KeptThroughput:
    """With what a slice found. One that found nothing was too short for this device: smaller models come next."""
    if found:
        return replace(kept, points={**kept.points, **found}, failed_at=None)
    if kept.shrunk < MOST_SHRUNK:
        return replace(kept, shrunk=2 * kept.shrunk)
    return replace(kept, shrunk=1, failed_at=time.time())
