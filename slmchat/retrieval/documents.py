"""A document as it was read: its text in sections, each with the page and the lines it stands on.

The text is what people see in the document, as the loader has extracted it, and nothing rewrites it afterwards: a
quotation is checked against it, character by character.

Knows: what every kind of file has in common once it is text. Refuses to know: how a kind is read (loaders/), how long a
passage may be (chunks.py).
"""

from enum import StrEnum
from pathlib import Path

from slmchat.lazy_dataclasses import dataclass


class DocumentKind(StrEnum):
    """What a file is, by its name and its first bytes."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"
    PDF = "pdf"
    DOCX = "docx"
    ODT = "odt"
    RTF = "rtf"
    EPUB = "epub"
    EMAIL = "email"
    NOTEBOOK = "notebook"
    CSV = "csv"
    CODE = "code"

    def lines(self, first: int, last: int) -> str:
        """These lines in words, as a reader of such a file counts them: "lines 3-4", "paragraph 7", "cell 2"."""
        unit = _UNITS.get(self, "line")
        if self is DocumentKind.EMAIL and first == ABOVE_TEXT:
            return "header" if last == ABOVE_TEXT else f"header, {self.lines(1, last)}"
        return f"{unit} {last}" if first == last else f"{unit}s {first}-{last}"


ABOVE_TEXT = 0
"""The number of what stands above the first paragraph of a letter: who wrote it, when, about what."""

_UNITS = {
    **dict.fromkeys(
        (DocumentKind.DOCX, DocumentKind.ODT, DocumentKind.RTF, DocumentKind.EPUB, DocumentKind.EMAIL),
        "paragraph",
    ),
    DocumentKind.NOTEBOOK: "cell",
}
"""What is counted where lines of the file are nothing that a reader sees."""


@dataclass(frozen=True, slots=True)
class Section:
    """Text between two headings, or of one page; "\\n" ends its lines.

    `page` counts from 1 and is None where a file has no pages. `first_line` is the line of the file on which the text
    begins, from 1: of a PDF a line of the page, of a DOCX, ODT or RTF a paragraph, of an EPUB a paragraph below its
    heading, of an e-mail a paragraph of its text (`ABOVE_TEXT`: its header), of a notebook a cell. `lines`: the number
    of each line of the text where they do not simply follow one another. `heading`: the titles above the text, the
    outermost first; of a table its head row is the innermost.
    """

    text: str
    first_line: int = 1
    page: int | None = None
    heading: tuple[str, ...] = ()
    lines: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A file that was read. `title` is its own title, else its name. `n_pages` is None where a file has no pages."""

    path: Path
    title: str
    kind: DocumentKind
    sections: tuple[Section, ...]
    n_pages: int | None = None
