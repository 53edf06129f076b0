"""The state of one sequence of a context, in a file of llama.cpp's own format, written and read without a copy.

Refuses to know: which state is worth a file and how it is found again (kvstore.py).
"""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


def state_size(api: ModuleType, context: Any, sequence: int) -> int:
    """Bytes of the state as `save` writes it, without the tokens."""
    return int(api.llama_state_seq_get_size(context, sequence))


def save(api: ModuleType, context: Any, sequence: int, tokens: Sequence[int], path: Path) -> bool:
    """Write the state of a sequence, which holds these tokens, to an existing file; False when that fails."""
    array = (api.llama_token * len(tokens))(*tokens)
    # size_t llama_state_seq_save_file(ctx, const char * filepath, llama_seq_id, const llama_token *, size_t);
    return bool(api.llama_state_seq_save_file(context, os.fsencode(path), sequence, array, len(tokens)))


def load(api: ModuleType, context: Any, sequence: int, tokens: Sequence[int], path: Path) -> bool:
    """Take over a state that was saved with these tokens; False when it is not that, or there is no place for it.

    Then nobody knows what the sequence holds: the caller has to empty it.
    """
    held = (api.llama_token * len(tokens))()
    count = ctypes.c_size_t()
    # size_t llama_state_seq_load_file(ctx, filepath, dest_seq_id, tokens_out, n_token_capacity, n_token_count_out);
    read = api.llama_state_seq_load_file(context, os.fsencode(path), sequence, held, len(held), ctypes.byref(count))
    return bool(read) and held[: count.value] == list(tokens)
