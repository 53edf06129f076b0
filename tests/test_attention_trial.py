"""Flash attention where it is the faster way: found out once on this machine, and obeyed."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf_samples import write_tiny_llama

from slmchat.engine import attention_trial, llama, native, verdicts
from slmchat.engine.llama import LlamaEngine
from slmchat.engine.requests import SessionSettings
from slmchat.errors import ExitCode, SlmError

SETTINGS = SessionSettings(512, 1, 1)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of this test's own for what is found out about the library."""
    monkeypatch.setattr(verdicts, "_directory", tmp_path)
    monkeypatch.setattr(verdicts, "_may_keep", True)
    monkeypatch.setattr(attention_trial, "_known", {})
    return tmp_path


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LlamaEngine]:
    file = tmp_path / "tiny.gguf"
    write_tiny_llama(file, chat_template=None, context_length=512)
    engine = llama.load(file)
    yield engine
    engine.close()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What is going to be measured, the next one last."""
    ratios: list[float] = []
    monkeypatch.setattr(attention_trial, "ratio", lambda _directory, _head: ratios.pop())
    return ratios


def is_flash(engine: LlamaEngine, settings: SessionSettings = SETTINGS) -> bool:
    """Whether a session opened now computes with flash attention, by llama.cpp's own word."""
    native.clear_log()
    engine.open_session(settings).close()
    told = [line for line in native.log_lines() if "flash_attn" in line]
    assert told
    return not any(line.endswith("= disabled") for line in told)


def test_the_slower_way_is_left_and_the_faster_one_is_not(
    engine: LlamaEngine, place: Path, measured: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured += [1.2, 2.8]
    assert not is_flash(engine)
    assert not is_flash(engine)  # it is known now: measured once
    monkeypatch.setattr(attention_trial, "_known", {})
    assert not is_flash(engine)  # and in the next process
    assert len(measured) == 1

    file = place / "attention-64.json"
    other = json.loads(file.read_text())
    other["key"]["library"] = "/another/libllama.so"
    file.write_text(json.dumps(other))
    monkeypatch.setattr(attention_trial, "_known", {})
    assert is_flash(engine)  # another library: measured again, and there it is fast
    assert not measured
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', "\xff"])
def test_a_damaged_answer_is_found_again(engine: LlamaEngine, place: Path, measured: list[float], content: str) -> None:
    (place / "attention-64.json").write_text(content, encoding="latin-1")
    measured.append(2.8)
    assert not is_flash(engine)


def test_what_somebody_chose_stays(engine: LlamaEngine, place: Path, measured: list[float]) -> None:
    """What `slm tune` found, and a quantized KV cache, which llama.cpp has with flash attention alone."""
    measured.append(2.8)
    assert is_flash(engine, SessionSettings(512, 1, 1, flash_attention=True))
    assert measured
    for opened in (engine.open_session, engine.open_pool):
        with pytest.raises(SlmError, match="cannot have a KV cache of q8_0") as refused:  # its heads are too short
            opened(SessionSettings(512, 1, 1, kv_type="q8_0"))
        assert refused.value.exit_code is ExitCode.USAGE
    assert measured


def test_a_window_whose_scores_would_fill_the_memory_keeps_flash_attention(
    engine: LlamaEngine, place: Path, measured: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured.append(2.8)
    heads = engine.loaded.api.llama_model_n_head(engine.loaded.model)
    scores = 4 * heads * SETTINGS.batch_tokens * SETTINGS.n_ctx
    for available, flash in ((4 * scores - 1, True), (4 * scores, False)):
        monkeypatch.setattr(llama.memory, "available", lambda value=available: llama.memory.Fact(value, ""))
        assert is_flash(engine) is flash


def test_where_nothing_can_be_kept_nothing_is_measured(
    engine: LlamaEngine, place: Path, measured: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "_directory", None)
    assert is_flash(engine)  # with nothing to measure this would raise IndexError
    monkeypatch.setattr(verdicts, "_directory", place)
    monkeypatch.setattr(attention_trial, "_known", {})
    monkeypatch.setattr(verdicts, "_may_keep", False)
    measured.append(2.8)
    assert not is_flash(engine)  # a Python program computes as `slm run` does, and leaves nothing behind
    assert not measured and not list(place.glob("*attention*"))
    monkeypatch.setattr(verdicts, "_may_keep", True)
    monkeypatch.setattr(attention_trial, "_known", {})
    monkeypatch.setattr(verdicts, "_directory", place / "file" / "below")
    (place / "file").write_text("")
    assert is_flash(engine)


@pytest.mark.parametrize(
    ("head", "asked"), [(8, 64), (64, 64), (96, 64), (128, 128), (192, 128), (256, 256), (576, 256)]
)
def test_heads_of_another_size_are_another_question(
    head: int, asked: int, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one build heads of 64 numbers suffer from flash attention, and larger ones gain by it."""
    ratios = {64: 2.4, 128: 0.9, 256: 0.8}
    monkeypatch.setattr(attention_trial, "ratio", lambda _directory, size: ratios[size])
    assert attention_trial.is_slower(head) is (asked == 64)
    assert [file.name for file in place.iterdir()] == [f"attention-{asked}.json"]


@pytest.mark.parametrize("head", attention_trial.HEADS)
def test_llama_cpp_tells_a_ratio(place: Path, head: int) -> None:
    """Both ways compute, and neither is out of all proportion on any machine that is known."""
    assert 0.2 < attention_trial.ratio(place, head) < 50


def test_a_full_disk_ends_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hole in a file of a full file system in memory ends slm by SIGBUS when llama.cpp reads it."""
    full = shutil.disk_usage(place)._replace(free=100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: full)
    monkeypatch.setattr(attention_trial, "opened_context", lambda *_, **__: pytest.fail("a hole is read"))
    assert not attention_trial.is_slower(64)
    assert list(place.iterdir()) == []
