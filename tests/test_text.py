"""Bytes to whole characters, and stop sequences held back: the same text for every split."""

from properties import given
from properties import strategies as st

from slmchat.engine.text import CompletionText


def _streamed(pieces: list[bytes], stop: list[str]) -> tuple[str, bool]:
    text = CompletionText(stop)
    out = ""
    for piece in pieces:
        out += text.feed(piece)
        if text.is_stopped:
            break
    return out + text.flush(), text.is_stopped


def _split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def test_a_character_that_spans_tokens_comes_whole() -> None:
    text = CompletionText()
    assert text.feed("ü🙂".encode()[:3]) == "ü"
    assert text.feed("ü🙂".encode()[3:]) == "🙂"


def test_a_cut_character_at_the_end_is_shown_as_replacement() -> None:
    text = CompletionText()
    assert text.feed("🙂".encode()[:2]) == ""
    assert text.flush() == "\ufffd"


def test_a_stop_sequence_across_chunks_never_shows() -> None:
    assert _streamed([b"one E", b"N", b"D two"], ["END"]) == ("one ", True)


def test_what_only_looks_like_a_stop_sequence_is_given_back() -> None:
    assert _streamed([b"one EN", b"tropy"], ["END"]) == ("one ENtropy", False)
    assert _streamed([b"one EN"], ["END"]) == ("one EN", False)


@given(st.text(alphabet="abEND🙂ü"), st.lists(st.integers(0, 200), max_size=8))
def test_every_split_gives_what_the_whole_text_gives(text: str, cuts: list[int]) -> None:
    expected, _, _ = text.partition("END")
    got, is_stopped = _streamed(_split(text.encode(), cuts), ["END"])
    assert got == expected
    assert is_stopped == ("END" in text)
