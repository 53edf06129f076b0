"""How fast this device generates, measured with llama.cpp itself on models of zeros, in about half a second.

Knows: how to write a GGUF whose weights are a hole in the file, how to time single tokens on it, the equations that
make rates of the times (fit/speed.py has the formula). Refuses to know: real models, where the result is kept.

A copy loop in Python tells the memory bandwidth of a large block; what a token costs also depends on llama.cpp's
kernels for each weight type, on the length of rows and on the threads' barriers. So the kernels themselves are timed.
"""

import os
import statistics
import struct
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmchat.engine import crash_report, native
from slmchat.errors import ExitCode, SlmError

# Tokens timed for each model, and seconds after which there are no more; the median counts.
_TOKENS = 8
_TINY_TOKENS = 24
_SECONDS = 0.15
# No fewer seconds: a thread's processor time may be counted in ticks of the scheduler, of up to 10 ms.
_LEAST_SECONDS = 0.06

# llama.cpp's threads wait by spinning: undisturbed they use all of the time of as many processors. The share of it
# below which another process was in the way: then two threads may wait a hundred times longer than they compute.
_QUIET_SHARE = 0.85
_VOCABULARY = 256
_HEAD = 64

_F32 = 0


@dataclass(frozen=True, slots=True)
class _Type:
    """A weight type: its number in ggml.h, elements and bytes of a block."""

    number: int
    block: int
    block_bytes: int


# What is measured for all types of its kind, with enough layers that caches of usual processors do not hold them:
# (type, layers of the model with short rows, layers of that with long rows).
_MEASURED = {
    "Q8_0": (_Type(8, 32, 34), 20, 2),
    "Q4_K": (_Type(12, 256, 144), 28, 3),
    "Q5_0": (_Type(6, 32, 22), 24, 3),
}
_SHORT, _LONG = 512, 2048


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds that a layer costs; for each kind bytes a second and seconds a row."""

    layer_seconds: float
    rates: dict[str, tuple[float, float]]


def measure(threads: int, directory: Path) -> Measured:
    """Time llama.cpp on this device. Files of up to 130 MB, mostly holes, are written to `directory` and removed.

    Raises `SlmError` when llama.cpp is missing or refuses and when other programs compute meanwhile, `OSError` when the
    directory cannot be written.
    """
    errand = crash_report.own_errand("measuring the speed of this device")
    with errand, tempfile.TemporaryDirectory(dir=directory, prefix="pace-") as place:
        file = Path(place, "zeros.gguf")
        tiny_layers = 32
        _write(file, _Type(8, 32, 34), layers=tiny_layers, embedding=64, feed_forward=128)
        layer = _token(file, threads, _TINY_TOKENS) / tiny_layers
        rates = {}
        for name, (kind, short_layers, long_layers) in _MEASURED.items():
            points = []
            for embedding, layers in ((_SHORT, short_layers), (_LONG, long_layers)):
                size, rows = _write(file, kind, layers=layers, embedding=embedding, feed_forward=4 * embedding)
                points.append((size, rows, max(1e-6, _token(file, threads, _TOKENS) - layers * layer)))
            rates[name] = solved(points[0], points[1])
    return Measured(layer, rates)


def solved(short: tuple[int, int, float], long: tuple[int, int, float]) -> tuple[float, float]:
    """Bytes a second and seconds a row, from (bytes, rows, seconds) of two models.

    Two equations, bytes / rate + rows * cost = seconds. A noisy machine can make one of them negative: then rows cost
    nothing, and the rate is the slower of the two.
    """
    (bytes_1, rows_1, seconds_1), (bytes_2, rows_2, seconds_2) = short, long
    determinant = bytes_1 * rows_2 - bytes_2 * rows_1
    inverse = (seconds_1 * rows_2 - seconds_2 * rows_1) / determinant
    cost = (bytes_1 * seconds_2 - bytes_2 * seconds_1) / determinant
    if inverse <= 0 or cost < 0:
        return min(bytes_1 / seconds_1, bytes_2 / seconds_2), 0.0
    return 1 / inverse, cost


def _token(file: Path, threads: int, tokens: int) -> float:
    """Seconds of a single token: the median of some. Raises `SlmError` when others had the processors meanwhile."""
    api = native.bindings()
    params = api.llama_model_default_params()
    params.n_gpu_layers = 0
    model = api.llama_model_load_from_file(str(file).encode(), params)
    if not model:
        raise _refused()
    try:
        settings = api.llama_context_default_params()
        settings.n_ctx = 256
        settings.n_batch = settings.n_ubatch = 32
        settings.n_threads = settings.n_threads_batch = threads
        context = api.llama_init_from_model(model, settings)
        if not context:
            raise _refused()
        try:
            _timed(api, context)  # allocates; is no measure
            start, used = time.perf_counter(), time.process_time()
            found = [_timed(api, context)]
            while (spent := time.perf_counter() - start) < _SECONDS and (len(found) < tokens or spent < _LEAST_SECONDS):
                found.append(_timed(api, context))
            if (time.process_time() - used) / (spent * threads) < _QUIET_SHARE:
                raise SlmError("other programs keep the processor busy.", exit_code=ExitCode.BUG)
            return statistics.median(found)
        finally:
            api.llama_free(context)
    finally:
        api.llama_model_free(model)


def _timed(api: Any, context: Any) -> float:
    token = (api.llama_token * 1)(1)
    start = time.perf_counter()
    status = api.llama_decode(context, api.llama_batch_get_one(token, 1))
    api.llama_synchronize(context)
    if status != 0:
        raise _refused()
    return time.perf_counter() - start


def _refused() -> SlmError:
    said = next(iter(reversed(native.log_lines())), "no reason given")
    return SlmError(f"the speed of this device could not be measured: {said}.", exit_code=ExitCode.BUG)


def _write(file: Path, kind: _Type, *, layers: int, embedding: int, feed_forward: int) -> tuple[int, int]:
    """A Llama of zeros; bytes and rows of its matrices."""
    heads = embedding // _HEAD
    keys = max(1, heads // 4) * _HEAD
    matrices = (
        ("attn_q", embedding, embedding), ("attn_k", embedding, keys), ("attn_v", embedding, keys),
        ("attn_output", embedding, embedding), ("ffn_gate", embedding, feed_forward),
        ("ffn_up", embedding, feed_forward), ("ffn_down", feed_forward, embedding),
    )  # fmt: skip
    whole = _Type(_F32, 1, 4)
    tensors = [("token_embd", embedding, _VOCABULARY, whole), ("output_norm", embedding, 0, whole)]
    for layer in range(layers):
        tensors += [(f"blk.{layer}.{name}", embedding, 0, whole) for name in ("attn_norm", "ffn_norm")]
        tensors += [(f"blk.{layer}.{name}", row, rows, _fitting(kind, row)) for name, row, rows in matrices]
    keys_values: dict[str, int | float | str] = {
        "general.architecture": "llama", "tokenizer.ggml.model": "no_vocab", "llama.vocab_size": _VOCABULARY,
        "llama.context_length": 256, "llama.embedding_length": embedding, "llama.block_count": layers,
        "llama.feed_forward_length": feed_forward, "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": keys // _HEAD, "llama.rope.dimension_count": _HEAD,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
    }  # fmt: skip
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys_values)))
    for key, value in keys_values.items():
        out += _text(key) + _value(value)
    offset = total_bytes = total_rows = 0
    for name, row, rows, type_ in tensors:
        shape = (row, rows) if rows else (row,)
        size = row * max(1, rows) // type_.block * type_.block_bytes
        out += _text(name + ".weight") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, type_.number, offset)
        offset += -(-size // 32) * 32
        if rows and name != "token_embd":
            total_bytes, total_rows = total_bytes + size, total_rows + rows
    out += bytes(-len(out) % 32)
    with open(file, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as stream:
        stream.write(out)
        stream.truncate(len(out) + offset)
    return total_bytes, total_rows


def _fitting(kind: _Type, row: int) -> _Type:
    """The type, or 8 bits where its blocks do not divide the rows (the tiny model)."""
    return kind if row % kind.block == 0 else _MEASURED["Q8_0"][0]


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: int | float | str) -> bytes:
    """A value with its type (gguf.h: 4 is uint32, 6 float32, 8 a string)."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    return struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)
