"""One llama.cpp context: what it computes with, and which tokens its KV cache holds.

Knows: context parameters, evaluating tokens, going back to a shared prefix for every kind of memory, aborting inside a
prefill, what native failures mean. Refuses to know: text, sampling, when a generation ends (session.py).

`tokens` always equals what the KV cache holds, position by position: every call of llama_decode goes through here.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

from slmchat.engine import native
from slmchat.engine.api import SessionSettings
from slmchat.errors import ExitCode, SlmError

# Tokens evaluated by one llama_decode of a prefill; also how often progress is reported.
BATCH_TOKENS = 512

# llama_decode: 0 done, 1 no place in the KV cache, 2 aborted by the callback, below 0 an error (llama.h)
DECODE_NO_PLACE = 1
DECODE_ABORTED = 2

_SEQUENCE = 0


class Context:
    """A KV cache and the tokens in it, on a loaded model. Not for two threads at once."""

    def __init__(
        self, api: ModuleType, model: Any, settings: SessionSettings, is_cancelled: Callable[[], bool]
    ) -> None:
        """`is_cancelled` is asked inside a prefill. Raises `SlmError` (NO_FIT) when the memory cannot be had."""
        self._api = api
        self._is_cancelled = is_cancelled
        self.n_ctx = settings.n_ctx
        self.tokens: list[int] = []
        self._is_unsure = False  # a llama_decode was left (KeyboardInterrupt) before `tokens` followed
        self._n_swa: int = api.llama_model_n_swa(model)
        # bool (*ggml_abort_callback)(void * data);  kept here for as long as the context may call it
        self._abort = api.ggml_abort_callback(lambda _data: is_cancelled())
        self._no_abort = api.ggml_abort_callback()
        self._single = (api.llama_token * 1)()
        self._single_batch = api.llama_batch_get_one(self._single, 1)
        native.clear_log()
        self.handle = api.llama_init_from_model(model, context_params(api, settings))
        if not self.handle:
            raise SlmError(
                f"a context window of {settings.n_ctx:,} tokens does not fit into the memory of this device.",
                hint=f"try a smaller one: --ctx {max(256, settings.n_ctx // 2)}, or --kv-type q8_0",
                exit_code=ExitCode.NO_FIT,
            )
        self._memory = api.llama_get_memory(self.handle)

    def close(self) -> None:
        """Free the KV cache."""
        if self.handle is not None:
            self._api.llama_free(self.handle)
            self.handle = None

    def reuse(self, tokens: Sequence[int]) -> int:
        """Cut the KV cache back to what it shares with `tokens`; the number of tokens that need no evaluation.

        The last token is always evaluated again: its logits are needed. A sliding-window cache has forgotten the
        cells before its window, and says so only through the smallest position it still holds; recurrent and hybrid
        models refuse to go back. Then everything is evaluated afresh.
        """
        if self._is_unsure:
            self.forget()
        shared = 0
        for old, new in zip(self.tokens, tokens[:-1], strict=False):
            if old != new:
                break
            shared += 1
        if shared < len(self.tokens):
            first = self._api.llama_memory_seq_pos_min(self._memory, _SEQUENCE)
            has_window = not self._n_swa or 0 <= first <= max(0, shared - self._n_swa)
            if not (shared and has_window and self._api.llama_memory_seq_rm(self._memory, _SEQUENCE, shared, -1)):
                self.forget()
                shared = 0
            del self.tokens[shared:]
        return shared

    def forget(self) -> None:
        """Empty the KV cache."""
        self._api.llama_memory_clear(self._memory, True)
        self.tokens.clear()
        self._is_unsure = False

    def evaluate_one(self, token: int) -> None:
        """Evaluate one more token; its logits are those of index -1. Raises `SlmError` as `evaluate`."""
        self._single[0] = token
        self._is_unsure = True
        self._evaluated(self._api.llama_decode(self.handle, self._single_batch), (token,))

    def prefill(self, tokens: Sequence[int]) -> Iterator[int]:
        """Evaluate tokens in batches; yields how many are done. Ends early when cancelled.

        The abort callback is set only here: llama.cpp asks it before every node of the graph, about 600 calls into
        Python a token, which a prefill of hundreds of tokens does not notice and single-token decoding would.
        """
        step = min(BATCH_TOKENS, self.n_ctx)
        with self._abortable():
            for begin in range(0, len(tokens), step):
                self.evaluate(tokens[begin : begin + step])
                if self._is_cancelled():
                    return
                yield min(begin + step, len(tokens))

    def evaluate(self, tokens: Sequence[int]) -> None:
        """Evaluate up to a batch of tokens; the logits of the last one are those of index -1.

        Raises `SlmError`: CONTEXT when the window is full, BUG when llama.cpp fails; `tokens` stays true in any case.
        """
        array = (self._api.llama_token * len(tokens))(*tokens)
        self._is_unsure = True
        self._evaluated(self._api.llama_decode(self.handle, self._api.llama_batch_get_one(array, len(tokens))), tokens)

    @contextlib.contextmanager
    def _abortable(self) -> Iterator[None]:
        self._api.llama_set_abort_callback(self.handle, self._abort, None)
        try:
            yield
        finally:
            self._api.llama_set_abort_callback(self.handle, self._no_abort, None)

    def _evaluated(self, status: int, tokens: Sequence[int]) -> None:
        """Keep `tokens` equal to what the KV cache holds after a llama_decode."""
        self._is_unsure = False
        if status == 0:
            self.tokens.extend(tokens)
            return
        if not self._api.llama_memory_seq_rm(self._memory, _SEQUENCE, len(self.tokens), -1):
            self.forget()
        if status == DECODE_ABORTED:
            return
        if status == DECODE_NO_PLACE:
            raise SlmError(
                f"the context window of {self.n_ctx:,} tokens is full.",
                hint="a larger window: --ctx N",
                exit_code=ExitCode.CONTEXT,
            )
        raise decode_failed(status)


def check_room(n_tokens: int, n_ctx: int) -> None:
    """Raises `SlmError` when a prompt of this many tokens leaves no room for a completion: CONTEXT, USAGE if empty."""
    if not n_tokens:
        raise SlmError("the prompt is empty.", exit_code=ExitCode.USAGE)
    if n_tokens >= n_ctx:
        raise SlmError(
            f"the prompt is {n_tokens:,} tokens and the context window holds {n_ctx:,}.",
            hint="a larger window: --ctx N; or a shorter prompt",
            exit_code=ExitCode.CONTEXT,
        )


def decode_failed(status: int) -> SlmError:
    """The sentence for a llama_decode that answered with an error."""
    said = next(iter(reversed(native.log_lines())), "no reason given")
    return SlmError(f"llama.cpp failed while computing (status {status}): {said}.", exit_code=ExitCode.BUG)


def context_params(api: ModuleType, settings: SessionSettings) -> Any:
    """struct llama_context_params for these settings; one sequence."""
    kv_type = {"f16": api.GGML_TYPE_F16, "q8_0": api.GGML_TYPE_Q8_0, "q4_0": api.GGML_TYPE_Q4_0}[settings.kv_type]
    params = api.llama_context_default_params()
    params.n_ctx = settings.n_ctx
    params.n_batch = params.n_ubatch = min(BATCH_TOKENS, settings.n_ctx)
    params.n_seq_max = 1
    params.n_threads = settings.threads
    params.n_threads_batch = settings.threads_batch
    params.type_k = params.type_v = kv_type
    params.swa_full = False  # a sliding window is kept small; reuse() checks that what it needs is still there
    params.no_perf = True
    return params
