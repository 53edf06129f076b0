"""Strings of a JSON Schema as grammars: lengths, patterns, formats.

Knows: which of them can be held, alone and together. Refuses to know: other types, references.
"""

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

from slmchat.errors import SlmError
from slmchat.schemas import formats, lengths, python_regex, regex
from slmchat.schemas.grammar import Node, chain
from slmchat.schemas.json_rules import QUOTE, JsonRules, spelled
from slmchat.schemas.keywords import OF_TYPE
from slmchat.schemas.refusals import Impossible, unusable

_OF_STRINGS = OF_TYPE["string"]

# Longer than any string that somebody waits for.
_MOST_LEAST = 10_000


def string(rules: JsonRules, schema: Mapping[str, Any], place: str, only_checked: dict[str, None]) -> Node:
    """A string between its quotes; `only_checked` gets the keywords that the grammar does not hold.

    Raises `Impossible` where the lengths contradict what is beside them, `SlmError` (USAGE) for a pattern that cannot
    be read.
    """
    if _OF_STRINGS.isdisjoint(schema):
        return rules.string()
    least, most = counts(schema, "minLength", "maxLength", place)
    content: Node | None = None
    if "pattern" in schema:
        content = _of_pattern(schema["pattern"], place, only_checked)
        if "format" in schema and schema["format"] in formats.PATTERNS:
            only_checked["format"] = None
    elif schema.get("format") in formats.PATTERNS:
        content = _of_format(schema["format"])
        if not least and most is None:
            return rules.format(schema["format"], _spelled_format(schema["format"]))
    if content is None:
        if not least and most is None:
            return rules.string()
        return chain(QUOTE, rules.characters(least, most), QUOTE)
    sized = lengths.sized(content, least, most)
    if sized is None:
        raise Impossible(f"no string in {place} has both its length and its pattern or format")
    node, is_held = sized
    if not is_held:
        only_checked["minLength" if most is None else "maxLength"] = None
    is_whole = node is content and "pattern" in schema
    return chain(QUOTE, _spelled_pattern(schema["pattern"]) if is_whole else spelled(node), QUOTE)


def _of_pattern(pattern: Any, place: str, only_checked: dict[str, None]) -> Node | None:
    if not isinstance(pattern, str):
        raise unusable(f"the pattern in {place} is not text")
    try:
        found = _parsed(pattern)
    except SlmError:
        found = None
    if found is None or not found[1]:
        only_checked["pattern"] = None
        try:
            python_regex.compiled(pattern)  # at least somebody has to be able to
        except SlmError as error:
            raise unusable(f"the pattern in {place}: {error.message.rstrip('.')}") from error
    return None if found is None else found[0]


@lru_cache(maxsize=512)
def _parsed(pattern: str) -> tuple[Node, bool]:
    return regex.parse_most(pattern)


@lru_cache(maxsize=512)
def _spelled_pattern(pattern: str) -> Node:
    return spelled(_parsed(pattern)[0])


@cache
def _spelled_format(name: str) -> Node:
    return spelled(_of_format(name))


@cache
def _of_format(name: str) -> Node:
    return regex.parse(formats.PATTERNS[name])


def counts(schema: Mapping[str, Any], low: str, high: str, place: str) -> tuple[int, int | None]:
    """A least and a most number. Raises `SlmError` (USAGE) for what is not one, `Impossible` where they contradict."""
    if low not in schema and high not in schema:
        return 0, None
    for keyword in (low, high):
        value = schema.get(keyword, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value != int(value):
            raise unusable(f"{keyword} in {place} is not a whole number of 0 or more")
    least, most = int(schema.get(low, 0)), schema.get(high)
    if most is not None and most < least:
        raise Impossible(f"{low} in {place} is above {high}")
    if least > _MOST_LEAST:
        raise unusable(f"{low} in {place} is more than {_MOST_LEAST:,}")
    return least, None if most is None else int(most)
