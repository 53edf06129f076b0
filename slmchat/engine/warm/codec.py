"""Records of the engine as JSON and back, for two processes of the same version of slm.

Knows: dataclasses, their types. Refuses to know: which records there are, and what they mean.
"""

import base64
import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

Record = TypeVar("Record")


def encode(value: Any) -> Any:
    """What `json.dumps` takes of a record."""
    if dataclasses.is_dataclass(value):
        return {item.name: encode(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list | frozenset):
        return [encode(item) for item in value]
    return value


def decode(kind: type[Record], data: Any) -> Record:
    """The record of this type. Raises TypeError, ValueError or KeyError for what is none."""
    made: Record = _decoded(kind, data)
    return made


def _decoded(kind: Any, data: Any) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return kind(**{name: _decoded(hint, data[name]) for name, hint in _fields(kind).items()})
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if data is None else _decoded(next(each for each in inside if each is not types.NoneType), data)
    if origin is tuple:
        if inside[1:] == (Ellipsis,):
            return tuple(_decoded(inside[0], item) for item in data)
        return tuple(_decoded(each, item) for each, item in zip(inside, data, strict=True))
    if kind is bytes:
        return base64.b64decode(data)
    if kind is float and isinstance(data, int):
        return float(data)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(data)
    if not isinstance(data, kind):
        raise TypeError(f"{type(data).__name__} instead of {kind}")
    return data


@functools.cache
def _fields(kind: type[Any]) -> Mapping[str, Any]:
    hints = typing.get_type_hints(kind)
    return {item.name: hints[item.name] for item in dataclasses.fields(kind)}
