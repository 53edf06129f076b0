"""Thinking and answer told apart: by the marks of the families, only where they count, for every split into chunks."""

import pytest
from properties import example, given
from properties import strategies as st

from slmchat.conversation import thinking
from slmchat.conversation.thinking import ThinkingSplitter, opens_thinking

HARMONY = "<|start|>assistant<|channel|>final<|message|>"


def _split(chunks: list[str], opened: bool = False) -> tuple[str, str]:
    """(thinking, answer) of a completion that comes in these chunks."""
    splitter = ThinkingSplitter(opened)
    pieces = [piece for chunk in chunks for piece in splitter.feed(chunk)] + splitter.flush()
    assert all(piece.text for piece in pieces)
    kinds = [piece.is_thinking for piece in pieces]
    assert kinds == sorted(kinds, reverse=True), "thinking comes first"
    thought, answer = ("".join(piece.text for piece in pieces if piece.is_thinking is kind) for kind in (True, False))
    return thought, answer


@pytest.mark.parametrize(
    ("completion", "thought", "answer"),
    [
        ("<think>\nOkay, 2 + 2.\n</think>\n\nFour.", "Okay, 2 + 2.", "Four."),  # Qwen3, SmolLM3, DeepSeek R1
        ("<think>I'm\nthinking</think>Hello, world!\nWhat's up?", "I'm\nthinking", "Hello, world!\nWhat's up?"),
        ("\n\n <think>a</think> b ", "a", "b "),
        ("<think>\n\n</think>\n\nFour.", "", "Four."),  # thinking switched off
        ("<think>a</think>\n<response>\nHello\n</response>\n", "a", "Hello"),  # Granite 3.3
        ("<think>a</think><response>Hello</response> and more", "a", "Hello</response> and more"),
        ("<think>a</think><responsible>", "a", "<responsible>"),
        ("[THINK]raisonnement[/THINK]Réponse", "raisonnement", "Réponse"),  # Magistral
        ("<|channel>thought\nI'm\nthinking<channel|>Hello", "I'm\nthinking", "Hello"),  # Gemma 4
        ("<|channel>thought<channel|>Hello", "", "Hello"),
        ("<|channel>thought\n<channel|>Hello<channel|>", "", "Hello"),
        ("<|channel>thought\n<channel|>Hello\n<|channel>thought\n<channel|>", "", "Hello"),
        ("<|channel>thought\n<channel|>Hello<|channel>thought\n<channel|><channel|>", "", "Hello"),
        ("<|channel><|channel>thought\n<channel|>Hello", "", "Hello"),
        ("Hello<channel|>", "", "Hello"),  # its template closes the thought itself
        (f"<|channel|>analysis<|message|>Hm.<|end|>{HARMONY}Hello", "Hm.", "Hello"),  # gpt-oss
        (f"<|channel|>analysis<|message|>Hm.{HARMONY}Hello", "Hm.", "Hello"),
        ("<|channel|>final<|message|>Hello", "", "Hello"),
    ],
)
def test_the_marks_of_the_families(completion: str, thought: str, answer: str) -> None:
    assert _split([completion]) == (thought, answer)
    assert _split(list(completion)) == (thought, answer)


@pytest.mark.parametrize(
    "completion",
    [
        "",
        " \n ",
        "  Hello \n",
        "Write <think>like this</think> in HTML.",
        "The tag </think> closes it.",
        "<thinking>",
        "<thin",
        "<",
        "[THINKING]",
        "<response>Hello</response>",
        "<|channel>news",
        "say <channel|> here",
        "`<|channel>thought`",
    ],
)
def test_what_is_no_mark_comes_out_as_it_went_in(completion: str) -> None:
    assert _split([completion]) == ("", completion)
    assert _split(list(completion)) == ("", completion)


def test_a_thought_that_never_closes_goes_on_to_the_end() -> None:
    assert _split(["<think>", "one ", "two </thin"]) == ("one two </thin", "")
    assert _split(["<think>one\n"]) == ("one", "")


def test_the_answer_begins_at_the_first_closing() -> None:
    assert _split(["<think>a</think>b</think>c"]) == ("a", "b</think>c")
    assert _split(["<think>a [/THINK] b</think>c"]) == ("a [/THINK] b", "c")


def test_a_thought_that_the_prompt_opened() -> None:
    assert _split(["\nHm, ", "let me see.\n</think>\n\n", "Four."], opened=True) == ("Hm, let me see.", "Four.")
    assert _split(["Hm.[/THINK]Quatre."], opened=True) == ("Hm.", "Quatre.")
    assert _split(["<think>Hm.</think>Four."], opened=True) == ("Hm.", "Four.")  # opened once more by the model
    assert _split(["cut off"], opened=True) == ("cut off", "")
    assert _split([" "], opened=True) == ("", "")


def test_text_is_not_held_back_longer_than_needed() -> None:
    splitter = ThinkingSplitter()
    assert splitter.feed("<thi") == []
    assert splitter.feed("nk>\nOne ")[0].text == "One"
    assert splitter.feed("two")[0].text == " two"
    splitter.feed("</think>")
    assert splitter.feed("\n\nThree")[0].text == "Three"
    assert splitter.feed(" four")[0].text == " four"


@pytest.mark.parametrize(
    ("completion", "has_marks"),
    [("Four.", False), ("<think>\n\n</think>\n\nFour.", True), ("Four.<channel|>", True), ("a <think> b", False)],
)
def test_it_is_known_whether_the_completion_is_all_answer(completion: str, has_marks: bool) -> None:
    splitter = ThinkingSplitter()
    splitter.feed(completion)
    splitter.flush()
    assert splitter.has_marks is has_marks


WORDS = st.sampled_from(
    [
        *(mark for marks in thinking.FAMILIES for mark in (*marks.openings, *marks.closings)),
        *thinking.TOKENS,
        *("<think", "</", "[", "<|", " ", "\n", "word", "ü", ">"),
    ]
)


@given(st.lists(WORDS, max_size=8).map("".join), st.lists(st.integers(0, 200), max_size=8), st.booleans())
@example("<think>a</think><response>b</response>", [9], False)
def test_every_split_gives_what_the_whole_text_gives(text: str, cuts: list[int], opened: bool) -> None:
    places = sorted({cut % (len(text) + 1) for cut in cuts})
    chunks = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    assert _split(chunks, opened) == _split([text], opened) == _split(list(text), opened)


@given(st.text(alphabet="abc <>|/[]\n"), st.booleans())
def test_text_without_marks_is_never_changed(text: str, is_thought: bool) -> None:
    assert _split(list(text)) == ("", text)
    assert _split(list(text), opened=is_thought)[0] == (text.strip() if is_thought else "")


@pytest.mark.parametrize(
    ("tail", "opened"),
    [
        ("<|im_start|>assistant\n<think>\n", True),  # Qwen3.5
        ("<｜Assistant｜><think>\n", True),  # DeepSeek R1
        ("[THINK]", True),
        ("<|turn>model\n<|channel>thought\n", True),
        ("<|start|>assistant<|channel|>analysis<|message|>", True),
        ("<|im_start|>assistant\n", False),  # Qwen3: the model opens it
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),  # switched off
        ("<|turn>model\n<|channel>thought\n<channel|>", False),  # Gemma 4, switched off
        ("<|start|>assistant<|channel|>final<|message|>", False),
        ("", False),
    ],
)
def test_the_end_of_a_prompt_tells_whether_the_thought_is_open(tail: str, opened: bool) -> None:
    assert opens_thinking(tail) is opened


def test_every_token_to_be_spelled_out_is_part_of_a_mark() -> None:
    marks = [
        mark for family in thinking.FAMILIES for mark in (*family.openings, *family.closings, *(family.answer or ()))
    ]
    assert all(any(token in mark for mark in marks) for token in thinking.TOKENS)


def test_no_mark_is_the_beginning_of_another() -> None:
    for kind in ("openings", "closings"):
        marks = [mark for family in thinking.FAMILIES for mark in getattr(family, kind) if mark]
        assert not [(a, b) for a in marks for b in marks if a != b and b.startswith(a)]
