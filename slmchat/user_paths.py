"""Paths as users write them: `~` is their home directory.

`Path.expanduser` raises where a name behind the `~` is nobody's, and such text is typed: "@~bob, look at this". Here it
stays as it is written, as in a shell, and the file of that name is not there.

Nor has everybody a home directory: a container may run as a user whom its system does not know.

Knows: `~`, where the home directory is. Refuses to know: what the path is for, whether anything is there.
"""

import os
from pathlib import Path


def user_path(written: str | Path) -> Path:
    """The path with the home directory in place of `~` or `~name`."""
    try:
        return Path(os.path.expanduser(written))
    except ValueError:  # a name that nobody can have: with a NUL in it
        return Path(written)


def home_directory() -> Path | None:
    """The user's home directory; None where nobody knows it."""
    try:
        return Path.home()
    except RuntimeError:
        return None
