"""How the work of a function grows with its input, on a machine that does other things as well.

Seconds against a clock belong to tests/benchmarks. What a test can hold is the shape: four times the input is four
times the work where every part is looked at once, and sixteen times where every part is compared with every other.
"""

import time
from collections.abc import Callable


def is_linear(work: Callable[[int], object], size: int) -> bool:
    """Whether `work(4 * size)` takes at most eight times the processor time of `work(size)`; the best of three each."""
    return _seconds(work, 4 * size) <= 8 * max(_seconds(work, size), 1e-3)  # below that, the clock's own steps count


def _seconds(work: Callable[[int], object], size: int) -> float:
    taken = []
    for _ in range(3):
        start = time.thread_time()
        work(size)
        taken.append(time.thread_time() - start)
    return min(taken)
