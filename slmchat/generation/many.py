"""Completions of many prompts at once, in a pool: each comes to its own completion, or to its own error.

Knows: order, second attempts, that one prompt which fails stops no other.
Refuses to know: where prompts come from; files and records of a batch (generation/batch/).
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

from slmchat.engine.api import Limits, ModelInfo, Pool, Request, Result
from slmchat.engine.cancellable import CancelScope
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.generation.attempts import Attempts, TryAgain
from slmchat.generation.generator import PreparedPrompt
from slmchat.generation.response import Completion, Response, completion_of, response_of
from slmchat.generation.structured import ResponseFormat

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
        response_format: ResponseFormat | None = None,
    ) -> None:
        """With a seed every prompt has the same one. The prompts are laid out as the pool has room for them."""
        self._prompts = prompts
        self._info = info
        self._format = response_format
        self._sampler = sampler
        self._limits = limits
        self._prepared: dict[int, PreparedPrompt] = {}  # those that are under way
        self._attempts: dict[int, Attempts[Response]] = {}

    def run(self, pool: Pool, cancellable: CancelScope) -> list[Completion | SlmError]:
        """A completion for each prompt, in order, or the error that it ended with: INTERRUPTED after `cancel`.

        Raises `SlmError` as `Pool.run` does. The pool is closed.
        """
        made: list[Completion | SlmError] = [
            SlmError("this was cancelled before it was done.", exit_code=ExitCode.INTERRUPTED) for _ in self._prompts
        ]
        results: Iterable[Result] = ()
        try:
            results = pool.run(self._requests())  # before it can be cancelled: what is cancelled must have begun
            with cancellable(pool):
                for done in results:
                    try:
                        made[done.id] = self._completion(done)
                    except TryAgain:
                        pool.resubmit(self._request(done.id))
                    except SlmError as error:
                        made[done.id] = error
        finally:
            if isinstance(results, Generator):  # as after Ctrl-C: what is under way ends here and not in a traceback
                results.close()
            pool.close()
        return made

    def _requests(self) -> Iterator[Request | Result]:
        for number, prepare in enumerate(self._prompts):
            try:
                prepared = self._prepared[number] = prepare()
            except SlmError as error:
                yield Result(number, error=error)
            else:
                if self._format is not None:
                    assert prepared.response_format is not None
                    limits = prepared.limits(self._limits, self._info)
                    self._attempts[number] = Attempts(prepared.response_format, self._sampler, limits)
                yield self._request(number)

    def _request(self, number: int) -> Request:
        prepared = self._prepared[number]
        attempts = self._attempts.get(number)
        if attempts is None:
            return Request(number, prepared.prompt, self._sampler, prepared.limits(self._limits, self._info))
        return Request(number, prepared.prompt, attempts.sampler, attempts.limits)

    def _completion(self, done: Result) -> Completion:
        if done.error is not None:
            raise done.error
        prepared = self._prepared[done.id]
        response = response_of(done, prepared.prompt, keeps_space=prepared.keeps_space)
        attempts = self._attempts.get(done.id)
        if attempts is None or response.finish is None:
            return completion_of(response)
        return completion_of(*attempts.judged(response, response.text, response.finish.reason))
