"""What is not in the documents: how far a search and a model are believed.

Every number here was found on the questions of tests/data/ask, and what it does was measured on documents that were
left out when it was found (`python -m tests.ask_quality`; docs/ask.md has the table).

Knows: the numbers, which models are very small. Refuses to know: searches, prompts.
"""

import math
from collections.abc import Sequence

from slmchat.engine.results import TokenLogprob
from slmchat.models.backend import BackendModel, LocalModel
from slmchat.retrieval.index import Passage
from slmchat.retrieval.nearest import nearness

LEAST_NEARNESS, LEAST_NEARNESS_SMALL = 0.3, 0.4
"""How near by its words the nearest passage has to be, where there is no embedding model. What a very small model says
of it does not count, so that more is decided here."""

SIMILARITY_WEIGHT = 0.7
LEAST_SUM, LEAST_SUM_SMALL = 0.7, 0.77
LEAST_SIMILARITY = 0.6
"""With an embedding model: how much the nearness by words and the similarity by meaning, times its weight, have to be
together; what is so similar needs no words of it. A logistic regression on both has the weights 6.1 and 5.5 with
all-MiniLM-L6-v2, and refuses as many as 1 and 0.7. Another model may find all things more alike, and refuse less."""

MODEL_WEIGHT = 0.4
LEAST_WITH_MODEL, LEAST_SUM_WITH_MODEL = 0.67, 1.1
"""Where a model of this device that is not very small is asked whether the best passage states the answer: how much the
nearness (with an embedding model: the sum) and the probability of its Yes, times its weight, have to be together. So it
is asked only where its word can decide, and its word alone never does."""
LEAST_YES = 0.5
"""How probable its Yes has to be at most where a passage is so similar that it needs no words of the question."""

VERY_SMALL = 700_000_000
"""Parameters below which a model is very small: it picks other sentences than the right one more often than not."""


def is_near(question: str, passages: Sequence[Passage], model: BackendModel) -> bool:
    """Whether a search has found anything that may answer a question, by its words and, where it has compared them, by
    its meaning."""
    is_small = is_very_small(model)
    near, similar = _nearest(question, passages)
    if similar is None:
        return near >= (LEAST_NEARNESS_SMALL if is_small else LEAST_NEARNESS)
    least = LEAST_SUM_SMALL if is_small else LEAST_SUM
    return similar >= LEAST_SIMILARITY or near + SIMILARITY_WEIGHT * similar >= least


def least_yes(question: str, passages: Sequence[Passage]) -> float:
    """How probable a model has to find it that the best passage states the answer. 0 or less: it need not be asked;
    above 1: whatever it says, nothing is near enough."""
    near, similar = _nearest(question, passages)
    if similar is None:
        return (LEAST_WITH_MODEL - near) / MODEL_WEIGHT
    least = (LEAST_SUM_WITH_MODEL - near - SIMILARITY_WEIGHT * similar) / MODEL_WEIGHT
    return min(least, LEAST_YES) if similar >= LEAST_SIMILARITY else least


def yes_probability(logprobs: Sequence[TokenLogprob]) -> float | None:
    """How much more probable Yes is than No as the first token of an answer, 0 to 1: what both have together counts as
    all. None where neither of them is told."""
    if not logprobs:
        return None
    told = {logprobs[0].text: logprobs[0].logprob, **dict(logprobs[0].alternatives)}
    yes, no = (
        sum(math.exp(logprob) for text, logprob in told.items() if text.strip().lower() == word)
        for word in ("yes", "no")
    )
    return yes / (yes + no) if yes + no > 0 else None


def is_very_small(model: BackendModel) -> bool:
    """Whether it is a model of this device with few parameters; where nobody knows how many, it is not."""
    return isinstance(model, LocalModel) and 0 < (model.installed.parameters or 0) < VERY_SMALL


def _nearest(question: str, passages: Sequence[Passage]) -> tuple[float, float | None]:
    """The best nearness by words and the best similarity by meaning; None where no meaning was compared."""
    near = max((nearness(question, passage.chunk.text) for passage in passages), default=0.0)
    similar = max((passage.similarity for passage in passages if passage.similarity is not None), default=None)
    return near, similar
