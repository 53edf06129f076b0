"""RTF: text between groups and control words, of which the text, the headings and the tables are taken.

A character is a byte in the encoding of its font, a hexadecimal byte, or a number of Unicode with a substitute behind
it that older programs read. Groups whose text is not on the page are left out, and so are all that say of themselves
that one need not know them.

Knows: RTF 1.9 as word processors write it. Refuses to know: layout, pictures, objects, boxes.
"""

import re
from dataclasses import replace

from slmchat.lazy_dataclasses import dataclass
from slmchat.retrieval.documents import Section
from slmchat.retrieval.loaders.bounds import DAMAGED, Unreadable
from slmchat.retrieval.loaders.encodings import codec_of
from slmchat.retrieval.loaders.paragraphs import ParagraphFlow

_TOKEN = re.compile(
    rb"\\(?:(?P<word>[a-zA-Z]{1,32})(?P<number>-?\d{1,9})? ?|'(?P<hex>[0-9a-fA-F]{2})|(?P<sign>.))"
    rb"|(?P<group>[{}])|(?P<text>[^\\{}\r\n]+)|[\r\n]+|\\",
    re.DOTALL,
)
_HEADING = re.compile(r"heading (\d)", re.IGNORECASE)
_DEEPEST = 500  # groups within groups; word processors need a dozen
# Groups that hold no text of a page. `listtext` and `pntext`: the mark of an item.
_UNSEEN_NAMES = """colortbl info pict objdata object header headerl headerr headerf footer footerl footerr footerf
fldinst listtext pntext pntxta pntxtb bkmkstart bkmkend annotation atnid atnauthor revtbl tc xe txe rxe ftnsep ftnsepc
ftncn nonshppict nonesttables filetbl shp do"""
_UNSEEN = frozenset(_UNSEEN_NAMES.split())
_PLACES = {"fonttbl": "fonts", "stylesheet": "styles", "title": "title", "footnote": "aside"}
_SIGNS = {
    **{"emdash": "—", "endash": "–", "bullet": "•", "lquote": "‘", "rquote": "’", "ldblquote": "“", "rdblquote": "”"},
    **dict.fromkeys(
        ("tab", "line", "page", "column", "emspace", "enspace", "qmspace", "~", "nestcell", "nestrow"), " "
    ),
    **{"_": "-", "{": "{", "}": "}", "\\": "\\"},
}
_PAGES = {"mac": "mac_roman", "pc": "cp437", "pca": "cp850"}
# Encodings of fonts by \fcharset; from 77 to 89 those of a Macintosh.
_CHARSETS = {
    **{77: "mac_roman", 78: "cp932", 79: "cp949", 80: "gb18030", 81: "cp950", 84: "mac_arabic", 85: "mac_greek"},
    **{86: "mac_turkish", 87: "cp874", 88: "mac_latin2", 89: "mac_cyrillic", 128: "cp932", 129: "cp949", 130: "johab"},
    **{134: "gb18030", 136: "cp950", 161: "cp1253", 162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256"},
    **{186: "cp1257", 204: "cp1251", 222: "cp874", 238: "cp1250", 254: "cp437"},
}


def read(data: bytes) -> tuple[str | None, list[Section]]:
    """The title of a document and its sections; lines are paragraphs. Raises `Unreadable`."""
    reader = _Reader()
    place = 0
    while match := _TOKEN.match(data, place):
        place = match.end() + reader.take(match)
    return reader.ended()


@dataclass(frozen=True, slots=True)
class _State:
    """What holds within a group. `place`: where its text goes; empty: nowhere. `n_substitutes`: of a Unicode character.
    `level`: of the heading that the paragraph is."""

    place: str = "text"
    encoding: str = ""
    n_substitutes: int = 1
    is_hidden: bool = False
    level: int = 0
    is_item: bool = False
    is_row: bool = False


class _Reader:
    def __init__(self) -> None:
        self._flow = ParagraphFlow()
        self._state = _State()
        self._outer: list[_State] = []
        self._encoding = "cp1252"  # where the font has none
        self._fonts: dict[int, str] = {}
        self._styles: dict[int, int] = {}  # level of the heading
        self._font = self._style = 0  # numbers of those that are defined
        self._bytes = bytearray()
        self._n_skipped = 0  # substitutes that are left
        self._high = 0  # the first half of a pair of Unicode
        self._is_begun = False  # a group, of which nothing has been read yet
        self._is_optional = False  # the group may be left out by whoever does not know it
        self._texts: dict[str, list[str]] = {"title": [], "styles": []}

    def take(self, match: re.Match[bytes]) -> int:
        """One token; how many bytes behind it are no text."""
        is_begun, self._is_begun = self._is_begun, match["group"] == b"{" or (self._is_begun and not match.lastgroup)
        if text := match["text"]:
            self._put_bytes(text)
        elif code := match["hex"]:
            self._put_bytes(bytes.fromhex(code.decode()))
        elif group := match["group"]:
            self._flush()
            self._n_skipped = 0
            self._open() if group == b"{" else self._close()
        elif word := match["word"]:
            number = None if match["number"] is None else int(match["number"])
            if word == b"bin":
                return max(0, number or 0)
            self._put_word(word.decode(), number)
        elif sign := match["sign"]:
            self._put_sign(sign.decode("latin-1"), is_begun=is_begun)
        return 0

    def ended(self) -> tuple[str | None, list[Section]]:
        self._flush()
        self._flow.finish(self._state.level, is_item=self._state.is_item)
        return self._taken("title").strip() or None, list(self._flow.builder.sections())

    # Groups

    def _open(self) -> None:
        if len(self._outer) >= _DEEPEST:
            raise Unreadable(DAMAGED)
        self._outer.append(self._state)

    def _close(self) -> None:
        if self._state.place == "styles":
            self._end_style()
        if self._outer:
            is_aside = self._state.place == "aside"
            self._state = self._outer.pop()
            if is_aside and self._state.place != "aside":
                self._flow.end_aside()

    def _end_style(self) -> None:
        name = self._taken("styles").strip("; ")
        if found := _HEADING.fullmatch(name):
            self._styles[self._style] = int(found[1])
        elif name.lower() == "title":
            self._styles[self._style] = 1
        self._style = 0

    # Words

    def _put_word(self, word: str, number: int | None) -> None:
        self._flush()
        self._n_skipped = 0
        is_optional, self._is_optional = self._is_optional, False
        if word in _PLACES and (self._state.place or word == "title"):
            if _PLACES[word] == "aside" != self._state.place:
                self._flow.begin_aside()
            self._set(place=_PLACES[word])
        elif is_optional or word in _UNSEEN:
            self._set(place="")
            if word in ("listtext", "pntext") and self._outer:
                self._outer[-1] = replace(self._outer[-1], is_item=True)
        elif word == "u":
            self._put_unicode((number or 0) % 0x10000)
            self._n_skipped = self._state.n_substitutes
        elif word in _SIGNS:
            self._put(_SIGNS[word])
        elif word in ("par", "sect", "cell", "row"):
            self._end(word)
        else:
            self._set_property(word, number)

    def _set_property(self, word: str, number: int | None) -> None:
        n = 0 if number is None else number
        if word == "uc":
            self._set(n_substitutes=max(0, n))
        elif word == "ansicpg":
            self._encoding = codec_of(f"cp{n}") or "cp1252"
        elif word in _PAGES:
            self._encoding = _PAGES[word]
        elif word == "f":
            self._font = n
            self._set(encoding=self._fonts.get(n, ""))
        elif word == "fcharset" and self._state.place == "fonts" and n in _CHARSETS:
            self._fonts[self._font] = _CHARSETS[n]
        elif word == "s":
            self._style = n
            self._set(level=self._styles.get(n, 0))
        elif word == "outlinelevel" and 0 <= n < 9:
            self._set(level=n + 1)
        elif word == "pard":
            self._set(level=0, is_item=False, is_row=False)
        elif word == "intbl":
            self._set(is_row=True)
        elif word == "plain":
            self._set(is_hidden=False, encoding="")
        elif word in ("v", "deleted"):
            self._set(is_hidden=number != 0)

    def _put_sign(self, sign: str, *, is_begun: bool) -> None:
        if sign == "*":
            self._is_optional = is_begun  # elsewhere it means nothing
        elif self._n_skipped:
            self._n_skipped -= 1
        elif sign in "\r\n":
            self._flush()
            self._end("par")
        else:
            self._flush()
            self._put(_SIGNS.get(sign, ""))

    def _set(self, **changed: object) -> None:
        self._state = replace(self._state, **changed)  # type: ignore[arg-type]

    # Text

    def _put_bytes(self, data: bytes) -> None:
        skipped = min(self._n_skipped, len(data))
        self._n_skipped -= skipped
        self._bytes += data[skipped:]

    def _flush(self) -> None:
        if self._bytes:
            data, self._bytes = bytes(self._bytes), bytearray()
            self._put(data.decode(self._state.encoding or self._encoding, "replace"))

    def _put_unicode(self, code: int) -> None:
        if 0xDC00 <= code < 0xE000 and self._high:
            code = 0x10000 + (self._high - 0xD800) * 0x400 + code - 0xDC00
        self._high = code if 0xD800 <= code < 0xDC00 else 0
        if not self._high:
            self._put(chr(code))

    def _put(self, text: str) -> None:
        place = self._state.place
        if place in ("text", "aside"):
            if not self._state.is_hidden:
                self._flow.write(text)
        elif place in self._texts:
            self._texts[place].append(text)

    def _end(self, word: str) -> None:
        if self._state.place == "aside" and word == "par":
            self._put("\n")
        elif self._state.place != "text":
            self._put(" ")
        elif word == "cell":
            self._flow.end_cell_of_row()
        elif word == "row":
            self._flow.end_row()
        elif self._state.is_row:
            self._put(" ")
        else:
            self._flow.end_paragraph(self._state.level, is_item=self._state.is_item)

    def _taken(self, place: str) -> str:
        text = "".join(self._texts[place])
        self._texts[place] = []
        return text
