"""Which of several answers to one prompt counts: the one that most of them give, or the most probable one.

Several answers of a small model that samples differ, and where they agree they are right more often than one alone
(Wang et al. 2022, "Self-Consistency Improves Chain of Thought Reasoning"). Free text never agrees to the letter: of it
the answer counts that the model itself found most probable, by the mean logarithm of the probability of its tokens, so
that a short answer is not preferred for being short.

Knows: what two answers have in common, votes, ties. Refuses to know: how answers are made (best_of.py), models.
"""

import json
from collections.abc import Sequence
from enum import StrEnum

from slmchat.engine.results import FinishReason, TokenLogprob
from slmchat.errors import SlmError
from slmchat.generation.numbers import last_number
from slmchat.lazy_dataclasses import dataclass


class Vote(StrEnum):
    """What answers are compared by."""

    VALUE = "value"  # an answer in a given format: what it says
    NUMBER = "number"  # the last number in it, as solutions of GSM8K are compared (Cobbe et al. 2021)
    TEXT = "text"  # its words, whatever the case, the white space and the full stop
    LOGPROB = "logprob"  # not at all: the most probable one counts


@dataclass(frozen=True, slots=True)
class AnswerCandidate:
    """One of the answers. `value`: what it says where it has a format. `mean_logprob`: the mean natural logarithm of
    the probability of its tokens, without a thought; None where it is not told. `error`: why there is no answer."""

    seed: int
    text: str = ""
    value: object = None
    mean_logprob: float | None = None
    reason: FinishReason = FinishReason.STOP
    n_tokens: int = 0
    error: SlmError | None = None

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """The higher, the better: one that has something to say, has come to its end, is probable."""
        logprob = float("-inf") if self.mean_logprob is None else self.mean_logprob
        return bool(self.text.strip()), self.reason is FinishReason.STOP, logprob


@dataclass(frozen=True, slots=True)
class Ballot:
    """The answers, and which of them counts. `ballots`: what each of them votes for, None for no vote.

    `n_agreeing`: so many say what the chosen one says, itself included; 1 where they were not compared.
    """

    candidates: tuple[AnswerCandidate, ...]
    vote: Vote
    ballots: tuple[str | None, ...]
    chosen: int
    n_agreeing: int

    @property
    def lacks_scores(self) -> bool:
        """Whether the probabilities by which it was to be chosen were not told."""
        return self.vote is Vote.LOGPROB and all(one.mean_logprob is None for one in self.candidates)

    @property
    def n_tokens(self) -> int:
        """Tokens of all answers together."""
        return sum(candidate.n_tokens for candidate in self.candidates)

    def as_json(self) -> dict[str, object]:
        """The value of `best_of` in `--json` and in the records of a batch (docs/commands.md)."""
        return {
            "n": len(self.candidates),
            "vote": self.vote.value,
            "agree": self.n_agreeing,
            "chosen": self.chosen,
            "completion_tokens": self.n_tokens,
            "candidates": [
                {
                    "seed": candidate.seed,
                    **({} if self.vote is Vote.LOGPROB else {"answer": ballot}),
                    "mean_logprob": None if candidate.mean_logprob is None else round(candidate.mean_logprob, 6),
                    "completion_tokens": candidate.n_tokens,
                    "finish_reason": None if candidate.error else candidate.reason.value,
                    **({"error": candidate.error.message} if candidate.error else {}),
                }
                for candidate, ballot in zip(self.candidates, self.ballots, strict=True)
            ],
        }

    def __str__(self) -> str:
        """One line for `-v`."""
        n = len(self.candidates)
        if self.vote is Vote.LOGPROB:
            told = self.candidates[self.chosen].mean_logprob
            return f"the most probable of {n} answers" + ("" if told is None else f" (mean logprob {told:.3f})")
        return f"{self.n_agreeing} of {n} answers agree: {self.ballots[self.chosen] or 'none of them has a vote'}"


def elected(candidates: Sequence[AnswerCandidate], vote: Vote) -> Ballot:
    """The answer that most candidates give; of those that give it, and where several have as many votes, the best one.

    The best one has something to say, has come to its end, and is the most probable; the first one where nothing else
    decides. Without a vote (no number in it, say) a candidate counts only when no other one has one. Raises the error
    of the first candidate when all of them have failed.
    """
    there = [number for number, candidate in enumerate(candidates) if candidate.error is None]
    if not there:
        assert candidates[0].error is not None
        raise candidates[0].error
    ballots = tuple(None if one.error else ballot_of(one, vote) for one in candidates)
    counts = {ballot: ballots.count(ballot) for ballot in ballots if ballot is not None}

    def standing(number: int) -> tuple[int, tuple[bool, bool, float], int]:
        ballot = ballots[number]
        return (0 if ballot is None else counts[ballot]), candidates[number].rank, -number

    votes = {ballot: max(candidates[n].rank for n in there if ballots[n] == ballot) for ballot in counts}
    if counts:  # the best of its voters settles a tie between two answers
        winner = max(counts, key=lambda ballot: (counts[ballot], votes[ballot], -ballots.index(ballot)))
        there = [number for number in there if ballots[number] == winner]
    chosen = max(there, key=standing)
    ballot = ballots[chosen]
    return Ballot(tuple(candidates), vote, ballots, chosen, 1 if ballot is None else counts[ballot])


def ballot_of(candidate: AnswerCandidate, vote: Vote) -> str | None:
    """What this answer votes for: two that vote for the same are equal texts. None: it has no vote."""
    if vote is Vote.VALUE:
        return json.dumps(candidate.value, sort_keys=True, ensure_ascii=False)
    if vote is Vote.NUMBER:
        return last_number(candidate.text)
    if vote is Vote.TEXT:
        return " ".join(candidate.text.split()).strip(" .!").casefold() or None
    return None


def mean_logprob(logprobs: Sequence[TokenLogprob]) -> float | None:
    """The mean of the natural logarithms of the tokens' probabilities; None for no tokens, or none that are told."""
    return sum(token.logprob for token in logprobs) / len(logprobs) if logprobs else None
