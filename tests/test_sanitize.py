"""The filter between a model and the terminal: every control sequence, split anywhere, and what must survive."""

from itertools import pairwise

import pytest
from cpu_time import is_linear
from properties import example, given
from properties import strategies as st

from slmchat.invisible import REACH
from slmchat.sanitize import SEQUENCE_LIMIT, Sanitizer, sanitize

ESC = "\x1b"

# Characters that matter to the filter, and a few that do not: random text from these finds the corners.
ALPHABET = st.sampled_from(
    "ab01;[]P\\X^_( \n\r\t<>"
    "\x1b\x00\x07\x18\x1a\x7f\x85\x90\x98\x9b\x9c\x9d\x9e\x9f"
    "\u200d\u200c\u202e\u2028\ufe0f\u00ad\ud800\udfff\U000e0041\u200b\u200f\u2067\u2069\u2060\u180b\ufe00"
    "مهक\u094dé👩💻❤שไ漢"
)
TEXTS = st.text(ALPHABET, max_size=60)


def stream(chunks: list[str], *, show_invisible: bool = True) -> str:
    sanitizer = Sanitizer(show_invisible=show_invisible)
    return "".join(map(sanitizer.feed, chunks)) + sanitizer.flush()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("żółć 漢字 🙂", "żółć 漢字 🙂"),
        ("a\x00b\x07c\x08d\x0be\x0cf\x0eg\x7fh", "abcdefgh"),
        ("one\r\ntwo\rthree\r\r\nfour", "one\ntwo\nthree\n\nfour"),
        ("real\rfake", "real\nfake"),
        ("a\u2028b\u2029c", "a\nb\nc"),
        ("a\x84b\x85c\x9cd", "abcd"),
        # CSI
        (f"{ESC}[31mred{ESC}[0m", "red"),
        (f"{ESC}[2J{ESC}[Hx", "x"),
        (f"{ESC}[?1049hx", "x"),
        (f"{ESC}[>0 qx", "x"),
        ("\x9b31mred\x9b0m", "red"),
        (f"a{ESC}[3\n1mb", "a\nb"),  # VT500: C0 is executed inside the sequence
        (f"a{ESC}[3\x181mb", "a1mb"),  # CAN aborts
        (f"a{ESC}[3\x1a1mb", "a1mb"),  # SUB aborts
        (f"a{ESC}[3{ESC}[1mb", "ab"),  # ESC starts afresh
        (f"a{ESC}[3éb", "aéb"),
        (f"a{ESC}[3\u202eb", "a<U+202E>b"),
        # strings: title, link, clipboard, sixel, kitty image, and their 8-bit forms
        (f"{ESC}]0;evil\x07ok", "ok"),
        (f"{ESC}]0;evil{ESC}\\ok", "ok"),
        (f"{ESC}]0;evil\x9cok", "ok"),
        ("\x9d0;evil\x07ok", "ok"),
        (f"{ESC}]8;;http://x{ESC}\\link{ESC}]8;;{ESC}\\", "link"),
        (f"{ESC}]52;c;ZXZpbA==\x07", ""),
        (f"{ESC}P1$r0m{ESC}\\ok", "ok"),
        ("\x90q#0\x9cok", "ok"),
        (f"{ESC}_Ga=T;AAAA{ESC}\\ok", "ok"),
        ("\x9fGa=T\x9cok", "ok"),
        (f"{ESC}^pm{ESC}\\ok", "ok"),
        ("\x9epm\x9cok", "ok"),
        (f"{ESC}Xsos{ESC}\\ok", "ok"),
        ("\x98sos\x9cok", "ok"),
        (f"{ESC}Ptmux;{ESC}{ESC}]0;x\x07{ESC}\\ok", "ok"),
        (f"{ESC}]0;evil\x18ok", "ok"),
        # other escapes
        (f"{ESC}(0ab{ESC}(Bc", "abc"),
        (f"{ESC}7a{ESC}8{ESC}=b{ESC}c", "ab"),
        (f"{ESC} Fa{ESC}%Gb{ESC}#8c", "abc"),
        (f"{ESC}éa", "éa"),
        (f"a{ESC}", "a"),
        (f"a{ESC}[12", "a"),
        # never encodable
        ("a\ud800b\udfff", "a\ufffdb\ufffd"),
    ],
)
def test_control_sequences_are_removed(text: str, shown: str) -> None:
    assert stream([text]) == stream(list(text)) == shown
    if "\u202e" not in text:
        assert stream([text], show_invisible=False) == stream(list(text), show_invisible=False) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", "a<U+202E>b"),
        ("a\u2066b\u2069", "a<U+2066>b<U+2069>"),
        ("a\u200e\u200f\u061cb", "a<U+200E><U+200F><U+061C>b"),
        ("pass\u200bword", "pass<U+200B>word"),
        ("a\u2060b\ufeffc\u00add\u180ee\u2063", "a<U+2060>b<U+FEFF>c<U+00AD>d<U+180E>e<U+2063>"),
        ("x\U000e0068\U000e0069", "x<U+E0068><U+E0069>"),
        ("x\ufff9y\ufffaz\ufffb", "x<U+FFF9>y<U+FFFA>z<U+FFFB>"),
        ("x\U000e0100", "x<U+E0100>"),
        ("x\u3164\u115f\uffa0", "x<U+3164><U+115F><U+FFA0>"),
        ("a\u200db\u200cc", "a<U+200D>b<U+200C>c"),
        ("a\u200d", "a<U+200D>"),
        ("\u200da", "<U+200D>a"),
        ("👩\u200d\u200d💻", "👩<U+200D><U+200D>💻"),
        ("a\ufe0f", "a<U+FE0F>"),
        ("❤\ufe0f\ufe0e\ufe0f", "❤\ufe0f<U+FE0E><U+FE0F>"),
    ],
)
def test_invisible_characters_are_shown(text: str, shown: str) -> None:
    assert stream([text]) == shown
    assert stream(list(text)) == shown
    assert stream([text], show_invisible=False) == text


@pytest.mark.parametrize(
    "text",
    [
        "👩\u200d💻",
        "👩🏽\u200d💻",
        "❤\ufe0f\u200d🔥",
        "🏳\ufe0f\u200d🌈",
        "☺\ufe0e",
        "1\ufe0f\u20e3",
        "می\u200cخواهم",
        "क्\u200dष",
        "ශ්\u200dරී",
        "അവന്\u200d ",
        "\u0601\u0661",  # an Arabic number sign has a glyph although it is Cf
    ],
)
def test_joiners_and_selectors_that_work_are_kept(text: str) -> None:
    assert stream([text]) == text
    assert stream(list(text)) == text


@pytest.mark.parametrize("opener", [f"{ESC}]0;", f"{ESC}P", f"{ESC}_", f"{ESC}^", f"{ESC}X", "\x9d", "\x90", "\x9f"])
def test_unterminated_string_does_not_swallow_the_answer(opener: str) -> None:
    assert stream([opener + "title\nthe answer"]) == "\nthe answer"
    assert stream([opener + "title\r\nthe answer"]) == "\nthe answer"
    assert stream([opener + "title\u2028the answer"]) == "\nthe answer"
    shown = stream([opener + "x" * (3 * SEQUENCE_LIMIT)])
    assert 2 * SEQUENCE_LIMIT <= len(shown) < 2 * SEQUENCE_LIMIT + 4


@pytest.mark.parametrize(("opener", "filler"), [(f"{ESC}[", "1"), ("\x9b", ";"), (ESC, " ")])
def test_unterminated_sequence_is_bounded(opener: str, filler: str) -> None:
    assert stream([opener + filler * SEQUENCE_LIMIT + "the answer"]) == "the answer"


def test_flush_makes_ready_for_a_new_stream() -> None:
    sanitizer = Sanitizer(show_invisible=True)
    assert sanitizer.feed(f"a{ESC}]0;never closed") == "a"
    assert sanitizer.flush() == ""
    assert sanitizer.feed("b\r") == "b\n"
    assert sanitizer.flush() == ""
    assert sanitizer.feed("\nc") == "\nc"


@given(TEXTS, st.lists(st.integers(0, 60)), st.booleans())
@example(f"{ESC}]0;{ESC}\\\r\n", [1, 5, 6, 7], True)
def test_every_split_gives_the_same(text: str, cuts: list[int], show_invisible: bool) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    chunks = [text[start:end] for start, end in pairwise(edges)]
    whole = stream([text], show_invisible=show_invisible)
    assert stream(chunks, show_invisible=show_invisible) == whole
    assert stream(list(text), show_invisible=show_invisible) == whole


@given(st.one_of(TEXTS, st.text()))
def test_nothing_that_a_terminal_obeys_comes_out(text: str) -> None:
    for show_invisible in (True, False):
        shown = stream([text], show_invisible=show_invisible)
        assert not any((c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f" for c in shown)
        assert not any("\ud800" <= c <= "\udfff" or c in "\u2028\u2029" for c in shown)
        shown.encode("utf-8")
    safe = sanitize(text)
    assert not any(c in "\u202d\u202e\U000e0041" for c in safe)
    assert sanitize(safe) == safe
    assert not set(sanitize(text, one_line=True)) & set("\n\t\r")


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"])))
def test_plain_ascii_is_untouched(text: str) -> None:
    assert sanitize(text) == text == stream([text])


def test_one_line() -> None:
    assert sanitize("a\tb\nc\r\nd\u2028e", one_line=True) == "a b c d e"
    assert sanitize("Gemma\x1b]0;pwned\x07 3", one_line=True) == "Gemma 3"


def test_a_token_costs_the_same_in_a_long_answer() -> None:
    """It runs for each token. What one costs is in benchmarks/bench_parts.py."""

    def feed(n_tokens: int) -> None:
        sanitizer = Sanitizer(show_invisible=True)
        for _ in range(n_tokens):
            sanitizer.feed(" hello")

    assert is_linear(feed, 3_000)


def test_hostile_text_takes_linear_time() -> None:
    assert is_linear(lambda n: sanitize(f"{ESC}[" * n + "\u200d" * n + f"{ESC}]" * n), 1_500)


# Text as people and models write it: invisible characters at work. Nothing of it may change on the screen.
LEGITIMATE = {
    "emoji information": "\u2139\ufe0f Note",
    "emoji warning": "\u26a0\ufe0f careful",
    "emoji check mark": "\u2714\ufe0f done",
    "emoji arrow": "\u27a1\ufe0f next, \u2197\ufe0f up",
    "emoji scissors at the end": "cut \u2702\ufe0f",
    "emoji copyright": "\u00a9\ufe0f 2026, \u00ae\ufe0f, \u2122\ufe0f",
    "emoji exclamation": "\u203c\ufe0f and \u2049\ufe0f",
    "emoji sun and snow": "\u2600\ufe0f\u2744\ufe0f\u2601\ufe0f",
    "emoji circled M": "\u24c2\ufe0f",
    "emoji secret": "\u3299\ufe0f \u3297\ufe0f \u303d\ufe0f \u3030\ufe0f",
    "text style": "\u263a\ufe0e \u2665\ufe0e \u260e\ufe0e",
    "keycaps": "1\ufe0f\u20e3 2\ufe0f\u20e3 #\ufe0f\u20e3 *\ufe0f\u20e3",
    "digit as an emoji": "7\ufe0f",
    "profession": "👩\u200d💻 👨\u200d🚀",
    "profession with a skin tone": "👩🏽\u200d🔬",
    "family": "👨\u200d👩\u200d👧\u200d👦",
    "couple with skin tones": "👩🏻\u200d❤\ufe0f\u200d💋\u200d👨🏿",
    "heart on fire": "❤\ufe0f\u200d🔥",
    "rainbow flag": "🏳\ufe0f\u200d🌈",
    "transgender flag": "🏳\ufe0f\u200d\u26a7\ufe0f",
    "pirate flag": "🏴\u200d\u2620\ufe0f",
    "detective": "🕵\ufe0f\u200d\u2640\ufe0f",
    "health worker": "🧑\u200d\u2695\ufe0f",
    "polar bear": "🐻\u200d\u2744\ufe0f",
    "nodding": "🙂\u200d\u2195\ufe0f",
    "walking to the right": "🚶🏾\u200d\u2640\ufe0f\u200d\u27a1\ufe0f",
    "black cat": "🐈\u200d⬛",
    "England": "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f wins",
    "Scotland": "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "Wales": "🏴\U000e0067\U000e0062\U000e0077\U000e006c\U000e0073\U000e007f!",
    "country flags": "🇩🇪🇮🇷🇹🇭",
    "Persian verb": "می\u200cخواهم بروم",
    "Persian plural": "کتاب\u200cها و خانه\u200cای",
    "Persian digits before": "۵\u200cتایی و ۱۲\u200cساله",
    "Persian digits after": "سال\u200c۱۴۰۵",
    "Persian Latin digits": "2\u200cنفره",
    "Persian Latin word": "PDF\u200cها و iPhone\u200cهای",
    "Persian end of a word": "می\u200c خواهم",
    "Persian before punctuation": "خانه\u200c، خوب",
    "Arabic year of the Hijra": "١٤٤٧ ه\u200d",
    "Arabic date": "٥ ه\u200d.",
    "Urdu": "بے\u200cشک",
    "Kurdish": "دە\u200cچم",
    "Uyghur": "سۆز\u200cلەر",
    "Pashto": "نه\u200cشي",
    "Syriac": "ܐ\u200dܒ",
    "Hindi half form": "क्\u200dष",
    "Hindi visible virama": "क्\u200cष",
    "Hindi eyelash ra": "र्\u200dया",
    "Marathi": "दर्\u200dया",
    "Nepali": "गर्\u200dयो",
    "Bengali ya-phalaa": "র\u200d্যাম",
    "Bengali khanda ta": "ত্\u200d",
    "Gujarati": "ક્\u200dષ",
    "Punjabi": "ਕ੍\u200dਯ",
    "Kannada": "ರ\u200d್ಕ",
    "Telugu": "క్\u200cష",
    "Tamil": "க்\u200cஷ",
    "Malayalam chillu": "അവന്\u200d വന്നു",
    "Malayalam full stop": "അവന്\u200d.",
    "Sinhala rakaransaya": "ශ්\u200dරී ලංකා",
    "Sinhala touching letters": "ක\u200d්ව",
    "Khmer joiner": "ប\u200cាន",
    "Thai words": "ภาษา\u200bไทย",
    "Thai before Latin": "ภาษา\u200bPython",
    "Thai after a digit": "10\u200bบาท",
    "Lao": "ພາສາ\u200bລາວ",
    "Khmer words": "ភាសា\u200bខ្មែរ",
    "Khmer sentence": "ខ្មែរ។\u200b\n",
    "Burmese words": "မြန်မာ\u200bစာ",
    "Tibetan": "བོད་\u200bསྐད་",
    "Javanese": "ꦗꦮ\u200bꦗꦮ",
    "Japanese break": "日本語\u200b文章",
    "Chinese beside Latin": "漢字\u200bUnicode",
    "Thai word joiner": "ไทย\u2060ไทย",
    "German soft hyphens": "Donau\u00addampf\u00adschiff",
    "Hungarian soft hyphen": "meg\u00adszent\u00adség",
    "Russian soft hyphen": "пере\u00adнос",
    "Greek soft hyphen": "λέξη\u00adλέξη",
    "word joiner at a dash": "10\u2060\u2013\u206020",
    "word joiner at a quotation mark": "«\u2060mot\u2060»",
    "Hebrew left-to-right mark": "שפת C++\u200e היא",
    "Hebrew right-to-left mark": "שלום!\u200f",
    "Hebrew quotation mark": 'ח\u200f"כ',
    "Hebrew begins with Latin": "\u200fPython היא שפה",
    "Hebrew number": 'מחיר: \u200e-5\u200e ש"ח',
    "Hebrew Bible": "יְרוּשָׁלַ\u034fִם",
    "Hebrew meteg": "לֽ\u200dֽא",
    "Arabic mark": "السعر (\u200f5\u200f)",
    "Arabic number": "٥\u200f%",
    "Arabic letter mark": "\u061cالرقم 5-\u061c",
    "Arabic with Latin marked": "لغة \u200eC#\u200e سهلة",
    "Arabic isolate": "استخدم \u2066print()\u2069 هنا",
    "Arabic isolate first": "\u2068Linux\u2069 نظام",
    "Hebrew isolate in Latin": "the word \u2067שלום עולם\u2069 means peace",
    "Hebrew embedding": "say \u202bשלום, עולם!\u202c now",
    "Hebrew nested isolates": "שלום \u2067א \u2066x = 1\u2069 ב\u2069 סוף",
    "Persian in an isolate": "press \u2067می\u200cخواهم\u2069",
    "ideographic variant": "葛\U000e0100飾区",
    "two ideographic variants": "辻\U000e0101と祇\U000e0100園",
    "compatibility variant": "\u8c48\ufe00",
    "Chinese punctuation variant": "好\u3002\ufe00",
    "mathematical variant": "A \u2229\ufe00 B",
    "slashed zero": "0\ufe00",
    "Burmese dotted letter": "\u1000\ufe00",
    "Phags-pa": "\ua856\ufe00",
    "Mongolian vowel separator": "ᠬᠠᠷ\u180eᠠ",
    "Mongolian selector": "ᠤ\u180bᠨ",
    "Mongolian selector and separator": "ᠨ\u180b\u180eᠠ",
    "old Korean": "\u115f\u1161 \u1100\u1160",
    "hieroglyphs": "\U00013000\U00013430\U00013001",
    "musical beam": "\U0001d158\U0001d173\U0001d158",
    "Vietnamese, Polish, Greek": "Tiếng Việt, żółć, καλημέρα",
    "combining marks": "e\u0301 n\u0303 ḍ\u0307",
    "no-break spaces": "10\u00a0000\u202f€",
    "object replacement": "\ufffc \ufffd",
}

# Text that hides something, or shows it in another order. Each has to look different from what it pretends to be.
HOSTILE = {
    "override": "user\u202exe.exe",
    "left override": "a\u202db\u202c",
    "override in Hebrew": "שלום \u202eabc\u202c",
    "embedding in Latin": "a\u202bb\u202c",
    "isolate in Latin": "if x != \u2066'admin'\u2069:",
    "isolate that stays open": "שלום \u2067abc\nnext",
    "isolate to the end": "שלום \u2066abc",
    "isolate closed on another line": "שלום \u2067a\nb\u2069",
    "closed too often": "שלום\u2069",
    "crossed": "שלום \u2067a \u202bb\u2069 c\u202c",
    "override in an isolate": "שלום \u2067a\u202eb\u2069",
    "isolate far away": "שלום \u2067" + "a" * 80 + "\u2069",
    "mark in Latin": "a\u200eb",
    "right mark in Latin": "a\u200f.b",
    "marks that call each other": "a\u200eb\u061cc",
    "mark far from Hebrew": "a\u200fb" + " x" * 40 + " שלום",
    "marks in a row": "שלום\u200f\u200f\u200f",
    "zero width in a word": "pass\u200bword",
    "zero width at the start": "\u200bsudo",
    "zero width in Cyrillic": "па\u200bроль",
    "zero widths in Thai": "ไทย\u200b\u200b\u200bไทย",
    "joiner in Latin": "pay\u200dpal",
    "non-joiner in Latin": "pay\u200cpal",
    "joiner in Cyrillic": "пай\u200dпал",
    "joiners in a row": "می\u200c\u200cخواهم",
    "joiners that count": "ab\u200c\u200d\u200c\u200dcd",
    "joiner at the end of an emoji": "👩\u200d",
    "joiner behind a letter before an emoji": "a\u200d💻",
    "word joiner in a word": "pass\u2060word",
    "no-break zero width": "pass\ufeffword",
    "soft hyphen behind one letter": "p\u00adassword",
    "soft hyphens everywhere": "p\u00ada\u00ads\u00ads",
    "soft hyphen beside a digit": "12\u00ad34",
    "soft hyphens in a row": "pass\u00ad\u00adword",
    "selector behind a Latin letter": "a\ufe0f",
    "first selector behind a Latin letter": "a\ufe00",
    "selectors that carry bytes": "ok\ufe05\ufe08\U000e0120",
    "selectors behind an emoji": "😀\ufe0f\ufe00\ufe03\U000e0150",
    "one wrong selector behind an emoji": "😀\U000e0150",
    "long selector behind a Latin letter": "a\U000e0101",
    "selectors behind an ideograph": "葛\U000e0100\U000e0101",
    "selector behind a space": " \ufe0f",
    "selector at the start": "\ufe0fa",
    "Mongolian selector in Latin": "a\u180bb",
    "Mongolian separator in Latin": "a\u180eb",
    "tags": "hello\U000e0068\U000e0069",
    "tags behind a smile": "🙂\U000e0068\U000e0069\U000e007f",
    "flag of nowhere": "🏴\U000e0068\U000e0069\U000e007f",
    "flag without an end": "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067",
    "flag with a message": "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f\U000e0068",
    "language tag": "\U000e0001en",
    "Hangul filler as a name": "\u3164",
    "Hangul fillers": "a\u115f\u1160b",
    "half-width filler": "x\uffa0",
    "Khmer inherent vowel": "a\u17b4b",
    "invisible plus": "a\u2064b",
    "invisible times": "10\u206220",
    "deprecated controls": "a\u206ab\u206f",
    "annotation": "x\ufff9y\ufffaz\ufffb",
    "grapheme joiner": "a\u034fb",
    "musical beam in Latin": "a\U0001d173b",
}


def test_honest_text_is_shown_as_it_is() -> None:
    for name, text in LEGITIMATE.items():
        assert stream([text]) == stream(list(text)) == text, name
        assert stream([text], show_invisible=False) == text, name


def test_hidden_text_is_told() -> None:
    for name, text in HOSTILE.items():
        shown = stream([text])
        assert shown == stream(list(text)) != text, name
        assert "<U+" in shown, name
        assert sanitize(shown) == shown, name
        assert stream([text], show_invisible=False) == text, f"{name}: the record is what was said"


def test_little_is_held_back() -> None:
    sanitizer = Sanitizer(show_invisible=True)
    assert sanitizer.feed("12\u200f") == "12", "there may be Hebrew behind it"
    assert sanitizer.feed("a" * REACH) == "<U+200F>" + "a" * REACH
    assert sanitizer.feed("\u2068b\n") == "<U+2068>b\n", "an isolate ends with its line"
    assert sanitizer.feed("c\u200d" * 2) == "c<U+200D>c"
    assert sanitizer.feed("\U000e0068" * 40).startswith("<U+200D><U+E0068>"), "a run is told before it ends"
