"""Going back where the KV cache cannot: snapshots of one sequence, in memory.

A plain KV cache can be cut back to any length. A sliding-window cache has overwritten what lies before its window, and
a recurrent state (alone, or beside attention in hybrid models) has only its last position. What those lose is kept here
at the places that a conversation goes back to, as llama-server's context checkpoints do.

Knows: what kind of memory a context has, and the states at a few lengths. Refuses to know: which tokens they are
(context.py sees to it that a snapshot beyond a changed token is dropped).
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

# What snapshots may cost: a share of the weights, so that it stays small beside what the model takes anyway, but a few
# for the smallest models; and not more than a conversation needs for /undo and /retry of its last turns.
_SHARE_OF_WEIGHTS = 1 / 16
_BYTES_IN_ANY_CASE = 64 * 1024**2
_MOST = 8


def has_state(api: ModuleType, model: Any) -> bool:
    """Whether a model has a recurrent state, alone or beside attention: tokens cannot be taken back from that."""
    return bool(api.llama_model_is_recurrent(model) or api.llama_model_is_hybrid(model))


@dataclass(frozen=True, slots=True)
class _Snapshot:
    n_tokens: int
    data: Any  # ctypes array of bytes


class Snapshots:
    """The snapshots of one sequence of a context, and what kind of memory it has."""

    def __init__(self, api: ModuleType, model: Any, position: Callable[[int], int], sequence: int = 0) -> None:
        """`position`: at which position the token behind so many tokens stands (images may take fewer positions).

        `follow` says of which context.
        """
        self._api = api
        self._position = position
        self._sequence = sequence
        self._n_swa: int = api.llama_model_n_swa(model)
        self._has_state = has_state(api, model)
        self._most_bytes = max(_BYTES_IN_ANY_CASE, int(api.llama_model_size(model) * _SHARE_OF_WEIGHTS))
        self._kept: list[_Snapshot] = []

    def follow(self, handle: Any) -> None:
        """From now on it is this context, of the same model and settings: what was noted of another can be restored."""
        self._handle = handle
        self._memory = self._api.llama_get_memory(handle)

    @property
    def are_needed(self) -> bool:
        """Whether this memory cannot be cut back to any length."""
        return self._has_state or self._n_swa > 0

    @property
    def slack(self) -> int:
        """By how many tokens a state that was taken down can be cut back: its logits are not part of it, so the last
        token has to be evaluated again. A window still sees all that this token needs, a recurrent state does not."""
        return 0 if self._has_state else 1

    def usable(self, n_stored: int, n_same: int) -> int:
        """How many tokens can be used of a state of `n_stored` tokens of which the first `n_same` are wanted."""
        if not self.are_needed or (not self._has_state and n_stored <= self._n_swa):
            return min(n_stored, n_same)
        return n_same if n_stored - n_same <= self.slack else 0

    def reachable(self, n_held: int, n_same: int) -> int:
        """To how many tokens a sequence of `n_held` can be brought back, of which the first `n_same` are wanted.

        What `cut` and `go_back` would do, without doing it.
        """
        if n_same >= n_held or (not self._has_state and self._can_cut(n_same)):
            return min(n_held, n_same)
        near = (min(item.n_tokens, n_same) for item in self._kept if item.n_tokens - n_same <= self.slack)
        return max(near, default=0)

    def cut(self, n_tokens: int) -> bool:
        """Cut the sequence back to `n_tokens`, if what evaluation needs there is still held."""
        if not self._can_cut(n_tokens):
            return False
        return bool(self._api.llama_memory_seq_rm(self._memory, self._sequence, self._position(n_tokens), -1))

    def _can_cut(self, n_tokens: int) -> bool:
        """Whether the memory may be cut there, as far as that can be known before; a recurrent state says so itself."""
        if not n_tokens:
            return False
        position = self._position(n_tokens)
        if self._n_swa and not self._has_state:  # beside a recurrent state, that one decides
            # the next token sees the positions behind n_tokens - n_swa (llama_hparams::is_masked_swa)
            first = self._api.llama_memory_seq_pos_min(self._memory, self._sequence)
            return bool(0 <= first <= max(0, position - self._n_swa + 1))
        return True

    def go_back(self, n_tokens: int) -> int:
        """Restore the longest snapshot of at most `n_tokens` (within `slack`); the tokens then held, 0 for none."""
        for snapshot in sorted(self._kept, key=lambda item: -item.n_tokens):
            target = min(snapshot.n_tokens, n_tokens)
            if snapshot.n_tokens - target <= self.slack and self._restore(snapshot) and self.cut(target):
                return target
        return 0

    def mark(self, n_tokens: int, *, is_kept: bool, is_settled: bool = False) -> bool:
        """Note a place to come back to (if `is_kept`), with `n_tokens` evaluated; False: the state is lost.

        Unless `is_settled`, the cells of a sliding window are laid out as a restored state has them. Their order is the
        order in which flash attention adds them up: after this, what is computed is the same whether or not the state
        has been on the disk meanwhile.
        """
        is_settled = is_settled or not self._n_swa or n_tokens <= self._n_swa
        if not self.are_needed or not n_tokens or (is_settled and not is_kept):
            return True
        snapshot = self._taken(n_tokens)
        if snapshot is None:
            return True
        if is_kept:
            self._kept = [item for item in self._kept if item.n_tokens != n_tokens] + [snapshot]
            while len(self._kept) > _MOST or sum(len(item.data) for item in self._kept) > self._most_bytes:
                self._kept.pop(0)
        return is_settled or self._restore(snapshot)

    def adopt(self, other: "Snapshots") -> None:
        """Take over what was noted of another sequence, of which this one is a copy."""
        self._kept = list(other._kept)

    def exchange(self, other: "Snapshots") -> None:
        """What was noted of each goes to the other: their sequences have changed places."""
        self._kept, other._kept = other._kept, self._kept

    def drop_beyond(self, n_tokens: int) -> None:
        """Forget the snapshots of more than `n_tokens`: other tokens will stand there."""
        self._kept = [item for item in self._kept if item.n_tokens <= n_tokens]

    def _taken(self, n_tokens: int) -> _Snapshot | None:
        flags = self._api.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        size = self._api.llama_state_seq_get_size_ext(self._handle, self._sequence, flags)
        if not 0 < size <= self._most_bytes:
            return None
        data = (ctypes.c_uint8 * size)()
        # size_t llama_state_seq_get_data_ext(ctx, uint8_t * dst, size_t size, llama_seq_id, llama_state_seq_flags);
        written = self._api.llama_state_seq_get_data_ext(self._handle, data, size, self._sequence, flags)
        return _Snapshot(n_tokens, data) if written == size else None

    def _restore(self, snapshot: _Snapshot) -> bool:
        # size_t llama_state_seq_set_data_ext(ctx, const uint8_t * src, size_t size, llama_seq_id, flags);
        flags = self._api.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        size = len(snapshot.data)
        read = self._api.llama_state_seq_set_data_ext(self._handle, snapshot.data, size, self._sequence, flags)
        return bool(read == size)
