"""What it brings that slm asks a model whether the best passage has the answer: the second table of docs/ask.md.

    python tests/ask_belief.py GGUF [--no-vectors] [--kept FILE]

The questions of tests/data/ask are looked up as in ask_refusals.py. Of those about which the search is not sure, the
model is asked in slm's own words, and the probability of Yes against No is taken; nothing is generated. Two things are
told: what slm's own thresholds do, and what a threshold does to the questions about a document that was left out when
it was found. One number is found so; the weights are slm's. `--kept FILE` keeps what the model has said, and asks for
the rest alone.
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ask_refusals import GOAL_WRONG, Found, found_of, groups, held_out, told

from slmchat.engine import llama
from slmchat.engine.requests import Choices, Request, SessionSettings
from slmchat.generation.prompt import layout
from slmchat.retrieval import prompts, thresholds

_NEAR, _SUM = (0.28, 0.95), (0.6, 1.3)
"""Between these the search is not sure, whatever threshold is found."""

_WEIGHTS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0)

Said = dict[str, list[float]]
"""By question and passage: the log-probabilities of Yes and of No."""


def key_of(one: Found) -> str:
    chunk = one.passages[0].chunk
    return f"{one.asked.question} | {chunk.path.name}:{chunk.first_line}"


def sums_of(found: Sequence[Found], *, has_vectors: bool) -> Any:
    """What the search says of each question, as slm adds it up."""
    return np.array([each.near + has_vectors * thresholds.SIMILARITY_WEIGHT * each.similar for each in found])


def ask(model: Path, found: Sequence[Found], said: Said, kept: Path | None) -> None:
    """Ask the model about the best passage of each of these, a document after the other: a passage is read once."""
    engine = llama.load(model)
    scorer = engine.open_scorer(SessionSettings(n_ctx=2048, threads=2, threads_batch=2, waits_for_requests=True))
    lay_out = layout(engine, is_raw=False, closes_thought=True)
    for document in sorted({one.passages[0].chunk.path for one in found}):
        asked = [one for one in found if one.passages[0].chunk.path == document]
        requests = (
            Request(
                number,
                prompts.to_judge(one.asked.question, prompts.whole(one.passages[0])).prompt(lay_out),
                choices=_CHOICES,
            )
            for number, one in enumerate(asked)
        )
        for result in scorer.run(requests):
            if result.error is not None:
                raise result.error
            said[key_of(asked[result.id])] = [sum(score.logprobs) for score in result.scores]
        if kept:
            kept.write_text(json.dumps(said))
        print(f"{len(said)} asked", file=sys.stderr)
    scorer.close()
    engine.close()


_CHOICES = Choices(("Yes", "No"))


def table(found: Sequence[Found], said: Said, *, has_vectors: bool) -> str:
    """What was measured."""
    sums, right = sums_of(found, has_vectors=has_vectors), np.array([each.has_answer for each in found])
    yes = np.array([_yes(said.get(key_of(one)) if one.passages else None) for one in found])
    both = sums + thresholds.MODEL_WEIGHT * yes
    refused = [_is_refused(one, belief, has_vectors=has_vectors) for one, belief in zip(found, yes, strict=True)]
    least = [thresholds.least_yes(one.asked.question, one.passages) for one in found]
    asked = np.array([0 < each <= 1 for each in least])
    lines = [
        f"slm's thresholds: {told(np.array(refused), right)}; the model is asked about {asked.mean():.0%}",
        f"the search alone, documents left out: {told(_left_out(sums, found), right)}; area {area(sums, right):.2f}",
    ]
    refused = _left_out(both, found)
    lines.append(f"search and model by slm's weight: {told(refused, right)}; area {area(both, right):.2f}")
    refused = _weight_left_out(sums, yes, found)
    lines.append(f"search and model, the weight found too: {told(refused, right)}")
    kinds = np.array([each.asked.kind or "" for each in found])
    for language in ("en", "de"):
        chosen = np.array([each.asked.language == language for each in found])
        lines.append(f"  {language}: {told(refused[chosen], right[chosen])}")
    by_kind = (f"{kind} {refused[kinds == kind].sum()} of {(kinds == kind).sum()}" for kind in sorted({*kinds} - {""}))
    lines.append(f"  refused without an answer, by kind: {', '.join(by_kind)}")
    among = np.array([bool(one.passages) and key_of(one) in said for one in found])
    lines.append(f"area of the model alone, where it was asked ({among.sum()}): {area(yes[among], right[among]):.2f}")
    lines.append(f"threshold on all of them: {np.sort(both[right])[int(GOAL_WRONG * right.sum())]:.2f}")
    return "\n".join(lines)


def _is_refused(one: Found, yes: float, *, has_vectors: bool) -> bool:
    least = thresholds.least_yes(one.asked.question, one.passages)
    return least > 1 or yes < least


def _left_out(scores: Any, found: Sequence[Found]) -> Any:
    right = np.array([each.has_answer for each in found])
    return held_out(scores[:, None], right, groups(found), lambda _x, _y: [1.0])


def _weight_left_out(sums: Any, yes: Any, found: Sequence[Found]) -> Any:
    """As `_left_out`, where the weight of the model's word comes from the other documents, too."""
    right, group = np.array([each.has_answer for each in found]), groups(found)
    refused = np.zeros(len(right), bool)
    for document in set(group.tolist()):
        known, asked = group != document, group == document
        rules = []
        for weight in _WEIGHTS:
            scores = sums + weight * yes
            least = np.sort(scores[known & right])[int(GOAL_WRONG * (known & right).sum())]
            rules.append(((scores[known & ~right] < least).mean(), -weight, least))
        _, weight, least = max(rules)
        refused[asked] = (sums - weight * yes)[asked] < least
    return refused


def _yes(logprobs: Sequence[float] | None) -> float:
    """0.5 where it was not asked: then it does not matter."""
    return 0.5 if logprobs is None else 1 / (1 + math.exp(logprobs[1] - logprobs[0]))


def area(scores: Any, right: Any) -> float:
    """How often a question with an answer has more than one without: 0.5 for a coin."""
    pairs = scores[right][:, None] - scores[~right][None, :]
    return float((pairs > 0).mean() + 0.5 * (pairs == 0).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--no-vectors", action="store_true")
    parser.add_argument("--kept", type=Path)
    given = parser.parse_args()
    has_vectors = not given.no_vectors
    with tempfile.TemporaryDirectory() as directory:
        found = found_of(Path(directory), has_vectors=has_vectors)
    said: Said = json.loads(given.kept.read_text()) if given.kept and given.kept.exists() else {}
    sums = sums_of(found, has_vectors=has_vectors)
    low, high = _SUM if has_vectors else _NEAR
    unsure = [one for one, each in zip(found, sums, strict=True) if one.passages and low <= each <= high]
    missing = [one for one in unsure if key_of(one) not in said]
    if missing:
        ask(given.model, missing, said, given.kept)
    print(table(found, said, has_vectors=has_vectors))


if __name__ == "__main__":
    main()
