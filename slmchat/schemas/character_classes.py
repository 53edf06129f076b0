"""Named classes of characters in regular expressions: \\d, [:alpha:], \\p{L}.

Knows: which code points they are. Refuses to know: the rest of a regular expression, JSON.

All but \\p are ASCII, as ECMA 262 has them without the flag u. \\s in a grammar is ASCII too: nobody wants a model to
choose between eleven kinds of blanks; the check of a finished text knows all of them (`ECMA_SPACE`).
"""

import itertools
import unicodedata
from functools import lru_cache

from slmchat.schemas.grammar import PRINTABLE, Ranges, chars, joined, without

DIGITS: Ranges = chars("0-9").ranges
WORD: Ranges = chars("A-Za-z0-9_").ranges
SPACE: Ranges = chars(" \t\n\r\f\v").ranges
_LETTERS = {"d": DIGITS, "w": WORD, "s": SPACE}

# ECMA 262, 22.2.2.9: WhiteSpace and LineTerminator
ECMA_SPACE = r"\t\n\v\f\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"

# POSIX 1003.1, 7.3.1, in the C locale
POSIX: dict[str, Ranges] = {
    "alpha": chars("A-Za-z").ranges,
    "digit": DIGITS,
    "alnum": chars("A-Za-z0-9").ranges,
    "upper": chars("A-Z").ranges,
    "lower": chars("a-z").ranges,
    "space": SPACE,
    "blank": chars(" \t").ranges,
    "punct": joined([(0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)]),
    "xdigit": chars("0-9A-Fa-f").ranges,
    "word": WORD,
    "print": ((0x20, 0x7E),),
    "graph": ((0x21, 0x7E),),
    "cntrl": ((0x00, 0x1F), (0x7F, 0x7F)),
}

# The long names of Unicode's general categories (PropertyValueAliases.txt) that people write.
_LONG_NAMES = {
    "letter": "L",
    "uppercase_letter": "Lu",
    "lowercase_letter": "Ll",
    "titlecase_letter": "Lt",
    "modifier_letter": "Lm",
    "other_letter": "Lo",
    "mark": "M",
    "nonspacing_mark": "Mn",
    "number": "N",
    "decimal_number": "Nd",
    "digit": "Nd",
    "punctuation": "P",
    "dash_punctuation": "Pd",
    "symbol": "S",
    "math_symbol": "Sm",
    "currency_symbol": "Sc",
    "separator": "Z",
    "space_separator": "Zs",
    "control": "Cc",
    "alphabetic": "L",
    "uppercase": "Lu",
    "lowercase": "Ll",
}
_CATEGORIES = {
    *("L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me", "N", "Nd", "Nl", "No", "P", "Pc", "Pd", "Ps", "Pe"),
    *("Pi", "Pf", "Po", "S", "Sm", "Sc", "Sk", "So", "Z", "Zs", "Zl", "Zp", "C", "Cc", "Cf", "Co", "Cn"),
}


def of_letter(letter: str) -> Ranges:
    """The class of \\d, \\w, \\s and of their opposites, which are printable characters only."""
    ranges = _LETTERS[letter.lower()]
    return ranges if letter.islower() else without(PRINTABLE, ranges)


@lru_cache(maxsize=64)
def of_property(name: str) -> Ranges | None:
    """The code points of \\p{name}, a general category of Unicode; None for anything else, as a script.

    Takes some hundredths of a second the first time: all code points are looked at that mean anything.
    """
    short = name.removeprefix("General_Category=").removeprefix("gc=")
    short = _LONG_NAMES.get(short.lower(), short)
    if short not in _CATEGORIES:
        return None
    return joined(span for category, spans in _categories().items() if category.startswith(short) for span in spans)


# Planes 4 to 13 hold nothing, and 15 and 16 are for private use but for the last two of each (Unicode, chapter 2.8).
_ASSIGNED = (range(0xD800), range(0xE000, 0x40000), range(0xE0000, 0xE1000))
_OTHERS = {
    "Cn": [(0x40000, 0xDFFFF), (0xE1000, 0xEFFFF), (0xFFFFE, 0xFFFFF), (0x10FFFE, 0x10FFFF)],
    "Co": [(0xF0000, 0xFFFFD), (0x100000, 0x10FFFD)],
}


@lru_cache(maxsize=1)
def _categories() -> dict[str, list[tuple[int, int]]]:
    """The code points of each category but surrogates, as ranges."""
    found = {category: list(spans) for category, spans in _OTHERS.items()}
    for codes in _ASSIGNED:
        place = codes.start
        for category, group in itertools.groupby(map(unicodedata.category, map(chr, codes))):
            end = place + sum(1 for _ in group)
            found.setdefault(category, []).append((place, end - 1))
            place = end
    return found


def spelled(ranges: Ranges) -> str:
    """The ranges as they stand between the brackets of a class of Python's `re`."""
    return "".join(_spelled(low) if low == high else f"{_spelled(low)}-{_spelled(high)}" for low, high in ranges)


def _spelled(code: int) -> str:
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
