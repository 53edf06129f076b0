"""The table of a task file (TOML): which keys there are, and what each may hold.

Knows: the keys, the one sentence with file and line for what is wrong. Refuses to know: items (task_rows.py), models.
"""

import difflib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from slmchat import text_files, toml_files
from slmchat.errors import SlmError, usage_error
from slmchat.evaluation import public_data
from slmchat.evaluation.records import Normalization, TaskKind
from slmchat.generation.tools import NAME as TOOL_NAME
from slmchat.generation.tools import Tool
from slmchat.lazy_dataclasses import dataclass
from slmchat.schemas import json_schema

# What the field with the answer of a row may hold besides the answer itself.
ANSWER_FORMS = ("text", "index", "label", "flags")

# The keys of a [[tool]] table.
_OF_TOOL = ("name", "description", "parameters")

_MOST = 32_768
COUNT = f"a whole number from 1 to {_MOST}"


@dataclass(frozen=True, slots=True)
class TaskKey:
    """A key of the table: whether a value is right, what is wanted (in words), what it is for."""

    takes: Callable[[Any], bool]
    wants: str
    meaning: str


def is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_text, value))


def _is_pattern(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(re.compile(value))
    except re.error:
        return False


def is_count(value: object) -> bool:
    return type(value) is int and 0 < value <= _MOST


def _text(meaning: str) -> TaskKey:
    return TaskKey(is_text, "a text", meaning)


def _flag(meaning: str) -> TaskKey:
    return TaskKey(lambda value: isinstance(value, bool), "true or false", meaning)


def _one_of(allowed: tuple[str, ...], meaning: str) -> TaskKey:
    return TaskKey(lambda value: value in allowed, f"one of {', '.join(allowed)}", meaning)


KEYS: Mapping[str, TaskKey] = {
    "title": _text("what the task is about, in a few words"),
    "kind": _one_of(tuple(TaskKind), "how items are asked and graded (needed)"),
    "items": _text("the file with the items, beside this one; without it, the same name with `.jsonl`"),
    "prompt": _text("what is asked; `{field}` stands for a field of the row; without it `{question}`"),
    "system": _text("the system message"),
    "answer": _text("the field with the answer; without it `answer`"),
    "choices": TaskKey(
        lambda value: is_texts(value) and len(set(map(str.strip, value))) == len(value) > 1,
        "two or more different texts",
        "what may be answered, where it is the same for all items",
    ),
    "normalize": _one_of(tuple(Normalization), "by what the log-probability of a choice is divided; `none`"),
    "calibrate": _flag("take away what the model prefers without any input (the same choices for all items)"),
    "examples": _text("a file with items that are shown, with their answers, before each question"),
    "max_tokens": TaskKey(is_count, COUNT, "the most tokens of an answer; 256 (a row may say fewer)"),
    "template": _flag("whether the model's chat template is used, where it has one; true"),
    "tool": TaskKey(lambda value: isinstance(value, list), "tables [[tool]]", "a function that may be called"),
    "sample": TaskKey(is_count, COUNT, "how many items are asked when no task is named (for those that come with slm)"),
    "id": _text("the field with the id of an item; without it `id`, else the number of its line"),
    "choices_field": _text("the field with the choices of an item; without it `choices`"),
    "labels_field": _text("the field with the labels of the choices, where `answer_is` is `label`"),
    "answer_is": _one_of(ANSWER_FORMS, "the answer is the text of a choice, its index from 0, its label, or flags"),
    "answer_after": _text("the answer stands behind this mark in its field"),
    "remove": TaskKey(_is_pattern, "a regular expression", "what is taken out of prompts and choices"),
    "license": _text("the licence of the items"),
    "source": _text("where the items come from"),
    "hub": TaskKey(
        public_data.is_right,
        "a table with repo, revision (a commit), file and sha256",
        "a file of a data set on the Hub (`.jsonl` or `.parquet`) that holds the items",
    ),
}


class TaskTable:
    """The table in a file, its keys checked. `tools`: the functions by name."""

    def __init__(self, file: Path) -> None:
        """Raises `SlmError` (USAGE)."""
        self.file = file
        if not os.path.isfile(file):
            raise usage_error(
                f"there is no task file {file}.",
                "slm eval --list shows the tasks that come with slm; docs/eval.md how to write one",
            )
        self.values = toml_files.read(file)
        for key, value in self.values.items():
            known = KEYS.get(key)
            if known is None:
                near = difflib.get_close_matches(key, KEYS, 1)
                self.wrong(key, f"is not a key of a task ({f'did you mean {near[0]}?' if near else ', '.join(KEYS)})")
            elif not known.takes(value):
                self.wrong(key, f"must be {known.wants}")
        self.tools: dict[str, Tool] = {}
        for place, told in enumerate(self.values.get("tool", [])):
            tool = self._tool(told, place)
            if tool.name in self.tools:
                self.wrong("tool", f"{tool.name}: there is another function of this name", place)
            self.tools[tool.name] = tool

    def required(self, key: str) -> Any:
        """A value that must be there. Raises `SlmError` (USAGE)."""
        if key not in self.values:
            self.wrong(key, "is missing")
        return self.values[key]

    def get(self, key: str, default: Any) -> Any:
        return self.values.get(key, default)

    def wrong(self, key: str, reason: str, place: int = 0) -> NoReturn:
        """Raises the sentence about a key, with its line where it has one; `place`: of several tables of this name."""
        lines = text_files.lines_of(text_files.read(str(self.file)))
        begin = re.compile(rf"\s*(?:\[\[?\s*)?{re.escape(key)}\s*(?:=|\])")
        numbers = [number for number, line in enumerate(lines, 1) if begin.match(line)]
        where = f"{self.file}, line {numbers[min(place, len(numbers) - 1)]}" if numbers else str(self.file)
        shown = key if key.isprintable() else ascii(key)
        raise usage_error(f"{where}: '{shown}' {reason}.", "docs/eval.md has the keys")

    def _tool(self, told: object, place: int) -> Tool:
        if not isinstance(told, dict) or not TOOL_NAME.fullmatch(str(told.get("name", ""))):
            self.wrong("tool", "must have a name of letters, digits, - and _", place)
        name, description, parameters = told["name"], told.get("description", ""), told.get("parameters")
        unknown = [key for key in told if key not in _OF_TOOL]
        if unknown:
            self.wrong("tool", f"{name}: '{unknown[0]}' is not a key of a function ({', '.join(_OF_TOOL)})", place)
        if not isinstance(description, str):
            self.wrong("tool", f"{name}: its description must be a text", place)
        if parameters is not None and not isinstance(parameters, dict):
            self.wrong("tool", f"{name}: its parameters must be a table (JSON Schema)", place)
        try:
            json.dumps(parameters)
            json_schema.to_grammar(parameters or {})
        except TypeError:
            self.wrong("tool", f"{name}: its parameters hold a date or a time, which JSON has not", place)
        except SlmError as error:
            self.wrong("tool", f"{name}: its parameters cannot be used: {error.message.rstrip('.')}", place)
        return Tool(name, description, parameters)
