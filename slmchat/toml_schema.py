"""Checks of a table that a person wrote, put together from small ones: one error that names every mistake in it.

Knows: texts, numbers, arrays and tables, where in the file a mistake stands, which key may have been meant.
Refuses to know: which keys a file has (catalog/schema.py, personas.py).
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from slmchat.errors import usage_error
from slmchat.lazy_patterns import LazyPattern, lazy_pattern
from slmchat.ranges import Range

MOST_MISTAKES = 10  # more than this in one message helps nobody


class Mistakes:
    """The mistakes found so far."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def add(self, where: str, reason: str) -> None:
        """`where`: the path of a key, counting from 1: `model[2] "my:model" variant[1].source[1].sha256`."""
        self.found.append((where.strip(), reason))

    def raise_if_any(self, file: object, hint: str | None = None, form: str = "{where} {reason}") -> None:
        """One `SlmError` (usage) with the first of them, the others in its hint before `hint`. `form`: of each."""
        if not self.found:
            return
        first, *others = (form.format(where=where, reason=reason).strip() for where, reason in self.found)
        count = f" ({len(others)} more below)" if others else ""
        also = ["also: " + "; ".join(others[: MOST_MISTAKES - 1])] if others else []
        if len(others) >= MOST_MISTAKES:
            also.append(f"and {len(others) + 1 - MOST_MISTAKES} more")
        hints = "; ".join([*also, *([hint] if hint else [])])
        raise usage_error(f"{file}: {first}{count}.", hints or None)


Check = Callable[[Any, str, Any], None]
"""Of a value, the path of its key, and the `Mistakes` where what is wrong with it goes."""


def shown(text: str) -> str:
    """`text` from a file or the command line as an error may show it: short, without control characters."""
    short = text if len(text) <= 80 else text[:79] + "…"
    return "".join(character if character.isprintable() else "?" for character in short)


def value(is_right: Callable[[Any], object], reason: str) -> Check:
    """A value that is right. `reason`: what is said of any other ("must be true or false")."""

    def check(value: Any, where: str, mistakes: Mistakes) -> None:
        if not is_right(value):
            mistakes.add(where, reason)

    return check


def pattern(pattern: str | LazyPattern, reason: str) -> Check:
    """A text that the pattern matches as a whole."""
    compiled = lazy_pattern(pattern) if isinstance(pattern, str) else pattern
    return value(lambda value: isinstance(value, str) and compiled.fullmatch(value), reason)


def text(longest: int) -> Check:
    """One line of text of so many characters at most."""
    return value(
        lambda value: isinstance(value, str) and value.strip() and value.isprintable() and len(value) <= longest,
        f"must be one line of text, 1 to {longest} characters",
    )


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def count(unit: str) -> Check:
    """A number of things, at least one."""
    return value(lambda value: _whole(value) and 0 < value < 2**63, f"must be a whole number of {unit} above 0")


def within(allowed: Range) -> Check:
    """A number of a range."""
    return value(allowed.holds, f"must be {allowed}")


def array(item: Check, unique: str | None = None, least: int = 1, of: str = "tables") -> Check:
    """An array of at least `least` entries. `unique` is a key whose text, in any case, may occur only once in it."""

    def check(value: Any, where: str, mistakes: Mistakes) -> None:
        if not isinstance(value, list) or len(value) < least:
            mistakes.add(where, "must be an array" + (" with at least one entry" if least else f" of {of}"))
            return
        seen: dict[str, int] = {}
        for number, entry in enumerate(value, 1):
            here = f"{where}[{number}]"
            item(entry, here, mistakes)
            key = entry.get(unique) if unique and isinstance(entry, dict) else None
            if isinstance(key, str) and seen.setdefault(key.lower(), number) != number:
                mistakes.add(f"{here}.{unique}", f"is the same as that of number {seen[key.lower()]}")

    return check


def table(keys: Mapping[str, Check], required: tuple[str, ...] = (), near: Collection[str] = ()) -> Check:
    """A table of these keys. `near`: keys of tables beside it, which a misspelt one may have meant as well."""

    def check(value: Any, where: str, mistakes: Mistakes) -> None:
        if not isinstance(value, dict):
            mistakes.add(where, "must be a table")
            return
        for key, entry in value.items():
            if key in keys:
                keys[key](entry, join(where, key), mistakes)
            else:
                mistakes.add(join(where, shown(key)), unknown("key", key, keys, near))
        for key in required:
            if key not in value:
                mistakes.add(join(where, key), "is missing")

    return check


def join(where: str, key: str) -> str:
    """The path of a key in the table at `where`."""
    return where + key if not where or where.endswith(" ") else f"{where}.{key}"


def unknown(what: str, word: str, known: Collection[str], near_too: Collection[str] = ()) -> str:
    """The reason against a word that is none of the known ones."""
    import difflib

    word = word[:80].lower()
    near = difflib.get_close_matches(word, [*known, *near_too], 1) or [
        each for each in known if word and each.startswith(word)
    ]
    reason = f"did you mean {near[0]}?" if near else "known: " + ", ".join(sorted(known))
    return f"is not a known {what} ({reason})"


said = value(lambda given: isinstance(given, str) and given.strip(), "must be a non-empty string")
flag = value(lambda given: isinstance(given, bool), "must be true or false")
