"""What a chat says of itself: its own commands in hints, and `/think`."""

import io
from types import SimpleNamespace
from typing import Any, cast

import pytest

from slmchat.commands.repl import thinking
from slmchat.commands.repl.app import ChatApp
from slmchat.commands.repl.hints import in_chat
from slmchat.engine.thinking import Thinking, ThinkingMode
from slmchat.errors import ExitCode, SlmError
from slmchat.terminal import line_editor, picker
from slmchat.terminal.answer_progress import AnswerProgress
from slmchat.terminal.answer_view import ChatView
from slmchat.terminal.console import Console
from slmchat.terminal.line_editor import LineEditor
from slmchat.terminal.picker import Pickable
from slmchat.terminal.slash_commands import CommandTable


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        ("a larger window: --ctx N; or a shorter prompt", "a larger window: /set ctx N; or a shorter prompt"),
        ("more room: -n N, or --ctx N", "more room: /set max_tokens N, or /set ctx N"),
        ("try a smaller one: --ctx 512, or --kv-type q8_0", "try a smaller one: /set ctx 512, or --kv-type q8_0"),
        (
            "plain completion does without it: slm run --raw; slm show MODEL prints the template",
            "/undo takes the last exchange back, /clear begins anew; slm show MODEL prints the template",
        ),
        (
            'complete text with it: slm run --raw "Once upon a time"; chat models: slm list --available',
            "/model NAME lets another model answer; chat models: slm list --available",
        ),
        ("slm sessions list", "/sessions lists them"),
        ("slm verify checks the weights", "slm verify checks the weights"),
        (None, None),
    ],
)
def test_hints_name_what_can_be_typed_here(hint: str | None, said: str | None) -> None:
    assert in_chat(SlmError("it is so.", hint=hint, exit_code=ExitCode.CONTEXT)).hint == said


class Chat:
    """As much of a chat as `/think` touches."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.answers = SimpleNamespace(shows_thinking=True)
        self.session = SimpleNamespace(thinking=Thinking(), set_thinking=self._set)
        self.console = SimpleNamespace(note=self.told.append)

    def _set(self, asked: Thinking) -> None:
        self.session.thinking = asked

    def types(self, arguments: str) -> str:
        thinking.command(cast(ChatApp, cast(Any, self)), arguments)
        return self.told[-1]


def test_think_tells_and_sets() -> None:
    chat = Chat()
    assert chat.types("") == "Thinking: auto; thoughts are shown."
    assert chat.types("off") == "Thinking: off; thoughts are shown."
    assert chat.session.thinking == Thinking(ThinkingMode.OFF, 0)
    assert chat.types("200") == "Thinking: on, at most 200 tokens; thoughts are shown."
    assert chat.types("auto") == "Thinking: auto, at most 200 tokens; thoughts are shown."
    assert chat.types("hide") == "Thinking: auto, at most 200 tokens; thoughts are folded."
    assert not chat.answers.shows_thinking
    assert chat.types("0") == "Thinking: off; thoughts are folded."
    assert chat.types("ON") == "Thinking: on; thoughts are folded."


@pytest.mark.parametrize("word", ["maybe", "-1", "1.5", "99999999999", "on off"])
def test_what_think_cannot_be(word: str) -> None:
    chat = Chat()
    with pytest.raises(SlmError, match="/think cannot be") as caught:
        chat.types(word)
    assert caught.value.exit_code is ExitCode.USAGE
    assert chat.session.thinking == Thinking()


# Narrow windows


def test_a_question_is_folded_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(line_editor, "terminal_size", lambda *_: (30, 10))
    monkeypatch.setattr(line_editor, "pressed_key", lambda question: shown.append(question) or "d")
    monkeypatch.setenv("TERM", "dumb")
    editor = LineEditor(
        history_file=None, table=CommandTable(()), state=None, toolbar=lambda: "", is_over=lambda: False
    )
    question = "The conversation is 190 tokens and the context window holds 64."
    assert editor.ask(question, [("d", "drop the oldest exchanges of all"), ("c", "cancel")]) == "d"
    assert shown[0].split("\n") == [
        "The conversation is 190 tokens",
        "  and the context window holds",
        "  64.",
        "  d  drop the oldest exchanges",
        "     of all",
        "  c  cancel",
        "[d/c, Esc] ",
    ]


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (60, "> 👩‍👩‍👧‍👦 Familie  2 messages, just now"),
        (30, "> 👩‍👩‍👧‍👦 Familie"),
        (12, "> 👩‍👩‍👧‍👦…"),
    ],
)
def test_a_narrow_list_has_titles(columns: int, line: str) -> None:
    state = picker._State([Pickable("👩‍👩‍👧‍👦 Familie", "2 messages, just now")])
    assert picker._drawn("Which?", state, lambda _: "", columns, 10)[1] == line


def test_a_folded_thought_leaves_the_screen_saying_how_far_it_is() -> None:
    """A dumb terminal and a window too low for a line at the bottom have nothing else."""
    begun: list[str] = []
    console = Console(io.StringIO(), io.StringIO(), io.StringIO(), {"TERM": "dumb"})
    screen = cast(Any, SimpleNamespace(begins=lambda: begun.append(console.stdout.getvalue())))  # type: ignore
    view = ChatView(console, is_plain=True, shows_thinking=False, progress=AnswerProgress(), screen=screen)
    view.thinking("Hm")
    view.thinking(" so")
    assert not begun
    view.answer("Yes.")
    view.close()
    assert begun == ["(thinking; /think show)\n"]
    assert console.stdout.getvalue() == "(thinking; /think show)\n\nYes.\n"  # type: ignore[attr-defined]
