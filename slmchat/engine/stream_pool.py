"""Many completions at once whose text is read while it comes (`LlamaStreamPool`): continuous batching for a server.

Each call of `step` is one batch: the next token of every completion that is generating, and a piece of the prompts that
wait. The piece is small enough that nobody's next token waits for long. Sequences are kept after their completions
(kept_sequences.py), so that what was read once is not read again.

Knows: which completions are worked on, how large a piece of a prompt may be, what happens when the cache is full.
Refuses to know: threads, who waits and who reads, which requests there are (server/queue.py).
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence

from slmchat.engine.context import tokens_within, window_full
from slmchat.engine.kept_sequences import KeptSequence, KeptSequences
from slmchat.engine.kvstore import MARGIN, StateKey, shared_length
from slmchat.engine.loaded import LoadedModel
from slmchat.engine.parallelism import CellPlan
from slmchat.engine.requests import Request, SessionSettings
from slmchat.engine.results import Event, Finish, FinishReason, Prefill
from slmchat.engine.sequences import Sequences, TokenSpan
from slmchat.engine.slot import PreparedRequest, Slot
from slmchat.errors import SlmError

# Sequences beside those that are worked on: places where conversations wait for their next message.
_MORE_SEQUENCES = 4

# How long the others may wait for a piece of a prompt, in seconds; and the smallest piece, in tokens.
_MOST_WAIT_S = 0.2
_LEAST_PIECE = 16

# Weight of the newest piece in the measured speed of reading beside answers, where it is faster than thought; the speed
# before any piece was measured, in tokens/s, and what reading beside nobody tells of it: a small piece is slower.
_NEWEST = 0.3
_FIRST_SPEED = 200.0
_SHARE_ALONE = 0.5


class _Work:
    """A completion, its sequence, and where its prompt has to stop on the way."""

    def __init__(self, slot: Slot, kept: KeptSequence, stops: list[int]) -> None:
        self.slot = slot
        self.kept = kept
        self.stops = stops
        self.n_cached = len(kept.tokens)


class LlamaStreamPool:
    """Completions side by side, one KV cache, sequences that stay. Implements `StreamPool`."""

    def __init__(self, loaded: LoadedModel, settings: SessionSettings, plan: CellPlan, key: StateKey) -> None:
        """`key`: what the states of its sequences depend on.

        Raises `SlmError`: NO_FIT for the memory of the KV cache, DAMAGED for an adapter of another model.
        """
        self._loaded = loaded
        self.n_ctx = settings.n_ctx
        self.most = plan.most
        self._plan = plan
        count = plan.n_split or plan.most + _MORE_SEQUENCES
        self._is_ended = False
        self._sequences = Sequences(
            loaded,
            settings,
            n_sequences=count,
            n_cells=plan.cells,
            is_cancelled=lambda: self._is_ended,
            abortable_from=settings.batch_tokens,
            is_split=plan.n_split > 0,
        )
        self._kept = KeptSequences(self._sequences, count, settings.store, key)
        self._busy: list[_Work] = []
        self._lost: deque[Slot] = deque()  # had to give up their sequence, and go on when there is room
        self._speed = _FIRST_SPEED  # of reading a piece beside answers
        self._has_read_beside = False

    @property
    def report(self) -> str:
        """One line about how it works: how many at once, the size of the cache."""
        return f"at most {self.most} at once ({self._plan.why})"

    @property
    def has_room(self) -> bool:
        """Whether another request may begin."""
        return len(self._busy) + len(self._lost) < self.most and not self._lost

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._busy or self._lost)

    def begin(self, request: Request) -> Prefill:
        """Begin with a request, when there `has_room`; how much of its prompt is known already.

        Raises `SlmError`: CONTEXT when it leaves no room for a completion, USAGE for an empty prompt or a constraint
        that cannot be used.
        """
        vocabulary = self._loaded.vocabulary
        n_ctx = min(request.n_ctx or self.n_ctx, self.n_ctx)
        tokens = tokens_within(vocabulary, request.prompt, n_ctx)
        hints = [vocabulary.tokenize(other) for other in request.prompt.cache_hints]
        kept = self._kept.take(tokens, request.prompt.owner)
        if self.is_idle:
            self._sequences.rested()
        prepared = PreparedRequest(request, tokens, request.sampler.with_seed())
        try:
            slot = Slot(kept.number, prepared, len(kept.tokens), n_ctx, self._loaded)
        except SlmError:
            self._kept.release(kept)
            raise
        self._busy.append(_Work(slot, kept, self._stops(tokens, hints, kept)))
        return Prefill(len(kept.tokens), len(tokens), len(kept.tokens))

    def _stops(self, tokens: Sequence[int], hints: Sequence[Sequence[int]], kept: KeptSequence) -> list[int]:
        """Lengths at which other prompts may leave this one, where the memory could not be cut there later."""
        if not kept.snapshots.are_needed:
            return []
        shared = {shared_length(tokens, hint) - MARGIN for hint in hints}
        return sorted({*shared, len(tokens) - 1 if not kept.snapshots.slack else len(tokens)})

    def cancel(self, number: int) -> Finish | None:
        """End the request with this id; its last record, None when it is not worked on. What it read is kept."""
        for work in self._busy:
            if work.slot.work.request.id == number:
                self._leave(work)
                return work.slot.finish(FinishReason.INTERRUPTED)
        for slot in self._lost:
            if slot.work.request.id == number:
                self._lost.remove(slot)
                slot.close()
                return slot.finish(FinishReason.INTERRUPTED)
        return None

    def step(self) -> Iterator[tuple[int, Event | SlmError]]:
        """One batch; what has come of it for each request, by its id. A `Finish` or an error is the last of a request.

        Raises `SlmError` (BUG) when llama.cpp fails.
        """
        self._take_up_lost()
        self._close_up()
        spans = self._spans()
        for batch in self._sequences.batches(spans):
            start = time.perf_counter()
            places = self._sequences.evaluate([span for span, _ in batch])
            if places is None:
                yield from self._make_room()
                return
            self._measure(batch, time.perf_counter() - start)
            for (span, work), place in zip(batch, places, strict=True):
                yield from self._evaluated(work, span, place)

    def _close_up(self) -> None:
        """Let completions stand side by side where one between them has ended: they are computed together then."""
        by_place = sorted(self._busy, key=lambda work: work.kept.number)
        for work in by_place[:0:-1]:
            moved = self._kept.closer(work.kept)
            if moved is work.kept:
                return
            work.kept, work.slot.sequence = moved, moved.number

    def _spans(self) -> list[tuple[TokenSpan, _Work]]:
        """One token of each that generates, then prompts, the one that came first before the others."""
        batch_tokens = self._sequences.batch_tokens
        chosen: list[tuple[TokenSpan, _Work]] = []
        generating = [work for work in self._busy if not work.slot.is_in_prompt]
        for work in generating:
            span = work.slot.next_span(1)
            assert span is not None
            chosen.append((span, work))
        room = batch_tokens - len(chosen)
        if generating:
            room = min(room, max(_LEAST_PIECE, int(self._speed * _MOST_WAIT_S)))
        for work in (work for work in self._busy if work.slot.is_in_prompt):
            n_evaluated = work.slot.n_evaluated
            stop = next((stop for stop in work.stops if stop > n_evaluated), n_evaluated + room)
            span = work.slot.next_span(min(room, stop - n_evaluated))
            if span is None:
                break
            chosen.append((span, work))
            room -= len(span.tokens)
        return chosen

    def _measure(self, batch: Sequence[tuple[TokenSpan, _Work]], seconds: float) -> None:
        """Learn how fast a piece is read beside answers. The deeper in a prompt, the slower: that counts at once."""
        n_tokens = sum(len(span.tokens) for span, _ in batch)
        if n_tokens < _LEAST_PIECE:
            return
        speed = n_tokens / seconds
        is_beside = any(len(span.tokens) == 1 for span, _ in batch)
        if is_beside:
            self._has_read_beside = True
            self._speed = min(speed, self._speed + _NEWEST * (speed - self._speed))
        elif not self._has_read_beside:
            self._speed = min(_FIRST_SPEED, _SHARE_ALONE * speed)

    def _evaluated(self, work: _Work, span: TokenSpan, place: int) -> Iterator[tuple[int, Event | SlmError]]:
        slot, number = work.slot, work.slot.work.request.id
        was_in_prompt = slot.is_in_prompt
        slot.evaluated(span, self._sequences.handle, place)
        work.kept.tokens.extend(span.tokens)
        if was_in_prompt:
            if slot.n_evaluated in work.stops:
                self._kept.mark(work.kept)
            n_prompt = len(slot.work.tokens)
            yield number, Prefill(min(slot.n_evaluated, n_prompt), n_prompt, work.n_cached)
        chunk = slot.chunk()
        if chunk is not None:
            yield number, chunk
        if slot.error is not None:
            self._leave(work)
            yield number, slot.error
        elif slot.is_ended:
            rest = slot.last_chunk()
            if rest.text or rest.tokens:
                yield number, rest
            self._leave(work)
            yield number, slot.finish()

    def _leave(self, work: _Work) -> None:
        self._busy.remove(work)
        self._kept.release(work.kept)
        work.slot.close()

    def _make_room(self) -> Iterator[tuple[int, Event | SlmError]]:
        """The cache is full. What nobody works on goes first; then the completion that began last waits; alone, it
        ends."""
        if self._kept.make_room():
            return
        work = self._busy.pop()
        self._kept.drop(work.kept)
        if self._busy:
            self._lost.append(work.slot)
            return
        work.slot.close()
        slot, number = work.slot, work.slot.work.request.id
        if slot.is_in_prompt:
            yield number, window_full(self.n_ctx)
        else:
            yield number, slot.finish(FinishReason.CONTEXT)

    def _take_up_lost(self) -> None:
        """What had to give up its sequence goes on when something else has ended."""
        n_needed = [slot.n_own for slot in self._lost]
        while self._lost and (not self._busy or self._plan.cells - self._n_busy() > 2 * n_needed[0]):
            slot = self._lost.popleft()
            n_needed.pop(0)
            kept = self._kept.take([*slot.held, 0], slot.work.request.prompt.owner)
            slot.begin_again(kept.number, len(kept.tokens))
            self._busy.append(_Work(slot, kept, []))

    def _n_busy(self) -> int:
        return sum(work.slot.n_own for work in self._busy)

    def keep_one(self) -> bool:
        """Write one state that is worth it to the disk, when there is time; False when there is none."""
        return self._kept.keep_one()

    def close(self) -> None:
        """Keep on the disk what is worth it, and free the KV cache. What is worked on is given up."""
        self._is_ended = True
        for work in list(self._busy):
            self._leave(work)
        for slot in self._lost:
            slot.close()
        self._lost.clear()
        if self._sequences.handle is not None:
            while self._kept.keep_one():
                pass
        self._sequences.close()
