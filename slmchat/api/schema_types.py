"""JSON Schemas of Python classes: those that make their own (pydantic), and dataclasses.

Knows: which annotations of a dataclass a schema can say. Refuses to know: what is done with a schema. Values come back
as dicts: to make an object of one is the program's own step (`Person(**done.value)`).
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, Union

from slmchat.errors import ExitCode, SlmError

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def schema_of_class(cls: type) -> Mapping[str, Any] | None:
    """The JSON Schema of a class; None when it is neither a pydantic model nor a dataclass.

    Raises `SlmError` (USAGE) for a field whose type no schema says.
    """
    make = getattr(cls, "model_json_schema", None)
    if callable(make):
        try:
            made = make()
        except Exception as error:  # foreign code: whatever it raises is its refusal
            raise _wrong(f"schema: {cls.__name__}.model_json_schema() failed: {error}.") from error
        return made if isinstance(made, Mapping) else None
    return _of_dataclass(cls, ()) if dataclasses.is_dataclass(cls) else None


def _of_dataclass(cls: type, within: tuple[type, ...]) -> dict[str, Any]:
    if cls in within:
        raise _wrong(f"schema: the dataclass {cls.__name__} contains itself; write its JSON Schema instead.")
    try:
        hints = typing.get_type_hints(cls)
    except (NameError, TypeError) as error:
        raise _wrong(f"schema: the types of {cls.__name__} cannot be found: {error}.") from error
    properties, required = {}, []
    for field in dataclasses.fields(cls):
        properties[field.name] = _of_type(hints[field.name], f"{cls.__name__}.{field.name}", (*within, cls))
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            required.append(field.name)
    return {"type": "object", "properties": properties, "required": required}


def _of_type(hint: Any, place: str, within: tuple[type, ...]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of_type(one, place, within) for one in arguments]}
    if origin is list and len(arguments) == 1:
        return {"type": "array", "items": _of_type(arguments[0], place, within)}
    if origin is dict and len(arguments) == 2 and arguments[0] is str:
        return {"type": "object", "additionalProperties": _of_type(arguments[1], place, within)}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": [member.value for member in hint]}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _of_dataclass(hint, within)
    raise SlmError(
        f"schema: the type of {place} cannot be said in a JSON Schema.",
        hint="str, int, float, bool, None, list[T], dict[str, T], Literal, Enum, unions of them, and other dataclasses",
        exit_code=ExitCode.USAGE,
    )


def _wrong(message: str) -> SlmError:
    return SlmError(message, exit_code=ExitCode.USAGE)
