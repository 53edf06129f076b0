"""A user's regular expressions on a model's text: an end for each, at once where few steps are certain."""

import re
import subprocess
from typing import Any

import pytest

from slmchat import bounded_patterns
from slmchat.bounded_patterns import TooSlow, is_found, is_quick, is_whole
from slmchat.engine.results import FinishReason
from slmchat.errors import ExitCode, SlmError
from slmchat.evaluation import answer_checks
from slmchat.generation import structured

CATASTROPHE = "(a+)+b"
LETTERS = "a" * 64


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes for ever takes no longer than this."""
    monkeypatch.setattr(bounded_patterns, "MOST_S", 0.2)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process may be started."""

    def refused(*_: object, **__: object) -> Any:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "run", refused)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    "pattern", [r"^[A-Z]{3}-\d+$", r"\d{4}-\d{2}-\d{2}", "yes|no|maybe", r"colou?r", "^$", r"[(*+]"]
)
def test_an_expression_that_reads_a_text_few_times_is_tried_here(pattern: str) -> None:
    assert is_quick(pattern, 200)
    is_found(re.compile(pattern), "x" * 200)


@pytest.mark.parametrize(
    ("pattern", "length"),
    [
        (CATASTROPHE, 10),
        ("(a|a)*b", 10),
        ("(?:a?){30}a{30}", 30),
        ("a?" * 30 + "a" * 30, 30),
        (".*" * 9, 30),
        (".*a.*b", 100_000),
        (r"(a)\1*b", 10),
        ("(?P<x>a)(?P=x)", 10),
    ],
)
def test_one_that_might_take_long_is_not(pattern: str, length: int) -> None:
    assert not is_quick(pattern, length)


def test_an_expression_with_comments_is_not_read_by_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_patterns, "interpreter", lambda: None)
    asked: list[str] = []
    monkeypatch.setattr(bounded_patterns, "is_quick", lambda pattern, length: bool(asked.append(pattern)))
    assert is_whole(re.compile("(a b) +", re.VERBOSE), "abab") and not asked


@pytest.mark.usefixtures("hurried")
@pytest.mark.slow
def test_one_that_has_no_end_ends() -> None:
    with pytest.raises(TooSlow):
        is_whole(re.compile(CATASTROPHE), LETTERS)
    with pytest.raises(SlmError, match=r"it takes too long to see whether 64 characters match .* \(a\+\)\+b") as caught:
        structured.of_regex(CATASTROPHE).value(LETTERS, FinishReason.STOP)
    assert caught.value.exit_code is ExitCode.UNSATISFIED
    schema = structured.of_schema({"type": "object", "properties": {"x": {"pattern": "^(a+)+b"}}})
    with pytest.raises(SlmError, match="it takes too long"):
        schema.value(f'{{"x": "{LETTERS}"}}', FinishReason.STOP)
    assert answer_checks.failed(LETTERS, {"matches": CATASTROPHE, "words": 1}) == ("matches (takes too long)",)


def test_the_process_says_what_python_says_here() -> None:
    pattern = re.compile("(?:é b)+.", re.IGNORECASE | re.DOTALL)
    assert is_whole(pattern, "É bé b\n") and is_found(pattern, "--é b\ud800--")
    assert not is_whole(pattern, "É b\n.")


def test_where_no_process_can_be_started_it_is_tried_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> Any:
        raise OSError("no")

    monkeypatch.setattr(subprocess, "run", refused)
    assert is_whole(re.compile("(ab)+"), "abab") and not is_whole(re.compile("(ab)+"), "aba")
