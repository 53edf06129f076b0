"""Task files: a table in TOML that says how to ask, and beside it JSON lines with what to ask.

    # mails.toml                                    # mails.jsonl
    kind = "choices"                                {"mail": "My card was charged twice.", "answer": "billing"}
    prompt = "Mail: {mail}\\nThe team for it:"       {"mail": "The app shows a white page.", "answer": "support"}
    choices = ["billing", "support"]

The items of a public task lie on the Hub instead, as JSON lines or as Parquet.

Knows: how the two files become a task, and when it is another one. Refuses to know: the keys (task_table.py) and the
fields (task_rows.py), which tasks come with slm (task_catalog.py).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slmchat import text_files
from slmchat.errors import ExitCode, SlmError
from slmchat.evaluation import parquet, public_data
from slmchat.evaluation.records import EvalItem, EvalTask, LeftOut, Normalization, TaskKind
from slmchat.evaluation.task_rows import NumberedRow, TaskRows, Unusable
from slmchat.evaluation.task_table import TaskTable

# Tokens of an answer where the file does not say: a worked solution of a grade-school problem has about 150.
_MAX_TOKENS = 256


def load(file: Path, name: str | None = None) -> EvalTask:
    """The task in a file. `name`: what it is called; None: the name of the file without its ending.

    Raises `SlmError`: USAGE with one sentence that names file and line, DAMAGED for a file of the Hub that cannot be
    read, NETWORK for one that has not been fetched.
    """
    name = name or file.stem
    table = TaskTable(file)
    kind = TaskKind(table.required("kind"))
    rows = TaskRows(table, kind)
    items, left_out = _items(table, rows, name)
    beside = file.parent / table.get("examples", "")
    examples = rows.items(_json_lines(beside), beside) if "examples" in table.values else ()
    return EvalTask(
        name=name,
        title=table.get("title", name),
        kind=kind,
        items=items,
        fingerprint=_fingerprint(table.values, items, examples),
        system=table.get("system", ""),
        examples=examples,
        max_tokens=table.get("max_tokens", _MAX_TOKENS),
        uses_template=table.get("template", True),
        normalization=Normalization(table.get("normalize", Normalization.NONE)),
        content_free=rows.content_free(items) if table.get("calibrate", False) else (),
        license=table.get("license", ""),
        source=table.get("source", ""),
        left_out=left_out,
        sample=table.get("sample", None),
    )


def _items(table: TaskTable, rows: TaskRows, name: str) -> tuple[tuple[EvalItem, ...], LeftOut]:
    if "hub" not in table.values:
        beside = table.file.parent / table.get("items", f"{table.file.stem}.jsonl")
        return rows.items(_json_lines(beside), beside), LeftOut()
    spec = public_data.spec_of(table.values["hub"])
    fetched = public_data.here(spec)
    if fetched is None:
        raise SlmError(f"the items of {name} have not been fetched.", exit_code=ExitCode.NETWORK)
    shown = Path(spec.repo, spec.file)
    if spec.file.endswith(".parquet"):
        return rows.usable_items(_parquet_rows(fetched, shown), shown)
    return rows.usable_items(_json_lines(fetched), shown)


def _json_lines(file: Path) -> Iterator[NumberedRow]:
    for number, line in enumerate(text_files.lines_of(text_files.read(str(file))), 1):
        if line.strip():
            yield NumberedRow(number, _row(line))


def _row(line: str) -> Mapping[str, Any] | Unusable:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return Unusable("this is not JSON")
    return row if isinstance(row, dict) else Unusable("this is not a JSON object")


def _parquet_rows(file: Path, shown: Path) -> Iterator[NumberedRow]:
    try:
        found = parquet.rows(file.read_bytes())
    except parquet.NotReadable as error:
        raise SlmError(f"{shown} {error}.", exit_code=ExitCode.DAMAGED) from error
    return (NumberedRow(number, row) for number, row in enumerate(found, 1))


def _fingerprint(table: Mapping[str, Any], items: Sequence[EvalItem], examples: Sequence[EvalItem]) -> str:
    """Of all that can change a score; the title, the licence and the source cannot."""
    counted = {key: value for key, value in table.items() if key not in ("title", "license", "source")}
    told = json.dumps([counted, [repr(item) for item in (*items, *examples)]], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:16]
