"""The files at and below some paths, one after the other.

Links are not followed: none leads in a circle or out of the tree. What is hidden, and what tools keep for themselves,
is left out. Everything that is left out is counted.

Knows: directories. Refuses to know: what is in a file.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from slmchat.errors import usage_error
from slmchat.lazy_dataclasses import dataclass
from slmchat.user_paths import user_path

# Files of one call; a home directory has a million, and nobody means that.
MOST_FILES = 250_000

_HIDDEN, _LINK, _MADE = "is hidden", "is a link", "holds what a tool has made"
LEFT_OUT = frozenset({_HIDDEN, _LINK, _MADE})
"""Reasons to leave out what nobody means: no news to whoever has such files."""

_TOOLS_OWN = frozenset({"node_modules", "__pycache__", "bower_components", "site-packages"})
# What marks a directory that can be made anew: an environment of Python, a cache (bford.info/cachedir).
_MARKS = ("pyvenv.cfg", "CACHEDIR.TAG")


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file, or what stands in its place and is left out for a reason. `mtime` in nanoseconds."""

    path: Path
    n_bytes: int = 0
    mtime: int = 0
    reason: str | None = None


def resolved(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The paths without links, none of them within another. Raises `SlmError` (USAGE) for one that leads nowhere."""
    found: list[Path] = []
    for path in paths:
        try:
            found.append(user_path(path).resolve(strict=True))
        except (OSError, RuntimeError, ValueError) as error:  # also: no such user, links in a circle, a null character
            why = getattr(error, "strerror", None) or str(error)
            raise usage_error(f"{path} cannot be read: {why}.") from error
    return tuple(one for one in dict.fromkeys(found) if not any(other in one.parents for other in found))


def files_below(root: Path) -> Iterator[FoundFile]:
    """The file `root`, or all below the directory `root`, in the order of their names."""
    try:
        if not root.is_dir():
            facts = root.stat()
            yield FoundFile(root, facts.st_size, facts.st_mtime_ns)
            return
    except OSError as error:
        yield FoundFile(root, reason=_refusal(error))
        return
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        try:
            with os.scandir(directory) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            yield FoundFile(directory, reason=_refusal(error))
            continue
        if directory != root and any(entry.name in _MARKS for entry in entries):
            yield FoundFile(directory, reason=_MADE)
            continue
        below = []
        for entry in entries:
            one = _file(entry)
            if one is None:
                below.append(Path(entry.path))
            else:
                yield one
        waiting += reversed(below)


def _file(entry: "os.DirEntry[str]") -> FoundFile | None:
    """None: a directory to be looked into."""
    path = Path(entry.path)
    try:
        if entry.name.startswith("."):
            return FoundFile(path, reason=_HIDDEN)
        if entry.is_symlink():
            return FoundFile(path, reason=_LINK)
        if entry.is_dir(follow_symlinks=False):
            return FoundFile(path, reason=_MADE) if entry.name in _TOOLS_OWN else None
        facts = entry.stat(follow_symlinks=False)
    except OSError as error:
        return FoundFile(path, reason=_refusal(error))
    return FoundFile(path, facts.st_size, facts.st_mtime_ns)


def _refusal(error: OSError) -> str:
    return f"cannot be read ({error.strerror or error})"
