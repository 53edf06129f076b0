"""Rows of a file as the items of a task.

Knows: the fields of a row by the kind of its task, what may be wrong with one, in one sentence with its line.
Refuses to know: how a file is found, models, how an answer is graded.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slmchat.errors import usage_error
from slmchat.evaluation import answer_checks
from slmchat.evaluation.records import EvalItem, ExpectedCall, LeftOut, TaskKind
from slmchat.evaluation.task_table import COUNT, TaskTable, is_count, is_texts
from slmchat.generation.classify import CONTENT_FREE
from slmchat.generation.numbers import number_in
from slmchat.generation.tools import Tool

_FIELD = re.compile(r"\{(\w+(?:\.\w+)*)\}")
_MOST_ITEMS = 100_000


class Unusable(ValueError):
    """What is wrong with a row; the text is the reason."""


class NumberedRow(NamedTuple):
    """A row with the number of its line; `row` may be a reason why it is none."""

    number: int
    row: Mapping[str, Any] | Unusable


class TaskRows:
    """Rows as items of one task."""

    def __init__(self, table: TaskTable, kind: TaskKind) -> None:
        self._table = table
        self._kind = kind
        self._prompt: str = table.get("prompt", "{question}")
        self._answer: str = table.get("answer", "answer")
        self._remove = re.compile(table.get("remove", "(?!)"))

    def items(self, rows: Iterable[NumberedRow], file: Path) -> tuple[EvalItem, ...]:
        """The items, at least one. Raises `SlmError` (USAGE) for the first row that is not right."""
        made: list[EvalItem] = []
        lines: dict[str, int] = {}
        for number, row in rows:
            try:
                item = self._item(row, number)
                if item.id in lines:
                    raise Unusable(f"the id '{item.id}' stands in line {lines[item.id]} already")
            except Unusable as wrong:
                raise usage_error(f"{file}, line {number}: {wrong}.", "docs/eval.md has the fields") from wrong
            lines[item.id] = number
            made.append(item)
        if not 0 < len(made) <= _MOST_ITEMS:
            what = f"has more than {_MOST_ITEMS:,} items" if made else "has no items"
            raise usage_error(f"{file} {what}.")
        return tuple(made)

    def usable_items(self, rows: Iterable[NumberedRow], file: Path) -> tuple[tuple[EvalItem, ...], LeftOut]:
        """The same of rows that nobody here can mend: those that are not right are left out, and counted."""
        usable, left_out = [], LeftOut()
        for number, row in rows:
            try:
                self._item(row, number)
            except Unusable as wrong:
                left_out = LeftOut(left_out.n_rows + 1, left_out.first or f"line {number}: {wrong}")
                continue
            usable.append(NumberedRow(number, row))
        return self.items(usable, file), left_out

    def content_free(self, items: Sequence[EvalItem]) -> tuple[str, ...]:
        """The prompt with inputs that say nothing. Raises `SlmError` (USAGE) where choices differ from item to item."""
        if self._kind is not TaskKind.CHOICES or len({item.choices for item in items}) > 1:
            self._table.wrong("calibrate", "needs choices that are the same for all items")
        return tuple(_FIELD.sub(lambda _, text=text: text, self._prompt) for text in CONTENT_FREE)  # type: ignore[misc]

    def _item(self, row: Mapping[str, Any] | Unusable, number: int) -> EvalItem:
        if isinstance(row, Unusable):
            raise row
        id = row.get(self._table.get("id", "id"), number)
        if not isinstance(id, str | int) or not str(id).isprintable() or len(str(id)) > 80:
            raise Unusable("its id must be a short text or a number")
        worked = row.get("worked", "")
        if not isinstance(worked, str):
            raise Unusable("'worked' must be a text")
        most = row.get("max_tokens")
        if most is not None and not is_count(most):
            raise Unusable(f"'max_tokens' must be {COUNT}")
        graded = _BY_KIND[self._kind](self, row)
        return EvalItem(str(id), self._prompt_of(row), worked=worked, max_tokens=most, **graded)

    def _prompt_of(self, row: Mapping[str, Any]) -> str:
        def value(found: re.Match[str]) -> str:
            told = row.get(found[1])
            if told is None:
                raise Unusable(f"'{found[1]}' is missing, and the prompt asks for it")
            if not isinstance(told, str | int | float) or isinstance(told, bool):
                raise Unusable(f"'{found[1]}' must be a text")
            return self._remove.sub("", str(told))

        prompt = _FIELD.sub(value, self._prompt)
        if not prompt.strip():
            raise Unusable("there is nothing to ask")
        return prompt

    def choices(self, row: Mapping[str, Any]) -> dict[str, Any]:
        field = self._table.get("choices_field", "choices")
        told = row.get(field, self._table.get("choices", None))
        if not is_texts(told) or not isinstance(told, list) or len(told) < 2:
            raise Unusable(f"'{field}' must be two or more different texts")
        choices = [self._remove.sub("", choice).strip() for choice in told]
        if len(set(choices)) < len(choices) or not all(choices):
            raise Unusable(f"'{field}' must be two or more different texts")
        return {"choices": tuple(choices), "answers": (choices[self._right(row, told)],)}

    def _right(self, row: Mapping[str, Any], choices: Sequence[str]) -> int:
        """The number of the right choice, however the row says it."""
        told, form = row.get(self._answer), self._table.get("answer_is", "text")
        if form == "flags":
            if not isinstance(told, list) or len(told) != len(choices) or told.count(1) != 1:
                raise Unusable(f"'{self._answer}' must have a 1 for the right choice and 0 for the others")
            return told.index(1)
        if form == "label":
            labels = row.get(self._table.get("labels_field", "labels"))
            if not isinstance(labels, list) or len(labels) != len(choices) or told not in labels:
                raise Unusable(f"'{self._answer}' must be the label of a choice")
            return labels.index(told)
        if form == "index":
            index = int(told) if isinstance(told, str) and told.isdecimal() else told
            if type(index) is not int or not 0 <= index < len(choices):
                raise Unusable(f"'{self._answer}' must be the index of a choice, from 0 on")
            return index
        if told not in choices:
            raise Unusable(f"'{self._answer}' must be one of the choices, word for word")
        return choices.index(told)

    def number(self, row: Mapping[str, Any]) -> dict[str, Any]:
        told = self._answered(row)
        number = None if isinstance(told, bool) else number_in(str(told))
        if number is None:
            raise Unusable(f"'{self._answer}' must be a number")
        return {"answers": (number,)}

    def texts(self, row: Mapping[str, Any]) -> dict[str, Any]:
        told = self._answered(row)
        answers = [told] if isinstance(told, str) else told
        if not isinstance(answers, list) or not is_texts(answers):
            raise Unusable(f"'{self._answer}' must be a text or a list of accepted texts")
        return {"answers": tuple(answers)}

    def _answered(self, row: Mapping[str, Any]) -> Any:
        told = row.get(self._answer)
        mark = self._table.get("answer_after", "")
        return told.rpartition(mark)[2].strip() if mark and isinstance(told, str) else told

    def checks(self, row: Mapping[str, Any]) -> dict[str, Any]:
        problem = answer_checks.problem_of(row.get("checks"))
        if problem is not None:
            raise Unusable(f"'checks' {problem}")
        return {"checks": row["checks"]}

    def call(self, row: Mapping[str, Any]) -> dict[str, Any]:
        known = self._table.tools
        names = row.get("tools", list(known))
        if not is_texts(names) or not set(names) <= set(known):
            raise Unusable("'tools' must be names of [[tool]] tables of the task file")
        tools = tuple(known[name] for name in names)
        if "call" not in row:
            raise Unusable("'call' is missing (null: no call is right)")
        return {"tools": tools, "call": None if row["call"] is None else _expected_call(row["call"], tools)}


_BY_KIND: Mapping[TaskKind, Callable[[TaskRows, Mapping[str, Any]], dict[str, Any]]] = {
    TaskKind.CHOICES: TaskRows.choices,
    TaskKind.NUMBER: TaskRows.number,
    TaskKind.EXACT: TaskRows.texts,
    TaskKind.SPAN: TaskRows.texts,
    TaskKind.INSTRUCTIONS: TaskRows.checks,
    TaskKind.TOOLS: TaskRows.call,
}


def _expected_call(told: object, tools: Sequence[Tool]) -> ExpectedCall:
    """A call with its accepted arguments: a list holds the accepted values, and null in it lets it be left out."""
    arguments = told.get("arguments", {}) if isinstance(told, dict) else None
    if not isinstance(told, dict) or not isinstance(arguments, dict):
        raise Unusable("'call' must have a name and arguments")
    tool = next((tool for tool in tools if tool.name == told.get("name")), None)
    if tool is None:
        raise Unusable("'call' must name one of the tools of the item")
    accepted = {name: tuple(value) if isinstance(value, list) else (value,) for name, value in arguments.items()}
    unknown = set(accepted) - set((tool.parameters or {}).get("properties", {}))
    if unknown:
        raise Unusable(f"{tool.name} has no parameter '{min(unknown)}'")
    optional = frozenset(name for name, values in accepted.items() if None in values)
    kept = {name: tuple(value for value in values if value is not None) for name, values in accepted.items()}
    return ExpectedCall(tool.name, kept, optional)
