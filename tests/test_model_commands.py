"""`slm list`, `show`, `rm`, `add`, `verify`: the real program on small models."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Outcome, call_slm
from gguf_samples import write_tiny_llama
from hub_server import HubServer, Repo, gguf_bytes

from slmchat.catalog import sources
from slmchat.catalog.library import Library
from slmchat.catalog.records import Installed
from slmchat.commands import rm
from slmchat.errors import ExitCode, SlmError
from slmchat.settings import Settings

pytestmark = pytest.mark.real

NAME = "hf:owner/small-GGUF"
FILE = "small-Q4_K_M.gguf"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def repo(hub: HubServer) -> Repo:
    return hub.add("owner/small-GGUF", {FILE: gguf_bytes(1, 400_000), "small-Q8_0.gguf": gguf_bytes(2, 500_000, 7)})


@pytest.fixture
def slm(home: Path, hub: HubServer) -> Callable[..., Outcome]:
    env = {"HF_ENDPOINT": hub.endpoint, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

    def call(*arguments: str | Path, **extra: str) -> Outcome:
        return call_slm(*arguments, home=home, env={**env, **extra})

    return call


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.gguf"
    path.write_bytes(gguf_bytes(3, 4000))
    return path


def test_an_empty_library(slm: Callable[..., Outcome]) -> None:
    told = slm("list")
    assert (told.code, told.out) == (0, "")
    assert "slm pull smollm2:135m" in told.err
    assert json.loads(slm("list", "--json").out) == []
    assert slm("verify").code == 0


def test_list(slm: Callable[..., Outcome], repo: Repo, own: Path) -> None:
    assert slm("pull", NAME, f"{NAME}@Q8_0").code == 0
    assert slm("add", "own-one", own).code == 0
    told = slm("list")
    assert told.err == ""
    lines = told.out.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", NAME, NAME, "own-one"]
    assert str(own) in lines[3]
    assert "\x1b" not in told.out
    entries = json.loads(slm("list", "--json").out)
    assert [entry["quantization"] for entry in entries] == ["Q4_K_M", "Q8_0", "Q4_K_M"]
    own.unlink()
    assert "its file is gone" in slm("list").out
    assert json.loads(slm("list", "--json").out)[2]["is_present"] is False


def test_the_catalog(slm: Callable[..., Outcome]) -> None:
    entries = {entry["name"]: entry for entry in json.loads(slm("list", "--available", "--json").out)}
    assert len(entries) >= 40
    smollm2 = entries["smollm2:135m"]
    assert smollm2["installed"] == []
    assert {"quantization": "Q4_1", "size": 98_362_432} in smollm2["variants"]
    assert smollm2["license"] == "apache-2.0"
    assert "smollm2:135m" in slm("list", "--available").out


def test_show_what_is_installed(slm: Callable[..., Outcome], repo: Repo) -> None:
    slm("pull", NAME)
    facts = json.loads(slm("show", NAME, "--json").out)
    assert facts["name"] == NAME
    assert Path(facts["path"]).read_bytes() == repo.contents[FILE]
    assert facts["sha256"] == repo.sha256(FILE)
    assert facts["size"] == len(repo.contents[FILE])
    assert facts["architecture"] == "llama"
    assert facts["quantization"] == "Q4_K_M"
    assert facts["parameters"] == 100_000
    assert facts["context_length"] == 2048
    assert facts["license"] == "apache-2.0"
    assert facts["revision"] == repo.commit
    assert "message.content" in facts["chat_template"]
    assert facts["metadata"]["general.name"] == "Noise 1"
    told = slm("show", NAME)
    assert told.code == 0
    for text in (NAME, "Q4_K_M", repo.sha256(FILE), "2,048 tokens", "general.name = Noise 1", "message.content"):
        assert text in told.out


def test_settings_that_no_maker_recommends_are_said_to_be_slms_own(slm: Callable[..., Outcome]) -> None:
    told = slm("show", "phi4")
    assert "sampler:         slm's own settings (none stated: the maker's generation_config.json)" in told.out


def test_show_what_only_the_catalog_knows(slm: Callable[..., Outcome]) -> None:
    told = slm("show", "smollm2:135m@Q4_1")
    assert told.code == 3
    assert "SmolLM2 135M Instruct" in told.out
    assert "98.4 MB" in told.out
    assert told.err.splitlines() == ["slm: smollm2:135m@Q4_1 is not installed.", "hint: slm pull smollm2:135m@Q4_1"]
    facts = slm("show", "smollm2:135m@Q4_1", "--json")
    assert facts.code == 3
    assert json.loads(facts.out)["sha256"].startswith("b179c952")
    assert json.loads(facts.out)["path"] is None


def test_show_a_path_and_hostile_metadata(slm: Callable[..., Outcome], tmp_path: Path) -> None:
    import gguf
    import numpy

    path = tmp_path / "hostile.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("\x1b]0;owned\x07\x1b[2Jname\u202e")
    writer.add_chat_template("\x1b[31mred\n" * 50)
    writer.add_tensor("t", numpy.zeros(8, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    told = slm("show", path)
    assert told.code == 0
    assert "\x1b" not in told.out
    assert "\x07" not in told.out
    assert "\u202e" not in told.out
    assert "more lines with --json" in told.out


def test_show_unknown_and_missing(slm: Callable[..., Outcome], tmp_path: Path) -> None:
    near = slm("show", "smollm2:135")
    assert near.code == 3
    assert "smollm2:135m" in near.err
    assert slm("show", tmp_path / "none.gguf").code == 3
    assert slm("show", NAME).code == 3


class TestRm:
    def test_it_frees_the_space(self, slm: Callable[..., Outcome], repo: Repo, home: Path) -> None:
        slm("pull", NAME, f"{NAME}@Q8_0")
        removed = slm("rm", f"{NAME}@Q8_0")
        assert (removed.code, removed.out) == (0, "")
        assert f"removed {NAME}@Q8_0; 500." in removed.err
        assert [entry["quantization"] for entry in json.loads(slm("list", "--json").out)] == ["Q4_K_M"]
        assert slm("rm", NAME).code == 0
        assert not [path for path in home.rglob("*") if path.is_file() and path.stat().st_size > 100_000]

    def test_what_another_tool_fetched_stays(self, slm: Callable[..., Outcome], repo: Repo, home: Path) -> None:
        slm("pull", NAME)
        for path in (home / "data" / "models").glob("*.json"):
            path.unlink()  # as if slm had never been here
        slm("pull", NAME)
        path = Path(json.loads(slm("show", NAME, "--json").out)["path"])
        removed = slm("rm", NAME)
        assert removed.code == 0
        assert "left in place" in removed.err
        assert path.exists()

    def test_a_file_under_two_names_goes_with_the_second(
        self, slm: Callable[..., Outcome], repo: Repo, home: Path
    ) -> None:
        slm("add", "short", NAME)
        slm("pull", NAME, "short")
        path = Path(json.loads(slm("show", "short", "--json").out)["path"])
        assert slm("rm", NAME).code == 0
        assert path.exists()
        assert slm("rm", "short").code == 0
        assert not path.exists()

    def test_where_one_name_is_wrong_nothing_goes(self, slm: Callable[..., Outcome], repo: Repo) -> None:
        slm("pull", NAME)
        told = slm("rm", NAME, "nothing-like-it", "--json")
        assert (told.code, told.out) == (3, "")
        assert [entry["name"] for entry in json.loads(slm("list", "--json").out)] == [NAME]

    def test_two_spellings_of_one_model_are_one(self, slm: Callable[..., Outcome], repo: Repo) -> None:
        slm("pull", NAME)
        (gone,) = json.loads(slm("rm", NAME, f"{NAME}@Q4_K_M", NAME, "--json").out)
        assert gone["name"] == f"{NAME}@Q4_K_M"

    def test_what_went_before_the_disk_refused_is_said(
        self, slm: Callable[..., Outcome], repo: Repo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slm("pull", NAME, f"{NAME}@Q8_0")
        real = rm._forget_facts

        def refuse(record: Installed, settings: Settings) -> None:
            if record.quantization == "Q8_0":
                raise SlmError("the disk refuses.", exit_code=ExitCode.STORAGE)
            real(record, settings)

        monkeypatch.setattr(rm, "_forget_facts", refuse)
        told = slm("rm", NAME, "--json")
        assert told.code == 10
        assert [entry["name"] for entry in json.loads(told.out)] == [f"{NAME}@Q4_K_M"]

    def test_a_file_used_in_place_is_never_deleted(self, slm: Callable[..., Outcome], own: Path) -> None:
        assert slm("rm", own).code == 2
        slm("add", "own-one", own)
        removed = slm("rm", "own-one")
        assert removed.code == 0
        assert "forgot the name own-one" in removed.err
        assert own.exists()
        assert slm("rm", "own-one").code == 3

    def test_what_is_not_here(self, slm: Callable[..., Outcome]) -> None:
        assert slm("rm", "smollm2:135m").code == 3
        assert slm("rm", "no-such-model").code == 3

    def test_a_name_for_one_quantization_goes_with_its_files(
        self, slm: Callable[..., Outcome], repo: Repo, home: Path
    ) -> None:
        """`slm add mine hf:…@QUANT`: the example of docs/models.md. Nothing done is never success."""
        assert slm("add", "mine", f"hf:{repo.name}@Q4_K_M").code == 0
        nothing = slm("rm", "mine@Q4_K_M")
        assert (nothing.code, "mine@Q4_K_M is not installed" in nothing.err) == (3, True)
        removed = slm("rm", "mine")
        assert (removed.code, removed.err) == (0, "forgot the name mine.\n")
        assert slm("rm", "mine").code == 3
        slm("add", "mine", f"hf:{repo.name}@Q4_K_M")
        assert slm("pull", "mine").code == 0
        both = slm("rm", "mine")
        assert both.code == 0 and "removed mine@Q4_K_M" in both.err and "forgot the name mine" in both.err
        assert json.loads(slm("list", "--json").out) == []

    def test_a_model_whose_file_is_gone(self, slm: Callable[..., Outcome], repo: Repo) -> None:
        slm("pull", NAME)
        Path(json.loads(slm("show", NAME, "--json").out)["path"]).resolve().unlink()
        gone = slm("show", NAME)
        assert gone.code == 3
        assert "is gone" in gone.err
        assert slm("rm", NAME).code == 0
        assert json.loads(slm("list", "--json").out) == []


class TestAdd:
    def test_a_path(self, slm: Callable[..., Outcome], own: Path) -> None:
        added = slm("add", "own-one", own)
        assert (added.code, added.out) == (0, "")
        assert "next: slm chat own-one" in added.err
        assert json.loads(slm("show", "own-one", "--json").out)["path"] == str(own)

    def test_a_repository(self, slm: Callable[..., Outcome], repo: Repo) -> None:
        added = slm("add", "short", NAME)
        assert "next: slm pull short" in added.err
        assert slm("pull", "short").code == 0
        assert json.loads(slm("list", "--json").out)[0]["name"] == "short"
        assert slm("add", "short", "hf:other/repo").code == 2
        assert slm("rm", "short").code == 0
        assert slm("pull", "short").code == 3

    def test_what_cannot_be_added(self, slm: Callable[..., Outcome], tmp_path: Path, own: Path) -> None:
        text = tmp_path / "text.gguf"
        text.write_text("not a model")
        assert slm("add", "mine", text).code == 6
        assert slm("add", "mine", tmp_path / "none.gguf").code == 3
        assert slm("add", "mine", "https://example.org/x").code == 2
        assert slm("add", "smollm2:135m", own).code == 2
        assert slm("add", "Bad Name", own).code == 2


class TestVerify:
    def test_damage_is_found_and_pulled_again(self, slm: Callable[..., Outcome], repo: Repo, own: Path) -> None:
        slm("pull", NAME, f"{NAME}@Q8_0")
        path = Path(json.loads(slm("show", f"{NAME}@Q4_K_M", "--json").out)["path"]).resolve()
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        found = slm("verify")
        assert found.code == 6
        assert found.out == f"{NAME}@Q8_0: intact\n"
        assert repo.sha256(FILE) in found.err
        assert f"hint: slm pull {NAME}@Q4_K_M" in found.err
        results = json.loads(slm("verify", "--json").out)
        assert [result["is_intact"] for result in results] == [False, True]
        assert slm("pull", f"{NAME}@Q4_K_M").code == 0
        assert slm("verify", NAME).out == f"{NAME}@Q4_K_M: intact\n{NAME}@Q8_0: intact\n"

    def test_a_file_in_place_has_no_hash(self, slm: Callable[..., Outcome], own: Path) -> None:
        told = slm("verify", own)
        assert told.code == 0
        assert "no sha256 is known" in told.out
        own.write_text("text now")
        assert slm("verify", own).code == 6

    def test_a_file_that_is_gone(self, slm: Callable[..., Outcome], repo: Repo) -> None:
        slm("pull", NAME)
        Path(json.loads(slm("show", NAME, "--json").out)["path"]).resolve().unlink()
        assert slm("verify").code == 3
        assert slm("verify", "no-such-model").code == 3


def test_add_and_rm_tell_in_json_what_they_did(home: Path, slm: Callable[..., Outcome], tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "mine.gguf", chat_template=None)
    added = slm("add", "my:model", model, "--json")
    assert json.loads(added.out) == {"name": "my:model", "target": str(model)}
    gone = slm("rm", "my:model", "--json")
    assert json.loads(gone.out) == [{"name": "my:model", "freed": 0, "kept": [str(model)]}]
    assert model.exists()


def test_verify_goes_on_behind_a_file_that_cannot_be_read(
    slm: Callable[..., Outcome], repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    slm("pull", NAME, f"{NAME}@Q8_0")
    real = sources.sha256_of

    def refuse(path: Path, advance: object) -> str:
        if "Q4_K_M" in path.name:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, advance)  # type: ignore[arg-type]

    monkeypatch.setattr(sources, "sha256_of", refuse)
    told = slm("verify", "--json")
    assert told.code == 10
    assert [entry["is_intact"] for entry in json.loads(told.out)] == [None, True]
    assert "cannot be read: Permission denied" in told.err


def test_verify_says_what_is_damaged_on_a_disk_that_is_read_only(
    slm: Callable[..., Outcome], repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    slm("pull", NAME)
    path = Path(json.loads(slm("show", NAME, "--json").out)["path"])
    path.resolve().write_bytes(b"GGUF")

    def refuse(*_: object) -> None:
        raise SlmError("read-only.", exit_code=ExitCode.STORAGE)

    monkeypatch.setattr(Library, "admit", refuse)
    told = slm("verify", "--json")
    assert told.code == 6
    assert json.loads(told.out)[0]["verdict"] == "damaged"
    assert "read-only" in told.err


def test_what_was_pulled_before_ctrl_c_is_in_json(
    slm: Callable[..., Outcome], repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slmchat.commands import pull

    real = pull.pull_name

    def interrupt(name: str, *more: object) -> object:
        if name.endswith("Q8_0"):
            raise KeyboardInterrupt
        return real(name, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(pull, "pull_name", interrupt)
    told = slm("pull", NAME, f"{NAME}@Q8_0", f"{NAME}@Q4_K_M", "--json")
    assert told.code == 130
    first, second = json.loads(told.out)
    assert first["status"] == "installed"
    assert (second["name"], second["exit_code"]) == (f"{NAME}@Q8_0", 130)
    assert slm("pull", f"{NAME}@Q8_0", "--json").out == ""
