"""How many tokens a second a model will generate: bytes that a token reads, over what this device manages.

Knows: the formula and which weight types go at which pace. Refuses to know: how the pace is measured (engine/pace.py).

    seconds a token = sum over matrices of (bytes / rate + rows * row cost) + layers * layer cost + sampling

`rate` and `row cost` are measured once per device with llama.cpp's own kernels for three kinds of weight types, on
matrices of zeros with short and with long rows; `layer cost` on a model whose matrices are too small to count. Sampling
and the loop around it cost `_LOOP_SECONDS` and `_CANDIDATE_SECONDS` for each entry of the vocabulary. Large models are
bound by the rate (memory bandwidth), small ones by rows and layers. Of a mixture of experts only those that a token
uses count. A KV cache of 512 tokens is read along.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from slmchat.fit.memory import Load, kv_bytes
from slmchat.fit.shape import ModelShape

# Weight types by how llama.cpp multiplies with them: whole bytes; 4-bit types that are repacked; the others. The name
# is that of the type which is measured for all of its kind (measured ones lie within 20 % of it, here).
KINDS: Mapping[str, str] = {
    **dict.fromkeys(("F32", "F16", "BF16", "Q8_0", "Q6_K"), "Q8_0"),
    **dict.fromkeys(("Q4_0", "Q4_K", "IQ4_NL", "MXFP4", "Q2_K"), "Q4_K"),
}
OTHER_KIND = "Q5_0"

# Measured here: 0.2 ms of Python a token, 0.42 ms to sample from Gemma's 262,144 candidates.
_LOOP_SECONDS = 0.0002
_CANDIDATE_SECONDS = 1.6e-9

# Tokens in the context window for which the speed is told.
_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Rate:
    """Of one kind of weights: bytes a second, and seconds that each row costs besides."""

    bytes_per_second: float
    row_seconds: float


@dataclass(frozen=True, slots=True)
class Pace:
    """What this device manages, as measured. `threads`: with so many."""

    rates: Mapping[str, Rate]
    layer_seconds: float
    threads: int

    def tokens_per_second(self, shape: ModelShape) -> float | None:
        """The predicted generation speed; None for a model whose weights are not known."""
        seconds = len(shape.layers) * self.layer_seconds + _LOOP_SECONDS + shape.vocabulary * _CANDIDATE_SECONDS
        for matrix in shape.matrices:
            rate = self.rates[KINDS.get(matrix.type_name, OTHER_KIND)]
            share = matrix.active_bytes / matrix.bytes
            seconds += matrix.active_bytes / rate.bytes_per_second + matrix.all_rows * share * rate.row_seconds
        seconds += kv_bytes(shape.layers, Load(_TOKENS)) / self.rates["Q8_0"].bytes_per_second
        return 1 / seconds if shape.matrices and seconds > 0 else None


def in_words(tokens_per_second: float) -> str:
    """`about 9 tokens/s`: two digits are all that a prediction is worth."""
    if tokens_per_second < 1:
        return f"about {tokens_per_second:.1f} tokens/s"
    digits = len(str(int(tokens_per_second)))
    return f"about {round(tokens_per_second, min(0, 2 - digits)):.0f} tokens/s"
