"""How fast this device generates, measured with llama.cpp itself on models of zeros, a few of them at a time.

Knows: which models of zeros tell most, how to time single tokens on them, and how to stop in the middle of one when
the time is over. Refuses to know: real models, where the result is kept (kept_throughput.py), the
equations that make rates of the times (fit/speed.py).

A copy loop in Python tells the memory bandwidth of a large block; what a token costs also depends on llama.cpp's
kernels for each weight type, on the length of rows and on the threads' barriers. So the kernels themselves are timed.

llama.cpp's threads wait by spinning. Where another program has one of their cores, each barrier waits for the scheduler
to give it back: one token then takes seconds. So the clock is looked at inside each token, not only between two.
"""

import ctypes
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import field
from pathlib import Path
from types import ModuleType
from typing import Any

from slmchat.engine import native, native_calls, tiny_model, verdicts
from slmchat.engine.callbacks import guarded
from slmchat.engine.throughput_points import LAYER, MODELS, Point
from slmchat.engine.tiny_model import WeightType
from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass

# Tokens timed for each model before the next one has its turn, and the fewest of which a median says something.
_TOKENS = 8
_TINY_TOKENS = 24
_FEWEST_TOKENS = 3
# No model is loaded any more after this share of the time: the rest is for timing those that are.
# Two of them take up to 300 MB.
_LOADING_SHARE = 0.4
_AT_ONCE = 2
# No fewer seconds: a thread's processor time may be counted in ticks of the scheduler, of up to 10 ms.
_LEAST_SECONDS = 0.06

# llama.cpp's threads wait by spinning: undisturbed they use all of the time of as many processors. The share of it
# below which another process was in the way: then two threads may wait a hundred times longer than they compute.
_QUIET_SHARE = 0.85
ABORTED = 2  # llama_decode: "aborted" (llama.h). Of context.py, whose modules `slm show` does without


# What is measured for all types of its kind, with enough layers that caches of usual processors do not hold them:
# (type, layers of the model with short rows, layers of that with long rows).
_MEASURED = {
    "Q8_0": (tiny_model.Q8_0, 20, 2),
    "Q4_K": (WeightType(12, 256, 144), 28, 3),
    "Q5_0": (WeightType(6, 32, 22), 24, 3),
}
_SHORT, _LONG = 512, 2048
_AT_A_TIME = 32
_TINY_LAYERS = 32


def measure(
    threads: int, directory: Path, wanted: Iterable[str] = MODELS, *, seconds: float, shrunk: int = 1
) -> dict[str, Point]:
    """Time llama.cpp on the first of these models, and on the next one where `seconds` allow; loading it counts.

    Ends within a few milliseconds of `seconds`, whatever else computes here; what is not done by then is left out, so
    that nothing may be found. `shrunk`: divides the layers, for a device that cannot load one model in that time.
    Files of up to 130 MB each, mostly holes, are written to `directory` and removed. Raises `SlmError` when llama.cpp
    is missing or refuses and when other programs compute meanwhile, `OSError` when the directory cannot be written.
    """
    import tempfile  # 10 ms that only a measurement needs

    with Deadline(seconds) as deadline, ExitStack() as stack:
        stack.enter_context(native_calls.own_errand("measuring the speed of this device"))
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=directory, prefix="pace-")))
        running: list[_Running] = []
        for name in wanted:
            if len(running) == _AT_ONCE or (running and deadline.spent > _LOADING_SHARE * seconds):
                break
            one = stack.enter_context(_opened(name, place, threads, shrunk, deadline))
            if one is None:
                break
            running.append(one)
        _time(running, threads, deadline)
        return {
            one.name: Point(one.bytes, one.rows, one.layers, one.median)
            for one in running
            if len(one.found) >= _FEWEST_TOKENS
        }


class Deadline:
    """A moment at which whatever llama.cpp does ends.

    llama.cpp asks an abort callback after each operation of a token: hundreds of times, in which a function of Python's
    would cost as much as what is measured. So it asks a function of C's that looks at one byte: `strlen` of a text
    that is empty until the time is over.
    """

    def __init__(self, seconds: float) -> None:
        self._start = time.perf_counter()
        self._seconds = seconds
        self._text = ctypes.create_string_buffer(2)
        self._timer = threading.Timer(seconds, self._ring)
        self._timer.daemon = True

    def __enter__(self) -> "Deadline":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _ring(self) -> None:
        self._text[0] = b"x"

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    @property
    def is_over(self) -> bool:
        return self._text[0] != b"\0" or self.spent >= self._seconds

    def hold(self, api: ModuleType, context: Any) -> None:
        """Let it end the tokens of this context."""
        # size_t strlen(const char * s); as bool (*ggml_abort_callback)(void * data): 1 is true
        strlen = (ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)).strlen
        callback = ctypes.cast(strlen, api.ggml_abort_callback)
        # void llama_set_abort_callback(ctx, ggml_abort_callback abort_callback, void * abort_callback_data);
        api.llama_set_abort_callback(context, callback, ctypes.cast(self._text, ctypes.c_void_p))


@dataclass(slots=True)
class _Running:
    """A model that is loaded and has computed one token, with what has been timed since."""

    name: str
    api: ModuleType
    context: Any
    bytes: int
    rows: int
    layers: int
    found: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return sorted(self.found)[len(self.found) // 2]

    def take_turn(self) -> None:
        """Time some tokens, fewer when the time is over."""
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), False)
        for _ in range(_TINY_TOKENS if self.name == LAYER else _TOKENS):
            seconds = self.token()
            if seconds is None:
                return
            self.found.append(seconds)

    def token(self) -> float | None:
        """Seconds of one token; None when the time was over."""
        token = (self.api.llama_token * 1)(1)
        start = time.perf_counter()
        status = self.api.llama_decode(self.context, self.api.llama_batch_get_one(token, 1))
        self.api.llama_synchronize(self.context)
        if status not in (0, ABORTED):
            raise refused()
        return time.perf_counter() - start if status == 0 else None


@contextmanager
def _opened(name: str, place: Path, threads: int, shrunk: int, deadline: Deadline) -> Iterator[_Running | None]:
    """One of `MODELS`, loaded; None when the time was over before it had computed a token."""
    file = place / f"{name}.gguf"
    if name == LAYER:
        layers = _TINY_LAYERS
        size, rows = tiny_model.write_llama(file, [tiny_model.Q8_0] * layers, embedding=64, feed_forward=128)
    else:
        type_name, _, length = name.partition(" ")
        kind, short_layers, long_layers = _MEASURED[type_name]
        embedding, layers = (_SHORT, short_layers) if length == "short" else (_LONG, long_layers)
        layers = max(1, layers // shrunk)
        size, rows = tiny_model.write_llama(file, [kind] * layers, embedding=embedding, feed_forward=4 * embedding)
    with opened_context(file, threads, deadline, n_tokens=_AT_A_TIME) as opened:
        if opened is None:
            yield None
            return
        running = _Running(name, *opened, size, rows, layers)
        yield running if running.token() is not None else None  # the first token allocates; it is no measure


@contextmanager
def opened_context(
    file: Path, threads: int, deadline: Deadline, *, n_tokens: int, n_ctx: int = 256, flash_attention: int | None = None
) -> Iterator[tuple[ModuleType, Any] | None]:
    """llama.cpp and a context on this model, on the processor, of which the `deadline` ends whatever it computes.

    `n_tokens`: so many are evaluated at once. `flash_attention`: a value of enum llama_flash_attn_type, None for
    llama.cpp's own choice. None when the time was over before it was loaded. Raises `SlmError` when
    llama.cpp is missing, broken here, or refuses.
    """
    verdict = verdicts.library().verdict  # before this process loads what may end it
    if verdict.is_broken:
        raise SlmError(f"llama.cpp {verdict.fault} on this machine.", exit_code=ExitCode.BUG)
    api, limits = native.bindings(), verdict.limits
    params = api.llama_model_default_params()
    params.n_gpu_layers = 0
    if native.has_gpu_backend():
        from slmchat.engine import devices

        chosen = devices.choose(devices.NO_DEVICE)  # a context on a GPU takes longer than all that is measured
        params.devices = ctypes.cast(chosen, ctypes.c_void_p)
    # typedef bool (*llama_progress_callback)(float progress, void * user_data); False ends the load
    progress = api.llama_progress_callback(guarded(lambda _progress, _data: not deadline.is_over, instead=False))
    params.progress_callback = progress
    with ExitStack() as stack:
        model = api.llama_model_load_from_file(str(file).encode(), limits.model_params(params))
        if not model and deadline.is_over:
            yield None
            return
        if not model:
            raise refused()
        stack.callback(api.llama_model_free, model)
        settings = api.llama_context_default_params()
        settings.n_ctx = n_ctx
        settings.n_batch = settings.n_ubatch = n_tokens
        settings.n_threads = settings.n_threads_batch = threads
        if flash_attention is not None:
            settings.flash_attn_type = flash_attention
        context = api.llama_init_from_model(model, limits.context_params(settings))
        if not context:
            raise refused()
        stack.callback(api.llama_free, context)
        deadline.hold(api, context)
        yield api, context


def _time(running: list[_Running], threads: int, deadline: Deadline) -> None:
    """Time tokens of these models; none where too little time was left. Raises `SlmError` when others computed."""
    start, used = time.perf_counter(), time.process_time()
    spent = 0.0
    while running and spent < _LEAST_SECONDS and not deadline.is_over:
        for one in running:
            one.take_turn()
        spent = time.perf_counter() - start
    if spent < _LEAST_SECONDS:
        for one in running:
            one.found.clear()
    elif (time.process_time() - used) / (spent * threads) < _QUIET_SHARE:
        raise SlmError("other programs keep the processor busy.", exit_code=ExitCode.BUG)


def refused() -> SlmError:
    """llama.cpp does not do what is asked of it, and says why."""
    said = native.last_said()
    return SlmError(f"the speed of this device could not be measured: {said}.", exit_code=ExitCode.BUG)
