"""Completions of many prompts at once, in a pool: each comes to its own completion, or to its own error.

Knows: order, that one prompt which fails stops no other.
Refuses to know: where prompts come from; files and records of a batch (generation/batch/).
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

from slmchat.engine.api import ModelInfo, Pool
from slmchat.engine.cancellable import CancelScope
from slmchat.engine.requests import Limits, Request
from slmchat.engine.results import Result
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.generation.best_of import ONE, BestOf, Candidates
from slmchat.generation.generator import PreparedPrompt
from slmchat.generation.response import Completion

# Lays one prompt out. Raises `SlmError` for one that cannot be asked.
Preparing = Callable[[], PreparedPrompt]


class ManyCompletions:
    """Prompts with the same settings on their way through a pool."""

    def __init__(
        self,
        prompts: Sequence[Preparing],
        sampler: SamplerSettings,
        limits: Limits,
        info: ModelInfo,
        *,
        asked: BestOf = ONE,
        is_sanitized: bool = True,
    ) -> None:
        """With a seed every prompt has the same one. The prompts are laid out as the pool has room for them. `asked`:
        the best of so many answers to each of them."""
        self._prompts = prompts
        self._info = info
        self._sampler = sampler
        self._limits = limits
        self._asked = asked
        self._is_sanitized = is_sanitized
        self._under_way: dict[int, Candidates] = {}

    def run(
        self, pool: Pool, cancellable: CancelScope, on_answer: Callable[[], None] = lambda: None
    ) -> list[Completion | SlmError]:
        """A completion for each prompt, in order, or the error that it ended with: INTERRUPTED after `cancel`.

        `on_answer` hears of each answer that has come. Raises `SlmError` as `Pool.run` does. The pool is closed.
        """
        made: list[Completion | SlmError] = [
            SlmError("this was cancelled before it was done.", exit_code=ExitCode.INTERRUPTED) for _ in self._prompts
        ]
        results: Iterable[Result] = ()
        try:
            results = pool.run(self._requests())  # before it can be cancelled: what is cancelled must have begun
            with cancellable(pool):
                for done in results:
                    number = done.id // self._asked.n
                    candidates = self._under_way.get(number)
                    if candidates is None:  # it never became a question
                        assert done.error is not None
                        made[number] = done.error
                        continue
                    again = candidates.take(done)
                    if again is not None:
                        pool.resubmit(again)
                        continue
                    on_answer()
                    if candidates.is_complete:
                        made[number] = _completion(candidates)
                        del self._under_way[number]
        finally:
            if isinstance(results, Generator):  # as after Ctrl-C: what is under way ends here and not in a traceback
                results.close()
            pool.close()
        return made

    def _requests(self) -> Iterator[Request | Result]:
        for number, prepare in enumerate(self._prompts):
            first = number * self._asked.n
            try:
                prepared = prepare()
            except SlmError as error:
                yield Result(first, error=error)
                continue
            candidates = self._under_way[number] = Candidates(
                self._asked,
                first,
                prepared.prompt,
                self._sampler,
                prepared.limits(self._limits, self._info),
                prepared.response_format,
                keeps_space=prepared.keeps_space,
                is_sanitized=self._is_sanitized,
            )
            yield from candidates.requests


def _completion(candidates: Candidates) -> Completion | SlmError:
    try:
        return candidates.completion()
    except SlmError as error:
        return error
