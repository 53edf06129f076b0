"""What use cases say: to the logger of a program, or to the console of a command."""

import io
import logging
from collections.abc import Iterator

import pytest

from slmchat.generation.batch.progress import Progress
from slmchat.reporting import LogReporter
from slmchat.terminal.console import Console


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_program_hears_everything_through_its_logger(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    reporter = LogReporter()
    with caplog.at_level(logging.DEBUG, logger="slmchat"):
        assert reporter.is_verbose
        reporter.note("loading")
        reporter.detail("4 threads")
        reporter.warn("memory is short")
        reporter.status("measuring …")
        with reporter.progress("weights") as advance:
            advance(1, None)
        assert not reporter.ask("Go on?")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "loading"),
        ("DEBUG", "4 threads"),
        ("WARNING", "memory is short"),
    ]
    assert capfd.readouterr() == ("", "")


def test_details_follow_the_level_of_the_logger_as_it_is_now(caplog: pytest.LogCaptureFixture) -> None:
    reporter = LogReporter()
    with caplog.at_level(logging.INFO, logger="slmchat"):
        assert not reporter.is_verbose
    with caplog.at_level(logging.DEBUG, logger="slmchat"):
        assert reporter.is_verbose


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_terminal_without_a_status_line_hears_of_a_long_batch_in_details(term: str) -> None:
    def clock() -> Iterator[float]:
        yield from (0.0, 11.0)
        while True:
            yield 11.0

    ticks = clock()
    console = Console(io.StringIO(), io.StringIO(), _Terminal(), {"TERM": term})
    console.is_verbose = True
    Progress(console, 100, clock=lambda: next(ticks)).add(50, is_failed=False)
    assert isinstance(console.stderr, io.StringIO)
    assert console.stderr.getvalue().count("1 row,") == 1
    assert ("\x1b[K" in console.stderr.getvalue()) == (term == "xterm")
