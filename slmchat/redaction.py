"""What must never be shown: access tokens and keys, taken out of any text before it reaches a stream.

Knows: where tokens come from (the environment, and whoever reads a key says so) and what they look like (`hf_…`,
`sk-…`, `Bearer …`).
Refuses to know: who shows the text.
"""

import os
import re

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")

_HIDDEN = "<token>"
_LOOKS_LIKE_ONE = re.compile(r"hf_[A-Za-z0-9]{8,}|\bsk-[A-Za-z0-9_-]{16,}|(?<=Bearer )[^\s'\"<]+")
# A value shorter than this would be found in ordinary words.
_SHORTEST = 6

_told: set[str] = set()


def hide(secret: str) -> None:
    """This value is a key: it is taken out of every text from now on."""
    _told.add(secret)


def redacted(text: str) -> str:
    """The text without known keys and tokens (also as `repr` writes them) and without what looks like one."""
    found = {os.environ.get(variable, "").strip() for variable in TOKEN_VARIABLES} | _told
    for value in sorted(found, key=len, reverse=True):  # one may begin like another
        if len(value) >= _SHORTEST:
            for spelled in (value, repr(value)[1:-1], repr(value.encode(errors="replace"))[2:-1]):
                text = text.replace(spelled, _HIDDEN)
    return _LOOKS_LIKE_ONE.sub(_HIDDEN, text)
