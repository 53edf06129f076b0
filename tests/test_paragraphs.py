"""How slm's own sentences stand on a terminal: whole words, and what goes on stands under its own beginning."""

import io

import pytest

from slmchat.commands.repl.files import hit_line
from slmchat.conversation.archive_search import Hit
from slmchat.terminal.console import Console
from slmchat.terminal.tables import paragraphs


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a short one", ["a short one"]),
        ("slm: the model cannot see pictures here", ["slm: the model", "     cannot see", "     pictures here"]),
        ("hint: slm pull smollm2:135m first", ["hint: slm pull", "      smollm2:135m", "      first"]),
        ("words that go on and on for long", ["words that go on and", "  on for long"]),
        ("/h  show all of the commands", ["/h  show all of the", "    commands"]),
        ("  indented text that goes on", ["  indented text that", "  goes on"]),
        ("  /help NAME  show one", ["  /help NAME", "  show one"]),
        ("see /a/very/long/path/to/copy.txt now", ["see", "  /a/very/long/path/to/copy.txt", "  now"]),
        ("two lines\nof the text are both too long", ["two lines", "of the text are both", "  too long"]),
    ],
)
def test_a_sentence_is_folded_between_words(text: str, lines: list[str]) -> None:
    assert list(paragraphs(text, 20)) == lines
    assert list(paragraphs(text, None)) == text.split("\n")


def test_a_pipe_gets_the_lines_as_they_are() -> None:
    err = io.StringIO()
    Console(io.StringIO(), io.StringIO(), err, {"COLUMNS": "20"}).note("words that go on and on for long")
    assert err.getvalue() == "words that go on and on for long\n"


def test_a_hit_is_one_line() -> None:
    hit = Hit("a" * 32, "a\ntitle", "user", "2026-01-01T00:00:00+00:00", (("one\n\n", False), ("two", True)))
    assert hit_line(hit) == "aaaaaaaa  a title  user: one two"
