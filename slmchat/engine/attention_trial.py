"""Whether flash attention is the slower way on this machine: timed once for a size of heads, on zeros, and kept.

Knows: which token to time, how a ratio is found on a machine that other programs use too, where it is kept.
Refuses to know: real models, and what is done with the answer (llama.py).

llama.cpp uses flash attention wherever it can. That saves memory, and prompts are read faster with it. A single token
takes another of its kernels, and how fast that is depends on the compiler: in a build by GCC 12 for AVX-512 it takes
2.5 times as long as plain attention behind 512 tokens, which makes a chat half as fast behind 1,000 tokens and a third
as fast behind 3,000; in the prebuilt library it takes 1.1 times as long. And it depends on how many numbers a head has:
the same build takes 2.4 times as long with heads of 64, and 0.9 with heads of 128 or 256 (docs/decisions.md).
"""

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from slmchat import kept_json
from slmchat.engine import native, native_calls, tiny_model, verdicts
from slmchat.engine.device_throughput import Deadline, opened_context, refused
from slmchat.errors import SlmError
from slmchat.private_files import make_private, write_private

SLOWER = 1.6
"""Ratio of the two times of a token from which flash attention is given up: between what was seen of the build that
suffers (2.5 to 2.9) and of those that do not (1.05 to 1.2)."""

HEADS = (64, 128, 256)
"""Sizes of heads that are timed; others count as the next smaller one, because the smaller ones suffer more."""

# One layer of four heads or more: attention is then most of what a token takes. Zeros take as long as other numbers.
_LEAST_EMBEDDING, _LEAST_HEADS, _FEED_FORWARD = 512, 4, 32
_DEPTH = 512  # tokens that the timed ones look back at
_SECONDS = 10.0  # and then it is given up: another program has the processor
_TURNS = 7  # tokens timed in each way, by turns; the fastest of them is the one that nobody disturbed

_FORMAT = 1

_known: dict[Path, float] = {}  # by the file


def is_slower(head: int) -> bool:
    """Whether flash attention takes at least `SLOWER` times as long for a token as plain attention does.

    `head`: numbers of each head of the model. The first one who asks pays for the answer, about 0.1 s of one
    processor. False where it is not known: no place to keep an answer is in use (verdicts.py), nothing can be written
    (`--private`), llama.cpp refuses; and with a GPU, whose kernels are others. A program that keeps nothing finds it
    out again.
    """
    place = verdicts.place_in_use()
    if place is None or native.has_gpu_backend():
        return False
    head = max((size for size in HEADS if size <= head), default=HEADS[0])
    file = place / f"attention-{head}.json"
    if file not in _known:
        _known[file] = _kept(file) or _measured(file, head)
    return _known[file] >= SLOWER


def _kept(file: Path) -> float | None:
    """The ratio that was found for this library on this processor; None when there is none."""
    found = kept_json.read(file)
    try:
        if found["format"] != _FORMAT or found["key"] != verdicts.library_key():
            return None
        return float(found["ratio"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _measured(file: Path, head: int) -> float:
    """The ratio, measured now, and kept where something may be; 0 when it cannot be measured."""
    import tempfile  # 10 ms that only a measurement needs

    place, is_kept = file.parent, verdicts.may_keep()
    try:
        if is_kept:
            make_private(place)
        with (
            native_calls.own_errand("comparing two ways of attention"),
            tempfile.TemporaryDirectory(dir=place if is_kept else None, prefix="slm-attention-") as directory,
        ):
            found = ratio(Path(directory), head)
        if not is_kept:
            return found
        content = {"format": _FORMAT, "key": verdicts.library_key(), "ratio": round(found, 2), "found_at": time.time()}
        write_private(file, json.dumps(content, indent=1).encode())
    except (SlmError, OSError):  # read-only, full, or behind the seal of --private
        return 0.0
    return found


def ratio(directory: Path, head: int) -> float:
    """Time of a token with flash attention over that without, behind 512 tokens on one thread.

    A model of 3 to 12 MB, mostly a hole, is written to `directory`. Raises `SlmError` when llama.cpp refuses or is not
    done within ten seconds, `OSError` when the directory cannot be written.
    """
    file = directory / "attention.gguf"
    embedding = max(_LEAST_EMBEDDING, _LEAST_HEADS * head)
    tiny_model.write_llama(file, [tiny_model.Q8_0], embedding=embedding, feed_forward=_FEED_FORWARD, head=head)
    api = native.bindings()
    with Deadline(_SECONDS) as deadline, ExitStack() as stack:
        contexts = []
        for way in (api.LLAMA_FLASH_ATTN_TYPE_ENABLED, api.LLAMA_FLASH_ATTN_TYPE_DISABLED):
            opened = stack.enter_context(
                opened_context(file, 1, deadline, n_tokens=_DEPTH, n_ctx=2 * _DEPTH, flash_attention=way)
            )
            if opened is None:
                raise refused()
            contexts.append(opened[1])
            _seconds(api, opened[1], _DEPTH)
        flash, plain = contexts
        times = [(_seconds(api, flash, 1), _seconds(api, plain, 1)) for _ in range(_TURNS)]
        return min(one for one, _ in times) / min(other for _, other in times)


def _seconds(api: Any, context: Any, n_tokens: int) -> float:
    """Seconds that these tokens take. Raises `SlmError` when llama.cpp fails."""
    tokens = (api.llama_token * n_tokens)()
    start = time.perf_counter()
    if api.llama_decode(context, api.llama_batch_get_one(tokens, n_tokens)) != 0:
        raise refused()
    return time.perf_counter() - start
