"""GGUF headers that were read before: a vocabulary of 262,000 tokens takes longer to skip than `slm show` may take.

Knows: a header as JSON. Refuses to know: GGUF (gguf.py), when a file is still the same (file_facts.py).
"""

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from slmchat.catalog.file_facts import FileFacts
from slmchat.catalog.gguf import read_header
from slmchat.catalog.gguf_header import Header, SkippedArray, Tensor, Value

_FACT = "header"


def read_headers(paths: Iterable[Path], facts: FileFacts) -> list[Header]:
    """The headers of all parts of a model, as `gguf.read_headers` gives them. Raises `SlmError` as that does."""
    return [_read(path, facts) for path in paths]


def _read(path: Path, facts: FileFacts) -> Header:
    kept = facts.get(path, _FACT)
    if kept is not None:
        try:
            return from_json(kept)
        except (KeyError, TypeError, ValueError, AttributeError):  # damaged: it is read again
            pass
    header = read_header(path)
    facts.keep(path, _FACT, as_json(header))
    return header


def as_json(header: Header) -> dict[str, Any]:
    """The header as values that JSON has."""
    plain = {field.name: getattr(header, field.name) for field in fields(header)}
    metadata = {key: _value_as_json(value) for key, value in header.metadata.items()}
    tensors = [[each.name, each.shape, each.elements, each.type, each.offset] for each in header.tensors]
    return {**plain, "metadata": metadata, "tensors": tensors}


def from_json(kept: dict[str, Any]) -> Header:
    """The header that `as_json` gave. Raises `KeyError`, `TypeError`, `ValueError` or `AttributeError` for another."""
    metadata = {key: _value_of(value) for key, value in kept["metadata"].items()}
    tensors = tuple(Tensor(name, tuple(shape), *numbers) for name, shape, *numbers in kept["tensors"])
    types = tuple(kept["unknown_types"])
    return Header(**{**kept, "metadata": MappingProxyType(metadata), "tensors": tensors, "unknown_types": types})


def _value_as_json(value: Value) -> Any:
    return {"type": value.type, "length": value.length} if isinstance(value, SkippedArray) else value


def _value_of(kept: Any) -> Value:
    if isinstance(kept, dict):
        return SkippedArray(**kept)
    return tuple(kept) if isinstance(kept, list) else kept
