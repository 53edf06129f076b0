"""LoRA adapters: what adding one, rescaling it and computing with it cost.

The adapter has rank 16 over every matrix of attention and feed-forward, as usual fine-tunings have it; it is all zeros,
which costs the same. The target is that of a rescale without the prefill that it makes necessary.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import programs
from lora_samples import write_lora
from targets import Target, rounds

from slmchat import settings as settings_module
from slmchat.catalog.gguf import read_header
from slmchat.catalog.library import from_path
from slmchat.engine import llama
from slmchat.engine.requests import Limits, Part, Prompt, SessionSettings
from slmchat.engine.results import Finish
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.session import LlamaSession
from slmchat.models.adapters import with_adapters

RANK = 16
N_TOKENS = 48
SETTINGS = SessionSettings(4096, programs.THREADS, programs.THREADS, speculation="off")
TARGET_MS = 50
TEXT = "The quick brown fox jumps over the lazy dog near the river bank. " * 40


def measure(repeat: int) -> list[Target]:
    return [_of(model, repeat) for model in programs.MODELS]


def _of(name: str, repeat: int) -> Target:
    model = Path(programs.path_of(name))
    installed = from_path(model)
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_module.load({"SLM_HOME": folder})
        file = _adapter_over(model, Path(folder, "adapter.gguf"))
        engine = llama.load(model)
        session = engine.open_session(SETTINGS)
        plain = _generate(session, N_TOKENS)
        present = with_adapters(installed, [str(file)], settings)
        adding = _milliseconds(lambda: session.set_adapters(with_adapters(installed, [str(file)], settings)))
        with_it = _generate(session, N_TOKENS)
        rescaling = []
        for number in rounds(repeat):
            text = f"{file.name}={0.1 + number / 100:.2f}"
            rescaling.append(
                _milliseconds(
                    lambda text=text: session.set_adapters(with_adapters(installed, [text], settings, present))
                )
            )
            _generate(session, 1)  # the next one finds a cache that is in use
        session.close()
        engine.close()
    raw = {
        "rescaling ms": rescaling,
        "adding it (read, checked, loaded) ms": [adding],
        "prompt without and with it ms": [1000 * each.timings.prompt_s for each in (plain, with_it)],
        "tok/s without and with it": [_rate(plain), _rate(with_it)],
    }
    return Target(f"{name}: switching an adapter's scale", TARGET_MS, rescaling, raw, is_at_least=False, unit="ms")


def _adapter_over(model: Path, path: Path) -> Path:
    """An adapter of zeros over every matrix of the layers."""
    shapes = {tensor.name: tensor.shape for tensor in read_header(model).tensors}
    matrices = {
        name: (np.zeros((RANK, shape[0])), np.zeros((shape[1], RANK)))
        for name, shape in shapes.items()
        if name.startswith("blk.") and len(shape) == 2
    }
    return write_lora(path, matrices, architecture=read_header(model).architecture or "")


def _milliseconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - start)


def _generate(session: LlamaSession, n: int) -> Finish:
    """The whole of a generation after `TEXT`."""
    finish = None
    for event in session.generate(Prompt((Part(TEXT),)), SamplerSettings(temperature=0), Limits(n)):
        finish = event
    assert isinstance(finish, Finish)
    return finish


def _rate(finish: Finish) -> float:
    return finish.usage.completion_tokens / finish.timings.generation_s
