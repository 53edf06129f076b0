"""Small files and directories that are the owner's alone, and files of the user's own, written whole or not at all.

Knows: 0700, 0600, temporary file + fsync + replace, how to narrow what was too wide, and the sentence for a disk that
refuses.
Refuses to know: what is in the files.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from slmchat.errors import ExitCode, SlmError


def storage_error(error: OSError, path: Path, variable: str = "SLM_HOME") -> SlmError:
    """The sentence for a disk that refuses: permissions, no space, a file where a directory should be.

    `variable` is the environment variable that chooses another place.
    """
    where = error.filename or path
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        message = f"{where} cannot be written: the disk is full ({error.strerror})."
        return SlmError(message, hint="free some space (slm rm NAME) and try again", exit_code=ExitCode.STORAGE)
    return SlmError(
        f"{where} cannot be used: {error.strerror or error}.",
        hint=f"{variable} chooses another directory",
        exit_code=ExitCode.STORAGE,
    )


def make_private(directory: Path) -> None:
    """Make a directory and its missing parents, for the owner alone. Raises `SlmError` (storage)."""
    try:
        _make_directories(directory)
    except OSError as error:
        raise storage_error(error, directory) from error


def _make_directories(directory: Path) -> None:
    for folder in reversed((directory, *directory.parents)):
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.stat().st_mode & 0o777 != 0o700:  # an unusual umask; a sealed process may not change modes
                folder.chmod(0o700)
    if not directory.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))


def create_private(file: Path) -> None:
    """Make an empty file (and its directories) for the owner alone; one that is there becomes so. Raises `OSError`."""
    _make_directories(file.parent)
    try:
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        if os.name == "posix" and file.stat().st_mode & 0o077:
            file.chmod(0o600)
        return
    try:
        if os.name == "posix" and os.fstat(descriptor).st_mode & 0o777 != 0o600:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def write_private(path: Path, content: bytes) -> None:
    """Write a small file whole or not at all, for the owner alone. Raises `SlmError` (storage)."""
    make_private(path.parent)
    try:
        with _replacing(path, None) as out:
            out.write(content)
    except OSError as error:
        raise storage_error(error, path) from error


def replace_file(path: Path, content: bytes) -> None:
    """Write a file of the user's whole or not at all. Raises `OSError`, and then the file is as it was.

    One that is there keeps its mode, its owner and its group (as far as they may be given), a new one is the owner's
    alone. Its directory must exist.
    """
    with _replacing(path, path.stat() if path.exists() else None) as out:
        out.write(content)


def replace_content(path: Path, before: bytes, after: bytes) -> None:
    """Give a file of the user's own another content, whole or not at all; its owner and permissions stay.

    Raises `SlmError` (storage) when it no longer holds `before`, or cannot be written; it is then as it was.
    """
    try:
        with _replacing(path, path.stat()) as out:
            out.write(after)
            if path.read_bytes() != before:
                raise SlmError(
                    f"{path} has changed meanwhile; it was left as it is.",
                    hint="run the command again",
                    exit_code=ExitCode.STORAGE,
                )
    except OSError as error:
        raise SlmError(
            f"{path} cannot be written: {error.strerror or error}; it was left as it is.", exit_code=ExitCode.STORAGE
        ) from error


@contextmanager
def _replacing(path: Path, like: os.stat_result | None) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` when all went well: the owner's alone (mkstemp makes it 0600), or
    with the mode, the owner and the group of `like` (as far as they may be given)."""
    import tempfile  # 5 ms, and most commands write nothing

    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as out:
            if like is not None and os.name == "posix":
                with suppress(OSError):
                    os.fchown(descriptor, like.st_uid, like.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def narrow(paths: Iterable[Path]) -> list[Path]:
    """Take from everybody else what they may do with these files and directories; those that were too wide.

    Links, and what belongs to somebody else, stay as they are: they were not made by slm. So does what the disk refuses
    to change. Where there are no such permissions (Windows), nothing is done.
    """
    narrowed = []
    for path in paths if os.name == "posix" else ():
        with suppress(OSError):
            found = path.lstat()
            is_ours = found.st_uid == os.geteuid() and (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode))
            if is_ours and found.st_mode & 0o077:
                path.chmod(stat.S_IMODE(found.st_mode) & 0o700)
                narrowed.append(path)
    return narrowed
