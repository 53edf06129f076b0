"""Predicted against measured: resident memory at contexts and KV types, the buffers that llama.cpp plans, the speed.

    python tests/benchmarks/bench_fit.py [MODEL.gguf ...]     # the two real models of the tests without arguments

Every measurement is a process of its own. Resident memory is that of the process less that of a bare Python, after a
prompt of about 1,000 tokens (or as many as fit) and 8 tokens of answer; predicted for as many tokens in the window.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from gguf_shapes import ALL, write_shape  # noqa: E402
from llama_plan import planned  # noqa: E402

from slmchat import hardware  # noqa: E402
from slmchat.catalog.gguf import read_header  # noqa: E402
from slmchat.engine import threads  # noqa: E402
from slmchat.fit.memory import Load, compute_reserved, kv_bytes, memory  # noqa: E402
from slmchat.fit.shape import shape_of  # noqa: E402
from slmchat.fit.speed import Pace, Rate  # noqa: E402

MIB = 1 << 20
CONTEXTS = (512, 4096, 32768)
KV_TYPES = ("f16", "q8_0")

# argv: path, n_ctx, kv type, threads, tokens of answer. Prints resident MiB over a bare Python, tokens used, tokens/s.
CHILD = """
import json, sys
def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1024
bare = resident()
sys.path.insert(0, {root!r})
from pathlib import Path
from slmchat.engine import llama
from slmchat.engine.api import Limits, Part, Prompt, SessionSettings
from slmchat.engine.sampler import SamplerSettings
path, n_ctx, kv_type, threads, answer = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
engine = llama.load(Path(path))
session = engine.open_session(SessionSettings(n_ctx, threads, threads, kv_type))
words = "the quick brown fox jumps over the lazy dog and " * (min(n_ctx - answer - 20, 1000) // 10)
*_, finish = session.generate(Prompt((Part(words),)), SamplerSettings(temperature=0), Limits(max_tokens=answer))
used = finish.usage.prompt_tokens + finish.usage.completion_tokens
print(json.dumps([resident() - bare, used, finish.usage.completion_tokens / finish.timings.generation_s]))
"""


def measured(path: Path, n_ctx: int, kv_type: str, answer: int = 8) -> tuple[float, int, float]:
    """Resident MiB, tokens in the window, tokens a second."""
    code = CHILD.format(root=str(ROOT))
    command = [sys.executable, "-c", code, str(path), str(n_ctx), kv_type, str(_threads()), str(answer)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    resident, used, speed = json.loads(done.stdout.splitlines()[-1])
    return resident, used, speed


def _pace(place: Path) -> Pace | None:
    """The pace, in processes of their own: one whose threads share a processor cannot measure it."""
    code = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from slmchat.engine import pace
found = pace.measure({_threads()}, Path({str(place)!r}))
print(json.dumps([found.layer_seconds, found.rates]))
"""
    for _ in range(8):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            layer, rates = json.loads(done.stdout.splitlines()[-1])
            return Pace({name: Rate(*rate) for name, rate in rates.items()}, layer, _threads())
    print("no pace: other programs keep the processor busy", file=sys.stderr)
    return None


def _threads() -> int:
    return threads.choose(hardware.physical_cores(), hardware.cpu_quota())


def _row(what: str, predicted: float, found: float, unit: str) -> None:
    print(f"| {what} | {predicted:.1f} | {found:.1f} {unit} | {predicted / found:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path)
    models = parser.parse_args().models or _real_models()
    sets = hardware.cores.instruction_sets().value or ()
    print("| what | predicted | measured | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        speed = _pace(Path(place))
        for name, shape in ALL.items():
            path = write_shape(Path(place, "x.gguf"), shape)
            known = shape_of([read_header(path)])
            for n_ctx in CONTEXTS:
                for kv_type in KV_TYPES:
                    plan, load = planned(path, n_ctx, kv_type), Load(n_ctx, kv_type)
                    sizes = kv_bytes(known.layers, load), compute_reserved(known, load), known.weight_bytes
                    real = sum(plan.caches) + plan.compute + known.weight_bytes / MIB
                    _row(f"{name} {n_ctx} {kv_type}, as llama.cpp plans it", sum(sizes) / MIB, real, "MiB")
    for path in models:
        known = shape_of([read_header(path)])
        for n_ctx in CONTEXTS:
            for kv_type in KV_TYPES:
                resident, used, _ = measured(path, n_ctx, kv_type)
                predicted = memory(known, Load(n_ctx, kv_type, sets), used=used).resident / MIB
                _row(f"{path.stem} {n_ctx} {kv_type}, resident", predicted, resident, "MiB")
        rates = sorted(measured(path, 512, "f16", answer=96)[2] for _ in range(5))
        if speed is not None:
            _row(f"{path.stem} generation", speed.tokens_per_second(known) or 0.0, rates[2], "tokens/s")


def _real_models() -> list[Path]:
    from conftest import GEMMA3_BASE, SMOLLM2, _cache, _path_of

    return [_path_of(name, _cache() / "home") for name in (SMOLLM2, GEMMA3_BASE)]


if __name__ == "__main__":
    main()
