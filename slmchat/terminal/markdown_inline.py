"""Inline Markdown as it streams: emphasis, code spans, links, escapes. One line of the answer at a time.

Knows: CommonMark's delimiter rules, bent where small models need it, and when a character's style is certain.
Refuses to know: blocks, wrapping, control sequences. It turns text into pieces.

What is shown when. Text outside markup goes on at once. An opening delimiter (`**`, a backtick, `[`) holds back what
follows until it is closed; then all of it goes on in its style. If it is not closed within HOLD_LIMIT characters or
by the end of the line, the delimiter is text, and what stood behind it is looked at again. So nothing is ever redrawn,
no style is guessed, and a stray `**` costs a short wait. Every decision looks only at the characters up to where it is
taken, so it does not matter how the text was cut into chunks.

Where we leave CommonMark, because of what small models write:
- A line end ends all inline markup; `x**2 + y**2`, `2*3*4` and `__init__` are not emphasis; `**Title:**text` is.
- LaTeX between `\\(` and `\\)`, `\\[` and `\\]`, `$$` and `$$` is left alone, and `\\(` and its kin are not escapes.
- HTML and entities are shown as written. Reference links are shown as written: their target may come much later.
"""

import re
import unicodedata
from collections.abc import Callable

from slmchat.terminal import latex
from slmchat.terminal.markdown_layout import (
    BLUE,
    BOLD,
    CYAN,
    DIM,
    ITALIC,
    NONE,
    STRIKE,
    UNDERLINE,
    Piece,
    merged,
    restyled,
)
from slmchat.terminal.markdown_links import (
    ADDRESS,
    ADDRESS_LIMIT,
    BRACKETED,
    MAYBE_BRACKETED,
    MAYBE_TARGET,
    SCHEMES,
    TARGET,
    closing_bracket,
    without_punctuation,
)

# Most characters that an open delimiter holds back. About forty tokens; longer bold text is rare.
HOLD_LIMIT = 200

_CODE = CYAN
_LINK = UNDERLINE | BLUE
_IMAGE = DIM

_PLAIN = re.compile(r"[^\\`*_~\[!<h$]+")
_ESCAPABLE = frozenset("\\`*_~#+-.!|<>$&\"'^@=?/%")
# Between single dollars only what looks like mathematics is: a price and the name of a variable of a shell are not.
_MAYBE_FORMULA = re.compile(r"\$[A-Za-z\\({|]")
_FORMULA = re.compile(r"\$((?:[^$\n]*[\\^_{}=<>+*/-][^$\n]*|[A-Za-z])(?<=[^\s\\]))\$(?!\w)")
_TICKS = re.compile(r"`+")
_RUN = re.compile(r"\*+|_+|~+")
_DUNDER = re.compile(r"[a-z0-9_]+")
_MATH = {"\\(": "\\)", "\\[": "\\]", "$$": "$$"}


class _Node:
    """Held text, or a run of delimiters that may still become markup."""

    __slots__ = ("can_close", "is_delimiter", "length", "style", "text")

    def __init__(self, text: str, style: int, *, can_open: bool = False, can_close: bool = False) -> None:
        self.text = text
        self.style = style
        self.can_close = can_close
        self.is_delimiter = can_open or can_close
        self.length = len(text)  # of the whole run, for CommonMark's rule of three


class Inline:
    """The inline markup of one line. `put` gets each piece as soon as its style is certain."""

    def __init__(self, put: Callable[[str, int], None], *, has_color: bool) -> None:
        self._put = put
        self._has_color = has_color
        self.begin()

    def begin(self, style: int = NONE) -> None:
        """A new line, in this style."""
        self._style = style
        self._raw = ""  # not yet read
        self._previous = " "  # the character before it
        self._nodes: list[_Node] = []  # read, held since the first opener
        self._openers: list[_Node] = []
        self._held = 0  # characters in the nodes

    def feed(self, text: str) -> None:
        self._raw += text
        self._read(is_end=False)

    def end(self) -> None:
        """The line is complete: what was held goes on, open delimiters as text."""
        self._read(is_end=True)
        self._openers.clear()
        self._release()

    def _read(self, *, is_end: bool) -> None:
        """Take tokens from the raw text until it is empty or more must be seen."""
        while self._raw:
            plain = _PLAIN.match(self._raw)
            length = plain.end() if plain else self._read_special(self._raw[0], is_end)
            if not length:
                return
            if plain:
                self._add(plain[0])
            self._previous = self._raw[length - 1]
            self._raw = self._raw[length:]

    def _read_special(self, char: str, is_end: bool) -> int:
        """Read one token that starts with a special character: how long it was, 0 when more must be seen."""
        if char == "\\" or char == "$":
            return self._read_escape(is_end)
        if char == "`":
            return self._read_code(is_end)
        if char in "*_~":
            return self._read_run(is_end)
        if char == "h":
            return self._read_address(is_end)
        if char == "<":
            return self._read_bracketed(is_end)
        return self._read_link(is_end)

    def _text(self, length: int) -> int:
        """The first characters of the raw text are text after all."""
        self._add(self._raw[:length])
        return length

    def _read_escape(self, is_end: bool) -> int:
        raw = self._raw
        if len(raw) == 1:
            if not is_end:
                return 0
            return 1 if raw == "\\" else self._text(1)  # a backslash at the line's end is a hard break
        close = _MATH.get(raw[:2])
        if close:
            end = raw.find(close, 2, HOLD_LIMIT)
            if end >= 0:
                return self._formula(raw[2:end], end + 2)
            return self._text(2) if is_end or len(raw) >= HOLD_LIMIT else 0
        if _MAYBE_FORMULA.match(raw) and not self._previous.isalnum():
            formula = _FORMULA.match(raw[:HOLD_LIMIT])
            if formula is not None:
                return self._formula(formula[1], formula.end())
            if "$" not in raw[1:] and not is_end and len(raw) < HOLD_LIMIT:
                return 0
        if raw[0] == "\\" and raw[1] in _ESCAPABLE:
            self._add(raw[1])
            return 2
        return self._text(1)

    def _formula(self, source: str, length: int) -> int:
        """Mathematics whose source, with its delimiters, is the beginning of the raw text: as text, or as it stands."""
        self._add(latex.to_unicode(source) or self._raw[:length])
        return length

    def _read_code(self, is_end: bool) -> int:
        window = self._raw[:HOLD_LIMIT]
        is_all = is_end or len(self._raw) > HOLD_LIMIT
        runs = _TICKS.finditer(window)
        ticks = next(runs)[0]
        for run in runs:
            if run.end() == len(window) and not is_all:
                return 0  # the run may grow
            if len(run[0]) == len(ticks):
                self._add_code(window[len(ticks) : run.start()], ticks)
                return run.end()
        return self._text(len(ticks)) if is_all else 0

    def _add_code(self, code: str, ticks: str) -> None:
        if not self._has_color:  # nothing else would show that it is code
            self._add_whole(ticks + code + ticks, self._style)
            return
        if code[0] == " " == code[-1] and code.strip():
            code = code[1:-1]
        self._add_whole(code, restyled(self._style, _CODE))

    def _read_run(self, is_end: bool) -> int:
        run_match = _RUN.match(self._raw[:HOLD_LIMIT])
        assert run_match is not None, "called at a delimiter"
        run = run_match[0]
        if len(run) == HOLD_LIMIT:
            return self._text(HOLD_LIMIT)
        if len(run) == len(self._raw) and not is_end:
            return 0  # it may grow, and the character behind it counts
        following = self._raw[len(run)] if len(self._raw) > len(run) else " "
        can_open, can_close = _flanking(run, self._previous, following)
        if can_close:
            run = self._close(run, can_open=can_open)
        if run and can_open:
            node = _Node(run, self._style, can_open=True, can_close=can_close)
            self._nodes.append(node)
            self._openers.append(node)
            self._held += len(run)
            self._give_up_if_full()
        else:
            self._add(run)
        return run_match.end()

    def _close(self, run: str, *, can_open: bool) -> str:
        """Match a closing run with the openers before it; returns what is left of it."""
        length = len(run)
        while run:
            opener = next((o for o in reversed(self._openers) if _matches(o, run, length, can_open)), None)
            if opener is None:
                break
            used = 2 if len(run) > 1 and len(opener.text) > 1 else 1
            inside = self._nodes[self._nodes.index(opener) + 1 :]
            del self._openers[self._openers.index(opener) + 1 :]
            if run == "__" == opener.text and len(inside) == 1 and _DUNDER.fullmatch(inside[0].text):
                self._openers.pop()  # __init__ is a name
                break
            self._wrap(opener, inside, run[0], used)
            run = run[used:]
            if not opener.text:
                self._openers.remove(opener)
        if not self._openers:
            self._release()
        return run

    def _wrap(self, opener: _Node, inside: list[_Node], char: str, used: int) -> None:
        """Give what stands inside its style, and take the delimiters away."""
        style = STRIKE | DIM if char == "~" else BOLD if used == 2 else ITALIC
        for node in inside:
            node.style = restyled(node.style, style)
        opener.text = opener.text[used:]
        self._held -= used
        if char == "~" and not self._has_color:  # without the stroke the text would say the opposite
            self._nodes.insert(self._nodes.index(opener) + 1, _Node("~~", self._style))
            self._nodes.append(_Node("~~", self._style))
            self._held += 4

    def _read_address(self, is_end: bool) -> int:
        """A bare address, or just a word with an h."""
        window = self._raw[:ADDRESS_LIMIT]
        found = None if self._previous.isalnum() else ADDRESS.match(window)
        if not found:
            is_open = not is_end and any(start.startswith(window) for start in SCHEMES)
            return 0 if is_open and not self._previous.isalnum() else self._text(1)
        if found.end() == ADDRESS_LIMIT:
            return self._text(1)
        if found.end() == len(self._raw) and not is_end:
            return 0
        address = without_punctuation(found[0])
        if not ADDRESS.fullmatch(address):
            return self._text(1)
        self._add_link([(address, NONE)], address)
        return len(address)

    def _read_bracketed(self, is_end: bool) -> int:
        window = self._raw[:ADDRESS_LIMIT]
        found = BRACKETED.match(window)
        if found:
            address = found[1]
            self._add_link([(address, NONE)], address)
            return found.end()
        if is_end or len(window) == ADDRESS_LIMIT or not MAYBE_BRACKETED.fullmatch(window):
            return self._text(1)
        return 0

    def _read_link(self, is_end: bool) -> int:
        """`[text](address "title")`, or an image with `!` in front."""
        raw, is_image = self._raw, self._raw[0] == "!"
        if is_image:
            if len(raw) == 1 and not is_end:
                return 0
            if raw[1:2] != "[":
                return self._text(1)
        opening = 1 if is_image else 0
        closing = closing_bracket(raw[: opening + HOLD_LIMIT], opening)
        if closing < 0:
            return self._text(opening + 1) if is_end or len(raw) >= opening + HOLD_LIMIT else 0
        rest = raw[closing + 1 : closing + 1 + ADDRESS_LIMIT]
        found = TARGET.match(rest)
        if not found:
            is_open = not is_end and len(rest) < ADDRESS_LIMIT and (not rest or MAYBE_TARGET.fullmatch(rest))
            return 0 if is_open else self._text(opening + 1)
        label, address = raw[opening + 1 : closing], found[1].removeprefix("<").removesuffix(">")
        if is_image:
            self._add_link([(f"[image: {label}]", _IMAGE)], address, shows_address=False)
        else:
            pieces = render_inline(label, NONE, has_color=self._has_color)
            self._add_link(pieces or [(address, NONE)], address)
        return closing + 1 + found.end()

    def _add_link(self, pieces: list[Piece], address: str, *, shows_address: bool = True) -> None:
        """A link, and its address where the text is another one."""
        shown = "".join(text for text, _ in pieces)
        for text, style in pieces:
            self._add_whole(text, restyled(self._style, restyled(style, _LINK if shows_address else NONE)))
        is_same = shown in (address, address.removeprefix("mailto:"), address.removesuffix("/"))
        if shows_address and address and not is_same:
            self._add_whole(f" ({address})", self._style)

    def _add(self, text: str) -> None:
        """Text in the style of the line; an open delimiter holds it back, up to the limit."""
        while text:
            if not self._openers:
                self._put(text, self._style)
                return
            part, text = text[: HOLD_LIMIT - self._held], text[HOLD_LIMIT - self._held :]
            self._hold(part, self._style)

    def _add_whole(self, text: str, style: int) -> None:
        """Text that was read as one."""
        if self._openers:
            self._hold(text, style)
        else:
            self._put(text, style)

    def _hold(self, text: str, style: int) -> None:
        last = self._nodes[-1]
        if not last.is_delimiter and last.style == style:
            last.text += text
        else:
            self._nodes.append(_Node(text, style))
        self._held += len(text)
        self._give_up_if_full()

    def _give_up_if_full(self) -> None:
        while self._openers and self._held >= HOLD_LIMIT:
            self._openers.pop(0)
            self._release()

    def _release(self) -> None:
        """Put what stands before the first opener."""
        first = self._nodes.index(self._openers[0]) if self._openers else len(self._nodes)
        for node in self._nodes[:first]:
            if node.text:
                self._put(node.text, node.style)
        del self._nodes[:first]
        self._held = sum(len(node.text) for node in self._nodes)


def render_inline(text: str, style: int, *, has_color: bool) -> list[Piece]:
    """The pieces of a whole line."""
    pieces: list[Piece] = []
    inline = Inline(lambda *piece: pieces.append(piece), has_color=has_color)
    inline.begin(style)
    inline.feed(text)
    inline.end()
    return merged(pieces)


def _flanking(run: str, before: str, after: str) -> tuple[bool, bool]:
    """Whether a run of delimiters may open and may close (CommonMark 6.2, with the exceptions named above)."""
    has_space_before, has_space_after = before.isspace(), after.isspace()
    if run[0] == "~":
        return (len(run) == 2 and not has_space_after, len(run) == 2 and not has_space_before)
    if run[0] == "*":
        is_inside_word = _is_ascii_word(before) and _is_ascii_word(after)
        can_open = not has_space_after and not is_inside_word and not (len(run) == 1 and before in ")]")
        can_close = not has_space_before and not (len(run) == 1 and is_inside_word)
        return can_open, can_close
    is_mark_before, is_mark_after = _is_mark(before), _is_mark(after)
    is_left = not has_space_after and (not is_mark_after or has_space_before or is_mark_before)
    is_right = not has_space_before and (not is_mark_before or has_space_after or is_mark_after)
    return (is_left and (not is_right or is_mark_before), is_right and (not is_left or is_mark_after))


def _matches(opener: _Node, run: str, length: int, can_open: bool) -> bool:
    """Same character, and CommonMark's rule of three: `*a**b*` is not `a` and `b` in italics."""
    if opener.text[0] != run[0]:
        return False
    if not (opener.can_close or can_open):
        return True
    return (opener.length + length) % 3 != 0 or (opener.length % 3 == 0 and length % 3 == 0)


def _is_ascii_word(char: str) -> bool:
    return char.isascii() and char.isalnum()


def _is_mark(char: str) -> bool:
    return unicodedata.category(char)[0] in "PS"
