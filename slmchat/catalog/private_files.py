"""Small files and directories that are the owner's alone, written whole or not at all.

Knows: 0700, 0600, temporary file + fsync + replace, and the sentence for a disk that refuses.
Refuses to know: what is in the files.
"""

import errno
import os
import tempfile
from pathlib import Path

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
        for folder in reversed((directory, *directory.parents)):
            if not folder.exists():
                folder.mkdir(mode=0o700, exist_ok=True)
        if not directory.is_dir():
            raise NotADirectoryError(20, "Not a directory", str(directory))
    except OSError as error:
        raise storage_error(error, directory) from error


def write_private(path: Path, content: bytes) -> None:
    """Write a small file whole or not at all, for the owner alone. Raises `SlmError` (storage)."""
    make_private(path.parent)
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # mkstemp makes it 0600
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise storage_error(error, path) from error
