"""JSON that may be shown: equal to what was given, and nothing in it that a terminal obeys or nobody sees.

Knows: `json` escapes the first 32 control characters only; which others there are.
Refuses to know: what is written, and to whom.
"""

import json
import re
import unicodedata

# Control and format characters, surrogates, line and paragraph separators: general categories of Unicode.
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
# What nobody sees in other categories: selectors and fillers (Default_Ignorable_Code_Point). Emoji, signs and digits
# keep their two selectors.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0d\uffa0\U000e0100-\U000e01ef]"
    "|(?<![#*0-9\u00a9\u00ae\u2010-\u33ff\U0001f000-\U0001faff])[\ufe0e\ufe0f]"
)


def encode(value: object, indent: int | None = 2) -> str:
    """`value` as JSON with a line break at the end, on one line without `indent`.

    What JSON does not know is written as its text.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str) + "\n"
    text = _UNSEEN.sub(lambda found: json.dumps(found.group())[1:-1], text)
    hidden = {char for char in set(text) - {"\n"} if unicodedata.category(char) in _HIDDEN}
    return text.translate({ord(char): json.dumps(char)[1:-1] if char != "\x7f" else "\\u007f" for char in hidden})
