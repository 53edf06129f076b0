"""JSON that may be shown: equal to what was given, and nothing in it that a terminal obeys or nobody sees.

Knows: `json` escapes the first 32 control characters only; which others there are.
Refuses to know: what is written, and to whom.
"""

import json
import math
import re
import unicodedata
from typing import Any

# Control and format characters, surrogates, line and paragraph separators: general categories of Unicode.
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
# What nobody sees in other categories: selectors and fillers (Default_Ignorable_Code_Point). Emoji, signs and digits
# keep their two selectors.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0d\uffa0\U000e0100-\U000e01ef]"
    "|(?<![#*0-9\u00a9\u00ae\u2010-\u33ff\U0001f000-\U0001faff])[\ufe0e\ufe0f]"
)
# Any of them, without what stands before it.
_MAY_BE_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_ASCII = bytes(range(0x7F))
_FLAT = {str, int, float, bool, type(None)}


def encode(value: object, indent: int | None = 2) -> str:
    """`value` as JSON with a line break at the end, on one line without `indent`.

    What JSON does not know is written as its text.
    """
    text = _plain(value, indent) + "\n"
    chars = _not_ascii(text)
    if any(map(_MAY_BE_UNSEEN.match, chars)):
        text = _UNSEEN.sub(lambda found: json.dumps(found.group())[1:-1], text)
    hidden = {char for char in chars if unicodedata.category(char) in _HIDDEN}
    if not hidden:
        return text
    return text.translate({ord(char): json.dumps(char)[1:-1] if char != "\x7f" else "\\u007f" for char in hidden})


def _not_ascii(text: str) -> set[str]:
    """The characters from DEL on: JSON has escaped the controls before it. Most of a text is ASCII, and bytes lose that
    ten times as fast as characters are looked at."""
    rest = text.encode("utf-8", "surrogatepass").translate(None, _ASCII)
    return set(rest.decode("utf-8", "surrogatepass"))


def _plain(value: object, indent: int | None) -> str:
    """JSON as `json` writes it. It indents in Python, 20 times as slowly as it writes without: a list of flat records
    is written at once, with line breaks as its commas (a text in JSON has none), and its braces are moved then."""
    if indent != 2 or not _are_flat_records(value):
        return dumps(value, indent=indent, ensure_ascii=False, default=str)
    text = dumps(value, ensure_ascii=False, separators=(",\n    ", ": "))
    records = text[2:-2].replace("},\n    {", "\n  },\n  {\n    ")
    return f"[\n  {{\n    {records}\n  }}\n]"


def dumps(value: object, **how: Any) -> str:
    """As `json.dumps`, but null for NaN and the infinities: Python writes words there that no other reader takes."""
    try:
        return json.dumps(value, allow_nan=False, **how)
    except ValueError:
        return json.dumps(_with_null(value), **how)


def _with_null(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _with_null(each) for name, each in value.items()}
    return [_with_null(each) for each in value] if isinstance(value, list | tuple) else value


def _are_flat_records(value: object) -> bool:
    """Whether it is a list of objects of texts and numbers, none of them empty."""
    if not isinstance(value, list) or not value:
        return False
    if not all(type(record) is dict and record for record in value):
        return False
    return {type(field) for record in value for field in record.values()} <= _FLAT
