"""One llama.cpp context: what it computes with, and which tokens its KV cache holds.

Knows: context parameters, evaluating tokens, going back to a shared prefix, its state in a file, aborting inside a
prefill, what native failures mean. Refuses to know: text, sampling, when a generation ends (session.py).

`tokens` always equals what the KV cache holds, position by position: every call of llama_decode goes through here.
"""

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from slmchat.engine import native
from slmchat.engine.api import SessionSettings
from slmchat.engine.kvstore import shared_length
from slmchat.engine.snapshots import Snapshots
from slmchat.errors import ExitCode, SlmError

# Tokens evaluated by one llama_decode of a prefill; also how often progress is reported.
BATCH_TOKENS = 512

# llama_decode: 0 done, 1 no place in the KV cache, 2 aborted by the callback, below 0 an error (llama.h)
_DECODE_NO_PLACE = 1
_DECODE_ABORTED = 2

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
        self.is_unsure = False  # a llama_decode was left (KeyboardInterrupt) before `tokens` followed
        # bool (*ggml_abort_callback)(void * data);  kept here for as long as the context may call it
        self._abort = api.ggml_abort_callback(lambda _data: is_cancelled())
        self._no_abort = api.ggml_abort_callback()
        self._single = (api.llama_token * 1)()
        self._single_batch = api.llama_batch_get_one(self._single, 1)
        native.clear_log()
        self.handle = api.llama_init_from_model(model, _params(api, settings))
        if not self.handle:
            raise SlmError(
                f"a context window of {settings.n_ctx:,} tokens does not fit into the memory of this device.",
                hint=f"try a smaller one: --ctx {max(256, settings.n_ctx // 2)}, or --kv-type q8_0",
                exit_code=ExitCode.NO_FIT,
            )
        self._memory = api.llama_get_memory(self.handle)
        self.snapshots = Snapshots(api, model, self.handle, _SEQUENCE)

    def close(self) -> None:
        """Free the KV cache."""
        if self.handle is not None:
            self._api.llama_free(self.handle)
            self.handle = None

    def reuse(self, tokens: Sequence[int]) -> int:
        """Cut the KV cache back to what it shares with `tokens`; the number of tokens that need no evaluation.

        The last token is always evaluated again: its logits are needed. Where the memory cannot be cut there, the
        longest snapshot before it is restored; without one, everything is evaluated afresh.
        """
        if self.is_unsure:
            self.forget()
        same = shared_length(self.tokens, tokens)
        shared = min(same, len(tokens) - 1)
        if shared < len(self.tokens):
            self.snapshots.drop_beyond(same)
            if not self.snapshots.cut(shared):
                shared = self.snapshots.go_back(shared)
            if not shared:
                self.forget()
            del self.tokens[shared:]
        return shared

    def forget(self) -> None:
        """Empty the KV cache."""
        self._api.llama_memory_clear(self._memory, True)
        self.snapshots.drop_beyond(0)
        self.tokens.clear()
        self.is_unsure = False

    def state_size(self) -> int:
        """Bytes of the state as `save` writes it, without the tokens."""
        return int(self._api.llama_state_seq_get_size(self.handle, _SEQUENCE))

    def save(self, path: Path) -> bool:
        """Write the state with its tokens to an existing file, without a copy in memory; False when that fails."""
        array = (self._api.llama_token * len(self.tokens))(*self.tokens)
        # size_t llama_state_seq_save_file(ctx, const char * filepath, llama_seq_id, const llama_token *, size_t);
        name = os.fsencode(path)
        return bool(self._api.llama_state_seq_save_file(self.handle, name, _SEQUENCE, array, len(self.tokens)))

    def load(self, path: Path, tokens: Sequence[int]) -> bool:
        """Take over a state that was saved with these tokens; False, and an empty KV cache, when it does not fit."""
        self.forget()
        held = (self._api.llama_token * len(tokens))()
        count = ctypes.c_size_t()
        # size_t llama_state_seq_load_file(ctx, filepath, dest_seq_id, tokens_out, n_token_capacity, n_token_count_out);
        read = self._api.llama_state_seq_load_file(
            self.handle, os.fsencode(path), _SEQUENCE, held, len(held), ctypes.byref(count)
        )
        if not read or held[: count.value] != list(tokens):
            self.forget()
            return False
        self.tokens.extend(tokens)
        return True

    def evaluate_one(self, token: int) -> None:
        """Evaluate one more token; its logits are those of index -1. Raises `SlmError` as `evaluate`."""
        self._single[0] = token
        self.is_unsure = True
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
        self.is_unsure = True
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
        self.is_unsure = False
        if status == 0:
            self.tokens.extend(tokens)
            return
        if not self._api.llama_memory_seq_rm(self._memory, _SEQUENCE, len(self.tokens), -1):
            self.forget()
        if status == _DECODE_ABORTED:
            return
        if status == _DECODE_NO_PLACE:
            raise SlmError(
                f"the context window of {self.n_ctx:,} tokens is full.",
                hint="a larger window: --ctx N",
                exit_code=ExitCode.CONTEXT,
            )
        said = next(iter(reversed(native.log_lines())), "no reason given")
        raise SlmError(f"llama.cpp failed while computing (status {status}): {said}.", exit_code=ExitCode.BUG)


def _params(api: ModuleType, settings: SessionSettings) -> Any:
    """struct llama_context_params for these settings; one sequence."""
    kv_type = {"f16": api.GGML_TYPE_F16, "q8_0": api.GGML_TYPE_Q8_0, "q4_0": api.GGML_TYPE_Q4_0}[settings.kv_type]
    params = api.llama_context_default_params()
    params.n_ctx = settings.n_ctx
    params.n_batch = params.n_ubatch = min(BATCH_TOKENS, settings.n_ctx)
    params.n_seq_max = 1
    params.n_threads = settings.threads
    params.n_threads_batch = settings.threads_batch
    params.type_k = params.type_v = kv_type
    params.flash_attn_type = {
        None: api.LLAMA_FLASH_ATTN_TYPE_AUTO,
        True: api.LLAMA_FLASH_ATTN_TYPE_ENABLED,
        False: api.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    }[settings.flash_attention]
    params.swa_full = False  # a sliding window is kept small; snapshots.py keeps what going back needs
    params.no_perf = True
    return params
