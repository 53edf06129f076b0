"""Quotations: what of an answer is copied from a document, and where it stands there.

The engine lets a model of this device write nothing else (engine/quotations.py). It is checked here all the same, on
the finished text: what is not in a passage letter by letter is not a quotation. A model elsewhere cannot be held to
anything. What it writes counts where it stands in a passage but for its white space, and then as it stands there.

Knows: the marks of quotations, the lines that one takes. Refuses to know: how a model is asked for them.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from slmchat.lazy_dataclasses import dataclass
from slmchat.retrieval.index import Passage
from slmchat.retrieval.nearest import is_heading

# Fewer letters are a word that stands in any document.
_LEAST_LETTERS = 2
# The marks that answers put around what they quote.
MARKS = {'"': '"', "“": "”", "„": "“", "«": "»", "»": "«"}
_NUMBERED = re.compile(r'"?\n?\[\d{1,2}\] "')
_MARKED = re.compile(r'"([^"\n]+)"|“([^”\n]+)”|„([^“\n]+)“|«([^»\n]+)»')


@dataclass(frozen=True, slots=True)
class Quotation:
    """A verbatim span of a document. `number`: by which an answer refers to it, from 1.

    `begin`: its place in the passage's text, in characters. `first_line` and `last_line` are counted as those of its
    chunk are.
    """

    number: int
    text: str
    passage: Passage
    begin: int
    first_line: int
    last_line: int

    @property
    def file(self) -> Path:
        """The document."""
        return self.passage.chunk.path

    @property
    def page(self) -> int | None:
        """The page on which its passage begins, from 1; None where the document has no pages."""
        return self.passage.chunk.page

    @property
    def where(self) -> str:
        """Page, lines or paragraphs, as a reader looks them up."""
        chunk = self.passage.chunk
        return chunk.where(self.first_line, self.last_line) if chunk.page is None else f"page {chunk.page}"


def quotations_in(text: str, passages: Sequence[Passage]) -> list[Quotation]:
    """The quotations of a model's text that stand in the passages, numbered anew.

    None of them is in another one, and none is a mere heading.
    """
    return quotations_of(_parts(text), passages)


def quotations_of(texts: Iterable[str], passages: Sequence[Passage]) -> list[Quotation]:
    """The same of several texts."""
    found: list[Quotation] = []
    for part in texts:
        place = _place(part, passages)
        if place is None:
            continue
        passage, begin, end = place
        quoted = passage.chunk.text[begin:end]
        if is_heading(quoted, passages):
            continue
        if not any(quoted in other.text for other in found):
            found = [other for other in found if other.text not in quoted]
            found.append(quotation_at(passage, begin, quoted))
    return numbered(found)


def numbered(quotations: Iterable[Quotation]) -> list[Quotation]:
    """Quotations with the numbers of this order."""
    return [replace(quotation, number=number) for number, quotation in enumerate(quotations, 1)]


def is_verbatim(text: str, passages: Sequence[Passage]) -> bool:
    """Whether a text stands in a passage, but for its white space."""
    return _place(text, passages) is not None


def _parts(text: str) -> Iterator[str]:
    """What the model takes for quotations: in the form that it was asked for, else between marks, else whole lines."""
    numbered = _NUMBERED.split(text)
    if len(numbered) > 1:
        yield from (part.removesuffix("\n").removesuffix('"') for part in numbered[1:])
        return
    marked = [next(filter(None, match.groups())) for match in _MARKED.finditer(text)]
    yield from marked or (re.sub(r"^\s*(?:[-*•>]|\d+[.)]|\[\d+\])\s*", "", line) for line in text.split("\n"))


def _place(text: str, passages: Sequence[Passage]) -> tuple[Passage, int, int] | None:
    """Where a text stands: letter by letter, else with other white space."""
    text = text.strip()
    if sum(map(str.isalnum, text)) < _LEAST_LETTERS:
        return None
    for passage in passages:
        if (begin := passage.chunk.text.find(text)) >= 0:
            return passage, begin, begin + len(text)
    loose = re.compile(r"\s+".join(map(re.escape, text.split())))
    for passage in passages:
        if match := loose.search(passage.chunk.text):
            return passage, match.start(), match.end()
    return None


def quotation_at(passage: Passage, begin: int, text: str) -> Quotation:
    """A quotation of this text, which stands at this place of the passage; without a number."""
    chunk = passage.chunk
    first = chunk.text.count("\n", 0, begin)
    last = first + text.count("\n")
    if chunk.lines is None:
        return Quotation(0, text, passage, begin, chunk.first_line + first, chunk.first_line + last)
    return Quotation(0, text, passage, begin, chunk.lines[first], chunk.lines[last])
