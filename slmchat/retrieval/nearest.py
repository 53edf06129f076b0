"""The sentences that are nearest to a question by its words.

A very small model copies the first line that it has read, whatever was asked. So it is given a choice that it cannot
spoil: of all sentences of its passages only those few that have the question's words. The right one is the first of
them for two questions of three, and among eight of them for nine of ten (docs/ask.md), which is more than such a model
finds by itself.

Knows: how words of a question weigh, words that are nearly the same. Refuses to know: which model reads it.
"""

import math
from collections.abc import Sequence

from slmchat.engine.quotations import QuotablePassages
from slmchat.retrieval.words import PREFIX_FROM, pieces_of, terms_of, words_of

MOST = 3
"""Sentences that a very small model may choose from."""

# A word that begins with the question's counts for so much, and one that has so many of its pieces for that part.
_PREFIX, _PIECES, _LEAST_PIECES = 0.9, 0.7, 0.6


def nearest_sentences(question: str, passages: Sequence[str], most: int = MOST) -> tuple[str, ...]:
    """The nearest `most` sentences, the nearest first; the passages themselves where no sentence has a word of it."""
    sentences = list(dict.fromkeys(QuotablePassages.of(tuple(passages)).sentences()))
    terms = terms_of(question)
    found = [_Words(sentence) for sentence in sentences]
    matches = [[words.has(term) for term in terms] for words in found]
    weights = [_weight(len(sentences), sum(row[place] > 0 for row in matches)) for place in range(len(terms))]
    scores = [sum(weight * match for weight, match in zip(weights, row, strict=True)) for row in matches]
    best = sorted(range(len(sentences)), key=lambda place: -scores[place])[:most]
    return tuple(sentences[place] for place in best if scores[place] > 0) or tuple(passages)


def _weight(n_sentences: int, n_having: int) -> float:
    """What a word weighs that so many of the sentences have (BM25's inverse document frequency)."""
    return math.log(1 + (n_sentences - n_having + 0.5) / (n_having + 0.5))


class _Words:
    """The words of a sentence."""

    def __init__(self, sentence: str) -> None:
        words = words_of(sentence)
        self._words = frozenset(words)
        self._pieces = frozenset(pieces_of(words))

    def has(self, term: str) -> float:
        """How much of a word of the question is in it, 0 to 1."""
        if term in self._words:
            return 1.0
        if len(term) >= PREFIX_FROM and any(word.startswith(term) for word in self._words):
            return _PREFIX
        pieces = pieces_of([term])
        share = sum(piece in self._pieces for piece in pieces) / len(pieces)
        return _PIECES * share if len(pieces) > 1 and share >= _LEAST_PIECES else 0.0
