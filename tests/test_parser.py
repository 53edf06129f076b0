"""How words become options: the grammar of POSIX and GNU, and what is said of words that are none of it."""

from typing import Any

import pytest

from slmchat.commands.parser import HelpWanted, UsageError, parameters_of, parse
from slmchat.lazy_dataclasses import dataclass
from slmchat.option_fields import argument, option
from slmchat.ranges import Range


@dataclass(frozen=True, slots=True)
class Given:
    """Options of every kind."""

    name: str = argument("NAME")
    words: list[str] | None = argument("[WORD]...", default=None)
    model: str | None = option("-m", "--model", help="", metavar="NAME")
    number: int = option("-n", "--number", help="", metavar="N", default=3, within=Range(1, 9))
    many: int | None = option("--many", help="", metavar="N", within=Range(1, 10_000_000))
    share: float | None = option("--share", help="", metavar="P", within=Range(0.0, 1.0))
    files: list[str] = option("-f", "--file", help="", metavar="FILE", default=[])
    verbose: int = option("-v", "--verbose", help="", default=0, is_count=True)
    quiet: bool = option("-q", "--quiet", help="", default=False)
    calibrate: bool | None = option("--calibrate/--no-calibrate", help="", default=None)


USUAL: dict[str, Any] = {
    **{"name": "x", "words": None, "model": None, "number": 3, "many": None, "share": None},
    **{"files": [], "verbose": 0, "quiet": False, "calibrate": None},
}


@pytest.mark.parametrize(
    ("line", "values"),
    [
        (["x"], {}),
        (["--model", "a", "x"], {"model": "a"}),
        (["x", "--model=a=b"], {"model": "a=b"}),
        (["x", "--model="], {"model": ""}),
        (["x", "-m", "a"], {"model": "a"}),
        (["x", "-ma"], {"model": "a"}),
        (["x", "-m=a"], {"model": "=a"}),
        (["x", "-m", "--quiet"], {"model": "--quiet"}),  # a value, whatever it looks like
        (["x", "-m", "a", "-m", "b"], {"model": "b"}),
        (["x", "-qvvn5"], {"quiet": True, "verbose": 2, "number": 5}),
        (["x", "-v", "--verbose", "-v"], {"verbose": 3}),
        (["-f", "a", "x", "y", "--file=b", "z"], {"files": ["a", "b"], "words": ["y", "z"]}),
        (["x", "--", "-q", "--", "z"], {"words": ["-q", "--", "z"]}),
        (["x", "-"], {"words": ["-"]}),
        (["x", ""], {"words": [""]}),
        (["x", "--calibrate", "--no-calibrate"], {"calibrate": False}),
        (["x", "--no-calibrate", "--calibrate"], {"calibrate": True}),
        (["x", "--share", "1"], {"share": 1.0}),
        (["x", "--number", "9"], {"number": 9}),
    ],
)
def test_words_become_values(line: list[str], values: dict[str, Any]) -> None:
    assert parse(parameters_of([Given]), line) == ({**USUAL, **values}, [])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ([], "missing argument 'NAME'"),
        (["x", "--mod", "a"], "there is no option --mod"),  # nothing is completed
        (["x", "--mod=a"], "there is no option --mod"),
        (["x", "-qz"], "there is no option -z"),
        (["x", "-5 plus 3"], "there is no option -5"),
        (["x", "--model"], "option '--model' requires an argument"),
        (["x", "-m"], "option '-m' requires an argument"),
        (["x", "--quiet=yes"], "option '--quiet' does not take a value"),
        (["x", "-n", "0"], "invalid value for '-n' / '--number': 0 is not a whole number from 1 to 9"),
        (["x", "-n", "1.5"], "invalid value for '-n' / '--number': '1.5' is not a whole number"),
        (["x", "--many", "0"], "invalid value for '--many': 0 is not a whole number from 1 on"),
        (["x", "--many", "20000000"], "invalid value for '--many': 20000000 is not a whole number from 1 on"),
        (["x", "--share", "2"], "invalid value for '--share': 2 is not a number from 0 to 1"),
        (["x", "--share", "a"], "invalid value for '--share': 'a' is not a number"),
        (["--share", "a", "-n", "b"], "invalid value for '--share': 'a' is not a number"),  # the first on the line
    ],
)
def test_what_is_wrong_is_said(line: list[str], says: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(parameters_of([Given]), line)
    assert raised.value.message == says


def test_words_that_nobody_takes() -> None:
    options = parameters_of([Given])[2:]
    for line, says in ((["a"], "argument (a)"), (["a", "-q", "b"], "arguments (a b)")):
        with pytest.raises(UsageError, match="got unexpected extra") as raised:
            parse(options, line)
        assert raised.value.message.endswith(says)


def test_options_of_a_group_end_at_the_name_of_a_command() -> None:
    options = parameters_of([Given])[2:]
    values, rest = parse(options, ["-q", "run", "-q", "--anything"], ends_at_name=True)
    assert values["quiet"] and rest == ["run", "-q", "--anything"]
    values, rest = parse(options, ["--", "run"], ends_at_name=True)
    assert rest == ["run"]


@pytest.mark.parametrize("line", [["--help"], ["x", "-n", "wrong", "-h"], ["-qh"]])
def test_help_comes_before_wrong_values(line: list[str]) -> None:
    with pytest.raises(HelpWanted):
        parse(parameters_of([Given]), line)


def test_an_unknown_option_comes_before_help() -> None:
    with pytest.raises(UsageError, match="--fly"):
        parse(parameters_of([Given]), ["--help", "--fly"])
    with pytest.raises(HelpWanted):  # behind "--" there are no options
        parse(parameters_of([Given]), ["--help", "--", "--fly"])


def test_defaults_are_made_anew() -> None:
    parameters = parameters_of([Given])
    parse(parameters, ["x"])[0]["files"].append("a")
    assert parse(parameters, ["x"])[0]["files"] == []
