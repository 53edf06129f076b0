"""What must never be shown: access tokens, taken out of any text before it reaches a stream.

Knows: where tokens come from (the environment) and what they look like (`hf_…`, `Bearer …`).
Refuses to know: who shows the text.
"""

import os
import re

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")

_HIDDEN = "<token>"
_LOOKS_LIKE_ONE = re.compile(r"hf_[A-Za-z0-9]{8,}|(?<=Bearer )[^\s'\"<]+")
# A value shorter than this would be found in ordinary words.
_SHORTEST = 6


def redacted(text: str) -> str:
    """The text without the tokens of the environment (also as `repr` writes them) and without what looks like one."""
    for variable in TOKEN_VARIABLES:
        value = os.environ.get(variable, "").strip()
        if len(value) >= _SHORTEST:
            for spelled in (value, repr(value)[1:-1], repr(value.encode(errors="replace"))[2:-1]):
                text = text.replace(spelled, _HIDDEN)
    return _LOOKS_LIKE_ONE.sub(_HIDDEN, text)
