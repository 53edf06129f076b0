"""A document cut into chunks: passages that a model reads, each small enough and with the place it comes from.

A section that is small enough is one chunk. A larger one is cut at the best places that it has: between paragraphs,
then between the rows of a table or the sentences of a paragraph, at last between words. A chunk is a piece of the text
as it stands there: it can be quoted.

Knows: where a text may be cut, the size of a chunk in tokens. Refuses to know: kinds of files beyond their separators,
what is searched for. How tokens are counted is passed in.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from slmchat.lazy_dataclasses import dataclass
from slmchat.retrieval.documents import Document, DocumentKind, Section

# Tokens of a text, by a model's vocabulary or by an estimate.
TokenCounter = Callable[[str], int]

_PARAGRAPHS = re.compile(r"\n(?:[ \t\r\f]*\n)+")
_DEFINITIONS = re.compile(r"\n\s*\n(?=\S)")  # in code: what is not indented begins something new
_SENTENCES = re.compile(r"(?<=[.!?…])[\"'”’)\]]?\s+|(?<=[。！？])")
_LINES = re.compile(r"\n")
_CELLS = re.compile(r"(?<=[,;\t|])")
_WORDS = re.compile(r"\s+")
_PROSE = (_PARAGRAPHS, _SENTENCES, _LINES, _WORDS)
_ROWS = (_LINES, _CELLS, _WORDS)
_CODE = (_DEFINITIONS, _PARAGRAPHS, _LINES, _WORDS)
# A line of a table or of a list: half of the lines of a block make it one.
_ROW = re.compile(r"[ \t]*(?:\||[-*+•] |\d+[.)] )")
_LOOKED_AT = 20  # lines of it
_TABLE_ROW = "|"  # how a row begins
# A last chunk that is smaller than this part of the largest shares with the one before it.
_SMALL = 3
# Characters of one token at the most: blanks of deep indents, rows of signs.
_LONGEST_TOKEN = 64
# Characters that are one token at the least, in text without any place to cut it.
_HARD = 2


@dataclass(frozen=True, slots=True)
class DocumentChunk:
    """A passage: `text` is a verbatim piece of the document's extracted text, without blank lines around it.

    `path` is the file, resolved; `title` the document's. `page` counts from 1, None where the file has no pages;
    `first_line` and `last_line` are counted as those of its section are. `heading`: the titles above it, the outermost
    first; of a table that was cut, its head row is the innermost. The text of a section begins with its own heading,
    which is thus in both; the others are not part of the text and no quotation.
    `n_tokens`: of `text`, by the counter of the index. Another model counts otherwise: who fills a window counts again.
    `place`: its number within the document, from 0. `key`: its number in the index, 0 outside of one; it stays the same
    for as long as the file does not change. `lines`: the line of the file for each line of `text`, where they do not
    simply follow one another.
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
    lines: tuple[int, ...] | None = None

    def where(self, first_line: int, last_line: int) -> str:
        """Lines of it in words; of a book below the titles from which its paragraphs are counted."""
        lines = self.kind.lines(first_line, last_line)
        if self.kind is not DocumentKind.EPUB:
            return lines
        return ", ".join((*(title for title in self.heading if not title.startswith(_TABLE_ROW)), lines))


@dataclass(slots=True)
class _Piece:
    """A span of a section, and the head row of the table that it was cut from."""

    begin: int
    end: int
    n_tokens: int
    head: str = ""


def cut(document: Document, count_tokens: TokenCounter, most_tokens: int) -> Iterator[DocumentChunk]:
    """The chunks of a document in their order, none of them larger than `most_tokens`."""
    place = 0
    for section, following in pairwise((*document.sections, None)):
        if section is None or _is_mere_heading(section, following):
            continue
        lines = _LineNumbers(section)
        for piece in _Cutter(section.text, document.kind, count_tokens, most_tokens).pieces():
            text = section.text[piece.begin : piece.end]
            first, last = lines.place_of(piece.begin), lines.place_of(piece.end)
            yield DocumentChunk(
                text,
                document.path,
                document.title,
                document.kind,
                section.page,
                lines.number(first),
                lines.number(last),
                (*section.heading, piece.head) if piece.head else section.heading,
                piece.n_tokens,
                place,
                lines=None if section.lines is None else section.lines[first : last + 1],
            )
            place += 1


def _is_mere_heading(section: Section, following: Section | None) -> bool:
    """Whether nothing but a heading stands here, which the next section has above it."""
    text = section.text.strip()
    is_one_line = "\n" not in text and bool(section.heading) and section.heading[-1] in text
    return is_one_line and following is not None and following.heading[: len(section.heading)] == section.heading


class _LineNumbers:
    """Lines of places in a section, asked from its beginning to its end."""

    def __init__(self, section: Section) -> None:
        self._section = section
        self._place = 0
        self._line = 0

    def place_of(self, place: int) -> int:
        """Which line of the section this is, from 0."""
        self._line += self._section.text.count("\n", self._place, place)
        self._place = place
        return self._line

    def number(self, line: int) -> int:
        """Its number in the file."""
        lines = self._section.lines
        return self._section.first_line + line if lines is None else lines[line]


class _Cutter:
    """Cuts one text."""

    def __init__(self, text: str, kind: DocumentKind, count_tokens: TokenCounter, most_tokens: int) -> None:
        self._text = text
        self._count = count_tokens
        self._most = most_tokens
        self._separators = {DocumentKind.CSV: _ROWS, DocumentKind.CODE: _CODE}.get(kind, _PROSE)

    def pieces(self) -> Iterator[_Piece]:
        """The pieces that become chunks; a small one at the end takes a part of the one before it."""
        groups: list[list[_Piece]] = [[]]
        for piece in self._parts(0, len(self._text), self._separators, ""):
            if groups[-1] and _size([*groups[-1], piece]) > self._most:
                groups.append([])
            groups[-1].append(piece)
            if len(groups) > 2:
                yield from self._joined(groups.pop(0))
        if len(groups) == 2 and _size(groups[1]) * _SMALL < self._most:
            groups = _halves([*groups[0], *groups[1]])
        for group in groups:
            yield from self._joined(group)

    def _joined(self, group: list[_Piece]) -> Iterator[_Piece]:
        """One piece; two where their sum was not the size of the whole."""
        if not group:
            return
        begin, end = group[0].begin, group[-1].end
        n_tokens = group[0].n_tokens if len(group) == 1 else self._count(self._text[begin:end])
        if n_tokens > self._most and len(group) > 1:
            for half in _halves(group):
                yield from self._joined(half)
            return
        yield _Piece(begin, end, n_tokens, group[0].head)

    def _parts(self, begin: int, end: int, separators: Sequence[re.Pattern[str]], head: str) -> Iterator[_Piece]:
        """Pieces that are small enough each, cut by the first separator that makes them so."""
        for first, last in self._between(begin, end, separators[0]):
            is_small = last - first <= self._most * _LONGEST_TOKEN  # who counts a file as one text counts for minutes
            n_tokens = self._count(self._text[first:last]) if is_small else self._most + 1
            if n_tokens <= self._most:
                yield _Piece(first, last, n_tokens, head)
            elif len(separators) > 1:
                yield from self._smaller(first, last, separators[1:], head)
            else:
                yield from self._hard(first, last, head)

    def _smaller(self, begin: int, end: int, separators: Sequence[re.Pattern[str]], head: str) -> Iterator[_Piece]:
        """A block that is too large: a table by its rows, with its head row above all but the first of them."""
        block = self._text[begin:end]
        lines = block.split("\n", _LOOKED_AT)[:_LOOKED_AT]
        if separators[0] is not _SENTENCES or 2 * sum(map(bool, map(_ROW.match, lines))) < len(lines):
            yield from self._parts(begin, end, separators, head)
            return
        head = lines[0].strip() if lines[0].lstrip().startswith(_TABLE_ROW) else head
        for piece in self._parts(begin, end, _ROWS, head):
            yield replace(piece, head="") if piece.begin == begin else piece

    def _between(self, begin: int, end: int, separator: re.Pattern[str]) -> Iterator[tuple[int, int]]:
        """The spans between separators, without white space at both ends."""
        place = begin
        for found in separator.finditer(self._text, begin, end):
            yield from self._trimmed(place, found.end())
            place = found.end()
        yield from self._trimmed(place, end)

    def _trimmed(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """The span without blank lines at both ends; a first line that is whole keeps its indent."""
        text = self._text[begin:end]
        if not text or text.isspace():
            return
        first = begin + len(text) - len(text.lstrip())
        line = self._text.rfind("\n", begin, first) + 1
        if line:
            first = line
        elif begin == 0 or self._text[begin - 1] == "\n":
            first = begin
        yield first, begin + len(text.rstrip())

    def _hard(self, begin: int, end: int, head: str) -> Iterator[_Piece]:
        """Text without a place to cut it: a long number, base64."""
        size = max(1, self._most // _HARD)
        for first in range(begin, end, size):
            last = min(end, first + size)
            yield _Piece(first, last, self._count(self._text[first:last]), head)


def _size(pieces: Sequence[_Piece]) -> int:
    """Tokens of pieces and of what stands between them, not less than those of the whole as a rule."""
    return sum(each.n_tokens for each in pieces) + len(pieces) - 1


def _halves(pieces: list[_Piece]) -> list[list[_Piece]]:
    """Two groups of about the same size, of at least two pieces."""
    whole = _size(pieces)
    number = 1
    while number < len(pieces) - 1 and 2 * _size(pieces[: number + 1]) <= whole:
        number += 1
    return [pieces[:number], pieces[number:]]
