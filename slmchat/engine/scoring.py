"""How probable given texts are as the answer to a prompt (`LlamaScorer`): nothing is sampled.

Knows: which logits say it, many prompts and all of their texts in few batches, the beginning that the prompts share.
Refuses to know: what the texts mean, how probabilities are compared (generation/classify.py).

The prompts of a group are evaluated together, each in a sequence of its own behind what they share. The logits at a
prompt's end give the first token of every text; only texts of several tokens need more: each in a copy of the prompt's
sequence, all of them in one batch again.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from slmchat.engine.adapters import Adapters
from slmchat.engine.api import Adapter, Done, Finish, FinishReason, Job, Score, SessionSettings, Timings, Usage
from slmchat.engine.context import check_room
from slmchat.engine.feed import Feed
from slmchat.engine.probabilities import LogProbabilities
from slmchat.engine.sequences import Sequences, Stretch
from slmchat.engine.vocabulary import Vocabulary
from slmchat.errors import ExitCode, SlmError

_TRUNK = 0  # the sequence that holds what the prompts share

# Prompts of one group, and copies of them for texts of several tokens. Recurrent models pay memory for each sequence.
_ROWS, _COPIES = 48, 96
_ROWS_RECURRENT, _COPIES_RECURRENT = 8, 8

# How long a group waits for a second prompt (what they share is then known), in seconds.
_SECOND_S = 0.05
_MIN_SHARED = 8


@dataclass(slots=True)
class _Row:
    """A job with its tokens; `found`: the log-probabilities of each text's tokens so far, or the `error`."""

    job: Job
    tokens: list[int]
    texts: list[list[int]]
    sequence: int = 0
    n_shared: int = 0
    found: list[list[float]] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    error: SlmError | None = None
    start: float = field(default_factory=time.perf_counter)


class LlamaScorer:
    """Scores side by side, one KV cache. Implements `Pool` for jobs with `choices`."""

    def __init__(self, api: ModuleType, model: Any, vocabulary: Vocabulary, settings: SessionSettings) -> None:
        """Raises `SlmError` (NO_FIT) when the memory of the KV cache cannot be had."""
        is_recurrent = api.llama_model_is_recurrent(model) or api.llama_model_is_hybrid(model)
        self._most, self._copies = (_ROWS_RECURRENT, _COPIES_RECURRENT) if is_recurrent else (_ROWS, _COPIES)
        self._vocabulary = vocabulary
        self._n_ctx = settings.n_ctx
        self._is_cancelled = False
        self._sequences = Sequences(
            api,
            model,
            settings,
            n_sequences=1 + self._most + self._copies,
            n_cells=settings.n_ctx + 2 * settings.batch_tokens,
            is_cancelled=lambda: self._is_cancelled,
            abortable_from=1,  # few batches, and on a slow device one of 60 tokens takes seconds
        )
        self._step = self._sequences.batch_tokens  # tokens that are evaluated at once
        self._probabilities = LogProbabilities(api, vocabulary.n_tokens)
        self._feed: Feed[_Row] | None = None
        self._again: list[Job] = []
        self._trunk: list[int] = []
        self._n_planted = 0

    @property
    def report(self) -> str:
        """How many prompts at once, and how much they share."""
        shared = f"; {self._n_planted:,} tokens of every prompt were evaluated once" if self._n_planted else ""
        return f"at most {self._most} rows at once, nothing is generated{shared}"

    def lay(self, known: Adapters, chosen: Sequence[Adapter]) -> None:
        """Let these LoRA adapters count. Raises `SlmError` (DAMAGED) when one does not belong to this model."""
        known.apply(self._sequences.handle, [adapter for adapter in chosen if adapter.scale])

    def run(self, jobs: Iterator[Job | Done]) -> Iterator[Done]:
        """Work on the jobs, as `Pool` says."""
        self._is_cancelled = False
        self._feed = Feed(jobs, self._prepare, ahead=self._most)
        return self._run(self._feed)

    def again(self, job: Job) -> None:
        """Work on this job too, before those that wait."""
        self._again.append(job)

    def cancel(self) -> None:
        """End the `run` that goes on; from any thread or a signal handler."""
        self._is_cancelled = True
        if self._feed is not None:
            self._feed.wake()

    def close(self) -> None:
        """Free the KV cache."""
        self._sequences.close()

    def _prepare(self, job: Job) -> _Row | Done:
        """On the feed's thread: the tokens of a job, or the reason why it cannot be done."""
        assert job.choices is not None
        try:
            tokens = self._vocabulary.tokenize(job.prompt)
            texts = [self._vocabulary.continued(job.prompt, tokens, text) for text in job.choices.texts]
            check_room(len(tokens) + max(map(len, texts)), self._n_ctx)
        except SlmError as error:
            return Done(job.id, error=error)
        return _Row(job, tokens, texts)

    def _run(self, feed: Feed[_Row]) -> Iterator[Done]:
        self._forget()
        held: _Row | None = None  # what had no room in the last group
        try:
            while not self._is_cancelled:
                group, passed, held = self._group(feed, held)
                yield from passed
                if group and not self._is_cancelled:
                    yield from self._scored(group)
                elif feed.is_ended and not (held or self._again):
                    return
        finally:
            feed.stop()
            self._forget()

    def _group(self, feed: Feed[_Row], held: _Row | None) -> tuple[list[_Row], list[Done], _Row | None]:
        """Rows that go into one batch, what failed before, and a row that is one too many."""
        group: list[_Row] = []
        passed: list[Done] = []
        waiting: list[_Row | Done] = [self._prepare(job) for job in self._again]
        self._again.clear()
        waiting += [held] if held else []
        size = 0
        while len(group) < self._most:
            item: _Row | Done | None
            if waiting:
                item = waiting.pop(0)
            elif feed.is_ended or (passed and not group):
                break
            else:
                item = feed.take(None if not group else _SECOND_S if len(group) == 1 and not self._trunk else 0)
                if item is not None:
                    feed.make_room()
            if item is None:
                break
            if isinstance(item, Done):
                passed.append(item)
                continue
            own = len(item.tokens) - _n_common(self._trunk, item.tokens)
            if group and size + own > self._step:
                return group, passed, item
            size += own
            group.append(item)
        return group, passed, None

    def _scored(self, group: list[_Row]) -> Iterator[Done]:
        if self._evaluated(group):
            self._leave()
            if not self._is_cancelled:
                yield from map(_done, group)
            return
        for row in group:  # one after the other, each with the whole cache
            self._forget()
            is_done = self._evaluated([row])
            if self._is_cancelled:
                return
            yield _done(row) if is_done else Done(row.job.id, error=_full(self._n_ctx))
        self._forget()

    def _evaluated(self, group: list[_Row]) -> bool:
        """Fill in what is found for these rows; False when the cache has no place for them."""
        self._share(group)
        if self._is_cancelled:
            return True
        for number, row in enumerate(group, 1):
            row.sequence, row.found, row.ends, row.error = number, [], [], None
            self._sequences.forget(number)
            if row.n_shared:
                self._sequences.copy(_TRUNK, number, row.n_shared)
        return self._prompts(group) and (self._is_cancelled or self._rest(group))

    def _prompts(self, group: list[_Row]) -> bool:
        """Evaluate the prompts; what follows them gives the first token of each text."""
        ends: list[tuple[Stretch, _Row | None]] = []
        for row in group:
            own = row.tokens[row.n_shared :]
            for begin in range(0, len(own), self._step):
                piece = own[begin : begin + self._step]
                is_last = begin + len(piece) == len(own)
                stretch = Stretch(row.sequence, row.n_shared + begin, piece, needs_logits=is_last)
                ends.append((stretch, row if is_last else None))
        for batch in self._sequences.batches(ends):
            places = self._sequences.evaluate([stretch for stretch, _ in batch])
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
            (row, number, text if row.job.choices.has_end else text[:-1])
            for row in group
            if row.job.choices is not None and row.error is None
            for number, text in enumerate(row.texts)
            if len(text) > 1 or row.job.choices.has_end
        ]
        for begin in range(0, len(longer), self._copies):
            asked: list[tuple[Stretch, tuple[_Row, int]]] = []
            for number, (row, which, tokens) in enumerate(longer[begin : begin + self._copies], self._most + 1):
                self._sequences.forget(number)
                self._sequences.copy(row.sequence, number, len(row.tokens))
                asked.append((Stretch(number, len(row.tokens), tokens, needs_all_logits=True), (row, which)))
            for batch in self._sequences.batches(asked):
                places = self._sequences.evaluate([stretch for stretch, _ in batch])
                if places is None:
                    return False
                if self._is_cancelled:
                    return True
                for (stretch, (row, which)), place in zip(batch, places, strict=True):
                    self._note(row, which, place - len(stretch.tokens) + 1)
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
            if row.job.choices is not None and row.job.choices.has_end:
                follows = self._probabilities.after(self._sequences.handle, place + len(text) - 1)
                row.ends[which] = follows.of_any(self._vocabulary.turn_ends)
        except SlmError as error:
            row.error = error

    def _share(self, group: list[_Row]) -> None:
        """Settle how much of each prompt the trunk holds; plant another one where the group has more in common."""
        common = _n_common_of_all([row.tokens for row in group])
        if len(group) > 1 and common >= _MIN_SHARED and _n_common(self._trunk, group[0].tokens) != common:
            self._plant(group[0].tokens[:common])
        for row in group:
            shared = _n_common(self._trunk, row.tokens)
            row.n_shared = shared if shared == len(self._trunk) or self._sequences.can_copy_part else 0

    def _plant(self, tokens: list[int]) -> None:
        self._sequences.forget_all()
        self._trunk = []
        for begin in range(0, len(tokens), self._step):
            piece = Stretch(_TRUNK, begin, tokens[begin : begin + self._step], needs_logits=False)
            if self._sequences.evaluate([piece]) is None or self._is_cancelled:
                self._sequences.forget_all()
                return
        self._trunk = tokens
        self._n_planted = len(tokens)

    def _leave(self) -> None:
        """Take the rows out of the cache; the trunk stays."""
        for number in range(1, self._most + self._copies + 1):
            self._sequences.forget(number)

    def _forget(self) -> None:
        self._sequences.forget_all()
        self._trunk = []


def _done(row: _Row) -> Done:
    if row.error is not None:
        return Done(row.job.id, error=row.error)
    now = time.perf_counter()
    has_end = row.job.choices is not None and row.job.choices.has_end
    scores = tuple(
        Score(tuple(found), end if has_end else None) for found, end in zip(row.found, row.ends, strict=True)
    )
    usage = Usage(len(row.tokens), row.n_shared, 0)
    finish = Finish(FinishReason.STOP, usage, Timings(now - row.start, 0.0, None), 0, ())
    return Done(row.job.id, finish=finish, scores=scores)


def _n_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning; the last token of `other` is left out, its logits are needed."""
    count = 0
    for a, b in zip(one, other[:-1], strict=False):
        if a != b:
            break
        count += 1
    return count


def _n_common_of_all(prompts: Sequence[list[int]]) -> int:
    return min(_n_common(prompts[0], prompt) for prompt in prompts[1:]) if len(prompts) > 1 else 0


def _full(n_ctx: int) -> SlmError:
    return SlmError(
        f"the context window of {n_ctx:,} tokens is full.", hint="a larger window: --ctx N", exit_code=ExitCode.CONTEXT
    )
