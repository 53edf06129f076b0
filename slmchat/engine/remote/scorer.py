"""Choices at an endpoint, from what it tells of the first token of an answer (`RemoteScorer`).

Knows: which told tokens begin which choice. Refuses to know: connections, threads (pool.py).

No API has a field for the probability of a text that is given. Most tell the most probable tokens at each place of an
answer: the first place says which choice is begun, as long as no told token begins two of them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from slmchat.engine.api import Pool
from slmchat.engine.requests import Limits, Request
from slmchat.engine.results import Result, Score, TokenLogprob
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import SlmError, usage_error

# OpenAI's most; vLLM and Ollama have the same.
_TOLD = 20


class RemoteScorer:
    """Scores of choices side by side. Implements `Pool` for requests with `choices`."""

    def __init__(self, pool: Pool, address: str) -> None:
        """`pool`: completions of the endpoint; closed with this one. `address`: for messages."""
        self._pool = pool
        self._address = address
        self._choices: dict[int, tuple[str, ...]] = {}

    @property
    def report(self) -> str:
        """How many requests at once."""
        return self._pool.report

    def run(self, requests: Iterator[Request | Result]) -> Iterator[Result]:
        """Score the choices of each request. Raises `SlmError` as the pool does."""
        return map(self._scored, self._pool.run(map(self._asked, requests)))

    def resubmit(self, request: Request) -> None:
        """Work on this request too, before those that wait."""
        asked = self._asked(request)
        assert isinstance(asked, Request)
        self._pool.resubmit(asked)

    def cancel(self) -> None:
        """End `run` soon; from any thread or a signal handler."""
        self._pool.cancel()

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def _asked(self, request: Request | Result) -> Request | Result:
        if isinstance(request, Result) or request.choices is None:
            return request
        self._choices[request.id] = request.choices.texts
        limits = Limits(max_tokens=1, top_logprobs=_TOLD)
        return replace(request, sampler=SamplerSettings(temperature=0), limits=limits, choices=None)

    def _scored(self, done: Result) -> Result:
        texts = self._choices.pop(done.id, ())
        if done.error is not None or not texts:
            return done
        try:
            if not done.logprobs or not done.logprobs[0].alternatives:
                raise usage_error(
                    f"--choices needs the probabilities of tokens, which {self._address} does not tell.",
                    'a choice that is generated: --regex "(yes|no)" or --fields "mood enum(good|bad)"',
                )
            return replace(done, scores=_scores(done.logprobs[0], texts))
        except SlmError as error:
            return Result(done.id, error=error)


def _scores(told: TokenLogprob, texts: Sequence[str]) -> tuple[Score, ...]:
    """The probability that an answer begins as each choice does. Raises `SlmError` (USAGE) where that is not known.

    A choice that no told token begins is not more probable than the least probable of them.
    """
    shares = [0.0] * len(texts)
    wanted = [text.strip() for text in texts]
    for token, logprob in told.alternatives:
        begun = token.strip()
        meant = [place for place, text in enumerate(wanted) if begun and text.startswith(begun)]
        if len(meant) > 1:
            names = " and ".join(wanted[place] for place in meant[:2])
            raise usage_error(
                f"an endpoint tells the first token of an answer only, and '{begun}' begins {names}.",
                "choices that begin differently, or a model of this machine",
            )
        if meant:
            shares[meant[0]] += math.exp(logprob)
    least = min(logprob for _, logprob in told.alternatives)
    return tuple(Score((math.log(share) if share > 0 else least,)) for share in shares)
