"""Models that have ended slm: a native abort inside llama.cpp leaves no time to say anything.

Knows: a small mark on the disk while llama.cpp first works on a model, taken away when that went well, and what a mark
means that is still there although its process is gone.
Refuses to know: why it ended, what the file holds, how a model is loaded.

An empty mark is left by an abort, a fault or a kill (SIGKILL, which the kernel sends when memory runs out). SIGTERM
and SIGHUP are somebody's wish: they write into the mark before they end slm. That is faulthandler's work, for it runs
in the signal itself, also while the main thread is inside llama.cpp, where a handler in Python would have to wait.
"""

import atexit
import contextlib
import faulthandler
import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

_own: set[Path] = set()  # marks that this process has set and not taken away yet

# What ends slm because somebody wants it so; Windows has neither the second nor a way to write in it.
_WISHES = (signal.SIGTERM, signal.SIGHUP) if hasattr(faulthandler, "register") else ()


def directory(data: Path) -> Path:
    """Where the marks are, below slm's data directory."""
    return data / "loading"


class Mark:
    """The mark of one model in this process. A disk that refuses it is no reason not to load."""

    def __init__(self, data: Path, model: Path) -> None:
        self._model = model
        self._file = directory(data) / f"{_stem(model)}-{os.getpid()}"
        self._descriptor: int | None = None

    def set(self) -> None:
        """llama.cpp is about to do something with the model that it has not done in this process yet."""
        if self._descriptor is not None:
            return
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(self._file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            _own.add(self._file)
            for wish in _WISHES:
                if signal.getsignal(wish) is signal.SIG_DFL:  # not under nohup, which ignores SIGHUP
                    faulthandler.register(wish, self._descriptor, all_threads=False, chain=True)
            atexit.register(self.clear)  # Ctrl-C while it loads is no fault of the file; an abort runs no atexit

    def clear(self) -> None:
        """It has ended, well or with an error that could be told."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        for wish in _WISHES:
            faulthandler.unregister(wish)
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
        os.close(descriptor)
        _own.discard(self._file)
        atexit.unregister(self.clear)


def clear_own() -> None:
    """The end of this process is told in a sentence that blames the file: nothing is left to say at the next start."""
    for mark in _own:
        with contextlib.suppress(OSError):
            mark.unlink(missing_ok=True)


def take(data: Path, model: Path) -> bool:
    """Whether this file ended an earlier slm, as far as a mark can say. It is taken away: it is told once.

    A process of the same number that is something else by now keeps a mark from being told until that one ends.
    """
    found = False
    for mark in list(_marks(data, model)):
        if mark not in _own and not _is_running(mark.name.rpartition("-")[2]):
            with contextlib.suppress(OSError):
                is_wished = mark.stat().st_size > 0
                mark.unlink()
                found = found or not is_wished
    return found


def left(data: Path, model: Path | None = None) -> list[Path]:
    """The marks of crashes that nobody has been told of, of one model or of all. They stay."""
    try:
        marks = sorted(directory(data).glob(f"{_stem(model)}-*" if model is not None else "*-*"))
        return [
            mark
            for mark in marks
            if mark not in _own and not _is_running(mark.name.rpartition("-")[2]) and mark.stat().st_size == 0
        ]
    except OSError:
        return []


def _marks(data: Path, model: Path) -> Iterator[Path]:
    try:
        yield from directory(data).glob(f"{_stem(model)}-*")
    except OSError:
        return


def _stem(model: Path) -> str:
    return hashlib.sha256(os.fsencode(model.absolute())).hexdigest()[:16]


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
