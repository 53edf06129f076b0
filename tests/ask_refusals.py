"""How many questions without an answer a search alone refuses, by words and with an embedding model: docs/ask.md.

    python tests/ask_refusals.py [--no-vectors] [--one] [--top N]

All 235 questions of tests/data/ask are looked up in an index of its twelve documents, or with `--one` in an index of
the document alone that each is about. No chat model is needed: what one adds that is asked, ask_belief.py tells. Three
things are told: what slm's own thresholds do; what a threshold does to questions about a document that was left out when
it was found; and the weights of a logistic regression on both features, which is where those of slm's thresholds come
from. By vectors: the real all-MiniLM-L6-v2.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ask_samples import Question, questions, write_documents
from retrieval_recall import all_minilm

from slmchat.reporting import LogReporter
from slmchat.retrieval import thresholds
from slmchat.retrieval.answers import TOP
from slmchat.retrieval.index import DocumentIndex, Passage
from slmchat.retrieval.nearest import nearness

GOAL_WRONG = 0.09
"""Of the questions with an answer, so many may be refused where a threshold is found: it is to be below a tenth."""


@dataclass(frozen=True)
class Found:
    """What a search found for a question: how near by words, how similar by meaning (0: nothing was compared)."""

    asked: Question
    passages: tuple[Passage, ...]
    near: float
    similar: float

    @property
    def has_answer(self) -> bool:
        return self.asked.span is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-vectors", action="store_true")
    parser.add_argument("--one", action="store_true", help="an index of one document for each question")
    parser.add_argument("--top", type=int, default=TOP)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = found_of(Path(directory), has_vectors=not options.no_vectors, top=options.top, is_one=options.one)
    print(table(found, has_vectors=not options.no_vectors))


def found_of(directory: Path, *, has_vectors: bool, top: int = TOP, is_one: bool = False) -> list[Found]:
    """What a search finds for every question. `is_one`: in an index of the document alone that each is about."""
    documents = write_documents(directory / "documents")
    index = DocumentIndex(None, lambda text: -(-len(text) // 4), all_minilm(directory) if has_vectors else None)
    index.add([documents], LogReporter(), lambda: False)
    found = [_found(asked, index, top, documents if is_one else None) for asked in questions()]
    index.close()
    return found


def _found(asked: Question, index: DocumentIndex, top: int, directory: Path | None) -> Found:
    within = [] if directory is None else [directory / (asked.document or "halden-r3.md")]
    passages = index.search(asked.question, top, [path.resolve() for path in within])
    near = max((nearness(asked.question, passage.chunk.text) for passage in passages), default=0.0)
    similar = max((passage.similarity or 0.0 for passage in passages), default=0.0)
    return Found(asked, tuple(passages), near, similar)


def table(found: Sequence[Found], *, has_vectors: bool) -> str:
    """What was measured."""
    right = np.array([each.has_answer for each in found])
    near = np.array([each.near for each in found])
    both = np.stack([near, [each.similar for each in found]], 1) if has_vectors else near[:, None]
    lines = [f"{len(found)} questions, {(~right).sum()} of them without an answer"]
    for name, is_small in (("very small models", True), ("models at an endpoint, before they are asked", False)):
        thresholds.is_very_small = lambda _model, is_small=is_small: is_small  # type: ignore[misc]
        near_enough = np.array([thresholds.is_near(each.asked.question, each.passages, _ANY) for each in found])
        lines.append(f"slm's thresholds, {name}: {told(~near_enough, right)}")
    by_weight: list[tuple[str, Callable[[Any, Any], Any]]] = [("a threshold on nearness", lambda _x, _y: [1.0, 0, 0])]
    if has_vectors:
        slm_weights = [1.0, thresholds.SIMILARITY_WEIGHT, 0]
        by_weight = [("a threshold on slm's sum", lambda _x, _y: slm_weights), ("a regression on both", regression)]
    for name, fitted in by_weight:
        refused = held_out(both, right, groups(found), fitted)
        lines.append(f"{name}, documents left out: {told(refused, right)}")
        for what, chosen in (
            ("about a subject of the documents", [each.asked.document is not None for each in found]),
            ("about something else", [each.asked.document is None for each in found]),
            ("in English", [each.asked.language == "en" for each in found]),
            ("in German", [each.asked.language == "de" for each in found]),
        ):
            lines.append(f"  {what}: {told(refused[chosen], right[chosen])}")
        kinds = np.array([each.asked.kind or "" for each in found])
        by_kind = [
            f"{kind} {refused[kinds == kind].sum()} of {(kinds == kind).sum()}" for kind in sorted({*kinds} - {""})
        ]
        lines.append(f"  refused without an answer, by kind: {', '.join(by_kind)}")
    if has_vectors:
        lines.append(f"weights on all of them: {np.round(regression(both, right), 2)}")
    return "\n".join(lines)


_ANY: Any = None


def told(refused: Any, right: Any) -> str:
    """How many are refused, rightly and wrongly."""
    n_wrong = f"{refused[right].mean():.0%} ({refused[right].sum()} of {right.sum()})" if right.any() else "none there"
    return f"refused without an answer {refused[~right].mean():.0%} ({refused[~right].sum()} of {(~right).sum()}), with one {n_wrong}"


def groups(found: Sequence[Found]) -> Any:
    """The number of the document that a question is about; questions about none are dealt out to them."""
    names = sorted({each.asked.document for each in found if each.asked.document is not None})
    dealt = iter(range(len(found)))
    return np.array(
        [
            next(dealt) % len(names) if each.asked.document is None else names.index(each.asked.document)
            for each in found
        ]
    )


def held_out(features: Any, right: Any, group: Any, fitted: Callable[[Any, Any], Any]) -> Any:
    """Which questions are refused when weights and threshold come from those about the other documents."""
    refused = np.zeros(len(right), bool)
    for left_out in set(group.tolist()):
        known, asked = group != left_out, group == left_out
        weights = np.array(fitted(features[known], right[known]))[: features.shape[1]]
        scores = features @ weights
        least = np.sort(scores[known & right])[int(GOAL_WRONG * (known & right).sum())]
        refused[asked] = scores[asked] < least
    return refused


def regression(features: Any, right: Any, ridge: float = 0.01) -> Any:
    """The weights of a logistic regression, and its constant, by Newton's method."""
    columns = np.c_[features, np.ones(len(features))]
    weights = np.zeros(columns.shape[1])
    pull = ridge * np.eye(len(weights))
    for _ in range(30):
        probable = 1 / (1 + np.exp(-columns @ weights))
        slope = columns.T @ (probable - right) + pull @ weights
        curve = (columns * (probable * (1 - probable))[:, None]).T @ columns + pull
        weights -= np.linalg.solve(curve, slope)
    return weights


if __name__ == "__main__":
    main()
