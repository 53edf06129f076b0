"""Keywords whose values are not what they have to be, where no grammar would notice (`refuse`).

What a grammar holds is read while it is made. What is only checked at the end would be met when an answer is there: too
late to say that the schema is wrong, and a check that cannot be made is none.

Knows: what the value of such a keyword has to be. Refuses to know: what the keyword demands (check_containers.py).
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from slmchat.schemas import keywords
from slmchat.schemas.refusals import unusable


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _each(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_right, value.values()))


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and value == int(value)


_SCHEMA, _COUNT = ("a schema (an object, true or false)", _is_schema), ("a count", _is_count)
_WANTED: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("not", "if", "then", "else", "contains", "propertyNames"), _SCHEMA),
    **dict.fromkeys(("minContains", "maxContains"), _COUNT),
    "uniqueItems": ("true or false", lambda value: isinstance(value, bool)),
    "dependentSchemas": ("an object of schemas", _each(_is_schema)),
    "dependentRequired": ("an object of lists of names", _each(_are_names)),
    "dependencies": ("an object of schemas or lists of names", _each(lambda one: _is_schema(one) or _are_names(one))),
}
_KEYWORDS = frozenset(_WANTED)
# In one expression: to look for one after the other takes twice as long.
_SPELLED = re.compile(f'"(?:{"|".join(_WANTED)})"')
# What is left of a surrogate pair in a text that is decoded.
_HALF = re.compile("[\ud800-\udfff]")


def refuse(document: Any, text: str) -> None:
    """Raises `SlmError` (USAGE) for a schema in which such a keyword has a value that it cannot have, or with half of a
    surrogate pair, which no model can write. `text`: the schema as JSON text, which says at once when there is none."""
    if not (text.isascii() and "\\u" not in text) and _HALF.search(json.dumps(document, ensure_ascii=False)):
        raise unusable(
            "a name or a text in it has half of a surrogate pair (\\uD800 to \\uDFFF), which is not a character"
        )
    if _SPELLED.search(text) is None or not any(map(_wrong, keywords.all_below(document))):
        return
    waiting = [("#", document)]
    while waiting:
        place, schema = waiting.pop()
        if not isinstance(schema, dict):
            continue
        if (keyword := _wrong(schema)) is not None:
            raise unusable(f'the keyword "{keyword}" (at {place}) must be {_WANTED[keyword][0]}')
        waiting.extend((place + step, part) for step, part in keywords.below(schema))


def _wrong(schema: Mapping[str, Any]) -> str | None:
    """A keyword of this schema, and not of one inside of it, that has a value that it cannot have."""
    if _KEYWORDS.isdisjoint(schema):
        return None
    return next((keyword for keyword in _KEYWORDS & schema.keys() if not _WANTED[keyword][1](schema[keyword])), None)
