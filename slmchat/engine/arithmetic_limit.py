"""The limit of this device for reading a prompt: multiply-adds a second of llama.cpp's own matrix products.

What a prompt costs is matrix products of many tokens at once, so its limit is arithmetic and not memory. It depends on
the type of the weights: each has kernels of its own, and on many processors they multiply whole numbers, of which a
benchmark of floating point tells nothing. So the kernels themselves are timed, where they are at their best: a layer of
zeros with large matrices, many tokens at once.

Knows: that layer, the best of several rounds in a bounded time. Refuses to know: real models, what a share of it means.
"""

import tempfile
import time
from pathlib import Path

from slmchat.engine import native_calls, tiny_model
from slmchat.engine.device_throughput import ABORTED, Deadline, opened_context, refused
from slmchat.engine.tiny_model import WeightType

# One layer with the shapes of an 8B model's (4,096 would take four times as long), and tokens evaluated at once.
_EMBEDDING, _FEED_FORWARD = 2048, 8192
N_TOKENS = 256

# Seconds for all of it, loading included, and of the rounds that are compared.
_SECONDS, _ROUNDS_S = 4.0, 1.0


def multiply_adds_per_token() -> int:
    """Of the measured layer: its seven matrices; what attention adds is below 1 %."""
    keys = _EMBEDDING // 4  # write_llama: a key for four queries
    return 2 * _EMBEDDING * (_EMBEDDING + keys) + 3 * _EMBEDDING * _FEED_FORWARD


def measure(kind: WeightType, threads: int, directory: Path) -> float | None:
    """Multiply-adds a second with weights of this type; None when not even one round was done in a few seconds.

    A file of up to 130 MB, mostly a hole, is written to `directory` and removed. Raises `SlmError` when llama.cpp is
    missing or refuses, `OSError` when the directory cannot be written.
    """
    with (
        Deadline(_SECONDS) as deadline,
        native_calls.own_errand("measuring the arithmetic of this device"),
        tempfile.TemporaryDirectory(dir=directory, prefix="pace-") as place,
    ):
        file = Path(place) / "layer.gguf"
        tiny_model.write_llama(file, [kind], embedding=_EMBEDDING, feed_forward=_FEED_FORWARD)
        with opened_context(file, threads, deadline, n_tokens=N_TOKENS) as opened:
            if opened is None:
                return None
            api, context = opened
            tokens = (api.llama_token * N_TOKENS)(*(number % tiny_model.VOCABULARY for number in range(N_TOKENS)))
            best: float | None = None
            begun = time.perf_counter()
            while not deadline.is_over and (best is None or time.perf_counter() - begun < _ROUNDS_S):
                api.llama_memory_clear(api.llama_get_memory(context), False)
                start = time.perf_counter()
                status = api.llama_decode(context, api.llama_batch_get_one(tokens, N_TOKENS))
                api.llama_synchronize(context)
                if status == ABORTED:
                    break
                if status != 0:
                    raise refused()
                rate = N_TOKENS * multiply_adds_per_token() / (time.perf_counter() - start)
                best = max(best or 0.0, rate)
            return best
