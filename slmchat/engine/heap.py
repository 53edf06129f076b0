"""What the C library keeps of memory that was freed, given back to the system.

A process that frees a model and lives on (a server) would otherwise hold tens of MiB for nothing.
Refuses to know: what was in that memory.
"""

import ctypes
import sys


def give_back() -> None:
    """Give it back, where the C library can (glibc)."""
    # int malloc_trim(size_t pad);  (malloc.h of glibc; musl, macOS and Windows have none)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(ctypes.c_size_t(0))
