"""What it brings that an answer is made from the nearest sentence, too, and that only what it refers to is shown.

    python tests/ask_shown.py GGUF FILE [--seconds N]

The questions of tests/data/ask that have an answer go through slm's own steps, by words alone and in a random order.
The model quotes once; then it answers from what it has quoted, and from that and the nearest sentence. Each question is a
line of FILE at once, and what stands in FILE is not asked again. An answer counts as right where it has half of the words
and numbers of the span that answers it, without those of the question: compare, and read the lines yourself.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from ask_samples import Question, folded, questions, write_documents

from slmchat.reporting import LogReporter
from slmchat.retrieval import answers
from slmchat.retrieval.evidence import evidence
from slmchat.retrieval.index import DocumentIndex
from slmchat.retrieval.quotations import Quotation, quotations_in
from slmchat.retrieval.steps import SilentDelegate
from slmchat.retrieval.words import words_of

OWN, BOTH = "own", "own and nearest"


def ask(name: str, asked: Sequence[Question], rows: Path, seconds: float) -> None:
    """Write a row for each of these, until the time is over."""
    import slmchat
    from slmchat.api.options import with_sampling

    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder, slmchat.load(name, ctx=4096) as model:
        index = DocumentIndex(None, model.count_tokens)
        index.add([write_documents(Path(folder, "documents"))], LogReporter(), lambda: False)
        options = with_sampling(model._options, {"max_tokens": 120})
        used = answers.DocumentAnswers(model._shared.generator, index.search, options)
        for question in asked:
            if time.monotonic() > end:
                break
            with rows.open("a") as kept:
                print(json.dumps(_row(question, used, index)), file=kept, flush=True)
        index.close()


def _row(question: Question, used: answers.DocumentAnswers, index: DocumentIndex) -> dict[str, Any]:
    delegate = SilentDelegate(lambda _session: nullcontext())
    passages = used._fitting(question.question, index.search(question.question, answers.TOP))
    used._order.begins_with(passages)
    copied = used._copied(question.question, passages, delegate).text
    row: dict[str, Any] = {"question": question.question, "span": question.span}
    known: dict[tuple[str, ...], answers.Answer] = {}
    own = tuple(quotations_in(copied, passages))
    for name, given in (
        (OWN, own),
        (BOTH, evidence(question.question, copied, passages, used._generator.opened.model)),
    ):
        key = _texts(given)
        if key and key not in known:
            known[key] = used._answered(
                answers.Answer(question.question, quotations=given, passages=passages), delegate
            )
        made = known.get(key, answers.Answer(question.question))
        row[name] = {"given": key, "text": made.text, "shown": _texts(made.quotations)}
    return row


def _texts(quotations: Sequence[Quotation]) -> tuple[str, ...]:
    return tuple(each.text for each in quotations)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """What was measured."""
    lines = [f"{len(rows)} questions with an answer"]
    for name in (OWN, BOTH):
        made = [(folded(row["span"]), row[name], row["question"]) for row in rows]
        given, shown = (sum(_has(span, each[what]) for span, each, _ in made) for what in ("given", "shown"))
        n_given, n_shown = (sum(len(each[what]) for _, each, _ in made) for what in ("given", "shown"))
        n_right = sum(_is_right(span, each["text"], question) for span, each, question in made)
        lines.append(
            f"{name}: {given} have it among {n_given} quotations that the answer was made from, {shown} among {n_shown} "
            f"that are shown; {n_right} answers are right"
        )
    return "\n".join(lines)


def _has(span: str, quoted: Sequence[str]) -> bool:
    return any(span in folded(text) or folded(text) in span for text in quoted)


def _is_right(span: str, text: str, question: str) -> bool:
    wanted = set(words_of(span)) - set(words_of(question))
    return 2 * len(wanted & set(words_of(text))) >= len(wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    given = parser.parse_args()
    given.rows.touch()
    done = {json.loads(line)["question"] for line in given.rows.read_text().splitlines()}
    asked = [one for one in questions() if one.span is not None]
    random.Random(0).shuffle(asked)  # a sample, whenever it is cut off
    ask(given.model, [one for one in asked if one.question not in done], given.rows, given.seconds)
    print(table([json.loads(line) for line in given.rows.read_text().splitlines()]))


if __name__ == "__main__":
    main()
