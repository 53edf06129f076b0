"""The examples in the help: every command has some, and each is a command line that slm understands."""

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome

from slmchat import cli
from slmchat.commands.examples import EXAMPLES

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "docs"))

import generate


def _calls(line: str) -> Iterator[list[str]]:
    """The words behind each `slm` in a line of shell: pipes, redirections and substitutions end a call."""
    words = shlex.shlex(re.sub(r'"\$\((.*?)\)"', r" ; \1 ; ", line), posix=True, punctuation_chars="|<>;")
    words.whitespace_split = True
    call: list[str] | None = None
    for word in words:
        if word and set(word) <= set("|<>;"):
            if call is not None:
                yield call
            call = None
        elif word == "slm" and call is None:
            call = []
        elif call is not None:
            call.append(word)
    if call is not None:
        yield call


def _understood(words: list[str]) -> str:
    """The command that these words call, once its options and arguments have been read (and nothing was done)."""
    import typer.main

    command: Any = typer.main.get_command(cli.whole_program())
    path: list[str] = []
    context = None
    while hasattr(command, "commands") and words:
        name, *words = words
        path.append(name)
        command = command.commands[name]
    with command.make_context(path[-1], words, parent=context):
        return " ".join(path)


@pytest.mark.parametrize("command", [" ".join(name) for name in generate.command_names()])
def test_every_command_has_examples_that_are_understood(command: str) -> None:
    called = []
    for line in EXAMPLES[command]:
        assert len(line) <= 92, line  # with the two columns before it, it is not broken on a page of 100
        called += [_understood(words) for words in _calls(line)]
    assert called and all(name == command or name.startswith(f"{command} ") for name in called)


def test_no_example_is_of_a_command_that_is_gone() -> None:
    assert set(EXAMPLES) == {" ".join(name) for name in generate.command_names()}


def test_a_wrong_example_would_be_found() -> None:
    with pytest.raises(cli._UsageError):
        _understood(["run", "--colour", "red"])
    assert list(_calls('cat a | slm run -x "a | b" > out; eval "$(slm completion bash)"')) == [
        ["run", "-x", "a | b"],
        ["completion", "bash"],
    ]


@pytest.mark.real
@pytest.mark.parametrize("command", ["run", "sessions export", "sessions"])
def test_the_help_shows_them_line_by_line(slm: Callable[..., Outcome], command: str) -> None:
    shown = slm(*command.split(), "--help", env={"COLUMNS": "100"}).out.splitlines()
    for line in EXAMPLES[command]:
        assert line in [each.strip() for each in shown]
