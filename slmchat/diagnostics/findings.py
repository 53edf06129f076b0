"""What an examination finds: what, why it matters, what to do.

Knows: the record of a finding, how serious it is, how a row of checks is gone through.
Refuses to know: any check (diagnostics/device.py, diagnostics/storage.py, diagnostics/model.py), how findings are shown
(doctor.py).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Generic, TypeVar

from slmchat.errors import SlmError
from slmchat.lazy_dataclasses import dataclass


class Level(StrEnum):
    """How serious a finding is. Only WRONG makes `slm doctor` fail."""

    FINE = "fine"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found by the check of this name. `why` it matters and what to `do` are empty where all is fine."""

    level: Level
    what: str
    why: str = ""
    do: str = ""
    check: str = ""


def fine(what: str) -> Finding:
    return Finding(Level.FINE, what)


def note(what: str, why: str, do: str) -> Finding:
    return Finding(Level.NOTE, what, why, do)


def wrong(what: str, why: str, do: str) -> Finding:
    return Finding(Level.WRONG, what, why, do)


_LOOK = "check the permissions of the file and of its directory, and where links lead"

Subject = TypeVar("Subject")


@dataclass(frozen=True, slots=True)
class Check(Generic[Subject]):
    """One check: its name in listings and in JSON, and what looks at the subject."""

    name: str
    look: Callable[[Subject], Iterable[Finding]]


def run_checks(checks: Sequence[Check[Subject]], subject: Subject) -> Iterator[Finding]:
    """Every finding of these checks, one after another. An error inside a check is what that check found: that of slm,
    and that of a system which refuses (a link in a circle, a directory of somebody else)."""
    for check in checks:
        try:
            for finding in check.look(subject):
                yield replace(finding, check=check.name)
        except SlmError as error:
            why = "this could not be examined further"
            yield Finding(Level.WRONG, error.message, why, error.hint or "slm doctor -v tells more", check.name)
        except OSError as error:
            what = f"{error.filename or 'the system'} cannot be examined: {error.strerror or error}"
            yield Finding(Level.WRONG, what, "this could not be examined further", _LOOK, check.name)


def is_wrong(findings: Iterable[Finding]) -> bool:
    return any(finding.level is Level.WRONG for finding in findings)
