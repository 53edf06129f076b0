"""Piped and file text inside a message: the input first, inside a fence, the instruction last.

Knows: how the text of one user message is put together, and how to cut an input that is too long.
Refuses to know: where the text was read from, tokens (a counting function is passed in).

Small models follow an instruction that they read last, and repeated questions over one document then share a prefix.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from slmchat.lazy_dataclasses import dataclass
from slmchat.lazy_patterns import lazy_pattern

# An attachment as `_fenced` writes it.
_FENCED = lazy_pattern(r'(?:([^\n]+):\n)?("{3,})\n((?:.*?\n)??)\2(?!")(?:\n\n|\Z)', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Attachment:
    """Text that goes along with an instruction; `name` is a file name, or None for standard input."""

    text: str
    name: str | None = None


def compose(instruction: str, attachments: Sequence[Attachment]) -> str:
    """The text of the user message.

    `{}` in the instruction says where the input goes instead; without an instruction the input is the message.
    """
    if not attachments:
        return instruction
    if "{}" in instruction:
        return instruction.replace("{}", joined(attachments))
    return fenced_before(instruction, attachments)


def taken_apart(text: str) -> tuple[str, list[Attachment]]:
    """What was typed and what went along, of a text that `compose` has made: the same text comes of them again.

    All of a text without an instruction behind its fences counts as typed.
    """
    attachments, rest = [], text
    while found := _FENCED.match(rest):
        attachments.append(Attachment(found[3].removesuffix("\n"), found[1]))
        rest = rest[found.end() :]
    return (rest, attachments) if rest.strip() else (text, [])


def instruction_of(text: str) -> str:
    """What was typed, of a text that `compose` has made; all of a text without an instruction behind its fences."""
    return taken_apart(text)[0]


def joined(attachments: Sequence[Attachment]) -> str:
    """The texts alone, a blank line between them."""
    return "\n\n".join(item.text.strip("\n") for item in attachments)


def fenced_before(instruction: str, attachments: Sequence[Attachment]) -> str:
    """The input inside fences, then the instruction, which is taken as it is."""
    if not attachments:
        return instruction
    if not instruction:
        only = attachments[0]
        return only.text.strip("\n") if len(attachments) == 1 and only.name is None else _fenced_all(attachments)
    return f"{_fenced_all(attachments)}\n\n{instruction}"


def _fenced_all(attachments: Sequence[Attachment]) -> str:
    return "\n\n".join(_fenced(item) for item in attachments)


def _fenced(item: Attachment) -> str:
    fence = fence_around(item.text, '"')
    head = f"{item.name}:\n" if item.name else ""
    return f"{head}{fence}\n{item.text.strip(chr(10))}\n{fence}"


def fence_around(text: str, mark: str) -> str:
    """Three marks, or one more than stand together in the text: a fence that the text itself has does not fence it."""
    runs = re.findall(f"{re.escape(mark)}+", text)  # once through the text, however long they are
    return mark * max(3, 1 + max(map(len, runs), default=0))


# Characters that are looked at first when an input is cut: a page or two.
_FIRST_LOOK = 4096


def trim(attachments: Sequence[Attachment], fits: Callable[[Sequence[Attachment]], bool]) -> list[Attachment] | None:
    """The same attachments with the end of the longest cut off so that `fits` answers True; None if nothing helps."""
    kept = list(attachments)
    while kept:
        index = max(range(len(kept)), key=lambda place: len(kept[place].text))
        whole = kept[index]
        low, high = 0, len(whole.text)  # `low` characters fit, `high` do not
        if not whole.text:
            return None
        while high - low > 1:
            # From the small end: to look at half of a log of 100 MB takes a minute, and what fits is a page of it.
            middle = min((low + high) // 2, max(2 * low, _FIRST_LOOK))
            kept[index] = replace(whole, text=whole.text[:middle])
            low, high = (middle, high) if fits(kept) else (low, middle)
        kept[index] = replace(whole, text=whole.text[:low])
        if fits(kept):
            return kept
    return None
