"""Make docs/chat.svg: a real chat on a real model, played through a terminal emulator.

Run it where `smollm2:135m` is installed: `python .docs/chat_picture.py`. Needs the `dev` extra (pexpect, pyte).

Knows: the script of the chat and how a screen becomes an SVG. Refuses to know: how a chat looks; it shows what slm draws.
"""

import os
import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from terminal import Terminal  # noqa: E402

COLUMNS, LINES = 92, 26
CELL_W, CELL_H, PAD = 8.4, 18, 14
SCRIPT = ("Name three primary colors, as a list.", "Write a Python function that adds two numbers.", "/context")
COLORS = {
    "default": "#d8dee9", "black": "#4c566a", "red": "#e06c75", "green": "#98c379", "brown": "#d5b06b",
    "blue": "#61afef", "magenta": "#c678dd", "cyan": "#56b6c2", "white": "#e5e9f0",
    "brightblack": "#6b7689", "brightred": "#ff7b86", "brightgreen": "#b5e890", "brightbrown": "#ffd68a",
    "brightblue": "#82c7ff", "brightmagenta": "#df9bf0", "brightcyan": "#7fd7e0", "brightwhite": "#ffffff",
}  # fmt: skip


def play() -> Terminal:
    """The session; every step waits until the prompt is open and empty again."""
    home = Path(os.environ.get("SLM_HOME", ""))
    if not home.is_dir():
        raise SystemExit("set SLM_HOME to a home where smollm2:135m is installed")
    arguments = ["chat", "smollm2:135m", "--temp", "0", "-n", "120"]
    terminal = Terminal(arguments, home=home, columns=COLUMNS, lines=LINES)
    terminal.wait_for(r"\n> *\n")
    for line in SCRIPT:
        terminal.enter(line)
        terminal.wait_for(lambda line=line: line.split()[0] in terminal.everything)
        terminal.wait_for(lambda: is_idle(terminal))
    return terminal


def is_idle(terminal: Terminal) -> bool:
    lines = terminal.text.splitlines()
    prompts = [line.strip() for line in lines if line.startswith(">")]
    has_toolbar = bool(lines) and "smollm2:135m" in lines[-1] and "tokens (" in lines[-1]
    return has_toolbar and "Ctrl-C stops" not in lines[-1] and prompts[-1:] == [">"]


def picture(terminal: Terminal) -> str:
    """The screen as an SVG: one text element for each run of equal style."""
    width, height = COLUMNS * CELL_W + 2 * PAD, LINES * CELL_H + 2 * PAD
    rows = []
    for y in range(LINES):
        row, x = terminal.screen.buffer[y], 0
        while x < COLUMNS:
            style = (row[x].fg, row[x].bold, row[x].italics, row[x].underscore)
            end = x
            while end < COLUMNS and (row[end].fg, row[end].bold, row[end].italics, row[end].underscore) == style:
                end += 1
            text = "".join(row[place].data for place in range(x, end))
            if text.strip():
                rows.append(run(text, x, y, *style))
            x = end
    body = "\n".join(rows)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">\n<rect width="100%" height="100%" rx="8" fill="#22272e"/>\n'
        f'<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="14" '
        f'xml:space="preserve">\n{body}\n</g>\n</svg>\n'
    )


def run(text: str, x: int, y: int, color: str, is_bold: bool, is_italic: bool, is_underlined: bool) -> str:
    style = "".join(
        (
            ' font-weight="bold"' if is_bold else "",
            ' font-style="italic"' if is_italic else "",
            ' text-decoration="underline"' if is_underlined else "",
        )
    )
    left, base = PAD + x * CELL_W, PAD + y * CELL_H + 14
    fill = COLORS.get(color, COLORS["default"])
    length = len(text.rstrip()) * CELL_W
    return f'<text x="{left:.1f}" y="{base:.1f}" fill="{fill}"{style} textLength="{length:.1f}">{escape(text.rstrip())}</text>'


if __name__ == "__main__":
    with play() as session:
        (ROOT / "docs" / "chat.svg").write_text(picture(session), encoding="utf-8")
