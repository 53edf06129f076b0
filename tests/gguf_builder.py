"""Tiny GGUF files of any architecture: llama.cpp itself says, in its errors, which keys and tensors it still misses.

A file is written, llama.cpp tries to load it, and what it says ("key not found", "tensor not found", "wrong shape") is
mended, until the model loads. So no table of tensors per architecture is kept here.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from gguf_samples import _spm_vocabulary

U32, I32, F32, BOOL, STR, ARR, U64 = 4, 5, 6, 7, 8, 9, 10
_LETTERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

EMBEDDING, HEADS, KV_HEADS, BLOCKS, HEAD = 64, 4, 2, 2, 16


@dataclass(frozen=True)
class Array:
    """An array value: the type of its elements, and they."""

    kind: int
    items: tuple[Any, ...]


@dataclass
class Tiny:
    """A GGUF in the making: key -> (type, value), tensor -> shape in ggml's order."""

    keys: dict[str, tuple[int, Any]]
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def copy(self) -> "Tiny":
        return Tiny(dict(self.keys), dict(self.tensors))

    def write(self, path: Path) -> Path:
        """The file, with the same random weights at every call."""
        infos, blocks, offset = [], [], 0
        for name, shape in self.tensors.items():
            infos.append(_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset))
            blocks.append(_weights(name, shape))
            offset += len(blocks[-1])
        entries = [
            _text(key) + struct.pack("<I", kind) + _value(kind, value) for key, (kind, value) in self.keys.items()
        ]
        head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(entries)) + b"".join(entries + infos)
        path.write_bytes(head + bytes(-len(head) % 32) + b"".join(blocks))
        return path


@cache
def _weights(name: str, shape: tuple[int, ...]) -> bytes:
    """The data of a tensor, padded: ones for norms, a decay for recurrent states, noise for the rest."""
    n = int(np.prod(shape)) if shape else 1
    if name.endswith("ssm_a"):
        data = -np.ones(n)
    elif "norm" in name or name.endswith(("scale", "ssm_d")):
        data = np.ones(n)
    else:
        data = np.random.default_rng(len(name)).normal(0, 0.1, n)
    raw = data.astype(np.float32).tobytes()
    return raw + bytes(-len(raw) % 32)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


@cache
def _value(kind: int, value: Any) -> bytes:
    if kind == STR:
        return _text(value)
    if kind != ARR:
        return struct.pack("<" + _LETTERS[kind], value)
    head = struct.pack("<IQ", value.kind, len(value.items))
    if value.kind == STR:
        return head + b"".join(map(_text, value.items))
    return head + struct.pack(f"<{len(value.items)}{_LETTERS[value.kind]}", *value.items)


def start(architecture: str, **more: tuple[int, Any]) -> Tiny:
    """The keys that every architecture has; `more`: further ones, `__` for a dot, or others instead."""
    tokens, scores, types = _spm_vocabulary(())
    own = {
        "context_length": (U32, 256), "embedding_length": (U32, EMBEDDING), "block_count": (U32, BLOCKS),
        "feed_forward_length": (U32, 64), "attention.head_count": (U32, HEADS), "attention.head_count_kv": (U32, KV_HEADS),
        "attention.layer_norm_rms_epsilon": (F32, 1e-5), "attention.layer_norm_epsilon": (F32, 1e-5),
        "rope.dimension_count": (U32, HEAD), "rope.freq_base": (F32, 1e4), "vocab_size": (U32, len(tokens)),
    }  # fmt: skip
    own |= {key.replace("__", "."): value for key, value in more.items()}
    return Tiny(
        {
            "general.architecture": (STR, architecture),
            "general.name": (STR, "Tiny"),
            "general.file_type": (U32, 0),
            **{f"{architecture}.{key}": value for key, value in own.items() if value is not None},
            "tokenizer.ggml.model": (STR, "llama"),
            "tokenizer.ggml.pre": (STR, "default"),
            "tokenizer.ggml.tokens": (ARR, Array(STR, tuple(tokens))),
            "tokenizer.ggml.scores": (ARR, Array(F32, tuple(scores))),
            "tokenizer.ggml.token_type": (ARR, Array(I32, tuple(map(int, types)))),
            "tokenizer.ggml.bos_token_id": (U32, 1),
            "tokenizer.ggml.eos_token_id": (U32, 2),
            "tokenizer.ggml.unknown_token_id": (U32, 0),
            "tokenizer.ggml.add_bos_token": (BOOL, True),
            "tokenizer.ggml.add_eos_token": (BOOL, False),
        }
    )


_NO_KEY = re.compile(r"key not found in model: (\S+)")
_NO_ARRAY = re.compile(r"array key not found in model: (\S+)")
_TYPE = re.compile(r"key (\S+) has wrong type \S+ but expected type (\S+)")
_NO_TENSOR = re.compile(r"tensor '([^']+)' not found")
_SHAPE = re.compile(r"tensor '([^']+)' has wrong shape; expected ([\d, ]+), got")
_TOO_MANY = re.compile(r"wrong number of tensors")
_TYPES = {"u32": U32, "i32": I32, "f32": F32, "bool": BOOL, "str": STR}


def completed(tiny: Tiny, path: Path, load: Callable[[Path], str | None], *, rounds: int = 400) -> Tiny:
    """The file with all that `load` (what llama.cpp says of a failed load, None: it loads) asks for.

    Raises ValueError with what it says when that is nothing that can be added.
    """
    for _ in range(rounds):
        said = load(tiny.write(path))
        if said is None:
            return tiny
        if found := _NO_ARRAY.search(said):
            tiny.keys[found[1]] = (ARR, Array(I32, (1,) * BLOCKS))
        elif found := _NO_KEY.search(said):
            is_float = re.search(r"eps|scale|base|factor|norm$|softcap|alpha|beta|clamp|multipl", found[1])
            tiny.keys[found[1]] = (F32, 1.0) if is_float else (U32, 16)
        elif found := _TYPE.search(said):
            kind = _TYPES[found[2]]
            tiny.keys[found[1]] = (kind, {F32: 1.0, BOOL: True, STR: "none"}.get(kind, 1))
        elif found := _NO_TENSOR.search(said):
            tiny.tensors[found[1]] = (7,)
        elif found := _SHAPE.search(said):
            tiny.tensors[found[1]] = tuple(int(side) for side in found[2].split(","))
        else:
            raise ValueError(said)
    raise ValueError(f"not complete after {rounds} rounds")
