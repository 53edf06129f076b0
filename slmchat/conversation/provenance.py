"""What a chat template gets of the messages, and how what it writes is told apart from what they say.

A template sees the real text of a message, because makers let it look for words there (`/no_think`), between two random
words of this process, the sentinels. What stands between them in the rendered text is the message's, all else is the
template's own. Two things keep a message from becoming control tokens even where a template cuts it to pieces:

- The characters that control tokens are spelled with (`<`, `[`, `|` and their like) are others while the template runs,
  from a private area of Unicode that no message uses. One that comes out beside the sentinels is proof of a leak.
- A message whose sentinels do not come out in order, or one that leaked, is rendered once more as a single random word,
  which a template can neither read nor cut.

A mark of the makers at the edge of a message stands outside of its sentinels, so that a template which takes it away
and trims the rest trims the right thing. It is made of a slash and letters: it spells no token.

Knows: sentinels, the private characters, in which order they have to come. Refuses to know: Jinja, tokens, roles.
"""

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

from slmchat.conversation.messages import Message
from slmchat.lazy_dataclasses import dataclass

# Every control token of the 19 vocabularies in llama.cpp's models/ has one of these (looked at on 2026-11-26).
_SPELLING = "<>[]{}|\uff5c\u2581"
# Planes 16: private, and hardly ever used. Where a message has them, the next ones are taken.
_FIRST_PRIVATE, _LAST_PRIVATE = 0x100000, 0x10FFFD
_PRIVATE = re.compile("[\U00100000-\U0010fffd]")

_MOST_QUOTED = 300  # characters of a template's own error

# What makers have their users write into a message to switch thinking (SmolLM3, Qwen3, Nemotron, GLM), at its edges.
_MARK = r"/(?:no_?)?think"
_LEADING = re.compile(rf"\s*(?:{_MARK}(?:\s+|\Z))*")
# For a text read from its end, where it is found at once: a search for an end tries every place of 100 MB.
_TRAILING_REVERSED = re.compile(r"\s*(?:kniht(?:_?on)?/(?:\s+|\Z))*")

# Characters of a message that a template sees, and of all messages together: beyond, a message is a word. Templates
# look at the edges of messages; what they may make and write is bounded (template_budget.py).
MOST_SHOWN = 16 * 1024
MOST_SHOWN_TOGETHER = 256 * 1024


class Form(Enum):
    """How a template gets messages: as texts, as lists of items, or as a list only where there are images."""

    TEXT = 1
    ITEMS = 2
    MIXED = 3


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of the rendered text: the template's own, or with a `message` (its number) what stands for that.

    `text` None: just what the message says. `picture`: the number of an image of the message that stands here.
    """

    text: str | None
    message: int | None = None
    picture: int | None = None


class Broken(Exception):
    """The text that a template has rendered does not tell what belongs to these messages."""

    def __init__(self, messages: Iterable[int]) -> None:
        self.messages = frozenset(messages)
        super().__init__(f"messages {sorted(self.messages)}")


def edges(message: Message) -> tuple[str, str, str]:
    """White space and marks before a message, its text, white space and marks behind it.

    What was sampled as certain tokens has no edges: they stand for all of its text.
    """
    text = message.text
    if message.tokens is not None and text.strip():
        return "", text, ""
    begin = _LEADING.match(text).end()  # type: ignore[union-attr]
    rest = text[begin:]
    n_behind = _TRAILING_REVERSED.match(rest[::-1]).end()  # type: ignore[union-attr]
    core = rest[: len(rest) - n_behind]
    return text[:begin], core, text[begin + len(core) :]


def _escapes(character: str) -> tuple[str, str]:
    """How Python's repr and JSON write a character of a high plane in ASCII."""
    return f"\\U{ord(character):08x}", json.dumps(character)[1:-1]


class Sentinels:
    """The random words and private characters of one template. `spans` reads back what `content` has given."""

    def __init__(self) -> None:
        self._nonce = f"slm{secrets.token_hex(12)}"
        self._pattern = re.compile(rf"{self._nonce}(\d+)(?:([bew])|p(\d+)q)")
        self._hidden: dict[int, str] = {}
        self._shown: dict[int, str] = {}
        self._take_private(_FIRST_PRIVATE)

    @property
    def word(self) -> str:
        """A random word that no message has."""
        return self._nonce

    def _take_private(self, first: int) -> None:
        self._hidden = {ord(character): chr(first + place) for place, character in enumerate(_SPELLING)}
        self._shown = {ord(private): chr(character) for character, private in self._hidden.items()}
        self._leak = re.compile("[" + "".join(self._hidden.values()) + "]")

    def avoid(self, messages: Sequence[Message]) -> None:
        """Take words and characters that no message has."""
        while any(self._nonce in message.text for message in messages):
            self.__init__()  # type: ignore[misc]
        used = {character for message in messages for character in _PRIVATE.findall(message.text)}
        if used.isdisjoint(self._hidden.values()):
            return
        step = len(_SPELLING)
        for first in range(_FIRST_PRIVATE, _LAST_PRIVATE - step, step):
            if used.isdisjoint(map(chr, range(first, first + step))):
                self._take_private(first)
                return

    def content(self, number: int, message: Message, *, is_word: bool, form: Form) -> Any:
        """What the template gets as the content of message `number`: a text, or a list of items."""
        lead, core, tail = edges(message)
        if not core:
            shown = message.text if not message.text.strip() else lead + tail
        elif is_word:
            shown = f"{lead}{self._nonce}{number}w{tail}"
        else:
            shown = f"{lead}{self._nonce}{number}b{core.translate(self._hidden)}{self._nonce}{number}e{tail}"
        if form is Form.ITEMS or (form is Form.MIXED and message.pictures):
            return [*({"type": "image"} for _ in message.pictures), {"type": "text", "text": shown}]
        return "".join(f"{self._nonce}{number}p{place}q" for place in range(len(message.pictures))) + shown

    def spans(self, text: str, messages: Mapping[int, Message]) -> list[Span]:
        """The rendered text in pieces. Raises `Broken` with the messages that have to be words."""
        spans: list[Span] = []
        broken: set[int] = set()
        begin, inside = 0, None
        for match in self._pattern.finditer(text):
            number, kind = int(match[1]), match[2]
            if number not in messages:
                continue
            if kind == "e" and inside == number:
                if self._is_escaped(text[begin : match.start()], messages[number]):
                    broken.add(number)
                spans.append(self._message_span(text[begin : match.start()], number, messages[number]))
                begin, inside = match.end(), None
                continue
            if kind == "e" or inside is not None:
                broken |= {number} if inside is None else {number, inside}
                continue
            spans.append(Span(text[begin : match.start()]))
            begin = match.end()
            if kind == "b":
                inside = number
            else:
                spans.append(Span(None, number, None if kind == "w" else int(match[3])))
        spans.append(Span(text[begin:]))
        if inside is not None:
            broken.add(inside)
        if broken:
            raise Broken(broken)
        if any(span.message is None and self._leak.search(span.text or "") for span in spans):
            raise Broken(messages)
        return [span for span in spans if span.message is not None or span.text]

    def readable(self, text: str) -> str:
        """`text` of a template's own error, in which it may have quoted messages, as their writer knows them."""
        plain = self._pattern.sub(lambda mark: "…" if mark[2] == "w" else "", text).translate(self._shown)
        return plain if len(plain) <= _MOST_QUOTED else plain[:_MOST_QUOTED] + "…"

    def _is_escaped(self, between: str, message: Message) -> bool:
        """Whether a template has written private characters as Python or JSON escapes, which cannot be read back."""
        escapes = {escape.lower() for each in self._hidden.values() for escape in _escapes(each)}
        small = between.lower()
        return any(escape in small and escape not in message.text.lower() for escape in escapes)

    def _message_span(self, between: str, number: int, message: Message) -> Span:
        text = between.translate(self._shown)
        return Span(None if text == edges(message)[1] else text, number)
