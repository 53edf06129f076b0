"""What an answer is made from, and what of that stands below it.

A model that is not very small finds other sentences than the words of the question do, and each of both is right where
the other is wrong. So it answers from what it has quoted and from the nearest sentences. What it does not refer to is
then not shown: half of it is beside the point (docs/decisions.md).

Knows: which texts go together, what counts as a reference. Refuses to know: the words of the prompts, who shows it.
"""

from collections.abc import Sequence

from slmchat.models.backend import BackendModel
from slmchat.retrieval import thresholds
from slmchat.retrieval.index import Passage
from slmchat.retrieval.nearest import nearest_sentences
from slmchat.retrieval.quotations import Quotation, numbered, quotations_in, quotations_of

NEAREST_ROOM = 200
"""Tokens for the nearest sentences in a prompt."""

_MOST_NEAREST = 600  # characters of them


def has_nearest(model: BackendModel) -> bool:
    """Whether the nearest sentences stand beside what a model quotes. A very small one can quote nothing else, and with
    models at an endpoint it was not measured."""
    return model.host is None and not thresholds.is_very_small(model)


def evidence(question: str, copied: str, passages: Sequence[Passage], model: BackendModel) -> tuple[Quotation, ...]:
    """What the model has quoted, and behind it the nearest sentences that are not in that. Nothing where it has quoted
    nothing: then nothing answers the question."""
    own = quotations_in(copied, passages)
    if not own or not has_nearest(model):
        return tuple(own)
    texts = [each.text for each in own]
    n_left = _MOST_NEAREST
    for sentence in nearest_sentences(question, passages):
        n_left -= len(sentence)
        if n_left >= 0:
            texts.append(sentence)
    return tuple(quotations_of(texts, passages))


def referred(
    quotations: Sequence[Quotation], numbers: Sequence[int], text: str, *, numbers_anew: bool = True
) -> tuple[Quotation, ...]:
    """Those to which an answer refers: by number, in this order, then those that it has copied without one. All of them
    where it does neither: it was made from all. Not `numbers_anew`: by the numbers that they have."""
    named = [quotations[number - 1] for number in numbers]
    copied = [each for each in quotations if each not in named and _is_copied(each, text)]
    chosen = [*named, *copied] or quotations
    return tuple(numbered(chosen) if numbers_anew else sorted(chosen, key=lambda each: each.number))


def _is_copied(quotation: Quotation, text: str) -> bool:
    """Whether a text has all of it, but for white space and the mark at its end."""
    return " ".join(quotation.text.split()).rstrip(".,;:") in " ".join(text.split())
