"""The cache of the Hub's client on this disk, as far as slm writes to it and deletes from it.

slm puts its files in by itself. The client would take the name of a blob and of a snapshot from the headers of a
server, and this module takes them from records that have been checked (untrusted.py).

Knows: the cache's documented layout (`models--OWNER--REPO/blobs/SHA256`, `snapshots/COMMIT/FILE` links to a blob; data
sets lie in `datasets--OWNER--REPO`), and that a link in it may lead out of it.
Refuses to know: the network; huggingface_hub itself, whose own deletion takes a whole revision with the files that
other tools have fetched.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from slmchat.catalog.untrusted import PlannedFile
from slmchat.lazy_dataclasses import dataclass
from slmchat.private_files import check_below, is_below, remove_below
from slmchat.user_paths import user_path

_REPOSITORY, _DATASET = "models--", "datasets--"


def hub_cache_directories(environ: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """The caches of the Hub's client, found as its documentation says; other tools use them too."""
    cache = Path(environ.get("XDG_CACHE_HOME") or "~/.cache")
    home = Path(environ.get("HF_HOME") or cache / "huggingface")
    yield "the Hub's cache", user_path(environ.get("HF_HUB_CACHE") or home / "hub")
    yield "the Hub's transfer cache", user_path(environ.get("HF_XET_CACHE") or home / "xet")


@dataclass(frozen=True, slots=True)
class CachedRepository:
    """The files of one repository in the cache at `cache`. `repo` is OWNER/REPO, checked (schema.py)."""

    cache: Path
    repo: str
    is_dataset: bool = False

    @property
    def folder(self) -> Path:
        return self.cache / ((_DATASET if self.is_dataset else _REPOSITORY) + self.repo.replace("/", "--"))

    def lock_file(self, commit: str, file: PlannedFile) -> Path:
        """What a pull of this file locks."""
        name = file.sha256 or f"{commit}-{file.name.replace('/', '-')[-150:]}"
        return self.cache / ".locks" / self.folder.name / f"{name}.slm.lock"

    def partial(self, file: PlannedFile) -> Path:
        """Where a file lies while it comes, beside the blobs; it must have a hash."""
        assert file.sha256 is not None
        return self.folder / "blobs" / f"{file.sha256}.slm.incomplete"

    def find(self, commit: str, file: PlannedFile) -> Path | None:
        """The file, if slm or another tool has put it here before. What a link outside stands for is not here."""
        places = [self.folder / "snapshots" / commit / file.name]
        if file.sha256 is not None:
            places.append(self.folder / "blobs" / file.sha256)
        for place in places:
            if place.is_file() and is_below(self.cache, place) and is_below(self.cache, Path(os.path.realpath(place))):
                return place
        return None

    def publish(self, commit: str, file: PlannedFile, fetched: Path) -> Path:
        """Make a checked file one of the cache: a blob, and an entry of a snapshot, whose path is returned.

        `fetched`: the partial file, what `find` gave, or the entry of a file of equal content. Raises `SlmError`
        (storage) where a link leads out of the cache, and `OSError`.
        """
        snapshot = self.folder / "snapshots" / commit / file.name
        if fetched == snapshot:
            return snapshot
        assert file.sha256 is not None
        blob = check_below(self.cache, self.folder / "blobs" / file.sha256)
        if fetched == self.partial(file):
            os.replace(fetched, blob)
        check_below(self.cache, snapshot).parent.mkdir(parents=True, exist_ok=True)
        snapshot.unlink(missing_ok=True)
        if not blob.exists():  # a cache without links, where the other file of equal content is no blob
            _duplicate(fetched, snapshot)
            return snapshot
        try:
            os.symlink(os.path.relpath(blob, snapshot.parent), snapshot)
        except OSError:  # Windows without the right to make links, FAT: the client puts the file itself there, too
            shutil.move(blob, snapshot)
        return snapshot


def _duplicate(file: Path, copy: Path) -> None:
    """The same content under another name, on no more disk where the disk can do that."""
    try:
        os.link(file, copy)
    except OSError:
        shutil.copyfile(file, copy)


def delete_cached(path: Path) -> int:
    """Delete one file from the Hub's cache: its snapshot entry, and its blob when no other snapshot uses it.

    Returns the bytes freed. Paths that are gone are fine. What is not below the folder of a repository, also behind
    links, stays. Raises `OSError`, `SlmError`.
    """
    repository = next((folder for folder in path.parents if folder.name.startswith((_REPOSITORY, _DATASET))), None)
    if repository is None or not is_below(repository.parent, path):
        return 0
    if not path.is_symlink():  # a partial file, a blob, or a cache on a disk without symbolic links
        freed = remove_below(repository.parent, path)
        _drop_empty(path.parent)
        return freed
    blob = Path(os.path.realpath(path))
    remove_below(repository.parent, path)
    snapshots = next((parent for parent in path.parents if parent.name == "snapshots"), None)
    _drop_empty(path.parent)
    others = snapshots.rglob("*") if snapshots is not None and snapshots.exists() else iter(())
    is_blob = blob.parent == Path(os.path.realpath(repository)) / "blobs"
    if not is_blob or any(os.path.realpath(other) == str(blob) for other in others if other.is_symlink()):
        return 0
    return remove_below(repository.parent, repository / "blobs" / blob.name)


def _drop_empty(folder: Path) -> None:
    """Remove the empty folders of a snapshot: the Hub's own listing calls an empty one corrupted."""
    if "snapshots" not in (parent.name for parent in folder.parents):
        return
    while folder.name != "snapshots":
        try:
            folder.rmdir()
        except OSError:  # not empty: other files of this revision are in use
            return
        folder = folder.parent
