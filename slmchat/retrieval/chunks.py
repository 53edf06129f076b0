"""A document cut into chunks: passages that a model reads, each small enough and with the place it comes from.

Knows: where a text may be cut (headings, paragraphs, rows, sentences), the size of a chunk in tokens.
Refuses to know: kinds of files, what is searched for. How tokens are counted is passed in.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from slmchat.retrieval.documents import Document, DocumentKind

# Tokens of a text, by a model's vocabulary or by an estimate.
TokenCounter = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class DocumentChunk:
    """A passage: `text` is a verbatim piece of the document's extracted text, without white space around it.

    `path` is the file, resolved; `title` the document's. `page` counts from 1, None where the file has no pages;
    `first_line` and `last_line` are lines of the file, of a PDF lines of the page, of a DOCX paragraphs. `heading`: the
    titles above it, the outermost first; of a table that was cut, its head row is the innermost. They are not part of
    the text and no quotation.
    `n_tokens`: of `text`, by the counter of the index. Another model counts otherwise: who fills a window counts again.
    `place`: its number within the document, from 0. `key`: its number in the index, 0 outside of one; it stays the same
    for as long as the file does not change.
    """

    text: str
    path: Path
    title: str
    kind: DocumentKind
    page: int | None
    first_line: int
    last_line: int
    heading: tuple[str, ...]
    n_tokens: int
    place: int = 0
    key: int = 0


def cut(document: Document, count_tokens: TokenCounter, most_tokens: int) -> Iterator[DocumentChunk]:
    """The chunks of a document in their order, none of them larger than `most_tokens`."""
    raise NotImplementedError
