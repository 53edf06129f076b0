"""What is not in the documents: how far a search and a model are believed.

Every number here was found on one half of the questions of tests/data/ask and measured on the other one
(`python -m tests.ask_quality`; docs/ask.md has the table).

Knows: the numbers, which models are very small. Refuses to know: searches, prompts.
"""

import math
from collections.abc import Sequence

from slmchat.engine.api import TokenLogprob
from slmchat.engine.quotations import OPENING
from slmchat.models.backend import BackendModel, LocalModel
from slmchat.retrieval.index import Passage
from slmchat.retrieval.nearest import nearness
from slmchat.retrieval.prompts import NONE

LEAST_NEARNESS = 0.4
"""How near by its words the nearest passage has to be."""

LEAST_SIMILARITY = 0.5
"""A passage that is so near by its meaning needs no words of the question."""

MOST_NONE = 0.5
"""Where a model finds it more probable than this that nothing answers the question, nothing does."""

MOST_NONE_SMALL = 1.0
"""The same for a very small model, which is not believed."""

VERY_SMALL = 700_000_000
"""Parameters below which a model is very small: it picks other sentences than the right one more often than not."""

ALTERNATIVES = 20
"""Tokens that are looked at beside the first one of the quotations."""


def is_near(question: str, passages: Sequence[Passage]) -> bool:
    """Whether a search has found anything that a question may be about, by its words or by its meaning."""
    return any(
        nearness(question, passage.chunk.text) >= LEAST_NEARNESS or (passage.similarity or 0.0) >= LEAST_SIMILARITY
        for passage in passages
    )


def is_very_small(model: BackendModel) -> bool:
    """Whether it is a model of this device with few parameters; where nobody knows how many, it is not."""
    return isinstance(model, LocalModel) and 0 < (model.installed.parameters or 0) < VERY_SMALL


def is_believed(logprobs: Sequence[TokenLogprob], model: BackendModel) -> bool:
    """Whether a model that would rather have written that nothing answers the question is right."""
    return none_share(logprobs) > (MOST_NONE_SMALL if is_very_small(model) else MOST_NONE)


def none_share(logprobs: Sequence[TokenLogprob]) -> float:
    """How probable the model finds it that nothing answers the question, against that something does: 0 to 1.

    `logprobs`: of the quotations it was made to write. 0 where the engine tells none.
    """
    if not logprobs:
        return 0.0
    first = logprobs[0]
    told = dict(first.alternatives)
    told[first.text] = first.logprob
    none, quotes = (
        sum(math.exp(logprob) for text, logprob in told.items() if text.strip() and start.startswith(text.strip()))
        for start in (NONE, OPENING.format(1))
    )
    return none / (none + quotes) if none else 0.0
