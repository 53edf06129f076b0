"""Characters that nobody sees, made visible where they have no work to do.

Most of what is invisible is honest: the joiners of Persian and of Indian scripts, the breaks of Thai, the selectors of
emoji, the marks of Hebrew. The same characters hide text, or turn it around, where they do not belong. So each is
judged by what stands around it: it passes where its script needs it, once, and is written as `<U+202E>` elsewhere.

Knows: the contexts of Unicode's invisible characters. Refuses to know: control characters, streams.

The rules stand on:
- UAX #31 2.3.1 and UTS #39 3.1.1 (Join_Control in the contexts A1, A2 and B), RFC 5892 appendix A. Wider than those,
  since this is prose: one neighbour of a joining script is enough (Persian writes the joiner beside digits, Latin
  words and spaces), and a joiner may end a word.
- UTS #51: one presentation selector behind an emoji, ED-15a keycaps, ED-16 joined sequences, ED-14a tag sequences.
  Of the tag sequences only those of flags that exist: any other would carry text that nobody sees.
- UAX #14: SOFT HYPHEN inside words, ZERO WIDTH SPACE in scripts without spaces, WORD JOINER beside punctuation.
- UAX #9: the marks LRM, RLM and ALM near right-to-left text; embeddings and isolates near it that are closed on their
  line. Overrides (LRO, RLO) always show: they are what spoofs.
- StandardizedVariants.txt and UTS #37: which characters take the other variation selectors.
"""

import unicodedata

from slmchat.lazy_patterns import lazy_pattern

# How far around a mark of direction right-to-left text is looked for, and the end of an embedding; in characters.
REACH = 64
# More invisible characters than this in a row are told at once: the longest honest run, a flag, has seven.
_RUN = 16

_TAG_END = "\U000e007f"
_BLACK_FLAG = "\U0001f3f4"
# England, Scotland, Wales (recommended for interchange), Northern Ireland, Texas and California (drawn by some).
_FLAGS = frozenset(
    "".join(chr(0xE0000 + ord(char)) for char in code) + _TAG_END
    for code in ("gbeng", "gbsct", "gbwls", "gbnir", "ustx", "usca")
)

# Cf and Default_Ignorable_Code_Point, written out so that every Python (and its Unicode version) agrees.
# Left out because they are seen: U+0600-0605, 06DD, 070F, 0890-0891, 08E2, 110BD, 110CD (number and end signs).
_OPENERS, _OVERRIDES = "\u202a\u202b\u2066-\u2068", "\u202d\u202e"
_CLOSERS = {"\u202a": "\u202c", "\u202b": "\u202c", "\u2066": "\u2069", "\u2067": "\u2069", "\u2068": "\u2069"}
_OTHERS = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u2065\u206a-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    r"\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_UNIT = lazy_pattern(f"[{_OPENERS}{_OVERRIDES}\u202c\u2069]|[{_OTHERS}]{{1,{_RUN}}}")
_BIDI = lazy_pattern(f"[{_OPENERS}{_OVERRIDES}\u202c\u2069\n]")
_SELECTOR = lazy_pattern("[\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")

# Scripts whose letters join, stack or form conjuncts, so that ZWJ and ZWNJ change what is read: Hebrew (with its
# points), Arabic to Mandaic and Arabic Extended, the Brahmic scripts of India and Sri Lanka, Myanmar, Khmer,
# Mongolian, Tai Tham, Balinese to Batak, Phags-pa to Javanese, Myanmar Extended-A, Meetei Mayek, presentation forms,
# Kharoshthi to Sogdian, Rohingya, Brahmi and its kin, Adlam.
_JOINING = lazy_pattern(
    "[\u0591-\u05f4\u0600-\u085f\u0860-\u0dff\u1000-\u109f\u1780-\u17ff\u1800-\u18af\u1a20-\u1aaf\u1b00-\u1bff\ua840-\ua8ff"
    "\ua980-\ua9df\uaa60-\uaa7f\uaae0-\uaaff\uabc0-\uabff\ufb1d-\ufdff\ufe70-\ufefc\U00010a00-\U00010fff"
    "\U00011000-\U00011fff\U0001e900-\U0001e95f]"
)
# Written without spaces between words: Thai, Lao, Tibetan, Myanmar, Khmer, New Tai Lue, Tai Tham, Balinese, Javanese
# and their kin, and what East Asia writes: radicals to kana, ideographs, full width.
_SPACELESS = lazy_pattern(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1bff\ua980-\ua9ff\uaa00-\uaadf\u2e80-\u312f"
    "\u3190-\u9fff\uf900-\ufaff\uff01-\uff9f\U00020000-\U0003ffff]"
)
# Right-to-left text with its digits: Hebrew to Arabic Extended-A, presentation forms, the rows above the first plane.
_RIGHT_TO_LEFT = lazy_pattern(
    "[\u0590-\u061b\u061d-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
# Blocks that hold the Extended_Pictographic characters (emoji-data.txt), skin tones included.
_PICTOGRAPH = lazy_pattern(
    "[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u23ff\u24c2\u25a0-\u27bf\u2934\u2935\u2b00-\u2bff"
    "\u3030\u303d\u3297\u3299\U0001f000-\U0001faff]"
)
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Selectors by the characters that take them: ideographs (compatibility forms and UTS #37), mathematical operators and
# the slashed zero, full-width punctuation, Myanmar, Phags-pa, Manichaean, hieroglyphs, Mongolian letters.
_VARIANTS = tuple(
    (lazy_pattern(f"[{selectors}]"), lazy_pattern(f"[{bases}]"))
    for selectors, bases in (
        ("\U000e0100-\U000e01ef", f"\u3005-\u3007{_HAN}"),
        ("\ufe00-\ufe02", _HAN),
        ("\ufe00", "0\u2205\u2229-\u22ff\u2a00-\u2aff\u1000-\u109f\uaa60-\uaa7f\ua840-\ua87f\U00010ac0-\U00010aff"),
        ("\ufe00-\ufe01", "\u2018\u2019\u201c\u201d\u3001\u3002\uff01\uff0c\uff0e\uff1a\uff1b\uff1f"),
        ("\ufe00-\ufe06", "\U00013000-\U0001342f"),
        ("\u180b-\u180d\u180f", "\u1820-\u18aa"),
        ("\ufe0e-\ufe0f", "#*0-9"),
    )
)
_JOINERS, _MARKS = "\u200c\u200d", "\u200e\u200f\u061c"
_ZWJ, _SOFT_HYPHEN, _ZERO_WIDTH_SPACE, _WORD_JOINER = "\u200d", "\u00ad", "\u200b", "\u2060"
# Invisible characters that belong to one script: what stands before, or after, must be of it.
_OWN_SCRIPT = tuple(
    (lazy_pattern(f"[{chars}]"), before and lazy_pattern(before), after and lazy_pattern(after))
    for chars, before, after in (
        ("\u180e", "[\u180b-\u180d\u180f\u1820-\u18aa]", "[\u1820-\u18aa]"),  # Mongolian vowel separator
        ("\u1160", "[\u1100-\u115e\ua960-\ua97c]", ""),  # Hangul without a vowel
        ("\u115f", "", "[\u1161-\u11a7\ud7b0-\ud7c6]"),  # Hangul without a first consonant
        ("\U00013430-\U0001343f", "[\U00013000-\U00013455]", ""),  # hieroglyphs that are stacked
        ("\U0001bca0-\U0001bca3", "[\U0001bc00-\U0001bc9f]", ""),  # shorthand
        ("\U0001d173-\U0001d17a", "", "[\U0001d100-\U0001d1ff]"),  # musical beams and slurs
        ("\U0001d173-\U0001d17a", "[\U0001d100-\U0001d1ff]", ""),
    )
)
# Stands in `_behind` for a character that was shown as its number: it is no neighbour that anything belongs to.
_NAMED = "\x00"


class InvisibleFilter:
    """A filter over one stream of text without controls. However it is cut into chunks, the output is the same.

    Held back are an invisible character until the next one decides about it, and a mark of direction without
    right-to-left text before it for `REACH` characters, or to the end of the line.
    """

    __slots__ = ("_behind", "_held")

    def __init__(self, behind: str = "") -> None:
        """`behind`: what stands before the text."""
        self._behind = behind
        self._held = ""

    def feed(self, text: str) -> str:
        """What can be decided of the text so far."""
        if not self._held and (text.isascii() or not _UNIT.search(text)):  # all invisible ones are beyond ASCII
            self._behind = (self._behind + text)[-REACH:]
            return text
        return self._decide(self._held + text, is_end=False)

    def flush(self) -> str:
        """The end of the stream: what was held back. Ready for a new stream."""
        rest = self._decide(self._held, is_end=True)
        self._behind = ""
        return rest

    def _decide(self, text: str, *, is_end: bool) -> str:
        out: list[str] = []
        position, self._held = 0, ""
        while unit := _UNIT.search(text, position):
            start, end = unit.span()
            out.append(self._pass(text[position:start]))
            shown = self._shown(text, start, end, is_end=is_end)
            if shown is None:
                self._held = text[start:]
                return "".join(out)
            piece, position = shown
            out.append(piece)
        out.append(self._pass(text[position:]))
        return "".join(out)

    def _pass(self, text: str) -> str:
        self._behind = (self._behind + text)[-REACH:]
        return text

    def _name(self, run: str) -> str:
        named = "".join(f"<U+{ord(char):04X}>" for char in run)
        self._behind = (self._behind + _NAMED * len(named))[-REACH:]
        return named

    def _shown(self, text: str, start: int, end: int, *, is_end: bool) -> tuple[str, int] | None:
        """(what is shown of the unit, where it ends); None when more has to come first."""
        run = text[start:end]
        if end == len(text) and len(run) < _RUN and not is_end and run not in _OVERRIDES and run not in "\u202c\u2069":
            return None
        ahead, is_whole = _ahead(text, end, is_end=is_end)
        if run in _CLOSERS:
            return self._pair(run, ahead, end, is_whole=is_whole)
        kept = run[0] if _SELECTOR.match(run) and _takes(self._behind[-1:], run[0]) else ""
        run = run.removeprefix(kept)
        if run in _MARKS and run and not is_whole and not _has_right_to_left(self._behind + _clear(ahead)):
            return None
        if run == _SOFT_HYPHEN and len(ahead) < 2 and not is_whole:
            return None
        self._pass(kept)
        if run:
            kept += self._pass(run) if self._fits(run, text[end : end + 1], ahead) else self._name(run)
        return kept, end

    def _pair(self, opener: str, ahead: str, end: int, *, is_whole: bool) -> tuple[str, int] | None:
        """An embedding or isolate with all that is in it, when it is closed on its line, near right-to-left text."""
        length = _length_to(_CLOSERS[opener], ahead)
        content, rest = ahead[: length or 0], ahead[(length or 0) + 1 :]
        is_near = _has_right_to_left(self._behind + content + _clear(rest))
        if not is_whole and not (length is not None and is_near):
            return None
        if length is not None and is_near:
            inside = InvisibleFilter(self._behind + opener)
            if inside.feed(content) + inside.flush() == content:
                return self._pass(opener + content + _CLOSERS[opener]), end + length + 1
        return self._name(opener), end

    def _fits(self, run: str, after: str, ahead: str) -> bool:
        """Whether the run, behind the selector that its base takes, does its work here."""
        before = self._behind[-1:]
        if len(run) > 1:
            return before == _BLACK_FLAG and run in _FLAGS
        if run in _JOINERS:
            return _is_joined(self._behind, run, after)
        if run in _MARKS:
            return _has_right_to_left(self._behind + _clear(ahead))
        if run == _SOFT_HYPHEN:
            word = self._behind[-2:] + ahead[:2]
            return len(word) == 4 and all(map(_is_letter, word)) and not _UNIT.search(ahead[:2])
        if run == _ZERO_WIDTH_SPACE:
            return any(_SPACELESS.match(char) for char in (before, after) if char)
        if run == _WORD_JOINER:
            return _keeps_together(before, after)
        if run == "\u034f":  # keeps two marks apart that would change places, as in the Hebrew Bible
            return _is_letter(before) and unicodedata.category(after or " ")[0] == "M"
        return any(
            chars.match(run) and (not old or old.match(before)) and (not new or new.match(after))
            for chars, old, new in _OWN_SCRIPT
        )


def _ahead(text: str, start: int, *, is_end: bool) -> tuple[str, bool]:
    """What follows on the line, as far as `REACH`, and whether nothing more can be added to it."""
    ahead = text[start : start + REACH]
    line, line_end, _ = ahead.partition("\n")
    return line, bool(line_end) or is_end or len(ahead) == REACH


def _clear(ahead: str) -> str:
    """What follows up to an invisible character; a single mark of direction is none, since it belongs to the same text.

    What may still be written as its number must not stand between a mark and the text that it belongs to: the view of
    a view would be another.
    """
    stop = next((unit.start() for unit in _UNIT.finditer(ahead) if unit.group() not in (*_MARKS,)), len(ahead))
    return ahead[:stop]


def _length_to(closer: str, ahead: str) -> int | None:
    """How far away the closer is that belongs to an opener before `ahead`; None when it is not there."""
    open_ = [closer]
    for found in _BIDI.finditer(ahead):
        char = found.group()
        if char in _CLOSERS:
            open_.append(_CLOSERS[char])
        elif char != open_.pop():
            return None
        elif not open_:
            return found.start()
    return None


def _takes(base: str, selector: str) -> bool:
    """Whether the character takes this variation selector."""
    if selector in "\ufe0e\ufe0f" and _PICTOGRAPH.match(base):
        return True
    return any(selectors.match(selector) and bases.match(base) for selectors, bases in _VARIANTS)


def _is_joined(behind: str, joiner: str, after: str) -> bool:
    """Whether a joiner does its work: in a script that has them, behind a virama, between the parts of one emoji."""
    before = behind[-1:]
    if before and unicodedata.combining(before) == 9:  # a virama: RFC 5892 A.1, A.2
        return True
    if _is_joining_letter(before) or _is_joining_letter(after):
        return True
    base = behind[-2:-1] if before in ("\ufe0e", "\ufe0f") else before
    return joiner == _ZWJ and bool(_PICTOGRAPH.match(base) and _PICTOGRAPH.match(after))


def _is_joining_letter(char: str) -> bool:
    return _JOINING.match(char) is not None and _is_letter(char)


def _is_letter(char: str) -> bool:
    return char != "" and unicodedata.category(char)[0] in "LM"


def _keeps_together(before: str, after: str) -> bool:
    """A word joiner keeps something beside punctuation, signs, or in a script without spaces; never inside a word."""
    if not before or not after or before == _NAMED:
        return False
    if _SPACELESS.match(before) or _SPACELESS.match(after):
        return True
    kinds = unicodedata.category(before)[0], unicodedata.category(after)[0]
    return not set(kinds) <= set("LMCZ") and not set(kinds) <= set("NCZ")


def _has_right_to_left(text: str) -> bool:
    return _RIGHT_TO_LEFT.search(text) is not None
