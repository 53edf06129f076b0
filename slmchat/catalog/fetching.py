"""From a plan to files that can be trusted: the lock, the disk space, the workspace, the sha256, the GGUF header.

Knows: that two pulls may run at once, that a pull may be killed at any moment, that bytes may be wrong.
Refuses to know: which source it is, what the files are called in the end, what a terminal looks like.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from slmchat.catalog.gguf import read_header
from slmchat.catalog.gguf_header import Header
from slmchat.catalog.sources import FetchedFile, FetchPlan, Source, sha256_of
from slmchat.errors import ExitCode, SlmError
from slmchat.private_files import check_below, make_private, own_name_only
from slmchat.reporting import Reporter
from slmchat.wording import in_bytes

if TYPE_CHECKING:
    from filelock import FileLock

_PREFIX = ".partial-"


@contextmanager
def locked(plan: FetchPlan, name: str, reporter: Reporter) -> Iterator[None]:
    """Be the only pull of these files; another one is waited for. Raises `OSError` when there can be no lock."""
    if plan.lock_file is None:
        yield
        return
    from filelock import Timeout

    check_below(plan.place, plan.lock_file)
    if plan.is_shared:  # the Hub's cache may belong to a group: its client goes by the umask, and so does slm there
        plan.lock_file.parent.mkdir(parents=True, exist_ok=True)
    else:
        make_private(plan.lock_file.parent)
    lock = _lock(plan.place, plan.lock_file, mode=0o664 if plan.is_shared else 0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        reporter.note(f"another slm is pulling {name}; waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _lock(root: Path, file: Path, mode: int = 0o600) -> "FileLock":
    """The lock in `file` below `root`; never through a link, whose target it would empty.

    Raises `SlmError` (storage) where a link leads elsewhere, `OSError`.
    """
    from filelock import FileLock

    own_name_only(root, file)
    return FileLock(file, mode=mode)


def check_space(plan: FetchPlan, name: str) -> None:
    """Refuse a fetch that the disk cannot hold. Raises `SlmError` (storage)."""
    need, free = space_needed(plan), space_free(plan)
    if need is not None and need > free:
        raise SlmError(
            f"{name} needs {in_bytes(need)} on the disk of {plan.place}, and {in_bytes(free)} are free.",
            hint="slm rm NAME frees the space of a model; a smaller quantization needs less",
            exit_code=ExitCode.STORAGE,
        )


def space_needed(plan: FetchPlan) -> int | None:
    """Bytes that the fetch will still put on the disk of `plan.place`; None when the size is not known."""
    return None if plan.size is None else max(plan.size - plan.present, 0) + plan.scratch


def space_free(plan: FetchPlan) -> int:
    """Free bytes on the disk where the files will lie."""
    place = next((folder for folder in (plan.place, *plan.place.parents) if os.path.exists(folder)), Path("/"))
    return shutil.disk_usage(place).free


@contextmanager
def workspace(plan: FetchPlan, models: Path) -> Iterator[Path]:
    """A directory of this pull's own below `models`, gone afterwards. Call it with the lock held.

    Workspaces of pulls that were killed are removed on the way: a workspace whose lock is free has no owner.
    """
    make_private(models)
    key = plan.lock_file.stem if plan.lock_file is not None else "local"
    _clean_up(models, key)
    directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{key}-", dir=models))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def abandoned(models: Path) -> list[Path]:
    """Workspaces of pulls that were killed. They stay; the next pull removes them."""
    from filelock import Timeout

    found = []
    for leftover in sorted(models.glob(f"{_PREFIX}*")):
        lock_file = models / ".locks" / f"{leftover.name.removeprefix(_PREFIX).rpartition('-')[0]}.lock"
        try:
            if lock_file.exists():
                _lock(models, lock_file).acquire(timeout=0).lock.release()
            found.append(leftover)
        except (Timeout, OSError, SlmError):  # its owner is alive
            continue
    return found


def _clean_up(models: Path, held: str) -> None:
    from filelock import Timeout

    for leftover in models.glob(f"{_PREFIX}*"):
        key = leftover.name.removeprefix(_PREFIX).rpartition("-")[0]
        if key == held:
            shutil.rmtree(leftover, ignore_errors=True)
            continue
        lock_file = models / ".locks" / f"{key}.lock"
        if not lock_file.exists():  # a Hub file's: its lock and its bytes lie in the Hub's cache, this one is empty
            continue
        try:
            with _lock(models, lock_file).acquire(timeout=0):
                shutil.rmtree(leftover, ignore_errors=True)
        except (Timeout, OSError, SlmError):  # its owner is alive
            continue


def checked(
    source: Source, plan: FetchPlan, directory: Path, name: str, reporter: Reporter
) -> tuple[tuple[FetchedFile, ...], tuple[Header, ...]]:
    """Fetch, and return files whose sha256 and GGUF header are right, with the headers.

    Raises `SlmError`, and `OSError` when this disk refuses.
    """
    fetched = whole(source, plan, directory, name, reporter, again=f"slm pull {name}")
    try:
        return fetched, tuple(read_header(file.path, file.planned.name) for file in fetched)
    except SlmError as error:
        source.discard(tuple(file for file in fetched if not file.was_there))
        if error.exit_code is not ExitCode.DAMAGED or plan.lock_file is None:
            raise
        raise SlmError(f"it came as its source states it, and {error.message}", exit_code=ExitCode.DAMAGED) from error


def whole(
    source: Source, plan: FetchPlan, directory: Path, name: str, reporter: Reporter, *, again: str
) -> tuple[FetchedFile, ...]:
    """Fetch, and return files whose sha256 is right. `again`: the command that tries again.

    A damaged copy (or part) that lay in the Hub's cache before is thrown away and fetched again, once. Wrong bytes are
    thrown away. Raises `SlmError`, and `OSError` when this disk refuses.
    """
    fetched = _fetch(source, plan, directory, name, reporter)
    wrong = _first_wrong(fetched, reporter)
    if wrong is not None and (wrong[0].was_there or wrong[0].is_resumed):
        source.discard((wrong[0],))
        part = "copy" if wrong[0].was_there else "part"
        reporter.warn(f"the {part} of {wrong[0].planned.name} that was here is damaged; fetching it again.")
        fetched = _fetch(source, plan, directory, name, reporter)
        wrong = _first_wrong(fetched, reporter)
    if wrong is not None:
        file, found = wrong
        source.discard((file,))
        raise SlmError(
            f"{file.planned.name} is damaged: its sha256 is {found}, expected {file.planned.sha256}.",
            hint=f"the damaged copy is deleted; try again: {again}",
            exit_code=ExitCode.DAMAGED,
        )
    return fetched


def _fetch(source: Source, plan: FetchPlan, directory: Path, name: str, reporter: Reporter) -> tuple[FetchedFile, ...]:
    with reporter.progress(name) as advance:
        return source.fetch(plan, directory, advance)


def _first_wrong(fetched: tuple[FetchedFile, ...], reporter: Reporter) -> tuple[FetchedFile, str] | None:
    """The first file whose sha256 is not the expected one, and the one it has."""
    for file in fetched:
        if file.planned.sha256 is None:
            continue
        found = file.sha256
        if found is None:
            with reporter.progress(f"checking {file.planned.name}") as advance:
                found = sha256_of(file.path, advance)
        if found != file.planned.sha256:
            return file, found
    return None
