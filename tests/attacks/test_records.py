"""Rewritten records below `data/`: `slm rm` deletes what slm has fetched, whatever a record says."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome

from attacks.canary import Canary
from attacks.conftest import FILE, REPO, has_told
from slmchat.catalog.library import Library
from slmchat.catalog.records import Installed, InstalledFile
from slmchat.settings import Paths

pytestmark = pytest.mark.real

NAME = f"hf:{REPO}"


@pytest.fixture
def installed(slm: object, home: Path, weights: bytes) -> Path:
    """A model as `slm pull` leaves it in the Hub's cache; the path of its file."""
    sha256 = hashlib.sha256(weights).hexdigest()
    folder = home / "hf" / "hub" / "models--owner--small-GGUF"
    blob, snapshot = folder / "blobs" / sha256, folder / "snapshots" / ("c" * 40) / FILE
    for path in (blob, snapshot):
        path.parent.mkdir(parents=True)
    blob.write_bytes(weights)
    snapshot.symlink_to(os.path.relpath(blob, snapshot.parent))
    files = (InstalledFile.of(snapshot, sha256),)
    paths = Paths(home / "data", home / "config", home / "cache")
    Library(paths).admit(Installed(NAME, "Q4_K_M", files, source="hub", admitted_at="2026", is_shared=True))
    return snapshot


def rewritten(home: Path, **fields: Any) -> dict[str, Any]:
    """Change the one record; `file` is laid over its first file."""
    (record,) = (home / "data" / "models").glob("*.json")
    facts: dict[str, Any] = json.loads(record.read_text())
    facts["files"][0] |= fields.pop("file", {})
    record.write_text(json.dumps(facts | fields))
    return facts


PLACES = ("plain", "..", "below the weights", "below the cache", "as a projector", "as an own projector")


@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize("place", PLACES)
def test_a_record_that_names_another_file(
    place: str, is_shared: bool, slm: Callable[..., Outcome], installed: Path, home: Path, canary: Canary
) -> None:
    models, cache = home / "data" / "models", installed.parents[1]
    path = {
        "..": models / ".." / ".." / ".." / canary.file.relative_to(home.parent),
        "below the weights": models / "link" / canary.file.name,
        "below the cache": cache / "link" / canary.file.name,
    }.get(place, canary.file)
    for root in (models, cache):
        (root / "link").symlink_to(canary.file.parent)
    entry = {"path": str(path), "size": 5, "mtime_ns": 5, "sha256": "0" * 64}
    if "projector" in place:
        rewritten(home, projector=entry, is_projector_fetched=True, is_shared=is_shared)
    else:
        rewritten(home, file=entry, is_shared=is_shared, is_fetched=True)
    for command in (("list",), ("list", "--json"), ("rm", NAME), ("rm", f"{NAME}@Q4_K_M")):
        done = slm(*command)
        has_told(done, 0, 2, 3, 6)
        canary.check(done.out + done.err)


WRONG: dict[str, dict[str, Any]] = {
    "a relative path": {"file": {"path": "x.gguf"}},
    "a path that is a number": {"file": {"path": 7}},
    "a path with a null character": {"file": {"path": "/x\0.gguf"}},
    "a hash that is a path": {"file": {"sha256": "../../x"}},
    "a hash in upper case": {"file": {"sha256": "A" * 64}},
    "a size that is true": {"file": {"size": True}},
    "a size below 0": {"file": {"size": -1}},
    "a size that is a text": {"file": {"size": "1"}},
    "no files": {"files": []},
    "files in a table": {"files": {}},
    "adapters": {"adapters": [{"path": "/x"}]},
    "a base": {"base": "x"},
    "a flag that is a number": {"is_fetched": 1},
    "a sampler with a text": {"sampler": {"temperature": "hot"}},
    "a sampler without bounds": {"sampler": {"temperature": 1e300}},
    "a sampler with more": {"sampler": {"heat": 1}},
    "a licence with more": {"license": {"id": "a", "title": "b", "link": "c", "more": 1}},
    "a licence of numbers": {"license": {"id": 1, "title": 2, "link": 3}},
    "a length that is a text": {"context_length": "many"},
    "a length below 0": {"context_length": -5},
    "tags that are numbers": {"tags": [1]},
    "a name that is empty": {"name": ""},
    "a title that is a list": {"title": ["x"]},
}


@pytest.mark.parametrize("fields", WRONG.values(), ids=WRONG)
def test_a_record_with_a_wrong_value_is_left_out(
    fields: dict[str, Any], slm: Callable[..., Outcome], installed: Path, home: Path
) -> None:
    rewritten(home, **fields)
    listed = slm("list", "--json")
    has_told(listed, 0)
    assert listed.out.strip() == "[]"
    assert "is damaged and left out" in listed.err
    has_told(slm("rm", NAME), 3)
    assert installed.exists()


def test_a_sound_record_is_removed_with_its_file(slm: Callable[..., Outcome], installed: Path) -> None:
    """So that the refusals above are refusals."""
    blob = installed.resolve()
    has_told(slm("rm", NAME), 0)
    assert not installed.is_symlink() and not blob.exists()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, '{"format": ' + "9" * 50_000 + "}", "", "\x00"])
def test_a_record_that_is_not_one(text: str, slm: Callable[..., Outcome], home: Path) -> None:
    (home / "data" / "models").mkdir(parents=True)
    (home / "data" / "models" / "x.json").write_text(text)
    listed = slm("list")
    has_told(listed, 0)
    assert "x.json is damaged and left out" in listed.err


def test_a_file_used_in_place_is_never_deleted(
    slm: Callable[..., Outcome], home: Path, tmp_path: Path, weights: bytes
) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(weights)
    has_told(slm("add", "mine", own), 0)
    for command in (("rm", own), ("rm", "mine"), ("rm", "mine")):
        has_told(slm(*command), 0, 2, 3)
        assert own.read_bytes() == weights
