"""Styled text on a terminal: styles as control sequences, and word wrap by display width.

Knows: display columns, grapheme clusters, where a line may break, SGR.
Refuses to know: Markdown, cursor movement. What is written is final: nothing here moves the cursor back.

Only the 16 ANSI colours that can be read on both black and white are used, and bold, dim, italic, underline, strike.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Protocol

# Styles: flags in the low byte, the SGR number of a foreground colour above it.
NONE, BOLD, DIM, ITALIC, UNDERLINE, STRIKE = 0, 1, 2, 4, 8, 16
RED, GREEN, BLUE, MAGENTA, CYAN = (number << 8 for number in (31, 32, 34, 35, 36))
_FLAGS = ((BOLD, "1"), (DIM, "2"), (ITALIC, "3"), (UNDERLINE, "4"), (STRIKE, "9"))

# Text and style.
Piece = tuple[str, int]

# A cluster with more code points than this is cut: a thousand accents on one letter must not be held for ever.
_CLUSTER_LIMIT = 32
_ADDRESS = re.compile("https?://|www\\.")
_ZWJ = "\u200d"
# Closing marks do not start a line and opening marks do not end one, where text breaks between characters.
_NO_START = frozenset(
    "、。，．！？：；）」』】》〉〕〗’”…ー々〜ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ・％,.!?:;)]}%"
)
_NO_END = frozenset("（「『【《〈〔〖‘“([{")


def restyled(style: int, added: int) -> int:
    """Both styles together; the colour of `added`, if it has one, wins."""
    flags = (style | added) & 0xFF
    return flags | ((added >> 8 or style >> 8) << 8)


@lru_cache(maxsize=256)
def sgr(style: int) -> str:
    """The control sequence that sets exactly this style, whatever was set before."""
    codes = ["0", *(code for flag, code in _FLAGS if style & flag)]
    if style >> 8:
        codes.append(str(style >> 8))
    return f"\x1b[{';'.join(codes)}m"


@lru_cache(maxsize=4096)
def cluster_width(cluster: str) -> int:
    """Columns of one grapheme cluster: the most that any terminal gives it.

    Old terminals draw the parts of a joined emoji side by side. Lines wrapped by the larger number fit on both.
    """
    if cluster.isascii():
        return len(cluster)
    from wcwidth import wcswidth, wcwidth  # late: 25 ms, and plain English never needs it

    apart = sum(max(0, wcwidth(char)) for char in cluster)
    return max(apart, wcswidth(cluster))


def extends(cluster: str, char: str) -> bool:
    """Whether `char` belongs to the grapheme cluster before it (a good part of UAX 29, one character at a time)."""
    if char < "\u0300" or len(cluster) >= _CLUSTER_LIMIT:
        return False
    if cluster[-1] == _ZWJ and char >= "\u2190":  # a joined emoji
        return True
    if "\U0001f3fb" <= char <= "\U0001f3ff":  # a skin tone
        return cluster[0] >= "\u2000"
    if "\U0001f1e6" <= char <= "\U0001f1ff":  # flags are pairs
        return len(cluster) == 1 and "\U0001f1e6" <= cluster <= "\U0001f1ff"
    return cluster_width(char) == 0


def last_cluster(text: str) -> str:
    """The grapheme cluster at the end of a text: a flag, a letter with its accents; "" for none."""
    cluster = ""
    for char in text[-2 * _CLUSTER_LIMIT :]:
        is_own = "\ud800" <= char <= "\udfff"  # a folded paste
        cluster = cluster + char if cluster and not is_own and extends(cluster, char) else char
    return cluster


def text_width(text: str) -> int:
    """Columns of a text on a terminal that joins what Unicode says to join."""
    if text.isascii():
        return len(text)
    from wcwidth import wcswidth

    return max(wcswidth(text), 0)


def cut_to_width(text: str, columns: int) -> str:
    """The text in at most `columns` columns, "…" at its end when it was longer."""
    if reach(text) <= columns:
        return text
    while text and reach(text) > columns - 1:
        text = text[:-1]
    return text + "…"


def reach(text: str) -> int:
    """Columns of a text as word wrap counts them."""
    if text.isascii():
        return len(text)
    total, cluster = 0, ""
    for char in text:
        if cluster and extends(cluster, char):
            cluster += char
        else:
            total += cluster_width(cluster)
            cluster = char
    return total + cluster_width(cluster)


class Sink(Protocol):
    """Where wrapped lines go."""

    def put(self, text: str, style: int) -> None: ...
    def newline(self) -> None: ...


class Pen:
    """Writes pieces with as few control sequences as they need. Every line starts with a prefix and ends unstyled."""

    def __init__(self, write: Callable[[str], None], *, has_color: bool) -> None:
        self._write = write
        self._has_color = has_color
        self._style = NONE
        self._first: Sequence[Piece] = ()
        self._rest: Sequence[Piece] = ()
        self.is_line_start = True

    def begin(self, first: Sequence[Piece], rest: Sequence[Piece]) -> None:
        """The prefix of the next line, and of the lines after it."""
        self._first, self._rest = first, rest

    def put(self, text: str, style: int) -> None:
        if self.is_line_start:
            self.is_line_start = False
            for piece in self._first:
                self._emit(*piece)
            self._first = self._rest
        self._emit(text, style)

    def newline(self) -> None:
        """End the line. A prefix nothing was written behind still shows, without trailing spaces."""
        if self.is_line_start:
            prefix = list(self._first)
            while prefix and not prefix[-1][0].strip():
                prefix.pop()
            for index, (text, style) in enumerate(prefix):
                self._emit(text.rstrip() if index == len(prefix) - 1 else text, style)
            self._first = self._rest
        self._set_style(NONE)
        self._write("\n")
        self.is_line_start = True

    def _emit(self, text: str, style: int) -> None:
        self._set_style(style)
        self._write(text)

    def _set_style(self, style: int) -> None:
        if self._has_color and style != self._style:
            self._write(sgr(style))
            self._style = style


class Wrapper:
    """Word wrap of one paragraph, a character at a time. A word goes out as soon as it is known to be whole.

    What is held is never more than one word, and no word is longer than a line. Spaces at a line's end are dropped.
    """

    def __init__(self, sink: Sink, *, keeps_addresses: bool = False) -> None:
        """`keeps_addresses`: one that is longer than a line is not broken; where nothing stands beside the lines."""
        self._sink = sink
        self._keeps_addresses = keeps_addresses
        self._width = 80
        self._column = 0  # columns written on this line
        self._spaces: list[Piece] = []  # seen, not yet written
        self._word: list[Piece] = []  # the clusters of the word that is being read
        self._word_width = 0
        self._cluster, self._style = "", NONE
        self._runs_on = False  # inside of an address that is longer than a line

    def begin(self, width: int) -> None:
        """A new paragraph in a column of `width`, at the start of a line."""
        self._width = max(width, 2)  # a wide character needs two
        self._column = 0

    def feed(self, text: str, style: int = NONE) -> None:
        for char in text:
            if char == " " or char == "\t":
                self._push()
                self._flush_word()
                self._end_address()
                if len(self._spaces) < self._width:
                    self._spaces.append((" ", style))
            elif self._cluster and extends(self._cluster, char):
                self._cluster += char
            else:
                self._push()
                self._cluster, self._style = char, style

    def end(self) -> None:
        """The paragraph's last word, without the line end."""
        self._push()
        self._flush_word()
        self._end_address()
        self._spaces.clear()

    def _push(self) -> None:
        """The cluster is whole: it joins the word."""
        cluster = self._cluster
        if not cluster:
            return
        self._cluster = ""
        if self._runs_on:
            self._put([(cluster, self._style)])
            self._column += cluster_width(cluster)
            return
        if self._word and _may_break(self._word[-1][0], cluster):
            self._flush_word()
        self._word.append((cluster, self._style))
        self._word_width += cluster_width(cluster)
        is_long = self._keeps_addresses and self._word_width > self._width
        if is_long and _ADDRESS.match("".join(text for text, _ in self._word[:8])):
            self._begin_address()
        while self._word_width > self._width and len(self._word) > 1:
            self._break_word()

    def _flush_word(self) -> None:
        if not self._word:
            return
        if self._column:
            if self._column + len(self._spaces) + self._word_width > self._width:
                self._sink.newline()
                self._column = 0
            else:
                self._put(self._spaces)
                self._column += len(self._spaces)
        self._spaces.clear()
        self._put(self._word)
        self._column += self._word_width
        self._word.clear()
        self._word_width = 0

    def _begin_address(self) -> None:
        """An address that is longer than a line goes out without line ends: the terminal wraps it, and it can be copied
        and clicked in one piece."""
        if self._column:
            self._sink.newline()
        self._spaces.clear()
        self._put(self._word)
        self._column, self._runs_on = self._word_width, True
        self._word.clear()
        self._word_width = 0

    def _end_address(self) -> None:
        if self._runs_on:
            self._column, self._runs_on = self._column % self._width, False

    def _break_word(self) -> None:
        """The word is longer than a line: as much of it as a line takes."""
        if self._column:
            self._sink.newline()
        self._spaces.clear()
        taken = used = 0
        for cluster, _ in self._word:
            columns = cluster_width(cluster)
            if taken and used + columns > self._width:
                break
            taken, used = taken + 1, used + columns
        self._put(self._word[:taken])
        del self._word[:taken]
        self._word_width -= used
        self._column = used
        if self._word:
            self._sink.newline()
            self._column = 0

    def _put(self, pieces: Iterable[Piece]) -> None:
        for piece in merged(pieces):
            self._sink.put(*piece)


def merged(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbours that look alike as one piece."""
    result: list[Piece] = []
    for text, style in pieces:
        if result and result[-1][1] == style:
            result[-1] = (result[-1][0] + text, style)
        else:
            result.append((text, style))
    return result


def fold(pieces: Iterable[Piece], width: int) -> list[list[Piece]]:
    """Pieces wrapped to `width`, as lines; at least one."""
    lines = _Lines()
    wrapper = Wrapper(lines)
    wrapper.begin(width)
    for text, style in pieces:
        for index, part in enumerate(text.split("\n")):
            if index:
                wrapper.end()
                lines.newline()
                wrapper.begin(width)
            wrapper.feed(part, style)
    wrapper.end()
    return lines.lines


class _Lines:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.lines: list[list[Piece]] = [[]]

    def put(self, text: str, style: int) -> None:
        self.lines[-1].append((text, style))

    def newline(self) -> None:
        self.lines.append([])


def _may_break(before: str, after: str) -> bool:
    """Between two characters without a space: next to a wide one (Chinese, Japanese, emoji), not inside Korean."""
    if after in _NO_START or before in _NO_END:
        return False
    return _is_ideographic(before) or _is_ideographic(after)


def _is_ideographic(cluster: str) -> bool:
    return cluster >= "\u1100" and not "\uac00" <= cluster[0] <= "\ud7a3" and cluster_width(cluster) > 1
