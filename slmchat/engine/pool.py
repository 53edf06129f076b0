"""Many completions at once on one llama.cpp context (`LlamaPool`).

Knows: which completions are worked on, the beginning that their prompts share, what happens when the cache is full.
Refuses to know: how tokens are evaluated (sequences.py), chosen (sampler.py, constraint.py) or spelled (vocabulary.py),
what the completions are for, in which order they are wanted.

The shared beginning of the prompts (the trunk) is evaluated once, in a sequence of its own, and every completion begins
as a copy of it. A completion that ends makes room at once: the prompt of the next one is evaluated in the same batches
in which the others get their next tokens. What is decoded together is cheap, and that is the whole point.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from slmchat.engine.adapters import Adapters
from slmchat.engine.api import Adapter, Done, Job, SessionSettings
from slmchat.engine.constraint import open_sampler
from slmchat.engine.context import check_room
from slmchat.engine.feed import Feed
from slmchat.engine.parallelism import CellPlan, Growth
from slmchat.engine.probabilities import ChanceReader
from slmchat.engine.sequences import Sequences, Stretch
from slmchat.engine.slot import Slot, Work
from slmchat.engine.vocabulary import Vocabulary
from slmchat.errors import ExitCode, SlmError

_TRUNK = 0  # its sequence; the slots are 1, 2, ...

# How long the first prompt waits for a second one, in seconds: what they share is then evaluated once.
_SECOND_S = 0.05

# A shared beginning shorter than this is not worth a sequence of its own, in tokens.
_MIN_SHARED = 8


class LlamaPool:
    """Completions side by side, one KV cache. Implements `Pool`.

    Two completions of the same prompt, sampler and seed give the same text where the arithmetic allows: what else is
    in a batch changes the order of sums in llama.cpp's matrix products, and with it the last bits of the logits. Where
    two tokens are nearly equally probable, the text may then differ from that of a session (docs/batch.md).
    """

    def __init__(
        self, api: ModuleType, model: Any, vocabulary: Vocabulary, settings: SessionSettings, plan: CellPlan
    ) -> None:
        """Raises `SlmError` (NO_FIT) when the memory of the KV cache cannot be had."""
        self._api = api
        self._vocabulary = vocabulary
        self._n_ctx = settings.n_ctx
        self._plan = plan
        self._growth = Growth(plan)
        self._is_cancelled = False
        self._sequences = Sequences(
            api,
            model,
            settings,
            n_sequences=plan.most + 1,
            n_cells=plan.cells,
            is_cancelled=lambda: self._is_cancelled,
        )
        self._feed: Feed[Work] | None = None
        self._trunk: list[int] = []
        self._n_planted = 0  # length of the last trunk
        self._misses = 0  # prompts in a row that did not begin with the trunk
        self._last: list[int] = []  # tokens of the prompt that came last
        self._again: deque[Job] = deque()
        self._waiting: deque[Work] = deque()
        self._busy: list[Slot] = []
        self._free: list[int] = []
        self._is_crowded = False  # something had to make room: nothing new before something ends
        self._alone: Work | None = None  # did not fit beside the trunk: it gets the whole cache

    @property
    def report(self) -> str:
        """How many completions at once and why, and how much their prompts share."""
        shared = f"; {self._n_planted:,} tokens of every prompt were evaluated once" if self._n_planted else ""
        return f"{self._growth.allowed} rows at once of at most {self._plan.most} ({self._plan.why}){shared}"

    def lay(self, known: Adapters, chosen: Sequence[Adapter]) -> None:
        """Let these LoRA adapters count. Raises `SlmError` (DAMAGED) when one does not belong to this model."""
        known.apply(self._sequences.handle, [adapter for adapter in chosen if adapter.scale])

    def cancel(self) -> None:
        """End the `run` that goes on; from any thread or a signal handler."""
        self._is_cancelled = True
        if self._feed is not None:
            self._feed.wake()

    def again(self, job: Job) -> None:
        """Work on this job too, before those that wait."""
        self._again.append(job)

    def close(self) -> None:
        """Free the KV cache."""
        self._sequences.close()

    def run(self, jobs: Iterator[Job | Done]) -> Iterator[Done]:
        """Work on the jobs, as `Pool` says."""
        self._is_cancelled = False
        self._feed = Feed(jobs, self._prepare, ahead=self._plan.most)
        return self._run(self._feed)

    def _run(self, feed: Feed[Work]) -> Iterator[Done]:
        self._reset()
        try:
            while not self._is_cancelled:
                yield from self._take(feed)
                self._place_waiting()
                if self._busy and not self._is_cancelled:
                    yield from self._step()
                elif feed.is_ended and not (self._waiting or self._again):
                    return
        finally:
            feed.stop()
            self._reset()

    def _reset(self) -> None:
        for slot in self._busy:
            slot.close()
        self._sequences.forget_all()
        self._trunk, self._last, self._misses = [], [], 0
        self._waiting.clear()
        self._again.clear()
        self._busy = []
        self._free = list(range(self._plan.most, _TRUNK, -1))
        self._alone = None
        self._is_crowded = False

    def _prepare(self, job: Job) -> Work | Done:
        """On the feed's thread: the tokens of a job, or the reason why it cannot be done."""
        try:
            tokens = self._vocabulary.tokenize(job.prompt)
            check_room(len(tokens), self._n_ctx)
        except SlmError as error:
            return Done(job.id, error=error)
        shown = self._vocabulary.tokens_of(job.limits.shown)
        return Work(job, tokens, job.sampler.with_seed(), shown)

    def _take(self, feed: Feed[Work]) -> Iterator[Done]:
        """Take what is ready, as much as could be begun now; wait only when there is nothing else to do."""
        while self._again:
            again = self._prepare(self._again.popleft())
            if isinstance(again, Done):
                yield again
            else:
                self._waiting.appendleft(again)
        while len(self._waiting) + len(self._busy) < self._growth.allowed and not feed.is_ended:
            is_idle = not (self._waiting or self._busy or self._again)
            is_first = len(self._waiting) == 1 and not self._last  # a second prompt shows what is shared
            item = feed.take(None if is_idle else _SECOND_S if is_first else 0)
            if item is None:
                return
            feed.make_room()
            if isinstance(item, Done):
                yield item
            else:
                self._waiting.append(item)

    def _place_waiting(self) -> None:
        while self._waiting and self._free and len(self._busy) < self._growth.allowed and not self._is_cancelled:
            if self._is_crowded and self._busy:
                return
            work = self._waiting.popleft()
            n_shared = 0 if work is self._alone else self._share(work.tokens)
            self._last = work.tokens
            if self._busy and len(work.tokens) - n_shared >= self._plan.cells - self._n_held():
                self._waiting.appendleft(work)
                return
            self._is_crowded = work is self._alone
            sequence = self._free.pop()
            if n_shared:
                self._sequences.copy(_TRUNK, sequence, n_shared)
            sampler = open_sampler(self._api, self._vocabulary, work.sampler, work.job.limits.constraint)
            chances = ChanceReader(self._api, self._vocabulary, work.job.limits.n_alternatives)
            self._busy.append(Slot(sequence, work, sampler, chances, n_shared, self._vocabulary))

    def _n_held(self) -> int:
        """Cells in use, counting those of the trunk once."""
        return len(self._trunk) + sum(slot.n_own for slot in self._busy)

    def _share(self, tokens: list[int]) -> int:
        """How many tokens this prompt begins with that the trunk holds; grows or replants the trunk where that pays."""
        n_shared = _n_common(self._trunk, tokens)
        if self._trunk and n_shared == len(self._trunk):
            self._misses = 0
            return n_shared
        if not self._trunk:
            others = [work.tokens for work in self._waiting] or ([self._last] if self._last else [])
            length = min((_n_common(other, tokens) for other in others), default=0)
            return self._plant(tokens[:length])
        if self._sequences.can_copy_part:
            return n_shared if n_shared >= _MIN_SHARED else 0
        # the memory of this model cannot be cut: one prompt of another kind is evaluated whole, two change the trunk
        self._misses += 1
        return self._plant(tokens[:n_shared]) if self._misses > 1 and n_shared >= _MIN_SHARED else 0

    def _plant(self, tokens: list[int]) -> int:
        """Evaluate the trunk; its length, 0 where it is not worth it or has no place."""
        self._sequences.forget(_TRUNK)
        self._trunk, self._misses = [], 0
        if len(tokens) < _MIN_SHARED or len(tokens) >= self._plan.cells - self._n_held():
            return 0
        step = self._sequences.batch_tokens
        for begin in range(0, len(tokens), step):
            piece = Stretch(_TRUNK, begin, tokens[begin : begin + step], needs_logits=False)
            if self._sequences.evaluate([piece]) is None or self._is_cancelled:
                self._sequences.forget(_TRUNK)
                return 0
        self._trunk = tokens
        self._n_planted = len(tokens)
        return len(tokens)

    def _step(self) -> Iterator[Done]:
        """The next token of every completion that is generating, and as much of prompts as has room: one batch.

        Models with a recurrent state need some (`Sequences.batches`).
        """
        start = time.perf_counter()
        chosen: list[tuple[Stretch, Slot]] = []
        room = self._sequences.batch_tokens
        for slot in sorted(self._busy, key=lambda slot: slot.is_in_prompt):
            stretch = slot.next_stretch(room)
            if stretch is not None:
                chosen.append((stretch, slot))
                room -= len(stretch.tokens)
        n_generated = n_prompt = n_done = 0
        is_full = False
        for batch in self._sequences.batches(chosen):
            places = self._sequences.evaluate([stretch for stretch, _ in batch])
            if self._is_cancelled:
                return
            if places is None:
                is_full = True
                break
            for (stretch, slot), place in zip(batch, places, strict=True):
                n_prompt += len(stretch.tokens) if slot.is_in_prompt else 0
                n_generated += not slot.is_in_prompt
                slot.evaluated(stretch, self._n_ctx, self._sequences.handle, place)
            n_done += len(batch)
        ended = [slot for slot in self._busy if slot.is_ended]
        for slot in ended:
            self._leave(slot)
        if n_done:
            self._growth.note(n_generated, n_prompt, n_done, time.perf_counter() - start)
        for slot in ended:
            yield slot.done()
        if is_full and not ended:
            yield from self._make_room()

    def _leave(self, slot: Slot) -> None:
        self._sequences.forget(slot.sequence)
        self._busy.remove(slot)
        self._free.append(slot.sequence)
        self._is_crowded = False
        slot.close()

    def _make_room(self) -> Iterator[Done]:
        """The cache is full: the completion that began last starts again later; the last one loses the trunk."""
        slot = self._busy[-1]
        is_alone = len(self._busy) == 1
        self._leave(slot)
        if not is_alone:
            self._waiting.appendleft(slot.work)
            self._is_crowded = True
        elif self._trunk:
            self._waiting.appendleft(slot.work)
            self._alone = slot.work
            self._sequences.forget_all()
            self._trunk, self._last = [], []
        else:
            error = SlmError(
                f"the context window of {self._n_ctx:,} tokens is full.",
                hint="a larger window: --ctx N",
                exit_code=ExitCode.CONTEXT,
            )
            yield Done(slot.work.job.id, error=error)


def _n_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning; the last token of `other` is left out, its logits are needed."""
    count = 0
    for a, b in zip(one, other[:-1], strict=False):
        if a != b:
            break
        count += 1
    return count
