"""E-mail: who wrote to whom, when, about what, and the text as a mail program shows it.

Attachments are named and not read. Of a text that is there twice (plain and HTML) the plain one is taken. Paragraphs
are counted: where a line ends, each mail program decides for itself.

Knows: messages (RFC 5322), their parts (RFC 2045, 2046), words in headers (RFC 2047).
Refuses to know: HTML (html.py), attachments, signatures.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_bytes
from email.errors import MessageError
from email.header import decode_header
from email.message import Message
from email.policy import Compat32
from email.utils import parseaddr, parsedate_to_datetime

from slmchat import text_files
from slmchat.lazy_dataclasses import dataclass
from slmchat.retrieval.documents import ABOVE_TEXT, Section
from slmchat.retrieval.loaders import html
from slmchat.retrieval.loaders.bounds import DAMAGED, ENCRYPTED, Unreadable, mislabelled
from slmchat.retrieval.loaders.encodings import codec_of
from slmchat.retrieval.loaders.sections import ParagraphCounter

_SHOWN = ("From", "To", "Cc", "Date")
# Characters of a header that are looked at, and that are shown: an invitation can go to a whole town.
_MOST_READ, _MOST_SHOWN = 4_000, 400
# Parts within parts, and attachments that are named: far more than any mail program makes.
_DEEPEST, _MOST_NAMED = 20, 20
_ENCRYPTED = ("multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime")
# Parts that a mail program hides from its reader.
_UNSEEN = ("application/pgp-signature", "application/pkcs7-signature", "application/x-pkcs7-signature")
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")


def read(data: bytes) -> tuple[str | None, list[Section]]:
    """The subject of a message and its sections; lines are paragraphs. Raises `Unreadable`."""
    try:
        return _read(message_from_bytes(data, policy=_AsSent()))
    except (MessageError, LookupError, TypeError, AttributeError, ValueError, AssertionError) as error:
        raise Unreadable(DAMAGED) from error  # the library meets what is malformed with errors of any kind


def _read(message: Message) -> tuple[str | None, list[Section]]:
    headers = {name: _header(message, name) for name in ("Subject", *_SHOWN)}
    if not any(headers.values()):
        raise mislabelled(".eml")
    if message.get_content_type() in _ENCRYPTED and message.get_param("smime-type") != "signed-data":
        raise Unreadable(ENCRYPTED)
    parts = _Parts()
    texts = parts.texts(message)
    builder = ParagraphCounter(is_by_heading=False)
    if subject := headers["Subject"]:
        builder.unit(subject, ABOVE_TEXT)  # the title: so it is not taken for what the message says
    told = [f"{name}: {headers[name]}" for name in _SHOWN if headers[name]]
    if parts.attachments:
        told.append(f"Attachments: {', '.join(parts.attachments)}")
    if told:
        builder.unit("\n".join(told), ABOVE_TEXT)
    for text in texts:
        if text.is_html:
            html.feed(text.text, builder)
            continue
        for paragraph in _BLANK_LINES.split(text_files.with_line_feeds(text.text)):
            if paragraph.strip():
                builder.block(paragraph.strip("\n").rstrip(), 0)
    heading = ", ".join(filter(None, (_name(headers["From"]), _day(headers["Date"]))))
    above = (heading,) if heading else ()
    return subject or None, [replace(each, heading=(*above, *each.heading)) for each in builder.sections()]


# Headers


class _AsSent(Compat32):
    """Headers whose bytes are no ASCII, as many programs send them, are text all the same, and so are names in them."""

    def header_fetch_parse(self, name: str, value: str) -> str:
        return value if value.isascii() else _in_charset(value.encode("utf-8", "surrogateescape"), None)


def _header(message: Message, name: str) -> str:
    """A header as it is shown, on one line; empty where there is none."""
    shown = " ".join(_decoded(str(message.get(name, ""))[:_MOST_READ]).split())
    return shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}…"


def _decoded(text: str) -> str:
    """Words of a header that are written in another encoding than that of the header."""
    try:
        pieces = decode_header(" ".join(text.split()))  # between its lines the library loses the blank
    except (MessageError, ValueError):
        return text
    return "".join(piece if isinstance(piece, str) else _in_charset(piece, charset) for piece, charset in pieces)


def _name(sender: str) -> str:
    """Of a person, else the address."""
    return next(filter(None, parseaddr(sender)), "")


def _day(date: str) -> str:
    try:
        return parsedate_to_datetime(date).date().isoformat()
    except (ValueError, TypeError, IndexError, OverflowError):
        return ""


# Parts


@dataclass(frozen=True, slots=True)
class _Text:
    text: str
    is_html: bool


class _Parts:
    """The texts of a message that are shown one below the other. `attachments`: the names of the others."""

    def __init__(self) -> None:
        self.attachments: list[str] = []

    def texts(self, part: Message, depth: int = 0) -> list[_Text]:
        """What of this part is shown."""
        kind = part.get_content_type()
        if depth > _DEEPEST or kind in _UNSEEN:
            return []
        if part.get_content_maintype() == "message" or not self._is_shown(part, kind):
            self._name(part, kind)
            return []
        if part.is_multipart():
            below = [self.texts(each, depth + 1) for each in part.get_payload() if isinstance(each, Message)]
            return _best(below) if kind == "multipart/alternative" else [text for texts in below for text in texts]
        return [_Text(_text(part, kind == "text/html"), kind == "text/html")]

    def _is_shown(self, part: Message, kind: str) -> bool:
        is_text = part.get_content_maintype() == "multipart" or kind in ("text/plain", "text/html")
        return is_text and part.get_content_disposition() != "attachment"

    def _name(self, part: Message, kind: str) -> None:
        name = part.get_filename()
        if name is None and kind == "message/rfc822":
            name = next((_header(each, "Subject") for each in _messages(part)), "") or "a message"
        if name and len(self.attachments) < _MOST_NAMED:
            self.attachments.append(" ".join(_decoded(name[:_MOST_SHOWN]).split()))


def _best(versions: list[list[_Text]]) -> list[_Text]:
    """Of a text that is there in several versions the plain one, else the last, which is the richest."""
    filled = [texts for texts in versions if any(text.text.strip() for text in texts)]
    plain = (texts for texts in filled if not any(text.is_html for text in texts))
    return next(plain, filled[-1] if filled else [])


def _messages(part: Message) -> Iterator[Message]:
    payload = part.get_payload()
    yield from (each for each in payload if isinstance(each, Message)) if isinstance(payload, list) else ()


def _text(part: Message, is_html: bool) -> str:
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    charset = part.get_content_charset()
    return html.decode(data) if is_html and charset is None else _in_charset(data, charset)


def _in_charset(data: bytes, charset: str | None) -> str:
    """UTF-8 where nothing is named, and where nobody knows what is named; a text without any of it is from Windows."""
    named = codec_of(charset) if charset else None
    if named is not None:
        return data.decode(named, "replace")
    text = data.decode("utf-8", "replace")
    is_utf_8 = "\ufffd" not in text or not text.replace("\ufffd", "").isascii()
    return text if is_utf_8 else data.decode("cp1252", "replace")
