"""Many completions at once on one llama.cpp context (`LlamaPool`).

What is decoded together is cheap, and that is the whole point. A completion that ends makes room at once: the prompt
of the next one is evaluated in the same batches in which the others get their next tokens.

Knows: which completions are worked on, which beginning of their prompts to share, what happens when the cache is full.
Refuses to know: how tokens are evaluated (sequences.py) and what a token does to its completion (slot.py), what the
completions are for, in which order they are wanted.
"""

import time
from collections import deque
from collections.abc import Iterator

from slmchat.engine import shortlist
from slmchat.engine.context import tokens_within, window_full
from slmchat.engine.feed import Feed
from slmchat.engine.kvstore import StateKey
from slmchat.engine.loaded import LoadedModel
from slmchat.engine.parallelism import CellPlan, Growth
from slmchat.engine.requests import Request, SessionSettings
from slmchat.engine.results import Result
from slmchat.engine.sequences import TokenSpan
from slmchat.engine.shared_prefix import MIN_SHARED, SECOND_PROMPT_S, PrefixPool, n_common
from slmchat.engine.slot import PreparedRequest, Slot
from slmchat.errors import SlmError

# From this many tokens on, a batch can be aborted while it is computed: the callback costs about a millisecond, which a
# step of a few tokens on a fast device would feel.
_ABORTABLE_FROM = 64


class LlamaPool(PrefixPool[PreparedRequest]):
    """Completions side by side, one KV cache. Implements `Pool`.

    Two completions of the same prompt, sampler and seed give the same text where the arithmetic allows: what else is
    in a batch changes the order of sums in llama.cpp's matrix products, and with it the last bits of the logits. Where
    two tokens are nearly equally probable, the text may then differ from that of a session (docs/batch.md).
    """

    def __init__(
        self, loaded: LoadedModel, settings: SessionSettings, plan: CellPlan, key: StateKey | None = None
    ) -> None:
        """`key`: what states on the disk depend on; None: none are kept.

        Raises `SlmError`: NO_FIT for the memory of the KV cache, DAMAGED for an adapter of another model."""
        super().__init__(
            loaded,
            settings,
            most=plan.most,
            n_sequences=plan.most + 1,
            n_cells=plan.cells,
            abortable_from=_ABORTABLE_FROM,
            key=key,
        )
        self._n_picked = 0  # tokens since the pool was opened, about
        shortlist.prepare(loaded.vocabulary.n_tokens)
        self._plan = plan
        self._growth = Growth(plan)
        self._misses = 0  # prompts in a row that did not begin with the shared prefix
        self._last: list[int] = []  # tokens of the prompt that came last
        self._waiting: deque[PreparedRequest] = deque()
        self._busy: list[Slot] = []
        self._free: list[int] = []
        self._is_crowded = False  # something had to make room: nothing new before something ends
        self._alone: PreparedRequest | None = None  # did not fit beside the shared prefix: it gets the whole cache

    @property
    def report(self) -> str:
        """How many completions at once and why, and how much their prompts share."""
        most = f"at most {self._plan.most} ({self._plan.why})"
        return f"{self._growth.allowed} rows at once of {most}{self._prefix.report}"

    def _run(self, feed: Feed[PreparedRequest]) -> Iterator[Result]:
        self._reset()
        try:
            while not self._is_cancelled:
                yield from self._take(feed)
                if self._place_waiting():
                    yield from self._take(feed)
                    self._place_waiting()
                if self._busy and not self._is_cancelled:
                    yield from self._step()
                elif feed.is_ended and not (self._waiting or self._resubmitted):
                    return
        finally:
            feed.stop()
            self._reset()

    def _reset(self) -> None:
        for slot in self._busy:
            slot.close()
        self._prefix.forget_all()
        self._last, self._misses = [], 0
        self._waiting.clear()
        self._resubmitted.clear()
        self._busy = []
        self._free = list(range(self._plan.most, 0, -1))
        self._alone = None
        self._is_crowded = False

    def _prepare(self, request: Request) -> PreparedRequest | Result:
        """On the feed's thread: the tokens of a request, or the reason why it cannot be done."""
        try:
            tokens = tokens_within(self._vocabulary, request.prompt, self._n_ctx)
        except SlmError as error:
            return Result(request.id, error=error)
        return PreparedRequest(request, tokens, request.sampler.with_seed())

    def _take(self, feed: Feed[PreparedRequest]) -> Iterator[Result]:
        """Take what is ready, as much as could be begun now; wait only when there is nothing else to do."""
        while self._resubmitted:
            again = self._prepare(self._resubmitted.popleft())
            if isinstance(again, Result):
                yield again
            else:
                self._waiting.appendleft(again)
        while len(self._waiting) + len(self._busy) < self._n_looked_at and not feed.is_ended:
            is_idle = not (self._waiting or self._busy or self._resubmitted)
            item = feed.take(None if is_idle or self._waits else SECOND_PROMPT_S if self._shows_shared else 0)
            if item is None:
                return
            feed.make_room()
            if isinstance(item, Result):
                yield item
            else:
                self._waiting.append(item)

    @property
    def _shows_shared(self) -> bool:
        """Whether one more prompt shows what all share, before any has begun. A second one does where what they share
        can be cut later; else it may be too much, and be read twice more, so that as many as can be are looked at."""
        return not self._last and (len(self._waiting) == 1 or not self._sequences.can_copy_part)

    @property
    def _n_looked_at(self) -> int:
        """How many prompts are taken: as many as may begin, or more where these do not show enough."""
        return self._growth.allowed if self._last or self._sequences.can_copy_part else self._plan.most

    def _place_waiting(self) -> bool:
        """Begin with as many as may begin. True: what they share was read for them, and others have come meanwhile,
        which then begin in the same batch."""
        prefix = self._prefix.tokens
        held: list[PreparedRequest] = []  # what they begin with is being read: it is theirs too
        while self._waiting and self._free and len(self._busy) < self._growth.allowed and not self._is_cancelled:
            if self._is_crowded and self._busy:
                break
            work = self._waiting.popleft()
            other, n_shared = self._nearest(work)
            if other is not None and other.n_evaluated < n_shared:
                held.append(work)
                continue
            if other is None:
                n_shared = 0 if work is self._alone else self._share(work.tokens)
            self._last = work.tokens
            if self._busy and len(work.tokens) - n_shared >= self._plan.cells - self._n_held():
                held.append(work)
                break
            self._is_crowded = work is self._alone
            sequence = self._free.pop()
            if other is not None:
                self._sequences.copy(other.sequence, sequence, n_shared)
            else:
                self._prefix.begin(sequence, n_shared)
            self._growth.begins(len(work.tokens) - n_shared)
            self._busy.append(Slot(sequence, work, n_shared, self._n_ctx, self._loaded))
        self._waiting.extendleft(reversed(held))
        return self._prefix.tokens is not prefix

    def _nearest(self, work: PreparedRequest) -> tuple[Slot | None, int]:
        """The completion that is worked on and whose prompt has most in common with this one, where that is more than
        the shared prefix has (questions about one text, several answers to one prompt), and how many tokens that is.

        What is not evaluated yet is waited for where it is most of what this prompt would have to read itself. Not
        where only a whole sequence can be copied.
        """
        if not self._sequences.can_copy_part or work is self._alone:
            return None, 0
        n_prefix = self._prefix.common(work.tokens)
        n_own = len(work.tokens) - n_prefix
        mark = work.tokens[n_prefix : n_prefix + MIN_SHARED]  # most others are told apart by this
        best: Slot | None = None
        most = n_prefix
        for slot in self._busy:
            tokens = slot.work.tokens
            if tokens[n_prefix : n_prefix + MIN_SHARED] != mark and tokens != work.tokens:
                continue
            common = n_common(tokens, work.tokens)
            is_there = slot.n_evaluated >= common
            is_worth_it = is_there or 2 * (common - n_prefix) >= n_own - 1
            is_better = common > most or (common == most and best is not None and is_there)
            if is_worth_it and is_better:
                best, most = slot, common
        return best, most

    def _n_held(self) -> int:
        """Cells in use, counting those of the shared prefix once."""
        return len(self._prefix.tokens) + sum(slot.n_own for slot in self._busy)

    def _share(self, tokens: list[int]) -> int:
        """How many tokens this prompt takes from the shared prefix, which is made anew where that pays."""
        prefix = self._prefix
        n_shared = prefix.common(tokens)
        if not self._sequences.can_copy_part and self._has_twins_that_pay(tokens, n_shared):
            return self._replace_prefix(tokens[:-1])
        if not prefix.tokens:
            others = [work.tokens for work in self._waiting] or ([self._last] if self._last else [])
            return self._replace_prefix(tokens[: min((n_common(other, tokens) for other in others), default=0)])
        if n_shared == len(prefix.tokens):
            self._misses = 0
            return n_shared
        if self._sequences.can_copy_part:
            return n_shared if n_shared >= MIN_SHARED else 0
        # the memory of this model cannot be cut: a prompt of another kind is evaluated whole, two change the prefix
        self._misses += 1
        return self._replace_prefix(tokens[:n_shared]) if self._misses > 1 and n_shared >= MIN_SHARED else 0

    def _has_twins_that_pay(self, tokens: list[int], n_shared: int) -> bool:
        """Whether several that wait have this very prompt, so that to read it whole for all of them is less than what
        each would read behind the prefix."""
        n_own = len(tokens) - (n_shared if n_shared == len(self._prefix.tokens) else 0)
        n_alike = 1 + sum(work.tokens == tokens for work in self._waiting)
        return n_alike > 1 and n_alike * n_own > len(tokens)

    def _replace_prefix(self, tokens: list[int]) -> int:
        """As `SharedPrefix.replace`, where the cache has room for it beside what is worked on."""
        self._misses = 0
        n_free = self._plan.cells - sum(slot.n_own for slot in self._busy)
        return self._prefix.replace(tokens if len(tokens) < n_free else [])

    def _step(self) -> Iterator[Result]:
        """The next token of every completion that is generating, and as much of prompts as has room: one batch.

        Models with a recurrent state need some (`Sequences.batches`).
        """
        start = time.perf_counter()
        chosen: list[tuple[TokenSpan, Slot]] = []
        room = self._sequences.batch_tokens
        for slot in sorted(self._busy, key=lambda slot: slot.is_in_prompt):
            span = slot.next_span(room)
            if span is not None:
                chosen.append((span, slot))
                room -= len(span.tokens)
        shortlist.prepare(self._vocabulary.n_tokens, self._n_picked)
        n_generated = n_prompt = n_done = 0
        is_full = False
        for batch in self._sequences.batches(chosen):
            places = self._sequences.evaluate([span for span, _ in batch])
            if self._is_cancelled:
                return
            if places is None:
                is_full = True
                break
            for (span, slot), place in zip(batch, places, strict=True):
                n_prompt += len(span.tokens) if slot.is_in_prompt else 0
                n_generated += not slot.is_in_prompt
                slot.evaluated(span, self._sequences.handle, place)
            n_done += len(batch)
        self._n_picked += n_done
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

    def _make_room(self) -> Iterator[Result]:
        """The cache is full: the completion that began last starts again later; the last one, without the prefix."""
        slot = self._busy[-1]
        is_alone = len(self._busy) == 1
        self._leave(slot)
        if not is_alone:
            self._waiting.appendleft(slot.work)
            self._is_crowded = True
        elif self._prefix.tokens:
            self._waiting.appendleft(slot.work)
            self._alone = slot.work
            self._prefix.forget_all()
            self._last = []
        else:
            yield Result(slot.work.request.id, error=window_full(self._n_ctx))
