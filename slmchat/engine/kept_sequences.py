"""Sequences of one KV cache that stay after their completion: a prompt that begins as they do is not read again.

A server answers the same conversations and the same instructions over and over. A sequence that has answered keeps its
tokens; the next prompt continues the one with which it has most in common, or begins as a copy of that. What is in no
sequence any more may still be on the disk.

Knows: which tokens each sequence holds, which of them a prompt gets, what goes first when cells run out, what is worth
a file. Refuses to know: completions (slot.py), when anything is evaluated (stream_pool.py).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from slmchat.engine.kvstore import MIN_TOKENS, REWRITING_GROWTH, SHARED, KvStore, StateKey, Stored, shared_length
from slmchat.engine.sequences import Sequences

# A prompt that leaves the way of a sequence so many tokens before its end begins as a copy of it, which takes no cells:
# another conversation with the same instructions, say. With less to lose it takes the sequence over.
_WORTH_KEEPING = 16


# A state of so many tokens is written before its sequence is given away; shorter ones when there is time (keep_one).
_LONG = 512

# In a split cache a copy is one of all tokens of the other sequence; so many of them take as long as reading one.
_COPIED_FOR_ONE = 100

# A sequence goes to another place if both states together are not larger than the weights: computing in two pieces
# reads those twice, at every token.
_MOST_MOVED = 1.0


class KeptSequence:
    """One sequence and the tokens that it holds. `is_busy`: a completion works on it."""

    def __init__(self, number: int, sequences: Sequences) -> None:
        self.number = number
        self.tokens: list[int] = []
        self.owner = SHARED  # the conversation whose words it holds
        self.is_busy = False
        self.used = 0  # a clock of takings: the larger, the later
        self.snapshots = sequences.snapshots(number)
        self.saved: Path | None = None  # its state on the disk
        self.n_saved = 0  # tokens of it

    def change_places(self, other: "KeptSequence") -> None:
        """What each of them knows of its tokens goes to the other, as the states have gone."""
        for name in ("tokens", "owner", "is_busy", "used", "saved", "n_saved"):
            mine = getattr(self, name)
            setattr(self, name, getattr(other, name))
            setattr(other, name, mine)
        self.snapshots.exchange(other.snapshots)

    def same(self, tokens: Sequence[int]) -> int:
        """How many tokens it has in common with a prompt; the prompt's last one does not count, it is evaluated."""
        return min(shared_length(self.tokens, tokens), len(tokens) - 1)

    def reachable(self, tokens: Sequence[int]) -> int:
        """How many tokens of a prompt it need not evaluate if it continues this sequence."""
        return self.snapshots.reachable(len(self.tokens), self.same(tokens))


class KeptSequences:
    """All sequences of a pool that keeps them."""

    def __init__(self, sequences: Sequences, count: int, store: KvStore | None, key: StateKey) -> None:
        """Sequences 0 to `count` - 1. `store` None: nothing is on the disk. `key`: what their states depend on."""
        self._sequences = sequences
        self._store = store
        self._key = key
        self._clock = 0
        self._all = [KeptSequence(number, sequences) for number in range(count)]
        self._most_moved = _MOST_MOVED * sequences.weights_size

    def take(self, tokens: Sequence[int], owner: str = "") -> KeptSequence:
        """A sequence for this prompt, busy from now on: it holds a beginning of the prompt, as long as can be had.

        There must be one that is not busy. `owner`: the conversation whose words the prompt holds; "": none.
        """
        chosen = self._from_memory(tokens)
        if self._store is not None and len(tokens) - 1 - len(chosen.tokens) >= MIN_TOKENS:
            chosen = self._from_disk(tokens, chosen, self._store)
        owner = owner or SHARED
        if owner != chosen.owner:  # what is on the disk is another's
            chosen.owner, chosen.saved, chosen.n_saved = owner, None, 0
        chosen = self._beside_others(chosen)
        self._clock += 1
        chosen.used = self._clock
        chosen.is_busy = True
        return chosen

    def _beside_others(self, chosen: KeptSequence) -> KeptSequence:
        """The same in a place beside those that are busy, or between them."""
        busy = [each.number for each in self._all if each.is_busy]
        if not (self._sequences.is_split and busy):
            return chosen
        low, high = min(busy), max(busy)
        idle = [each for each in self._all if not each.is_busy]
        between = [each for each in idle if low < each.number < high]
        beside = between or [each for each in idle if each.number in (low - 1, high + 1)]
        if not beside or chosen in beside:
            return chosen
        return self._moved(chosen, min(beside, key=lambda each: len(each.tokens)))

    def closer(self, kept: KeptSequence) -> KeptSequence:
        """The busy sequence of the highest number in a place between the others, where there is one; else itself."""
        if not self._sequences.is_split:
            return kept
        low = min(each.number for each in self._all if each.is_busy)
        between = (each for each in self._all[low : kept.number] if not each.is_busy)
        place = min(between, key=lambda each: len(each.tokens), default=None)
        return kept if place is None else self._moved(kept, place)

    def _moved(self, kept: KeptSequence, place: KeptSequence) -> KeptSequence:
        """The sequence in that place, where what is there goes to its own; itself where that is too much to copy."""
        sizes = (self._sequences.state_size(each.number) for each in (kept, place) if each.tokens)
        if sum(sizes) > self._most_moved:
            return kept
        self._sequences.swap(kept.number, place.number)
        kept.change_places(place)
        return place

    def _from_memory(self, tokens: Sequence[int]) -> KeptSequence:
        idle = [each for each in self._all if not each.is_busy]
        oldest = min(idle, key=lambda each: (bool(each.tokens), each.used))
        donors = self._all if self._sequences.can_copy_part else idle  # of these a busy one has lost what it began with
        best = max(donors, key=lambda each: (each.reachable(tokens), not each.is_busy, each.used))
        n_best = best.reachable(tokens)
        is_copied = best.is_busy or (best is not oldest and len(best.tokens) - n_best >= _WORTH_KEEPING)
        if is_copied and self._sequences.is_split and n_best * _COPIED_FOR_ONE < len(best.tokens):
            n_best = 0
        if oldest is not best or not n_best:
            self._keep_if_long(oldest)
        if not n_best:
            self._empty(oldest)
            return oldest
        if is_copied:
            self._copy(best, oldest, best.same(tokens))
            return oldest
        self._bring_back(best, best.same(tokens))
        return best

    def _keep_if_long(self, kept: KeptSequence) -> None:
        """Write the state of a sequence that another prompt takes over, where reading it again would take long."""
        if self._store is not None and len(kept.tokens) >= _LONG:
            self._keep(kept, self._store)

    def _copy(self, donor: KeptSequence, target: KeptSequence, n_same: int) -> None:
        """Let `target` begin as the first `n_same` tokens of `donor`, or as many of them as can be brought back."""
        self._empty(target)
        self._sequences.copy(donor.number, target.number, n_same)
        if self._sequences.can_copy_part:
            target.tokens = donor.tokens[:n_same]
            return
        target.tokens = list(donor.tokens)
        target.snapshots.adopt(donor.snapshots)
        self._bring_back(target, n_same)

    def _from_disk(self, tokens: Sequence[int], chosen: KeptSequence, store: KvStore) -> KeptSequence:
        """A sequence with a stored state, where that saves more than `chosen` holds; else `chosen`."""
        n_held = len(chosen.tokens)
        usable = chosen.snapshots.usable
        found = store.find(self._key, tokens[:-1], usable, n_held + MIN_TOKENS)
        if found is None or len(found.tokens) > self._sequences.capacity:
            return chosen
        idle = [each for each in self._all if not each.is_busy and each is not chosen]
        target = min(idle, key=lambda each: (bool(each.tokens), each.used), default=chosen) if n_held else chosen
        if not self._load(target, found):
            store.remove(found)
            return chosen
        self._bring_back(target, target.same(tokens))
        return target

    def _load(self, target: KeptSequence, found: Stored) -> bool:
        self._empty(target)
        while not self._sequences.load(target.number, found.tokens, found.path):
            if not self.make_room(besides=target):
                return False
        target.tokens = list(found.tokens)
        target.owner, target.saved, target.n_saved = found.owner, found.path, len(found.tokens)
        target.snapshots.mark(len(target.tokens), is_kept=True, is_settled=True)
        return True

    def _bring_back(self, kept: KeptSequence, n_same: int) -> None:
        """Let a sequence hold its first `n_same` tokens, or as many of them as it can be brought back to."""
        if n_same < len(kept.tokens):
            n_kept = n_same if kept.snapshots.cut(n_same) else kept.snapshots.go_back(n_same)
            kept.snapshots.drop_beyond(n_kept)  # not before: one of a token more can be cut back
            if not n_kept:
                self._empty(kept)
                return
            del kept.tokens[n_kept:]
        if len(kept.tokens) < kept.n_saved:  # what is on the disk is of another way
            kept.saved, kept.n_saved = None, 0

    def mark(self, kept: KeptSequence) -> None:
        """Note a place that later prompts may come back to, where the memory could not be cut there."""
        kept.snapshots.mark(len(kept.tokens), is_kept=True, is_settled=True)
        if self._store is not None and kept.snapshots.are_needed and len(kept.tokens) >= MIN_TOKENS:
            self._save(kept, self._store, is_replaced=False)

    def release(self, kept: KeptSequence) -> None:
        """No completion works on it any more."""
        kept.is_busy = False

    def drop(self, kept: KeptSequence) -> None:
        """What it holds is not needed, or not known."""
        self._empty(kept)
        kept.is_busy = False

    def make_room(self, besides: KeptSequence | None = None) -> bool:
        """Empty the sequence that nobody has used for longest; False when none is left."""
        idle = [each for each in self._all if not each.is_busy and each.tokens and each is not besides]
        if not idle:
            return False
        oldest = min(idle, key=lambda each: each.used)
        if self._store is not None:
            self._keep(oldest, self._store)
        self._empty(oldest)
        return True

    def keep_one(self) -> bool:
        """Write the state of one idle sequence that is worth it, the last used first; False when there is none."""
        if self._store is None:
            return False
        idle = sorted((each for each in self._all if not each.is_busy), key=lambda each: -each.used)
        return any(self._keep(each, self._store) for each in idle)

    def _keep(self, kept: KeptSequence, store: KvStore) -> bool:
        if len(kept.tokens) < max(MIN_TOKENS, REWRITING_GROWTH * kept.n_saved):
            return False
        return self._save(kept, store, is_replaced=True)

    def _save(self, kept: KeptSequence, store: KvStore, *, is_replaced: bool) -> bool:
        """`is_replaced`: the shorter state of the same tokens is of no more use."""
        write: Callable[[Path], bool] = lambda path: self._sequences.save(kept.number, kept.tokens, path)  # noqa: E731
        made = store.put(self._key, kept.owner, kept.tokens, self._sequences.state_size(kept.number), write)
        before, kept.n_saved = kept.saved, len(kept.tokens)  # one that the disk refuses is not tried again at once
        if made is not None and is_replaced and before is not None and before != made and not kept.snapshots.are_needed:
            before.unlink(missing_ok=True)
        kept.saved = made
        return made is not None

    def _empty(self, kept: KeptSequence) -> None:
        self._sequences.forget(kept.number)
        kept.snapshots.drop_beyond(0)
        kept.tokens = []
        kept.saved, kept.n_saved = None, 0
