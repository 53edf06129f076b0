"""The checks of `slm doctor` on files: disk, permissions, records, and what was left behind.

Knows: what lies below slm's directories and what is wrong with it. Refuses to know: what is in a model file
(diagnostics/model.py). Nothing is changed or removed here; what to do is told.
"""

import os
import shlex
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path

from slmchat.catalog import fetching
from slmchat.catalog.hub_cache import hub_cache_directories
from slmchat.catalog.library import Library, last_model
from slmchat.catalog.records import Installed
from slmchat.catalog.registry import load_user_names
from slmchat.database import Database, Schema
from slmchat.diagnostics.findings import Check, Finding, fine, note, wrong
from slmchat.engine import crash_guard
from slmchat.engine.crash_guard import Ended
from slmchat.engine.kvstore import KvStore
from slmchat.errors import SlmError
from slmchat.hardware import free_disk
from slmchat.hardware.facts import Fact
from slmchat.lazy_dataclasses import dataclass
from slmchat.settings import Paths
from slmchat.wording import counted, in_bytes

# Free bytes below which nothing can be pulled, and below which a model of four billion parameters cannot.
_LEAST_DISK, _GOOD_DISK = 300_000_000, 3_000_000_000

# Temporary files this old (seconds) have no owner; entries looked at in slm's directories at most.
_OLD_S = 3600.0
_MOST_ENTRIES = 20_000
_NAMED = 3  # paths that a finding names; of more it tells the number


@dataclass(slots=True)
class Places:
    """slm's directories, the environment that says where the Hub's cache is, and the free disk."""

    paths: Paths
    environ: Mapping[str, str]
    disk: Fact[int]
    complaints: list[str] = field(default_factory=list)
    installed: tuple[Installed, ...] = ()

    @classmethod
    def of(cls, paths: Paths, environ: Mapping[str, str]) -> "Places":
        """The places with what is installed there; damaged records become complaints. Raises `SlmError` (storage)."""
        made = cls(paths, environ, free_disk(paths.models))
        made.installed = Library(paths, warn=made.complaints.append).all()
        return made

    @property
    def own(self) -> tuple[Path, ...]:
        return (self.paths.data, self.paths.config, self.paths.cache)


def _disk(places: Places) -> Iterator[Finding]:
    free = places.disk.value
    if free is None:
        yield note("how much disk is free is not known", "a pull may fail at its end", f"df {places.paths.models}")
        return
    what = f"{in_bytes(free)} free for models"
    do = "slm list shows the models, slm rm NAME removes one"
    if free < _LEAST_DISK:
        yield wrong(what, "not even the smallest model can be pulled, and conversations may not be saved", do)
    elif free < _GOOD_DISK:
        yield note(what, "a model of four billion parameters needs about 2.5 GB", do)
    else:
        yield fine(what)


def _permissions(places: Places) -> Iterator[Finding]:
    found = [finding for place in places.own for finding in _of_directory(place)]
    yield from found
    if not found:
        yield fine("slm's directories are the owner's alone and can be written")


def _of_directory(place: Path) -> Iterator[Finding]:
    quoted = shlex.quote(str(place))
    if not os.path.exists(place):
        nearest = next(folder for folder in place.parents if os.path.exists(folder))
        if not os.access(nearest, os.W_OK | os.X_OK):
            why = "models, conversations and settings cannot be kept"
            yield wrong(f"{place} cannot be made: {nearest} cannot be written", why, "SLM_HOME chooses another place")
        return
    if not os.path.isdir(place) or not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        why = "models, conversations and settings cannot be kept or read"
        yield wrong(f"{place} cannot be written", why, f"chmod u+rwx {quoted}, or SLM_HOME chooses another place")
        return
    if os.name != "posix":
        return
    if place.stat().st_mode & 0o077:
        yield wrong(
            f"others can look into {place}",
            "conversations are the owner's alone; this place belongs to somebody else, is a link, or keeps no modes",
            f"chmod 700 {quoted}/ ; on a disk without modes: SLM_HOME chooses another place",
        )
    foreign = [path for path in _entries(place) if path.lstat().st_uid != os.geteuid()]
    if foreign:
        yield wrong(
            f"{_listed(foreign)} below {place} belong to another user",
            "slm cannot replace or remove them; they were probably made by `sudo slm`",
            f'sudo chown -R "$(id -un)" {quoted}',
        )


def _entries(place: Path) -> Iterator[Path]:
    count = 0
    for folder, folders, files in os.walk(place):
        for name in (*folders, *files):
            count += 1
            if count > _MOST_ENTRIES:
                return
            path = Path(folder, name)
            if os.path.lexists(path):
                yield path


def _listed(paths: list[Path]) -> str:
    names = ", ".join(path.name for path in paths[:_NAMED])
    return f"{names} and {len(paths) - _NAMED:,} more" if len(paths) > _NAMED else names


def _records(places: Places) -> Iterator[Finding]:
    """What is installed is there, and what is there is installed."""
    is_whole = True
    for complaint in places.complaints:
        is_whole = False
        yield wrong(complaint, "the model is there and cannot be used", "slm pull NAME writes the record again")
    for installed in places.installed:
        missing = installed.missing()
        if missing:
            is_whole = False
            yield wrong(
                f"{installed.key} is installed, and its file {missing[0]} is gone",
                "it cannot be used",
                f"slm pull {installed.key}, or slm rm {installed.key}",
            )
    owned = {file.path for record in places.installed for file in (*record.files, record.projector) if file}
    orphans = [path for path in sorted(places.paths.models.glob("*.gguf")) if path not in owned]
    if orphans and not places.complaints:
        is_whole = False
        why = f"{_size(orphans)} of the disk are used for nothing"
        yield note(f"{_listed(orphans)}: weights of no installed model", why, _remove(orphans))
    if is_whole:
        yield fine(f"{len(places.installed)} installed, all files there")


def _stale(places: Places) -> Iterator[Finding]:
    """What killed pulls and interrupted writes have left."""
    partial = fetching.abandoned(places.paths.models)
    cache = dict(hub_cache_directories(places.environ))["the Hub's cache"]
    unfinished = sorted(cache.glob("models--*/blobs/*.slm.incomplete"))
    temporary = [path for path in _temporary(places) if _is_old(path)]
    if partial:
        why = f"{_size(partial)} of the disk; the next slm pull removes them"
        yield note(f"{_listed(partial)}: left by pulls that were killed", why, _remove(partial))
    if unfinished:
        why = f"{_size(unfinished)} of the disk; pulling the same model again goes on from there"
        yield note(
            f"{counted(len(unfinished), 'unfinished download')} in {cache}",
            why,
            f"slm pull NAME, or {_remove(unfinished)}",
        )
    if temporary:
        why = f"{_size(temporary)} of the disk; nothing will ever use them"
        yield note(f"{_listed(temporary)}: temporary files of a write that was killed", why, _remove(temporary))
    if not (partial or unfinished or temporary):
        yield fine("no unfinished downloads, no temporary files")


def _temporary(places: Places) -> Iterator[Path]:
    for place in (*places.own, places.paths.models, *places.paths.kv_states.glob("*")):
        yield from sorted(place.glob(".new-*"))
    yield from sorted(places.paths.cache.glob("pace-*"))


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.lstat().st_mtime > _OLD_S
    except OSError:  # gone meanwhile
        return False


def _size(paths: list[Path]) -> str:
    total = 0
    for path in (inner for outer in paths for inner in (outer, *outer.rglob("*"))):
        try:
            found = path.lstat()
        except OSError:
            continue
        total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return in_bytes(total)


def _remove(paths: list[Path]) -> str:
    named = " ".join(shlex.quote(str(path)) for path in paths[:_NAMED])
    return f"rm -r {named}" + (" …" if len(paths) > _NAMED else "")


def _crashes(places: Places) -> Iterator[Finding]:
    ends = crash_guard.untold_ends(places.paths.data, [installed.path for installed in places.installed])
    if not ends:
        yield fine("no model has ended slm since the last start")
    for installed in places.installed:
        if installed.path in ends:
            yield _crashed(installed.key, ends[installed.path], f"slm doctor {installed.key} tries it again, with less")
    if None in ends:
        yield _crashed(
            "a model file that is not installed by name", ends[None], "slm doctor FILE.gguf tries it, with less"
        )


def _crashed(name: str, end: Ended, do: str) -> Finding:
    is_crash = end is Ended.CRASHED
    return wrong(
        f"slm {'crashed' if is_crash else 'was killed'} while it was loading {name} or beginning an answer",
        "llama.cpp may go wrong on this machine, or with this model"
        if is_crash
        else "the system does that when memory runs out",
        do if is_crash else "a smaller window (--ctx N) or a smaller model; slm show tells how much it needs",
    )


def _states(places: Places) -> Iterator[Finding]:
    """KV states of models that are gone."""
    present = [record.path for record in places.installed if not record.missing()]
    named = [name.target.path for name in load_user_names(places.paths.user_registry).values() if name.target]
    for path in (*named, Path(last_model(places.paths))):
        if path is not None and os.path.isfile(path):
            present.append(path)
    unknown = KvStore(places.paths.kv_states).without_model(present)
    if unknown:
        yield note(
            f"{in_bytes(sum(unknown.values()))} of KV states belong to no installed model",
            "their model is gone, or is a .gguf file used by its path; the oldest go by themselves at the limit",
            _remove(sorted(unknown)),
        )
    else:
        yield fine("every stored state belongs to a model that is here")


def _databases(places: Places) -> Iterator[Finding]:
    """What was said and read before can be read again."""
    is_whole = True
    for file, why in (
        (places.paths.sessions, "no conversation can be read or saved"),
        (places.paths.documents, "documents cannot be asked"),
    ):
        try:
            Database(file, Schema((), frozenset())).check()
        except SlmError as error:
            is_whole = False
            yield wrong(error.message.removesuffix("."), why, error.hint or "")
    if is_whole:
        yield fine("conversations and documents that are kept can be read")


CHECKS: tuple[Check[Places], ...] = (
    Check("disk", _disk),
    Check("permissions", _permissions),
    Check("models", _records),
    Check("leftovers", _stale),
    Check("crashes", _crashes),
    Check("kv states", _states),
    Check("databases", _databases),
)
