"""One llama.cpp context: what it computes with, and which tokens its KV cache holds.

Knows: context parameters, evaluating tokens, going back to a shared prefix, its state in a file, aborting inside a
prefill, what native failures mean. Refuses to know: text, sampling, when a generation ends (session.py).

`tokens` always equals what the KV cache holds, token by token: every call of llama_decode goes through here. An image
is there as the numbers that stand for it (image_tokens.py), so that a shared prefix is found across images, too.
"""

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from slmchat.engine import native, sequence_state
from slmchat.engine.callbacks import guarded, raise_interrupt
from slmchat.engine.image_tokens import batches, is_image_token, whole
from slmchat.engine.kvstore import shared_length
from slmchat.engine.requests import Prompt, SessionSettings
from slmchat.engine.results import AtLeast
from slmchat.engine.snapshots import Snapshots, has_state
from slmchat.engine.speculation import SIZES
from slmchat.engine.vision import Vision
from slmchat.engine.vocabulary import Vocabulary
from slmchat.errors import ExitCode, SlmError, usage_error

# Tokens evaluated by one llama_decode of a prefill when images may come: some models see a whole one at once.
IMAGE_BATCH_TOKENS = 512

# Before the first graph has been counted: the share of its nodes that compute something. The others (views, reshapes)
# are not asked about. 0.55 for SmolLM2 135M and Gemma 3 270M, 0.57 for a model of two layers.
_COMPUTED_NODES = 0.55

# llama_decode: 0 done, 1 no place in the KV cache, 2 aborted by the callback, below 0 an error (llama.h)
DECODE_NO_PLACE = 1
DECODE_ABORTED = 2

_SEQUENCE = 0


class Context:
    """A KV cache and the tokens in it, on a loaded model. Not for two threads at once."""

    def __init__(
        self,
        api: ModuleType,
        model: Any,
        settings: SessionSettings,
        is_cancelled: Callable[[], bool],
        vision: Vision | None = None,
    ) -> None:
        """`is_cancelled` is asked inside a prefill; `vision` knows which tokens stand for images.

        Raises `SlmError` (NO_FIT) when the memory cannot be had.
        """
        self._api = api
        self._model = model
        self._settings = settings
        self._is_cancelled = is_cancelled
        self._vision = vision
        self._has_gpu = native.has_gpu_backend()
        batch = settings.batch_tokens if vision is None else max(settings.batch_tokens, IMAGE_BATCH_TOKENS)
        self.batch_tokens = min(batch, settings.n_ctx)
        self.tokens: list[int] = []
        self.is_unsure = False  # a llama_decode was left (KeyboardInterrupt) before `tokens` followed
        self._n_running = 0  # tokens of the llama_decode that runs in a prefill
        self._n_nodes_done = 0  # of its graph
        self._n_nodes = 0.0  # of a whole graph, as far as they are computed
        # bool (*ggml_abort_callback)(void * data);  kept here for as long as the context may call it
        self._abort = api.ggml_abort_callback(guarded(self._next_node, instead=True))
        self._no_abort = api.ggml_abort_callback()
        self._single = (api.llama_token * 1)()
        self._single_batch = api.llama_batch_get_one(self._single, 1)
        self._draft_batch: Any = None  # made when the first draft is verified
        self.threads = settings.threads
        self._most_threads = (settings.threads, settings.threads_batch)
        vocab = api.llama_model_get_vocab(model)
        self._row_bytes = ctypes.sizeof(ctypes.c_float) * api.llama_vocab_n_tokens(vocab)
        self.can_take_back = not has_state(api, model)
        self.snapshots = Snapshots(api, model, self._position, _SEQUENCE)
        self._open(settings.n_ctx)

    def _open(self, n_ctx: int) -> None:
        """Make an empty KV cache for so many tokens. Raises `SlmError` (NO_FIT); then there is none."""
        api, settings = self._api, replace(self._settings, n_ctx=n_ctx)
        native.clear_log()
        self.handle = api.llama_init_from_model(self._model, context_params(api, settings, self.batch_tokens))
        if not self.handle:
            self.handle = None
            raise refused_kv_type(settings) or SlmError(
                f"a context window of {n_ctx:,} tokens does not fit into the memory of this device.",
                hint=f"try a smaller one: --ctx {max(256, n_ctx // 2)}, or --kv-type q8_0",
                exit_code=ExitCode.NO_FIT,
            )
        self.n_ctx = n_ctx
        self._n_nodes = _COMPUTED_NODES * native.n_graph_nodes()
        self._memory = api.llama_get_memory(self.handle)
        self.snapshots.follow(self.handle)
        threads, self.threads = self.threads, settings.threads
        self.set_threads(threads)

    def grow(self) -> bool:
        """Twice the window, up to `most_ctx` of the settings, with all that is held; False: it stays as it is.

        The state moves as a copy and nothing is evaluated again, but the logits of the last evaluation are lost, and
        LoRA adapters have to be applied anew. The old cache is freed before the new one is made: what is needed at a
        time is the copy and the new one. Raises `SlmError`: NO_FIT when not even the old size can be had again, BUG
        when llama.cpp does not take its own state.
        """
        if self.n_ctx >= self._settings.most_ctx:
            return False
        size = self.state_size()
        data = (ctypes.c_uint8 * size)()
        # size_t llama_state_seq_get_data_ext(ctx, uint8_t * dst, size_t size, llama_seq_id, llama_state_seq_flags);
        if self._api.llama_state_seq_get_data_ext(self.handle, data, size, _SEQUENCE, 0) != size:
            return False
        before = self.n_ctx
        self._api.llama_free(self.handle)
        self.handle = None
        try:
            self._open(min(2 * before, self._settings.most_ctx))
        except SlmError:
            self._open(before)
        # size_t llama_state_seq_set_data_ext(ctx, const uint8_t * src, size_t size, llama_seq_id, flags);
        if self._api.llama_state_seq_set_data_ext(self.handle, data, size, _SEQUENCE, 0) != size:
            self.forget()
            raise SlmError("llama.cpp did not take its own state into another window.", exit_code=ExitCode.BUG)
        return self.n_ctx > before

    def close(self) -> None:
        """Free the KV cache."""
        if self._draft_batch is not None:
            self._api.llama_batch_free(self._draft_batch)
            self._draft_batch = None
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
        shared = whole(tokens, min(same, len(tokens) - 1))
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
        return sequence_state.state_size(self._api, self.handle, _SEQUENCE)

    def save(self, path: Path) -> bool:
        """Write the state with its tokens to an existing file, without a copy in memory; False when that fails."""
        return sequence_state.save(self._api, self.handle, _SEQUENCE, self.tokens, path)

    def load(self, path: Path, tokens: Sequence[int]) -> bool:
        """Take over a state that was saved with these tokens; False, and an empty KV cache, when it does not fit."""
        self.forget()
        if not sequence_state.load(self._api, self.handle, _SEQUENCE, tokens, path):
            self.forget()
            return False
        self.tokens.extend(tokens)
        return True

    def _remove_from(self, n_tokens: int) -> bool:
        """Take everything behind the first `n_tokens` out of the KV cache; False when that cannot be done."""
        return bool(self._api.llama_memory_seq_rm(self._memory, _SEQUENCE, self._position(n_tokens), -1))

    def _position(self, n_tokens: int) -> int:
        """The position of the token behind the first `n_tokens`: an image may take fewer positions than tokens."""
        return n_tokens if self._vision is None else n_tokens - self._vision.surplus(self.tokens[:n_tokens])

    def evaluate_one(self, token: int) -> None:
        """Evaluate one more token; its logits are those of index -1. Raises `SlmError` as `evaluate`."""
        if self.tokens and is_image_token(self.tokens[-1]):  # llama.cpp cannot know at which position an image ended
            self.evaluate((token,))
            return
        self._single[0] = token
        self.is_unsure = True
        self._evaluated(self._api.llama_decode(self.handle, self._single_batch), (token,))

    def evaluate_draft(self, tokens: Sequence[int]) -> None:
        """Evaluate some tokens, at most `speculation.SIZES[-1]`; the logits of each have its index.

        Raises `SlmError` as `evaluate`.
        """
        if self._draft_batch is None:
            # struct llama_batch llama_batch_init(int32_t n_tokens, int32_t embd, int32_t n_seq_max);
            self._draft_batch = self._api.llama_batch_init(SIZES[-1], 0, 1)
        batch, begin = self._draft_batch, self._position(len(self.tokens))
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = begin + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = _SEQUENCE
            batch.logits[index] = True
        self.is_unsure = True
        self._evaluated(self._api.llama_decode(self.handle, batch), tokens)

    def logits(self, index: int) -> bytes:
        """The logits of the last batch's token `index`, as they lie in memory."""
        # float * llama_get_logits_ith(struct llama_context * ctx, int32_t i);
        return ctypes.string_at(self._api.llama_get_logits_ith(self.handle, index), self._row_bytes)

    def take_back(self, n_kept: int) -> None:
        """Let the KV cache hold only the first `n_kept` tokens; those taken back must be ones just evaluated.

        A sliding window has lost nothing by them: llama.cpp reuses only cells outside the window of the first of them.
        """
        if n_kept >= len(self.tokens):
            return
        kept = self.tokens[:n_kept]
        if self._remove_from(n_kept):
            self.tokens = kept
        else:
            self.forget()
            self.can_take_back = False
            for _ in self._evaluate_all(kept):
                pass

    def set_threads(self, threads: int) -> None:
        """Generate with so many threads from here on, and read prompts with as large a part of theirs."""
        if threads != self.threads:
            most, most_batch = self._most_threads
            # void llama_set_n_threads(struct llama_context * ctx, int32_t n_threads, int32_t n_threads_batch);
            self._api.llama_set_n_threads(self.handle, threads, max(1, round(most_batch * threads / most)))
            self.threads = threads

    def prefill(self, tokens: Sequence[int]) -> Iterator[int]:
        """Evaluate tokens in batches; yields how many are done. Ends early when cancelled.

        The abort callback is set only here: llama.cpp asks it before every node of the graph, about 600 calls into
        Python a token, which a prefill of hundreds of tokens does not notice and single-token decoding would.
        """
        with self._abortable():
            for done in self._evaluate_all(tokens):
                if self._is_cancelled():
                    return
                yield done

    def n_evaluated(self) -> float:
        """Tokens that the KV cache holds, with the share of those that are being evaluated; from any thread."""
        share = min(self._n_nodes_done / self._n_nodes, 0.99) if self._n_nodes else 0.0
        return len(self.tokens) + self._n_running * share

    def _next_node(self, _data: int | None) -> bool:
        """Called by llama.cpp inside a prefill, before each node of the graph: True ends it."""
        self._n_nodes_done += 1
        return self._is_cancelled()

    def _evaluate_all(self, tokens: Sequence[int]) -> Iterator[int]:
        for begin, end in batches(tokens, self.batch_tokens):
            if is_image_token(tokens[begin]):
                self._evaluate_image(tokens[begin:end])
            else:
                self._n_nodes_done, self._n_running = 0, end - begin
                self.evaluate(tokens[begin:end])
                self._n_running = 0
                if self._n_nodes_done and not self._is_cancelled():
                    self._n_nodes = self._n_nodes_done
            yield end

    def evaluate(self, tokens: Sequence[int]) -> None:
        """Evaluate up to a batch of tokens; the logits of the last one are those of index -1.

        Raises `SlmError`: CONTEXT when the window is full, BUG when llama.cpp fails; `tokens` stays true in any case.
        """
        array = (self._api.llama_token * len(tokens))(*tokens)
        batch = self._api.llama_batch_get_one(array, len(tokens))
        first = self._position(len(self.tokens))
        if first != len(self.tokens):
            batch.pos = (self._api.llama_pos * len(tokens))(*range(first, first + len(tokens)))
        self.is_unsure = True
        self._evaluated(self._api.llama_decode(self.handle, batch), tokens)

    def _evaluate_image(self, tokens: Sequence[int]) -> None:
        """Evaluate what the projector makes of the image that these tokens stand for; nothing when cancelled.

        Raises `SlmError` as `evaluate`, and what the projector raises.
        """
        assert self._vision is not None
        seen = self._vision.see(tokens[0], self._position(len(self.tokens)), self._is_cancelled)
        if seen is None:
            return
        step = self.batch_tokens
        if seen.is_non_causal and len(tokens) > step:  # llama.cpp would end the process
            raise SlmError(
                f"an image takes {len(tokens):,} tokens at once, and this context window evaluates at most {step:,}.",
                hint="a larger window: --ctx N; or a smaller image",
                exit_code=ExitCode.CONTEXT,
            )
        self._api.llama_set_causal_attn(self.handle, not seen.is_non_causal)
        try:
            for begin in range(0, len(tokens), step):
                piece = tokens[begin : begin + step]
                self.is_unsure = True
                self._evaluated(self._api.llama_decode(self.handle, seen.batch(begin, len(piece))), piece)
                if self._is_cancelled():
                    return
        finally:
            self._api.llama_set_causal_attn(self.handle, True)

    @contextlib.contextmanager
    def _abortable(self) -> Iterator[None]:
        self._api.llama_set_abort_callback(self.handle, self._abort, None)
        try:
            yield
        finally:
            self._api.llama_set_abort_callback(self.handle, self._no_abort, None)

    def _evaluated(self, status: int, tokens: Sequence[int]) -> None:
        """Keep `tokens` equal to what the KV cache holds after a llama_decode.

        A GPU computes on after llama_decode has returned. It is waited for here: so every time that is measured holds
        the work it is about, and somebody who leaves a prompt does not wait for batches that are only queued.
        """
        if self._has_gpu:
            self._api.llama_synchronize(self.handle)
        self.is_unsure = False
        if status == 0:
            self.tokens.extend(tokens)
            return
        if not self._remove_from(len(self.tokens)):
            self.forget()
        if status == DECODE_ABORTED:
            if not self._is_cancelled():
                raise_interrupt()
            return
        if status == DECODE_NO_PLACE:
            raise window_full(self.n_ctx)
        raise decode_failed(status)


def tokens_within(vocabulary: Vocabulary, prompt: Prompt, n_ctx: int) -> list[int]:
    """The tokens of a prompt that leaves room for a completion.

    Raises `SlmError`: as `check_room`, at once for many MB, which take a minute to tokenize; as `Vocabulary.tokenize`.
    """
    if (least := vocabulary.least_tokens(prompt)) >= n_ctx:
        check_room(AtLeast(least), n_ctx)
    tokens = vocabulary.tokenize(prompt)
    check_room(len(tokens), n_ctx)
    return tokens


def check_room(n_tokens: int, n_ctx: int) -> None:
    """Raises `SlmError` when a prompt of this many tokens leaves no room for a completion: CONTEXT, USAGE if empty."""
    if not n_tokens:
        raise usage_error("the prompt is empty.")
    if n_tokens >= n_ctx:
        raise SlmError(
            f"the prompt is {n_tokens:,} tokens and the context window holds {n_ctx:,}.",
            hint="a larger window: --ctx N; or a shorter prompt",
            exit_code=ExitCode.CONTEXT,
        )


def window_full(n_ctx: int) -> SlmError:
    """What is said when a prompt with its completion has no place any more."""
    return SlmError(
        f"the context window of {n_ctx:,} tokens is full.", hint="a larger window: --ctx N", exit_code=ExitCode.CONTEXT
    )


def decode_failed(status: int) -> SlmError:
    """The sentence for a llama_decode that answered with an error."""
    said = native.last_said()
    return SlmError(f"llama.cpp failed while computing (status {status}): {said}.", exit_code=ExitCode.BUG)


def refused_kv_type(settings: SessionSettings) -> SlmError | None:
    """Why llama.cpp has just refused a context, if that was the type of its KV cache: the heads of a small model can
    be shorter than the 32 numbers of a block (llama-context.cpp, llama_init_from_model). None: it was something else.
    """
    if not any("does not divide n_embd_head" in line for line in native.log_lines()):
        return None
    return usage_error(
        f"this model cannot have a KV cache of {settings.kv_type}: its attention heads are no multiple of 32 numbers.",
        "--kv-type f16",
    )


def context_params(api: ModuleType, settings: SessionSettings, batch: int) -> Any:
    """struct llama_context_params for these settings; one sequence, `batch` tokens of a prefill at once."""
    kv_type = {"f16": api.GGML_TYPE_F16, "q8_0": api.GGML_TYPE_Q8_0, "q4_0": api.GGML_TYPE_Q4_0}[settings.kv_type]
    params = api.llama_context_default_params()
    params.n_ctx = settings.n_ctx
    params.n_batch = params.n_ubatch = batch
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
