"""Quotations in whole sentences, as they are shown.

A model that may begin at any word begins in the middle: "HB-114.", "6 octets.". That stands in the document, and tells
its reader nothing. So what is shown are the sentences of which a quotation is part; of code, whole lines. Where it
stands in several places ("40"), the one counts whose sentence has most words of the question and the answer, then the
one whose passage has: it is the place that is named.

The model itself answers from what it has quoted: from sentences it answered worse (docs/decisions.md).

Knows: where sentences end, as the engine does that lets a model quote. Refuses to know: what is worth a quotation.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from slmchat.engine.quotations import MOST_BYTES, QuotablePassages
from slmchat.lazy_dataclasses import dataclass
from slmchat.retrieval.documents import DocumentKind
from slmchat.retrieval.index import Passage
from slmchat.retrieval.nearest import is_heading, nearness
from slmchat.retrieval.quotations import Quotation, quotation_at


def in_whole_sentences(
    quotations: Sequence[Quotation], said: str, passages: Sequence[Passage]
) -> tuple[Quotation, ...]:
    """The same quotations, widened, with the numbers that they have. `said`: the question and its answer.

    No sentence stands there twice: a second piece of it stays as it is. So does one whose sentences are longer than a
    quotation may be.
    """
    shown: list[Quotation] = []
    for quotation in quotations:
        place = _best_place(quotation, said, passages)
        whole = place.whole
        is_shown = _size(whole) <= MOST_BYTES and all(whole != other.text for other in shown)
        if is_shown and not is_heading(whole, passages):
            found = quotation_at(place.passage, place.whole_begin, whole)
        else:
            found = quotation_at(place.passage, place.begin, quotation.text)
        shown.append(replace(found, number=quotation.number))
    return tuple(shown)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a text stands, and `whole`: the sentences around it there."""

    passage: Passage
    begin: int
    whole: str
    whole_begin: int


def _best_place(quotation: Quotation, said: str, passages: Sequence[Passage]) -> _Place:
    def nearness_of(place: _Place) -> tuple[float, float]:
        chunk = place.passage.chunk
        return nearness(said, place.whole), nearness(said, "\n".join((chunk.title, *chunk.heading, chunk.text)))

    text, own = quotation.text, quotation.passage
    here = _Place(own, quotation.begin, text, quotation.begin)
    return max((place for passage in passages for place in _places(text, passage)), key=nearness_of, default=here)


def _places(text: str, passage: Passage) -> Iterator[_Place]:
    """The places where a text stands: as words, where it does so ("40" is not in "2040")."""
    chunk = passage.chunk
    begins = [match.start() for match in re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", chunk.text)]
    begins = begins or [match.start() for match in re.finditer(re.escape(text), chunk.text)]
    sentences = QuotablePassages.of((chunk.text,)) if begins and chunk.kind is not DocumentKind.CODE else None
    for begin in begins:
        end = begin + len(text)
        if sentences is None:
            first, behind = chunk.text.rfind("\n", 0, begin) + 1, chunk.text.find("\n", end)
            whole = chunk.text[first : behind if behind >= 0 else len(chunk.text)].strip()
        else:
            whole = sentences.around(_size(chunk.text[:begin]), _size(chunk.text[:end]))
        at = chunk.text.find(whole, max(0, end - len(whole)))
        yield _Place(passage, begin, whole, at) if at >= 0 else _Place(passage, begin, text, begin)


def _size(text: str) -> int:
    """In bytes, as the engine counts them."""
    return len(text.encode("utf-8", "replace"))
