"""Streaming Markdown on a terminal emulator: what is on the screen, whatever the chunks were."""

import re
import subprocess
import sys
from itertools import pairwise

import pyte
import pytest
from cpu_time import is_linear
from properties import example, given, settings
from properties import strategies as st
from pyte.modes import LNM
from wcwidth import wcswidth

from slmchat.sanitize import sanitize
from slmchat.terminal.markdown import TABLE_LIMIT, MarkdownStream
from slmchat.terminal.markdown_inline import HOLD_LIMIT
from slmchat.terminal.markdown_layout import extends

CONTROL = re.compile(r"\x1b\[[0-9;]*m")


def render(text: str | list[str], *, width: int = 60, has_color: bool = True) -> str:
    """What is written for these chunks."""
    written: list[str] = []
    stream = MarkdownStream(written.append, width=lambda: width, has_color=has_color)
    for chunk in [text] if isinstance(text, str) else text:
        stream.feed(chunk)
    stream.close()
    return "".join(written)


def plain(text: str, *, width: int = 60, has_color: bool = True) -> str:
    """What is written, without styles."""
    return CONTROL.sub("", render(text, width=width, has_color=has_color))


def screen_of(written: str, *, width: int = 60, height: int = 100) -> pyte.Screen:
    """What a terminal shows."""
    screen = pyte.Screen(width, height)
    screen.set_mode(LNM)
    pyte.Stream(screen).feed(written)
    return screen


def lines_of(screen: pyte.Screen) -> list[str]:
    return "\n".join(line.rstrip() for line in screen.display).rstrip("\n").split("\n")


def styled(screen: pyte.Screen, **attributes: object) -> str:
    """The characters on the screen that look like this."""
    found = []
    for y in range(screen.lines):
        for x in range(screen.columns):
            char = screen.buffer[y][x]
            if all(getattr(char, name) == value for name, value in attributes.items()):
                found.append(char.data)
    return "".join(found)


def cuts(text: str, places: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(edges)]


SMALL_MODEL_ANSWER = """\
# Setting up

Sure! Here's how to **install** it:

1. **Create a folder:**

   Use `mkdir my_project` for that.

2. **Install the package:**
   ```bash
   pip install my_package  # the newest
   ```
   Then check it.
    * nested with four spaces and text that is long enough to wrap around the edge
        - deeper
3. **Done!**

* **Fast:** no waiting
* *Small*: fits on a phone
- [x] tested
- [ ] released

> Note that a quote is long enough
> to be wrapped at the end of the line, so that we see the bar.

| Name | Type | Note |
|------|:----:|-----:|
| `a_b` | int | **first** |
| c |  |
| 漢字 | str | wide |

Line one$$
line two\\
line three
***
The formula is \\( x_1 * y_1 \\), the name snake_case_name, a stray ** here.
""".replace("$$", "  ")  # a hard break

SMALL_MODEL_SCREEN = """\
Setting up

Sure! Here's how to install it:

1. Create a folder:

   Use mkdir my_project for that.

2. Install the package:

pip install my_package  # the newest

   Then check it.
   ◦ nested with four spaces and text that is long enough to
     wrap around the edge
     - deeper
3. Done!

• Fast: no waiting
• Small: fits on a phone
[x] tested
[ ] released

│ Note that a quote is long enough
│ to be wrapped at the end of the line, so that we see the
│ bar.

Name  Type   Note
────  ────  ─────
a_b   int   first
c
漢字  str    wide

Line one
line two
line three
────────────────────────────────────────
The formula is x₁ * y₁, the name snake_case_name, a stray **
here.
"""


def test_an_answer_of_a_small_model() -> None:
    assert plain(SMALL_MODEL_ANSWER) == SMALL_MODEL_SCREEN
    screen = screen_of(render(SMALL_MODEL_ANSWER))
    # pyte shows a wide character as itself and an empty cell, which `display` leaves out.
    assert lines_of(screen) == SMALL_MODEL_SCREEN.rstrip("\n").split("\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("\n\n", ""),
        ("a", "a\n"),
        ("a\n", "a\n"),
        ("\n\na\n\n\n\nb\n\n", "a\n\nb\n"),
        ("one\ntwo", "one\ntwo\n"),
        ("Windows\r\n\r\nline ends\r\n", "Windows\n\nline ends\n"),
        # headings
        ("# One #\ntext\n## Two\n#tag\n####### seven\n#", "One\ntext\n\nTwo\n#tag\n####### seven\n#\n"),
        ("## C#", "C#\n"),
        # emphasis
        ("**Title:** text", "Title: text\n"),
        ("**Title:**text", "Title:text\n"),
        ("**标题：**内容", "标题：内容\n"),
        ("***both*** *a **b** c* **a *b***", "both a b c a b\n"),
        ("*a **b* c", "*a *b c\n"),
        ("a ** b ** c * d", "a ** b ** c * d\n"),
        ("**open\nnext", "**open\nnext\n"),
        ("snake_case_name _it_ __bold text__ __init__ a_b_", "snake_case_name it bold text __init__ a_b_\n"),
        ("x**2 + y**2, 2*3*4, f(*args, **kwargs)", "x**2 + y**2, 2*3*4, f(*args, **kwargs)\n"),
        ("*args and **kwargs", "*args and **kwargs\n"),
        ("~~gone~~ ~5 ~6~ ~~~x~~~", "gone ~5 ~6~ ~~~x~~~\n"),
        # code spans
        ("`a*b*` ``c`d`` ` e ` `open", "a*b* c`d e `open\n"),
        ("` `` `", "``\n"),
        # escapes, LaTeX, HTML
        (
            r"\*not\* 1\. C:\Users \(x_1*y*z_2\) \[a\] $$a*b* $$ \$5",
            r"*not* 1. C:\Users x₁*y*z₂ a a*b* $5" + "\n",
        ),
        ("\\[\nx_{1} * y *z*\n\\]\n*after*", "x₁ * y *z*\nafter\n"),
        ("\\[\n\\cases{a * b}\n+ c\n\\]\n*after*", "\\[\n\\cases{a * b}\n+ c\n\\]\nafter\n"),
        (
            "so $x^2$ and $n$, $\\frac{a+b}{2}$; $5 and $HOME or $\\cases{x}$",
            "so x² and n, (a+b)/2; $5 and $HOME or $\\cases{x}$\n",
        ),
        ("$$\n*a*\n\n*after*", "$$\n*a*\n\nafter\n"),
        ("<think>hm</think>\n<br> <b>x</b> &amp; 1 < 2", "<think>hm</think>\n<br> <b>x</b> &amp; 1 < 2\n"),
        # links
        ("[text](https://a.b/c_d_e) x", "text (https://a.b/c_d_e) x\n"),
        ("[https://a.b](https://a.b/)", "https://a.b\n"),
        ('[a](b.md "title") [x] [y][z] [ ](', "a (b.md) [x] [y][z] [ ](\n"),
        ("[](https://a.b) [e]()", "https://a.b e\n"),
        ("<https://a.b/*c*> <me@a.b> https://a.b/*c*.", "https://a.b/*c* me@a.b https://a.b/*c*.\n"),
        ("![a cat](cat.png)!", "[image: a cat]!\n"),
        # lists
        ("- a\n- b\n\n- c\n+ d\n• e", "• a\n• b\n\n• c\n• d\n• e\n"),
        ("1. a\n  - b\n    - c\n- d", "1. a\n   ◦ b\n     - c\n• d\n"),
        ("- a\n\n  b\n\nc", "• a\n\n  b\n\nc\n"),
        ("1) a\n2) b\n10) c\n    d", "1) a\n2) b\n10) c\n    d\n"),
        ("-\n- a\n-", "•\n• a\n•\n"),
        ("1. [ ] a\n2. [x] b\n3. [x]", "1. [ ] a\n2. [x] b\n3. [x]\n"),
        ("- - a\n- 1. b", "• ◦ a\n• 1. b\n"),
        ("* * *\n---\n- - -\n--\n-x", "─" * 40 + "\n" + "─" * 40 + "\n" + "─" * 40 + "\n--\n-x\n"),
        ("Heading\n===\nOther\n---", "Heading\n===\nOther\n" + "─" * 40 + "\n"),
        # quotes
        ("> a\n>\n> > b\n\nc", "│ a\n│\n│ │ b\n\nc\n"),
        ("> - a\n>   b\n> ```\n> x\n> ```\nout", "│ • a\n│   b\n│\n│ x\n\nout\n"),
        ("```\nx\n```\n> a\n> ```\n> y\n> ```\n> b", "x\n\n│ a\n│\n│ y\n│\n│ b\n"),
        ("> ```\n> x\nout", "│ x\n\nout\n"),
        # code
        ("```\nnever closed\n\n  **x**", "never closed\n\n  **x**\n"),
        ("a\n```\nx\n```\nb", "a\n\nx\n\nb\n"),
        ("~~~~ text\n```\n~~~\n~~~~", "```\n~~~\n"),
        ("```text``` inline", "text inline\n"),
        ("- a\n\n  ```py\n  x = 1\n    y\n  ```\n  b", "• a\n\nx = 1\n  y\n\n  b\n"),
        ("- ```\n  x\n  ```", "•\n\nx\n"),
        ("\tdef f():\n\t    return 1\n\ntext", "\tdef f():\n\t    return 1\n\ntext\n"),
        ("a\n\n    **Note:** oddly indented\n    b", "a\n\n    Note: oddly indented\n    b\n"),
        # tables
        ("| a | b |\n|---|---|\n| 1 | 2 | 3 |\n| `x|y` | \\| |", "a    b\n───  ─────\n1    2 | 3\nx|y  |\n"),
        ("| no | table |\n| here |\nx", "| no | table |\n| here |\nx\n"),
        ("| a |\n\n|---|", "| a |\n\n|---|\n"),
        ("- x\n  | a | b |\n  |--|--|\n  | 1 | 2 |", "• x\n\n  a   b\n  ──  ──\n  1   2\n"),
        ("|a|b|\n|-|-|\n|x<br>y|z|\nend", "a   b\n──  ──\nx   z\ny\n\nend\n"),
    ],
)
def test_blocks_and_inline(text: str, shown: str) -> None:
    assert plain(text) == shown
    assert CONTROL.sub("", render(list(text))) == shown


def test_styles() -> None:
    screen = screen_of(render("# Head\n**bold** *it* `code` ~~gone~~ [li nk](x)\n> q\n\n- [x] y"))
    assert styled(screen, bold=True, underscore=True, fg="magenta") == "Head"
    assert styled(screen, bold=True, fg="default") == "bold"
    assert styled(screen, italics=True) == "it"
    assert styled(screen, strikethrough=True) == "gone"
    assert styled(screen, underscore=True, fg="blue") == "li nk"
    assert styled(screen, fg="green") == "[x] "
    assert "code" in styled(screen, fg="cyan")


def test_only_colours_that_show_on_black_and_on_white() -> None:
    code = "```python\nclass A:\n    @x\n    def f(self): return 'a' + 1  # c\n```\n```diff\n-a\n+b\n```\n"
    codes = {
        code for part in re.findall(r"\x1b\[([0-9;]*)m", render(SMALL_MODEL_ANSWER + code)) for code in part.split(";")
    }
    assert codes <= {"0", "1", "2", "3", "4", "9", "31", "32", "34", "35", "36"}


def test_without_colour_the_structure_stays() -> None:
    text = "# H\n**b** `c` ~~d~~\n```python\nx = 1\n```\n- [x] y"
    written = render(text, has_color=False)
    assert "\x1b" not in written
    assert written == "H\nb `c` ~~d~~\n\n```python\nx = 1\n```\n\n[x] y\n"


# --- streaming -----------------------------------------------------------------------------------------------------


def test_words_appear_as_they_come() -> None:
    written: list[str] = []
    stream = MarkdownStream(written.append, width=lambda: 40)
    shown = []
    for token in ["The", " quick", " **bro", "wn", " fox**", " jum", "ps", " over"]:
        stream.feed(token)
        shown.append(CONTROL.sub("", "".join(written)))
    assert shown == [
        "",
        "The",
        "The quick",
        "The quick",
        "The quick",
        "The quick brown fox",
        "The quick brown fox",
        "The quick brown fox jumps",
    ]


@pytest.mark.parametrize("opening", ["**", "*", "`", "[", "~~", "\\("])
def test_markup_that_is_never_closed_is_held_for_a_while_only(opening: str) -> None:
    text = f"start {opening}word " + "word " * 200
    written: list[str] = []
    stream = MarkdownStream(written.append, width=lambda: 80)
    most = 0
    for position, char in enumerate(text, 1):
        stream.feed(char)
        most = max(most, position - len(CONTROL.sub("", "".join(written)).replace("\n", " ")))
    assert most <= HOLD_LIMIT + 20
    stream.close()
    assert CONTROL.sub("", "".join(written)).split() == text.split()


def test_nothing_is_ever_redrawn() -> None:
    written = render(SMALL_MODEL_ANSWER)
    assert "\r" not in written
    assert set(re.findall(r"\x1b\[[0-9;]*([A-Za-z])", written)) <= {"m"}


def test_a_long_table_goes_on_row_by_row() -> None:
    written: list[str] = []
    stream = MarkdownStream(written.append, width=lambda: 40)
    stream.feed("| n | text |\n|--:|---|\n")
    for row in range(TABLE_LIMIT[0] + 5):
        assert ("".join(written) == "") == (row < TABLE_LIMIT[0])
        stream.feed(f"| {row} | number {row} |\n")
    stream.feed("| 100 | a cell that is much wider than those before it, and folds |\n")
    stream.close()
    lines = CONTROL.sub("", "".join(written)).split("\n")
    assert lines[:3] == [" n  text", "──  ─────────", " 0  number 0"]
    assert all(wcswidth(line) <= 40 for line in lines)
    assert "".join(" ".join(lines).split()).count("number") == TABLE_LIMIT[0] + 5


def test_an_address_longer_than_a_line_stays_in_one_piece() -> None:
    address = "https://example.org/" + "a" * 60
    assert plain(f"See {address} for more.", width=30) == f"See\n{address} for more.\n"
    assert plain(f"- {address}\n- next", width=30) == f"• {address}\n• next\n"
    table = plain(f"| a | b |\n|---|---|\n| {address} | x |", width=30)
    assert all(len(line) <= 30 for line in table.split("\n"))  # something stands beside it


def test_a_later_row_is_not_broken_where_there_is_room() -> None:
    rows = "".join(f"| {2**power} | {power} |\n" for power in range(16))
    shown = plain(f"| n | power |\n|--:|---|\n{rows}", width=40).split("\n")
    assert [line.split() for line in shown[2:18]] == [[str(2**power), str(power)] for power in range(16)]


def test_a_table_wider_than_the_window_folds_its_cells() -> None:
    table = (
        "| Key | What it is about | 備考 |\n|---|---|---|\n| a | "
        + "some words " * 8
        + "| 全角文字の長い説明文です |\n"
    )
    shown = plain(table, width=40).split("\n")
    assert all(wcswidth(line) <= 40 for line in shown)
    assert shown[0].startswith("Key  What it is")
    narrow = plain(table, width=9).split("\n")
    assert narrow[0] == "Key: a"
    assert all(wcswidth(line) <= 9 for line in narrow)


def test_the_width_is_asked_again_for_every_block() -> None:
    widths = iter([20, 10, 30])
    written: list[str] = []
    stream = MarkdownStream(written.append, width=lambda: next(widths))
    stream.feed("word " * 4 + "\n" + "word " * 4 + "\n" + "word " * 6)
    stream.close()
    assert "".join(written) == "word word word word\nword word\nword word\nword word word word word word\n"


@pytest.mark.slow
def test_an_interrupted_answer_ends_clean() -> None:
    inside_words = re.compile(r"(?<=\w\w)\w")  # the same state behind each letter of a word but the first two
    for end in sorted(
        set(range(len(SMALL_MODEL_ANSWER))) - {at.end() for at in inside_words.finditer(SMALL_MODEL_ANSWER)}
    ):
        written = render(SMALL_MODEL_ANSWER[:end])
        screen = screen_of(written + "after")
        assert styled(screen, data="a"), "still usable"
        assert screen.cursor.attrs == screen.default_char
        assert not written or written.endswith("\n")


def test_a_token_costs_the_same_in_a_long_answer() -> None:
    """What one costs is in benchmarks/bench_markdown.py."""

    def feed(n_characters: int) -> None:
        text = SMALL_MODEL_ANSWER * (n_characters // len(SMALL_MODEL_ANSWER) + 1)
        stream = MarkdownStream(lambda text: None, width=lambda: 80)
        for place in range(0, n_characters, 4):
            stream.feed(text[place : place + 4])

    assert is_linear(feed, 3_000)


# --- links ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["javascript:alert(1)", "file:///etc/passwd", "relative.md", "data:text/html,x"])
def test_addresses_are_shown_and_never_linked(address: str) -> None:
    written = render(f"[click]({address})")
    assert "\x1b]8" not in written
    assert CONTROL.sub("", written) == f"click ({address})\n"


def test_a_link_that_claims_another_address_shows_its_own() -> None:
    shown = plain("[https://bank.example](https://evil.example/x)")
    assert shown == "https://bank.example (https://evil.example/x)\n"


def test_an_address_cannot_carry_control_sequences() -> None:
    written = render("[x](https://a.b/\x1b]0;t\x07\x9b31m) <https://a.b/\u202e>")
    assert "\x07" not in written
    assert "\x9b" not in written


# --- width ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("abcdefghij klm", 5, "abcde\nfghij\nklm\n"),
        ("ab abcdefghij", 5, "ab\nabcde\nfghij\n"),
        ("漢字漢字漢字", 5, "漢字\n漢字\n漢字\n"),
        ("漢字、漢字。", 6, "漢字、\n漢字。\n"),
        ("「漢字」「漢字」", 8, "「漢字」\n「漢字」\n"),
        ("안녕하세요 여러분", 12, "안녕하세요\n여러분\n"),
        ("a👍🏽b 👍🏽", 8, "a👍🏽b\n👍🏽\n"),
        ("ee\u0301e\u0301ee", 3, "ee\u0301e\u0301\nee\n"),
        ("- 漢字漢字漢字", 8, "• 漢字漢\n  字漢字\n"),
        ("> > > > deep", 6, "│ deep\n"),
        ("100000. x y", 6, "  1000\n  00.\n  x y\n"),
        ("a     b", 10, "a     b\n"),
        ("a     b", 4, "a\nb\n"),
    ],
)
def test_wrapping(text: str, width: int, shown: str) -> None:
    assert plain(text, width=width) == shown


def test_grapheme_clusters_are_not_split() -> None:
    family, heart, flag = "👨‍👩‍👧", "❤️", "🇩🇪"
    for width in range(2, 12):
        words = plain(f"{family}{heart}{flag}" * 3, width=width).split()
        for word in words:
            assert not word.startswith(("\u200d", "\ufe0f"))
            assert re.fullmatch(f"(?:{family}|{heart}|{flag})+", word)


def test_a_cluster_is_bounded() -> None:
    assert extends("a" + "\u0301" * 5, "\u0301")
    assert not extends("a" + "\u0301" * 100, "\u0301")


def test_code_is_not_wrapped_and_has_no_padding() -> None:
    line = "x = " + "a" * 200
    assert plain(f"```python\n{line}\n\tb  \n```", width=40) == f"{line}\n\tb  \n"


# --- code ----------------------------------------------------------------------------------------------------------

PYTHON = '''\
@dataclass
class A(B):
    """A docstring
    over lines."""

    def f(self, x: int = 1) -> str:  # comment
        return f"{x}" + 'y' if True else None
'''
JAVASCRIPT = "/* open\n * comment */\nconst a = `multi\n${line} text`; // end\nif (a == 1) { f('x'); }\n"
HTML = "<!-- a\ncomment -->\n<p class='x'>t</p>\n<script>\nlet a = 1;\nlet b = 'c';\n</script>\n<b>x</b>\n"
GO = "/* a\n b */\nfunc f() string {\n\ts := `raw\n string`\n\treturn s\n}\n"


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("python", PYTHON),
        ("js", JAVASCRIPT),
        ("html", HTML),
        ("go", GO),
        ("c", "/* a\n * b */\n#include <x.h>\nint main(void) {\n  return 0; // c\n}\n"),
        ("css", "/* a\nb */\na { color: red; }\n"),
        ("sql", "/* a\nb */\nSELECT * FROM t -- c\nWHERE x = 'y';\n"),
        ("rust", '/* a\nb */\nfn main() {\n    let s = "a\n b";\n}\n'),
        ("bash", 'for i in 1; do echo "$i\n x"; done # c\n'),
        ("json", '{"a": [1, true],\n "b": "c"}\n'),
        ("yaml", "a: 1\nb:\n  - x # c\n"),
        ("php", "/* a\nb */\necho 'x';\n"),
        ("diff", "-a\n+b\n c\n"),
    ],
)
def test_colours_are_those_of_the_whole_block(language: str, source: str) -> None:
    """Line by line gives what lexing the finished block gives."""
    from pygments.lexer import RegexLexer
    from pygments.lexers import get_lexer_by_name

    from slmchat.terminal.markdown_code import _pieces, highlighter

    lines = source.split("\n")[:-1]
    block = highlighter(language)
    assert block is not None
    one_by_one = [piece for line in lines for piece in [*block.line(line), ("\n", 0)]]
    stack = ("root", "php") if language == "php" else ("root",)
    lexer = get_lexer_by_name(language)
    tokens = (
        RegexLexer.get_tokens_unprocessed(lexer, source, stack)
        if block._has_state
        else lexer.get_tokens_unprocessed(source)
    )
    whole = _pieces((kind, value) for _, kind, value in tokens)
    assert _cells(one_by_one) == _cells(whole)
    assert "".join(text for text, _ in one_by_one) == source


def _cells(pieces: list[tuple[str, int]]) -> list[tuple[str, int]]:
    return [(char, style) for text, style in pieces for char in text if not char.isspace()]


@pytest.mark.parametrize(
    ("begun", "rest", "shown"),
    [
        ("Here:\n```python\nx = 1\ny", "# not a heading\n__all__ = [1*2*3]\n```\n**Done**", "# not a heading\n__all__ = [1*2*3]\n\nDone"),
        ("1. So:\n    ```\n    a", "    *b*\n    ```\nEnd", "*b*\n\nEnd"),
        ("```\nx\n```", "\n**bold**", "bold"),
        ("Some **bo", "ld** text", "ld** text"),
    ],
)  # fmt: skip
def test_code_that_was_cut_goes_on_as_code(begun: str, rest: str, shown: str) -> None:
    written: list[str] = []
    stream = MarkdownStream(written.append, width=lambda: 60)
    stream.goes_on_behind(begun)
    stream.feed(rest)
    stream.close()
    assert "\n".join(lines_of(screen_of("".join(written)))) == shown


def test_code_colours_on_the_screen() -> None:
    screen = screen_of(render(f"```python\n{PYTHON}```"))
    assert "classdefreturn" in styled(screen, fg="magenta").replace("@dataclass", "").replace(" ", "")
    assert '"""Adocstringoverlines."""' in styled(screen, fg="green").replace(" ", "")


def test_a_block_in_an_unknown_language_stays_plain() -> None:
    assert plain("```nosuchthing\nx = 1\n```") == "x = 1\n"


def test_lines_in_a_long_comment_stay_cheap() -> None:
    from slmchat.terminal.markdown_code import highlighter

    block = highlighter("js")
    assert block is not None
    block.line("/* never closed")
    for _ in range(2000):
        assert block.line("word " * 10)
        assert len(block._open) < 9000


def test_imports_are_late() -> None:
    code = (
        "import sys\n"
        "from slmchat.terminal.markdown import MarkdownStream\n"
        "loaded = lambda: [m for m in ('rich', 'pygments', 'markdown_it', 'wcwidth') if m in sys.modules]\n"
        "s = MarkdownStream(lambda t: None, width=lambda: 80)\n"
        "s.feed('# H\\n- *a* `b`\\n```\\nx\\n```\\n```nosuch\\nx\\n```\\n| a |\\n|---|\\n| b |\\n\\nplain\\n')\n"
        "assert loaded() in ([], ['wcwidth']), loaded()\n"
        "s.feed('```python\\nx = 1\\n```\\n')\n"
        "s.close()\n"
        "assert 'pygments' in loaded() and 'rich' not in sys.modules, loaded()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- properties ----------------------------------------------------------------------------------------------------

# What Markdown is made of, and what small models and terminals get wrong.
_MARKS = r"""
a bc * ** *** _ __ ~~ ` `` ``` ~~~ > \ \( \) \[ \] $$ [ ] ( ) ]( ![ | http://x.y/z https:// < <https://a.b> <br> : ! .
- --- === = 中 文。 「 👨‍👩‍👧 ❤️ 🇩🇪 한국 " /* */ ''' snake_case longlonglonglonglonglong h &amp;
"""
_SPACED = ["\n", "\n\n", " ", "  ", "    ", "\t", "\r", "# ", "## ", "- ", "* ", "1. ", "10) ", "> ", "[ ] ", "[x] "]
_LINES = ["```py\n", "```js\n", "| a | b |\n", "|---|:-:|\n", "some words here ", "def f():"]
_ATOMS = st.sampled_from(
    [*_MARKS.split(), *_SPACED, *_SPACED, *_LINES, "e\u0301", "\u0301", "\u200d", "x" * 90, "word " * 30]
)
DOCUMENTS = st.one_of(st.lists(_ATOMS, max_size=60).map("".join), st.text(max_size=200))
PLACES = st.lists(st.integers(0, 10_000), max_size=30)
WIDTHS = st.sampled_from([2, 3, 5, 12, 20, 40, 80])


@pytest.mark.slow
@settings(max_examples=150)
@given(DOCUMENTS, PLACES, WIDTHS, st.booleans())
@example(SMALL_MODEL_ANSWER, list(range(1000)), 40, True)
@example("a **" + "b" * 500 + "** `" + "c" * 500 + "` [" + "d" * 500 + "](e)", list(range(3000)), 40, True)
@example("[a](https://" + "d" * 3000 + ") https://" + "e" * 3000, list(range(9000)), 40, True)
@example("```js\n" + "x = 1; " * 300 + "\n/* a\nb */\n```", list(range(3000)), 40, True)
@example("| a |\n|---|\n" + "| b |\n" * 30 + "| " + "c" * 5000 + " |\n", list(range(9000)), 40, True)
@example("# " + "x " * 300 + "\n" + "- " * 300 + "\n$$\n" + "y " * 900 + "\n$$", list(range(4000)), 40, True)
@example("*" * 500 + "a" + "*" * 500 + "\n\n    " + "def f " * 60 + ":", list(range(2000)), 40, True)
def test_any_split_writes_the_same(text: str, places: list[int], width: int, has_color: bool) -> None:
    whole = render(text, width=width, has_color=has_color)
    assert render(cuts(text, places), width=width, has_color=has_color) == whole
    assert render(list(text), width=width, has_color=has_color) == whole


@pytest.mark.slow
@settings(max_examples=100)
@given(st.lists(_ATOMS, max_size=40).map("".join), PLACES)
def test_any_split_gives_the_same_screen(text: str, places: list[int]) -> None:
    whole, split = screen_of(render(text), height=60), screen_of(render(cuts(text, places)), height=60)
    assert split.display == whole.display
    assert (split.cursor.x, split.cursor.attrs) == (0, whole.default_char)


@pytest.mark.slow
@settings(max_examples=150)
@given(DOCUMENTS, WIDTHS, st.booleans())
def test_no_line_is_wider_than_the_window_or_padded(text: str, width: int, has_color: bool) -> None:
    if "```" in text or "~~~" in text or "    " in text or "\t" in text:
        return  # code is not wrapped
    for line in plain(text, width=width, has_color=has_color).split("\n"):
        assert wcswidth(line) <= width or re.search(r"https?://|www\.", line)  # an address stays in one piece
        assert not line.endswith(" ")


@pytest.mark.slow
@settings(max_examples=150)
@given(DOCUMENTS, WIDTHS)
def test_every_letter_is_shown_in_order(text: str, width: int) -> None:
    """Without the constructs that hide text (addresses, info strings) or lay it out side by side (tables)."""
    text = sanitize(text)  # invisible characters are told in letters
    for hidden in ("](", "|", "```", "~~~", "!["):
        text = text.replace(hidden, "")
    if any(hidden in text for hidden in ("](", "|", "```", "~~~", "![")):
        return
    shown = plain(text, width=width)
    assert [char for char in shown if char.isalnum()] == [char for char in text if char.isalnum()]


@settings(max_examples=200)
@given(st.lists(_ATOMS, max_size=40).map("".join))
@pytest.mark.slow
def test_styles_are_reset_at_the_end_of_every_line(text: str) -> None:
    for line in render(text).split("\n"):
        codes = re.findall(r"\x1b\[[0-9;]*m", line)
        assert not codes or codes[-1] == "\x1b[0m"
        assert "\x1b" not in CONTROL.sub("", line)
