"""What is kept of a model file: found again while the file is the same, and never a moment longer."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf_samples import write_tiny_gemma3, write_tiny_llama, write_tiny_mamba, write_tiny_phi3

from slmchat import settings
from slmchat.catalog import file_facts, kept_headers, registry
from slmchat.catalog.file_facts import FileFacts
from slmchat.catalog.gguf import read_header
from slmchat.commands import models
from slmchat.errors import ExitCode
from slmchat.models import info
from slmchat.terminal.console import Console


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every file of the test had been written a minute ago."""
    real = file_facts.time.time
    monkeypatch.setattr(file_facts.time, "time", lambda: real() + 60)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return _llama(tmp_path / "tiny.gguf")


def _llama(path: Path) -> Path:
    return write_tiny_llama(path, chat_template="{{ messages }}")


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "facts").glob("*"))


def remember(tmp_path: Path, file: Path, name: str, fact: object) -> None:
    facts = FileFacts(tmp_path / "facts")
    assert facts.get(file, name) is None
    facts.keep(file, name, fact)


@pytest.mark.parametrize("write", [_llama, write_tiny_gemma3, write_tiny_phi3, write_tiny_mamba])
def test_a_header_comes_back_as_it_was(write: Callable[[Path], Path], tmp_path: Path) -> None:
    header = read_header(write(tmp_path / "model.gguf"))
    again = kept_headers.from_json(json.loads(json.dumps(kept_headers.as_json(header))))
    assert again == header
    assert hash(again.tensors) == hash(header.tensors)  # lists of JSON are tuples again


@pytest.mark.usefixtures("later")
def test_a_header_is_read_once(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [first] = kept_headers.read_headers([model], FileFacts(tmp_path / "facts"))
    monkeypatch.setattr(kept_headers, "read_header", lambda path: pytest.fail("read again"))
    assert kept_headers.read_headers([model], FileFacts(tmp_path / "facts")) == [first]
    if os.name == "posix":
        assert kept(tmp_path)[0].stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("later")
@pytest.mark.skipif(os.name != "posix", reason="the time of change is the file's birth here")
def test_another_content_of_the_same_size_and_time_is_another_file(model: Path, tmp_path: Path) -> None:
    kept_headers.read_headers([model], FileFacts(tmp_path / "facts"))
    before = model.stat()
    content = model.read_bytes()
    model.write_bytes(content.replace(b"context_length", b"context_lengtH"))
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    [found] = kept_headers.read_headers([model], FileFacts(tmp_path / "facts"))
    assert (model.stat().st_size, model.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert found.context_length is None


def test_a_file_of_this_moment_is_not_kept_yet(model: Path, tmp_path: Path) -> None:
    os.utime(model, (2e9, 2e9))  # a clock that was ahead
    kept_headers.read_headers([model], FileFacts(tmp_path / "facts"))
    assert kept(tmp_path) == []


@pytest.mark.usefixtures("later")
def test_what_changes_while_it_is_looked_at_is_not_kept(model: Path, tmp_path: Path) -> None:
    facts = FileFacts(tmp_path / "facts")
    assert facts.get(model, "words") is None
    model.write_bytes(model.read_bytes() + b" ")
    facts.keep(model, "words", "of the old content")
    assert facts.get(model, "words") is None and kept(tmp_path) == []


@pytest.mark.usefixtures("later")
def test_private_keeps_nothing(model: Path, tmp_path: Path) -> None:
    kept_headers.read_headers([model], FileFacts(tmp_path / "facts", is_kept=False))
    assert kept(tmp_path) == []


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("damage", [b"", b"[]", b"\xff", b'{"format": 1}', b"[" * 100_000, b'"facts"'])
def test_facts_that_are_damaged_are_none(model: Path, tmp_path: Path, damage: bytes) -> None:
    [header] = kept_headers.read_headers([model], FileFacts(tmp_path / "facts"))
    kept(tmp_path)[0].write_bytes(damage)
    assert kept_headers.read_headers([model], FileFacts(tmp_path / "facts")) == [header]


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("fact", [1, {}, {"metadata": []}, {"metadata": {}, "tensors": [[1]], "unknown_types": []}])
def test_a_header_that_is_none_is_read_again(model: Path, tmp_path: Path, fact: object) -> None:
    remember(tmp_path, model, "header", fact)
    assert kept_headers.read_headers([model], FileFacts(tmp_path / "facts")) == [read_header(model)]


@pytest.mark.usefixtures("later")
def test_what_cannot_be_kept_is_no_error(model: Path, tmp_path: Path) -> None:
    (tmp_path / "facts").write_text("a file in its place")
    assert kept_headers.read_headers([model], FileFacts(tmp_path / "facts")) == [read_header(model)]


@pytest.mark.usefixtures("later")
def test_only_the_last_ones_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_facts, "_MOST_FILES", 3)
    for number in range(5):
        file = tmp_path / f"{number}"
        file.write_text("x")
        remember(tmp_path, file, "number", number)
        for each in kept(tmp_path):  # so that none is as young as the next one
            os.utime(each, ns=(0, each.stat().st_mtime_ns - 1_000_000_000))
    assert len(kept(tmp_path)) == 3
    assert FileFacts(tmp_path / "facts").get(tmp_path / "4", "number") == 4
    FileFacts(tmp_path / "facts").forget(tmp_path / "4")
    assert FileFacts(tmp_path / "facts").get(tmp_path / "4", "number") is None


@pytest.mark.usefixtures("later")
def test_show_finds_out_once(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resolved = settings.load({"SLM_HOME": str(tmp_path / "home")})
    monkeypatch.setattr(registry, "_built_in", lambda: pytest.fail("the catalog was parsed"))
    monkeypatch.setattr(models.device_fit.ForDevice, "measure_more", lambda self: None)
    told = []
    for _ in range(2):
        assert models.show(str(model), resolved, Console(), is_json=True) is ExitCode.DONE
        told.append({**json.loads(capsys.readouterr().out), "fit": None})
        monkeypatch.setattr(kept_headers, "read_header", lambda path: pytest.fail("the header was read again"))
        monkeypatch.setattr(info, "template_fault", lambda header: pytest.fail("the template was compiled again"))
    assert told[0] == told[1]
