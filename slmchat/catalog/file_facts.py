"""What has been found out about a model file, kept in a small file of its own until the model file changes.

Knows: when a file is still the one that was looked at, where its facts are kept, how many of them.
Refuses to know: what the facts are. They are JSON, and can all be found out again: one that is damaged is none.

A file is known again by size, times and inode. The time of change (ctime) is the kernel's own: no copy and no tool that
keeps the time of the content keeps that too. A file that changed within the last seconds is not kept yet: one clock
tick is long enough for two contents of the same size.
"""

import json
import time
from pathlib import Path
from typing import Any

from slmchat import __version__, kept_json
from slmchat.errors import SlmError
from slmchat.private_files import write_private

_FORMAT = 1
_SETTLED_S = 2.0
# Kept files: more models than this nobody uses. The facts of one have 20 to 100 kB, of the largest a few MB.
_MOST_FILES = 64
_MOST_BYTES = 16 << 20

_Stamp = list[int]


class FileFacts:
    """The facts that are kept in one directory. `is_kept`: new ones may be written there (not with --private)."""

    def __init__(self, directory: Path, *, is_kept: bool = True) -> None:
        self._directory = directory
        self._is_kept = is_kept
        self._known: dict[Path, tuple[_Stamp | None, dict[str, Any]]] = {}

    def get(self, path: Path, name: str) -> Any:
        """The fact of this name about the file as it is now; None when none is kept."""
        stamp = _stamp(path)
        if path not in self._known or self._known[path][0] != stamp:
            self._known[path] = stamp, self._read(stamp)
        return self._known[path][1].get(name)

    def keep(self, path: Path, name: str, fact: Any) -> None:
        """Keep what was found out since `get` had no such fact, unless the file has changed meanwhile.

        Where it cannot be kept, it is found out again the next time.
        """
        stamp, facts = self._known.get(path, (None, {}))
        if stamp is None or stamp != _stamp(path) or not _is_settled(stamp):
            return
        facts[name] = fact
        if not self._is_kept:
            return
        content = {"format": _FORMAT, "version": __version__, "stamp": stamp, "facts": facts}
        try:
            write_private(self._file(stamp), json.dumps(content).encode())
            self._forget_oldest()
        except (SlmError, OSError):  # a disk that is full or read-only
            return

    def forget(self, path: Path) -> None:
        """Nothing is known of this file any more. Asked before it is removed. Raises `OSError`."""
        self._known.pop(path, None)
        stamp = _stamp(path)
        if stamp is not None:
            self._file(stamp).unlink(missing_ok=True)

    def _read(self, stamp: _Stamp | None) -> dict[str, Any]:
        if stamp is None:
            return {}
        file = self._file(stamp)
        found = kept_json.read(file, _MOST_BYTES)
        try:
            is_current = (found["format"], found["version"], found["stamp"]) == (_FORMAT, __version__, stamp)
            return dict(found["facts"]) if is_current else {}
        except (ValueError, KeyError, TypeError):
            return {}

    def _file(self, stamp: _Stamp) -> Path:
        *_, device, inode = stamp
        return self._directory / f"{device:x}-{inode:x}.json"

    def _forget_oldest(self) -> None:
        files = sorted(self._directory.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
        for file in files[: max(0, len(files) - _MOST_FILES)]:
            file.unlink(missing_ok=True)


def _is_settled(stamp: _Stamp) -> bool:
    _, *times, _, _ = stamp
    return time.time() - max(times) / 1e9 >= _SETTLED_S


def _stamp(path: Path) -> _Stamp | None:
    """Bytes, time of content and of change (ns), device, inode: what tells a file from any other; None without one."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_dev, found.st_ino]
