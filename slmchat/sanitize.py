"""Untrusted text made safe to show: model completions, model metadata, file names.

Two filters in one: what a terminal obeys is removed from all that is shown or kept; what nobody sees is told only in
what is shown (invisible.py), so that a record stays what was said.

Knows: which characters a terminal obeys instead of printing.
Refuses to know: streams, colours, Markdown. It only removes or replaces characters, never adds a control.

The tables stand on:
- ECMA-48 (5th ed.) 5.2-5.3: C0 is 00-1F, C1 is 80-9F or `ESC` and 40-5F. 5.4: `CSI P..P I..I F` has parameter bytes
  30-3F, intermediate bytes 20-2F, one final byte 40-7E. 5.6: APC, DCS, OSC, PM and SOS open a string that ST closes.
- ECMA-35 13.2: `ESC I..I F`: intermediates 20-2F (nF), then a final 30-3F (Fp), 40-5F (Fe), 60-7E (Fs).
- xterm "Control Sequences": 8-bit C1 controls are obeyed too; an OSC may also end with BEL.
- Paul Williams' parser for the DEC VT500 (vt100.net/emu/dec_ansi_parser): CAN and SUB abort any sequence, ESC starts
  a new one from anywhere, C0 controls inside an escape or CSI sequence are executed at once and do not end it.

Choices of our own:
- "\\r\\n" and a lone "\\r" become "\\n": a bare carriage return would let text overwrite what stands on the line.
- A control string also ends at a line end or after SEQUENCE_LIMIT characters: an introducer that is never closed
  must not swallow the answer. The payload up to there is lost; what follows is text again.
- A character above U+009F inside an escape or CSI sequence ends it and is shown: no sequence contains one.
"""

from enum import IntEnum

from slmchat.invisible import InvisibleFilter
from slmchat.lazy_patterns import lazy_pattern

# Longest sequence that is swallowed whole. An OSC 8 link of 2,083 bytes (the limit of VTE) fits well.
SEQUENCE_LIMIT = 4096

_ESC, _BEL, _ST = "\x1b", "\x07", "\x9c"
_ABORT = "\x18\x1a"  # CAN, SUB
_STRING_C1 = "\x90\x98\x9d\x9e\x9f"  # DCS, SOS, OSC, PM, APC
_STRING_FE = "PX]^_"  # the same five as ESC and a letter
_LINE_SEPARATORS = "\u2028\u2029"
# C0 without \t and \n, DEL, C1, lone surrogates, line and paragraph separator: never written as they are.
_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029"

_CONTROL = lazy_pattern(f"[{_CONTROLS}]")


class _State(IntEnum):
    GROUND = 0
    ESCAPE = 1  # after ESC, before any intermediate
    ESCAPE_INTERMEDIATE = 2
    CSI = 3
    STRING = 4  # the payload of OSC, DCS, PM, APC or SOS


class Sanitizer:
    """A filter over one stream of text. A sequence may be split at any chunk boundary; the output is the same.

    Without `show_invisible` it is the record of what was said: only what a terminal would obey is gone. With it, it is
    the view: characters that a reader cannot see are written as `<U+202E>` where they have no work to do.
    """

    __slots__ = ("_after_cr", "_invisible", "_length", "_state")
    _after_cr: bool

    def __init__(self, *, show_invisible: bool) -> None:
        self._invisible = InvisibleFilter() if show_invisible else None
        self._reset()

    def feed(self, text: str) -> str:
        """The safe part of `text`. Invisible characters are held back until what follows decides about them."""
        if self._state or self._after_cr or _CONTROL.search(text):
            text = self._without_controls(text)
        return self._invisible.feed(text) if self._invisible else text

    def flush(self) -> str:
        """The end of the stream: what was held back; an unfinished sequence is dropped. Ready for a new stream."""
        self._reset()
        return self._invisible.flush() if self._invisible else ""

    def _reset(self) -> None:
        self._state = _State.GROUND
        self._length = 0  # characters of the sequence so far
        self._after_cr = False  # the next "\n" belongs to a "\r" already written as "\n"

    def _without_controls(self, text: str) -> str:
        out: list[str] = []
        position = 0
        while position < len(text):
            if self._state == _State.GROUND:
                special = _CONTROL.search(text, position)
                end = special.start() if special else len(text)
                if end > position:
                    out.append(self._show_run(text[position:end]))
                    position = end
                    continue
            out.append(self._step(text[position]))
            position += 1
        return "".join(out)

    def _step(self, char: str) -> str:
        """One character that is special, or stands inside a sequence."""
        if char in _LINE_SEPARATORS:
            char = "\n"
        if char == _ESC:
            self._enter(_State.ESCAPE)
        elif char == "\x9b":
            self._enter(_State.CSI)
        elif char in _STRING_C1:
            self._enter(_State.STRING)
        elif char in _ABORT or "\x80" <= char <= "\x9f":  # any other C1, ST among them, ends what is open
            self._state = _State.GROUND
        elif self._state == _State.GROUND:
            return self._show_special(char)
        else:
            return self._step_inside(char)
        return ""

    def _enter(self, state: _State) -> None:
        self._state = state
        self._length = 0

    def _step_inside(self, char: str) -> str:
        """One character of an open sequence, none that opens another or aborts."""
        self._length += 1
        is_full = self._length >= SEQUENCE_LIMIT
        if self._state == _State.STRING:
            is_line_end = char in "\r\n"
            if is_line_end or is_full or char == _BEL:
                self._state = _State.GROUND
            return self._show_special(char) if is_line_end else ""
        if char < " ":  # executed at once: line ends and tabs are text, the others are removed
            return self._show_special(char)
        if char > "\x7f":
            self._state = _State.GROUND
            return self._show_any(char)
        self._advance(char)
        if is_full:
            self._state = _State.GROUND
        return ""

    def _advance(self, char: str) -> None:
        """The printable bytes of escape and CSI sequences (ECMA-48 5.4, ECMA-35 13.2)."""
        if char == "\x7f":
            return
        if self._state == _State.CSI:
            if char >= "@":
                self._state = _State.GROUND
        elif char <= "/":
            self._state = _State.ESCAPE_INTERMEDIATE
        elif self._state == _State.ESCAPE and char == "[":
            self._enter(_State.CSI)
        elif self._state == _State.ESCAPE and char in _STRING_FE:
            self._enter(_State.STRING)
        else:
            self._state = _State.GROUND

    def _show_any(self, char: str) -> str:
        return self._show_special(char) if _CONTROL.match(char) else self._show_run(char)

    def _show_run(self, run: str) -> str:
        """Characters without anything special, at least one."""
        if self._after_cr:
            self._after_cr = False
            return run.removeprefix("\n")
        return run

    def _show_special(self, char: str) -> str:
        """A control outside every sequence, and a line end or tab inside one."""
        if char == "\r":
            shown = self._show_run("\n") if not self._after_cr else "\n"
            self._after_cr = True
            return shown
        if char in "\t\n":
            return self._show_run(char)
        if "\ud800" <= char <= "\udfff":  # half of a pair: cannot be encoded, would stop the whole answer
            return self._show_run("\ufffd")
        return ""


def sanitize(text: str, *, one_line: bool = False) -> str:
    """A whole text made safe to show, invisible characters told. `one_line` turns line ends and tabs into spaces."""
    if not (text.isascii() and (text.isprintable() or not _CONTROL.search(text))):
        sanitizer = Sanitizer(show_invisible=True)
        text = sanitizer.feed(text) + sanitizer.flush()
    return text.replace("\n", " ").replace("\t", " ") if one_line else text
