"""A Llama of any shape, written as a GGUF by slm itself: to time kernels (device_throughput.py) and to try them
(self_test.py).

Knows: the metadata that llama.cpp wants of such a model and the layout of the file.
Refuses to know: what the weights hold (the caller fills them), what the model is for.
"""

import errno
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

from slmchat.lazy_dataclasses import dataclass

VOCABULARY = 256
"""Tokens that such a model knows; it has no texts for them."""

_CONTEXT = 256
_HEAD = 64


@dataclass(frozen=True, slots=True)
class WeightType:
    """A weight type: its number in ggml.h, elements and bytes of a block."""

    number: int
    block: int
    block_bytes: int


F32 = WeightType(0, 1, 4)
Q8_0 = WeightType(8, 32, 34)

# Name of a tensor, its type and how many bytes it has -> those bytes.
Fill = Callable[[str, WeightType, int], bytes]


def write_llama(
    file: Path,
    kinds: Sequence[WeightType],
    *,
    embedding: int,
    feed_forward: int,
    head: int = _HEAD,
    fill: Fill | None = None,
) -> tuple[int, int]:
    """A Llama with one layer for each of `kinds`, the type of its matrices; bytes and rows of those.

    `head`: numbers of each of its heads. `fill` None: the weights are zeros, a hole in the file. Raises `OSError`.
    """
    heads = embedding // head
    keys = max(1, heads // 4) * head
    matrices = (
        ("attn_q", embedding, embedding), ("attn_k", embedding, keys), ("attn_v", embedding, keys),
        ("attn_output", embedding, embedding), ("ffn_gate", embedding, feed_forward),
        ("ffn_up", embedding, feed_forward), ("ffn_down", feed_forward, embedding),
    )  # fmt: skip
    tensors = [("token_embd", embedding, VOCABULARY, F32), ("output_norm", embedding, 0, F32)]
    for layer, kind in enumerate(kinds):
        tensors += [(f"blk.{layer}.{name}", embedding, 0, F32) for name in ("attn_norm", "ffn_norm")]
        tensors += [(f"blk.{layer}.{name}", row, rows, _fitting(kind, row)) for name, row, rows in matrices]
    keys_values: dict[str, int | float | str] = {
        "general.architecture": "llama", "tokenizer.ggml.model": "no_vocab", "llama.vocab_size": VOCABULARY,
        "llama.context_length": _CONTEXT, "llama.embedding_length": embedding, "llama.block_count": len(kinds),
        "llama.feed_forward_length": feed_forward, "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": keys // head, "llama.rope.dimension_count": head,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
    }  # fmt: skip
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys_values)))
    for key, value in keys_values.items():
        out += _text(key) + _value(value)
    offset = total_bytes = total_rows = 0
    places = []
    for name, row, rows, type_ in tensors:
        shape = (row, rows) if rows else (row,)
        size = row * max(1, rows) // type_.block * type_.block_bytes
        out += _text(name + ".weight") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, type_.number, offset)
        places.append((offset, name, type_, size))
        offset += -(-size // 32) * 32
        if rows and name != "token_embd":
            total_bytes, total_rows = total_bytes + size, total_rows + rows
    out += bytes(-len(out) % 32)
    if fill is None:
        _check_room(file, len(out) + offset)
    with open(file, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as stream:
        stream.write(out)
        if fill is not None:
            for place, name, type_, size in places:
                stream.seek(len(out) + place)
                stream.write(fill(name, type_, size))
        stream.truncate(len(out) + offset)
    return total_bytes, total_rows


def _check_room(file: Path, size: int) -> None:
    """Raises `OSError` (ENOSPC). A file system in memory takes a page where a hole is read: a full one ends slm there,
    by SIGBUS."""
    import shutil

    if shutil.disk_usage(file.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))


def _fitting(kind: WeightType, row: int) -> WeightType:
    """The type, or 8 bits where its blocks do not divide the rows."""
    return kind if row % kind.block == 0 else Q8_0


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: int | float | str) -> bytes:
    """A value with its type (gguf.h: 4 is uint32, 6 float32, 8 a string)."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    return struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)
