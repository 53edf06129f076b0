"""The child process of the self-test: it computes with llama.cpp, and may die of it.

Knows: how to compute a few tokens with a model under given limits, and to tell each result before the next attempt.
Refuses to know: what is tried in which order, what the results mean (self_test.py).

It reads one line of JSON, a job, and writes one line for each step. Nothing of a conversation is in it.
"""

import array
import contextlib
import ctypes
import json
import math
import signal
import sys
from typing import Any

from slmchat.engine import native
from slmchat.engine.limits import EngineLimits

# Logits of each token that are told: those of the whole vocabulary of slm's own tiny model.
_LOGITS = 256

_N_CTX = 256

_PR_SET_DUMPABLE = 4  # linux/prctl.h
_SEM_QUIET = 0x8003  # errhandlingapi.h: FAILCRITICALERRORS, NOGPFAULTERRORBOX, NOOPENFILEERRORBOX


def main() -> None:
    """Do the job on standard input."""
    job = json.loads(sys.stdin.readline())
    _be_quiet(job["seconds"])
    try:
        _tell(begins=True)
        api = native.bindings()
        _tell(library=str(api._lib._name))
        for run in job["runs"]:
            limits = EngineLimits(**run)
            _tell(logits=_computed(api, job["model"], limits, job["threads"], job["prompt"], job["tokens"]))
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent tells it
        _tell(error=" ".join(str(error).split())[:300])
        sys.exit(1)


def _tell(**answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _be_quiet(seconds: float) -> None:
    """A crash here is an answer: no core file, no report, no window. And no orphan that computes for ever."""
    if sys.platform == "win32":
        ctypes.windll.kernel32.SetErrorMode(_SEM_QUIET)
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):  # a smaller limit is in force
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds / 2), resource.RLIM_INFINITY))
    if sys.platform.startswith(("linux", "android")):
        # int prctl(int op, unsigned long arg2, ...);  no limit keeps systemd-coredump or apport from a dump, this does
        ctypes.CDLL(None).prctl(
            _PR_SET_DUMPABLE, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)
        )
    signal.alarm(math.ceil(seconds) + 5)


def _computed(api: Any, path: str, limits: EngineLimits, threads: int, n_prompt: int, n_tokens: int) -> list[float]:
    """The first logits behind a prompt and behind each token after it. Raises `RuntimeError`."""
    params = api.llama_model_default_params()
    params.n_gpu_layers = 999
    with contextlib.ExitStack() as stack:
        model = api.llama_model_load_from_file(path.encode(), limits.model_params(params))
        if not model:
            raise RuntimeError(f"the model was refused: {native.last_said()}")
        stack.callback(api.llama_model_free, model)
        settings = api.llama_context_default_params()
        settings.n_ctx = _N_CTX
        settings.n_batch = settings.n_ubatch = max(n_prompt, 8)
        settings.n_threads = settings.n_threads_batch = threads
        context = api.llama_init_from_model(model, limits.context_params(settings))
        if not context:
            raise RuntimeError(f"the context was refused: {native.last_said()}")
        stack.callback(api.llama_free, context)
        n_vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
        found: list[float] = []
        for first, count in ((0, n_prompt), *((n_prompt + number, 1) for number in range(n_tokens))):
            tokens = (api.llama_token * count)(*((1 + 7 * n) % n_vocabulary for n in range(first, first + count)))
            status = api.llama_decode(context, api.llama_batch_get_one(tokens, count))
            # float * llama_get_logits_ith(struct llama_context * ctx, int32_t i);
            logits = api.llama_get_logits_ith(context, -1) if status == 0 else None
            if not logits:
                raise RuntimeError(f"llama_decode failed with status {status}: {native.last_said()}")
            size = min(_LOGITS, n_vocabulary) * ctypes.sizeof(ctypes.c_float)
            found += array.array("f", ctypes.string_at(logits, size))
        return found
