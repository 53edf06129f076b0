"""Tasks by name: the suite that comes with slm, the public ones, and files of the user's own.

Knows: which names there are, what `--task` may mean, which files have to be fetched before a run.
Refuses to know: how a task file is read (task_files.py), how a file comes from the Hub (public_data.py).
"""

import difflib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from slmchat.errors import usage_error
from slmchat.evaluation import public_data, task_files
from slmchat.evaluation.records import EvalTask
from slmchat.evaluation.task_table import TaskTable
from slmchat.reporting import Reporter
from slmchat.settings import Settings

_SUITE = Path(__file__).resolve().parent / "suite"
_ENDING = ".toml"

SUITE = ("knowledge", "reasoning", "mathematics", "reading", "instructions", "tools", "sentiment")
"""The tasks that come with slm, in the order in which they are shown; all of them are measured when none is named."""

PUBLIC = ("arc-easy", "arc-challenge", "hellaswag", "gsm8k", "mmlu-pro", "truthfulqa")
"""The tasks whose items lie on the Hub. Each is a table in suite/public/, with its licence and the hash of its file."""


def is_file(target: str) -> bool:
    """Whether a target of `--task` is a path and not a name."""
    return target.endswith(_ENDING) or "/" in target or "\\" in target


def file_of(target: str) -> Path:
    """The task file of a target."""
    if is_file(target):
        return Path(target)
    return _SUITE / ("public" if target in PUBLIC else "") / f"{target}{_ENDING}"


@cache
def load(target: str) -> EvalTask:
    """The task of a name or a file. Raises `SlmError` as `task_files.load` does."""
    return task_files.load(file_of(target), None if is_file(target) else target)


def table(target: str) -> TaskTable:
    """What its file says of a task, without its items. Raises `SlmError` (USAGE)."""
    return TaskTable(file_of(target))


def fetch_missing(targets: Sequence[str], settings: Settings, reporter: Reporter) -> None:
    """Bring what lies on the Hub and is not here. Raises `SlmError` as `public_data.fetch` does, and USAGE."""
    for target in targets:
        told = table(target).get("hub", None) if is_file(target) or target in PUBLIC else None
        if told is not None:
            public_data.fetch(public_data.spec_of(told), target, settings, reporter)


def checked(target: str) -> str:
    """A name of a task, if there is one. Raises `SlmError` (USAGE) with near ones."""
    known = (*SUITE, *PUBLIC)
    if target in known:
        return target
    near = difflib.get_close_matches(target[:80].lower(), known, 2)
    shown = "".join(each if each.isprintable() else "?" for each in target[:80])
    raise usage_error(
        f"there is no task '{shown}'.",
        f"did you mean {' or '.join(near)}?" if near else "slm eval --list shows them; a file ends in .toml",
    )
