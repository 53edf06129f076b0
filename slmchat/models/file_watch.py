"""The file of a loaded model while a chat goes on: whether it is still what was loaded.

Knows: that weights are mapped from the file, so that a change in place changes the weights under the model, and a file
cut short ends the process (SIGBUS, which nothing can catch) at the next token; that a removed or replaced file stays
whole for whoever has it open. Refuses to know: what is in the file.
"""

from collections.abc import Sequence
from pathlib import Path

from slmchat.errors import ExitCode, SlmError
from slmchat.reporting import Reporter

_Stamp = tuple[int, int, int, int]


class ModelFile:
    """The files of a model as they were when it was made. `check` before each answer."""

    def __init__(self, key: str, files: Sequence[Path]) -> None:
        """`key`: how the model is called; `files`: none for one that is not on this device."""
        self._key = key
        self._before = {path: _stamp(path) for path in files}

    def check(self, reporter: Reporter) -> None:
        """Say once when a file was removed or replaced. Raises `SlmError` (DAMAGED) when it was changed in place."""
        for path, before in list(self._before.items()):
            now = _stamp(path)
            if now == before:
                continue
            if now is not None and before is not None and now[:2] == before[:2]:
                raise SlmError(
                    f"{path} was changed while it was in use: the model in memory is no longer what it was.",
                    hint=f"/exit and start again; slm verify {self._key} checks the file",
                    exit_code=ExitCode.DAMAGED,
                )
            del self._before[path]
            what = "removed" if now is None else "replaced"
            reporter.warn(f"{path} was {what} meanwhile; this chat goes on with what it has open.")


def _stamp(path: Path) -> _Stamp | None:
    """Device, inode, size and time of change of a file, None when it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
