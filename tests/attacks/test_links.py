"""Links planted where slm writes and deletes: they are replaced or refused, what they stand for stays as it is."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome
from hub_server import HubServer, Repo

from attacks.canary import Canary
from attacks.conftest import FILE, REPO, has_told
from slmchat.engine.kvstore import KvStore, StateKey
from slmchat.private_files import is_below

pytestmark = [pytest.mark.real, pytest.mark.skipif(sys.platform == "win32", reason="links need a right of their own")]

FOLDER = "models--owner--small-GGUF"

# where the link is, and whether it stands for the canary or for its directory
PLANTED = {
    "the repository": ("{folder}", False),
    "the blobs": ("{folder}/blobs", False),
    "the snapshots": ("{folder}/snapshots", False),
    "a snapshot": ("{folder}/snapshots/{commit}", False),
    "the locks": (".locks", False),
    "the locks of the repository": (".locks/{folder}", False),
    "the lock": (".locks/{folder}/{sha256}.slm.lock", True),
    "the partial file": ("{folder}/blobs/{sha256}.slm.incomplete", True),
    "the blob": ("{folder}/blobs/{sha256}", True),
    "the file": ("{folder}/snapshots/{commit}/{file}", True),
}


@pytest.mark.parametrize("is_hard", [False, True], ids=["link", "second name"])
@pytest.mark.parametrize(("place", "is_file"), PLANTED.values(), ids=PLANTED)
def test_a_link_in_the_cache(
    place: str, is_file: bool, is_hard: bool, slm: Callable[..., Outcome], hub: HubServer, repo: Repo, home: Path,
    canary: Canary,
) -> None:  # fmt: skip
    if is_hard and not is_file:
        pytest.skip("a directory has one name")
    facts = {"folder": FOLDER, "commit": repo.commit, "sha256": repo.sha256(FILE), "file": FILE}
    link = home / "hf" / "hub" / place.format(**facts)
    link.parent.mkdir(parents=True)
    if is_hard:
        os.link(canary.file, link)
    else:
        link.symlink_to(canary.file if is_file else canary.file.parent)
    pulled = slm("pull", f"hf:{REPO}")
    canary.check(pulled.out + pulled.err)
    has_told(pulled, 0, 10)
    assert pulled.code == (0 if is_file else 10), pulled.err
    removed = slm("rm", f"hf:{REPO}")
    canary.check(removed.out + removed.err)
    has_told(removed, 0 if pulled.code == 0 else 3)


def test_links_in_slms_own_directory_of_weights(
    slm: Callable[..., Outcome], home: Path, canary: Canary, repo: Repo
) -> None:
    """Locks and workspaces of other pulls are looked at by every pull and by `slm doctor`."""
    models = home / "data" / "models"
    (models / ".locks").mkdir(parents=True)
    key = "a" * 64
    (models / ".locks" / f"{key}.lock").symlink_to(canary.file)
    (models / f".partial-{key}-xyz").symlink_to(canary.file.parent)
    (models / ".partial-local-xyz").symlink_to(canary.file.parent)
    (models / "x.json").symlink_to(canary.file)
    for command in (("list",), ("pull", f"hf:{REPO}"), ("list",), ("rm", f"hf:{REPO}")):
        done = slm(*command)
        has_told(done, 0)
        canary.check(done.out + done.err)


def test_a_pipe_in_place_of_a_record_is_not_waited_for(slm: Callable[..., Outcome], home: Path) -> None:
    (home / "data" / "models").mkdir(parents=True)
    os.mkfifo(home / "data" / "models" / "x.json")
    done = slm("list")
    has_told(done, 0)
    assert "x.json cannot be read: it is not a regular file" in done.err


class TestKvStates:
    KEY = StateKey(Path("/m.gguf"), "rest")

    def write(self, path: Path) -> bool:
        path.write_bytes(b"state")
        return True

    def test_links_are_not_followed(self, tmp_path: Path, canary: Canary) -> None:
        states = tmp_path / "kv"
        states.mkdir()
        (states / self.KEY.folder).symlink_to(canary.file.parent)
        (states / "other").symlink_to(canary.file.parent)
        os.utime(canary.file, (0, 0))  # long ago: a state that was never finished would be removed
        planted = Canary.make(tmp_path / "again")
        os.utime(planted.file, (0, 0))
        (states / "third").symlink_to(planted.file.parent)
        store = KvStore(states, limit=10_000)
        tokens = list(range(100))
        assert store.put(self.KEY, "a" * 32, tokens, 100, self.write) is None
        assert store.find(self.KEY, tokens, lambda n, same: same, 1) is None
        assert store.put(StateKey(Path("/n.gguf"), "rest"), "a" * 32, tokens, 100, self.write) is not None
        store.forget_owners(["id_rsa"])
        store.forget_model(self.KEY.model)
        store.forget_all()
        assert os.listdir(canary.file.parent) == ["id_rsa"]
        assert os.listdir(planted.file.parent) == ["id_rsa"]
        assert os.listdir(states) == []

    @pytest.mark.parametrize("owner", ["../x", "/x", "a/b", "", ".", "x" * 65, "A", "a.b", "a\n"])
    def test_an_owner_is_never_a_path(self, owner: str, tmp_path: Path) -> None:
        assert KvStore(tmp_path / "kv", 10**6).put(self.KEY, owner, list(range(100)), 10, self.write) is None
        assert not list(tmp_path.rglob("*.kv"))


def test_below_means_behind_links_too(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "a").mkdir(parents=True)
    outside.mkdir()
    (root / "out").symlink_to(outside)
    (root / "in").symlink_to(root / "a")
    (root / "file").symlink_to(outside / "x")
    (root / "circle").symlink_to(root / "circle")
    (tmp_path / "moved").symlink_to(root)
    inside = (
        root / "x",
        root / "a" / "x",
        root / "in" / "x",
        root / "file",
        root / "new" / "x",
        tmp_path / "moved" / "x",
    )
    for path in inside:
        assert is_below(root, path), path
    assert is_below(tmp_path / "moved", root / "x")
    for path in (
        *(
            root,
            tmp_path / "rootx",
            outside / "x",
            root / "out" / "x",
            root / ".." / "outside" / "x",
            root / "a" / "..",
        ),
        *(root / "a" / ".." / ".." / "x", Path("x"), Path("/"), root / "a\0" / "x"),
    ):
        assert not is_below(root, path), path
