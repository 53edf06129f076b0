"""What a program can verify of a text: its length, its format, its words.

An item of the kind `instructions` names checks with what each asks for: `{"words": [5, 10], "contains": ["blue"]}`. The
answer is right when all of them hold.

Knows: the checks by name, what each may ask for, how words and sentences are counted. Refuses to know: models, files.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from slmchat import bounded_patterns
from slmchat.lazy_dataclasses import dataclass

# Each pattern reads a text once, whatever it is: a model that goes round in circles writes 100,000 dashes.
_LETTER = re.compile(r"\w")
# A sentence ends with . ! ? or … and perhaps a quotation mark, before white space or the end.
_SENTENCE_END = re.compile(r"""(?<![.!?…])[.!?…]++["'”’)]*+(?=\s|$)""")
_BULLET = re.compile(r"^[^\S\n]*+[-*•]\s+\S", re.MULTILINE)
_NUMBERED = re.compile(r"^[^\S\n]*+(\d{1,3})[.)]\s+\S", re.MULTILINE)
_FENCE = re.compile(r"^```\w*\n(.*?)\n?```$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TextCheck:
    """One check. `wants`: what may be asked, in words. `takes`: whether this is it. `holds`: of a text."""

    wants: str
    takes: Callable[[Any], bool]
    holds: Callable[[str, Any], bool]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_count(value: object) -> bool:
    if isinstance(value, list):
        return len(value) == 2 and all(map(_is_whole, value)) and value[0] <= value[1]
    return _is_whole(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_counts(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(map(_is_count, value.values()))


def _is_pattern(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(re.compile(value))
    except re.error:
        return False


def _within(number: int, asked: Any) -> bool:
    low, high = asked if isinstance(asked, list) else (asked, asked)
    return bool(low <= number <= high)


def _counting(count: Callable[[str], int]) -> TextCheck:
    return TextCheck("a whole number or [least, most]", _is_count, lambda text, asked: _within(count(text), asked))


def _occurrences(term: str, text: str) -> int:
    """How often a term stands in a text, in any case; not inside of a longer word."""
    begin = r"(?<!\w)" if term[0].isalnum() else ""
    end = r"(?!\w)" if term[-1].isalnum() else ""
    return len(re.findall(begin + re.escape(term) + end, text, re.IGNORECASE))


def _sentences(text: str) -> int:
    """Ends of sentences, and one more for a last sentence without its mark."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    rest = text[ends[-1] :] if ends else text
    return len(ends) + bool(_LETTER.search(rest))


def _is_numbered(text: str, asked: Any) -> bool:
    numbers = [int(number) for number in _NUMBERED.findall(text)]
    return numbers == list(range(1, len(numbers) + 1)) and _within(len(numbers), asked)


def _is_json(text: str, asked: Any) -> bool:
    """`asked` True: any object or array; names: an object with these keys and no others."""
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    if asked is True:
        return isinstance(value, dict | list)
    return isinstance(value, dict) and set(value) == set(asked)


def _has_case(text: str, asked: Any) -> bool:
    return any(map(str.isalpha, text)) and text == (text.upper() if asked == "upper" else text.lower())


CHECKS: Mapping[str, TextCheck] = {
    "words": _counting(lambda text: sum(bool(_LETTER.search(word)) for word in text.split())),
    "sentences": _counting(_sentences),
    "lines": _counting(lambda text: sum(bool(line.strip()) for line in text.splitlines())),
    "paragraphs": _counting(lambda text: sum(bool(part.strip()) for part in re.split(r"\n\s*\n", text))),
    "characters": _counting(len),
    "bullets": _counting(lambda text: len(_BULLET.findall(text))),
    "numbered": TextCheck("a whole number or [least, most]", _is_count, _is_numbered),
    "contains": TextCheck(
        "a list of texts", _is_texts, lambda text, terms: all(_occurrences(term, text) for term in terms)
    ),
    "excludes": TextCheck(
        "a list of texts", _is_texts, lambda text, terms: not any(_occurrences(term, text) for term in terms)
    ),
    "without": TextCheck(
        "characters", _is_text, lambda text, letters: not set(letters.casefold()) & set(text.casefold())
    ),
    "count": TextCheck(
        "a table of texts with whole numbers or [least, most]",
        _is_counts,
        lambda text, asked: all(_within(_occurrences(term, text), number) for term, number in asked.items()),
    ),
    "starts": TextCheck("a text", _is_text, lambda text, begin: text.startswith(begin)),
    "ends": TextCheck("a text", _is_text, lambda text, end: text.endswith(end)),
    "case": TextCheck("'upper' or 'lower'", lambda value: value in ("upper", "lower"), _has_case),
    "json": TextCheck("true or a list of keys", lambda value: value is True or _is_texts(value), _is_json),
    "matches": TextCheck(
        "a regular expression",
        _is_pattern,
        lambda text, pattern: bounded_patterns.is_whole(re.compile(pattern, re.DOTALL), text),
    ),
}
"""What the answer, without white space around it, is looked at for. docs/eval.md has this table."""


def problem_of(checks: object) -> str | None:
    """Why this cannot be what an item asks for, in a phrase; None when it can."""
    if not isinstance(checks, dict) or not checks:
        return 'must be a table of checks, such as {"words": 5}'
    for name, asked in checks.items():
        check = CHECKS.get(name)
        if check is None:
            return f"has no check '{name}' (it has {', '.join(CHECKS)})"
        if not check.takes(asked):
            return f"wants {check.wants} for '{name}'"
    return None


def failed(text: str, checks: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the checks that do not hold for a text, or that nobody can wait for."""
    text = text.strip()
    found = ((name, _problem(text, name, asked)) for name, asked in checks.items())
    return tuple(name + problem for name, problem in found if problem is not None)


def _problem(text: str, name: str, asked: Any) -> str | None:
    """What stands behind the name of a check that does not hold; None: it holds."""
    try:
        return None if CHECKS[name].holds(text, asked) else ""
    except bounded_patterns.TooSlow:
        return " (takes too long)"
