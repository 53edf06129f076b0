"""JSON that may be shown: equal to what was given, and nothing in it that a terminal obeys or nobody sees.

Knows: `json` escapes the first 32 control characters only; which others there are.
Refuses to know: what is written, and to whom.
"""

import json
import unicodedata

# Control and format characters, surrogates, line and paragraph separators: general categories of Unicode.
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def encode(value: object, indent: int | None = 2) -> str:
    """`value` as JSON with a line break at the end, on one line without `indent`.

    What JSON does not know is written as its text.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str) + "\n"
    hidden = {char for char in set(text) - {"\n"} if unicodedata.category(char) in _HIDDEN}
    return text.translate({ord(char): json.dumps(char)[1:-1] if char != "\x7f" else "\\u007f" for char in hidden})
