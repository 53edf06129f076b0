"""Task files: a table in TOML that says how to ask, and beside it JSON lines with what to ask.

    # mails.toml                                    # mails.jsonl
    kind = "choices"                                {"mail": "My card was charged twice.", "answer": "billing"}
    prompt = "Mail: {mail}\\nThe team for it:"       {"mail": "The app shows a white page.", "answer": "support"}
    choices = ["billing", "support"]

Knows: the keys, what each may hold, and the one sentence with file and line for what is wrong.
Refuses to know: models, how an answer is graded, which tasks come with slm (task_catalog.py).
"""

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from slmchat import toml_files
from slmchat.errors import ExitCode, SlmError
from slmchat.evaluation import answer_checks
from slmchat.evaluation.numbers import number_in
from slmchat.evaluation.records import EvalItem, EvalTask, ExpectedCall, Normalization, TaskKind
from slmchat.generation.classify import CONTENT_FREE
from slmchat.generation.tools import NAME as TOOL_NAME
from slmchat.generation.tools import Tool
from slmchat.text_files import read as read_text

_FIELD = re.compile(r"\{(\w+)\}")
_MOST_ITEMS = 100_000
# Tokens of an answer where the file does not say: a worked solution of a grade-school problem has about 150.
_MAX_TOKENS = 256


@dataclass(frozen=True, slots=True)
class _Key:
    """A key of the table: whether a value is right, and what is wanted, in words."""

    takes: Callable[[Any], bool]
    wants: str


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


_TEXT = _Key(_is_text, "a text")
_FLAG = _Key(_is_flag, "true or false")
KEYS: Mapping[str, _Key] = {
    "title": _TEXT,
    "kind": _Key(lambda value: value in tuple(TaskKind), f"one of {', '.join(TaskKind)}"),
    "items": _TEXT,
    "prompt": _TEXT,
    "answer": _TEXT,
    "system": _TEXT,
    "choices": _Key(
        lambda value: _is_texts(value) and len(set(value)) == len(value) > 1, "two or more different texts"
    ),
    "normalize": _Key(lambda value: value in tuple(Normalization), f"one of {', '.join(Normalization)}"),
    "calibrate": _FLAG,
    "examples": _TEXT,
    "max_tokens": _Key(lambda value: type(value) is int and 0 < value <= 32_768, "a whole number from 1 to 32768"),
    "template": _FLAG,
    "license": _TEXT,
    "source": _TEXT,
    "tool": _Key(lambda value: isinstance(value, list), "tables [[tool]]"),
}


def load(file: Path, name: str | None = None) -> EvalTask:
    """The task in a file. `name`: what it is called; None: the name of the file without its ending.

    Raises `SlmError` (USAGE) with one sentence that names file and line.
    """
    table = _Table(file)
    kind = TaskKind(table.required("kind"))
    rows = _Rows(table, kind)
    beside = file.parent / table.get("items", f"{file.stem}.jsonl")
    items = rows.read(beside)
    examples = rows.read(file.parent / table.get("examples", "")) if "examples" in table.values else ()
    return EvalTask(
        name=name or file.stem,
        title=table.get("title", name or file.stem),
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
    )


def _fingerprint(table: Mapping[str, Any], items: Sequence[EvalItem], examples: Sequence[EvalItem]) -> str:
    """Of all that can change a score; the title, the licence and the source cannot."""
    counted = {key: value for key, value in table.items() if key not in ("title", "license", "source")}
    told = json.dumps([counted, [repr(item) for item in (*items, *examples)]], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


class _Table:
    """The TOML of a task, its keys checked."""

    def __init__(self, file: Path) -> None:
        self.file = file
        if not file.is_file():
            raise SlmError(
                f"there is no task file {file}.",
                hint="slm eval --list shows the tasks that come with slm; docs/eval.md how to write one",
                exit_code=ExitCode.USAGE,
            )
        self.values = toml_files.read(file)
        for key, value in self.values.items():
            known = KEYS.get(key)
            if known is None:
                near = difflib.get_close_matches(key, KEYS, 1)
                self.wrong(key, f"is not a key of a task ({f'did you mean {near[0]}?' if near else ', '.join(KEYS)})")
            elif not known.takes(value):
                self.wrong(key, f"must be {known.wants}")
        self.tools = {tool.name: tool for tool in map(self._tool, self.values.get("tool", []))}

    def required(self, key: str) -> Any:
        if key not in self.values:
            self.wrong(key, "is missing")
        return self.values[key]

    def get(self, key: str, default: Any) -> Any:
        return self.values.get(key, default)

    def wrong(self, key: str, reason: str) -> NoReturn:
        """Raises the sentence about a key, with its line where it has one."""
        lines = read_text(str(self.file)).splitlines()
        begin = re.compile(rf"\s*(\[\[\s*)?{re.escape(key)}\s*(=|\]\])")
        number = next((number for number, line in enumerate(lines, 1) if begin.match(line)), None)
        where = f"{self.file}, line {number}" if number else str(self.file)
        shown = key if key.isprintable() else ascii(key)
        raise SlmError(f"{where}: '{shown}' {reason}.", hint="docs/eval.md has the keys", exit_code=ExitCode.USAGE)

    def _tool(self, told: object) -> Tool:
        if not isinstance(told, dict) or not TOOL_NAME.fullmatch(str(told.get("name", ""))):
            self.wrong("tool", "must have a name of letters, digits, - and _")
        parameters = told.get("parameters")
        if parameters is not None and not isinstance(parameters, dict):
            self.wrong("tool", f"{told['name']}: its parameters must be a table (JSON Schema)")
        return Tool(told["name"], str(told.get("description", "")), parameters)


class _Wrong(ValueError):
    """What is wrong with a row; the text is the reason."""


class _Rows:
    """Rows of JSON as items of one task."""

    def __init__(self, table: _Table, kind: TaskKind) -> None:
        self._table = table
        self._kind = kind
        self._prompt: str = table.get("prompt", "{question}")
        self._answer: str = table.get("answer", "answer")

    def read(self, file: Path) -> tuple[EvalItem, ...]:
        """The items of a file, at least one. Raises `SlmError` (USAGE)."""
        items: list[EvalItem] = []
        ids: dict[str, int] = {}
        for number, line in enumerate(read_text(str(file)).splitlines(), 1):
            if not line.strip():
                continue
            try:
                item = self.item(_row(line), number)
                if item.id in ids:
                    raise _Wrong(f"the id '{item.id}' stands in line {ids[item.id]} already")
            except _Wrong as wrong:
                raise SlmError(
                    f"{file}, line {number}: {wrong}.", hint="docs/eval.md has the fields", exit_code=ExitCode.USAGE
                ) from wrong
            ids[item.id] = number
            items.append(item)
        if not 0 < len(items) <= _MOST_ITEMS:
            what = f"has more than {_MOST_ITEMS:,} items" if items else "has no items"
            raise SlmError(f"{file} {what}.", exit_code=ExitCode.USAGE)
        return tuple(items)

    def item(self, row: Mapping[str, Any], number: int) -> EvalItem:
        """The item of a row. Raises `_Wrong`."""
        id = row.get("id", str(number))
        if not isinstance(id, str | int) or not str(id).isprintable() or len(str(id)) > 80:
            raise _Wrong("'id' must be a short text or a number")
        worked = row.get("worked", "")
        if not isinstance(worked, str):
            raise _Wrong("'worked' must be a text")
        graded = _BY_KIND[self._kind](self, row)
        return EvalItem(str(id), self._prompt_of(row), worked=worked, **graded)

    def _prompt_of(self, row: Mapping[str, Any]) -> str:
        def value(found: re.Match[str]) -> str:
            told = row.get(found[1])
            if not isinstance(told, str | int | float) or isinstance(told, bool):
                raise _Wrong(
                    f"'{found[1]}' is missing, and the prompt asks for it"
                    if told is None
                    else f"'{found[1]}' must be a text"
                )
            return str(told)

        prompt = _FIELD.sub(value, self._prompt)
        if not prompt.strip():
            raise _Wrong("there is nothing to ask")
        return prompt

    def content_free(self, items: Sequence[EvalItem]) -> tuple[str, ...]:
        """The prompt with inputs that say nothing. Raises `SlmError` (USAGE) where choices differ from item to item."""
        if self._kind is not TaskKind.CHOICES or len({item.choices for item in items}) > 1:
            self._table.wrong("calibrate", "needs choices that are the same for all items")
        return tuple(_FIELD.sub(lambda _, text=text: text, self._prompt) for text in CONTENT_FREE)  # type: ignore[misc]

    def choices(self, row: Mapping[str, Any]) -> dict[str, Any]:
        choices = row.get("choices", self._table.get("choices", None))
        if not _is_texts(choices) or len(set(choices)) < len(choices) or len(choices) < 2:
            raise _Wrong("'choices' must be two or more different texts")
        answer = row.get(self._answer)
        if answer not in choices:
            raise _Wrong(f"'{self._answer}' must be one of the choices, word for word")
        return {"choices": tuple(choices), "answers": (answer,)}

    def number(self, row: Mapping[str, Any]) -> dict[str, Any]:
        told = row.get(self._answer)
        number = None if isinstance(told, bool) else number_in(str(told))
        if number is None:
            raise _Wrong(f"'{self._answer}' must be a number")
        return {"answers": (number,)}

    def texts(self, row: Mapping[str, Any]) -> dict[str, Any]:
        told = row.get(self._answer)
        answers = [told] if isinstance(told, str) else told
        if not isinstance(answers, list) or not _is_texts(answers):
            raise _Wrong(f"'{self._answer}' must be a text or a list of accepted texts")
        return {"answers": tuple(answers)}

    def checks(self, row: Mapping[str, Any]) -> dict[str, Any]:
        problem = answer_checks.problem_of(row.get("checks"))
        if problem is not None:
            raise _Wrong(f"'checks' {problem}")
        return {"checks": row["checks"]}

    def call(self, row: Mapping[str, Any]) -> dict[str, Any]:
        known = self._table.tools
        names = row.get("tools", list(known))
        if not _is_texts(names) or not set(names) <= set(known):
            raise _Wrong("'tools' must be names of [[tool]] tables of the task file")
        tools = tuple(known[name] for name in names)
        if "call" not in row:
            raise _Wrong("'call' is missing (null: no call is right)")
        return {"tools": tools, "call": None if row["call"] is None else _expected_call(row["call"], tools)}


_BY_KIND: Mapping[TaskKind, Callable[[_Rows, Mapping[str, Any]], dict[str, Any]]] = {
    TaskKind.CHOICES: _Rows.choices,
    TaskKind.NUMBER: _Rows.number,
    TaskKind.EXACT: _Rows.texts,
    TaskKind.SPAN: _Rows.texts,
    TaskKind.INSTRUCTIONS: _Rows.checks,
    TaskKind.TOOLS: _Rows.call,
}


def _row(line: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _Wrong("this is not JSON") from error
    if not isinstance(row, dict):
        raise _Wrong("this is not a JSON object")
    return row


def _expected_call(told: object, tools: Sequence[Tool]) -> ExpectedCall:
    """A call with its accepted arguments: a list holds the accepted values, and null in it lets it be left out."""
    arguments = told.get("arguments", {}) if isinstance(told, dict) else None
    if not isinstance(told, dict) or not isinstance(arguments, dict):
        raise _Wrong("'call' must have a name and arguments")
    tool = next((tool for tool in tools if tool.name == told.get("name")), None)
    if tool is None:
        raise _Wrong("'call' must name one of the tools of the item")
    accepted = {name: tuple(value) if isinstance(value, list) else (value,) for name, value in arguments.items()}
    unknown = set(accepted) - set((tool.parameters or {}).get("properties", {}))
    if unknown:
        raise _Wrong(f"{tool.name} has no parameter '{min(unknown)}'")
    optional = frozenset(name for name, values in accepted.items() if None in values)
    kept = {name: tuple(value for value in values if value is not None) for name, values in accepted.items()}
    return ExpectedCall(tool.name, kept, optional)
