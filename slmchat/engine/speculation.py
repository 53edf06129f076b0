"""Drafts: guesses at the next tokens, to be verified by the model in one batch.

Knows: looking guesses up in the conversation itself, what a source of guesses is (`Drafts`), how often they were
right, what batches have cost, and from both how many tokens to guess now (mostly none); which batches have been proved
to compute exactly what single tokens do.
Refuses to know: llama.cpp, sampling, when a generation ends (session.py).

Whether a guess would have been right is known at every token, whether it was made or not, because the lookup follows
the text in any case. So text that does not repeat itself costs nothing but the lookup: about 2 us a token.
"""

from collections.abc import Sequence
from dataclasses import field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from slmchat.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from slmchat.engine.kept_exactness import KeptExactness

# Tokens that must agree before what followed them last time is a guess.
NGRAM = 3

# Sizes of batches (the token that is due, and the draft): few, so that the cost of each is soon known.
SIZES = (2, 3, 4, 6, 8, 12, 16, 24)

# The sizes where the text must be the same to the last bit: each has to be proved, which takes four batches. That of 3
# is paid for after 30 tokens; what 6 gains above it would take 200 (docs/decisions.md).
EXACT_SIZES = (3,)
_PROVED_BATCHES = 4  # whole batches may be equal by chance: quantized activations swallow most differences (Gemma 3)
# Flash attention works through a cache of more cells than this (it is filled in steps of 256) in one part for each
# thread when one token is evaluated, and in one part otherwise (ggml-cpu/ops.cpp: use_split_kv_path, 512 cells).
_LONG_CACHE = 256

# What a draft must promise against single tokens. Below it the estimates are not good enough to bet on them.
WORTHWHILE = 1.12

# A batch of n costs 1 + _SLOPE (n - 1) single tokens, until it has been measured (2 cores: 0.6 SmolLM2, 0.4 Gemma 3).
_SLOPE = 0.5
_COST_WEIGHT = 0.25  # of a new measurement

# Agreement so far -> how likely the next token agrees too, until it has been observed. By the longest agreement of each
# class; class 0 is a lookup that goes on behind a token that differed (an edited word).
_CLASSES = (0, 4, 8, 16)
_FIRST_RATES = (0.3, 0.4, 0.5, 0.7, 0.85)
_RATE_WEIGHT = 0.06  # of a new observation
_LONGEST_AGREEMENT = 17
_SURE_AGREEMENT = 8


def _class_of(agreement: int) -> int:
    return sum(agreement > longest for longest in _CLASSES)


class Drafts(Protocol):
    """A source of guesses that decides itself how many are worth verifying."""

    @property
    def is_sure(self) -> bool:
        """Whether the next guesses are almost certainly right: then a batch may be spent on proving its size."""
        ...

    def start(self, tokens: Sequence[int]) -> None:
        """A generation begins behind these tokens."""
        ...

    def add(self, token: int) -> None:
        """The token that came, drafted or not."""
        ...

    def draft(self, most: int, sizes: Sequence[int]) -> list[int]:
        """The guesses to verify now, at most `most`; none when single tokens are expected to be as fast.

        `sizes`: those of the batches (a token that is due, and the guesses) that may be used.
        """
        ...

    def measured(self, size: int, seconds: float) -> None:
        """A batch of `size` tokens took so long, with choosing its tokens."""
        ...

    def set_threads(self, threads: int) -> None:
        """Compute with so many threads from here on."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class PromptLookup:
    """Where the last tokens stood before, and what followed them there. One dictionary entry a token."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._places: dict[tuple[int, ...], int] = {}
        self._source: int | None = None  # the place of the token that is expected next
        self.agreement = 0  # tokens before it that agree, at most _LONGEST_AGREEMENT

    def start(self, tokens: Sequence[int]) -> None:
        """Hold exactly these tokens. What was held already and only goes on is not read again."""
        held = len(self._tokens)
        if list(tokens[:held]) != self._tokens:
            self._tokens.clear()
            self._places.clear()
            held = 0
        self._source, self.agreement = None, 0
        for token in tokens[held:]:
            self._append(token)
        self._find()

    def expected(self) -> int | None:
        """The next token if the text repeats itself, None where there is no sign of that."""
        return None if self._source is None else self._tokens[self._source]

    def add(self, token: int) -> None:
        """The token that came."""
        is_agreed = self._source is not None and self._tokens[self._source] == token
        had_agreed = self.agreement > 0
        self._append(token)
        if is_agreed and self._source is not None:
            self._source += 1
            self.agreement = min(self.agreement + 1, _LONGEST_AGREEMENT)
            return
        behind = None if self._source is None or not had_agreed else self._source + 1
        self._source, self.agreement = None, 0
        self._find()
        if self._source is None and behind is not None and behind < len(self._tokens):
            self._source = behind

    def draft(self, most: int) -> list[int]:
        """Up to `most` tokens that would follow if the text goes on repeating itself (a loop goes round and round)."""
        if self._source is None:
            return []
        found = self._tokens[self._source : self._source + most]
        period = len(found)
        while len(found) < most:
            found.append(found[-period])
        return found

    def _append(self, token: int) -> None:
        self._tokens.append(token)
        if len(self._tokens) > NGRAM:  # the n-gram that this token follows
            self._places[tuple(self._tokens[-NGRAM - 1 : -1])] = len(self._tokens) - 1

    def _find(self) -> None:
        tokens = self._tokens
        place = self._places.get(tuple(tokens[-NGRAM:])) if len(tokens) >= NGRAM else None
        if place is None:
            return
        length = NGRAM
        while length < min(_LONGEST_AGREEMENT, place) and tokens[place - 1 - length] == tokens[-1 - length]:
            length += 1
        self._source, self.agreement = place, length


class Costs:
    """What batches have taken, in units of a single token. It stays with the model when the text changes."""

    def __init__(self) -> None:
        self._single: float | None = None
        self._batch: dict[int, tuple[float, int]] = {}  # seconds, and how often measured

    def measured(self, size: int, seconds: float) -> None:
        """A batch of `size` tokens took so long. One hiccup counts for no more than twice what was expected."""
        if size == 1:
            self._single = seconds if self._single is None else _moved(self._single, seconds)
        elif self._single is not None:
            known, times = self._batch.get(size, (self._single * self.of(size), 0))
            self._batch[size] = _moved(known, seconds), times + 1

    def of(self, size: int) -> float:
        """The cost of a batch of `size` tokens: what it took, leaning on all other sizes while it was seldom tried."""
        if self._single is None:
            return 1 + _SLOPE * (size - 1)
        slopes = [((seconds / self._single - 1) / (n - 1), times) for n, (seconds, times) in self._batch.items()]
        total = sum(times for _, times in slopes)
        slope = (2 * _SLOPE + sum(slope * times for slope, times in slopes)) / (2 + total)
        guess = 1 + max(0.0, slope) * (size - 1)
        seconds, times = self._batch.get(size, (0.0, 0))
        return (2 * guess + times * seconds / self._single) / (2 + times)


def _moved(known: float, seconds: float) -> float:
    return known + _COST_WEIGHT * (min(seconds, 2 * known) - known)


class ExactnessCheck:
    """Which batches give the same logits as single tokens, bit for bit: found out by computing both, never assumed.

    Kernels differ by model, quantization, processor and length of the cache, and what they round differently changes
    a greedy text sooner or later.
    """

    def __init__(self, kept: "KeptExactness") -> None:
        """`kept` is read when it is first asked for, and written when a size is proved or refuted."""
        self._kept = kept

    def sizes(self, place: int, threads: int, *, is_sure: bool) -> tuple[int, ...]:
        """The sizes proved for a batch behind `place` tokens, and with `is_sure` those that are not refuted yet."""
        rows = ((size, self._equal.get(self._key(place, threads, size), 0)) for size in EXACT_SIZES)
        return tuple(size for size, equal in rows if equal >= (0 if is_sure else _PROVED_BATCHES * size))

    def holds(self, place: int, threads: int, size: int) -> bool:
        """Whether batches of this size have been equal often enough to be trusted."""
        return self._equal.get(self._key(place, threads, size), 0) >= _PROVED_BATCHES * size

    def observed(self, place: int, threads: int, size: int, *, is_equal: bool) -> None:
        """A row of logits of such a batch was compared."""
        key = self._key(place, threads, size)
        known = self._equal.get(key, 0)
        self._equal[key] = known + 1 if is_equal and known >= 0 else -1
        if self._equal[key] != known and self._equal[key] in (-1, _PROVED_BATCHES * size):
            self._kept.write(self._equal)

    @cached_property
    def _equal(self) -> dict[tuple[int, int], int]:
        return self._kept.read()

    def _key(self, place: int, threads: int, size: int) -> tuple[int, int]:
        return size, threads if place + size > _LONG_CACHE else 0


@dataclass(slots=True)
class DraftStats:
    """Tokens drafted, and those of them that the model would have chosen itself."""

    drafted: int = 0
    accepted: int = 0


@dataclass(slots=True)
class PromptDrafts:
    """`Drafts` from the conversation, as long as they pay. Keeps its experience from one generation to the next."""

    lookup: PromptLookup = field(default_factory=PromptLookup)
    costs: Costs = field(default_factory=Costs)
    rates: list[float] = field(default_factory=lambda: list(_FIRST_RATES))

    @property
    def is_sure(self) -> bool:
        return self.lookup.agreement > _SURE_AGREEMENT

    def start(self, tokens: Sequence[int]) -> None:
        self.lookup.start(tokens)

    def add(self, token: int) -> None:
        expected = self.lookup.expected()
        if expected is not None:
            kind = _class_of(self.lookup.agreement)
            self.rates[kind] += _RATE_WEIGHT * ((expected == token) - self.rates[kind])
        self.lookup.add(token)

    def draft(self, most: int, sizes: Sequence[int]) -> list[int]:
        if most < 1 or self.lookup.expected() is None:
            return []
        length = self._length(most, sizes)
        return self.lookup.draft(length) if length else []

    def measured(self, size: int, seconds: float) -> None:
        self.costs.measured(size, seconds)

    def set_threads(self, threads: int) -> None:
        """A lookup needs none."""

    def close(self) -> None:
        """Nothing is held but memory."""

    def _length(self, most: int, sizes: Sequence[int]) -> int:
        """The number of guesses that promises most tokens for the time, 0 when one at a time is best."""
        best, best_gain = 0, WORTHWHILE
        tokens, likely, size = 1.0, 1.0, 1
        for goal in sizes:
            if goal - 1 > most:
                break
            while size < goal:
                likely *= self.rates[_class_of(self.lookup.agreement + size - 1)]
                tokens += likely
                size += 1
            gain = tokens / self.costs.of(goal)
            if gain > best_gain:
                best, best_gain = goal - 1, gain
        return best
