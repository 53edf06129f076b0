"""Tasks by name: the suite that comes with slm, the public ones, and files of the user's own.

Knows: which names there are, what `--task` may mean. Refuses to know: how a task file is read (task_files.py), how a
public one is fetched (public_data.py).
"""

import difflib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from slmchat.errors import ExitCode, SlmError
from slmchat.evaluation import task_files
from slmchat.evaluation.records import EvalTask
from slmchat.reporting import Reporter
from slmchat.settings import Settings

_SUITE = Path(__file__).resolve().parent / "suite"
_ENDING = ".toml"

SUITE = ("knowledge", "reasoning", "mathematics", "reading", "instructions", "tools", "sentiment")
"""The tasks that come with slm, in the order in which they are shown; all of them are measured when none is named."""


def is_file(target: str) -> bool:
    """Whether a target of `--task` is a path and not a name."""
    return target.endswith(_ENDING) or "/" in target or "\\" in target


@cache
def built_in(name: str) -> EvalTask:
    """A task of the suite."""
    return task_files.load(_SUITE / f"{name}{_ENDING}", name)


def load(target: str, settings: Settings) -> EvalTask:
    """The task of a name or a file. Raises `SlmError` (USAGE) for a file that is not right."""
    return task_files.load(Path(target)) if is_file(target) else built_in(target)


def fetch_missing(targets: Sequence[str], settings: Settings, reporter: Reporter) -> None:
    """Bring public tasks here that are not."""


def checked(target: str) -> str:
    """A name of a task, if there is one. Raises `SlmError` (USAGE) with near ones."""
    known = SUITE
    if target in known:
        return target
    near = difflib.get_close_matches(target[:80].lower(), known, 2)
    shown = "".join(each if each.isprintable() else "?" for each in target[:80])
    raise SlmError(
        f"there is no task '{shown}'.",
        hint=f"did you mean {' or '.join(near)}?" if near else "slm eval --list shows them; a file ends in .toml",
        exit_code=ExitCode.USAGE,
    )
