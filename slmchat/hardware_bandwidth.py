"""How many bytes a second the memory of this device moves, measured.

Knows: a copy on several threads, larger than the caches. Refuses to know: what the figure is compared with.
"""

import ctypes
import threading
import time

from slmchat import hardware

# Bytes copied by one thread in a round. Times the cores this is beyond the last-level cache of what people have at
# home; a server whose cache is larger than all of it shows more than its memory gives.
_BLOCK = 64 << 20
_MAX_THREADS = 8  # a few cores fill any memory bus; more of them cost memory only
_MEMORY_SHARE = 8  # at most this part of the memory that the process may use, for source and copy together
_SECONDS = 0.3


def measure_copy_bandwidth() -> float:
    """Bytes a second that a copy moves: read and written bytes together, as STREAM's Copy counts them.

    The best of several rounds with all physical cores in less than a second, so that a short disturbance does not
    count. https://www.cs.virginia.edu/stream/ref.html
    Raises MemoryError when there is no room for the buffers (an eighth of the memory, at most 1 GiB).
    """
    n_threads = max(1, min(hardware.physical_cores(), _MAX_THREADS))
    block = min(_BLOCK, hardware.total_memory() // (_MEMORY_SHARE * 2 * n_threads))
    begin = threading.Barrier(n_threads + 1)
    end = threading.Barrier(n_threads + 1)
    is_over = threading.Event()

    def copy(source: ctypes.Array[ctypes.c_char], target: ctypes.Array[ctypes.c_char]) -> None:
        # without this the pages are all the one page of zeros, which the cache holds
        ctypes.memset(source, 1, block)
        ctypes.memset(target, 1, block)
        while True:
            begin.wait()
            if is_over.is_set():
                return
            ctypes.memmove(target, source, block)  # without the interpreter's lock
            end.wait()

    blocks = [(ctypes.create_string_buffer(block), ctypes.create_string_buffer(block)) for _ in range(n_threads)]
    workers = [threading.Thread(target=copy, args=pair, daemon=True, name="bandwidth") for pair in blocks]
    for worker in workers:
        worker.start()
    best = float("inf")
    first = None
    while first is None or time.perf_counter() - first < _SECONDS:
        begin.wait()
        start = time.perf_counter()
        end.wait()
        best = min(best, time.perf_counter() - start)
        first = first or start
    is_over.set()
    begin.wait()
    for worker in workers:
        worker.join()
    return 2 * block * n_threads / best
