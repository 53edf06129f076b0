"""How large the terminal is. The one place that asks.

The terminal itself is asked first: COLUMNS and LINES in the environment are those of another one (a shell exported them
before the window was resized, a multiplexer passed them on). They count where there is no terminal to ask.

Knows: descriptors, COLUMNS, LINES. Refuses to know: what is laid out in that space.
"""

import os
from collections.abc import Mapping
from typing import TextIO

# Where nobody knows (shutil.get_terminal_size has the same).
_COLUMNS, _LINES = 80, 24


def terminal_size(stream: TextIO | int, environ: Mapping[str, str]) -> tuple[int, int]:
    """Columns and lines of the terminal behind a stream (or a descriptor) now; else what `environ` says."""
    try:
        found = os.get_terminal_size(stream if isinstance(stream, int) else stream.fileno())
        columns, lines = found.columns, found.lines
    except (OSError, ValueError):  # no terminal; no descriptor; closed
        columns, lines = 0, 0
    # a serial line or a container's terminal may say 0
    return columns or _number(environ, "COLUMNS") or _COLUMNS, lines or _number(environ, "LINES") or _LINES


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else 0
