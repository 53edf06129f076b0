"""Whether a model that reads tells better than the search what is not in the documents: docs/decisions.md.

    python tests/ask_evidence.py GGUF [--passages] [--no-vectors] [--limit N] [--kept FILE]

For each question of tests/data/ask the model reads the two sentences that are nearest to it, or with `--passages` the two
best passages, and two things are taken of it, nothing is generated:

- yes or no: how much more probable it finds Yes than No, asked whether the text answers the question, and how much more
  than behind an empty text;
- the question: how much more probable the text makes it, in the mean of its tokens and of its least explained quarter.

The best of both texts counts. Then a logistic regression on these, alone and with what the search says, is fitted on the
questions about eleven documents and asked about the twelfth. `--kept FILE` keeps what the model has said.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ask_refusals import Found, found_of, groups, held_out, regression, told

from slmchat.engine import llama
from slmchat.engine.quotations import QuotablePassages
from slmchat.engine.requests import Choices, Part, Prompt, Request, SessionSettings
from slmchat.retrieval.nearest import is_heading, nearness
from slmchat.retrieval.vectors import context

_TEXTS = 2
_POOL = "The pool opens at 7:00 on weekdays and at 9:00 on Saturdays. Children under six need a companion."
_BATTERY = "Der Akku hält acht Stunden. Geladen wird über USB-C mit höchstens 20 Watt."
_SHOWN = (
    (_POOL, "When does the pool open on Saturdays?", "Yes"),
    (_POOL, "How warm is the water of the pool?", "No"),
    (_BATTERY, "Was kostet ein neuer Akku?", "No"),
    (_BATTERY, "Wie lange hält der Akku?", "Yes"),
)
"""Four examples, so that models that complete a text take part as well as those that chat."""

Said = dict[str, list[list[float]]]
"""By question, text and kind: the log-probabilities of each choice's tokens."""


def texts_of(one: Found, *, is_passages: bool) -> list[str]:
    """What the model reads for a question, the nearest first."""
    if is_passages:
        return [f"{context(passage.chunk)}\n{passage.chunk.text}" for passage in one.passages[:_TEXTS]]
    sentences = {
        f"{context(passage.chunk).splitlines()[-1]}: {sentence}": nearness(one.asked.question, sentence)
        for passage in one.passages
        for sentence in QuotablePassages.of((passage.chunk.text,)).sentences()
        if not is_heading(sentence, one.passages)
    }
    return sorted(sentences, key=lambda text: -sentences[text])[:_TEXTS]


def requests_of(found: Sequence[Found], *, is_passages: bool) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """A key, a prompt and the choices for each thing that is taken; `-` stands for an empty text."""
    before = "".join(f"{_asked(*each[:2])} {each[2]}\n\n" for each in _SHOWN)
    for number, one in enumerate(found):
        for place, text in enumerate(["-", *texts_of(one, is_passages=is_passages)]):
            question = one.asked.question
            yield f"{number}/{place}/question", f"{before}Text: {text}\nQuestion:", (f" {question}",)
            yield f"{number}/{place}/yes", before + _asked(text, question), (" Yes", " No")


def _asked(text: str, question: str) -> str:
    return f"Text: {text}\nQuestion: {question}\nDoes the text answer the question?"


def said_by(model: Path, found: Sequence[Found], *, is_passages: bool) -> Said:
    """What a model says of all of it. Prompts that begin alike stand together, so that a text is read once."""
    asked = sorted(requests_of(found, is_passages=is_passages), key=lambda each: each[1])
    engine = llama.load(model)
    scorer = engine.open_scorer(SessionSettings(n_ctx=2048, threads=1, threads_batch=1, waits_for_requests=True))
    requests = (
        Request(number, Prompt((Part(prompt),)), choices=Choices(texts))
        for number, (_, prompt, texts) in enumerate(asked)
    )
    said = {}
    for result in scorer.run(requests):
        if result.error is not None:
            raise result.error
        said[asked[result.id][0]] = [list(score.logprobs) for score in result.scores]
    scorer.close()
    engine.close()
    return said


def evidence(said: Said, n_questions: int) -> dict[str, Any]:
    """The features of each question: the best of its texts, 0 where it has none."""
    rows = []
    for number in range(n_questions):
        yes = [_yes(said[f"{number}/{place}/yes"]) for place in _places(said, number)]
        behind = [np.array(said[f"{number}/{place}/question"][0]) for place in _places(said, number)]
        gains = [each - behind[0] for each in behind[1:]] or [np.zeros(1)]
        least = [np.sort(each)[: max(1, len(each) // 4)].mean() for each in gains]
        rows.append((max(yes[1:], default=0), max(yes[1:], default=0) - yes[0], max(map(np.mean, gains)), max(least)))
    names = ("yes", "yes, beyond an empty text", "the question, its mean", "the question, its least explained quarter")
    return dict(zip(names, np.array(rows).T, strict=True))


def _places(said: Said, number: int) -> list[int]:
    return [place for place in range(1 + _TEXTS) if f"{number}/{place}/yes" in said]


def _yes(scores: list[list[float]]) -> float:
    yes, no = (sum(tokens) for tokens in scores)
    return yes - no


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--passages", action="store_true")
    parser.add_argument("--no-vectors", action="store_true")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--kept", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = found_of(Path(directory), has_vectors=not given.no_vectors)
    found = found[:: max(1, len(found) // given.limit)] if given.limit else found
    if given.kept and given.kept.exists():
        said = json.loads(given.kept.read_text())
    else:
        said = said_by(given.model, found, is_passages=given.passages)
        if given.kept:
            given.kept.write_text(json.dumps(said))
    features = evidence(said, len(found))
    right, group = np.array([each.has_answer for each in found]), groups(found)
    search = [np.array([each.near for each in found])]
    search += [] if given.no_vectors else [np.array([each.similar for each in found])]
    rules: list[tuple[str, list[Any]]] = [("the search alone", search)]
    rules += [(name, [values]) for name, values in features.items()]
    rules += [(f"the search and {name}", [*search, values]) for name, values in features.items()]
    rules += [("all of the model", [*features.values()]), ("all of both", [*search, *features.values()])]
    fitted = partial(regression, ridge=3.0)  # many features, few questions
    for name, columns in rules:
        values = np.stack(columns, 1)
        values = (values - values.mean(0)) / values.std(0)
        print(f"{name}: {told(held_out(values, right, group, fitted), right)}")


if __name__ == "__main__":
    main()
