"""Rows whose labels are known (`slm batch --labelled FILE`): the probabilities of choices are fitted on them.

Knows: where the label of a row stands, how such rows go through the pool before the others.
Refuses to know: how a temperature is fitted (generation/calibration.py), what a choice scores.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from slmchat.engine.api import Pool
from slmchat.engine.cancellable import CancelScope
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.generation.batch.answers import ChosenTexts
from slmchat.generation.batch.prompts import Asked, PromptMaker, SeveralPrompts
from slmchat.generation.batch.rows import Row
from slmchat.generation.calibration import LEAST_ROWS, Calibration, Labelled, calibrated

# The field of a row with its label, where one question is asked; else the name of each question.
LABEL = "label"


def labelled_format(name: str) -> str:
    """The format of the rows in a file of this name."""
    return "csv" if name.lower().endswith(".csv") else "jsonl"


def fit(
    answers: ChosenTexts,
    prompts: PromptMaker | SeveralPrompts,
    pool: Pool,
    rows: Iterator[Row],
    cancellable: CancelScope,
) -> dict[str, Calibration]:
    """Fit a temperature for each question, by its name ("" where there is one), and let the `answers` use it.

    What the model prefers without input must have been taken away already. Raises `SlmError`: USAGE for too few rows
    with labels that are choices, INTERRUPTED, and as the pool does.
    """
    tasks = answers.tasks
    known: list[tuple[Asked, Mapping[str, str]]] = []
    for row in rows:
        labels = _labels(row, list(tasks))
        try:
            known.append((prompts.make(replace(row, fields=_without(row, list(tasks)))), labels))
        except SlmError:  # one that cannot be asked teaches nothing
            continue
    found: dict[str, list[Labelled]] = {name: [] for name in tasks}
    n_each = len(tasks)
    requests = [request for number, (asked, _) in enumerate(known) for request in answers.requests(number, asked)]
    runs = pool.run(iter(requests))
    n_done = 0
    with cancellable(pool):
        for done in runs:
            n_done += 1
            number, question = divmod(done.id, n_each)
            name = list(tasks)[question]
            label = known[number][1].get(name)
            if done.error is None and label in tasks[name].texts:
                shares = answers.probabilities(question, done.scores, requests[done.id].prompt)
                found[name].append((shares, label or ""))
    if n_done < len(requests):
        raise SlmError("the labelled rows were not read to their end.", exit_code=ExitCode.INTERRUPTED)
    for name, rows_of in found.items():
        if len(rows_of) < LEAST_ROWS:
            field = name or LABEL
            raise usage_error(
                f"{len(rows_of)} rows have a choice in the field '{field}', and a fit needs {LEAST_ROWS}.",
                f'--labelled takes rows as {{"text": "...", "{field}": "{tasks[name].texts[0]}"}}',
            )
    made = {name: calibrated(rows_of) for name, rows_of in found.items()}
    answers.scale([one.temperature for one in made.values()])
    return made


def _labels(row: Row, names: Sequence[str]) -> dict[str, str]:
    fields = row.fields or {}
    return {name: str(fields[name or LABEL]).strip() for name in names if (name or LABEL) in fields}


def _without(row: Row, names: Sequence[str]) -> dict[str, object] | None:
    """The fields of a row less its labels: what is left may be the input."""
    labels = {name or LABEL for name in names}
    return None if row.fields is None else {name: value for name, value in row.fields.items() if name not in labels}
