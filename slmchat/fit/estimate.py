"""A shape guessed from what a catalog states, for a model whose header has not been read. Said as an estimate.

Knows: what models of a size usually look like. Refuses to know: the catalog (the numbers are given).
"""

import re
from dataclasses import replace
from math import sqrt

from slmchat.fit.shape import Layer, Matrix, ModelShape

# Elements that a token puts into the KV cache: a line above most published configurations (Llama 3.2 1B has 16,384,
# 3B 57,344, Qwen3 4B 73,728, SmolLM2 135M 11,520). Models without grouped queries have more (Phi-3 mini 196,608); where
# the architecture does not give them away (SmolLM2 1.7B: 98,304), the estimate is too low by about 10 % of the whole.
_KV_ELEMENTS_PER_BILLION = 24_000
_KV_ELEMENTS_FLOOR = 10_000
_UNGROUPED = {"phi2": 3.0, "phi3": 3.0}
_VOCABULARY = 128_000

# Per-layer embeddings, in elements: vocabulary x 256 for each layer of Gemma 4 E2B (35) and E4B (42); the larger models
# of that family have none. In billions of parameters: from, to.
_PER_LAYER = {"gemma4": ((3.0, 5.5, 262_144 * 256 * 35), (5.5, 9.0, 262_144 * 256 * 42))}

_ACTIVE = re.compile(r"([\d.]+)B total.*?([\d.]+)B active")


def guessed_shape(
    *, size: int, parameters: int | None, parameters_text: str | None, context_length: int | None,
    quantization: str, architecture: str | None,
) -> ModelShape:  # fmt: skip
    """What a model of `size` bytes of weights probably looks like; `parameters` None: taken from the text or size."""
    count = parameters or _in_words(parameters_text) or size * 8 // 5
    active = _ACTIVE.search(parameters_text or "")
    share = min(1.0, float(active[2]) / float(active[1])) if active else 1.0
    billions = count / 1e9
    elements = (_KV_ELEMENTS_FLOOR + _KV_ELEMENTS_PER_BILLION * billions * sqrt(share)) * _UNGROUPED.get(
        architecture or "", 1.0
    )
    width = max(512, round(2048 * sqrt(max(0.05, billions * share) / 1.5) / 256) * 256)
    layers = max(12, round(16 + 3 * sqrt(billions) * 2))
    type_name = _type_of(quantization)
    rows = round(count / width)
    lazy = round(size * _per_layer_share(architecture, count))
    multiplied = size - lazy
    return ModelShape(
        context_length=context_length,
        layers=tuple(
            Layer(round(elements / 2 / layers), round(elements / 2 / layers), None, 0, size // layers)
            for _ in range(layers)
        ),
        matrices=(Matrix(type_name, width, rows, multiplied, round(multiplied * share), False),),
        vocabulary=_VOCABULARY,
        merges=_VOCABULARY,
        embedding=width,
        feed_forward=4 * width,
        attention=width,
        experts=8 if active else 0,
        experts_used=2 if active else 0,
        weight_bytes=size,
        lazy_bytes=lazy,
    )


def requantized(shape: ModelShape, size: int, quantization: str) -> ModelShape:
    """A shape whose weights have `size` bytes in another quantization: one header speaks for all files of a model."""
    file_bytes = shape.weight_bytes + shape.unused_bytes
    share = size / file_bytes if file_bytes else 1.0
    unused = round(shape.unused_bytes * share)
    type_name = _type_of(quantization)
    return replace(
        shape,
        layers=tuple(replace(layer, weight_bytes=round(layer.weight_bytes * share)) for layer in shape.layers),
        matrices=tuple(
            replace(
                matrix,
                type_name=type_name,
                bytes=max(1, round(matrix.bytes * share)),
                active_bytes=round(matrix.active_bytes * share),
            )
            for matrix in shape.matrices
        ),
        weight_bytes=size - unused,
        lazy_bytes=round(shape.lazy_bytes * share),
        unused_bytes=unused,
    )


def _type_of(quantization: str) -> str:
    """ggml's type of most tensors: `UD-Q4_K_XL-QAT` -> `Q4_K`."""
    return "_".join(quantization.removeprefix("UD-").removesuffix("-QAT").split("_")[:2])


def _per_layer_share(architecture: str | None, count: int) -> float:
    """The part of the weights that are per-layer embeddings."""
    for least, most, elements in _PER_LAYER.get(architecture or "", ()):
        if least <= count / 1e9 < most:
            return elements / count
    return 0.0


def _in_words(text: str | None) -> int | None:
    """`135M`, `3.8B`, `E2B` -> a number."""
    match = re.search(r"([\d.]+)\s*([MB])\b", text or "")
    if match is None:
        return None
    return round(float(match[1]) * (1e9 if match[2] == "B" else 1e6))
