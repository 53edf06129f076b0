"""An answer on its way to its reader: its `[n]` point to quotations, its quotation marks hold what is quoted.

A small model writes `[7]` where there are two quotations, and puts marks around words that stand nowhere. Numbers that
point nowhere are left out. Marks around what no document says are left out, too: the words are then the model's own.
An answer that refers to some of its quotations alone numbers these from 1, while it comes: nobody looks for the others.

Knows: numbers in brackets, marks, how long a text is held back until it is clear what it is.
Refuses to know: who shows it.
"""

import re
from collections.abc import Callable

from slmchat.retrieval.quotations import MARKS

_NUMBERS = re.compile(r"([ \t]?)\[\s*\d{1,3}(?:\s*[,;]\s*\d{1,3})*\s*\]")
_MAY_BECOME_NUMBERS = re.compile(r"[ \t]?\[[\d\s,;]{0,24}\Z")
# What is looked at one by one: a bracket or mark, with a blank before a bracket.
_SPECIAL = re.compile(r"[ \t]?\[|[" + "".join(MARKS) + "]")
# Marks with so many characters between them are not taken for a pair; nor are those around a single word.
_MOST_MARKED = 400
_LEAST_WORDS = 2


class CitationFilter:
    """Feed it an answer, piece by piece; what comes out can be shown."""

    def __init__(self, n_quotations: int, is_quoted: Callable[[str], bool], *, numbers_anew: bool = False) -> None:
        """`is_quoted`: whether a text stands in a document. `numbers_anew`: in the order in which they are named."""
        self._n_quotations = n_quotations
        self._is_quoted = is_quoted
        self._numbers_anew = numbers_anew
        self._held = ""
        self.used: list[int] = []
        """The quotations to which the answer has referred so far, by their own numbers, the first one first."""

    def feed(self, text: str) -> str:
        """What can be shown by now."""
        return self._put(text, is_end=False)

    def flush(self) -> str:
        """The rest, at the end."""
        return self._put("", is_end=True)

    def _put(self, text: str, *, is_end: bool) -> str:
        rest, shown = self._held + text, ""
        self._held = ""
        while match := _SPECIAL.search(rest):
            shown += rest[: match.start()]
            rest = rest[match.start() :]
            step = self._numbers(rest) if rest.lstrip(" \t")[0] == "[" else self._marked(rest, is_end=is_end)
            if step is None and not is_end:
                self._held = rest
                return shown
            made, size = step or (rest[: len(match[0])], len(match[0]))
            shown += made
            rest = rest[size:]
        if not is_end and rest[-1:] in (" ", "\t"):  # it may belong to a bracket
            self._held, rest = rest[-1], rest[:-1]
        return shown + rest

    def _numbers(self, rest: str) -> tuple[str, int] | None:
        """What stands for the bracket at the beginning, and how long that is; None: more has to come."""
        if match := _NUMBERS.match(rest):
            return self._kept(match), match.end()
        head = rest[: rest.index("[") + 1]
        return None if _MAY_BECOME_NUMBERS.match(rest) else (head, len(head))

    def _kept(self, match: re.Match[str]) -> str:
        """The bracket with those of its numbers that are quotations, and the blank before it; empty when none is."""
        numbers = [number for number in map(int, re.findall(r"\d+", match[0])) if 1 <= number <= self._n_quotations]
        self.used = list(dict.fromkeys((*self.used, *numbers)))
        shown = [self.used.index(number) + 1 for number in numbers] if self._numbers_anew else numbers
        return f"{match[1]}[{', '.join(map(str, dict.fromkeys(shown)))}]" if shown else ""

    def _marked(self, rest: str, *, is_end: bool) -> tuple[str, int] | None:
        """The same for a quotation mark: with it or without it, up to the mark that closes it."""
        end = rest.find(MARKS[rest[0]], 1)
        if end < 0 or end > _MOST_MARKED:
            return None if end < 0 and len(rest) <= _MOST_MARKED and not is_end else (rest[0], 1)
        inside = rest[1:end]
        if len(inside.split()) < _LEAST_WORDS or self._is_quoted(inside.rstrip(" .,;:")):
            return rest[: end + 1], end + 1
        return _NUMBERS.sub(self._kept, inside), end + 1
