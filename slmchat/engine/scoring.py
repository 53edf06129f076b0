"""How probable given texts are as the answer to a prompt (`LlamaScorer`): nothing is sampled.

Knows: which logits say it, many prompts and all of their texts in few batches, the beginning that the prompts share.
Refuses to know: what the texts mean, how probabilities are compared (generation/classify.py).

The prompts of a group are evaluated together, each in a sequence of its own behind what they share: the prefix of all
of them, and the text or the picture that several questions are about (branches.py). The logits at a prompt's end give
the first token of every text; only texts of several tokens need more: each in a copy of the prompt's sequence, all of
them in one batch again.
"""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import field, replace

from slmchat.engine import native
from slmchat.engine.branches import Branch, branches
from slmchat.engine.context import check_room, tokens_within, window_full
from slmchat.engine.feed import Feed
from slmchat.engine.image_tokens import is_image_token
from slmchat.engine.kvstore import StateKey
from slmchat.engine.loaded import LoadedModel
from slmchat.engine.probabilities import LogProbabilities
from slmchat.engine.requests import Request, SessionSettings
from slmchat.engine.results import Finish, FinishReason, Result, Score, Timings, Usage
from slmchat.engine.sequences import TokenSpan
from slmchat.engine.shared_prefix import MIN_SHARED, SECOND_PROMPT_S, PrefixPool, n_common
from slmchat.engine.snapshots import has_state
from slmchat.errors import SlmError
from slmchat.lazy_dataclasses import dataclass

# Prompts of one group, copies of them for texts of several tokens, and beginnings that some of the prompts share. The
# sum is below 256 (llama.cpp: LLAMA_MAX_SEQ). Recurrent models pay memory for each sequence.
_ROWS, _COPIES, _BRANCHES = 48, 96, 24
# Tokens of prompts that have nothing in common, in one group: a processor computes no faster with more of them, and
# each is compared with the cells of all (with 510 tokens of 30 prompts a token took 1.2 times as long).
_APART = 128
_ROWS_RECURRENT, _COPIES_RECURRENT, _BRANCHES_RECURRENT = 8, 8, 4


@dataclass(slots=True)
class _Row:
    """A request with its tokens; `found`: the log-probabilities of each text's tokens so far, or the `error`.

    `n_shared`: tokens that stand in its sequence before it is evaluated, of which others have evaluated `n_cached`.
    """

    request: Request
    tokens: list[int]
    texts: list[list[int]]
    sequence: int = 0
    n_shared: int = 0
    n_cached: int = 0
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
        self._branches = _BRANCHES_RECURRENT if is_recurrent else _BRANCHES
        super().__init__(
            loaded,
            settings,
            most=most,
            n_sequences=1 + most + self._copies + self._branches,
            n_cells=settings.n_ctx + 2 * settings.batch_tokens,
            key=key,
            abortable_from=1,  # few batches, and on a slow device one of 60 tokens takes seconds
            has_images=True,
        )
        self._waiting: deque[_Row | Result] = deque()  # taken, and not worked on yet
        self._step = self._sequences.batch_tokens  # tokens that are evaluated at once
        self._apart = self._step if native.has_gpu_backend() else min(_APART, self._step)
        self._probabilities = LogProbabilities(loaded.api, loaded.vocabulary.n_tokens)

    @property
    def report(self) -> str:
        """How many prompts at once, and how much they share."""
        return f"at most {self._most} rows at once, nothing is generated{self._prefix.report}"

    def _prepare(self, request: Request) -> _Row | Result:
        """On the feed's thread: the tokens of a request, or the reason why it cannot be done."""
        assert request.choices is not None
        try:
            tokens = tokens_within(self._vocabulary, request.prompt, self._n_ctx)
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
        """Rows that go into one batch, and what failed before. A prompt longer than a batch goes with one more that has
        something in common with it: else nothing would ever show what all of them begin with."""
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
            n_known = self._n_known(item, group)
            own = len(item.tokens) - n_known
            is_apart = n_known == self._prefix.common(item.tokens)
            shows_shared = len(group) == 1 and not is_apart and own <= self._step
            if group and not shows_shared and size + own > (self._apart if is_apart else self._step):
                self._waiting.appendleft(item)
                break
            size += own
            group.append(item)
        return group, passed

    def _n_known(self, row: _Row, group: list[_Row]) -> int:
        """How many tokens of a prompt are evaluated already, or with the prompt before it."""
        known = self._prefix.common(row.tokens)
        common = n_common(group[-1].tokens, row.tokens) if group else 0
        return common if common >= known + MIN_SHARED else known

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
        self._show(group[0])
        self._share(group)
        if self._is_cancelled:
            return True
        for number, row in enumerate(group, 1):
            row.sequence, row.found, row.ends, row.error = number, [], [], None
            self._sequences.forget(number)
        made = branches([row.tokens for row in group], [row.n_shared for row in group], self._branches)
        if not self._begin_branches(group, made):
            return False
        if self._is_cancelled:
            return True
        in_branch = {place for branch in made for place in branch.members}
        for place, row in enumerate(group):
            if place not in in_branch:
                self._prefix.begin(row.sequence, row.n_shared)
        return self._prompts(group) and (self._is_cancelled or self._rest(group))

    def _begin_branches(self, group: list[_Row], made: list[Branch]) -> bool:
        """Evaluate what the prompts of each branch begin with, and let them begin so; False: there is no place."""
        spans: list[tuple[TokenSpan, None]] = []
        for sequence, branch in enumerate(made, 1 + self._most + self._copies):
            first = group[branch.members[0]]
            self._sequences.forget(sequence)
            self._prefix.begin(sequence, first.n_shared)
            begin = self._read_images(first, sequence, first.n_shared, branch.n_tokens)
            if begin is None:
                return False
            if self._is_cancelled:
                return True
            spans += [(span, None) for span in self._spans(first, sequence, begin, branch.n_tokens)]
        for batch in self._sequences.batches(spans):
            if self._sequences.evaluate([span for span, _ in batch]) is None:
                return False
            if self._is_cancelled:
                return True
        for sequence, branch in enumerate(made, 1 + self._most + self._copies):
            for number, place in enumerate(branch.members):
                row = group[place]
                self._sequences.copy(sequence, row.sequence, self._position(row, branch.n_tokens))
                row.n_cached = branch.n_tokens if number else row.n_shared
                row.n_shared = branch.n_tokens
        return True

    def _show(self, row: _Row) -> None:
        """Let the pixels of a prompt's images be at hand: those of many waiting prompts are not."""
        for part in row.request.prompt.parts:
            if part.image is not None and self._vocabulary.vision is not None:
                self._vocabulary.vision.tokens_of(part.image)

    def _read_images(self, row: _Row, sequence: int, begin: int, end: int) -> int | None:
        """Evaluate the tokens from `begin` on as far as images are among those before `end`, one piece after the other;
        where the rest begins. None: there is no place for them."""
        last = next((place for place in range(end, begin, -1) if is_image_token(row.tokens[place - 1])), begin)
        if last > begin:
            self._show(row)
            if self._sequences.read(sequence, row.tokens, begin, last) is None:
                return None
        return last

    def _spans(self, row: _Row, sequence: int, begin: int, end: int) -> list[TokenSpan]:
        """Tokens of a prompt, no images, in pieces of a batch each; nobody needs their logits."""
        return [
            TokenSpan(
                sequence,
                self._position(row, first),
                row.tokens[first : min(end, first + self._step)],
                needs_logits=False,
            )
            for first in range(begin, end, self._step)
        ]

    def _position(self, row: _Row, n_tokens: int) -> int:
        return self._sequences.position(row.tokens, n_tokens)

    def _prompts(self, group: list[_Row]) -> bool:
        """Evaluate the prompts; what follows them gives the first token of each text."""
        ends: list[tuple[TokenSpan, _Row | None]] = []
        for row in group:
            begin = self._read_images(row, row.sequence, row.n_shared, len(row.tokens))
            if begin is None:
                return False
            if self._is_cancelled:
                return True
            if begin == len(row.tokens):  # it ends in an image
                self._begin(row, -1)
                continue
            *before, last = self._spans(row, row.sequence, begin, len(row.tokens))
            ends += [(span, None) for span in before]
            ends.append((replace(last, needs_logits=True), row))
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
            asked: list[tuple[TokenSpan, tuple[_Row, int, int]]] = []
            for number, (row, which, tokens) in enumerate(longer[begin : begin + self._copies], self._most + 1):
                self._sequences.forget(number)
                behind = self._position(row, len(row.tokens))
                self._sequences.copy(row.sequence, number, behind)
                for first in range(0, len(tokens), self._step):  # a text may be longer than a batch
                    piece = tokens[first : first + self._step]
                    asked.append((TokenSpan(number, behind + first, piece, needs_all_logits=True), (row, which, first)))
            for batch in self._sequences.batches(asked):
                places = self._sequences.evaluate([span for span, _ in batch])
                if places is None:
                    return False
                if self._is_cancelled:
                    return True
                for (span, (row, which, first)), place in zip(batch, places, strict=True):
                    n_tokens = len(span.tokens)
                    self._note(row, which, range(first, first + n_tokens), place - n_tokens + 1)
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

    def _note(self, row: _Row, which: int, evaluated: range, place: int) -> None:
        """The logits of these tokens of a text stand from `place` on: each says how probable the next one is."""
        text = row.texts[which]
        try:
            for number in evaluated:
                follows = self._probabilities.after(self._sequences.handle, place + number - evaluated.start)
                if number + 1 < len(text):
                    row.found[which].append(follows.of(text[number + 1]))
                else:
                    row.ends[which] = follows.of_any(self._vocabulary.turn_ends)
        except SlmError as error:
            row.error = error

    def _share(self, group: list[_Row]) -> None:
        """Settle how much of each prompt is shared with the prefix, which is what all prompts begin with.

        What one prompt does not share of it is cut off. Where the memory can be cut, that costs nothing, and the prefix
        follows each group: it grows by a text that all of the group are about. Else such a text is a branch, and what
        is left of a prefix that is cut is evaluated again, as the prompt would have to do by itself.
        """
        prefix, first = self._prefix, group[0].tokens
        known = min(prefix.common(row.tokens) for row in group)
        common = min((n_common(first, row.tokens) for row in group[1:]), default=0)
        if MIN_SHARED <= known < len(prefix.tokens):
            prefix.cut(known)
        if known < MIN_SHARED <= common:
            prefix.replace(first[:common])
        elif self._sequences.can_copy_part and known == len(prefix.tokens) and common >= known + MIN_SHARED:
            prefix.grow(first[:common])
        for row in group:
            shared = prefix.common(row.tokens)
            row.n_shared = shared if shared == len(prefix.tokens) or self._sequences.can_copy_part else 0
            row.n_cached = row.n_shared

    def _leave(self) -> None:
        """Take the rows out of the cache; the shared prefix stays."""
        for number in range(1, 1 + self._most + self._copies + self._branches):
            self._sequences.forget(number)


def _done(row: _Row) -> Result:
    if row.error is not None:
        return Result(row.request.id, error=row.error)
    now = time.perf_counter()
    has_end = row.request.choices is not None and row.request.choices.has_end
    scores = tuple(
        Score(tuple(found), end if has_end else None) for found, end in zip(row.found, row.ends, strict=True)
    )
    usage = Usage(len(row.tokens), row.n_cached, 0)
    finish = Finish(FinishReason.STOP, usage, Timings(now - row.start, 0.0, None), 0, ())
    return Result(row.request.id, finish=finish, scores=scores)
