"""How long a piece of a file takes to come into memory from the disk through a mapping, measured.

A model that is larger than the memory is read that way while it answers: the kernel reads ahead of every piece, which
may be many times the piece, and makes room for it. So nothing but a trial tells how long that takes.

Knows: mapping, which pages are in memory (mincore(2)), the advice that llama.cpp gives for a file.
Refuses to know: what the pieces are.
"""

import ctypes
import mmap
import os
import random
import threading
import time
from pathlib import Path

# No command waits longer for the figure, in seconds.
_MOST_S = 0.3
# A mean of fewer pieces says little, and more of them say nothing new.
_FEWEST, _MOST = 4, 64
_LOOKED_AT = 512  # places that are tried for pieces that are not in memory


def seconds_per_piece(file: Path, size: int, n_threads: int) -> float | None:
    """Seconds until a piece of `size` bytes from anywhere in the file is in memory, read by so many threads.

    None where that cannot be told: the file is in memory or too small, the system has no such calls.
    """
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        # void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset);
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            if hasattr(os, "posix_fadvise"):  # llama-mmap.cpp gives the same advice
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            length = os.fstat(descriptor).st_size
            # not Python's own mmap: it gives no address of what may only be read
            start = libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
            if start is None or start == ctypes.c_void_p(-1).value:
                return None
            try:
                return _mean_seconds(libc, start, length, size, n_threads)
            finally:
                libc.munmap(start, length)
        finally:
            os.close(descriptor)
    except (OSError, AttributeError, TypeError):  # TypeError: Windows has no CDLL(None)
        return None


def _mean_seconds(libc: ctypes.CDLL, start: int, length: int, size: int, n_threads: int) -> float | None:
    if length < 2 * size:
        return None
    part = max(1, size // n_threads)
    buffers = [ctypes.create_string_buffer(part) for _ in range(n_threads)]
    anywhere = random.Random(0)  # the places are the same each time; those in memory by now are left out
    until = time.perf_counter() + _MOST_S
    taken: list[float] = []
    for _ in range(_LOOKED_AT):
        if len(taken) == _MOST or time.perf_counter() >= until:
            break
        place = start + anywhere.randrange(0, length - size) // mmap.PAGESIZE * mmap.PAGESIZE
        if _is_in_memory(libc, place, size):
            continue
        began = time.perf_counter()
        threads = [
            # without the interpreter's lock
            threading.Thread(target=ctypes.memmove, args=(buffer, place + number * part, part), daemon=True)
            for number, buffer in enumerate(buffers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken.append(time.perf_counter() - began)
    return sum(taken) / len(taken) if len(taken) >= _FEWEST else None


def _is_in_memory(libc: ctypes.CDLL, place: int, size: int) -> bool:
    """Whether any page of it is. Raises AttributeError where there is no mincore(2)."""
    pages = (ctypes.c_ubyte * (-(-size // mmap.PAGESIZE)))()
    failed = libc.mincore(ctypes.c_void_p(place), ctypes.c_size_t(size), pages)
    return bool(failed) or any(page & 1 for page in pages)
