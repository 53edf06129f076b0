"""What kind of Markdown block a line starts, told from as few of its characters as will do.

Knows: the marks at the start of a line. Refuses to know: lines before this one, containers, how anything is shown.

Every rule is two patterns: one that is sure, one that says that more must be seen. A rule that needs the whole line
gives up on lines longer than its limit. What is sure stays sure whatever follows, so the answer does not depend on how
the text was cut.
"""

import re
from enum import Enum, auto

from slmchat.lazy_dataclasses import dataclass

# Most characters of a line that are held back to find out what it is; a table row may be longer.
_LIMIT = 200
_ROW_LIMIT = 4000
_NO_LIMIT = 1 << 60  # the start of the line decides


class Kind(Enum):
    BLANK = auto()
    RULE = auto()
    TASK = auto()
    HEADING = auto()
    QUOTE = auto()
    BULLET = auto()
    ORDERED = auto()
    FENCE = auto()
    ROW = auto()
    MATH = auto()
    PARAGRAPH = auto()


@dataclass(frozen=True, slots=True)
class Block:
    """A block that starts here: how many characters its mark takes, and what the mark says."""

    kind: Kind
    length: int
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Rule:
    kind: Kind
    sure: re.Pattern[str]
    maybe: re.Pattern[str]
    limit: int


def _rule(kind: Kind, sure: str, maybe: str, limit: int = _LIMIT) -> _Rule:
    return _Rule(kind, re.compile(sure), re.compile(maybe), limit)


# In order: `- - -` is a rule, not a list. A line's end is "\n" here. `•` is no Markdown, but models write it.
_RULES = (
    _rule(Kind.RULE, r"([-*_])[ \t]*(?:\1[ \t]*){2,}\n", r"([-*_])[ \t]*(?:\1[ \t]*)*"),
    _rule(Kind.HEADING, r"(#{1,6})[ \t]+(?=\S)(.*?)(?:[ \t]+#+)?[ \t]*\n", r"#{1,6}(?:[ \t].*)?"),
    _rule(Kind.QUOTE, r">(?: |(?=[^ ]))", r">", _NO_LIMIT),
    _rule(Kind.BULLET, r"([-*+•])(?:[ \t]|(?=\n))", r"[-*+•]", _NO_LIMIT),
    _rule(Kind.ORDERED, r"([0-9]{1,9}[.)])(?:[ \t]|(?=\n))", r"[0-9]{1,9}[.)]?", _NO_LIMIT),
    _rule(Kind.FENCE, r"(`{3,})([^`\n]*)\n", r"`{1,2}|`{3,}[^`]*"),
    _rule(Kind.FENCE, r"(~{3,})([^\n]*)\n", r"~{1,2}|~{3,}.*"),
    _rule(Kind.MATH, r"(\\\[|\$\$)[ \t]*\n", r"\\|\$|(?:\\\[|\$\$)[ \t]*"),
)
_TASK = _rule(Kind.TASK, r"\[([ xX])\][ \t]+(?=[^\s])", r"\[(?:[ xX](?:\][ \t]*)?)?", _NO_LIMIT)
_ROW = _rule(Kind.ROW, r"\|.*\n", r"\|.*", _ROW_LIMIT)


def recognise(text: str, *, is_end: bool, is_item: bool) -> Block | None:
    """The block that starts a line (or the content of a list item); None when more must be seen.

    `text` is the line so far without its indentation; `is_end`: it is all of the line.
    """
    if not text:
        return Block(Kind.BLANK, 0) if is_end else None
    line = text + "\n" if is_end else text
    for rule in (_TASK, *_RULES) if is_item else (*_RULES, _ROW):
        if len(text) > rule.limit:
            continue
        found = rule.sure.match(line)
        if found:
            return Block(rule.kind, min(found.end(), len(text)), found.groups())
        if not is_end and rule.maybe.fullmatch(text):
            return None
    return Block(Kind.PARAGRAPH, 0)
