"""`slm eval --best-of N`: of several answers to an item one counts, by what the task can compare.

Where answers have a vote (a number, words, a call) that of the majority counts. Instructions have a program that
verifies them, which whoever gave them has too: so the answer counts that it finds least wrong with. Between equals the
most probable one (generation/ballot.py).

Knows: the requests and results of one item. Refuses to know: pools, groups, how an answer is graded.
"""

from collections.abc import Iterator
from dataclasses import field, replace

from slmchat.engine.requests import Request
from slmchat.engine.results import FinishReason, Result
from slmchat.evaluation.records import ItemResult
from slmchat.generation.ballot import AnswerCandidate, Vote, elected, mean_logprob
from slmchat.generation.best_of import logprobs_of_answer, sampler_of
from slmchat.lazy_dataclasses import dataclass


def requests_of(asked: Request, n: int) -> Iterator[Request]:
    """The requests of an item, of which `asked` would be the only one; their ids are `n * asked.id` and the next."""
    if n == 1 or asked.choices is not None:  # scores are the same every time
        yield replace(asked, id=n * asked.id)
        return
    sampler = asked.sampler.with_seed()
    limits = replace(asked.limits, top_logprobs=0)
    for number in range(n):
        yield replace(asked, id=n * asked.id + number, sampler=sampler_of(sampler, number), limits=limits)


@dataclass(slots=True)
class ItemVotes:
    """The answers to one item, as they come; `n` of them are expected."""

    n: int
    made: dict[int, tuple[ItemResult, float | None]] = field(default_factory=dict)

    def add(self, request: Request, result: ItemResult, done: Result, *, is_raw: bool) -> None:
        """One more answer."""
        logprobs = logprobs_of_answer(done.logprobs, request.prompt, keeps_space=is_raw)
        self.made[done.id] = result, mean_logprob(logprobs)

    @property
    def is_complete(self) -> bool:
        return len(self.made) == self.n

    def elected(self) -> ItemResult:
        """The answer that counts, with the tokens of all."""
        found = [self.made[number] for number in sorted(self.made)]
        if len(found) == 1:
            return found[0][0]
        results = [result for result, _ in found]
        least = min(len(result.failed) for result in results)
        has_votes = any(result.vote for result in results)
        stand = [pair for pair in found if has_votes or len(pair[0].failed) == least]
        ballot = elected([_candidate(*pair) for pair in stand], Vote.TEXT if has_votes else Vote.LOGPROB)
        return replace(
            stand[ballot.chosen][0],
            n_answers=len(results),
            completion_tokens=sum(result.completion_tokens for result in results),
        )


def _candidate(result: ItemResult, logprob: float | None) -> AnswerCandidate:
    """What votes is the answer as it counts; an answer without one has no vote, whatever it says."""
    is_whole = result.finish == FinishReason.STOP
    reason = FinishReason.STOP if is_whole else FinishReason.LENGTH
    return AnswerCandidate(0, result.vote, mean_logprob=logprob, reason=reason)
