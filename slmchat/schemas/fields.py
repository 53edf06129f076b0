"""The short form of `--fields`: "name, age int, tags[]" as a JSON Schema.

Knows: names, types, ranges, `?` for optional, `[]` for lists, types and descriptions behind a colon.
Refuses to know: grammars, what the fields are for.
"""

import re
from collections.abc import Iterator
from typing import Any

from slmchat.errors import SlmError, usage_error

_TYPES: dict[str, dict[str, Any]] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
}
# The same in the words of JSON Schema, which people know too.
_ALIASES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}
# Small models go on with a list until the room is used up.
MOST_ITEMS = 20

_TYPE = r"(?P<type>[A-Za-z]+)(?:\s*\((?P<values>[^()]*)\))?(?P<more>(?:\[\]|\?)*)"
_FIELD = re.compile(
    rf"(?P<name>[^\W\d][\w-]*)(?P<marks>(?:\[\]|\?)*)(?:\s+{_TYPE})?\s*(?::\s*(?P<about>.*))?",
    re.DOTALL,
)
# "age: int", "age: int: in years"
_TYPE_BEHIND_COLON = re.compile(rf"{_TYPE}\s*(?::\s*(?P<about>.*))?", re.DOTALL)
_RANGE = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*(?:-|\.\.)\s*(-?\d+(?:\.\d+)?)\s*")


def parse(text: str) -> dict[str, Any]:
    """The schema of an object with these fields, in this order. Raises `SlmError` (USAGE) that quotes what is wrong.

    NAME [TYPE][[]][?][: description], with commas or line ends between the fields; NAME: TYPE is the same. TYPE is str
    (when left out), int, float, bool, date or enum(a|b|c); int(1-5) and float(0-1) have bounds. `?`: the field may be
    missing. `[]`: a list of at most `MOST_ITEMS` such values.
    """
    properties: dict[str, Any] = {}
    required: list[str] = []
    for entry in _entries(text):
        found = _FIELD.fullmatch(entry)
        if found is None:
            raise _wrong(f"'{entry}' is not a field")
        name, about = found["name"], (found["about"] or "").strip()
        behind = _TYPE_BEHIND_COLON.fullmatch(about) if found["type"] is None else None
        typed = behind if behind is not None and _is_type(behind["type"]) else found
        if typed is behind:
            about = (typed["about"] or "").strip()
        marks = (found["marks"] or "") + (typed["more"] or "")
        if name in properties:
            raise _wrong(f"the field {name} stands there twice")
        if marks.count("[]") > 1 or marks.count("?") > 1:
            raise _wrong(f"'{entry}' has a mark twice")
        value = _type(typed["type"] or "str", typed["values"], entry)
        value = {"type": "array", "items": value, "maxItems": MOST_ITEMS} if "[]" in marks else value
        properties[name] = {**value, "description": about} if about else value
        if "?" not in marks:
            required.append(name)
    if not properties:
        raise _wrong("no field is named")
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _entries(text: str) -> Iterator[str]:
    """The fields as they are written; a line end separates them, and so does a comma outside of parentheses.

    Where fields stand on lines of their own, commas belong to descriptions.
    """
    lines = text.strip().splitlines()
    pieces = lines if len(lines) > 1 else re.split(r",(?![^()]*\))", text)
    for piece in pieces:
        entry = piece.strip().rstrip(",").strip()
        if entry:
            yield entry


def _is_type(name: str) -> bool:
    return name in _TYPES or name in _ALIASES or name == "enum"


def _type(name: str, values: str | None, entry: str) -> dict[str, Any]:
    if name == "enum":
        options = [option.strip() for option in (values or "").split("|")]
        if not all(options):
            raise _wrong(f"'{entry}' needs its values: enum(a|b|c)")
        return {"enum": list(dict.fromkeys(options))}
    name = _ALIASES.get(name, name)
    if name not in _TYPES:
        raise _wrong(f"'{name}' in '{entry}' is not a type")
    if values is None:
        return dict(_TYPES[name])
    bounds = _RANGE.fullmatch(values)
    if name not in ("int", "float") or bounds is None:
        raise _wrong(f"({values}) in '{entry}' is not a range of numbers, as in int(1-5)")
    if name == "int" and "." in values.replace("..", ""):
        raise _wrong(f"({values}) in '{entry}' is not a range of whole numbers")
    low, high = (float(bound) if "." in bound else int(bound) for bound in bounds.groups())
    if low > high:
        raise _wrong(f"({values}) in '{entry}' begins above its end")
    return {**_TYPES[name], "minimum": low, "maximum": high}


def _wrong(what: str) -> SlmError:
    return usage_error(
        f"--fields cannot be read: {what}.",
        'for example: --fields "name, age int?, tags[], mood enum(good|bad)"; '
        "types: str int float bool date enum, int(1-5)",
    )
