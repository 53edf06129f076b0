"""The pages of the documentation, taken apart: blocks of code, code in a sentence, links, headings.

Knows: CommonMark (markdown-it-py), and how the pages use it: a transcript is a block `console`, in which a line that
begins with `$ ` is a command and the others are what it prints.
Refuses to know: what any of it means.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parent.parent
GENERATED = "commands.md"  # the help of the program; tests/test_examples.py reads its examples


@dataclass(frozen=True)
class Block:
    """A block of code: its language ("" when none is named) and the number of the line where it begins."""

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Page:
    path: Path

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @functools.cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @functools.cached_property
    def _tokens(self) -> list[Token]:
        return MarkdownIt("commonmark").enable("table").parse(self.text)

    @property
    def blocks(self) -> Iterator[Block]:
        for token in self._tokens:
            if token.type in ("fence", "code_block") and token.map:
                yield Block(token.info.strip(), token.content, token.map[0] + 1)

    @property
    def spans(self) -> Iterator[str]:
        """Code inside of sentences and tables."""
        return (child.content for child in self._children() if child.type == "code_inline")

    @property
    def links(self) -> Iterator[str]:
        for child in self._children():
            target = child.attrGet("href") if child.type == "link_open" else child.attrGet("src")
            if child.type in ("link_open", "image"):
                yield str(target)

    @property
    def prose(self) -> Iterator[tuple[int, str]]:
        """Paragraphs, headings and cells without code: the line where each begins, and its text."""
        for token in self._tokens:
            if token.type == "inline" and token.map:
                words = (" " if child.type == "softbreak" else child.content for child in token.children or ())
                codes = [child.type == "code_inline" for child in token.children or ()]
                yield token.map[0] + 1, "".join("`" if code else word for word, code in zip(words, codes, strict=True))

    @property
    def anchors(self) -> set[str]:
        """The names by which GitHub links to the headings of this page."""
        headings = [
            self._tokens[place + 1].content for place, token in enumerate(self._tokens) if token.type == "heading_open"
        ]
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def _children(self) -> Iterator[Token]:
        return (child for token in self._tokens for child in token.children or ())


PAGES = [Page(ROOT / "README.md"), *(Page(path) for path in sorted((ROOT / "docs").glob("*.md")))]
WRITTEN = [page for page in PAGES if page.path.name != GENERATED]
