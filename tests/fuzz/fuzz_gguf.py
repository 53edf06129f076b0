"""Damaged GGUF headers: read, or refused with one sentence and exit 6; what is shown of a sound one can be shown."""

# ruff: noqa: PT017 - a target raises, pytest is not there
import random
import struct
from functools import cache

import runner

from slmchat.catalog import gguf, gguf_header, gguf_parser
from slmchat.errors import ExitCode, SlmError


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _value(random: random.Random, kind: int) -> bytes:
    if kind == 8:
        return _string(runner.text(random).encode("utf-8", "surrogatepass"))
    if kind == 9:
        inner, length = random.choice((0, 4, 5, 6, 7, 8, 8, 12)), random.randrange(80)
        return struct.pack("<IQ", inner, length) + b"".join(_value(random, inner) for _ in range(length))
    return random.randbytes({0: 1, 1: 1, 2: 2, 3: 2, 7: 1, 10: 8, 11: 8, 12: 8}.get(kind, 4))


_KEYS = (
    b"general.architecture", b"general.name", b"general.alignment", b"general.file_type", b"llama.context_length",
    b"llama.attention.head_count_kv", b"tokenizer.chat_template", b"tokenizer.ggml.tokens", b"split.count",
    b"general.base_model.count", b"general.base_model.0.name",
)  # fmt: skip


def _file(random: random.Random) -> bytes:
    keys = random.sample(_KEYS, random.randrange(1, len(_KEYS)))
    parts = []
    for key in keys:
        kind = random.choice((4, 4, 8, 8, 8, 9, random.randrange(14)))
        parts.append(_string(key) + struct.pack("<I", kind) + _value(random, kind))
    tensors, offset = [], 0
    for number in range(random.randrange(4)):
        shape = [random.choice((1, 32, 64, 256)) for _ in range(random.randrange(1, 5))]
        tensors.append(_string(b"t%d" % number) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset))
        size = 4
        for length in shape:
            size *= length
        offset += -(-size // 32) * 32
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(parts + tensors)
    return header + bytes(-len(header) % 32) + bytes(min(offset, 4096))


@cache
def _sound(seed: int) -> bytes:
    return _file(random.Random(seed))


def target(random: random.Random) -> None:
    data = runner.damaged(random, _sound(random.randrange(500))) if random.random() < 0.9 else _file(random)
    size = random.choice((len(data), len(data), len(data) + 4096, 1 << 40, max(0, len(data) - 7)))
    try:
        header = gguf.read_header_bytes(data, size, name="x.gguf")
    except gguf_parser.NeedMore as more:
        assert len(data) < more.at_least <= size  # it asks for what the file has
        return
    except SlmError as error:
        assert error.exit_code is ExitCode.DAMAGED
        assert "\n" not in error.message
        return
    for name in dir(gguf_header.Header):
        if not name.startswith("_"):
            getattr(header, name)
    assert header.tensor_bytes <= size
    assert all(key.isprintable() or key for key in header.metadata)
    gguf_header.is_projector(header)


if __name__ == "__main__":
    raise SystemExit(runner.main(target))
