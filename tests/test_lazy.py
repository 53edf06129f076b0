"""What memory is planned with: per-layer embeddings that stay on the disk, and what is loaded beside a model."""

import ctypes
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from gguf_memories import write_per_layer
from gguf_samples import write_tiny_llama
from gguf_vision import IMAGE_SIZE, write_tiny_siglip

from slmchat import settings as settings_module
from slmchat.catalog import registry
from slmchat.catalog.gguf import read_header
from slmchat.engine import llama
from slmchat.engine.context import Context
from slmchat.engine.requests import Part, Prompt, SessionSettings
from slmchat.fit import memory as fit_memory
from slmchat.fit.memory import MIB, Load, memory
from slmchat.fit.plan import FitVerdict, Room, choose_ctx, plan
from slmchat.fit.shape import ModelShape, shape_of
from slmchat.models import device_fit, load_plan

GIB = 1 << 30
PROMPT = Prompt((Part("the people said that it was not the first time"),))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_per_layer(tmp_path_factory.mktemp("lazy") / "tiny.gguf")


@pytest.fixture(scope="module")
def shape(model: Path) -> ModelShape:
    return shape_of([read_header(model)])


def _room(available: int) -> Room:
    return Room(available, 2 * GIB)


class TestPlan:
    @pytest.mark.slow
    def test_where_memory_is_the_limit_and_nowhere_else(self, shape: ModelShape) -> None:
        assert 30 * MIB < shape.lazy_bytes < shape.weight_bytes
        whole = memory(shape, Load(512))
        headroom = _room(0).headroom
        ample = plan(shape, Load(512), _room(whole.needed + headroom))
        assert (ample.verdict, ample.load.is_lazy, ample.memory.on_disk) == (FitVerdict.FITS, False, 0)
        short = plan(shape, Load(512), _room(whole.needed + headroom - 1))
        assert (short.verdict, short.load.is_lazy) == (FitVerdict.FITS, True)
        assert short.memory.on_disk == shape.lazy_bytes
        assert short.memory.needed == whole.needed - shape.lazy_bytes
        assert short.memory.address_space == whole.address_space  # it is mapped all the same
        assert plan(shape, Load(512), _room(short.memory.needed)).verdict is FitVerdict.TIGHT
        assert plan(shape, Load(512), _room(short.memory.needed - 1)).verdict is FitVerdict.NO

    def test_the_window_counts_on_it(self, shape: ModelShape) -> None:
        space = _room(memory(shape, Load(2048, is_lazy=True)).needed)
        assert choose_ctx(shape, Load(0), space) >= 2048
        assert choose_ctx(replace(shape, lazy_bytes=0), Load(0), space) < 2048

    def test_what_is_loaded_lazily_stays_so_in_a_smaller_window(self, shape: ModelShape) -> None:
        found = plan(shape, Load(512, is_lazy=True), _room(64 * GIB))
        assert found.load.is_lazy and found.memory.on_disk

    def test_llama_cpp_does_it_unasked_above_a_size(self, shape: ModelShape, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fit_memory, "LAZY_ANYWAY", shape.lazy_bytes)
        assert memory(shape, Load(512)).on_disk == 0
        monkeypatch.setattr(fit_memory, "LAZY_ANYWAY", shape.lazy_bytes - 1)
        assert memory(shape, Load(512)).on_disk == shape.lazy_bytes

    def test_other_architectures_have_none(self, model: Path) -> None:
        header = read_header(model)
        other = replace(header, metadata={**header.metadata, "general.architecture": "gemma3n"})
        assert shape_of([other]).lazy_bytes == 0

    @pytest.mark.parametrize(("name", "available"), [("gemma4:e4b", 4.3), ("gemma4:e2b", 2.6)])
    def test_the_catalog_knows_of_gemma_4(self, name: str, available: float, tmp_path: Path) -> None:
        spec = registry.load(tmp_path / "none.toml").models[name]
        variant = next(each for each in spec.variants if each.quantization == "Q4_K_M")
        guessed = device_fit.expected_shape(spec, variant.quantization, variant.size)
        assert guessed is not None and variant.size is not None
        assert 0.3 * variant.size < guessed.lazy_bytes < 0.6 * variant.size
        space = Room(int(available * 1e9), 6 * GIB)
        assert plan(guessed, Load(2048), space).is_possible
        assert not plan(replace(guessed, lazy_bytes=0), Load(2048), space).is_possible


class TestOutlook:
    def test_it_is_told(self, shape: ModelShape) -> None:
        lazy = plan(shape, Load(512), _room(memory(shape, Load(512)).needed))
        fit_report = device_fit.FitReport(lazy, None, lazy.room)
        assert "of embeddings stay on the disk" in fit_report.in_words()
        assert fit_report.as_json()["on_disk"] == shape.lazy_bytes
        ample = plan(shape, Load(512), _room(64 * GIB))
        assert "on the disk" not in device_fit.FitReport(ample, None, ample.room).in_words()

    def test_it_is_how_the_model_is_opened(
        self, model: Path, shape: ModelShape, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        paths = settings_module.Paths(tmp_path, tmp_path, tmp_path)
        for available, is_lazy in ((64 * GIB, False), (memory(shape, Load(512)).needed, True)):
            monkeypatch.setattr(device_fit, "available_memory", lambda device, free=available: _room(free))
            settings = settings_module.Settings(paths=paths)
            found = load_plan.plan_load(shape, settings, model=model, n_ctx=512, kv_type=None, gpu_layers=None)
            assert found.load.is_lazy is is_lazy


class TestBeside:
    """Adapters, projectors and draft models take memory of their own."""

    def test_files_count_as_large_as_they_are_and_drafts_with_their_cache(self, tmp_path: Path) -> None:
        adapter, draft = tmp_path / "adapter.gguf", write_tiny_llama(tmp_path / "draft.gguf", chat_template=None)
        adapter.write_bytes(bytes(1000))
        made = settings_module.Settings(settings_module.Paths(tmp_path, tmp_path, tmp_path))
        shape = shape_of([read_header(draft)])

        def needed(**given: Any) -> int:
            nothing: dict[str, Any] = {"adapters": (), "projector": None, "draft": None, "n_ctx": 256}
            return load_plan.needed_beside(made, **{**nothing, **given})

        assert needed() == 0
        assert needed(adapters=(adapter, adapter), projector=adapter) == 3000
        seen = write_tiny_siglip(tmp_path / "mmproj.gguf")
        patches = (IMAGE_SIZE // 8) ** 2
        assert needed(projector=seen) == seen.stat().st_size + patches * 4 * (2 * 96 + 2.5 * 32)  # it computes, too
        assert needed(draft=draft) == memory(shape, device_fit.load(made, 256)).needed > draft.stat().st_size / 2
        assert needed(adapters=(tmp_path / "gone",), draft=adapter) == 0  # whoever opens them says so

    def test_what_they_take_is_not_available(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = write_tiny_llama(tmp_path / "tiny.gguf", chat_template=None)
        made = settings_module.Settings(settings_module.Paths(tmp_path, tmp_path, tmp_path))
        shape = shape_of([read_header(model)])
        needed = memory(shape, device_fit.load(made, 256)).needed
        monkeypatch.setattr(device_fit, "available_memory", lambda device: Room(2 * needed, 64 * GIB))

        def planned(beside: int) -> load_plan.LoadPlan:
            given = {"model": model, "n_ctx": 256, "kv_type": None, "gpu_layers": None}
            return load_plan.plan_load(shape, made, **given, beside=beside)  # type: ignore[arg-type]

        assert planned(0).verdict is not FitVerdict.NO
        refused = planned(2 * needed)
        assert refused.verdict is FitVerdict.NO
        assert "for what is loaded with it" in load_plan.refusal("tiny", refused).message


def _logits(engine: llama.LlamaEngine) -> list[float]:
    context = Context(engine.loaded.api, engine.loaded.model, SessionSettings(512, 1, 1), lambda: False)
    context.evaluate(engine.vocabulary.tokenize(PROMPT))
    row = ctypes.c_float * engine.vocabulary.n_tokens
    found = list(ctypes.cast(engine.loaded.api.llama_get_logits_ith(context.handle, -1), ctypes.POINTER(row)).contents)
    context.close()
    return found


def _resident(file: Path) -> int:
    """Bytes of a mapped file that are in the memory of this process."""
    return sum(each.rss for each in psutil.Process().memory_maps() if each.path == str(file))


@pytest.mark.real
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells what of a file is in memory")
def test_the_answer_is_the_same_and_memory_is_less(model: Path, shape: ModelShape) -> None:
    logits, resident = {}, {}
    for is_lazy in (False, True):
        engine = llama.load(model, is_lazy=is_lazy)
        logits[is_lazy] = _logits(engine)
        resident[is_lazy] = _resident(model)
        engine.close()
    assert logits[True] == logits[False]
    assert len(set(logits[True])) > 100
    assert resident[False] > shape.lazy_bytes
    assert resident[True] < resident[False] - 0.6 * shape.lazy_bytes  # pages around a row come with it
