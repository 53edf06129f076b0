"""Faults planted in copies of real GGUF files: keys of the header replaced or taken out, tensors overwritten."""

import math
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

from gguf_samples import F32, STR, U32, entry, string

from slmchat.catalog.gguf import read_header

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9


def with_keys(source: Path, target: Path, changes: Mapping[str, str | int | float | None]) -> Path:
    """A copy with these keys set (None: taken out). Tensors keep their places behind the header."""
    with source.open("rb") as file:
        head = file.read(64 << 20)
        tensor_count, key_count = struct.unpack_from("<QQ", head, 8)
        position, kept = 24, []
        for _ in range(key_count):
            begin = position
            name, position = _text(head, position)
            position = _behind_value(head, position + 4, struct.unpack_from("<I", head, position)[0])
            if name not in changes:
                kept.append(head[begin:position])
        tensors = position
        for _ in range(tensor_count):
            _name, position = _text(head, position)
            position += 4 + 8 * struct.unpack_from("<I", head, position)[0] + 4 + 8
        infos = head[tensors:position]
        kept += [_entry(name, value) for name, value in changes.items() if value is not None]
        made = b"GGUF" + struct.pack("<IQQ", 3, tensor_count, len(kept)) + b"".join(kept) + infos
        file.seek(-(-position // 32) * 32)
        with target.open("wb") as out:
            out.write(made + bytes(-len(made) % 32))
            shutil.copyfileobj(file, out, 1 << 22)
    return target


def with_tensor(source: Path, target: Path, name: str, value: float) -> Path:
    """A copy in which every element of an F32 tensor is `value`."""
    shutil.copyfile(source, target)
    header = read_header(source)
    tensor = next(tensor for tensor in header.tensors if tensor.name == name)
    with target.open("r+b") as file:
        file.seek(header.data_offset + tensor.offset)
        file.write(struct.pack("<f", value) * math.prod(tensor.shape))
    return target


def _entry(name: str, value: str | int | float) -> bytes:
    if isinstance(value, str):
        return entry(name, STR, string(value))
    return (
        entry(name, F32, struct.pack("<f", value))
        if isinstance(value, float)
        else entry(name, U32, struct.pack("<I", value))
    )


def _text(data: bytes, position: int) -> tuple[str, int]:
    (size,) = struct.unpack_from("<Q", data, position)
    return data[position + 8 : position + 8 + size].decode(), position + 8 + size


def _behind_value(data: bytes, position: int, kind: int) -> int:
    if kind == _STRING:
        return _text(data, position)[1]
    if kind != _ARRAY:
        return position + _SIZES[kind]
    inner, count = struct.unpack_from("<IQ", data, position)
    position += 12
    if inner != _STRING:
        return position + count * _SIZES[inner]
    for _ in range(count):
        position += 8 + struct.unpack_from("<Q", data, position)[0]
    return position
