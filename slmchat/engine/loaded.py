"""What everything that computes with a loaded model holds of it.

Knows: which six things those are, what a model says of itself. Refuses to know: what is done with them.
"""

import ctypes
from types import ModuleType
from typing import Any

from slmchat.engine.adapters import Adapters
from slmchat.engine.grammars import ReadGrammars
from slmchat.engine.threads import Sample
from slmchat.engine.vocabulary import Vocabulary
from slmchat.lazy_dataclasses import dataclass


def model_metadata(api: ModuleType, model: Any, key: str) -> str:
    """What the file of a model says under this key; "" where it says nothing."""
    buffer = ctypes.create_string_buffer(256)
    # int32_t llama_model_meta_val_str(model, const char * key, char * buf, size_t buf_size);
    size = api.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace") if size >= 0 else ""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """llama.cpp's functions, the model's handle, its tokenizer, the LoRA adapters and the grammars loaded for it.

    `started`: processor time before it was loaded, by which whoever computes with it tells who else does.
    """

    api: ModuleType
    model: Any
    vocabulary: Vocabulary
    adapters: Adapters
    started: Sample
    grammars: ReadGrammars
