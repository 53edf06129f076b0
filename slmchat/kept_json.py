"""Small JSON files of slm's own, with what it has found out or was told once: read, or taken for not there.

A power cut, another program or another slm may leave anything in such a file, or something else in its place. What it
held can be found out again, so no command ends for it.

Knows: regular files, JSON, how deep and how large it may be. Refuses to know: what is kept, and who checks the values.
"""

import json
from pathlib import Path
from typing import Any

from slmchat.private_files import check_readable

# The largest file that slm keeps has some hundred thousand bytes.
MOST_BYTES = 16 << 20


def read(file: Path, most_bytes: int = MOST_BYTES) -> Any:
    """The value in the file; None when there is none, or it is not JSON, not a regular file, or too large."""
    try:
        check_readable(file, most_bytes)
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
