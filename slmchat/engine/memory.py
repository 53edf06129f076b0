"""What a session need not evaluate again: its KV cache, snapshots of it, and states on disk.

Knows: when the store is asked, where a prefill stops so that the state there can be kept, what is worth a file.
Refuses to know: how a context evaluates and goes back (context.py, snapshots.py), how files are found (kvstore.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import field

from slmchat.engine.context import Context
from slmchat.engine.image_tokens import whole
from slmchat.engine.kvstore import MARGIN, MIN_TOKENS, REWRITING_GROWTH, SHARED, KvStore, StateKey, shared_length
from slmchat.lazy_dataclasses import dataclass

# Between two messages only what nobody notices is written (30 ms for 60 MB), and only when the state has grown enough
# (`REWRITING_GROWTH`). The rest is written at the end.
_RESTING_BYTES = 128 * 1024**2


@dataclass(slots=True)
class _Kept:
    """What is on the disk of this session's state."""

    owner: str = ""
    tokens: list[int] = field(default_factory=list)


class SessionMemory:
    """The memory of one session."""

    def __init__(self, context: Context, store: KvStore | None, key: StateKey, *, is_multi_turn: bool) -> None:
        """`is_multi_turn`: more than one generation will follow, so that snapshots pay."""
        self._context = context
        self._store = store
        self._key = key
        self._goes_back = is_multi_turn
        self._kept = _Kept()

    def depend_on(self, key: StateKey) -> None:
        """From now on what is computed depends on this, and nothing of it is on the disk yet."""
        self._key = key
        self._kept = _Kept()

    def reuse(self, tokens: Sequence[int]) -> int:
        """Bring the context to the longest known beginning of `tokens`; how many of them need no evaluation."""
        context = self._context
        held = context.reuse(tokens)
        is_loaded = False
        if self._store is not None and len(tokens) - 1 - held >= MIN_TOKENS:
            known = tokens[:-1]  # the last one is evaluated in any case
            found = self._store.find(self._key, known, self._usable, held + MIN_TOKENS)
            if found is not None:
                is_loaded = context.load(found.path, found.tokens)
                if is_loaded:
                    self._kept = _Kept(found.owner, found.tokens)
                else:
                    self._store.remove(found)
                context.reuse(tokens)
        self._mark(is_settled=is_loaded)
        return len(context.tokens)

    def prefill(self, tokens: Sequence[int], cache_hints: Sequence[Sequence[int]]) -> Iterator[int]:
        """Evaluate what is missing of `tokens`; yields how many of them are there. Ends early when cancelled.

        `cache_hints`: other prompts that may come; what they share with this one is kept for them. A prefill always
        stops there, store or not, so that the same prompt is evaluated in the same batches whatever is known.
        """
        shared = sorted({whole(tokens, shared_length(tokens, other) - MARGIN) for other in cache_hints})
        shared = [length for length in shared if len(self._context.tokens) < length < len(tokens)]
        stops = [*shared, *self._last_stops(whole(tokens, len(tokens) - 1), shared), len(tokens)]
        for stop in stops:
            missing = tokens[len(self._context.tokens) : stop]
            begin = len(self._context.tokens)
            for done in self._context.prefill(missing):
                yield begin + done
            if len(self._context.tokens) < stop:  # cancelled
                return
            if stop in shared:
                self._keep_shared(is_longest=stop == shared[-1])
                self._mark()
            elif self._goes_back:
                self._mark(is_settled=True)

    def keep(self, owner: str, *, is_resting: bool) -> None:
        """Store the state for `owner`, as far as that is worth it. `is_resting`: only if nobody notices it."""
        context = self._context
        tokens = context.tokens
        if self._store is None or context.is_unsure or len(tokens) < MIN_TOKENS:
            return
        is_known = self._kept.owner == owner
        if is_known and tokens == self._kept.tokens:
            return
        size = context.state_size()
        has_grown = not is_known or len(tokens) >= REWRITING_GROWTH * len(self._kept.tokens)
        if is_resting and (size > _RESTING_BYTES or not has_grown):
            return
        if self._store.put(self._key, owner, tokens, size, context.save) is not None:
            self._kept = _Kept(owner, list(tokens))

    def _usable(self, n_stored: int, n_same: int) -> int:
        return self._context.snapshots.usable(n_stored, n_same) if n_stored <= self._context.n_ctx else 0

    def _mark(self, *, is_settled: bool = False) -> None:
        context = self._context
        if not context.snapshots.mark(len(context.tokens), is_kept=self._goes_back, is_settled=is_settled):
            context.forget()

    def _last_stops(self, last: int, shared: Sequence[int]) -> list[int]:
        """Before the last token (at `last`), where a state cannot be cut back by it to compute its logits again."""
        is_needed = self._goes_back and self._context.snapshots.are_needed and not self._context.snapshots.slack
        return [last] if is_needed and last not in shared and last > len(self._context.tokens) else []

    def _keep_shared(self, *, is_longest: bool) -> None:
        """A prefix for other prompts. Where states can be cut back, the longest one serves for the others, too."""
        context = self._context
        if self._store is not None and (is_longest or context.snapshots.are_needed):
            self._store.put(self._key, SHARED, context.tokens, context.state_size(), context.save)
