"""GPUs: which are used, and what happens when their memory is not enough. Planted ones: the backends here have none."""

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import run_slm
from fake_engine import FakeEngine
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama

from slmchat.catalog.gguf import read_header
from slmchat.catalog.library import from_path
from slmchat.engine import crash_guard, devices, llama, native
from slmchat.engine.devices import ComputeDevice
from slmchat.errors import ExitCode, SlmError
from slmchat.fit.shape import shape_of
from slmchat.models import load_plan, loader
from slmchat.options import GenerationOptions
from slmchat.settings import load

GIB = 1024**3


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "tiny.gguf", chat_template=CHATML_TEMPLATE)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = [
        (1, ComputeDevice("CPU", "a processor", "cpu", GIB, GIB)),
        (20, ComputeDevice("CUDA0", "a GPU", "gpu", 8 * GIB, 8 * GIB)),
        (30, ComputeDevice("CUDA1", "a second GPU", "gpu", 4 * GIB, 4 * GIB)),
    ]
    monkeypatch.setattr(devices, "_listed", lambda: planted)
    monkeypatch.setattr(devices.native, "has_gpu_backend", lambda: True)


@pytest.mark.parametrize(
    ("given", "handles"), [("CUDA0", [20, None]), ("CUDA1, CUDA0", [30, 20, None]), ("none", [None])]
)
def test_devices_are_chosen_by_name(gpus: None, given: str, handles: list[int | None]) -> None:
    assert list(devices.choose(given)) == handles


def test_only_the_memory_of_chosen_devices_counts(gpus: None) -> None:
    assert devices.free_gpu_memory() == 12 * GIB
    assert devices.free_gpu_memory("CUDA1") == 4 * GIB
    assert devices.free_gpu_memory("none") == 0


@pytest.mark.parametrize("given", ["CPU", "CUDA7", ""])
def test_a_device_that_is_no_gpu_is_refused_with_those_that_are(gpus: None, given: str) -> None:
    with pytest.raises(SlmError) as caught:
        devices.choose(given)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "CUDA0 or CUDA1 or none" in str(caught.value.hint)


def test_without_room_on_the_gpu_the_processor_computes_and_it_is_said(
    gpus: None, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int | None, str | None]] = []

    def loads(path: Path, *, gpu_layers: int | None, device: str | None, **_: object) -> FakeEngine:
        asked.append((gpu_layers, device))
        if gpu_layers:
            raise SlmError("out of memory.", exit_code=ExitCode.NO_FIT)
        return FakeEngine()

    monkeypatch.setattr(llama, "load", loads)
    options = GenerationOptions(device="CUDA1")
    loading = loader.start_loading(from_path(model), options, load({"SLM_HOME": str(tmp_path)}))
    assert isinstance(crash_guard.unguarded(loading.engine()), FakeEngine)
    assert [device for _, device in asked] == ["CUDA1", "CUDA1"]
    assert asked[0][0]
    assert asked[1][0] == 0
    assert loading.plan is not None
    assert loading.plan.gpu_layers == 0
    (notice,) = _of_gpus(loading)
    assert "do not fit into the free memory of the GPU" in notice


def test_what_does_not_fit_for_another_reason_is_not_tried_twice(
    gpus: None, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loads(*_: object, **__: object) -> FakeEngine:
        raise SlmError("damaged.", exit_code=ExitCode.DAMAGED)

    monkeypatch.setattr(llama, "load", loads)
    loading = loader.start_loading(from_path(model), GenerationOptions(), load({"SLM_HOME": str(tmp_path)}))
    with pytest.raises(SlmError, match="damaged"):
        loading.engine()
    assert not _of_gpus(loading)


def _of_gpus(loading: loader.Loading) -> list[str]:
    """What is told, but for what this machine's own library cannot do."""
    return [notice for notice in loading.notices if "on this machine" not in notice]


def test_a_refusal_because_of_the_gpu_names_its_memory(gpus: None, model: Path, tmp_path: Path) -> None:
    settings = load({"SLM_HOME": str(tmp_path)})
    shape = shape_of([read_header(model)])
    asked = {"model": model, "n_ctx": 256, "kv_type": None, "gpu_layers": 3, "device": "CUDA1"}
    found = load_plan.plan_load(shape, settings, **asked)
    assert found.gpu_layers == 3
    small = replace(found, available_memory=replace(found.available_memory, gpu=1000))
    error = load_plan.refusal("tiny", small)
    assert error.exit_code is ExitCode.NO_FIT
    assert "of the GPU's memory for 3 layers, and 1.0 kB are free there" in str(error)
    assert "--gpu-layers auto" in str(error.hint)


@pytest.mark.real
@pytest.mark.skipif(native.has_gpu_backend(), reason="this library was built for GPUs")
def test_without_a_gpu_backend_the_flags_say_so(model: Path, home: Path) -> None:
    named = run_slm("run", "-m", model, "-n", "2", "--device", "CUDA0", "hi", home=home)
    assert named.code == 2
    assert "there is no GPU called 'CUDA0'" in named.err
    off = run_slm("run", "-m", model, "-n", "2", "--device", "none", "hi", home=home)
    assert (off.code, off.err) == (0, "")
    layers = run_slm("run", "-m", model, "-n", "2", "--gpu-layers", "5", "hi", home=home)
    assert layers.code == 0
    assert "finds no GPU" in layers.err
