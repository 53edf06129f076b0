"""The cache of the Hub's client on this disk, as far as slm deletes from it.

Knows: its documented layout (`models--OWNER--REPO/blobs/SHA256`, `snapshots/COMMIT/FILE` links to a blob).
Refuses to know: the network; huggingface_hub itself, whose own deletion takes a whole revision with the files that
other tools have fetched.
"""

import os
from pathlib import Path


def delete_cached(path: Path) -> int:
    """Delete one file from the Hub's cache: its snapshot entry, and its blob when no other snapshot uses it.

    Returns the bytes freed. Paths that are gone are fine. Raises `OSError`.
    """
    if not path.is_symlink():  # a partial file, a blob, or a cache on a disk without symbolic links
        freed = size_of(path)
        path.unlink(missing_ok=True)
        _drop_empty(path.parent)
        return freed
    blob = Path(os.path.realpath(path))
    path.unlink()
    snapshots = next((parent for parent in path.parents if parent.name == "snapshots"), None)
    _drop_empty(path.parent)
    others = snapshots.rglob("*") if snapshots is not None and snapshots.exists() else iter(())
    if blob.parent.name != "blobs" or any(
        os.path.realpath(other) == str(blob) for other in others if other.is_symlink()
    ):
        return 0
    freed = size_of(blob)
    blob.unlink(missing_ok=True)
    return freed


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


def size_of(path: Path) -> int:
    """Bytes of a file; 0 when it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
