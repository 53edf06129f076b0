"""Models that have ended slm: a native abort inside llama.cpp leaves no time to say anything.

Knows: a small mark on the disk while llama.cpp first works on a model, taken away when that went well, and what a mark
means that is still there although its process is gone.
Refuses to know: why it ended, what the file holds, how a model is loaded.

An empty mark is left by a kill (SIGKILL, which the kernel sends when memory runs out). Everything else writes into it
before it ends slm: an abort or a fault the word "Fatal", SIGTERM and SIGHUP, which are somebody's wish, something else.
That is faulthandler's work, for it runs in the signal itself, also while the main thread is inside llama.cpp, where a
handler in Python would have to wait. Where engine/crash_report.py has faulthandler for itself, it writes the word here.
"""

import atexit
import contextlib
import faulthandler
import os
import signal
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from slmchat.engine import crash_report
from slmchat.file_hashes import short_sha256

# faulthandler.c: "Fatal Python error: Segmentation fault", and so for aborts; on Windows "Windows fatal exception: …".
_FATAL = (b"Fatal", b"Windows fatal")


class Ended(StrEnum):
    """How an earlier slm ended while a model was on trial."""

    CRASHED = "crashed"  # an abort or a fault
    KILLED = "killed"  # from outside, with no time to say anything
    WISHED = "wished"  # by SIGTERM or SIGHUP

    @classmethod
    def worst(cls, ends: "Iterable[Ended]") -> "Ended":
        """The one of these ends that has to be told first."""
        return min(ends, key=list(cls).index)


_own: set[Path] = set()  # marks that this process has set and not taken away yet

# What ends slm because somebody wants it so; Windows has neither the second nor a way to write in it.
_WISHES = (signal.SIGTERM, signal.SIGHUP) if hasattr(faulthandler, "register") else ()


def directory(data: Path) -> Path:
    """Where the marks are, below slm's data directory."""
    return data / "loading"


class CrashMarker:
    """The mark of one model in this process. A disk that refuses it is no reason not to load."""

    def __init__(self, data: Path, model: Path) -> None:
        self._file = directory(data) / f"{_stem(model)}-{os.getpid()}"
        self._descriptor: int | None = None
        self._had_faulthandler = False

    def set(self) -> None:
        """llama.cpp is about to do something with the model that it has not done in this process yet."""
        if self._descriptor is not None:
            return
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(self._file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            _own.add(self._file)
            if crash_report.hears_signals():  # a crash ends this process in words, and with `_settle_own`
                crash_report.watch()
            else:
                self._had_faulthandler = faulthandler.is_enabled()
                faulthandler.enable(self._descriptor, all_threads=False)
            for wish in _WISHES:
                if signal.getsignal(wish) is not signal.SIG_IGN:  # as under nohup, which ignores SIGHUP
                    faulthandler.register(wish, self._descriptor, all_threads=False, chain=True)
            atexit.register(self.clear)  # Ctrl-C while it loads is no fault of the file; an abort runs no atexit

    def clear(self) -> None:
        """It has ended, well or with an error that could be told."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        for wish in _WISHES:
            faulthandler.unregister(wish)
        if not crash_report.hears_signals():
            faulthandler.disable()
            with contextlib.suppress(RuntimeError, ValueError, AttributeError):  # standard error is closed
                if self._had_faulthandler:
                    faulthandler.enable()
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
        os.close(descriptor)
        _own.discard(self._file)
        atexit.unregister(self.clear)


def _settle_own(is_files_fault: bool) -> None:
    """This process ends by a crash, in a sentence. One that blames the file leaves nothing to say at the next start;
    else the fault may be llama.cpp's own, and its marks tell the next start that it crashed."""
    for mark in _own:
        with contextlib.suppress(OSError):
            if is_files_fault:
                mark.unlink(missing_ok=True)
            else:
                mark.write_bytes(_FATAL[0])


crash_report.before_end(_settle_own)


def ended(data: Path, model: Path) -> Ended | None:
    """How an earlier slm ended while this model was on trial, as far as marks can say; they stay. None: well, or by
    somebody's wish.

    A process of the same number that is something else by now keeps a mark from being told until that one ends.
    """
    found = [how for _, how in _dead(data, model) if how is not Ended.WISHED]
    return Ended.worst(found) if found else None


def take(data: Path, model: Path) -> Ended | None:
    """As `ended`, and the marks are taken away: it is told once."""
    how = ended(data, model)
    for mark, _ in _dead(data, model):
        with contextlib.suppress(OSError):
            mark.unlink()
    return how


def left(data: Path, model: Path | None = None) -> dict[Path, Ended]:
    """The marks that nobody has been told of, of one model or of all, but those of somebody's wish. They stay."""
    return {mark: how for mark, how in _dead(data, model) if how is not Ended.WISHED}


def _dead(data: Path, model: Path | None) -> list[tuple[Path, Ended]]:
    """The marks whose process is gone, and how it went."""
    found = []
    with contextlib.suppress(OSError):
        for mark in sorted(directory(data).glob(f"{_stem(model)}-*" if model is not None else "*-*")):
            if mark not in _own and mark.is_file() and not _is_running(mark.name.rpartition("-")[2]):
                with contextlib.suppress(OSError), mark.open("rb") as file:
                    said = file.read(64)
                    how = Ended.CRASHED if said.startswith(_FATAL) else Ended.WISHED if said else Ended.KILLED
                    found.append((mark, how))
    return found


def _stem(model: Path) -> str:
    return short_sha256(os.fsencode(model.absolute()))[:16]


def _is_running(pid: str) -> bool:
    if not pid.isdecimal() or int(pid) == os.getpid():
        return False
    if sys.platform == "win32":  # there os.kill ends a process
        import psutil

        return psutil.pid_exists(int(pid))
    try:
        os.kill(int(pid), 0)
    except PermissionError:  # somebody else's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
