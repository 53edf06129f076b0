"""Completions of many prompts at once, in a pool: each comes to its own completion, or to its own error.

Knows: order, second attempts, that one prompt which fails stops no other.
Refuses to know: where prompts come from; files and records of a batch (generation/batch/).
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

from slmchat.engine.api import Limits, ModelInfo, Pool, Request, Result
from slmchat.engine.cancellable import CancelScope
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import structured
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
        # of an answer in a format the seed is settled here, because a second attempt takes the next
        self._sampler = sampler if response_format is None else sampler.with_seed()
        self._limits = limits
        self._prepared: dict[int, PreparedPrompt] = {}  # those that are under way

    def run(self, pool: Pool, cancellable: CancelScope) -> list[Completion | SlmError]:
        """A completion for each prompt, in order, or the error that it ended with: INTERRUPTED after `cancel`.

        Raises `SlmError` as `Pool.run` does. The pool is closed.
        """
        made: list[Completion | SlmError] = [
            SlmError("this was cancelled before it was done.", exit_code=ExitCode.INTERRUPTED) for _ in self._prompts
        ]
        second: set[int] = set()
        results: Iterable[Result] = ()
        try:
            results = pool.run(self._requests())  # before it can be cancelled: what is cancelled must have begun
            with cancellable(pool):
                for done in results:
                    try:
                        made[done.id] = self._completion(done)
                    except SlmError as error:
                        if error.exit_code is ExitCode.UNSATISFIED and done.id not in second:
                            second.add(done.id)
                            pool.resubmit(self._again(done.id))
                        else:
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
                yield Request(number, prepared.prompt, self._sampler, self._limits_of(prepared))

    def _again(self, number: int) -> Request:
        prepared = self._prepared[number]
        attempt = structured.second_attempt(self._sampler, self._limits_of(prepared))
        return Request(number, prepared.prompt, *attempt)

    def _limits_of(self, prepared: PreparedPrompt) -> Limits:
        limits = prepared.limits(self._limits, self._info)
        return limits if prepared.response_format is None else prepared.response_format.limits(limits)

    def _completion(self, done: Result) -> Completion:
        if done.error is not None:
            raise done.error
        prepared = self._prepared[done.id]
        response = response_of(done, prepared.prompt, keeps_space=prepared.keeps_space)
        return completion_of(response, self._value(response))

    def _value(self, response: Response) -> object:
        if self._format is None or response.finish is None:
            return None
        return self._format.value(response.text, response.finish.reason)
