"""Predicted against measured: resident memory at contexts and KV types, the buffers that llama.cpp plans, the speed.

Every measurement is a process of its own. Resident memory is that of the process less that of a bare Python, after a
prompt of about 1,000 tokens (or as many as fit) and 8 tokens of answer; predicted for as many tokens in the window. It
is the same every time, so each setting is measured once and the farthest of them counts; the speed is repeated.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import programs
from gguf_shapes import ALL, write_shape
from llama_plan import planned
from targets import Target, rounds

from slmchat import hardware
from slmchat.catalog.gguf import read_header
from slmchat.engine import threads
from slmchat.fit.memory import Load, compute_reserved, kv_bytes, memory
from slmchat.fit.shape import ModelShape, shape_of
from slmchat.fit.speed import Throughput, throughput_of

MIB = 1 << 20
CONTEXTS = (512, 4096, 32768)
KV_TYPES = ("f16", "q8_0")
SETTINGS = tuple((n_ctx, kv_type) for n_ctx in CONTEXTS for kv_type in KV_TYPES)

# argv: path, n_ctx, kv type, threads, tokens of answer. Prints resident MiB over a bare Python, tokens used, tokens/s.
CHILD = """
import json, sys
def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1024
bare = resident()
sys.path.insert(0, {root!r})
from pathlib import Path
from slmchat.engine import llama
from slmchat.engine.requests import Limits, Part, Prompt, SessionSettings
from slmchat.engine.sampler import SamplerSettings
path, n_ctx, kv_type, threads, answer = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
engine = llama.load(Path(path))
session = engine.open_session(SessionSettings(n_ctx, threads, threads, kv_type))
words = "the quick brown fox jumps over the lazy dog and " * (min(n_ctx - answer - 20, 1000) // 10)
*_, finish = session.generate(Prompt((Part(words),)), SamplerSettings(temperature=0), Limits(max_tokens=answer))
used = finish.usage.prompt_tokens + finish.usage.completion_tokens
print(json.dumps([resident() - bare, used, finish.usage.completion_tokens / finish.timings.generation_s]))
"""


def measure(repeat: int) -> list[Target]:
    found = [_as_planned()]
    with tempfile.TemporaryDirectory() as place:
        throughput = _throughput(Path(place))
    for model in programs.MODELS:
        path = Path(programs.path_of(model))
        shape = shape_of([read_header(path)])
        found += [_resident(model, path, shape), _speed(model, path, throughput.tokens_per_second(shape), repeat)]
    return found


def _as_planned() -> Target:
    """Headers without weights: KV cache, compute buffers and weights as llama.cpp itself plans the load."""
    guessed, real = [], []
    with tempfile.TemporaryDirectory() as place:
        for header in ALL.values():
            path = write_shape(Path(place, "x.gguf"), header)
            shape = shape_of([read_header(path)])
            for n_ctx, kv_type in SETTINGS:
                plan, load = planned(path, n_ctx, kv_type), Load(n_ctx, kv_type)
                sizes = kv_bytes(shape.layers, load), compute_reserved(shape, load), shape.weight_bytes
                guessed.append(sum(sizes) / MIB)
                real.append(sum(plan.caches) + plan.compute + shape.weight_bytes / MIB)
    raw = {"predicted MiB": guessed, "llama.cpp plans MiB": real}
    name = f"{len(ALL)} headers without weights: memory, farthest from what llama.cpp plans"
    return Target(name, 0.1, [_farthest(guessed, real)], raw, is_at_least=False)


def _resident(model: str, path: Path, shape: ModelShape) -> Target:
    sets = hardware.cores.instruction_sets().value or ()
    guessed, real = [], []
    for n_ctx, kv_type in SETTINGS:
        resident, used, _ = _measured(path, n_ctx, kv_type)
        guessed.append(memory(shape, Load(n_ctx, kv_type, sets), used=used).resident / MIB)
        real.append(resident)
    raw = {"predicted MiB": guessed, "measured MiB": real}
    name = f"{model}: predicted resident memory, farthest of {len(SETTINGS)} settings"
    return Target(name, 0.1, [_farthest(guessed, real)], raw, is_at_least=False)


def _speed(model: str, path: Path, predicted: float | None, repeat: int) -> Target:
    if predicted is None:
        raise RuntimeError(f"no speed is predicted for {model}")
    rates = [_measured(path, 512, "f16", answer=96)[2] for _ in rounds(repeat)]
    raw = {"predicted tok/s": [predicted], "measured tok/s": rates}
    off = [abs(predicted / rate - 1) for rate in rates]
    return Target(f"{model}: predicted speed, off by", 0.3, off, raw, is_at_least=False)


def _farthest(guessed: Sequence[float], real: Sequence[float]) -> float:
    """The largest part of a real value by which its prediction is off."""
    return max(abs(guess / value - 1) for guess, value in zip(guessed, real, strict=True))


def _measured(path: Path, n_ctx: int, kv_type: str, answer: int = 8) -> tuple[float, int, float]:
    """Resident MiB, tokens in the window, tokens a second."""
    code = CHILD.format(root=str(programs.ROOT))
    command = [sys.executable, "-c", code, str(path), str(n_ctx), kv_type, str(_threads()), str(answer)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    resident, used, speed = json.loads(done.stdout.splitlines()[-1])
    return resident, used, speed


def _throughput(place: Path) -> Throughput:
    """The throughput, in processes of their own: one whose threads share a processor cannot measure it."""
    code = f"""
import json, sys
sys.path.insert(0, {str(programs.ROOT)!r})
from pathlib import Path
from slmchat.engine import throughput
from slmchat.engine.throughput_points import MODELS
from dataclasses import astuple
found = {{}}
while len(found) < len(MODELS):
    missing = [name for name in MODELS if name not in found]
    found |= throughput.measure({_threads()}, Path({str(place)!r}), missing, seconds=2)
print(json.dumps({{name: astuple(point) for name, point in found.items()}}))
"""
    for _ in range(8):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found = throughput_of(json.loads(done.stdout.splitlines()[-1]))
            assert found is not None
            return found
    raise RuntimeError(f"the throughput of this device cannot be measured: {done.stderr.strip().splitlines()[-1:]}")


def _threads() -> int:
    return threads.choose(hardware.physical_cores(), hardware.cpu_quota())
