"""The language of quotations: what may be written when everything that is written is copied out of given passages.

    [1] "a span of a passage"
    [2] "another one"

A span begins at a word. It ends where a sentence, an item or a paragraph
ends, behind `SOFT_BYTES` also at the end of a word, and it never goes over a blank line.

The spans are followed in bytes, as all the places of the passages at which the text may stand by now. So the model may
cut them into any tokens, half characters among them, and what comes out is in a passage letter by letter, line ends,
double blanks and hyphens of a PDF included.

Knows: places where a quotation may begin, go on and end; which pieces of a vocabulary keep to that.
Refuses to know: logits, llama.cpp, where passages come from, what a quotation is good for.
"""

import functools
import json
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from itertools import accumulate, pairwise

from slmchat.engine.requests import Constraint, ConstraintKind
from slmchat.lazy_dataclasses import dataclass

OPENING, CLOSING = '[{}] "', '"'
"""The marks around a quotation; the first one has its number."""

SOFT_BYTES = 240
"""Behind so many bytes a quotation may end at any word: a sentence that is longer makes a poor one."""

MOST_BYTES = 400
"""Behind so many bytes it has to end, in the middle of a word where that is one of many letters."""

# A quotation that is over; a model that has nothing more to quote often ends the line first.
_CLOSED = f"{CLOSING}\n".encode()

# Longest piece that is looked for. Longer ones (runs of blanks, mostly) can be written as several.
_PIECE_BYTES = 24

# Places at which a text may stand and that are followed further: a page of one letter has them by the thousand.
_MOST_PLACES = 512

_WORD = re.compile(r"\S+")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")
_BEFORE_WORD = "\"'([{“‘«*_#>`~|"  # not a minus, a point, a currency: "-5" must not become "5"
_BEHIND_WORD = "\"')]}”’»*_`~|.,;:!?…。！？，、"
_SENTENCE_END = re.compile(r"[.!?…。！？][\"')\]}”’»*_`]*$")
_ABBREVIATION = re.compile(
    r"[\W_]*(?:[^\W\d]|e\.g|i\.e|z\.b|d\.h|cf|dr|mr|mrs|ms|st|no|nr|fig|vgl|bzw|approx|ca|vs)\.$", re.I
)
# What begins with a number behind it: "Abs. 2", "Fig. 3". In German a day has a point, too: "am 31. März".
_NUMBERED = re.compile(r"[\W_]*(?:abs|art|ziff|kap|pos|tab|tel|sec|vol|ch|eq|pp)\.$", re.I)
_DAY = re.compile(r"[\W_]*\d{1,2}\.$")
_MONTH = re.compile(
    r"(?:jan|feb|apr|aug|sept|okt|nov|dez)\.|"
    r"(?:januar|jänner|februar|feber|märz|april|mai|juni|juli|august|september|oktober|november|dezember)\b",
    re.I,
)
_ITEM = re.compile(r"(?:[-*+•#>|]|\d{1,3}[.)]\s|\(\w{1,3}\)\s)")
# Letters of scripts that put no blanks between words (Thai to Lao, Burmese, Khmer, kana and Chinese).
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)

_WORD_END, _SENTENCE = 1, 2  # bits

# Where a text may stand. `quoted`: the spans that are closed, or about to be, as (begin, end) in the bytes.
# ("mark", quoted, k): k bytes of what stands between the last span and the next are written.
# ("start", quoted, 0): the next byte is the first of a span; ("span", quoted + ((begin, place),), 0): inside of one.
Spans = tuple[tuple[int, int], ...]
_Item = tuple[str, Spans, int]
State = frozenset[_Item]
END = -1
"""Among the tokens that may follow: the end of the text."""


@dataclass(frozen=True, slots=True)
class QuotationRules:
    """What may be quoted: at most so many spans of these passages, and at least one where there is a word in them."""

    passages: tuple[str, ...]
    most: int = 3

    def constraint(self) -> Constraint:
        """The rules as an engine takes them, in this process or in another."""
        text = json.dumps({"passages": self.passages, "most": self.most}, ensure_ascii=False)
        return Constraint(ConstraintKind.QUOTATIONS, text)

    @classmethod
    def of(cls, constraint: Constraint) -> "QuotationRules":
        """The rules that `constraint()` has made this of."""
        said = json.loads(constraint.text)
        return cls(tuple(said["passages"]), said["most"])


@dataclass(slots=True)
class QuotablePassages:
    """The passages as bytes. `starts`: where a span may begin. `ends`: at each place, whether it may end there."""

    data: bytes = b""
    starts: list[int] = field(default_factory=list)
    ends: bytearray = field(default_factory=bytearray)
    _paragraph_ends: list[int] = field(default_factory=list)
    _stops: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, passages: tuple[str, ...]) -> "QuotablePassages":
        """The places of these passages. A byte that no text has stands between two of them."""
        pieces = [passage.encode("utf-8", "replace") for passage in passages]
        made = cls(b"\xff".join(pieces))
        made.ends = bytearray(len(made.data) + 1)
        begin = 0
        for passage, piece in zip(passages, pieces, strict=True):
            made._read(passage, begin, None if len(piece) == len(passage) else _offsets(passage))
            begin += len(piece) + 1
        made.starts.sort()
        return made

    def paragraph_end(self, place: int) -> int:
        """Where the paragraph around this place ends."""
        return self._paragraph_ends[bisect_left(self._paragraph_ends, place)]

    def stop(self, begin: int) -> int:
        """Where a quotation that begins here ends at the latest: with the paragraph, at a word, else at a letter."""
        if begin not in self._stops:
            self._stops[begin] = self._stop(begin)
        return self._stops[begin]

    def _stop(self, begin: int) -> int:
        most = begin + MOST_BYTES
        if (end := self.paragraph_end(begin)) <= most:
            return end
        for place in range(most, begin + SOFT_BYTES, -1):
            if self.ends[place]:
                return place
        while self.data[most] & 0xC0 == 0x80:  # inside of a character
            most -= 1
        return most

    def may_end(self, begin: int, end: int) -> bool:
        """Whether these bytes, which do not go beyond `stop`, are a whole quotation."""
        kind = self.ends[end]
        return bool(kind & _SENTENCE or (kind and end - begin >= SOFT_BYTES)) or end == self.stop(begin)

    def sentences(self) -> Iterator[str]:
        """What stands between two places where a sentence ends, of all passages."""
        begin = 0
        for end in self._sentence_ends:
            if text := self._text(begin, end):
                yield text
            begin = end

    def around(self, begin: int, end: int) -> str:
        """The sentences of which these bytes are part."""
        ends = self._sentence_ends
        first, last = bisect_right(ends, begin), bisect_left(ends, end)
        return self._text(ends[first - 1] if first else 0, ends[last] if last < len(ends) else len(self.data))

    def _text(self, begin: int, end: int) -> str:
        return self.data[begin:end].decode("utf-8", "replace").strip("\ufffd \t\n")

    @property
    def _sentence_ends(self) -> list[int]:
        return [end for end in range(1, len(self.ends)) if self.ends[end] & _SENTENCE]

    def _read(self, passage: str, begin: int, offsets: list[int] | None) -> None:
        def place(index: int) -> int:
            return begin + (index if offsets is None else offsets[index])

        for start, end in _paragraphs(passage):
            self._paragraph_ends.append(place(end))
            words = list(_WORD.finditer(passage, start, end))
            for word, following in zip(words, [*(word[0] for word in words[1:]), ""], strict=True):
                self._read_word(word[0], word.start(), following, place)
            for line_end in _ends_of_lines(passage[start:end]):
                self.ends[place(start + line_end)] |= _SENTENCE
            self.ends[place(end)] |= _SENTENCE

    def _read_word(self, word: str, at: int, following: str, place: Callable[[int], int]) -> None:
        inner = len(word) - len(word.lstrip(_BEFORE_WORD))
        self.starts += {place(at), place(at + inner)} if inner < len(word) else {place(at)}
        bare = len(word.rstrip(_BEHIND_WORD))
        for end in (bare or len(word), len(word)):
            self.ends[place(at + end)] |= _WORD_END
        if _SENTENCE_END.search(word) and not _goes_on(word, following):
            self.ends[place(at + len(word))] |= _SENTENCE
        for letter in _UNSPACED.finditer(word):
            if unicodedata.category(letter[0])[0] == "M":
                continue
            if letter.start():
                self.starts.append(place(at + letter.start()))
            self.ends[place(at + letter.end())] |= _WORD_END
            if word[letter.end() : letter.end() + 1] in ("。", "！", "？"):
                self.ends[place(at + letter.end() + 1)] |= _SENTENCE


class Quoting:
    """A text of quotations as it grows, token by token."""

    def __init__(self, rules: QuotationRules, pieces: Mapping[bytes, int]) -> None:
        """`pieces`: the tokens of a vocabulary by the bytes that they write; those that write none are not in it."""
        self._rules = rules
        self._pieces = pieces
        self._source = QuotablePassages.of(rules.passages)
        self._state: State = frozenset([("mark", (), 0)])
        self._options: dict[int, list[_Item]] | None = None if self._source.starts else {END: []}

    @property
    def options(self) -> Mapping[int, object]:
        """The tokens with which the text may go on; `END` among them: it may end here. Empty: nothing is left."""
        return self._possible

    @property
    def _possible(self) -> dict[int, list[_Item]]:
        if self._options is None:
            self._options = self._following()
        return self._options

    def accept(self, token: int) -> None:
        """Go on with one of the `options`. Raises KeyError for another token."""
        self._state, self._options = frozenset(self._possible[token][:_MOST_PLACES]), None

    def _following(self) -> dict[int, list[_Item]]:
        if len(self._state) == 1:
            ((kind, quoted, _),) = self._state
            if kind == "start":
                return self._beginnings(quoted)
        found: dict[int, list[_Item]] = {}
        for item in self._state:
            for token, following in self._from(item):
                found.setdefault(token, []).append(following)
        return found

    def _from(self, item: _Item) -> Iterator[tuple[int, _Item]]:
        kind, quoted, written = item
        if kind == "mark":
            yield from self._from_mark(quoted, written)
        elif kind == "start":
            for token, several in self._beginnings(quoted).items():
                yield from ((token, each) for each in several)
        else:
            yield from self._from_span(quoted)

    def _from_mark(self, quoted: Spans, written: int) -> Iterator[tuple[int, _Item]]:
        if quoted and written <= len(_CLOSED):
            yield END, ("mark", quoted, written)
            if all(_is_in(begin, quoted) for begin in self._source.starts):
                return
        mark = self._mark(quoted)
        for token, size in self._spelled(mark[written:]):
            is_written = written + size == len(mark) and (not quoted or len(quoted) < self._rules.most)
            yield token, ("start", quoted, 0) if is_written else ("mark", quoted, written + size)

    def _mark(self, quoted: Spans) -> bytes:
        """What stands between the last of these spans and the next one."""
        if len(quoted) >= self._rules.most:
            return _CLOSED
        return (_CLOSED if quoted else b"") + OPENING.format(len(quoted) + 1).encode()

    def _from_span(self, spans: Spans) -> Iterator[tuple[int, _Item]]:
        """Goes on in the passage, or closes the quotation, both within one token too."""
        source, quoted = self._source, spans[:-1]
        begin, place = spans[-1]
        stop = source.stop(begin)
        data, pieces = source.data, self._pieces
        for end in range(place + 1, min(stop, place + _PIECE_BYTES) + 1):
            token = pieces.get(data[place:end])
            if token is not None:
                yield token, ("span", (*quoted, (begin, end)), 0)
        for end in range(place, min(stop, place + _PIECE_BYTES) + 1):
            if not source.may_end(begin, end):
                continue
            closed = (*quoted, (begin, end))
            mark, head = self._mark(closed), data[place:end]
            for size in range(1, min(len(mark), len(_CLOSED)) + 1):
                token = pieces.get(head + mark[:size])
                if token is not None:
                    yield token, ("mark", closed, size)

    def _beginnings(self, quoted: Spans) -> dict[int, list[_Item]]:
        """The tokens that begin another span, outside of those that are quoted."""
        found = {
            token: [("span", (*quoted, span), 0) for span in spans if not _is_in(span[0], quoted)]
            for token, spans in self._first_tokens.items()
        }
        return {token: items for token, items in found.items() if items}

    @functools.cached_property
    def _first_tokens(self) -> dict[int, list[tuple[int, int]]]:
        """The tokens with which a span may begin, and how much of it they are: 15 ms for 4,000 tokens."""
        found: dict[int, list[tuple[int, int]]] = {}
        data, pieces = self._source.data, self._pieces
        for begin in self._source.starts:
            stop = self._source.stop(begin)
            for end in range(begin + 1, min(stop, begin + _PIECE_BYTES) + 1):
                token = pieces.get(data[begin:end])
                if token is not None:
                    found.setdefault(token, []).append((begin, end))
        return found

    def _spelled(self, text: bytes) -> Iterator[tuple[int, int]]:
        """The tokens that write the beginning of this text, and how many bytes of it."""
        for size in range(1, len(text) + 1):
            token = self._pieces.get(text[:size])
            if token is not None:
                yield token, size


def _goes_on(word: str, following: str) -> bool:
    """Whether the point behind a word is that of an abbreviation or of a number, and the sentence is not over."""
    if _ABBREVIATION.match(word):
        return True
    if not word.endswith("."):
        return False
    return (
        following[:1].islower()
        or (following[:1].isdigit() and bool(_NUMBERED.match(word)))
        or bool(_DAY.match(word) and _MONTH.match(following))
    )


def _is_in(place: int, spans: Spans) -> bool:
    return any(begin <= place < end for begin, end in spans)


def _offsets(text: str) -> list[int]:
    """The byte at which each character begins, and the end."""
    return list(accumulate((len(char.encode("utf-8", "replace")) for char in text), initial=0))


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """Begin and end of what stands between blank lines, without the white space around it."""
    begin = 0
    for gap in [*_BLANK_LINE.finditer(text), None]:
        end = len(text) if gap is None else gap.start()
        inner = text[begin:end]
        if inner.strip():
            yield begin + len(inner) - len(inner.lstrip()), begin + len(inner.rstrip())
        if gap is not None:
            begin = gap.end()


def _ends_of_lines(paragraph: str) -> Iterator[int]:
    """Where lines end that are not a piece of a longer sentence: rows of tables, items, headings."""
    at = 0
    lines = paragraph.split("\n")
    for line, following in pairwise(lines):
        shown = line.rstrip()
        if shown and _is_whole(shown.lstrip(), following.lstrip()):
            yield at + len(shown)
        at += len(line) + 1


def _is_whole(line: str, following: str) -> bool:
    if _ITEM.match(following) or line[0] in "#|" or line[-1] in ":;|{}":
        return True
    return any(0 < line.count(mark) == following.count(mark) for mark in ("\t", "|", ";")) or (
        0 < line.count(",") == following.count(",") and ", " not in line + following
    )
