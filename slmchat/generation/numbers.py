"""Numbers in texts, as people and models write them: `1,234.50`, `$18`, `-3`, `7/8` is none.

Knows: how a number is written down so that equal ones are equal texts. Refuses to know: what is counted.
"""

import re
from decimal import Decimal

# A digit, groups of thousands, decimals; no part of a word. A point or comma behind it ends the sentence.
_NUMBER = re.compile(r"(?<![\w.])[-−]?[$€£]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,30})(?:\.\d{1,30})?(?![\w])")


def number_in(text: str) -> str | None:
    """A text that is a number and nothing else (a unit sign before or behind it is let be), as `last_number` has it."""
    found = _NUMBER.findall(text)
    bare = text.strip().strip("$€£%").strip()
    return _plain(found[0]) if len(found) == 1 and re.sub(r"[$€£]", "", found[0]) == bare else None


def last_number(text: str) -> str | None:
    """The last number of a text, without groups and without zeros that say nothing: `1,250.50` is "1250.5"."""
    found = _NUMBER.findall(text)
    return _plain(found[-1]) if found else None


def _plain(written: str) -> str:
    value = Decimal(re.sub(r"[,$€£]", "", written).replace("−", "-"))
    if value == 0:
        return "0"
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
