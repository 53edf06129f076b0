"""Items of a task that lie on the Hub: a file of a data set at a pinned commit, with its hash.

It is fetched before the process closes itself, and read behind the seal. It lies in the cache of the Hub's own client.

Knows: what a task file says of such a file, how it comes here. Refuses to know: what is in it (task_files.py).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slmchat.catalog import fetching, hub_client
from slmchat.catalog.hub import HubSource
from slmchat.catalog.hub_cache import CachedRepository
from slmchat.catalog.hub_names import REPO
from slmchat.catalog.model_specs import HubFile
from slmchat.catalog.untrusted import PlannedFile, is_commit, is_contained
from slmchat.errors import ExitCode, SlmError
from slmchat.reporting import Reporter
from slmchat.settings import Settings

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELDS = {"repo", "revision", "file", "sha256", "size"}


def is_right(told: object) -> bool:
    """Whether this is what a task file may say of a file on the Hub."""
    return (
        isinstance(told, dict)
        and {"repo", "revision", "file", "sha256"} <= set(told) <= _FIELDS
        and isinstance(told["repo"], str)
        and bool(REPO.fullmatch(told["repo"]))
        and is_commit(told["revision"])
        and is_contained(told["file"])
        and isinstance(told["sha256"], str)
        and bool(_SHA256.fullmatch(told["sha256"]))
        and (type(told.get("size", 1)) is int and told.get("size", 1) > 0)
    )


def spec_of(told: Mapping[str, Any]) -> HubFile:
    """The file that a checked table means."""
    return HubFile(told["repo"], told["file"], told["revision"], told.get("size"), told["sha256"], is_dataset=True)


def here(spec: HubFile) -> Path | None:
    """The file, if it has been fetched."""
    planned = PlannedFile(spec.file, spec.size, spec.sha256)
    return CachedRepository(hub_client.cache_directory(), spec.repo, is_dataset=True).find(str(spec.revision), planned)


def fetch(spec: HubFile, task: str, settings: Settings, reporter: Reporter) -> None:
    """Bring the file here, if it is not. Raises `SlmError`: NETWORK, also with `--offline`; DAMAGED; STORAGE."""
    if here(spec) is not None:
        return
    again = f"slm eval --task {task}"
    if settings.is_offline:
        raise SlmError(
            f"the items of {task} are not here, and --offline forbids to fetch them.",
            hint=f"without --offline (or SLM_OFFLINE): {again}",
            exit_code=ExitCode.NETWORK,
        )
    source = HubSource(spec, again, reporter)
    plan = source.plan()
    fetching.check_space(plan, task)
    with fetching.locked(plan, task, reporter):
        fetched = fetching.whole(source, plan, plan.place, task, reporter, again=again)
        source.keep(plan, fetched, plan.place)
