"""LoRA adapters: what adding one, rescaling it and computing with it cost. Run by hand, on an idle machine.

    python tests/benchmarks/bench_adapters.py MODEL.gguf...

The adapter has rank 16 over every matrix of attention and feed-forward, as usual fine-tunings have it; it is all zeros,
which costs the same. Times are medians; `target` is that of a rescale without the prefill that it makes necessary.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lora_samples import write_lora

from slmchat import settings as settings_module
from slmchat.catalog.gguf import read_header
from slmchat.catalog.library import from_path
from slmchat.commands.adapters import laid
from slmchat.engine import llama
from slmchat.engine.api import Finish, Limits, Part, Prompt, SessionSettings
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.session import LlamaSession

RANK = 16
ROUNDS = 7
N_CTX = 4096
TARGET_MS = 50
TEXT = "The quick brown fox jumps over the lazy dog near the river bank. " * 40


def adapter_over(model: Path, path: Path) -> Path:
    """An adapter of zeros over every matrix of the layers."""
    shapes = {tensor.name: tensor.shape for tensor in read_header(model).tensors}
    matrices = {
        name: (np.zeros((RANK, shape[0])), np.zeros((shape[1], RANK)))
        for name, shape in shapes.items()
        if name.startswith("blk.") and len(shape) == 2
    }
    return write_lora(path, matrices, architecture=read_header(model).architecture or "")


def milliseconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - start)


def generate(session: LlamaSession, n: int) -> Finish:
    """The whole of a generation after `TEXT`."""
    finish = None
    for event in session.generate(Prompt((Part(TEXT),)), SamplerSettings(temperature=0), Limits(n)):
        finish = event
    assert isinstance(finish, Finish)
    return finish


def rate(finish: Finish) -> float:
    return finish.usage.completion_tokens / finish.timings.generation_s


def measure(model: Path, folder: Path) -> None:
    installed = from_path(model)
    settings = settings_module.load({"SLM_HOME": str(folder)})
    file = adapter_over(model, folder / "adapter.gguf")
    engine = llama.load(model)
    session = engine.open_session(SessionSettings(N_CTX, 2, 2))
    plain = generate(session, 48)
    present = laid(installed, [str(file)], settings)
    adding = milliseconds(lambda: session.set_adapters(laid(installed, [str(file)], settings)))
    with_it = generate(session, 48)
    rescaling = []
    for number in range(ROUNDS):
        text = f"{file.name}={0.1 + number / 10:.1f}"
        rescaling.append(
            milliseconds(lambda text=text: session.set_adapters(laid(installed, [text], settings, present)))
        )
        generate(session, 1)
    opening = [milliseconds(lambda: engine.open_session(SessionSettings(N_CTX, 2, 2)).close()) for _ in range(3)]
    session.close()
    engine.close()
    print(f"{model.name}, adapter of {file.stat().st_size / 1e6:.1f} MB")
    print(f"  adding it (read, checked, loaded)  {adding:8.2f} ms")
    print(f"  rescaling it                       {statistics.median(rescaling):8.2f} ms (target {TARGET_MS})")
    print(f"  instead: a new context window      {statistics.median(opening):8.2f} ms")
    print(f"  prompt      {plain.usage.prompt_tokens} tokens: {1000 * plain.timings.prompt_s:.0f} ms without it,")
    print(f"              {1000 * with_it.timings.prompt_s:.0f} ms with it")
    print(f"  generation  {rate(plain):.1f} tokens/s without it, {rate(with_it):.1f} with it")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as scratch:
            measure(Path(argument), Path(scratch))
