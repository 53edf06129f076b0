"""What one token takes of a device, for comparing a measured speed with the device's limits: bytes and multiply-adds.

    bytes of a generated token = weights that it multiplies with + KV cache of the tokens before it
    multiply-adds of a prompt's token = elements of the matrices that it goes through
                                        + 2 * query width * tokens that it looks back at, in every layer with attention

A generated token reads all of them, so its limit is memory bandwidth: share = bytes * tokens a second / bandwidth. Many
tokens of a prompt share one reading, so their limit is arithmetic: share = multiply-adds * tokens a second / limit.
The output matrix is left out of a prompt (it is multiplied with its last token alone), token embeddings out of both
(they are looked up). Of a mixture of experts those count that a token uses. What looks back no further than a window
counts so far.

Knows: the two formulas. Refuses to know: how limits are measured (hardware/bandwidth.py, engine/arithmetic_limit.py).
"""

from collections import Counter

from slmchat.fit.memory import KV_BYTES
from slmchat.fit.shape import Layer, ModelShape


def bytes_of_token(shape: ModelShape, n_before: int, kv_type: str) -> int:
    """Bytes that a generated token reads with `n_before` tokens before it."""
    kv = sum(_looked_at(layer, n_before) * (layer.key + layer.value) for layer in shape.layers)
    return shape.active_bytes + round(kv * KV_BYTES[kv_type]) + sum(layer.state_bytes for layer in shape.layers)


def multiply_adds_of_token(shape: ModelShape, n_before: float) -> int:
    """Multiply-adds of a prompt's token with (on average) `n_before` tokens before it; 0 where the shape is a guess."""
    matrices = sum(
        matrix.columns * matrix.all_rows * matrix.active_bytes / matrix.bytes
        for matrix in shape.matrices
        if not matrix.is_output
    )
    if not matrices:
        return 0
    attention = sum(2 * shape.attention * _looked_at(layer, n_before) for layer in shape.layers if layer.key)
    return round(matrices + attention)


def main_type(shape: ModelShape) -> str:
    """The type of most of the bytes that a prompt's token is multiplied with; "" where there are none."""
    sizes: Counter[str] = Counter()
    for matrix in shape.matrices:
        if not matrix.is_output:
            sizes[matrix.type_name] += matrix.active_bytes
    return max(sizes, key=lambda name: sizes[name], default="")


def _looked_at(layer: Layer, n_before: float) -> float:
    return n_before if layer.window is None else min(n_before, layer.window)
