"""How many bytes a second the memory of this device moves, measured.

Knows: a copy on several threads, larger than the caches. Refuses to know: what the figure is compared with.
"""

import ctypes
import threading
import time
from collections.abc import Sequence

from slmchat import hardware

# Bytes copied by one thread in a round. Times the cores this is beyond the last-level cache of what people have at
# home; a server whose cache is larger than all of it shows more than its memory gives.
_BLOCK = 64 << 20
_MAX_THREADS = 8  # a few cores fill any memory bus; more of them cost memory only
_MEMORY_SHARE = 8  # at most this part of the memory that the process may use, for source and copy together
_SECONDS = 0.3

_Buffer = ctypes.Array[ctypes.c_char]


def measure_copy_bandwidth() -> float:
    """Bytes a second that a copy moves: read and written bytes together, as STREAM's Copy counts them.

    The best of several rounds with all physical cores in less than a second, so that a short disturbance does not
    count. https://www.cs.virginia.edu/stream/ref.html
    Raises MemoryError when there is no room for the buffers (an eighth of the memory, at most 1 GiB).
    """
    n_threads = max(1, min(hardware.physical_cores(), _MAX_THREADS))
    block = min(_BLOCK, hardware.total_memory() // (_MEMORY_SHARE * 2 * n_threads))
    blocks = [(ctypes.create_string_buffer(block), ctypes.create_string_buffer(block)) for _ in range(n_threads)]
    for pair in blocks:  # else the pages are all the one page of zeros, which the cache holds
        for buffer in pair:
            ctypes.memset(buffer, 1, block)
    best = 0.0
    until = time.perf_counter() + _SECONDS
    while not best or time.perf_counter() < until:
        best = max(best, 2 * block * n_threads / _round(blocks, block))
    return best


def _round(blocks: Sequence[tuple[_Buffer, _Buffer]], size: int) -> float:
    """Seconds from the first thread's beginning to the last one's end."""
    barrier = threading.Barrier(len(blocks))
    clocks: list[float] = []

    def copy(source: _Buffer, target: _Buffer) -> None:
        barrier.wait()
        clocks.append(time.perf_counter())
        ctypes.memmove(target, source, size)  # without the interpreter's lock
        clocks.append(time.perf_counter())

    threads = [threading.Thread(target=copy, args=pair, daemon=True, name="bandwidth") for pair in blocks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(clocks) - min(clocks)
