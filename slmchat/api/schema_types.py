"""JSON Schemas of Python classes: those that make their own (pydantic), dataclasses, and TypedDicts.

Knows: which annotations a schema can say. Refuses to know: what is done with a schema. Values come back
as dicts: to make an object of one is the program's own step (`Person(**done.value)`).
"""

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Literal, NotRequired, Required, Union

from slmchat.errors import usage_error

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def schema_of_class(cls: type) -> Mapping[str, Any] | None:
    """The JSON Schema of a class; None when it is none of these.

    Raises `SlmError` (USAGE) for a field whose type no schema says.
    """
    make = getattr(cls, "model_json_schema", None)
    if callable(make):
        try:
            made = make()
        except Exception as error:  # foreign code: whatever it raises is its refusal
            raise usage_error(
                f"schema: {cls.__name__}.model_json_schema() failed: {str(error).rstrip('.')}."
            ) from error
        return made if isinstance(made, Mapping) else None
    return _of_record(cls, ()) if _is_record(cls) else None


def _is_record(cls: Any) -> bool:
    return isinstance(cls, type) and (dataclasses.is_dataclass(cls) or _is_typed_dict(cls))


def _is_typed_dict(cls: Any) -> bool:
    return issubclass(cls, dict) and hasattr(cls, "__required_keys__")  # also those of typing_extensions


def _of_record(cls: type, within: tuple[type, ...]) -> Mapping[str, Any]:
    """The schema of a dataclass or a TypedDict."""
    if (
        hasattr(cls, "__pydantic_validator__") and not within
    ):  # pydantic's dataclass: bounds and defaults are pydantic's
        made: Mapping[str, Any] = sys.modules["pydantic"].TypeAdapter(cls).json_schema()
        return made
    if cls in within:
        raise usage_error(f"schema: {cls.__name__} contains itself; write its JSON Schema instead.")
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except (NameError, TypeError) as error:
        raise usage_error(f"schema: the types of {cls.__name__} cannot be found: {error}.") from error
    names, required = _dict_keys(cls, hints) if _is_typed_dict(cls) else _fields(cls)
    properties = {name: _of_type(hints[name], f"{cls.__name__}.{name}", (*within, cls)) for name in names}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _fields(cls: Any) -> tuple[list[str], list[str]]:
    """The fields that `cls(...)` takes, and those of them that it needs."""
    taken = [field for field in dataclasses.fields(cls) if field.init]
    missing = dataclasses.MISSING
    needed = [field.name for field in taken if field.default is missing and field.default_factory is missing]
    return [field.name for field in taken], needed


def _dict_keys(cls: Any, hints: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The keys of a TypedDict, and those that must be there. Python does not see `NotRequired` in annotations that are
    texts (3.11)."""
    origins = {name: typing.get_origin(hint) for name, hint in hints.items()}
    needed = [name for name in hints if name in cls.__required_keys__ and origins[name] is not typing.NotRequired]
    return list(hints), [name for name in hints if name in needed or origins[name] is typing.Required]


def _of_type(hint: Any, place: str, within: tuple[type, ...]) -> Mapping[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Annotated, Required, NotRequired):
        return _of_type(arguments[0], place, within)
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if origin is Literal:
        return {"enum": [one.value if isinstance(one, Enum) else one for one in arguments]}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of_type(one, place, within) for one in arguments]}
    if origin is list and len(arguments) == 1:
        return {"type": "array", "items": _of_type(arguments[0], place, within)}
    if origin is dict and len(arguments) == 2 and arguments[0] is str:
        return {"type": "object", "additionalProperties": _of_type(arguments[1], place, within)}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": [member.value for member in hint]}
    if _is_record(hint):
        return _of_record(hint, within)
    raise usage_error(
        f"schema: the type of {place} cannot be said in a JSON Schema.",
        "str, int, float, bool, None, list[T], dict[str, T], Literal, Enum, unions, dataclasses, TypedDict",
    )
