"""What a run has measured so far, on the disk: a line of JSON for the run, then one for each group of items.

A line is written whole and flushed to the disk before the next group begins. After a crash, a `kill -9` or a power cut
the last line may be half a line; it is cut off, and its group is measured again.

Knows: the file, the owner's alone; which run is the last one. Refuses to know: how something is measured.
"""

import itertools
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Any

from slmchat import file_locks, safe_json
from slmchat.errors import ExitCode, SlmError
from slmchat.evaluation.method import EvalMethod
from slmchat.evaluation.records import Agreement, ItemResult
from slmchat.evaluation.speed import AnswerSpeed
from slmchat.evaluation.statistics import Interval
from slmchat.lazy_dataclasses import dataclass
from slmchat.private_files import create_private, storage_error

_FORMAT = 1
_ENDING = ".jsonl"


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run measures. `models`: key and stamp of each (another stamp is another file), `tasks`: what was named
    and the fingerprint of what it was."""

    models: Mapping[str, str]
    tasks: Mapping[str, str]
    method: EvalMethod

    def as_json(self) -> dict[str, Any]:
        return {"models": dict(self.models), "tasks": dict(self.tasks), "method": self.method.as_json()}


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """A group of items of a task that is done. `seconds` of wall time; `memory` in bytes, `energy_j` in joules."""

    items: tuple[ItemResult, ...]
    seconds: float
    memory: int | None = None
    energy_j: float | None = None


@dataclass(slots=True)
class RunRecords:
    """What is measured so far. `file` None: kept in memory only (`--private`)."""

    plan: RunPlan
    file: Path | None = None
    groups: dict[tuple[str, str], list[GroupRecord]] = field(default_factory=dict)
    speeds: dict[str, AnswerSpeed] = field(default_factory=dict)
    agreements: dict[str, Agreement] = field(default_factory=dict)
    _descriptor: int | None = None
    _end: int = 0  # bytes of the file up to where it is whole

    @classmethod
    def begin(cls, plan: RunPlan, directory: Path | None) -> "RunRecords":
        """A new run, in a new file of the directory (None: in memory). Raises `SlmError` (STORAGE)."""
        if directory is None:
            return cls(plan)
        made = cls(plan, _new_file(directory))
        made._open()
        made._write({"format": _FORMAT, **plan.as_json()})
        return made

    @classmethod
    def read(cls, file: Path) -> "RunRecords":
        """A run that is there. Raises `SlmError`: DAMAGED when its beginning is not that of a run, STORAGE."""
        try:
            lines = file.read_bytes().splitlines(keepends=True)
        except OSError as error:
            raise storage_error(error, file) from error
        made = None
        for line in lines:
            try:
                if not line.endswith(b"\n"):
                    break
                told = json.loads(line)
                if made is None:
                    made = cls(_plan_of(told), file)
                else:
                    made._take(told)
                made._end += len(line)
            except (ValueError, TypeError, KeyError, RecursionError):
                break  # what follows a damaged line is measured again
        if made is None:
            raise SlmError(
                f"{file} is not a run of slm eval.",
                hint="without --resume a new one begins",
                exit_code=ExitCode.DAMAGED,
            )
        return made

    def go_on(self) -> None:
        """Write behind what is there; what is not whole is cut off. Raises `SlmError` (STORAGE)."""
        self._open()
        assert self._descriptor is not None
        try:
            os.ftruncate(self._descriptor, self._end)
            os.lseek(self._descriptor, 0, os.SEEK_END)
        except OSError as error:
            raise self._refused(error) from error

    def add_speed(self, model: str, speed: AnswerSpeed) -> None:
        self.speeds[model] = speed
        self._write({"model": model, "speed": asdict(speed)})

    def add_agreement(self, model: str, agreement: Agreement) -> None:
        self.agreements[model] = agreement
        self._write({"model": model, "agreement": asdict(agreement)})

    def add_group(self, model: str, task: str, group: GroupRecord) -> None:
        self.groups.setdefault((model, task), []).append(group)
        self._write(_group_told(model, task, group))

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _take(self, told: Mapping[str, Any]) -> None:
        if "speed" in told:
            self.speeds[told["model"]] = AnswerSpeed(**told["speed"])
            return
        if "agreement" in told:
            self.agreements[told["model"]] = _agreement_of(told["agreement"])
            return
        items = tuple(_item_of(item) for item in told["items"])
        group = GroupRecord(items, float(told["seconds"]), told["memory"], told["energy_j"])
        self.groups.setdefault((told["model"], told["task"]), []).append(group)

    def _open(self) -> None:
        """Raises `SlmError` (STORAGE), also when another slm writes this run."""
        assert self.file is not None
        try:
            create_private(self.file)
            self._descriptor = os.open(self.file, os.O_RDWR | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise storage_error(error, self.file) from error
        if not file_locks.hold(self._descriptor):
            self.close()
            raise SlmError(f"{self.file} is being written by another slm eval.", exit_code=ExitCode.STORAGE)
        os.lseek(self._descriptor, 0, os.SEEK_END)

    def _write(self, told: Mapping[str, Any]) -> None:
        if self._descriptor is None:
            return
        try:
            self._write_bytes(safe_json.encode(told, indent=None).encode())
        except OSError as error:
            raise self._refused(error) from error

    def _write_bytes(self, data: bytes) -> None:
        assert self._descriptor is not None
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        os.fsync(self._descriptor)

    def _refused(self, error: OSError) -> SlmError:
        assert self.file is not None
        return storage_error(error, self.file)


def last_run(directory: Path) -> Path | None:
    """The file of the run that began last; None without one."""
    return max(directory.glob(f"*{_ENDING}"), default=None)


def _new_file(directory: Path) -> Path:
    """An empty file of this run alone, also when another one begins in the same moment; the last one by its name is the
    one that began last. Raises `SlmError` (STORAGE)."""
    for now in itertools.count(time.time_ns() // 1000):  # a microsecond later there is another name
        stamp = time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime(now // 1_000_000))
        file = directory / f"{stamp}.{now % 1_000_000:06}{_ENDING}"
        try:
            create_private(file, is_new=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise storage_error(error, file) from error
        return file
    raise AssertionError("numbers do not end")


def _plan_of(told: Mapping[str, Any]) -> RunPlan:
    if told["format"] != _FORMAT:
        raise ValueError("another format")
    return RunPlan(dict(told["models"]), dict(told["tasks"]), EvalMethod.of_json(told["method"]))


def _group_told(model: str, task: str, group: GroupRecord) -> dict[str, Any]:
    return {"model": model, "task": task, **asdict(group)}


def _item_of(told: Mapping[str, Any]) -> ItemResult:
    made = ItemResult(**told)
    return replace(made, scores=tuple(made.scores), tokens=tuple(made.tokens), failed=tuple(made.failed))


def _agreement_of(told: Mapping[str, Any]) -> Agreement:
    intervals = {name: Interval(**told[name]) for name in ("top_token_interval", "kl_interval")}
    return Agreement(**{**told, **intervals})


def same_ids(group: GroupRecord, ids: Sequence[str]) -> bool:
    """Whether a group is of these items."""
    return [item.id for item in group.items] == list(ids)
