"""Syntax colours for fenced code, one finished line at a time.

Knows: which languages get colours, how a lexer of pygments is carried from line to line.
Refuses to know: fences, terminals. It turns lines into pieces.

Each line is lexed once, in the state that the line before it left, so a line costs the same in a block of any length.
pygments keeps that state to itself, so its loop over the rules is written out here (as the Jupyter console does).

Many lexers know a comment only as one pattern from its start to its end. To colour a comment that is still open, what
would close it is put behind the text: the token then reaches beyond the line, which tells us that it is open. Lexing
goes on from the start of that token when the next line comes.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from slmchat.terminal.markdown_layout import BLUE, BOLD, CYAN, DIM, GREEN, ITALIC, MAGENTA, NONE, RED, Piece, merged

# The names after a fence that get colours, each a name of pygments, and what closes their open tokens.
# Others (text, output, no name) stay plain, and pygments is not imported for them.
_SLASH_STAR = (
    "c cpp c++ csharp cs c# css scss less dart go golang java javascript js jsx kotlin objectivec php rust rs scala "
    "solidity swift typescript ts tsx groovy sql mysql postgresql postgres zig d glsl protobuf proto"
)
_OTHERS = (
    "asm nasm awk bash sh shell zsh console bat batch powershell ps1 basic clojure cmake common-lisp lisp "
    "crystal cython diff docker dockerfile elixir elm erlang fish fortran fsharp f# graphql haskell hs hcl "
    "terraform html xml http ini cfg json json5 julia kconfig latex tex lua make makefile matlab nginx nim nix "
    "objdump ocaml octave pascal perl prolog properties puppet py python python3 py3 pycon python2 r racket rb "
    "ruby scheme sed smalltalk tcl toml vb.net verilog vhdl vim yaml yml"
)
_CLOSERS = {
    **dict.fromkeys(_OTHERS.split(), ""),
    **dict.fromkeys(_SLASH_STAR.split(), "*/"),
    **dict.fromkeys(("go", "golang", "js", "jsx", "javascript", "ts", "tsx", "typescript"), "*/`"),
    **dict.fromkeys(("html", "xml"), "--></script></style>"),
}
# Text that is lexed again while one token stays open; beyond it the token is taken as ended.
_OPEN_LIMIT = 8000
# A longer line is shown plain: minified code is no joy in colours either, and some patterns are slow on long lines.
LINE_LIMIT = 1000

# By the names of pygments' tokens; the nearest parent counts.
_STYLES = {
    "Comment": DIM | ITALIC,
    "Comment.Preproc": MAGENTA,
    "Comment.PreprocFile": GREEN,
    "Keyword": MAGENTA,
    "Keyword.Constant": CYAN,
    "Keyword.Type": CYAN,
    "Operator.Word": MAGENTA,
    "Name.Attribute": CYAN,
    "Name.Builtin": CYAN,
    "Name.Class": BLUE | BOLD,
    "Name.Decorator": MAGENTA,
    "Name.Exception": RED,
    "Name.Function": BLUE,
    "Name.Tag": BLUE,
    "Literal.Number": CYAN,
    "Literal.String": GREEN,
    "Generic.Deleted": RED,
    "Generic.Heading": BOLD,
    "Generic.Inserted": GREEN,
    "Generic.Prompt": DIM,
    "Generic.Subheading": BOLD,
}


class Highlighter:
    """The colours of one block of code."""

    def __init__(self, lexer: Any, closer: str) -> None:
        from pygments.lexer import ExtendedRegexLexer, RegexLexer  # type: ignore[import-untyped]

        self._lexer = lexer
        self._closer = closer
        self._has_state = isinstance(lexer, RegexLexer) and not isinstance(lexer, ExtendedRegexLexer)
        self._stack = ["root", "php"] if "php" in getattr(lexer, "_tokens", ()) else ["root"]  # without `<?php` too
        self._open = ""  # the text of a token that goes on in the next line

    def line(self, text: str) -> list[Piece]:
        """The pieces of the next line (without its line end)."""
        if len(text) > LINE_LIMIT:
            return [(text, NONE)]
        if not self._has_state:
            return _pieces((kind, value) for _, kind, value in self._lexer.get_tokens_unprocessed(text + "\n"))
        start = len(self._open)
        source = self._open + text + "\n"
        return _pieces(_clip(self._lex(source), start, len(source)))

    def _lex(self, source: str) -> Iterator[tuple[int, Any, str]]:
        """Lex to the end of the source, and keep the state there: pygments' RegexLexer.get_tokens_unprocessed."""
        from pygments.token import Error, Whitespace  # type: ignore[import-untyped]

        text, end, position = source + self._closer, len(source), 0
        stack = self._stack
        self._open = ""
        while position < end:
            for match_rule, action, new_state in self._lexer._tokens[stack[-1]]:
                found = match_rule(text, position)
                if not found:
                    continue
                if found.end() > end and end - position < _OPEN_LIMIT:
                    self._open = text[position:end]
                if callable(action) and not isinstance(action, tuple):
                    yield from action(self._lexer, found)
                elif action is not None:
                    yield position, action, found[0]
                position = found.end()
                if not self._open:
                    _move(stack, new_state)
                break
            else:
                if text[position] == "\n":
                    stack[:] = ["root"]
                yield position, Whitespace if text[position] == "\n" else Error, text[position]
                position += 1


def highlighter(language: str) -> Highlighter | None:
    """Colours for the language named after a fence; None when it has none. Imports pygments when it does."""
    name = language.lower()
    if name not in _CLOSERS:
        return None
    from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]
    from pygments.util import ClassNotFound  # type: ignore[import-untyped]

    try:
        lexer = get_lexer_by_name(name)
    except ClassNotFound:  # another version of pygments
        return None
    return Highlighter(lexer, _CLOSERS[name])


def _move(stack: list[str], new_state: Any) -> None:
    """Change the stack of states as a rule says: a name, a tuple of names, or a negative number of states to leave."""
    if new_state is None:
        return
    if isinstance(new_state, int):
        del stack[max(1, len(stack) + new_state) :]
        return
    for state in new_state if isinstance(new_state, tuple) else (new_state,):
        if state == "#push":
            stack.append(stack[-1])
        elif state != "#pop":
            stack.append(state)
        elif len(stack) > 1:
            stack.pop()


def _clip(tokens: Iterable[tuple[int, Any, str]], start: int, end: int) -> Iterator[tuple[Any, str]]:
    for at, kind, value in tokens:
        part = value[max(0, start - at) : max(0, end - at)]
        if part:
            yield kind, part


def _pieces(tokens: Iterable[tuple[Any, str]]) -> list[Piece]:
    return merged((text, _style(kind)) for kind, value in tokens if (text := value.rstrip("\n")))


@lru_cache(maxsize=256)
def _style(kind: Any) -> int:
    """The style of a pygments token type, a tuple of names."""
    for length in range(len(kind), 0, -1):
        style = _STYLES.get(".".join(kind[:length]))
        if style is not None:
            return style
    return NONE
