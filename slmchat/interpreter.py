"""The Python of this process, to start another one with.

Knows: programs that carry a Python of their own. Refuses to know: what is started.
"""

import sys
from pathlib import Path


def interpreter() -> str | None:
    """The Python to start; None in a program that carries its own (frozen, embedded): it would start itself."""
    program = sys.executable or ""
    if getattr(sys, "frozen", False) or not Path(program).name.lower().startswith(("python", "pypy")):
        return None
    return program
