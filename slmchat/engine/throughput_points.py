"""What a measurement of the pace of this device consists of: which models are timed, and what is kept of each.

Knows: their names and their order, the record of one. Refuses to know: how they are timed (device_throughput.py, with
all of llama.cpp), which `slm show` and `slm list` have no time for.
"""

from slmchat.lazy_dataclasses import dataclass

LAYER = "layer"
"""The name of the model whose matrices are too small to count: what its layers cost is what any layer costs."""

MODELS = (
    "Q4_K long", LAYER, "Q8_0 long", "Q5_0 long", "Q4_K short", "Q8_0 short", "Q5_0 short",
)  # fmt: skip
"""All that can be measured, the most telling first: large models are bound by their bytes, most of them by Q4_K."""

MOST_SHRUNK = 4
"""The largest divisor of the number of layers: below it a cache would hold the model."""


@dataclass(frozen=True, slots=True)
class Point:
    """One measured model: bytes and rows of its matrices, its layers, seconds of a token (the median of some)."""

    bytes: int
    rows: int
    layers: int
    seconds: float
