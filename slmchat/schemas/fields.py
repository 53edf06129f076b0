"""The short form of `--fields`: "name, age int, tags[]" as a JSON Schema.

Knows: names, types, `?` for optional, `[]` for lists, descriptions behind a colon.
Refuses to know: grammars, what the fields are for.
"""

import re
from collections.abc import Iterator
from typing import Any

from slmchat.errors import ExitCode, SlmError

_TYPES: dict[str, dict[str, Any]] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
}
# Small models go on with a list until the room is used up.
MOST_ITEMS = 20

_FIELD = re.compile(
    r"(?P<name>[^\W\d][\w-]*)(?P<marks>(?:\[\]|\?)*)"
    r"(?:\s+(?P<type>[A-Za-z]+)(?:\s*\((?P<values>[^()]*)\))?(?P<more>(?:\[\]|\?)*))?"
    r"\s*(?::\s*(?P<about>.*))?",
    re.DOTALL,
)


def parse(text: str) -> dict[str, Any]:
    """The schema of an object with these fields, in this order. Raises `SlmError` (USAGE) that quotes what is wrong.

    NAME [TYPE][[]][?][: description], with commas or line ends between the fields. TYPE is str (when left out), int,
    float, bool, date or enum(a|b|c). `?`: the field may be missing. `[]`: a list of at most `MOST_ITEMS` such values.
    """
    properties: dict[str, Any] = {}
    required: list[str] = []
    for entry in _entries(text):
        found = _FIELD.fullmatch(entry)
        if found is None:
            raise _wrong(f"'{entry}' is not a field")
        name = found["name"]
        marks = (found["marks"] or "") + (found["more"] or "")
        if name in properties:
            raise _wrong(f"the field {name} stands there twice")
        if marks.count("[]") > 1 or marks.count("?") > 1:
            raise _wrong(f"'{entry}' has a mark twice")
        value = _type(found["type"] or "str", found["values"], entry)
        value = {"type": "array", "items": value, "maxItems": MOST_ITEMS} if "[]" in marks else value
        about = (found["about"] or "").strip()
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


def _type(name: str, values: str | None, entry: str) -> dict[str, Any]:
    if name == "enum":
        options = [option.strip() for option in (values or "").split("|")]
        if not all(options):
            raise _wrong(f"'{entry}' needs its values: enum(a|b|c)")
        return {"enum": list(dict.fromkeys(options))}
    if name not in _TYPES or values is not None:
        raise _wrong(f"'{name}' in '{entry}' is not a type")
    return dict(_TYPES[name])


def _wrong(what: str) -> SlmError:
    return SlmError(
        f"--fields cannot be read: {what}.",
        hint='for example: --fields "name, age int?, tags[], mood enum(good|bad)"; types: str int float bool date enum',
        exit_code=ExitCode.USAGE,
    )
