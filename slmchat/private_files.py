"""Small files and directories that are the owner's alone, and files of the user's own, written whole or not at all.

Knows: 0700, 0600, temporary file + fsync + replace, how to narrow what was too wide, that a path may lead out of the
directory it was made for, and the sentence for a disk that refuses.
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
        if folder.exists():
            continue
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:  # made meanwhile by another, or one that may not be looked at: its mode is not ours
            continue
        if folder.stat().st_mode & 0o777 != 0o700:  # an unusual umask; a sealed process may not change modes
            folder.chmod(0o700)
    if not directory.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))


def create_private(file: Path, *, is_new: bool = False) -> None:
    """Make an empty file (and its directories) for the owner alone; one that is there becomes so. Raises `OSError`.

    `is_new`: one that is there is another's; then `FileExistsError`.
    """
    _make_directories(file.parent)
    try:
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        if is_new:
            raise
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


def is_below(root: Path, path: Path) -> bool:
    """Whether `path` lies below the directory `root` when the links on the way to it are followed.

    The last part is not followed: whoever deletes or replaces a link does that to the link. `root` may be a link: it is
    the user's choice.
    """
    try:
        inside, folder = (os.path.normcase(os.path.realpath(place)) for place in (root, path.parent))
        return path.name not in ("", "..") and os.path.commonpath((inside, folder)) == inside
    except (ValueError, OSError):  # a null character, another drive, links in a circle
        return False


def check_below(root: Path, path: Path) -> Path:
    """`path`, which lies below `root`. Raises `SlmError` (storage) when a link or `..` leads elsewhere."""
    if not is_below(root, path):
        raise SlmError(
            f"{path} leads out of {root}, and slm neither writes nor deletes there.",
            hint=f"see where its folders lead: ls -l '{path.parent}'",
            exit_code=ExitCode.STORAGE,
        )
    return path


def remove_below(root: Path, path: Path) -> int:
    """Delete a file below `root`, of a link the link alone; the bytes of the file. One that is gone is not an error.

    Raises `SlmError` (storage) as `check_below`, and `OSError`.
    """
    check_below(root, path)
    try:
        found = path.lstat()
        path.unlink()
    except FileNotFoundError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def open_below(root: Path, path: Path) -> IO[bytes]:
    """Open a file below `root` to read and write; it and its directories are made by the umask where they are missing.

    What stands there and is not a file of this one name (a link, a pipe, a second name of another file) is taken away
    first. Raises `SlmError` (storage) as `check_below`, and `OSError`.
    """
    check_below(root, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    own_name_only(root, path)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o666), "r+b")


def check_readable(path: Path, most_bytes: int) -> None:
    """Raises `OSError` for what is not a regular file of at most `most_bytes`: a pipe would be waited for for ever."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    if found.st_size > most_bytes:
        raise OSError(errno.EFBIG, "it is too large", str(path))


def own_name_only(root: Path, path: Path) -> None:
    """Take away what stands at `path` below `root` if it is not a file, or is one that has other names as well."""
    check_below(root, path)
    with suppress(FileNotFoundError):
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            path.unlink()


@contextmanager
def _replacing(path: Path, like: os.stat_result | None) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` when all went well: the owner's alone (mkstemp makes it 0600), or
    with the mode, the owner and the group of `like` (as far as they may be given).

    What the disk refuses is said of `path`, which the user knows: an `OSError` never names the new file.
    """
    import tempfile  # 5 ms, and most commands write nothing

    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        with os.fdopen(descriptor, "wb") as out:
            if like is not None and os.name == "posix":
                with suppress(OSError):
                    os.fchown(descriptor, like.st_uid, like.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None
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
