"""How probable given texts are as the answer to a prompt (`LlamaScorer`): nothing is sampled.

Knows: which logits say it, many prompts and all of their texts in few batches, the beginning that the prompts share.
Refuses to know: what the texts mean, how probabilities are compared (generation/classify.py).

The prompts of a group are evaluated together, each in a sequence of its own behind what they share. The logits at a
prompt's end give the first token of every text; only texts of several tokens need more: each in a copy of the prompt's
sequence, all of them in one batch again.
"""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import field

from slmchat.engine.api import Finish, FinishReason, Request, Result, Score, SessionSettings, Timings, Usage
from slmchat.engine.context import check_room, window_full
from slmchat.engine.feed import Feed
from slmchat.engine.kvstore import StateKey
from slmchat.engine.loaded import LoadedModel
from slmchat.engine.probabilities import LogProbabilities
from slmchat.engine.sequences import TokenSpan
from slmchat.engine.shared_prefix import MIN_SHARED, SECOND_PROMPT_S, PrefixPool, n_common
from slmchat.engine.snapshots import has_state
from slmchat.errors import SlmError
from slmchat.lazy_dataclasses import dataclass

# Prompts of one group, and copies of them for texts of several tokens. Recurrent models pay memory for each sequence.
_ROWS, _COPIES = 48, 96
_ROWS_RECURRENT, _COPIES_RECURRENT = 8, 8


@dataclass(slots=True)
class _Row:
    """A request with its tokens; `found`: the log-probabilities of each text's tokens so far, or the `error`."""

    request: Request
    tokens: list[int]
    texts: list[list[int]]
    sequence: int = 0
    n_shared: int = 0
    found: list[list[float]] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    error: SlmError | None = None
    start: float = field(default_factory=time.perf_counter)


class LlamaScorer(PrefixPool[_Row]):
    """Scores side by side, one KV cache. Implements `Pool` for requests with `choices`."""

    def __init__(self, loaded: LoadedModel, settings: SessionSettings, key: StateKey | None = None) -> None:
        """`key`: what states on the disk depend on; None: none are kept.

        Raises `SlmError`: NO_FIT for the memory of the KV cache, DAMAGED for an adapter of another model."""
        is_recurrent = has_state(loaded.api, loaded.model)
        most, self._copies = (_ROWS_RECURRENT, _COPIES_RECURRENT) if is_recurrent else (_ROWS, _COPIES)
        super().__init__(
            loaded,
            settings,
            most=most,
            n_sequences=1 + most + self._copies,
            n_cells=settings.n_ctx + 2 * settings.batch_tokens,
            key=key,
            abortable_from=1,  # few batches, and on a slow device one of 60 tokens takes seconds
        )
        self._waiting: deque[_Row | Result] = deque()  # taken, and not worked on yet
        self._step = self._sequences.batch_tokens  # tokens that are evaluated at once
        self._probabilities = LogProbabilities(loaded.api, loaded.vocabulary.n_tokens)

    @property
    def report(self) -> str:
        """How many prompts at once, and how much they share."""
        return f"at most {self._most} rows at once, nothing is generated{self._prefix.report}"

    def _prepare(self, request: Request) -> _Row | Result:
        """On the feed's thread: the tokens of a request, or the reason why it cannot be done."""
        assert request.choices is not None
        try:
            tokens = self._vocabulary.tokenize(request.prompt)
            texts = [self._vocabulary.continued(request.prompt, tokens, text) for text in request.choices.texts]
            check_room(len(tokens) + max(map(len, texts)), self._n_ctx)
        except SlmError as error:
            return Result(request.id, error=error)
        return _Row(request, tokens, texts)

    def _run(self, feed: Feed[_Row]) -> Iterator[Result]:
        self._prefix.forget_all()
        self._waiting.clear()
        try:
            while not self._is_cancelled:
                group, passed = self._group(feed)
                yield from passed
                if group and not self._is_cancelled:
                    yield from self._scored(group)
                elif feed.is_ended and not (self._waiting or self._resubmitted):
                    return
        finally:
            feed.stop()
            self._prefix.forget_all()

    def _group(self, feed: Feed[_Row]) -> tuple[list[_Row], list[Result]]:
        """Rows that go into one batch, and what failed before."""
        group: list[_Row] = []
        passed: list[Result] = []
        self._waiting.extendleft(self._prepare(request) for request in self._resubmitted)
        self._resubmitted.clear()
        size = 0
        while len(group) < self._most:
            if self._waiting:
                item: _Row | Result | None = self._waiting.popleft()
            elif feed.is_ended or (passed and not group):
                break
            else:
                is_first = len(group) == 1 and not self._prefix.tokens  # a second prompt shows what is shared
                item = feed.take(None if self._waits or not group else SECOND_PROMPT_S if is_first else 0)
                if item is not None:
                    feed.make_room()
            if item is None:
                break
            if isinstance(item, Result):
                passed.append(item)
                continue
            own = len(item.tokens) - self._prefix.common(item.tokens)
            if group and size + own > self._step:
                self._waiting.appendleft(item)
                break
            size += own
            group.append(item)
        return group, passed

    def _scored(self, group: list[_Row]) -> Iterator[Result]:
        if self._evaluated(group):
            self._leave()
            if not self._is_cancelled:
                yield from map(_done, group)
            return
        for row in group:  # one after the other, each with the whole cache
            self._prefix.forget_all()
            is_done = self._evaluated([row])
            if self._is_cancelled:
                return
            yield _done(row) if is_done else Result(row.request.id, error=window_full(self._n_ctx))
        self._prefix.forget_all()

    def _evaluated(self, group: list[_Row]) -> bool:
        """Fill in what is found for these rows; False when the cache has no place for them."""
        self._share(group)
        if self._is_cancelled:
            return True
        for number, row in enumerate(group, 1):
            row.sequence, row.found, row.ends, row.error = number, [], [], None
            self._sequences.forget(number)
            self._prefix.begin(number, row.n_shared)
        return self._prompts(group) and (self._is_cancelled or self._rest(group))

    def _prompts(self, group: list[_Row]) -> bool:
        """Evaluate the prompts; what follows them gives the first token of each text."""
        ends: list[tuple[TokenSpan, _Row | None]] = []
        for row in group:
            own = row.tokens[row.n_shared :]
            for begin in range(0, len(own), self._step):
                piece = own[begin : begin + self._step]
                is_last = begin + len(piece) == len(own)
                span = TokenSpan(row.sequence, row.n_shared + begin, piece, needs_logits=is_last)
                ends.append((span, row if is_last else None))
        for batch in self._sequences.batches(ends):
            places = self._sequences.evaluate([span for span, _ in batch])
            if places is None:
                return False
            if self._is_cancelled:
                return True
            for (_, ended), place in zip(batch, places, strict=True):
                if ended is not None:
                    self._begin(ended, place)
        return True

    def _rest(self, group: list[_Row]) -> bool:
        """Evaluate texts of several tokens, as many at once as there are copies."""
        longer = [
            (row, number, text if row.request.choices.has_end else text[:-1])
            for row in group
            if row.request.choices is not None and row.error is None
            for number, text in enumerate(row.texts)
            if len(text) > 1 or row.request.choices.has_end
        ]
        for begin in range(0, len(longer), self._copies):
            asked: list[tuple[TokenSpan, tuple[_Row, int]]] = []
            for number, (row, which, tokens) in enumerate(longer[begin : begin + self._copies], self._most + 1):
                self._sequences.forget(number)
                self._sequences.copy(row.sequence, number, len(row.tokens))
                asked.append((TokenSpan(number, len(row.tokens), tokens, needs_all_logits=True), (row, which)))
            for batch in self._sequences.batches(asked):
                places = self._sequences.evaluate([span for span, _ in batch])
                if places is None:
                    return False
                if self._is_cancelled:
                    return True
                for (span, (row, which)), place in zip(batch, places, strict=True):
                    self._note(row, which, place - len(span.tokens) + 1)
            for number in range(self._most + 1, self._most + 1 + self._copies):
                self._sequences.forget(number)
        return True

    def _begin(self, row: _Row, place: int) -> None:
        """The logits at a prompt's end stand at `place`: the first token of each text. Numbers only, else an error."""
        try:
            follows = self._probabilities.after(self._sequences.handle, place)
            row.found = [[follows.of(text[0])] for text in row.texts]
            row.ends = [0.0] * len(row.texts)
        except SlmError as error:
            row.error = error

    def _note(self, row: _Row, which: int, place: int) -> None:
        """The logits of a text's tokens stand from `place` on: each says how probable the next one is."""
        text = row.texts[which]
        try:
            for number, token in enumerate(text[1:]):
                row.found[which].append(self._probabilities.after(self._sequences.handle, place + number).of(token))
            if row.request.choices is not None and row.request.choices.has_end:
                follows = self._probabilities.after(self._sequences.handle, place + len(text) - 1)
                row.ends[which] = follows.of_any(self._vocabulary.turn_ends)
        except SlmError as error:
            row.error = error

    def _share(self, group: list[_Row]) -> None:
        """Settle how much of each prompt is shared; another prefix comes where the group has more in common."""
        prefix = self._prefix
        if len(group) > 1:
            first = group[0].tokens
            common = min(n_common(first, row.tokens) for row in group[1:])
            if common >= MIN_SHARED and prefix.common(first) != common:
                prefix.replace(first[:common])
        for row in group:
            shared = prefix.common(row.tokens)
            row.n_shared = shared if shared == len(prefix.tokens) or self._sequences.can_copy_part else 0

    def _leave(self) -> None:
        """Take the rows out of the cache; the shared prefix stays."""
        for number in range(1, self._most + self._copies + 1):
            self._sequences.forget(number)


def _done(row: _Row) -> Result:
    if row.error is not None:
        return Result(row.request.id, error=row.error)
    now = time.perf_counter()
    has_end = row.request.choices is not None and row.request.choices.has_end
    scores = tuple(
        Score(tuple(found), end if has_end else None) for found, end in zip(row.found, row.ends, strict=True)
    )
    usage = Usage(len(row.tokens), row.n_shared, 0)
    finish = Finish(FinishReason.STOP, usage, Timings(now - row.start, 0.0, None), 0, ())
    return Result(row.request.id, finish=finish, scores=scores)
