"""Quotations in whole sentences.

A model that may begin at any word begins in the middle: "HB-114.", "6 octets.". That stands in the document, and tells
its reader nothing. So a quotation is widened to the sentences of which it is part; of code, to whole lines. Where it
stands in several places, the one counts whose sentence has most of the question's words.

Knows: where sentences end, as the engine does that lets a model quote. Refuses to know: what is worth a quotation.
"""

from collections.abc import Iterator, Sequence

from slmchat.engine.quotations import MOST_BYTES, QuotablePassages
from slmchat.retrieval.chunks import DocumentChunk
from slmchat.retrieval.documents import DocumentKind
from slmchat.retrieval.index import Passage
from slmchat.retrieval.nearest import nearness


def widened(text: str, question: str, passages: Sequence[Passage]) -> str:
    """The sentences of which a text of these passages is part; the text itself where they are longer than a quotation
    may be, and where it stands in none."""
    found = [whole for passage in passages for whole in _wholes(text, passage.chunk)]
    best = max(found, key=lambda whole: nearness(question, whole), default=text)
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
