"""Models whose loading ended slm: a native abort inside llama.cpp leaves no time to say anything.

Knows: a small mark on the disk while a model is being loaded, taken away when that went well, and what a mark means
that is still there although its process is gone.
Refuses to know: why it ended, what the file holds, how a model is loaded.
"""

import atexit
import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

_own: set[Path] = set()  # marks that this process has set and not taken away yet


def directory(data: Path) -> Path:
    """Where the marks are, below slm's data directory."""
    return data / "loading"


class Mark:
    """The mark of one loading. A disk that refuses it is no reason not to load."""

    def __init__(self, data: Path, model: Path) -> None:
        self._model = model
        self._file = directory(data) / f"{_stem(model)}-{os.getpid()}"

    def set(self) -> None:
        """The model is being loaded by this process."""
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            os.close(descriptor)
            _own.add(self._file)
            atexit.register(self.clear)  # Ctrl-C while it loads is no fault of the file; an abort runs no atexit

    def clear(self) -> None:
        """The loading has ended, well or with an error that could be told."""
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
        _own.discard(self._file)
        atexit.unregister(self.clear)


def take(data: Path, model: Path) -> bool:
    """Whether an earlier slm ended while it loaded this file. Its mark is taken away: it is told once.

    A process of the same number that is something else by now keeps a mark from being told until that one ends.
    """
    found = False
    for mark in list(_marks(data, model)):
        if mark not in _own and not _is_running(mark.name.rpartition("-")[2]):
            with contextlib.suppress(OSError):
                mark.unlink()
                found = True
    return found


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
    import psutil

    return psutil.pid_exists(int(pid))
