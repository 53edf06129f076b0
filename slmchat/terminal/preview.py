"""A small picture in a terminal that can draw one: the protocols of Kitty and iTerm2, and Sixel.

Knows: which terminals draw, told from the environment alone (a question to the terminal may never be answered, and its
answer would stand among what the user types), and the three ways of writing pixels.
Refuses to know: decoding and scaling (conversation/pictures.py); it gets a finished PNG, or pixels of few colours.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

from slmchat.terminal.screen import ControlSequences

# Text rows that a preview takes, and the pixels that are enough for them.
ROWS = 8
SIZE = (320, 160)
# Colours of a Sixel picture: VT340s had 16, every terminal that draws today has 256.
COLOURS = 64

# Kitty takes at most this much base64 in one sequence (sw.kovidgoyal.net/kitty/graphics-protocol, "m=1").
_KITTY_CHUNK = 4096


class Drawing(Enum):
    """How a terminal takes pixels."""

    KITTY = "kitty"
    ITERM2 = "iterm2"
    SIXEL = "sixel"


def drawing_of(environ: Mapping[str, str]) -> Drawing | None:
    """How this terminal draws; None: it does not, or nobody can say. Multiplexers pass no pixels on."""
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if environ.get("TMUX") or environ.get("STY") or term.startswith(("screen", "tmux")) or term == "dumb":
        return None
    if environ.get("KITTY_WINDOW_ID") or term in ("xterm-kitty", "xterm-ghostty") or program == "ghostty":
        return Drawing.KITTY
    if program in ("iTerm.app", "WezTerm", "mintty") or environ.get("LC_TERMINAL") == "iTerm2":
        return Drawing.ITERM2
    if term.startswith(("foot", "mlterm", "contour")):
        return Drawing.SIXEL
    return None


def kitty(png: bytes) -> ControlSequences:
    """The picture below the cursor; `q=2`: the terminal must not answer, for that would be typed into the line."""
    data = base64.standard_b64encode(png).decode()
    pieces = [data[begin : begin + _KITTY_CHUNK] for begin in range(0, len(data), _KITTY_CHUNK)]
    sequences = []
    for number, piece in enumerate(pieces, 1):
        keys = f"a=T,f=100,r={ROWS},q=2," if number == 1 else "q=2,"
        sequences.append(f"\x1b_G{keys}m={int(number < len(pieces))};{piece}\x1b\\")
    return ControlSequences("".join(sequences) + "\n")


def iterm2(png: bytes) -> ControlSequences:
    """The picture as iTerm2 takes files (iterm2.com/documentation-images.html)."""
    data = base64.standard_b64encode(png).decode()
    return ControlSequences(f"\x1b]1337;File=inline=1;size={len(png)};height={ROWS};preserveAspectRatio=1:{data}\x07\n")


def sixel(width: int, palette: Sequence[tuple[int, int, int]], pixels: bytes) -> ControlSequences:
    """The picture in bands of six rows (VT330/VT340 manual, chapter 14); `pixels` are places in the palette."""
    height = len(pixels) // width
    parts = [f'\x1bPq"1;1;{width};{height}']
    for number, colour in enumerate(palette):
        red, green, blue = (round(100 * value / 255) for value in colour)
        parts.append(f"#{number};2;{red};{green};{blue}")
    for top in range(0, height, 6):
        rows = [pixels[row * width : (row + 1) * width] for row in range(top, min(top + 6, height))]
        bands = (_band(number, rows) for number in sorted(set().union(*rows)))
        parts.append("$".join(bands) + "-")
    return ControlSequences("".join(parts) + "\x1b\\\n")


def _band(colour: int, rows: Sequence[bytes]) -> str:
    columns = (sum((pixel == colour) << row for row, pixel in enumerate(column)) for column in zip(*rows, strict=True))
    return f"#{colour}{''.join(_packed(columns))}"


def _packed(columns: Iterable[int]) -> Iterable[str]:
    """One letter for each column, runs as `!N` and the letter."""
    letter, count = "", 0
    for value in (*columns, -1):
        now = chr(63 + value) if value >= 0 else ""
        if now != letter:
            yield f"!{count}{letter}" if count > 3 else letter * count
            letter, count = now, 0
        count += 1
