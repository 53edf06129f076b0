"""A hostile Hub: every answer that it can give, and the user's files stay as they are."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome
from hub_server import HubServer, Repo

from attacks.canary import Canary
from attacks.conftest import FILE, REPO, has_told

pytestmark = pytest.mark.real

Answer = Callable[[dict[str, Any]], object]


def with_field(name: str, value: object) -> Answer:
    """The description of the repository with another value in one field."""
    return lambda info: {**info, name: value}


def without(name: str) -> Answer:
    return lambda info: {key: value for key, value in info.items() if key != name}


def with_entry(**fields: object) -> Answer:
    """The listing with other facts about the GGUF; `lfs` is laid over what it was when it is a table."""

    def answer(info: dict[str, Any]) -> object:
        entry = next(one for one in info["siblings"] if one["rfilename"] == FILE)
        for name, value in fields.items():
            is_laid_over = name == "lfs" and isinstance(value, dict) and value
            entry[name] = {**entry["lfs"], **value} if is_laid_over else value
        return info

    return answer


def as_is(value: object) -> Answer:
    return lambda info: value


WRONG_SHAPES: dict[str, Answer] = {
    "a list": lambda info: [info],
    "null": as_is(None),
    "a text": as_is("ok"),
    "a number": as_is(7),
    "true": as_is(True),
    "nothing": as_is(b""),
    "an empty table": as_is({}),
    "an error": as_is({"error": "no"}),
    "a web page": as_is(b"<!DOCTYPE html><html><body>Log in</body></html>"),
    "bytes": as_is(b"\xff\xfe\x00\x01"),
    "JSON that is cut": as_is(b'{"id": "owner'),
    "deep lists": as_is(b"[" * 100_000),
    "deep tables": as_is(b'{"siblings":' * 50_000),
    "an endless number": as_is(b'{"sha": ' + b"9" * 100_000 + b"}"),
    "enormous": as_is(b"[" + b"1," * 1_000_000 + b"1]"),
    "no revision": without("sha"),
    "a revision that is a path": with_field("sha", "../../../../../user/.ssh"),
    "a revision that is absolute": with_field("sha", "/user/.ssh"),
    "a revision of 40 other letters": with_field("sha", "z" * 40),
    "a revision in a list": with_field("sha", ["a" * 40]),
    "a revision that is short": with_field("sha", "abc123"),
    "a revision with a line end": with_field("sha", "a" * 40 + "\n"),
    "files in a table": with_field("siblings", {FILE: {}}),
    "files that are texts": with_field("siblings", [FILE]),
    "files that are null": with_field("siblings", [None]),
    "files in a text": with_field("siblings", "none"),
    "a file without a name": with_field("siblings", [{"size": 1}]),
    "a name that is a number": with_field("siblings", [{"rfilename": 7}]),
    **{
        f"the size {value!r}"[:40]: with_entry(size=value)
        for value in ("1", 1.5, True, -1, 0, 1 << 60, 10**400, [1], {}, float("nan"))
    },
    **{f"lfs is {value!r}": with_entry(lfs=value) for value in ("x", [1], 7, True)},
    **{
        f"the hash {value!r}"[:40]: with_entry(lfs={"sha256": value})
        for value in (
            "../../../../../user/.ssh/id_rsa", "/nonexistent/id_rsa", "", "x", "a" * 63, "a" * 65, "A" * 64, "g" * 64, 7, True,
            ["a" * 64], {}, "a" * 63 + "/", "a" * 64 + "\n", "a" * 60 + "/../", "..", "~/.ssh/id_rsa", "\x00" * 64, "а" * 64,
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("answer", WRONG_SHAPES.values(), ids=WRONG_SHAPES)
def test_an_answer_of_a_wrong_shape_is_a_sentence(
    answer: Answer, slm: Callable[..., Outcome], hub: HubServer, repo: Repo, home: Path, canary: Canary,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("slmchat.catalog.hub_client._MOST_LISTING", 1 << 20)
    hub.listing = answer
    pulled = slm("pull", f"hf:{REPO}")
    has_told(pulled, 5)
    assert "does not answer like a Hub: " in pulled.err
    canary.check(pulled.err)
    assert not [path for path in home.rglob("*") if path.is_file() and "blobs" in path.parts]
    assert hub.asked("storage", "GET") == []


def test_one_wrong_file_does_not_hide_the_others(slm: Callable[..., Outcome], hub: HubServer, repo: Repo) -> None:
    hub.listing = with_field(
        "siblings",
        [{"rfilename": "small-Q8_0.gguf", "size": 0, "lfs": {"sha256": "/x"}}, {"rfilename": "README.md", "size": {}}],
    )
    for name, code, words in ((f"hf:{REPO}@Q2_K", 3, "it has Q8_0"), (f"hf:{REPO}", 5, "the size of small-Q8_0.gguf")):
        pulled = slm("pull", name)
        has_told(pulled, code)
        assert words in pulled.err


@pytest.mark.parametrize("is_absolute", [True, False], ids=["absolute", "relative"])
def test_a_hash_that_is_the_path_of_a_file(
    is_absolute: bool, slm: Callable[..., Outcome], hub: HubServer, repo: Repo, home: Path, canary: Canary
) -> None:
    """The attack that this part began with: `slm pull` found the copy damaged, and deleted it."""
    blobs = home / "hf" / "hub" / "models--owner--small-GGUF" / "blobs"
    blobs.mkdir(parents=True)
    path = str(canary.file if is_absolute else os.path.relpath(canary.file, blobs))
    hub.listing = with_entry(lfs={"sha256": path})
    for arguments in (
        (f"hf:{REPO}",),
        (f"hf:{REPO}/{FILE}",),
        (f"hf:{REPO}", "--dry-run"),
        (f"hf:{REPO}#main", "--json"),
    ):
        pulled = slm("pull", *arguments)
        has_told(pulled, 5)
        canary.check(pulled.out + pulled.err)


NAMES = (
    "../x.gguf", "../../../../../../user/.ssh/x.gguf", "/x.gguf", "a//x.gguf", "./x.gguf", "a/../x.gguf", "..\\x.gguf",
    "C:x.gguf", "C:/x.gguf", "\\\\host\\x.gguf", "a\nb.gguf", "a\0b.gguf", "a\x1b[31m.gguf", "\u202ex.gguf", ".. /x.gguf",
    "a./x.gguf", "x" * 300 + ".gguf", "a/" * 600 + "x.gguf", " .gguf/", "", "é" * 140 + ".gguf", "x.gguf:stream.gguf",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=[ascii(name)[:30] for name in NAMES])
def test_names_that_lead_elsewhere_are_not_there(
    name: str, slm: Callable[..., Outcome], hub: HubServer, repo: Repo, canary: Canary
) -> None:
    def listing(info: dict[str, Any]) -> object:
        entry = next(one for one in info["siblings"] if one["rfilename"] == FILE)
        return {**info, "siblings": [{**entry, "rfilename": name}]}

    hub.listing = listing
    pulled = slm("pull", f"hf:{REPO}")
    has_told(pulled, 3)
    assert "has no GGUF file" in pulled.err
    canary.check(pulled.err)


HARMLESS = (
    {"X-Linked-Etag": '"../../../../../user/.ssh/id_rsa"', "X-Repo-Commit": "../../.."},
    {"X-Linked-Etag": "/nonexistent/id_rsa", "ETag": "/nonexistent/id_rsa"},
    {"X-Linked-Etag": None, "ETag": None, "X-Linked-Size": None, "X-Repo-Commit": None},
    {"X-Linked-Etag": 'W/"' + "a" * 40 + '"'},
    {"X-Repo-Commit": "0" * 40},
)


@pytest.mark.parametrize("headers", HARMLESS, ids=str)
def test_headers_never_become_paths(
    headers: dict[str, str | None], slm: Callable[..., Outcome], hub: HubServer, repo: Repo, home: Path, canary: Canary
) -> None:
    """The Hub's own client takes the blob's name from the ETag and the snapshot's from X-Repo-Commit."""
    hub.headers = headers
    pulled = slm("pull", f"hf:{REPO}", "--json")
    has_told(pulled, 0)
    canary.check(pulled.out + pulled.err)
    cache = home / "hf" / "hub" / "models--owner--small-GGUF"
    assert [path.name for path in (cache / "blobs").iterdir()] == [repo.sha256(FILE)]
    assert (cache / "snapshots" / repo.commit / FILE).resolve() == (cache / "blobs" / repo.sha256(FILE)).resolve()


LIES = (
    ({"X-Linked-Size": "-5"}, 5),
    ({"X-Linked-Size": "99999999999999999999"}, 5),
    ({"X-Linked-Size": "12"}, 6),
    ({"X-Linked-Etag": '"' + "0" * 64 + '"'}, 6),
    ({"Location": "http://["}, 5),
    ({"Location": "file:///nonexistent/id_rsa"}, 5),
    ({"Location": "ftp://127.0.0.1/x"}, 5),
    ({"Location": "http://user:secret@192.0.2.1/x"}, 5),
    ({"Location": "\\\\host\\share"}, 3),
    ({"Location": None}, 5),
)


@pytest.mark.parametrize(("headers", "code"), LIES, ids=[str(lie[0]) for lie in LIES])
def test_headers_that_lie(
    headers: dict[str, str | None], code: int, slm: Callable[..., Outcome], hub: HubServer, repo: Repo, canary: Canary
) -> None:
    hub.headers = headers
    pulled = slm("pull", f"hf:{REPO}")
    has_told(pulled, code)
    canary.check(pulled.err)


PAGE = b"<html><body>Welcome! Accept the terms to go online.</body></html>"


def test_a_captive_portal(slm: Callable[..., Outcome], hub: HubServer, repo: Repo) -> None:
    hub.portal = PAGE
    pulled = slm("pull", f"hf:{REPO}")
    has_told(pulled, 5)
    assert "does not answer like a Hub: it answers with a web page." in pulled.err
    assert "login" in pulled.err


STORAGE: dict[str, tuple[tuple[int, dict[str, str], bytes], int]] = {
    "a web page": ((200, {"Content-Type": "text/html"}, PAGE), 5),
    "another file": ((200, {}, b"GGUF" + b"x" * 100), 5),
    "nothing": ((204, {}, b""), 5),
    "not changed": ((304, {}, b""), 5),
    "another part": ((206, {"Content-Range": "bytes 5-9/700000"}, b"xxxxx"), 5),
    "a part of nowhere": ((206, {}, b"xxxxx"), 5),
    "a part in letters": ((206, {"Content-Range": "bytes a-b/c"}, b"xxxxx"), 5),
    "packed": ((200, {"Content-Encoding": "gzip"}, gzip.compress(b"x" * 5_000_000)), 5),
    "an error": ((404, {"X-Error-Code": "\x7f", "X-Error-Message": "x" * 5_000}, b"[" * 200_000), 5),
    "a redirect in a circle": ((302, {"Location": "/again"}, b""), 5),
}


@pytest.mark.parametrize(("answer", "code"), STORAGE.values(), ids=STORAGE)
def test_a_storage_that_sends_something_else(
    answer: tuple[int, dict[str, str], bytes], code: int, slm: Callable[..., Outcome], hub: HubServer, repo: Repo,
    canary: Canary, home: Path,
) -> None:  # fmt: skip
    hub.storage_answer = answer
    pulled = slm("pull", f"hf:{REPO}")
    has_told(pulled, code)
    canary.check(pulled.err)
    assert slm("list", "--json").out.strip() == "[]"


def test_a_portal_in_the_middle_keeps_what_is_here(
    slm: Callable[..., Outcome], hub: HubServer, repo: Repo, weights: bytes, home: Path
) -> None:
    partial = home / "hf/hub/models--owner--small-GGUF/blobs" / f"{repo.sha256(FILE)}.slm.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(weights[:600_000])
    for answer in (
        (200, {"Content-Type": "text/html"}, PAGE),
        (200, {}, PAGE),
        (200, {"Content-Encoding": "br"}, PAGE),
    ):
        hub.storage_answer = answer
        has_told(slm("pull", f"hf:{REPO}"), 5)
        assert partial.read_bytes() == weights[:600_000]


@pytest.mark.parametrize("extra", [1, 1 << 20])
def test_more_bytes_than_the_file_has(
    extra: int, slm: Callable[..., Outcome], hub: HubServer, repo: Repo, weights: bytes, home: Path
) -> None:
    hub.listing = with_entry(size=None)
    hub.headers = {"X-Linked-Size": None}
    repo.sent[FILE] = weights + b"x" * extra
    pulled = slm("pull", f"hf:{REPO}")
    has_told(pulled, 6)
    assert sum(path.stat().st_size for path in home.rglob("*.incomplete")) <= len(weights) + 64


@pytest.mark.parametrize("stated", [None, "9999999999999"])
def test_a_size_that_the_listing_does_not_state_is_bounded_by_the_disk(
    stated: str | None, slm: Callable[..., Outcome], hub: HubServer, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.listing = with_entry(size=None)
    hub.headers = {"X-Linked-Size": stated}
    monkeypatch.setattr("slmchat.catalog.hub_transfer.space_free", lambda plan: (64 << 20) + 1000)
    pulled = slm("pull", f"hf:{REPO}")
    has_told(pulled, 10)
    assert "has no room on the disk" in pulled.err


@pytest.mark.parametrize("damaged", [1, 100, 70_000, 300_000, 590_000])
def test_a_damaged_end_of_a_partial_download_is_found_before_the_rest_comes(
    damaged: int, slm: Callable[..., Outcome], hub: HubServer, repo: Repo, weights: bytes, home: Path
) -> None:
    """As a power cut leaves it: the end of the file is zeros. What stands before it is not fetched again."""
    partial = home / "hf/hub/models--owner--small-GGUF/blobs" / f"{repo.sha256(FILE)}.slm.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(weights[: 600_000 - damaged] + b"\0" * damaged)
    pulled = slm("pull", f"hf:{REPO}")
    has_told(pulled, 0)
    ranges = [one.range or "bytes=0-" for one in hub.asked("storage", "GET")]
    starts = [int(asked[6:-1]) for asked in ranges if asked.endswith("-")]  # the others read the header beforehand
    assert 600_000 - damaged - (1 << 20) <= starts[-1] <= 600_000 - damaged
    if damaged < 100_000:
        assert starts == [600_000 - (256 << 10)]
    assert "damaged" not in pulled.err


def test_damage_that_the_end_does_not_show_is_fetched_again_at_once(
    slm: Callable[..., Outcome], hub: HubServer, repo: Repo, weights: bytes, home: Path
) -> None:
    partial = home / "hf/hub/models--owner--small-GGUF/blobs" / f"{repo.sha256(FILE)}.slm.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(weights[:1000] + b"\0" * 1000 + weights[2000:600_000])
    pulled = slm("pull", f"hf:{REPO}")
    has_told(pulled, 0)
    assert f"the part of {FILE} that was here is damaged; fetching it again" in pulled.err
