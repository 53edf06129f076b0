"""Text for the terminal: no control survives, and how it was cut into chunks makes no difference."""

import random
import re

import runner

from slmchat.sanitize import Sanitizer, sanitize

_PIECES = (
    "\x1b[31m", "\x1b]0;t\x07", "\x1b]8;;http://x\x1b\\", "\x1bP", "\x1b_", "\x1b^", "\x1bX", "\x9b", "\x9d", "\x90", "\x9c", "\x1b",
    "\x1b(B", "\x1b#8", "\x1bc", "\x1b[?1049h", "\r", "\r\n", "\n", "\x08", "\x18", "\x1a", "\x7f", "\u202e", "\u2066", "\u200b",
    "👩\u200d🚀", "क्\u200dष", "❤\ufe0f", "a", "é", "東", " ", "\t", "\ud83d", "\ude00", "\U000e0041", "\u2028", "text",
    "\u200f", "\u2067", "\u2069", "\u202b", "\u202c", "\u00ad", "\u2060", "\u180b", "\ufe00", "\U000e0100", "ש", "ไ", "漢", "word" * 16,
)  # fmt: skip
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_UNSEEN = re.compile(
    "[\u202d\u202e\u2061-\u2065\u206a-\u206f\ufeff\U000e0000-\U000e00ff]"
)  # these have no context here


def target(random: random.Random) -> None:
    text = runner.mixed(random, _PIECES, 24)
    shows = random.random() < 0.5
    whole = Sanitizer(show_invisible=shows)
    expected = whole.feed(text) + whole.flush()
    assert not _OBEYED.search(expected), ascii(text)
    assert not (shows and _UNSEEN.search(expected)), ascii(text)
    expected.encode()
    chunked, rest, shown = whole, text, ""  # a flushed one is as good as new
    while rest:
        length = random.randrange(1, 6)
        shown += chunked.feed(rest[:length])
        rest = rest[length:]
    assert shown + chunked.flush() == expected, ascii(text)
    once = sanitize(text, one_line=True)
    assert "\n" not in once
    assert sanitize(once) == once, ascii(text)


if __name__ == "__main__":
    raise SystemExit(runner.main(target))
