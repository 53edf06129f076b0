"""What each number that a user may set can be: one table for options, files and `/set`.

Knows: names, lowest and highest values. Refuses to know: where a value was written, and what it does.
"""

from collections.abc import Mapping

from slmchat.lazy_dataclasses import dataclass

# From this upper bound on, a range is told without it: it only keeps absurd numbers out.
NO_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones where `low` is written as one."""

    low: float
    high: float

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int)

    def holds(self, value: object) -> bool:
        """Whether this is a number of the range. NaN is in none, and True is not a number."""
        kinds = int if self.is_whole else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and self.low <= value <= self.high

    @property
    def in_short(self) -> str:
        """For a help page: "0 to 1", "16 or more"."""
        low = f"{int(self.low):,}" if self.is_whole else f"{self.low:g}"
        return f"{low} or more" if self.high >= NO_LIMIT else f"{low} to {self.high:,g}"

    def __str__(self) -> str:
        if self.is_whole:
            return f"a whole number from {int(self.low):,} to {int(self.high):,}"
        return f"a number from {self.low:g} to {self.high:g}"


# The sampler settings of config.toml, models.toml and personas, by the names of `SamplerSettings`.
SAMPLER: Mapping[str, Range] = {
    "temperature": Range(0.0, 10.0),
    "top_k": Range(0, 1_000_000),
    "top_p": Range(0.0, 1.0),
    "min_p": Range(0.0, 1.0),
    "repeat_penalty": Range(0.1, 10.0),
}
SHARE = Range(0.0, 1.0)
SEED = Range(0, 2**32 - 2)  # LLAMA_DEFAULT_SEED is 2**32 - 1 and means "random"
CTX = Range(16, 10_000_000)
THREADS = Range(1, 512)
MAX_TOKENS = Range(1, 10_000_000)
THINK_BUDGET = Range(0, 10_000_000)
PASSAGES = Range(1, 50)  # that are read for a question about documents
BEST_OF = Range(1, 64)
PARALLEL = Range(1, 255)  # llama.cpp has 256 sequences (LLAMA_MAX_SEQ), and one holds what the prompts share
STREAMS = Range(1, 64)  # answers of a server at once
GPU_LAYERS = Range(0, 10_000)
