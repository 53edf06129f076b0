"""LoRA adapters on a loaded model: small files that specialise it, each laid over the weights with a scale.

Knows: loading an adapter once for all sessions, what llama.cpp's refusals mean, setting scales on a context.
Refuses to know: where adapters come from, and whether a file is a GGUF at all (catalog/gguf.py has looked before).
"""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from slmchat.engine import native
from slmchat.engine.requests import Adapter
from slmchat.errors import ExitCode, SlmError


class Adapters:
    """The adapters that a model has loaded. They are freed with the model (llama.h, llama_adapter_lora_free)."""

    def __init__(self, api: ModuleType, model: Any) -> None:
        self._api = api
        self._model = model
        self._loaded: dict[tuple[Path, tuple[int, int]], Any] = {}

    def apply(self, context: Any, adapters: Sequence[Adapter]) -> None:
        """Let exactly these adapters count in a context from its next evaluation on.

        Raises `SlmError`: DAMAGED when a file is no adapter for this model. Then the context is as it was.
        """
        handles = [self._load(adapter) for adapter in adapters]
        if handles:
            array = (self._api.llama_adapter_lora_p_ctypes * len(handles))(
                *[ctypes.cast(handle, self._api.llama_adapter_lora_p_ctypes) for handle in handles]
            )
            scales = (ctypes.c_float * len(adapters))(*[adapter.scale for adapter in adapters])
            status = self._api.llama_set_adapters_lora(context, array, len(handles), scales)
        else:
            status = self._api.llama_set_adapters_lora(context, None, 0, None)
        if status != 0:
            raise SlmError(f"llama.cpp refused the adapters (status {status}).", exit_code=ExitCode.BUG)

    def _load(self, adapter: Adapter) -> Any:
        known = (adapter.path, adapter.stamp)
        if known not in self._loaded:
            native.clear_log()
            handle = self._api.llama_adapter_lora_init(self._model, os.fsencode(adapter.path))
            if not handle:
                raise _load_error(adapter.path)
            self._loaded[known] = handle
        return self._loaded[known]


def _load_error(path: Path) -> SlmError:
    said = next((line for line in reversed(native.log_lines()) if "failed" in line), "")
    reason = said.rpartition("failed to apply lora adapter: ")[2].strip().partition(" (hint")[0] or "no reason given"
    if "failed to allocate" in reason:
        return SlmError(
            f"the adapter {path.name} does not fit into the memory of this device beside the model.",
            hint="a smaller quantization of the model leaves more room",
            exit_code=ExitCode.NO_FIT,
        )
    return SlmError(
        f"llama.cpp cannot use the adapter {path.name} with this model: {reason}.",
        hint="its own page says which model it needs",
        exit_code=ExitCode.DAMAGED,
    )
