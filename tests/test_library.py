"""The library: records on the disk, what they are worth when files go, change or are damaged."""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hub_server import gguf_bytes

from slmchat.catalog.library import Library, from_path
from slmchat.catalog.model_specs import License
from slmchat.catalog.records import Installed, InstalledFile, from_json, to_json
from slmchat.catalog.registry import Reference
from slmchat.catalog.sources import sha256_of
from slmchat.errors import ExitCode, SlmError
from slmchat.private_files import make_private, write_private
from slmchat.settings import Paths

pytestmark = pytest.mark.real


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(data=tmp_path / "data", config=tmp_path / "config", cache=tmp_path / "cache")


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def library(paths: Paths, warnings: list[str]) -> Library:
    return Library(paths, warnings.append)


@pytest.fixture
def install(library: Library, paths: Paths) -> Callable[..., Installed]:
    """Admit a small model as slm's own copy."""

    def call(name: str = "mine", quantization: str = "Q4_K_M", seconds: int = 0, **facts: Any) -> Installed:
        make_private(paths.models)
        path = library.destination(name, quantization)
        path.write_bytes(gguf_bytes(size=1000 + seconds * 4))
        installed = Installed(
            name=name,
            quantization=quantization,
            files=(InstalledFile.of(path, sha256_of(path)),),
            source="package index w 1.0",
            admitted_at=f"2026-01-01T00:00:{seconds:02d}+00:00",
            license=License("mit", "MIT License", "https://example.org"),
            tags=("chat",),
            sampler={"temperature": 0.7},
            architecture="llama",
            context_length=2048,
            parameters=250,
            **facts,
        )
        library.admit(installed)
        return installed

    return call


def test_a_record_comes_back_as_it_was(library: Library, install: Callable[..., Installed], paths: Paths) -> None:
    installed = install()
    assert library.all() == (installed,)
    assert from_json(to_json(installed)) == installed
    (record,) = paths.models.glob("*.json")
    assert record.stat().st_mode & 0o777 == 0o600
    assert paths.models.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("is_copied", [False, True])
def test_a_home_that_was_moved_or_copied_has_its_models(
    library: Library, install: Callable[..., Installed], paths: Paths, tmp_path: Path, is_copied: bool
) -> None:
    before = install()
    other = Paths(data=tmp_path / "other" / "data", config=tmp_path / "config", cache=tmp_path / "cache")
    shutil.copytree(paths.data, other.data)
    if not is_copied:
        shutil.rmtree(paths.data)
    moved = Library(other, lambda _text: None)
    (found,) = moved.all()
    assert found.path == other.models / before.path.name
    assert found.is_intact()
    moved.remove(found)
    assert not found.path.exists()
    assert before.path.exists() is is_copied  # the home that it was copied from loses nothing


def test_find_takes_the_quantization_or_the_last_one(library: Library, install: Callable[..., Installed]) -> None:
    install(quantization="Q8_0", seconds=5)
    install(quantization="Q4_K_M", seconds=1)
    assert library.find(Reference("mine")).quantization == "Q8_0"
    assert library.find(Reference("mine", "Q4_K_M")).quantization == "Q4_K_M"
    with pytest.raises(SlmError, match=r"mine@Q2_K is not installed; mine is here as Q4_K_M, Q8_0") as caught:
        library.find(Reference("mine", "Q2_K"))
    assert caught.value.exit_code is ExitCode.NO_MODEL
    assert caught.value.hint == "slm pull mine@Q2_K"


def test_lookup_knows_installed_names_without_a_catalog(library: Library, install: Callable[..., Installed]) -> None:
    install("hf:Owner/Repo")
    for text in ("hf:Owner/Repo", " hf:owner/repo@q4_k_m "):
        found = library.lookup(text)
        assert found is not None
        assert found.key == "hf:Owner/Repo@Q4_K_M"
    assert library.lookup("hf:owner/repo@Q8_0") is None
    assert library.lookup("other") is None


def test_names_that_mean_one_variant(library: Library, install: Callable[..., Installed]) -> None:
    for name, facts, key in (
        ("hf:o/r/m.gguf", {"is_one_file": True}, "hf:o/r/m.gguf"),
        ("hf:o/r#v1", {}, "hf:o/r@Q4_K_M#v1"),
        ("mine", {}, "mine@Q4_K_M"),
    ):
        installed = install(name, **facts)
        assert installed.key == key
        assert library.lookup(key) == library.lookup(name) == installed


def test_a_file_that_is_gone(library: Library, install: Callable[..., Installed]) -> None:
    installed = install()
    installed.path.unlink()
    with pytest.raises(SlmError, match=r"was installed, but its file .* is gone") as caught:
        library.find(Reference("mine"))
    assert caught.value.exit_code is ExitCode.NO_MODEL
    assert caught.value.hint == "slm pull mine@Q4_K_M"
    assert library.installed_as("mine", None) is None
    assert library.matching("mine") == [installed]


def test_a_file_that_has_changed_is_read_again(
    library: Library, install: Callable[..., Installed], warnings: list[str]
) -> None:
    installed = install()
    installed.path.write_bytes(gguf_bytes(seed=2, size=8000))
    assert library.find(Reference("mine")).parameters == 2000
    assert "slm verify mine@Q4_K_M" in warnings[0]
    installed.path.write_bytes(b"no GGUF at all")
    with pytest.raises(SlmError) as caught:
        library.find(Reference("mine"))
    assert caught.value.exit_code is ExitCode.DAMAGED


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", "{}", '{"format": 99}', '{"format": 1, "name": "x"}', "null", "\x00", '{"format": 1, "name": {}}'],
)
def test_a_damaged_record_is_left_out(
    damage: str, library: Library, install: Callable[..., Installed], paths: Paths, warnings: list[str]
) -> None:
    installed = install()
    (paths.models / "damaged.json").write_text(damage)
    (paths.models / "binary.json").write_bytes(b"\xff\xfe")
    assert library.all() == (installed,)
    assert len(warnings) == 2
    assert "damaged.json" in warnings[1]


@pytest.mark.parametrize("key", ["files", "license", "sampler", "tags", "quantization", "admitted_at"])
def test_a_record_with_one_wrong_value_is_left_out(key: str, install: Callable[..., Installed]) -> None:
    fields = json.loads(to_json(install()))
    fields[key] = 7
    with pytest.raises((ValueError, TypeError, KeyError)):
        from_json(json.dumps(fields))


def test_remove_frees_what_is_slms_own(library: Library, install: Callable[..., Installed], paths: Paths) -> None:
    installed = install()
    removed = library.remove(installed)
    assert (removed.freed, removed.kept) == (installed.size, ())
    assert not installed.path.exists()
    assert library.all() == ()


def test_remove_leaves_what_others_use(library: Library, install: Callable[..., Installed], tmp_path: Path) -> None:
    shared = install("first")
    second = replace(shared, name="second")
    library.admit(second)
    assert library.remove(second).kept == (shared.path,)
    assert shared.path.exists()
    outside = tmp_path / "elsewhere.gguf"
    outside.write_bytes(b"precious")
    fetched_elsewhere = replace(shared, name="third", files=(InstalledFile.of(outside, None),))
    library.admit(fetched_elsewhere)
    library.remove(fetched_elsewhere)
    assert outside.exists()
    theirs = replace(shared, name="fourth", is_shared=True, is_fetched=False, files=fetched_elsewhere.files)
    library.admit(theirs)
    library.remove(theirs)
    assert outside.exists()


def test_verify(library: Library, install: Callable[..., Installed]) -> None:
    installed = install()
    (verdict,) = library.verify(installed, lambda name: nullcontext(lambda done, total: None))
    assert verdict.is_intact
    content = installed.path.read_bytes()
    stamp = installed.path.stat()
    installed.path.write_bytes(content[:-1] + b"\x01")
    import os

    os.utime(installed.path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert library.installed_as("mine", None) is not None  # size and time are as before: only the hash tells
    (verdict,) = library.verify(installed, lambda name: nullcontext(lambda done, total: None))
    assert not verdict.is_intact
    assert library.installed_as("mine", None) is None  # so that the next pull fetches it again
    installed.path.unlink()
    (verdict,) = library.verify(installed, lambda name: nullcontext(lambda done, total: None))
    assert verdict.found is None


def test_the_default_model(library: Library, install: Callable[..., Installed], paths: Paths, tmp_path: Path) -> None:
    assert library.default_model() is None
    install("one")
    assert library.default_model() == "one@Q4_K_M"
    install("two")
    assert library.default_model() is None
    library.remember("two@Q4_K_M")
    assert library.default_model() == "two@Q4_K_M"
    assert paths.last_model.stat().st_mode & 0o777 == 0o600
    library.remove(library.find(Reference("two")))
    assert library.default_model() == "one@Q4_K_M"
    path = tmp_path / "own.gguf"
    path.touch()
    library.remember(str(path))
    assert library.default_model() == str(path)


def test_remembering_on_a_disk_that_refuses_is_no_error(paths: Paths, warnings: list[str]) -> None:
    paths.data.write_text("in the way")
    Library(paths, warnings.append).remember("x")
    assert warnings


def test_a_path_is_read_in_place(tmp_path: Path) -> None:
    path = tmp_path / "own.gguf"
    path.write_bytes(gguf_bytes(size=4000))
    installed = from_path(path)
    assert (installed.key, installed.quantization, installed.parameters) == (str(path), "Q4_K_M", 1000)
    assert installed.sha256 is None
    for wrong, code in ((tmp_path / "none.gguf", ExitCode.NO_MODEL), (tmp_path, ExitCode.NO_MODEL)):
        with pytest.raises(SlmError) as caught:
            from_path(wrong)
        assert caught.value.exit_code is code
    path.write_text("text")
    with pytest.raises(SlmError) as caught:
        from_path(path)
    assert caught.value.exit_code is ExitCode.DAMAGED


def test_a_directory_that_cannot_be_used_is_storage(paths: Paths) -> None:
    paths.data.parent.mkdir(exist_ok=True)
    paths.data.write_text("in the way")
    with pytest.raises(SlmError) as caught:
        write_private(paths.data / "x" / "y", b"")
    assert caught.value.exit_code is ExitCode.STORAGE
    assert Library(paths).all() == ()


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    write_private(target, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SlmError, match="disk is full") as caught:
        write_private(target, b"new")
    assert caught.value.exit_code is ExitCode.STORAGE
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_licences_are_remembered(library: Library, paths: Paths) -> None:
    assert library.accepted_licenses() == set()
    library.accept_license(License("gemma", "Gemma Terms of Use", ""))
    library.accept_license(License("llama2", "Llama 2", ""))
    assert library.accepted_licenses() == {"gemma", "llama2"}
    (paths.data / "accepted-licenses.json").write_text("{")
    assert library.accepted_licenses() == set()


def test_one_model_among_many_is_found_without_reading_the_others(
    library: Library, install: Callable[..., Installed], paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`slm run` looks a name up before the model can load: a thousand models may not cost more than one."""
    for number in range(30):
        install(f"family{number}:1b")
    wanted = install("hf:Owner/Repo#v1", "Q8_0")
    paths.last_model.write_text(wanted.key)
    read: list[str] = []
    original = Path.read_text

    def counted(self: Path, *arguments: Any, **named: Any) -> str:
        read.append(self.name)
        return original(self, *arguments, **named)

    monkeypatch.setattr(Path, "read_text", counted)
    for name in ("family7:1b", "FAMILY7:1b@q4_k_m", "hf:owner/repo@Q8_0#v1", "hf:Owner/Repo#v1"):
        read.clear()
        assert library.lookup(name) is not None, name
        assert len(read) == 1, name
    read.clear()
    assert library.default_model() == wanted.key
    assert len([name for name in read if name.endswith(".json")]) == 1


@pytest.mark.parametrize(
    ("name", "asked"), [("straße:1b", "STRASSE:1b"), ("con:1b", "CON:1b"), ("x" * 100, "X" * 100), ("a!#r", "A!#r")]
)
def test_names_that_become_other_file_names_are_found(
    library: Library, install: Callable[..., Installed], name: str, asked: str
) -> None:
    found = install(name)
    assert library.lookup(asked) == found
