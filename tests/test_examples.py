"""The examples in the help: every command has some, and each is a command line that slm understands."""

from collections.abc import Callable

import generate
import pytest
from command_lines import calls, understood
from conftest import Outcome

from slmchat import cli
from slmchat.commands.examples import EXAMPLES


@pytest.mark.parametrize("command", [" ".join(name) for name in generate.command_names()])
def test_every_command_has_examples_that_are_understood(command: str) -> None:
    called = []
    for line in EXAMPLES[command]:
        assert len(line) <= 92, line  # with the two columns before it, it is not broken on a page of 100
        called += [understood(words) for words in calls(line)]
    assert called and all(name == command or name.startswith(f"{command} ") for name in called)


def test_no_example_is_of_a_command_that_is_gone() -> None:
    assert set(EXAMPLES) == {" ".join(name) for name in generate.command_names()}


def test_a_wrong_example_would_be_found() -> None:
    with pytest.raises(cli._UsageError):
        understood(["run", "--colour", "red"])
    assert list(calls('cat a | slm run -x "a | b" > out; eval "$(slm completion bash)"')) == [
        ["run", "-x", "a | b"],
        ["completion", "bash"],
    ]


@pytest.mark.real
@pytest.mark.parametrize("command", ["run", "sessions export", "sessions"])
def test_the_help_shows_them_line_by_line(slm: Callable[..., Outcome], command: str) -> None:
    shown = slm(*command.split(), "--help", env={"COLUMNS": "100"}).out.splitlines()
    for line in EXAMPLES[command]:
        assert line in [each.strip() for each in shown]
