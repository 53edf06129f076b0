"""A GGUF loaded by llama.cpp (`LlamaEngine`) and one KV cache with its tokens (`LlamaSession`).

Knows: llama.cpp's low-level API, prefix reuse, cancelling inside a prefill, what native failures mean.
Refuses to know: conversations, chat templates' meaning, terminals, where files come from.

The decode loop is our own: one `llama_decode`, one sample and one piece per token, nothing copied, nothing
detokenized twice. The high-level `Llama` class is not used (docs/decisions.md says what it costs).
"""

import ctypes
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from slmchat.engine import native
from slmchat.engine.api import (
    Chunk,
    Event,
    Finish,
    FinishReason,
    Limits,
    ModelInfo,
    Prefill,
    Prompt,
    SessionSettings,
    Timings,
    Usage,
)
from slmchat.engine.sampler import SamplerSettings, build_chain
from slmchat.engine.text import CompletionText
from slmchat.engine.vocabulary import Vocabulary
from slmchat.errors import ExitCode, SlmError

# Tokens evaluated by one llama_decode of a prefill; also how often progress is reported.
BATCH_TOKENS = 512

# llama_decode: 0 done, 1 no place in the KV cache, 2 aborted by the callback, below 0 an error (llama.h)
_DECODE_NO_PLACE = 1
_DECODE_ABORTED = 2

_SEQUENCE = 0


class LlamaEngine:
    """A loaded model. Implements `Engine`."""

    def __init__(self, api: ModuleType, model: Any, path: Path) -> None:
        self._api = api
        self._model = model
        self.path = path
        self.vocabulary = Vocabulary(api, model)
        self.info = ModelInfo(
            architecture=self._metadata("general.architecture"),
            trained_context_length=api.llama_model_n_ctx_train(model),
            chat_template=_decoded(api.llama_model_chat_template(model, None)),
            bos_text=self.vocabulary.bos_text,
            eos_text=self.vocabulary.eos_text,
        )

    def count(self, prompt: Prompt) -> int:
        """Exact number of tokens of the prompt."""
        return len(self.vocabulary.tokenize(prompt))

    def open_session(self, settings: SessionSettings) -> "LlamaSession":
        """A new, empty session; raises `SlmError` (NO_FIT) when its memory cannot be had."""
        return LlamaSession(self._api, self._model, self.vocabulary, settings)

    def close(self) -> None:
        """Free the weights. Sessions must be closed before."""
        if self._model is not None:
            self._api.llama_model_free(self._model)
            self._model = None

    def _metadata(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(256)
        # int32_t llama_model_meta_val_str(model, const char * key, char * buf, size_t buf_size);
        size = self._api.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if size >= 0 else ""


def load(path: Path, *, gpu_layers: int | None = None) -> LlamaEngine:
    """Map the weights of a GGUF (the first part of a split one) into memory.

    `gpu_layers` None: as many as llama.cpp thinks fit. The header must have been checked before (catalog/gguf.py).
    Raises `SlmError`: DAMAGED for a file that llama.cpp refuses, NO_FIT when memory runs out.
    """
    api = native.bindings()
    native.clear_log()
    params = api.llama_model_default_params()
    if gpu_layers is not None:
        params.n_gpu_layers = gpu_layers
    model = api.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise _load_error(path)
    return LlamaEngine(api, model, path)


def _load_error(path: Path) -> SlmError:
    lines = native.log_lines()
    said = next(
        (line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else "no reason given"
    )
    if "unknown model architecture" in said:
        architecture = said.rpartition("architecture:")[2].strip(" '\"")
        return SlmError(
            f"{path.name} has the architecture '{architecture}', which the installed llama.cpp does not know.",
            hint="a newer slm may: update it",
            exit_code=ExitCode.DAMAGED,
        )
    if _is_out_of_memory(lines):
        return SlmError(
            f"{path.name} does not fit into the memory of this device.",
            hint="a smaller quantization or model may: slm list --available",
            exit_code=ExitCode.NO_FIT,
        )
    return SlmError(
        f"llama.cpp cannot load {path.name}: {said.rpartition('error loading model: ')[2].strip()}.",
        hint=f"check the file: slm verify, or pull it again; slm show {path} tells what its header says",
        exit_code=ExitCode.DAMAGED,
    )


def _is_out_of_memory(lines: Sequence[str]) -> bool:
    words = ("unable to allocate", "failed to allocate", "cannot allocate memory", "out of memory", "bad_alloc")
    return any(word in line.lower() for line in lines for word in words)


def _decoded(text: bytes | None) -> str | None:
    return text.decode("utf-8", "replace") if text else None


@dataclass(slots=True)
class _Run:
    """Counts and clocks of one generation."""

    start: float
    prompt_tokens: int
    cached: int
    seed: int
    prompt_end: float | None = None
    first_token: float | None = None

    def finish(self, reason: FinishReason, tokens: list[int], *, is_cut: bool) -> Finish:
        now = time.perf_counter()
        prompt_end = self.prompt_end if self.prompt_end is not None else now
        return Finish(
            reason=reason,
            usage=Usage(self.prompt_tokens, self.cached, len(tokens)),
            timings=Timings(
                prompt_s=prompt_end - self.start,
                generation_s=now - prompt_end,
                ttft_s=None if self.first_token is None else self.first_token - self.start,
            ),
            seed=self.seed,
            tokens=None if is_cut else tuple(tokens),
        )


class LlamaSession:
    """One KV cache and the tokens that are in it. Implements `Session`."""

    def __init__(self, api: ModuleType, model: Any, vocabulary: Vocabulary, settings: SessionSettings) -> None:
        self._api = api
        self._vocabulary = vocabulary
        self._is_cancelled = False
        self._n_ctx = settings.n_ctx
        self._tokens: list[int] = []  # what the KV cache holds, position by position
        self._is_unsure = False  # a llama_decode was left (KeyboardInterrupt) before `_tokens` followed
        self._n_swa: int = api.llama_model_n_swa(model)
        # bool (*ggml_abort_callback)(void * data);  kept here for as long as the context may call it
        self._abort = api.ggml_abort_callback(lambda _data: self._is_cancelled)
        self._no_abort = api.ggml_abort_callback()
        native.clear_log()
        self._context = api.llama_init_from_model(model, self._context_params(settings))
        if not self._context:
            raise SlmError(
                f"a context window of {settings.n_ctx:,} tokens does not fit into the memory of this device.",
                hint=f"try a smaller one: --ctx {max(256, settings.n_ctx // 2)}, or --kv-type q8_0",
                exit_code=ExitCode.NO_FIT,
            )
        self._memory = api.llama_get_memory(self._context)

    def _context_params(self, settings: SessionSettings) -> Any:
        api = self._api
        kv_type = {"f16": api.GGML_TYPE_F16, "q8_0": api.GGML_TYPE_Q8_0, "q4_0": api.GGML_TYPE_Q4_0}[settings.kv_type]
        params = api.llama_context_default_params()
        params.n_ctx = settings.n_ctx
        params.n_batch = params.n_ubatch = min(BATCH_TOKENS, settings.n_ctx)
        params.n_seq_max = 1
        params.n_threads = settings.threads
        params.n_threads_batch = settings.threads_batch
        params.type_k = params.type_v = kv_type
        params.swa_full = False  # a sliding window is kept small; _reuse() checks that what it needs is still there
        params.no_perf = True
        return params

    @property
    def n_ctx(self) -> int:
        """The context window in tokens, as asked for (llama.cpp itself rounds up to a multiple of 256)."""
        return self._n_ctx

    def cancel(self) -> None:
        """End the generation that is running; from any thread or a signal handler."""
        self._is_cancelled = True

    def close(self) -> None:
        """Free the KV cache."""
        if self._context is not None:
            self._api.llama_free(self._context)
            self._context = None

    def generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        """Evaluate the prompt and sample: `Prefill`* -> `Chunk`* -> `Finish`.

        A `cancel` counts from this call on, not only from the first record. Raises `SlmError`: CONTEXT when the
        prompt leaves no room for a completion, USAGE when it is empty, BUG when llama.cpp fails; the session stays
        usable.
        """
        self._is_cancelled = False
        return self._generate(prompt, sampler, limits)

    def _generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        start = time.perf_counter()
        tokens = self._vocabulary.tokenize(prompt)
        self._check_room(tokens)
        cached = self._reuse(tokens)
        settings = sampler.with_seed()
        run = _Run(start, len(tokens), cached, settings.seed or 0)
        yield Prefill(cached, len(tokens), cached)
        for done in self._prefill(tokens[cached:]):
            yield Prefill(cached + done, len(tokens), cached)
        run.prompt_end = time.perf_counter()
        if self._is_cancelled:
            yield run.finish(FinishReason.INTERRUPTED, [], is_cut=False)
            return
        chain = build_chain(self._api, self._vocabulary.n_tokens, settings)
        try:
            yield from self._decode(run, chain, limits)
        finally:
            self._api.llama_sampler_free(chain)

    def _decode(self, run: _Run, chain: Any, limits: Limits) -> Iterator[Event]:
        api, context, vocabulary = self._api, self._context, self._vocabulary
        text = CompletionText(limits.stop)
        completion: list[int] = []
        pending: list[int] = []
        shown = vocabulary.tokens_of(limits.shown)
        single = (api.llama_token * 1)()
        batch = api.llama_batch_get_one(single, 1)
        n_ctx = self._n_ctx
        while True:
            if self._is_cancelled:
                reason = FinishReason.INTERRUPTED
                break
            if limits.max_tokens is not None and len(completion) >= limits.max_tokens:
                reason = FinishReason.LENGTH
                break
            if len(self._tokens) >= n_ctx:
                reason = FinishReason.CONTEXT
                break
            if completion:
                single[0] = completion[-1]
                self._is_unsure = True
                self._evaluated(api.llama_decode(context, batch), completion[-1:])
            token = api.llama_sampler_sample(chain, context, -1)
            if run.first_token is None:
                run.first_token = time.perf_counter()
            if vocabulary.is_end(token):
                reason = FinishReason.STOP
                break
            completion.append(token)
            pending.append(token)
            piece = text.feed(vocabulary.piece(token, is_shown=token in shown))
            if piece:
                yield Chunk(piece, tuple(pending))
                pending.clear()
            if text.is_stopped:
                reason = FinishReason.STOP
                break
        rest = text.flush()
        if rest or pending:
            yield Chunk(rest, tuple(pending))
        yield run.finish(reason, completion, is_cut=text.is_stopped)

    def _check_room(self, tokens: list[int]) -> None:
        if not tokens:
            raise SlmError("the prompt is empty.", exit_code=ExitCode.USAGE)
        if len(tokens) >= self.n_ctx:
            raise SlmError(
                f"the prompt is {len(tokens):,} tokens and the context window holds {self.n_ctx:,}.",
                hint="a larger window: --ctx N; or a shorter prompt",
                exit_code=ExitCode.CONTEXT,
            )

    def _reuse(self, tokens: list[int]) -> int:
        """Cut the KV cache back to what it shares with `tokens`; the number of tokens that need no evaluation.

        The last token is always evaluated again: its logits are needed. A sliding-window cache has forgotten the
        cells before its window, and says so only through the smallest position it still holds; recurrent and hybrid
        models refuse to go back. Then everything is evaluated afresh.
        """
        if self._is_unsure:
            self._forget()
        shared = 0
        for old, new in zip(self._tokens, tokens[:-1], strict=False):
            if old != new:
                break
            shared += 1
        if shared < len(self._tokens):
            first = self._api.llama_memory_seq_pos_min(self._memory, _SEQUENCE)
            has_window = not self._n_swa or 0 <= first <= max(0, shared - self._n_swa)
            if not (shared and has_window and self._api.llama_memory_seq_rm(self._memory, _SEQUENCE, shared, -1)):
                self._forget()
                shared = 0
            del self._tokens[shared:]
        return shared

    def _forget(self) -> None:
        """Empty the KV cache."""
        self._api.llama_memory_clear(self._memory, True)
        self._tokens.clear()
        self._is_unsure = False

    def _prefill(self, tokens: list[int]) -> Iterator[int]:
        """Evaluate tokens in batches; yields how many are done. Ends early when cancelled.

        The abort callback is set only here: llama.cpp asks it before every node of the graph, about 600 calls into
        Python a token, which a prefill of hundreds of tokens does not notice and single-token decoding would.
        """
        api = self._api
        step = min(BATCH_TOKENS, self.n_ctx)
        api.llama_set_abort_callback(self._context, self._abort, None)
        try:
            for begin in range(0, len(tokens), step):
                piece = tokens[begin : begin + step]
                array = (api.llama_token * len(piece))(*piece)
                self._is_unsure = True
                self._evaluated(api.llama_decode(self._context, api.llama_batch_get_one(array, len(piece))), piece)
                if self._is_cancelled:
                    return
                yield begin + len(piece)
        finally:
            api.llama_set_abort_callback(self._context, self._no_abort, None)

    def _evaluated(self, status: int, tokens: list[int]) -> None:
        """Keep `_tokens` equal to what the KV cache holds after a llama_decode of `tokens`."""
        self._is_unsure = False
        if status == 0:
            self._tokens.extend(tokens)
            return
        if not self._api.llama_memory_seq_rm(self._memory, _SEQUENCE, len(self._tokens), -1):
            self._forget()
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
