"""The state of one sequence of a context: in memory, and in a file of llama.cpp's own format, without a copy.

A split cache has a buffer for each sequence. The state of one then names them all, with no cells for the others, and
fits only into a cache of as many. In a file it is what a cache in one piece would have written: sessions, batches and
servers of any size know what the others have read.

Refuses to know: which state is worth a file and how it is found again (kvstore.py).
"""

import ctypes
import os
import struct
from array import array
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from slmchat.errors import ExitCode, SlmError


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


# What llama_state_seq_get_data puts before a state: a magic number and the sequence (llama-context.cpp); what
# llama_state_seq_save_file does: 'ggsq', a version, a count of tokens, the tokens. A state itself begins with the
# number of buffers, and each buffer with its number of cells (llama-kv-cache.cpp, state_write).
_IN_MEMORY = 8
_IN_FILE = struct.Struct("<III")
_MAGIC = 0x67677371
_NUMBER = struct.Struct("<I")


def read(api: ModuleType, context: Any, sequence: int) -> Any:
    """The whole state of a sequence, in memory. Raises `SlmError` (BUG)."""
    size = state_size(api, context, sequence)
    data = (ctypes.c_uint8 * size)()
    # size_t llama_state_seq_get_data(struct llama_context * ctx, uint8_t * dst, size_t size, llama_seq_id seq_id);
    if api.llama_state_seq_get_data(context, data, size, sequence) != size:
        raise _cannot_move()
    return data


def write(api: ModuleType, context: Any, sequence: int, data: Any) -> None:
    """Let an empty sequence hold this state, of the same context. Raises `SlmError` (BUG)."""
    # size_t llama_state_seq_set_data(struct llama_context * ctx, const uint8_t * src, size_t size, llama_seq_id);
    if not api.llama_state_seq_set_data(context, data, len(data), sequence):
        raise _cannot_move()


def is_plain(api: ModuleType, context: Any, n_split: int) -> bool:
    """Whether states of this split cache are what is known here: one cache, a buffer for each of its sequences."""
    return state_size(api, context, 0) == _IN_MEMORY + _NUMBER.size * (1 + n_split)


def save_split(api: ModuleType, context: Any, sequence: int, n_split: int, tokens: Sequence[int], path: Path) -> bool:
    """As `save`, of one sequence of a split cache."""
    data = memoryview(read(api, context, sequence)).cast("B")
    begin = _IN_MEMORY + _NUMBER.size * (1 + sequence)
    end = len(data) - _NUMBER.size * (n_split - 1 - sequence)
    try:
        with path.open("wb") as file:
            file.write(_IN_FILE.pack(_MAGIC, api.LLAMA_STATE_SEQ_VERSION, len(tokens)))
            file.write(array("i", tokens).tobytes())
            file.write(_NUMBER.pack(1))
            file.write(data[begin:end])
    except OSError:
        return False
    return True


def load_split(api: ModuleType, context: Any, sequence: int, n_split: int, tokens: Sequence[int], path: Path) -> bool:
    """As `load`, into one sequence of a split cache."""
    head = bytes(memoryview(read(api, context, sequence)).cast("B")[:_IN_MEMORY])
    before = head + _NUMBER.pack(n_split) + bytes(_NUMBER.size * sequence)
    behind = bytes(_NUMBER.size * (n_split - 1 - sequence))
    try:
        with path.open("rb") as file:
            begun = file.read(_IN_FILE.size)
            if begun != _IN_FILE.pack(_MAGIC, api.LLAMA_STATE_SEQ_VERSION, len(tokens)):
                return False
            if file.read(4 * len(tokens)) != array("i", tokens).tobytes() or file.read(4) != _NUMBER.pack(1):
                return False
            length = path.stat().st_size - file.tell()
            data = (ctypes.c_uint8 * (len(before) + length + len(behind)))()
            view = memoryview(data).cast("B")
            view[: len(before)] = before
            if file.readinto(view[len(before) : len(before) + length]) != length:
                return False
    except OSError:
        return False
    return bool(api.llama_state_seq_set_data(context, data, len(data), sequence))


def _cannot_move() -> SlmError:
    return SlmError("llama.cpp cannot copy the state of a sequence.", exit_code=ExitCode.BUG)
