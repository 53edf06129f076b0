"""Where a chat may write exports: the one directory that the seal leaves open to it.

Knows: what was named, else a directory of slm's own. Refuses to know: what is exported (files.py).
"""

from contextlib import suppress
from pathlib import Path

from slmchat.errors import SlmError
from slmchat.privacy.writable_paths import check_directory
from slmchat.private_files import make_private
from slmchat.settings import Settings


def export_directory(named: str | None, settings: Settings) -> Path:
    """Where the sealed chat may write exports: what was named, else a directory of slm's own, made when missing.

    Raises `SlmError` (USAGE) for a directory that a sealed process must not write in.
    """
    if named or settings.export_dir:
        return check_directory(Path(named or settings.export_dir or ""), "--export-dir" if named else "export-dir")
    with suppress(SlmError):  # a home that cannot be written: `/export` says so
        make_private(settings.paths.exports)
    return settings.paths.exports
