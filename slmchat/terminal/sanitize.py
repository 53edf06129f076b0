"""Untrusted text made safe to show: model completions, model metadata, file names.

Knows: which characters a terminal obeys instead of printing, and which ones a reader cannot see.
Refuses to know: streams, colours, Markdown. It only removes or replaces characters, never adds a control.

The tables stand on:
- ECMA-48 (5th ed.) 5.2-5.3: C0 is 00-1F, C1 is 80-9F or `ESC` and 40-5F. 5.4: `CSI P..P I..I F` has parameter bytes
  30-3F, intermediate bytes 20-2F, one final byte 40-7E. 5.6: APC, DCS, OSC, PM and SOS open a string that ST closes.
- ECMA-35 13.2: `ESC I..I F`: intermediates 20-2F (nF), then a final 30-3F (Fp), 40-5F (Fe), 60-7E (Fs).
- xterm "Control Sequences": 8-bit C1 controls are obeyed too; an OSC may also end with BEL.
- Paul Williams' parser for the DEC VT500 (vt100.net/emu/dec_ansi_parser): CAN and SUB abort any sequence, ESC starts
  a new one from anywhere, C0 controls inside an escape or CSI sequence are executed at once and do not end it.
- Unicode DerivedCoreProperties: Default_Ignorable_Code_Point and the category Cf; RFC 5892 appendix A for joiners.

Choices of our own:
- "\\r\\n" and a lone "\\r" become "\\n": a bare carriage return would let text overwrite what stands on the line.
- A control string also ends at a line end or after SEQUENCE_LIMIT characters: an introducer that is never closed
  must not swallow the answer. The payload up to there is lost; what follows is text again.
- A character above U+009F inside an escape or CSI sequence ends it and is shown: no sequence contains one.
"""

import re
import unicodedata
from enum import IntEnum

# Longest sequence that is swallowed whole. An OSC 8 link of 2,083 bytes (the limit of VTE) fits well.
SEQUENCE_LIMIT = 4096

_ESC, _BEL, _ST = "\x1b", "\x07", "\x9c"
_ABORT = "\x18\x1a"  # CAN, SUB
_STRING_C1 = "\x90\x98\x9d\x9e\x9f"  # DCS, SOS, OSC, PM, APC
_STRING_FE = "PX]^_"  # the same five as ESC and a letter
_LINE_SEPARATORS = "\u2028\u2029"
_ZWNJ, _ZWJ = "\u200c", "\u200d"
_SELECTORS = "\ufe0e\ufe0f"  # VS15 (text) and VS16 (emoji)

# C0 without \t and \n, DEL, C1, lone surrogates, line and paragraph separator: never written as they are.
_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029"

# Cf and Default_Ignorable_Code_Point, written out so that every Python (and its Unicode version) agrees.
# Left out because they are seen or needed: U+0600-0605, 06DD, 070F, 0890-0891, 08E2, 110BD, 110CD (number and end
# signs with a glyph) and U+180B-180D, 180F (they choose the shape of a Mongolian letter).
_INVISIBLE = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    r"\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_CONTROL = re.compile(f"[{_CONTROLS}]")
_CONTROL_OR_INVISIBLE = re.compile(f"[{_CONTROLS}{_INVISIBLE}]")

# Scripts whose letters join, stack or form conjuncts, so that ZWJ and ZWNJ change what is read: Arabic to Mandaic and
# Arabic Extended, the Brahmic scripts of India and Sri Lanka, Myanmar, Khmer, Mongolian, Balinese to Batak, Phags-pa
# to Javanese, Myanmar Extended-A, Meetei Mayek, Arabic presentation forms, Rohingya, Brahmi and its kin, Adlam.
_JOINING_SCRIPT = re.compile(
    r"[\u0600-\u085f\u0860-\u0dff\u1000-\u109f\u1780-\u17ff\u1800-\u18af\u1a20-\u1aaf\u1b00-\u1bff\ua840-\ua8ff"
    r"\ua980-\ua9df\uaa60-\uaa7f\uaae0-\uaaff\uabc0-\uabff\ufb50-\ufdff\ufe70-\ufefc\U00010d00-\U00010d3f"
    r"\U00011000-\U00011fff\U0001e900-\U0001e95f]"
)
# Blocks that hold the Extended_Pictographic characters (emoji-data.txt), skin tones included.
_PICTOGRAPH = re.compile(
    r"[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2194-\u21aa\u2300-\u23ff\u24c2\u25a0-\u27bf\u2934\u2935\u2b00-\u2bff"
    r"\u3030\u303d\u3297\u3299\U0001f000-\U0001faff]"
)


class _State(IntEnum):
    GROUND = 0
    ESCAPE = 1  # after ESC, before any intermediate
    ESCAPE_INTERMEDIATE = 2
    CSI = 3
    STRING = 4  # the payload of OSC, DCS, PM, APC or SOS


class Sanitizer:
    """A filter over one stream of text. A sequence may be split at any chunk boundary; the output is the same.

    `show_invisible` writes characters that a reader cannot see as `<U+202E>`. Joiners inside emoji and inside words
    of scripts that need them stay, and so do VS15 and VS16 behind a character that can take them.
    """

    __slots__ = ("_after_cr", "_care", "_held", "_length", "_previous", "_state")
    _after_cr: bool

    def __init__(self, *, show_invisible: bool) -> None:
        self._care = _CONTROL_OR_INVISIBLE if show_invisible else _CONTROL
        self._reset()

    def feed(self, text: str) -> str:
        """The safe part of `text`. At most a joiner is held back until the next character decides about it."""
        state = self._state
        if not state and not self._after_cr and not self._held and not self._care.search(text):
            if text:
                self._previous = text[-1]
            return text
        out: list[str] = []
        position = 0
        while position < len(text):
            if self._state == _State.GROUND:
                special = self._care.search(text, position)
                end = special.start() if special else len(text)
                if end > position:
                    out.append(self._show_run(text[position:end]))
                    position = end
                    continue
            out.append(self._step(text[position]))
            position += 1
        return "".join(out)

    def flush(self) -> str:
        """The end of the stream: what was held back; an unfinished sequence is dropped. Ready for a new stream."""
        rest = self._release("")
        self._reset()
        return rest

    def _reset(self) -> None:
        self._state = _State.GROUND
        self._length = 0  # characters of the sequence so far
        self._held = ""  # a joiner that waits for the character behind it
        self._previous = ""  # the last character written; empty at the start and behind a <U+...>
        self._after_cr = False  # the next "\n" belongs to a "\r" already written as "\n"

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
        return self._show_special(char) if self._care.match(char) else self._show_run(char)

    def _show_run(self, run: str) -> str:
        """Characters without anything special, at least one."""
        if self._after_cr:
            self._after_cr = False
            if run[0] == "\n":
                run = run[1:]
                if not run:
                    return ""
        shown = self._release(run[0]) + run
        self._previous = run[-1]
        return shown

    def _show_special(self, char: str) -> str:
        """A control or an invisible character outside every sequence, and a line end or tab inside one."""
        if char == "\r":
            shown = self._show_run("\n") if not self._after_cr else "\n"
            self._after_cr = True
            return shown
        if char in "\t\n":
            return self._show_run(char)
        if "\ud800" <= char <= "\udfff":  # half of a pair: cannot be encoded, would stop the whole answer
            return self._show_run("\ufffd")
        if char <= "\x9f":
            return ""
        return self._show_invisible(char)

    def _show_invisible(self, char: str) -> str:
        self._after_cr = False
        released = self._release(char)
        if char in (_ZWNJ, _ZWJ):
            if self._previous and unicodedata.combining(self._previous) == 9:  # a virama: RFC 5892 A.1, A.2
                self._previous = char
                return released + char
            self._held = char
            return released
        if char in _SELECTORS and _takes_selector(self._previous):
            self._previous = char
            return released + char
        self._previous = ""
        return released + _name(char)

    def _release(self, following: str) -> str:
        """The joiner that was held back, now that the character behind it is known (empty: the end)."""
        joiner, self._held = self._held, ""
        if not joiner:
            return ""
        if _is_joined(self._previous, joiner, following):
            return joiner
        self._previous = ""
        return _name(joiner)


def sanitize(text: str, *, one_line: bool = False) -> str:
    """A whole text made safe, invisible characters shown. `one_line` turns line ends and tabs into spaces."""
    if _CONTROL_OR_INVISIBLE.search(text):
        sanitizer = Sanitizer(show_invisible=True)
        text = sanitizer.feed(text) + sanitizer.flush()
    return text.replace("\n", " ").replace("\t", " ") if one_line else text


def _name(char: str) -> str:
    return f"<U+{ord(char):04X}>"


def _takes_selector(base: str) -> bool:
    """VS15 and VS16 follow symbols, digits and punctuation (emoji-variation-sequences.txt), never a letter."""
    return base != "" and unicodedata.category(base)[0] in "SPN"


def _is_joined(before: str, joiner: str, after: str) -> bool:
    """Whether a joiner does its work here: between letters that join, or between the parts of one emoji."""
    if not before or not after:
        return False
    if _is_joining_letter(before) and _is_joining_letter(after):
        return True
    is_emoji_before = before == "\ufe0f" or _PICTOGRAPH.match(before) is not None
    return joiner == _ZWJ and is_emoji_before and _PICTOGRAPH.match(after) is not None


def _is_joining_letter(char: str) -> bool:
    return _JOINING_SCRIPT.match(char) is not None and unicodedata.category(char)[0] in "LM"
