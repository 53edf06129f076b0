"""The seal: after it is closed, nothing in this process, its threads or its children can reach the network.

Knows: which mechanism this system has, what is in force now, when to give up (`--offline` without a kernel's help).
Refuses to know: how a mechanism works (linux.py, macos.py, guard.py), which commands are sealed.

It never claims more than it has: without a mechanism of the kernel the in-process guard is installed, and the status
says that it stops Python code only.
"""

import errno
import os
import sys
import threading
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass
from slmchat.privacy.steps import KeptSockets, Mechanism, NotOffered, Step
from slmchat.private_files import make_private
from slmchat.settings import Paths

_ALL = frozenset(Step)


@dataclass(frozen=True, slots=True)
class SealStatus:
    """What is in force in this process.

    `mechanism` is empty before the seal is closed. `is_local_closed`: local sockets (AF_UNIX) are refused as well.
    `writable` None: files can be written anywhere. `landlock_abi` is Landlock's version, None without it.
    `gaps`: ways out that stay, in words; with one of them the seal is not called enforced.
    """

    mechanism: str
    is_enforced_by_kernel: bool
    is_local_closed: bool
    details: tuple[str, ...]
    landlock_abi: int | None = None
    writable: tuple[Path, ...] | None = None
    gaps: tuple[str, ...] = ()

    @property
    def is_closed(self) -> bool:
        return bool(self.mechanism)


_OPEN = SealStatus("", False, False, ("the seal is not closed",))

_lock = threading.Lock()
_status = _OPEN
_closed: frozenset[Step] = frozenset()
_mechanism: Mechanism | None = None  # the one in force


def kernel_mechanisms(kept: KeptSockets | None = None) -> tuple[Mechanism, ...]:
    """What this system has to enforce the seal with, while `kept` stays open; empty: nothing that slm knows of."""
    if sys.platform.startswith(("linux", "android")):  # Termux is "linux" before Python 3.13, then "android"
        from slmchat.privacy.linux import Linux

        return (Linux(kept),)
    if sys.platform == "darwin":
        from slmchat.privacy.macos import MacOS

        return (MacOS(kept),)
    return ()


def status() -> SealStatus:
    """What is in force in this process now."""
    return _status


def seal(
    *, is_required: bool, writable: Sequence[Path] = (), mechanisms: Sequence[Mechanism] | None = None
) -> SealStatus:
    """Close the seal, all steps at once. A second call changes nothing.

    `writable` are the places where this process still has to write: temporary files have one of their own, the current
    directory is none.
    `is_required` is `--offline`: raises `SlmError` (UNSEALED) where the kernel does not enforce the seal.
    `mechanisms` replaces what this system has.
    """
    return _close(_ALL, is_required, writable, mechanisms)


class Seal:
    """The seal in steps, for an engine with a GPU backend, whose driver needs local sockets while it starts.

    `close_network()` before anything else; `close_files()` before the backend starts, so that the threads of the driver
    are kept to slm's places as well; `close_local()` once it has started and before the model file is opened. Each
    makes the earlier ones too, can be called again without effect, and raises `SlmError` (UNSEALED) as `seal()` does.
    """

    def __init__(
        self,
        *,
        is_required: bool,
        writable: Sequence[Path] = (),
        mechanisms: Sequence[Mechanism] | None = None,
        kept: KeptSockets | None = None,
    ) -> None:
        """`kept`: sockets that stay open; the rest as in `seal`."""
        self._is_required = is_required
        self._writable = tuple(writable)
        self._mechanisms = mechanisms if kept is None else kernel_mechanisms(kept)

    def close_network(self) -> SealStatus:
        return _close(frozenset({Step.NETWORK}), self._is_required, self._writable, self._mechanisms)

    def close_files(self) -> SealStatus:
        """From here on no child can start a GPU: a driver names its threads, and that is writing below /proc."""
        steps = frozenset({Step.NETWORK, Step.FILES})
        return _close(steps, self._is_required, self._writable, self._mechanisms)

    def close_local(self) -> SealStatus:
        return _close(_ALL, self._is_required, self._writable, self._mechanisms)


def adopt(status: SealStatus) -> SealStatus:
    """What is in force has been settled elsewhere (egress.py): the process is told, and not called sealed."""
    global _status
    with _lock:
        _status = status
        return status


def _close(
    steps: AbstractSet[Step], is_required: bool, writable: Sequence[Path], mechanisms: Sequence[Mechanism] | None
) -> SealStatus:
    global _status, _mechanism, _closed
    with _lock:
        missing = steps - _closed
        if missing and _mechanism is None:
            reasons = []
            for mechanism in kernel_mechanisms() if mechanisms is None else mechanisms:
                try:
                    _status, _mechanism = _closed_by(mechanism, missing, writable), mechanism
                    _closed = frozenset(missing)
                    break
                except NotOffered as reason:
                    reasons.append(str(reason))
            else:
                refuse_if(is_required, reasons)
                from slmchat.privacy.guard import Guard

                _mechanism = Guard(reasons)
                _status, _closed = _closed_by(_mechanism, _ALL, writable), _ALL
        elif missing and _mechanism is not None:
            _status = _closed_further(_mechanism, missing, writable, is_required)
            _closed |= missing
        if not _status.is_enforced_by_kernel:
            refuse_if(is_required, _status.gaps or _status.details)
        return _status


def _closed_by(mechanism: Mechanism, steps: AbstractSet[Step], writable: Sequence[Path]) -> SealStatus:
    done = mechanism.close(steps, writable)
    return SealStatus(
        done.name,
        mechanism.is_enforced_by_kernel and not done.gaps,
        Step.LOCAL in steps,
        done.details,
        done.landlock_abi,
        done.writable,
        done.gaps,
    )


def _closed_further(
    mechanism: Mechanism, steps: AbstractSet[Step], writable: Sequence[Path], is_required: bool
) -> SealStatus:
    """The status after a later step; it keeps what the earlier ones did."""
    try:
        done = mechanism.close(steps, writable)
    except NotOffered as reason:
        refuse_if(is_required, (str(reason),))
        return replace(_status, details=(*_status.details, f"the rest of the seal stays open: {reason}"))
    kept = [line for line in _status.details if not line.startswith("local sockets")]
    gaps = tuple(dict.fromkeys((*_status.gaps, *done.gaps)))
    has_files = Step.FILES in steps
    return SealStatus(
        done.name if has_files else _status.mechanism,
        _status.is_enforced_by_kernel and not gaps,
        _status.is_local_closed or Step.LOCAL in steps,
        tuple(dict.fromkeys((*kept, *done.details))),
        done.landlock_abi if has_files else _status.landlock_abi,
        done.writable if has_files else _status.writable,
        gaps,
    )


def refuse_if(is_required: bool, reasons: Sequence[str]) -> None:
    """Give up where `--offline` asks for what the kernel does not do here. Raises `SlmError` (UNSEALED)."""
    if is_required:
        why = "; ".join(reasons) or f"there is none for {sys.platform}"
        raise SlmError(
            f"the seal is required (--offline) and cannot be enforced here: {why}.",
            hint="without --offline slm goes on behind what there is; slm privacy says what that is worth",
            exit_code=ExitCode.UNSEALED,
        )


def own_directories(paths: Paths, *more: Path, configures: bool = False) -> tuple[Path, ...]:
    """slm's own directories for `writable`, made when missing (0700): only what exists can be allowed.

    The configuration is among them only with `configures`: what talks to a model never changes it, so that nobody who
    takes such a process over can tell the next one where to connect. `more`: others that are slm's own.
    """
    own = (paths.data, paths.cache, *more, *([paths.config] if configures else []))
    for directory in own:
        with suppress(SlmError):  # a home that cannot be written; the errand that writes there says so in its own words
            make_private(directory)
    return own


def is_refusal(error: OSError, path: Path) -> bool:
    """Whether it is the seal that keeps this process from writing to `path`."""
    places = _status.writable
    if places is None or error.errno not in (errno.EACCES, errno.EPERM, errno.EXDEV):
        return False
    target = Path(os.path.realpath(path))
    return not any(target == place or place in target.parents for place in places)


def explain(error: OSError, path: Path, hint: str = "name the place when slm starts") -> SlmError:
    """The sentence for a file that could not be written; the seal, and `hint`, only when it is the reason."""
    if not is_refusal(error, path):
        return SlmError(f"{path} cannot be written: {error.strerror or error}.", exit_code=ExitCode.STORAGE)
    return SlmError(
        f"{path} is outside the places where a sealed slm may write (slm's own, and what was named when it started).",
        hint=hint,
        exit_code=ExitCode.STORAGE,
    )
