"""What a line stands for: exact names only, nothing that looks like a command reaches the model."""

from dataclasses import replace

import pytest
from properties import given
from properties import strategies as st

from slmchat.errors import ExitCode, SlmError
from slmchat.terminal.slash_commands import (
    CommandTable,
    SlashCommand,
    as_typed,
    is_open_block,
    line_of,
    literal,
    message_of,
)


def _run(state: list[str], arguments: str) -> None:
    state.append(arguments)


TABLE: CommandTable[list[str]] = CommandTable(
    (
        SlashCommand("help", "", "show the commands", _run),
        SlashCommand("set", "KEY VALUE", "change a setting", _run, lambda _state, _text: [("seed", "a number")]),
        SlashCommand("system", "[TEXT]", "show or set the system message", _run),
        SlashCommand("exit", "", "leave", _run),
    )
)


@pytest.mark.parametrize(
    ("line", "name", "arguments"),
    [
        ("/help", "help", ""),
        ("/help ", "help", ""),
        ("  /help", "help", ""),
        ("/set seed  1 ", "set", "seed  1"),
        ("/system You are\nterse.", "system", "You are\nterse."),
        ("/system\nYou are terse.", "system", "You are terse."),
        ("/system\tterse", "system", "terse"),
        ("/system //", "system", "//"),
    ],
)
def test_commands(line: str, name: str, arguments: str) -> None:
    parsed = TABLE.parse(line)
    assert parsed is not None
    assert (parsed[0].name, parsed[1]) == (name, arguments)


@pytest.mark.parametrize(
    "line", ["q", "h", "r", "exit", "quit", "help", "?", "a /help", "//help", " //x", "", "set x 1"]
)
def test_messages(line: str) -> None:
    assert TABLE.parse(line) is None


@pytest.mark.parametrize(
    "line",
    [
        "/",
        "/ help",
        "/h",
        "/hel",
        "/helpp",
        "/Help",
        "/help/",
        "/clearly",
        "/usr/bin/env is a path",
        "/🎉",
        "\n/x",
        "/*c*/",
    ],
)
def test_what_is_no_command_is_an_error_and_never_a_message(line: str) -> None:
    with pytest.raises(SlmError, match="nothing was sent to the model") as caught:
        TABLE.parse(line)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "//" in str(caught.value.hint)


def test_what_stands_behind_a_command_that_takes_nothing_is_refused() -> None:
    """`/undo 3` is not one step, and `/private off` does not switch it on."""
    with pytest.raises(SlmError, match=r"^/exit takes nothing behind it; nothing was done\.") as caught:
        TABLE.parse("/exit 3")
    assert caught.value.exit_code is ExitCode.USAGE and caught.value.hint == "/exit by itself: leave"


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("/hel", "did you mean /help? "),
        ("/Help", "did you mean /help? "),
        ("/s", "did you mean /set or /system? "),
        ("/sytsem", "did you mean /system? "),
        ("/qqqq", ""),
        ("/", ""),
    ],
)
def test_nearest_names(line: str, near: str) -> None:
    with pytest.raises(SlmError) as caught:
        TABLE.parse(line)
    assert str(caught.value.hint).startswith(f"{near}/help lists the commands")


def test_a_long_path_is_not_repeated_in_full() -> None:
    with pytest.raises(SlmError) as caught:
        TABLE.parse("/" + "a/" * 500)
    assert len(caught.value.message) < 120


@pytest.mark.parametrize(
    ("line", "message"), [("//usr", "/usr"), ("///", "//"), ("a//b", "a//b"), ("  //x", "  /x"), ("", "")]
)
def test_a_leading_slash_is_written_twice(line: str, message: str) -> None:
    assert message_of(line) == message


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ('"""one"""', "one"),
        ('"""\none\ntwo\n"""', "one\ntwo"),
        ('"""one\n\n  two  \n"""  \n', "one\n\n  two  "),
        ('"""\n  x = 1\n"""', "  x = 1"),
        ('"""/help"""', "//help"),
        ('"""\n //x\n"""', " ///x"),
        ('""""""', ""),
        ('"""a "b" """', 'a "b" '),
        ('say """x"""', 'say """x"""'),
        ('"""open', '"""open'),
    ],
)
def test_block_marks_are_no_part_of_the_message(typed: str, line: str) -> None:
    assert line_of(typed) == line


@pytest.mark.parametrize(
    ("typed", "is_open"),
    [
        ('"""', True),
        ('""""', True),
        ('"""a', True),
        ('"""a"""', False),
        ('""""""', False),
        ('"""a\nb""" ', False),
        ("a", False),
        ('/set """', True),
        (' /set  """a\nb', True),
        ('/set """a\nb"""', False),
        ('/set a """', False),
        ('//set """', False),
    ],
)
def test_open_blocks(typed: str, is_open: bool) -> None:
    assert is_open_block(typed) is is_open


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        ('/set """one"""', "one"),
        ('/set """\none\n /two\n"""  ', "one\n /two"),
        ('/set """one', '"""one'),
        ('/set say """x"""', 'say """x"""'),
        ('/set ""', '""'),
    ],
)
def test_block_marks_are_no_part_of_what_a_command_is_given(typed: str, given: str) -> None:
    parsed = TABLE.parse(line_of(typed))
    assert parsed is not None and parsed[1] == given


@given(st.text())
def test_any_text_can_be_sent(text: str) -> None:
    line = literal(text)
    assert TABLE.parse(line) is None
    assert message_of(line) == text


@given(st.text(alphabet='/"a \n'))
def test_any_text_can_be_typed(text: str) -> None:
    typed = as_typed(text)
    assert not is_open_block(typed)
    line = line_of(typed)
    assert TABLE.parse(line) is None
    assert message_of(line) == text


def test_help_lines_are_aligned_in_their_groups() -> None:
    groups = {"help": "Two", "set": "One", "system": "Two", "exit": "Two"}
    table = CommandTable(replace(command, group=groups[command.name]) for command in TABLE.commands)
    assert list(table.help_lines()) == [
        "",
        "Two",
        "  /help           show the commands",
        "  /system [TEXT]  show or set the system message",
        "  /exit           leave",
        "",
        "One",
        "  /set KEY VALUE  change a setting",
    ]


def test_one_command_tells_more() -> None:
    assert list(TABLE.help_of("/set")) == ["/set KEY VALUE: change a setting"]
    with pytest.raises(SlmError, match="there is no command /sett"):
        list(TABLE.help_of("sett"))


def test_completers_are_part_of_the_table() -> None:
    command = TABLE.find("set")
    assert command is not None and command.complete is not None
    assert list(command.complete([], "se")) == [("seed", "a number")]
    assert TABLE.find("se") is None
