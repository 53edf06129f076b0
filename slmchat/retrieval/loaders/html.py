"""HTML: what a reader sees of a page. Scripts, styles and what is hidden are left out, and nothing is run or fetched.

Knows: elements that end a line, headings, tables, preformatted text. Refuses to know: CSS beyond `display: none`.
"""

import re
from html.parser import HTMLParser

from slmchat import text_files
from slmchat.retrieval.documents import Section
from slmchat.retrieval.loaders.encodings import codec_of
from slmchat.retrieval.loaders.sections import SectionBuilder, table_row

_UNSEEN = {"script", "style", "template", "noscript", "svg", "math", "iframe", "object", "canvas", "select", "head"}
# How characters beside them are read aloud, which search and quotations would have in the middle of a word.
_READINGS = {"rt", "rp", "rtc"}
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCK_NAMES = """address article aside blockquote body caption center dd details dialog div dl dt fieldset figcaption
figure footer form header hr html legend li main nav ol p pre section summary table tbody td tfoot th thead tr ul"""
_BLOCKS = frozenset(_BLOCK_NAMES.split())
# Elements without an end, as the standard lists them.
_VOID_NAMES = "area base br col embed hr img input link meta param source track wbr"
_VOID = frozenset(_VOID_NAMES.split())
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_CHARSET = re.compile(
    rb"""<(?:meta[^>]{0,200}charset|\?xml[^>]{0,200}encoding)\s*=\s*["']?([\w.:-]{1,40})""", re.IGNORECASE
)
# Scripts may stand before it: browsers look for it here, too.
_HEAD_BYTES = 1 << 16
_BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")


def decode(data: bytes) -> str:
    """The text of a page in the encoding that it names, else in UTF-8. Raises `NotText`."""
    if not text_files.mark_of(data)[0] and (named := _CHARSET.search(data[:_HEAD_BYTES])):
        encoding = codec_of(named[1].decode("ascii", "replace"))
        if encoding is not None and not encoding.startswith("utf-"):
            return data.decode(encoding, "replace")
    return text_files.decode(data)


def read(data: bytes) -> tuple[str | None, list[Section]]:
    """The title of a page, and its sections; lines are those of the file. Raises `Unreadable`, and `NotText`."""
    builder = SectionBuilder()
    return feed(decode(data), builder), list(builder.sections())


def feed(text: str, builder: SectionBuilder) -> str | None:
    """The title of a page, whose text goes to `builder`. Raises `Unreadable` for too much of it."""
    parser = _Page(builder)
    parser.feed(text)
    parser.close()
    parser.end_block()
    return parser.title or None


class _Page(HTMLParser):
    def __init__(self, builder: SectionBuilder) -> None:
        super().__init__(convert_charrefs=True)
        self.builder = builder
        self.title = ""
        self._is_title = False
        self._unseen: list[str] = []  # elements that are open and not seen, the outermost first
        self._words: list[str] = []  # of the block that grows
        self._line = 1  # on which it begins
        self._row_line = 1
        self._n_pre = 0
        self._level = 0  # of the heading that is open
        self._is_item = False
        self._cells: list[str] | None = None  # of the row that grows
        self._before = ""  # kind of the block before

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title" and not self.title:
            self._is_title = True
        innermost = self._unseen[-1] if self._unseen else ""
        ends_paragraph = innermost == "p" and (tag in _BLOCKS or tag in _HEADINGS)
        ends_reading = innermost in _READINGS and tag in (*_READINGS, "rb")
        if tag == "body" or ends_paragraph or ends_reading:  # a page need not end its head, nor its paragraphs
            self._unseen = []
        if self._unseen:
            if tag == self._unseen[-1]:
                self._unseen.append(tag)
            return
        if tag not in _VOID and (tag in _UNSEEN or tag in _READINGS or _is_hidden(dict(attrs))):
            self._unseen.append(tag)
            return
        if tag == "br":
            self._words.append("\n" if self._n_pre else " ")
        if tag not in _BLOCKS and tag not in _HEADINGS:
            return
        if tag in ("td", "th"):
            self._end_cell()
            return
        if self._cells is None or tag in ("tr", "table"):
            self.end_block()
        self._level = _HEADINGS.get(tag, 0)
        self._n_pre += tag == "pre"
        self._is_item = tag == "li" or (self._is_item and tag == "p")
        if tag == "tr":
            self._cells = []
        elif self._cells is not None:
            self._words.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._is_title = False
        if self._unseen:
            if tag == self._unseen[-1] or (tag == "ruby" and self._unseen[-1] in _READINGS):
                self._unseen.pop()
            return
        if tag in ("td", "th"):
            self._end_cell()
        elif tag in ("tr", "table"):
            self._end_row()
        elif tag in _BLOCKS or tag in _HEADINGS:
            if self._cells is None:
                self.end_block()
            else:
                self._words.append(" ")
            self._n_pre = max(0, self._n_pre - (tag == "pre"))
            if tag in _HEADINGS:
                self._level = 0
            if tag in ("ul", "ol", "li"):
                self._is_item = False

    def handle_data(self, data: str) -> None:
        if self._is_title:
            self.title += data
        if self._unseen:
            return
        if not any(self._words) or not "".join(self._words).strip():
            self._line = self.getpos()[0] + (data[: len(data) - len(data.lstrip())].count("\n"))
        self._words.append(data.replace("\xad", ""))  # where a word may be divided: nobody sees it, nor types it

    def _end_cell(self) -> None:
        text = " ".join("".join(self._words).split())
        self._words = []
        if self._cells is not None and text:
            if not self._cells:
                self._row_line = self._line
            self._cells.append(text)

    def _end_row(self) -> None:
        self._end_cell()
        if self._cells:
            self.builder.block(table_row(self._cells), self._row_line, is_joined=self._before == "row")
            self._before = "row"
        self._cells = None

    def end_block(self) -> None:
        """What has grown is over."""
        if self._cells is not None:
            self._end_row()
            return
        raw = "".join(self._words)
        self._words = []
        if not raw.strip():
            return
        if self._n_pre:
            self.builder.block(_BLANK_LINES.sub("", raw).rstrip(), self._line)
            self._before = "pre"
            return
        text = " ".join(raw.split())
        if self._level:
            self.builder.heading(self._level, text, self._line)
            self._before = "heading"
        elif self._is_item:
            self.builder.block(f"- {text}", self._line, is_joined=self._before == "item")
            self._before = "item"
        else:
            self.builder.block(text, self._line)
            self._before = "text"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)


def _is_hidden(attributes: dict[str, str | None]) -> bool:
    return (
        "hidden" in attributes
        or attributes.get("aria-hidden") == "true"
        or bool(_HIDDEN.search(attributes.get("style") or ""))
    )
