"""How well a model quotes what answers a question, and how well it is told that nothing does: the table of docs/ask.md.

    python -m tests.ask_quality smollm2:135m [--raw] [--large] [--limit N] [--rows FILE]

The questions of tests/data/ask go through slm's own index and its own first steps, one after the other. With
`--rows FILE` what was found is written to FILE, and read from there where it is, so that a threshold can be looked at
without a model. It is found on every second question and measured on the others.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from ask_samples import Question, folded, questions, write_documents

from slmchat.reporting import LogReporter
from slmchat.retrieval import answers, thresholds
from slmchat.retrieval.index import DocumentIndex, Passage
from slmchat.retrieval.nearest import nearest_sentences, nearness
from slmchat.retrieval.steps import SilentDelegate

GOAL_WRONG = 0.10
"""Of the questions that have an answer, so many may be refused."""


@dataclass
class Row:
    """One question: what the search and the model said, and what of it is right."""

    question: str
    has_answer: bool
    nearness: float
    is_read: bool  # the right passage was among those that the model has read
    is_right: bool  # a quotation has the answer
    is_nearest_right: bool  # the sentence nearest by its words has it
    n_quotations: int
    n_verbatim: int


def rows_of(name: str, asked: Sequence[Question], *, is_raw: bool, made: Callable[[Row], None]) -> list[Row]:
    """Ask a model all of it."""
    import slmchat
    from slmchat.api.options import with_sampling

    rows: list[Row] = []
    thresholds.is_near = lambda _question, found, _model: bool(found)  # type: ignore[assignment]
    thresholds.least_yes = lambda _question, _found: 0.0  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder, slmchat.load(name, ctx=4096) as model:
        documents = write_documents(Path(folder, "documents"))
        index = DocumentIndex(None, model.count_tokens)
        index.add([documents], LogReporter(), lambda: False)
        options = with_sampling(model._options, {})
        options = type(options).of(options, raw=is_raw)
        generator = model._shared.generator
        used = answers.DocumentAnswers(generator, index.search, options, is_quoting_only=True)
        for question in asked:
            answer = used.answer(question.question, SilentDelegate(lambda _session: nullcontext()))
            rows.append(_row(question, answer.passages, answer))
            made(rows[-1])
        index.close()
    return rows


def _row(question: Question, passages: Sequence[Passage], answer: answers.Answer) -> Row:
    span = folded(question.span or "")
    texts = [folded(passage.chunk.text) for passage in passages]
    quoted = [folded(quotation.text) for quotation in answer.quotations]
    return Row(
        question.question,
        question.span is not None,
        max((nearness(question.question, passage.chunk.text) for passage in passages), default=0.0),
        bool(span) and any(span in text for text in texts),
        bool(span) and _is_in(span, quoted),
        bool(span) and _is_in(span, nearest_sentences(question.question, passages)[:1]),
        len(quoted),
        sum(any(quotation.text in passage.chunk.text for passage in passages) for quotation in answer.quotations),
    )


def _is_in(span: str, quoted: Sequence[str]) -> bool:
    """Whether one of these has the span, or is a piece of it."""
    return any(span in text or text in span for text in map(folded, quoted))


def refused(row: Row, near: float) -> bool:
    """Whether this threshold says that nothing answers it."""
    return row.nearness < near or not row.n_quotations


def best_threshold(rows: Sequence[Row]) -> float:
    """The one that refuses most of what has no answer, and at most a tenth of what has one."""
    steps = [step / 100 for step in range(0, 81) if _rate(rows, step / 100, has_answer=True) <= GOAL_WRONG]
    return max(steps, key=lambda near: (_rate(rows, near, has_answer=False), -near), default=0.0)


def _rate(rows: Sequence[Row], near: float, *, has_answer: bool) -> float:
    those = [row for row in rows if row.has_answer is has_answer]
    return sum(refused(row, near) for row in those) / len(those)


def table(name: str, rows: Sequence[Row], *, is_small: bool) -> str:
    """What was measured, in the words of docs/ask.md."""
    train, test = rows[::2], rows[1::2]
    near = best_threshold(train)
    answered = [row for row in rows if row.has_answer]
    quoted, verbatim = sum(row.n_quotations for row in rows), sum(row.n_verbatim for row in rows)
    lines = [
        f"{name}: {len(rows)} questions, {len(rows) - len(answered)} of them without an answer",
        f"quotations that are verbatim: {verbatim} of {quoted}",
        f"the right passage was read: {sum(row.is_read for row in answered) / len(answered):.0%}",
        f"a quotation has the answer: {sum(row.is_right for row in answered) / len(answered):.0%}",
        f"the sentence nearest by its words has it: {sum(row.is_nearest_right for row in answered) / len(answered):.0%}",
        f"threshold found on one half: nearness {near:.2f}",
    ]
    for what, half in (("that half", train), ("the other half", test)):
        right, wrong = (_rate(half, near, has_answer=known) for known in (False, True))
        lines.append(f"  {what}: refused where there is no answer {right:.0%}, where there is one {wrong:.0%}")
    fixed = thresholds.LEAST_NEARNESS_SMALL if is_small else thresholds.LEAST_NEARNESS
    right, wrong = (_rate(test, fixed, has_answer=known) for known in (False, True))
    lines.append(f"with slm's threshold {fixed}, the other half: {right:.0%} and {wrong:.0%}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--raw", action="store_true")
    parser.add_argument("--large", action="store_true", help="the model is not a very small one")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--rows", type=Path)
    given = parser.parse_args()
    if given.rows and given.rows.exists():
        rows = [Row(**json.loads(line)) for line in given.rows.read_text().splitlines()]
    else:
        asked = questions()[:: max(1, len(questions()) // given.limit)] if given.limit else questions()
        with open(given.rows or os.devnull, "w") as kept:  # what is there when somebody loses patience

            def made(row: Row) -> None:
                print(json.dumps(asdict(row)), file=kept, flush=True)

            rows = rows_of(given.model, asked, is_raw=given.raw, made=made)
    print(table(given.model, rows, is_small=not given.large))


if __name__ == "__main__":
    main()
