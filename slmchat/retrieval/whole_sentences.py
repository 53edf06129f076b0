"""Quotations in whole sentences, as they are shown.

A model that may begin at any word begins in the middle: "HB-114.", "6 octets.". That stands in the document, and tells
its reader nothing. So what is shown are the sentences of which a quotation is part; of code, whole lines. Where it
stands in several places, the one counts whose sentence has most words of the question and the answer.

The model itself answers from what it has quoted: from sentences it answered worse (docs/decisions.md).

Knows: where sentences end, as the engine does that lets a model quote. Refuses to know: what is worth a quotation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from slmchat.engine.quotations import MOST_BYTES, QuotablePassages
from slmchat.retrieval.chunks import DocumentChunk
from slmchat.retrieval.documents import DocumentKind
from slmchat.retrieval.index import Passage
from slmchat.retrieval.nearest import nearness
from slmchat.retrieval.quotations import Quotation, quotations_of


def in_whole_sentences(
    quotations: Sequence[Quotation], said: str, passages: Sequence[Passage]
) -> tuple[Quotation, ...]:
    """The same quotations, widened, with the numbers that they have. `said`: the question and its answer.

    No sentence stands there twice: a second piece of it stays as it is.
    """
    shown: list[Quotation] = []
    for quotation in quotations:
        found = quotations_of([widened(quotation.text, said, passages)], passages)
        is_new = bool(found) and all(found[0].text != other.text for other in shown)
        shown.append(replace(found[0], number=quotation.number) if is_new else quotation)
    return tuple(shown)


def widened(text: str, said: str, passages: Sequence[Passage]) -> str:
    """The sentences of which a text of these passages is part; the text itself where they are longer than a quotation
    may be, and where it stands in none."""
    found = [whole for passage in passages for whole in _wholes(text, passage.chunk)]
    best = max(found, key=lambda whole: nearness(said, whole), default=text)
    return best if _size(best) <= MOST_BYTES else text


def _wholes(text: str, chunk: DocumentChunk) -> Iterator[str]:
    """The sentences around each place where a text stands."""
    at = chunk.text.find(text)
    sentences = QuotablePassages.of((chunk.text,)) if at >= 0 and chunk.kind is not DocumentKind.CODE else None
    while at >= 0:
        end = at + len(text)
        if sentences is None:
            first, behind = chunk.text.rfind("\n", 0, at) + 1, chunk.text.find("\n", end)
            yield chunk.text[first : behind if behind >= 0 else len(chunk.text)].strip()
        else:
            yield sentences.around(_size(chunk.text[:at]), _size(chunk.text[:end]))
        at = chunk.text.find(text, end)


def _size(text: str) -> int:
    """In bytes, as the engine counts them."""
    return len(text.encode("utf-8", "replace"))
