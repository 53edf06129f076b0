"""A GGUF loaded by llama.cpp (`LlamaEngine`).

What computes with it (a session, a pool …) is imported when the first one is opened: the weights can be on their way to
memory before.

Knows: loading weights, what the model says of itself, what a failed load means.
Refuses to know: conversations, chat templates' meaning, terminals, where files come from, generating (session.py).
"""

import ctypes
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from slmchat.engine import attention_trial, devices, native, threads, verdicts
from slmchat.engine.adapters import Adapters
from slmchat.engine.api import ModelInfo
from slmchat.engine.grammars import ReadGrammars
from slmchat.engine.kvstore import StateKey
from slmchat.engine.limits import EngineLimits
from slmchat.engine.loaded import LoadedModel, model_metadata
from slmchat.engine.parallelism import KV_BYTES, plan_cells, plan_streams
from slmchat.engine.requests import Prompt, SessionSettings
from slmchat.engine.snapshots import has_state
from slmchat.engine.vocabulary import Vocabulary
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.hardware import memory

if TYPE_CHECKING:
    from slmchat.engine.context import Context
    from slmchat.engine.embedding import LlamaEmbedder
    from slmchat.engine.pool import LlamaPool
    from slmchat.engine.scoring import LlamaScorer
    from slmchat.engine.session import LlamaSession
    from slmchat.engine.speculation import Drafts
    from slmchat.engine.stream_pool import LlamaStreamPool
    from slmchat.engine.text_logits import LlamaTextLogits
    from slmchat.engine.vision import Projector, Vision

# Of the memory that could be had now, what the scores of attention may take. They are only written to as far as the
# window is filled.
_SCORES_SHARE = 0.25


class LlamaEngine:
    """A loaded model. Implements `Engine`."""

    def __init__(
        self,
        api: ModuleType,
        model: Any,
        path: Path,
        started: threads.Sample,
        limits: EngineLimits,
        vision: "Vision | None" = None,
    ) -> None:
        """`started`: as `LoadedModel` has it."""
        self._is_closed = False
        self.limits = limits
        self._vision = vision
        self.path = path
        file = path.stat()
        self._stamp = (file.st_size, file.st_mtime_ns, api.llama_model_size(model))
        self.vocabulary = Vocabulary(api, model, vision, tokenizer=model_metadata(api, model, "tokenizer.ggml.pre"))
        self.loaded = LoadedModel(api, model, self.vocabulary, Adapters(api, model), started, ReadGrammars(api))
        self.info = ModelInfo(
            architecture=model_metadata(api, model, "general.architecture"),
            trained_context_length=api.llama_model_n_ctx_train(model),
            chat_template=_decoded(api.llama_model_chat_template(model, None)),
            bos_text=self.vocabulary.bos_text,
            eos_text=self.vocabulary.eos_text,
            infill=self.vocabulary.infill,
        )

    def count(self, prompt: Prompt, most: int | None = None) -> int:
        """Exact number of tokens of the prompt; of a very long one `AtLeast` so many, where those are above `most`."""
        return self.vocabulary.count(prompt, most)

    def open_session(self, settings: SessionSettings) -> "LlamaSession":
        """A new, empty session; raises `SlmError`: NO_FIT when its memory cannot be had, DAMAGED for an adapter."""
        from slmchat.engine.session import LlamaSession

        settings = self._settled(settings, max(settings.n_ctx, settings.most_ctx))
        drafts = self._drafts(settings)
        try:
            return LlamaSession(self.loaded, settings, self._state_key(settings), drafts)
        except SlmError:
            if drafts is not None:
                drafts.close()
            raise

    def open_context(self, settings: SessionSettings, is_cancelled: Callable[[], bool]) -> "Context":
        """A KV cache of its own without a session, for drafts; raises `SlmError` (NO_FIT)."""
        from slmchat.engine.context import Context

        return Context(self.loaded.api, self.loaded.model, self._settled(settings, settings.n_ctx), is_cancelled)

    def _drafts(self, settings: SessionSettings) -> "Drafts | None":
        """Where guesses come from: the small model that was asked for, else the conversation; None: nowhere."""
        if settings.speculation == "off":
            return None
        from slmchat.engine.speculation import PromptDrafts

        if settings.draft_model is None:
            return PromptDrafts()
        from slmchat.engine import draft_model

        small = load(settings.draft_model)
        try:
            if not small.vocabulary.is_same(self.vocabulary):
                raise _other_vocabulary(small.path, self.path)
            return draft_model.ModelDrafts(small.loaded, small.open_context(settings, lambda: False), small.close)
        except SlmError:
            small.close()
            raise

    def _state_key(self, settings: SessionSettings) -> StateKey:
        """The file, the library's build and everything about a context that its state depends on.

        Not the size of the context window: a state is valid in any that holds it.
        """
        cells = (settings.kv_type, settings.flash_attention)
        return StateKey(self.path, repr((self._stamp, native.build(), cells)))

    def open_pool(self, settings: SessionSettings, parallel: int | None = None) -> "LlamaPool":
        """Up to `parallel` completions at once; raises `SlmError` (NO_FIT) when their memory cannot be had."""
        from slmchat.engine.pool import LlamaPool

        settings = self.limits.session(settings)
        available = memory.available().value
        plan = plan_cells(settings.n_ctx, parallel, self._cell_bytes(settings.kv_type), available)
        settings = self._without_slow_attention(settings, plan.cells, available)
        return LlamaPool(self.loaded, settings, plan, self._state_key(settings))

    def open_stream_pool(self, settings: SessionSettings, parallel: int | None = None) -> "LlamaStreamPool":
        """`parallel` completions that are read while they come; raises `SlmError` (NO_FIT) when memory runs out."""
        from slmchat.engine.stream_pool import LlamaStreamPool

        settings = self.limits.session(settings)
        api, model = self.loaded.api, self.loaded.model
        cell_bytes, available = self._cell_bytes(settings.kv_type), memory.available().value
        # of a sliding window there is a second cache, whose cells are few anyway
        can_split = not has_state(api, model) and not api.llama_model_n_swa(model)
        plan = plan_streams(settings.n_ctx, parallel, cell_bytes, available, can_split=can_split)
        settings = self._without_slow_attention(settings, plan.cells, available)
        return LlamaStreamPool(self.loaded, settings, plan, self._state_key(settings))

    def embedder(self, settings: SessionSettings, *, is_cut: bool = False) -> "LlamaEmbedder":
        """Texts to vectors. `settings.n_ctx` has no say: the context is as large as the texts need."""
        from slmchat.engine.embedding import LlamaEmbedder

        settings = self.limits.session(settings)
        return LlamaEmbedder(self.loaded.api, self.loaded.model, self.vocabulary, settings, is_cut=is_cut)

    def open_scorer(self, settings: SessionSettings) -> "LlamaScorer":
        """A pool for requests with choices; raises `SlmError` (NO_FIT) when its memory cannot be had."""
        from slmchat.engine.scoring import LlamaScorer

        settings = self._settled(settings, settings.n_ctx)
        return LlamaScorer(self.loaded, settings, self._state_key(settings))

    def open_text_logits(self, settings: SessionSettings) -> "LlamaTextLogits":
        """What tells all logits of a text; raises `SlmError` (NO_FIT) when its memory cannot be had."""
        from slmchat.engine.text_logits import LlamaTextLogits

        return LlamaTextLogits(self.loaded, self.limits.session(settings))

    def close(self) -> None:
        """Free the weights. Sessions must be closed before."""
        if self._vision is not None:
            self._vision.close()
        if not self._is_closed:
            self._is_closed = True
            self.loaded.grammars.close()
            self.loaded.api.llama_model_free(self.loaded.model)

    def _settled(self, settings: SessionSettings, n_cells: int) -> SessionSettings:
        """Within the limits of this machine, and with the faster way of attention."""
        return self._without_slow_attention(self.limits.session(settings), n_cells, memory.available().value)

    def _without_slow_attention(
        self, settings: SessionSettings, n_cells: int, available: int | None
    ) -> SessionSettings:
        """Without flash attention where that is the slower way here, nobody has said which, and the scores of plain
        attention have room in the `available` bytes (f32: ggml.h, ggml_mul_mat)."""
        if settings.flash_attention is not None or settings.kv_type != "f16":  # V is quantized with it alone
            return settings
        scores = 4 * settings.batch_tokens * n_cells * self.loaded.api.llama_model_n_head(self.loaded.model)
        if available is None or scores > _SCORES_SHARE * available:
            return settings
        if not attention_trial.is_slower(self._head_sizes()[0]):
            return settings
        return replace(settings, flash_attention=False)

    def _cell_bytes(self, kv_type: str) -> float:
        """Bytes that one token takes in the KV cache: keys and values of every layer (0 where there are none)."""
        api, model = self.loaded.api, self.loaded.model
        per_head = sum(self._head_sizes())
        return float(api.llama_model_n_layer(model) * api.llama_model_n_head_kv(model) * per_head * KV_BYTES[kv_type])

    def _head_sizes(self) -> tuple[int, int]:
        """Numbers of the keys and of the values of each head."""
        api, model = self.loaded.api, self.loaded.model
        plain = api.llama_model_n_embd(model) // max(1, api.llama_model_n_head(model))
        key, value = (
            model_metadata(api, model, f"{self.info.architecture}.attention.{kind}_length") for kind in ("key", "value")
        )
        return int(key) if key.isdecimal() else plain, int(value) if value.isdecimal() else plain


def load(
    path: Path,
    *,
    gpu_layers: int | None = None,
    device: str | None = None,
    is_repacked: bool = True,
    is_lazy: bool = False,
    projector: "Projector | None" = None,
    begins: Callable[[], None] = lambda: None,
) -> LlamaEngine:
    """Map the weights of a GGUF (the first part of a split one) into memory.

    `gpu_layers` None: as many as llama.cpp thinks fit. `device`: on these GPUs only, as `devices.choose` takes them.
    `is_repacked` False: no weights are copied into a layout that computes faster, so that all of them can be dropped
    from memory and read from the file again. `is_lazy`: per-layer embeddings (Gemma 4) stay on the disk and are read
    row by row; otherwise llama.cpp leaves only those above 4 GiB there. `projector`: the file that lets the model see;
    it is read when the first image comes. What does not work on this machine (verdicts.py) is left out, whatever is
    asked for. The header must have been checked before (catalog/gguf.py).
    `begins` is called when all that is left is llama.cpp's work, which needs none of Python.
    Raises `SlmError`: DAMAGED for a file that llama.cpp refuses, NO_FIT when memory runs out.
    """
    started = threads.sample()
    api = native.bindings()
    native.clear_log()
    params = api.llama_model_default_params()
    if gpu_layers is not None:
        params.n_gpu_layers = gpu_layers
    if device is not None:
        chosen = devices.choose(device)  # kept until the load has read it
        params.devices = ctypes.cast(chosen, ctypes.c_void_p)
    params.use_extra_bufts = is_repacked
    if is_lazy:
        params.lazy_mode = api.LLAMA_LAZY_MODE_ON
    limits = verdicts.limits_of(path)
    begins()
    model = api.llama_model_load_from_file(os.fsencode(path), limits.model_params(params))
    if not model:
        raise _load_error(path)
    vision = None
    if projector is not None:
        from slmchat.engine.vision import Vision

        vision = Vision(api, model, projector, limits)
    return LlamaEngine(api, model, path, started, limits, vision)


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
    if native.is_out_of_memory():
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


def _other_vocabulary(small: Path, target: Path) -> SlmError:
    return usage_error(
        f"{small.name} cannot draft for {target.name}: their vocabularies differ.",
        "a smaller model of the same family and generation shares the vocabulary",
    )


def _decoded(text: bytes | None) -> str | None:
    return text.decode("utf-8", "replace") if text else None
