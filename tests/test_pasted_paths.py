"""Files named by a path: without an ending, with bytes that are no text, in several parts."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import gguf_samples as samples
import pytest
from conftest import Outcome
from gguf_samples import CHATML_TEMPLATE
from gguf_surgery import with_keys
from hub_server import gguf_bytes

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.write_tiny_llama(
        tmp_path_factory.mktemp("tiny") / "tiny.gguf",
        chat_template=CHATML_TEMPLATE,
        extra_control_tokens=("<|im_start|>", "<|im_end|>"),
    )


def test_a_blob_without_an_ending_is_a_model(slm: Callable[..., Outcome], tiny: Path, tmp_path: Path) -> None:
    blob = tmp_path / "sha256-0a1b2c"
    blob.write_bytes(tiny.read_bytes())
    assert slm("run", "-m", blob, "-n", "3", "hi").code == 0
    assert slm("add", "mine", blob).code == 0
    assert json.loads(slm("show", "mine", "--json").out)["path"] == str(blob)
    assert slm("run", "-n", "3", "-m", "mine", "hi").code == 0
    missing = slm("run", "-m", "./nothing", "hi")
    assert missing.code == 3
    assert "does not exist" in missing.err


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are Unicode there")
def test_a_path_may_have_any_bytes(slm: Callable[..., Outcome], tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"m\xff.gguf")
    path.write_bytes(tiny.read_bytes())
    for command in (("show",), ("pull",), ("verify",), ("doctor",), ("run", "-n", "3", "hi", "-m")):
        outcome = slm(*command, path)
        assert outcome.code == (1 if command == ("doctor",) else 0), outcome  # it writes nonsense, says the doctor
        assert "an error of slm's own" not in outcome.err
    assert slm("run", "-n", "3", "hi").code == 0  # the model used last
    named = slm("add", "mine", path)
    assert named.code == 2
    assert "is not UTF-8 text, and models.toml is" in named.err


def test_a_missing_part_is_named(slm: Callable[..., Outcome], tmp_path: Path) -> None:
    parts = [tmp_path / f"big-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        part.write_bytes(gguf_bytes(number, 40_000))
    whole = json.loads(slm("show", parts[0], "--json").out)
    assert whole["parameters"] == 3 * 10_000
    assert len(whole["files"]) == 3
    parts[2].unlink()
    for command in (("show",), ("run", "hi", "-m"), ("add", "mine")):
        outcome = slm(*command, parts[0])
        assert outcome.code == 3
        assert outcome.err.startswith(f"slm: part 3 of 3 is missing: there is no file {parts[2]}.")


def test_a_part_under_another_name_is_told(slm: Callable[..., Outcome], tiny: Path, tmp_path: Path) -> None:
    alone = with_keys(tiny, tmp_path / "renamed.gguf", {"split.count": 3, "split.no": 0})
    outcome = slm("run", "-m", alone, "hi")
    assert outcome.code == 3
    assert "is part 1 of 3, and its name does not say where the others are" in outcome.err
