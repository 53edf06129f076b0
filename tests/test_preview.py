"""Previews: which terminals get one, and that the sequences say what they should."""

import base64
import io
import re
from collections.abc import Mapping

import pytest
from PIL import Image as Pillow

from slmchat.commands.repl import files
from slmchat.conversation.pictures import Picture
from slmchat.engine.requests import Image
from slmchat.terminal import preview
from slmchat.terminal.console import Console
from slmchat.terminal.preview import Drawing


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def picture() -> Picture:
    """Left half red, right half blue."""
    row = bytes((255, 0, 0)) * 300 + bytes((0, 0, 255)) * 300
    return Picture.of("two.png", Image.of(600, 400, row * 400))


def drawn(picture: Picture, stderr: io.StringIO, environ: Mapping[str, str]) -> str:
    files.draw(picture, Console(io.StringIO(), io.StringIO(), stderr, environ))
    return stderr.getvalue().removeprefix("\r\x1b[K")


@pytest.mark.parametrize(
    ("environ", "drawing"),
    [
        ({"TERM": "xterm-kitty"}, Drawing.KITTY),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, Drawing.KITTY),
        ({"TERM": "xterm-ghostty"}, Drawing.KITTY),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, Drawing.ITERM2),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, Drawing.ITERM2),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, Drawing.ITERM2),
        ({"TERM": "foot"}, Drawing.SIXEL),
        ({"TERM": "mlterm-256color"}, Drawing.SIXEL),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "linux"}, None),
        ({}, None),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/tmux", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "screen-256color", "TERM_PROGRAM": "iTerm.app"}, None),
        ({"TERM": "dumb", "KITTY_WINDOW_ID": "1"}, None),
    ],
)
def test_who_draws_is_told_from_the_environment(environ: dict[str, str], drawing: Drawing | None) -> None:
    assert preview.drawing_of(environ) is drawing


def test_kitty_gets_a_small_png_in_pieces_and_must_not_answer(picture: Picture) -> None:
    text = drawn(picture, Terminal(), {"TERM": "xterm-kitty"})
    pieces = re.findall(r"\x1b_G([^;]*);([A-Za-z0-9+/=]*)\x1b\\", text)
    assert "".join(f"\x1b_G{keys};{data}\x1b\\" for keys, data in pieces) + "\n" == text
    assert all("q=2" in keys and len(data) <= 4096 for keys, data in pieces)
    assert [keys.endswith("m=1") for keys, _ in pieces] == [True] * (len(pieces) - 1) + [False]
    small = Pillow.open(io.BytesIO(base64.b64decode("".join(data for _, data in pieces))))
    assert small.size == (240, 160)
    assert [small.getpixel((10, 10)), small.getpixel((230, 150))] == [(255, 0, 0), (0, 0, 255)]


def test_a_long_picture_for_kitty_is_cut_into_pieces() -> None:
    text = preview.kitty(bytes(range(256)) * 40)
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert len(pieces) == 4
    assert base64.b64decode("".join(data for _, data in pieces)) == bytes(range(256)) * 40


def test_iterm2_gets_a_file(picture: Picture) -> None:
    text = drawn(picture, Terminal(), {"TERM_PROGRAM": "iTerm.app", "TERM": "xterm-256color"})
    found = re.fullmatch(r"\x1b\]1337;File=inline=1;size=(\d+);height=8;preserveAspectRatio=1:([^\x07]*)\x07\n", text)
    assert found
    png = base64.b64decode(found[2])
    assert len(png) == int(found[1])
    assert Pillow.open(io.BytesIO(png)).size == (240, 160)


def test_sixel_paints_every_pixel_once(picture: Picture) -> None:
    text = drawn(picture, Terminal(), {"TERM": "foot"})
    pixels = painted(text)
    assert len(pixels) == 240 * 160
    assert pixels[10, 10] == (100, 0, 0) and pixels[230, 150] == (0, 0, 100)


def painted(text: str) -> dict[tuple[int, int], tuple[int, ...]]:
    """What a terminal makes of a Sixel sequence; colours in percent. A pixel painted twice is an error."""
    body = text.removeprefix('\x1bPq"1;1;240;160').removesuffix("\x1b\\\n")
    colours: dict[int, tuple[int, ...]] = {}
    pixels: dict[tuple[int, int], tuple[int, ...]] = {}
    column, top, colour = 0, 0, 0
    pattern = r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)([?-~])|([?-~])|([$-])"
    assert re.fullmatch(f"(?:{pattern})*", body)
    for number, red, green, blue, chosen, count, repeated, letter, control in re.findall(pattern, body):
        if number:
            colours[int(number)] = (int(red), int(green), int(blue))
        elif chosen:
            colour = int(chosen)
        elif control:
            column, top = 0, top + (6 if control == "-" else 0)
        for _ in range(int(count or bool(letter))):
            for row in range(6):
                if (ord(repeated or letter) - 63) >> row & 1:
                    assert (column, top + row) not in pixels
                    pixels[column, top + row] = colours[colour]
            column += 1
    return pixels


def test_nothing_is_drawn_where_nobody_draws(picture: Picture) -> None:
    assert drawn(picture, Terminal(), {"TERM": "xterm-256color"}) == ""
    assert drawn(picture, io.StringIO(), {"TERM": "xterm-kitty"}) == ""  # a pipe
