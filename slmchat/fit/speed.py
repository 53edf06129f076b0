"""How many tokens a second a model will generate: bytes that a token reads, over what this device manages.

Knows: the formula, which weight types go at which throughput, and the equations that make rates of measured times.
Refuses to know: how they are measured (engine/device_throughput.py) and where they are kept
(engine/kept_throughput.py).

    seconds a token = sum over matrices of (bytes / rate + rows * row cost) + layers * layer cost + sampling

`rate` and `row cost` are measured once per device with llama.cpp's own kernels for three kinds of weight types, on
matrices of zeros with short and with long rows; `layer cost` on a model whose matrices are too small to count. Sampling
and the loop around it cost `_LOOP_SECONDS` and `_CANDIDATE_SECONDS` for each entry of the vocabulary. Large models are
bound by the rate (memory bandwidth), small ones by rows and layers. Of a mixture of experts only those that a token
uses count. A KV cache of 512 tokens is read along.
"""

from collections.abc import Mapping

from slmchat.fit.memory import Load, kv_bytes
from slmchat.fit.shape import ModelShape
from slmchat.lazy_dataclasses import dataclass

# Weight types by how llama.cpp multiplies with them: whole bytes; 4-bit types that are repacked; the others. The name
# is that of the type which is measured for all of its kind (measured ones lie within 20 % of it, here).
KINDS: Mapping[str, str] = {
    **dict.fromkeys(("F32", "F16", "BF16", "Q8_0", "Q6_K"), "Q8_0"),
    **dict.fromkeys(("Q4_0", "Q4_K", "IQ4_NL", "MXFP4", "Q2_K"), "Q4_K"),
}
OTHER_KIND = "Q5_0"
_KINDS_MEASURED = ("Q4_K", "Q8_0", "Q5_0")

Timing = tuple[int, int, int, float]
"""Of one measured model: bytes and rows of its matrices, its layers, seconds of a token (`Point`)."""

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
class Throughput:
    """What this device manages, as measured.

    `is_rough`: something has not been measured yet, and what is known stands in for it. Good enough to choose by, where
    a factor of two matters; a model of many short rows may be three times as slow, so that no number is told.
    """

    rates: Mapping[str, Rate]
    layer_seconds: float
    is_rough: bool = False

    def tokens_per_second(self, shape: ModelShape) -> float | None:
        """The predicted generation speed; None for a model whose weights are not known."""
        seconds = len(shape.layers) * self.layer_seconds + _LOOP_SECONDS + shape.vocabulary * _CANDIDATE_SECONDS
        for matrix in shape.matrices:
            rate = self.rates[KINDS.get(matrix.type_name, OTHER_KIND)]
            share = matrix.active_bytes / matrix.bytes
            seconds += matrix.active_bytes / rate.bytes_per_second + matrix.all_rows * share * rate.row_seconds
        seconds += kv_bytes(shape.layers, Load(_TOKENS)) / self.rates["Q8_0"].bytes_per_second
        return 1 / seconds if shape.matrices and seconds > 0 else None


def throughput_of(timings: Mapping[str, Timing]) -> Throughput | None:
    """The throughput that follows from what has been measured, None when that is too little to choose by.

    `timings`: by name, as engine/device_throughput.py has them: a kind of weights, `short` or `long`; `layer`.
    """
    layer = timings.get("layer")
    layer_seconds = layer[3] / layer[2] if layer else 0.0
    # bytes, rows, and the seconds that these took: the layers' own time is taken away
    matrices = {
        name: (size, rows, max(1e-6, seconds - layers * layer_seconds))
        for name, (size, rows, layers, seconds) in timings.items()
        if name != "layer"
    }
    rates: dict[str, Rate] = {}
    for kind in _KINDS_MEASURED:
        short, long = (matrices.get(f"{kind} {length}") for length in ("short", "long"))
        if short and long:
            rates[kind] = Rate(*solved(short, long))
        elif long:
            rates[kind] = Rate(long[0] / long[2], 0.0)
    if not rates:
        return None
    wanted = {f"{kind} {length}" for kind in _KINDS_MEASURED for length in ("short", "long")}
    is_rough = layer is None or not wanted <= set(matrices)
    slowest = min(rates.values(), key=lambda rate: rate.bytes_per_second)
    return Throughput({kind: rates.get(kind, slowest) for kind in _KINDS_MEASURED}, layer_seconds, is_rough)


def solved(short: tuple[int, int, float], long: tuple[int, int, float]) -> tuple[float, float]:
    """Bytes a second and seconds a row, from (bytes, rows, seconds) of two models.

    Two equations, bytes / rate + rows * cost = seconds. A noisy machine can make one of them negative: then rows cost
    nothing, and the rate is the slower of the two.
    """
    (bytes_1, rows_1, seconds_1), (bytes_2, rows_2, seconds_2) = short, long
    determinant = bytes_1 * rows_2 - bytes_2 * rows_1
    inverse = (seconds_1 * rows_2 - seconds_2 * rows_1) / determinant
    cost = (bytes_1 * seconds_2 - bytes_2 * seconds_1) / determinant
    if inverse <= 0 or cost < 0:
        return min(bytes_1 / seconds_1, bytes_2 / seconds_2), 0.0
    return 1 / inverse, cost


def in_words(tokens_per_second: float) -> str:
    """`about 9 tokens/s`: two digits are all that a prediction is worth."""
    if tokens_per_second < 1:
        return f"about {tokens_per_second:.1f} tokens/s"
    digits = len(str(int(tokens_per_second)))
    return f"about {round(tokens_per_second, min(0, 2 - digits)):.0f} tokens/s"
