"""How many threads compute.

Knows: that llama.cpp's threads wait for each other by spinning, so that one more than there are free cores costs
more than one fewer. Refuses to know: how cores are counted (hardware.py gives the numbers).
"""


def choose(physical_cores: int, quota: float | None) -> int:
    """Threads for generation and prefill: the physical cores, or the whole processors that a cgroup allows."""
    return max(1, physical_cores if quota is None else min(physical_cores, int(quota)))
