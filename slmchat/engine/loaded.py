"""What everything that computes with a loaded model holds of it.

Knows: which four things those are. Refuses to know: what is done with them.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from slmchat.engine.adapters import Adapters
from slmchat.engine.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """llama.cpp's functions, the model's handle, its tokenizer and the LoRA adapters loaded for it."""

    api: ModuleType
    model: Any
    vocabulary: Vocabulary
    adapters: Adapters
