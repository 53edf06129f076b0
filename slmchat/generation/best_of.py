"""Several answers to one prompt, made side by side in a pool, of which one counts (`Candidates`).

They differ by their seeds alone: answer k (from 0) has the seed S + 2k, where S is the seed of the answer that would
have been made without the others, and S + 2k + 1 is left for its second attempt (attempts.py). So the same S gives the
same answers, and no two of them are made with the same seed.

Knows: seeds, requests and results of one prompt, what is compared by default.
Refuses to know: which pool that is and who else is in it (many.py, batch/answers.py), how votes count (ballot.py).
"""

from dataclasses import replace

from slmchat.conversation.thinking import ThinkingSplitter
from slmchat.engine.requests import Limits, Prompt, Request
from slmchat.engine.results import Result, TokenLogprob
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import SlmError, usage_error
from slmchat.generation.attempts import Attempts, TryAgain
from slmchat.generation.ballot import AnswerCandidate, Vote, elected, mean_logprob
from slmchat.generation.prompt import begins_thought
from slmchat.generation.response import Completion, Response, completion_of, response_of
from slmchat.generation.structured import ResponseFormat
from slmchat.lazy_dataclasses import dataclass
from slmchat.ranges import SEED

# The seed of one answer and that of its second attempt.
_SEEDS_EACH = 2


@dataclass(frozen=True, slots=True)
class BestOf:
    """How many answers are made, and what they are compared by. `has_logprobs`: their probabilities are asked for."""

    n: int = 1
    vote: Vote = Vote.LOGPROB
    has_logprobs: bool = True


ONE = BestOf()
"""One answer, as ever."""


def best_of(
    n: int, vote: str | None, response_format: ResponseFormat | None, sampler: SamplerSettings, *, is_remote: bool
) -> BestOf:
    """What `--best-of N` and `--vote` ask for. `vote` None: an answer in a given format by what it says, free
    text by its probability. `is_remote`: an endpoint is asked for probabilities only where they decide, as some refuse.

    Raises `SlmError` (USAGE): a vote that does not suit; a sampler that gives the same each time.
    """
    if n == 1:
        return ONE
    if vote == Vote.VALUE and response_format is None:
        raise usage_error(
            "--vote value compares answers in a given format.",
            "with --fields, --schema, --regex or --grammar; or --vote text; for numbers: --vote number",
        )
    if sampler.temperature <= 0 or sampler.top_k == 1:
        why = "at temperature 0" if sampler.temperature <= 0 else "with --top-k 1"
        raise usage_error(
            f"{why} all {n} answers would be the same.", "--temp 0.8 with --best-of; or one answer, without it"
        )
    chosen = Vote(vote) if vote is not None else Vote.LOGPROB if response_format is None else Vote.VALUE
    return BestOf(n, chosen, has_logprobs=chosen is Vote.LOGPROB or not is_remote)


def sampler_of(sampler: SamplerSettings, number: int) -> SamplerSettings:
    """That of answer `number`, from the one of the first, which has a seed."""
    return replace(sampler, seed=((sampler.seed or 0) + _SEEDS_EACH * number) % int(SEED.high))


class Candidates:
    """The answers to one prompt on their way through a pool; one of them, when nothing else is asked for."""

    def __init__(
        self,
        asked: BestOf,
        first: int,
        prompt: Prompt,
        sampler: SamplerSettings,
        limits: Limits,
        response_format: ResponseFormat | None,
        *,
        keeps_space: bool,
        is_sanitized: bool = True,
    ) -> None:
        """Their requests have the ids from `first` on. `keeps_space`, `is_sanitized`: as `response_of` has them."""
        self._asked = asked
        self._first = first
        self._prompt = prompt
        self._keeps_space = keeps_space
        self._is_sanitized = is_sanitized
        self._has_own_logprobs = limits.top_logprobs is not None
        if asked.n > 1:
            sampler = sampler.with_seed()
            if asked.has_logprobs and limits.top_logprobs is None:
                limits = replace(limits, top_logprobs=0)
        self._limits = limits
        self._samplers = [sampler] if asked.n == 1 else [sampler_of(sampler, number) for number in range(asked.n)]
        self._attempts: list[Attempts[Response] | None] = [
            None if response_format is None else Attempts(response_format, each, limits) for each in self._samplers
        ]
        self._made: dict[int, Completion | SlmError] = {}
        self.unsuitable: Completion | None = None  # a single answer that came and is not what was asked for

    @property
    def is_complete(self) -> bool:
        """Whether all of them have come."""
        return len(self._made) == self._asked.n

    @property
    def requests(self) -> list[Request]:
        """What the pool is asked for."""
        return [self._request(number) for number in range(self._asked.n)]

    def take(self, done: Result) -> Request | None:
        """Note what came of a request; the request with which it is asked again."""
        number = done.id - self._first
        self.unsuitable = None
        try:
            self._made[number] = self._judged(number, done)
        except TryAgain:
            return self._request(number)
        except SlmError as error:
            self._made[number] = error
        return None

    def completion(self) -> Completion:
        """The one that counts, when it `is_complete`. Raises `SlmError`: why the first failed, when all have."""
        made = [self._made[number] for number in range(self._asked.n)]
        if self._asked.n == 1:
            if isinstance(made[0], SlmError):
                raise made[0]
            return made[0]
        ballot = elected(list(map(self._candidate, range(self._asked.n), made)), self._asked.vote)
        completion = made[ballot.chosen]
        assert isinstance(completion, Completion)
        logprobs = completion.logprobs if self._has_own_logprobs else ()
        return replace(completion, best_of=ballot, logprobs=logprobs)

    def _request(self, number: int) -> Request:
        attempts = self._attempts[number]
        if attempts is None:
            return Request(self._first + number, self._prompt, self._samplers[number], self._limits)
        return Request(self._first + number, self._prompt, attempts.sampler, attempts.limits)

    def _judged(self, number: int, done: Result) -> Completion:
        if done.error is not None:
            raise done.error
        response = response_of(done, self._prompt, keeps_space=self._keeps_space, is_sanitized=self._is_sanitized)
        attempts = self._attempts[number]
        if attempts is None or response.finish is None:
            return completion_of(response)
        self.unsuitable = completion_of(response) if self._asked.n == 1 else None
        return completion_of(*attempts.judged(response, response.text, response.finish.reason))

    def _candidate(self, number: int, made: Completion | SlmError) -> AnswerCandidate:
        if isinstance(made, SlmError):
            return AnswerCandidate(self._samplers[number].seed or 0, error=made)
        return AnswerCandidate(
            made.seed,
            made.text,
            made.value,
            mean_logprob(logprobs_of_answer(made.logprobs, self._prompt, keeps_space=self._keeps_space)),
            made.finish_reason,
            made.usage.completion_tokens,
        )


def logprobs_of_answer(
    logprobs: tuple[TokenLogprob, ...], prompt: Prompt, *, keeps_space: bool
) -> tuple[TokenLogprob, ...]:
    """Those of the answer, without a thought before it. `keeps_space`: nothing is taken for a thought."""
    if keeps_space:
        return logprobs
    splitter = ThinkingSplitter(opened=begins_thought(prompt))
    for number, token in enumerate(logprobs):
        if any(not piece.is_thinking for piece in splitter.feed(token.text)):
            return logprobs[number:]
    return ()
