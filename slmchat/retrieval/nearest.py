"""How near a text is to a question by its words, and which sentences are the nearest.

In a small index nearly every word is rare, and what the question has beside its subject ("how long", "last") would
weigh more than the subject. So a word weighs by its length here, and not by how many texts have it. That told questions
with an answer from others better than weights from the index did (docs/decisions.md).

A very small model copies the first line that it has read, whatever was asked. So it may quote nothing but the sentence
that has most of the question's words, or one of those that have just as many. That one is right for seven questions of
ten (docs/ask.md), which is more than such a model finds by itself. A larger model finds others than the words do: it
quotes what it likes, and answers from both.

Knows: how words of a question weigh, words that are nearly the same. Refuses to know: which model reads it.
"""

import math
from collections.abc import Sequence

from slmchat.engine.quotations import QuotablePassages
from slmchat.retrieval.index import Passage
from slmchat.retrieval.words import UNSPACED_PIECE, is_prefix, pieces_of, terms_of, words_of

# Sentences of one question: so many at most, each so near as this part of the nearest one.
_MOST_SENTENCES, _NEARLY = 3, 1.0

# A word that begins with the question's counts for so much, and one that has so many of its pieces for that part.
_PREFIX, _PIECES, _LEAST_PIECES = 0.9, 0.7, 0.6
# Letters that a short word may have behind it: "last" begins "lasts". Its pieces say nothing ("very" is in "every").
_ENDING, _LONGEST_WORD = 2, 64


def nearest_sentences(question: str, passages: Sequence[Passage]) -> tuple[str, ...]:
    """The sentences nearest to a question, the nearest first; none where no sentence has a word of it.

    Headings are not among them: they have the words and say nothing.
    """
    texts = tuple(passage.chunk.text for passage in passages)
    sentences = [
        each for each in dict.fromkeys(QuotablePassages.of(texts).sentences()) if not is_heading(each, passages)
    ]
    terms = terms_of(question)
    matches = [_matches(terms, sentence) for sentence in sentences]
    weights = [_rarity(len(sentences), sum(row[place] > 0 for row in matches)) for place in range(len(terms))]
    scores = [sum(weight * match for weight, match in zip(weights, row, strict=True)) for row in matches]
    best = max(scores, default=0.0)
    order = sorted(range(len(sentences)), key=lambda place: -scores[place])[:_MOST_SENTENCES]
    return tuple(sentences[place] for place in order if scores[place] >= _NEARLY * best) if best > 0 else ()


def is_heading(text: str, passages: Sequence[Passage]) -> bool:
    """Whether a text is a title that stands above or in a passage."""
    bare = text.strip("# \t\n")
    return any(bare in (passage.chunk.title, *passage.chunk.heading) for passage in passages)


def nearness(question: str, text: str) -> float:
    """How much of what the question's words weigh is in a text, 0 to 1."""
    terms = terms_of(question)
    weights = [math.log(1 + len(term)) for term in terms]
    found = sum(weight * match for weight, match in zip(weights, _matches(terms, text), strict=True))
    return found / sum(weights) if terms else 0.0


def _rarity(n_sentences: int, n_having: int) -> float:
    """What a word weighs that so many of the sentences have (BM25's inverse document frequency)."""
    return math.log(1 + (n_sentences - n_having + 0.5) / (n_having + 0.5))


def _matches(terms: Sequence[str], text: str) -> list[float]:
    """How much of each word of a question is in a text: 1 where it stands there, less where a word is like it."""
    words = words_of(text)
    known, pieces = frozenset(words), frozenset(pieces_of(words))
    return [_match(term, known, pieces) for term in terms]


def _match(term: str, words: frozenset[str], pieces: frozenset[str]) -> float:
    if term in words:
        return 1.0
    longest = _LONGEST_WORD if is_prefix(term) else len(term) + _ENDING
    if any(word.startswith(term) and len(word) <= longest for word in words):
        return _PREFIX
    wanted = pieces_of([term])
    share = sum(piece in pieces for piece in wanted) / len(wanted)
    if len(wanted) > 1 and len(wanted[0]) < len(term) and len(wanted[0]) == UNSPACED_PIECE:
        return min(1.0, share / _LEAST_PIECES)  # a whole clause of a script without spaces, particles among its pieces
    return _PIECES * share if is_prefix(term) and share >= _LEAST_PIECES else 0.0
