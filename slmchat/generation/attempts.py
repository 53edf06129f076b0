"""The two attempts at an answer in a given format: how each is asked for, and which of them counts.

Knows: that a second one follows a first that was cut off, is not right or stopped at a soft limit; its room and its
seed. Refuses to know: what asks the model (a session, a pool), what is right (structured.py).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Generic, TypeVar

from slmchat.engine.requests import Limits
from slmchat.engine.results import FinishReason
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.generation.response import Response
from slmchat.generation.structured import ResponseFormat, room_for
from slmchat.ranges import SEED

# What is said when the first answer counts after all.
FALLBACK = (
    "the second answer has no end; the first one counts, and a list, a map or a text in it stops at a limit of slm's."
)

# What comes along with a text: a response, the fields of a record.
Made = TypeVar("Made")


class TryAgain(Exception):
    """A second attempt is to be made, with the settings that `Attempts` now has. `error`: why."""

    def __init__(self, error: SlmError) -> None:
        super().__init__(error.message)
        self.error = error


class Attempts(Generic[Made]):
    """One answer on its way. `sampler` and `limits` are those of the attempt that is to be made."""

    def __init__(self, response_format: ResponseFormat, sampler: SamplerSettings, limits: Limits) -> None:
        self._format = response_format
        self._is_first = True
        self._kept: tuple[Made, object] | None = None
        self.sampler = sampler.with_seed()  # settled here: the second attempt takes the next one
        self.limits = response_format.limits(limits)

    def judged(self, made: Made, text: str, reason: FinishReason) -> tuple[Made, object]:
        """The answer that counts, and its value. Raises `TryAgain`, or `SlmError` (UNSATISFIED) after the second one.

        A first answer with a list as long as the soft limit is kept: it counts when the second one has no end.
        """
        try:
            value = self._format.value(text, reason)
            problem = self._format.soft_limit_reached(value) if self._is_first else None
            if problem is None:
                return made, value
            self._kept = made, value
            self._next(is_capped=False)
            raise TryAgain(problem)
        except SlmError as error:
            if error.exit_code is not ExitCode.UNSATISFIED:
                raise
            if self._is_first:
                self._next(is_capped=True)
                raise TryAgain(error) from error
            if self._kept is None:
                raise
            return self._kept

    def _next(self, *, is_capped: bool) -> None:
        """With twice the room of the first one and, where it samples at all, the next seed."""
        self._is_first = False
        self.sampler = replace(self.sampler, seed=((self.sampler.seed or 0) + 1) % int(SEED.high))
        constraint = replace(self._format.constraint, is_capped=is_capped and self._format.constraint.is_capped)
        self.limits = replace(self.limits, max_tokens=room_for(self.limits.max_tokens), constraint=constraint)


def generate_valid(
    response_format: ResponseFormat,
    sampler: SamplerSettings,
    limits: Limits,
    ask: Callable[[SamplerSettings, Limits], Response],
    *,
    on_retry: Callable[[SlmError], None],
    on_fallback: Callable[[Response], None],
    may_retry: bool = True,
    takes_cut: bool = False,
) -> tuple[Response, object]:
    """An answer in the format and its value; the value of an interrupted one is None.

    `ask` generates once. When its answer is cut off or not right, `on_retry` hears why and it is asked a second time;
    not `may_retry`: there is one attempt, without soft limits, and `takes_cut`: when it is cut off it counts, too, its
    finish reason tells. `on_fallback` hears when the first answer counts after
    all: it stopped at a soft limit, and without that limit the second has no end. Raises `SlmError` (UNSATISFIED) when
    no answer is right.
    """
    if not may_retry:
        response_format = response_format.uncapped()
    attempts: Attempts[Response] = Attempts(response_format, sampler, limits)
    while True:
        answer = ask(attempts.sampler, attempts.limits)
        assert answer.finish is not None
        if answer.finish.reason is FinishReason.INTERRUPTED:
            return answer, None
        if takes_cut and not may_retry and answer.finish.reason.is_cut:
            return answer, None
        try:
            found, value = attempts.judged(answer, answer.text, answer.finish.reason)
            if found is not answer:
                on_fallback(found)
            return found, value
        except TryAgain as again:
            if not may_retry:
                raise again.error from again
            on_retry(again.error)
