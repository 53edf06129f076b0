"""What a sealed process had to compile, and may not keep: the next start compiles it, before it closes itself in.

Python keeps what it has compiled beside the sources. Behind the seal nothing can be written there, because every open
process would run it. pip compiles what it installs; uv does not, and `pip --no-compile` does not. There each sealed
process compiled anew, at every start, what it imports behind the seal: half a second of each chat. So a process writes
down at its end which sources it had to compile and could not keep, and the next one compiles those first. What crosses
the seal is names only: the bytecode always comes from an open process and from sources that no sealed one may write.

Knows: the list of names below the cache directory, when to believe it, when to give up.
Refuses to know: which modules a command needs, whether this process is sealed.
"""

import atexit
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from slmchat import __version__
from slmchat.private_files import check_readable

# A list of a process that somebody has taken over may be of any length. A chat has some 250 names of 80 bytes.
_MOST_SOURCES = 2_000
_MOST_BYTES = 1_000_000

_REFUSED = f"{__version__} refused"  # instead of names: they could not be compiled, so that this version stops trying

_compiled: list[str] | None = None  # the sources that this process has compiled so far; None: nobody looks


def watch() -> None:
    """From now on the sources that this process compiles are known. Costs nothing where all of them are compiled.

    For a process of slm's own, not for a program that uses slm: it changes Python's own loader.
    """
    global _compiled
    if _compiled is not None or sys.dont_write_bytecode:
        return
    compiled = _compiled = []
    loader = importlib.machinery.SourceFileLoader
    write = loader.set_data

    def set_data(self: importlib.machinery.SourceFileLoader, path: str, data: bytes, **more: int) -> None:
        compiled.append(str(self.path))
        write(self, path, data, **more)

    loader.set_data = set_data  # type: ignore[method-assign, assignment]


def make_up(cache: Path) -> None:
    """Compile what the process before could not keep, and let this one say at its end what it could not.

    `cache`: slm's own directory; the list in it is of this installation. Never raises: it is about time only.
    """
    with suppress(Exception):
        place = _place(cache)
        names: list[str] = []
        with suppress(FileNotFoundError):
            check_readable(place, _MOST_BYTES)
        with suppress(FileNotFoundError), open(place, encoding="utf-8", errors="surrogateescape") as file:
            names = file.read(_MOST_BYTES).splitlines()
        if names == [_REFUSED]:
            return
        if names and not sys.dont_write_bytecode:
            place.unlink()
            if not _compile(names[:_MOST_SOURCES]):
                place.write_text(_REFUSED + "\n", encoding="utf-8")
                return
        if _compiled is not None:
            atexit.register(_say, place)


def _place(cache: Path) -> Path:
    """The list of this installation: several may share one home."""
    return cache / f"uncompiled-{sys.implementation.cache_tag}-{os.stat(sys.prefix).st_ino:x}"


def _compile(names: Iterable[str]) -> bool:
    """Compile those of them that are sources of Python's libraries; False where that was refused."""
    import py_compile

    from slmchat.privacy.writable_paths import library_places

    libraries, is_refused = library_places(), False
    for name in names:
        try:
            source = os.path.realpath(name)
            is_ours = source.endswith(".py") and any(Path(source).is_relative_to(library) for library in libraries)
            if is_ours and not _is_compiled(source):  # else it lies where a sealed process may write
                py_compile.compile(source, doraise=True)
        except (FileNotFoundError, ValueError, py_compile.PyCompileError):  # another version is installed now
            continue
        except OSError:
            is_refused = True
    return not is_refused


def _say(place: Path) -> None:
    """At the end: which sources were compiled and not kept, where an open process could keep them."""
    with suppress(Exception):
        missing = [name for name in dict.fromkeys(_compiled or ()) if _could_be_kept(name) and not _is_compiled(name)]
        if missing:
            from slmchat.private_files import write_private

            write_private(place, "\n".join(missing).encode("utf-8", "surrogateescape"))


def _is_compiled(source: str) -> bool:
    """Whether Python finds bytecode that it takes for this source (importlib: 4 bytes each of magic number, flags,
    time and size of the source; with flags it goes by a hash)."""
    try:
        with open(importlib.util.cache_from_source(source), "rb") as file:
            head = file.read(16)
    except OSError:
        return False
    at = os.stat(source)
    numbers = [int.from_bytes(head[start : start + 4], "little") for start in (4, 8, 12)]
    is_current = bool(numbers[0]) or numbers[1:] == [int(at.st_mtime) & 0xFFFFFFFF, at.st_size & 0xFFFFFFFF]
    return head[:4] == importlib.util.MAGIC_NUMBER and is_current


def _could_be_kept(source: str) -> bool:
    """Whether the user may write there: behind the seal only the rights of the file system are told."""
    folder = os.path.dirname(importlib.util.cache_from_source(source))
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return os.access(folder, os.W_OK | os.X_OK)
