"""Whether a value is right for a JSON Schema, and if not, where and why.

Knows: the assertions of drafts 4 to 2020-12. Refuses to know: grammars, texts, files, the network: a schema reaches
nothing.

An evaluator of slm's own, because libraries either compile schemas to code, follow `$ref` to files and addresses, or do
not install on a phone (docs/decisions.md). It looks the assertions up in a table while it goes through the value.
"""

import json
import re
from typing import Any

from slmchat.errors import SlmError
from slmchat.schemas import python_regex, references
from slmchat.schemas.check_containers import CONTAINER_ASSERTIONS
from slmchat.schemas.check_values import VALUE_ASSERTIONS
from slmchat.schemas.keywords import all_below
from slmchat.schemas.problems import Assertion, Problem

_ASSERTIONS: dict[str, Assertion] = {**VALUE_ASSERTIONS, **CONTAINER_ASSERTIONS}

# Patterns, as they stand in a schema that `json.dumps` has written, and whatever else is called so.
_PATTERNS = re.compile(r'"pattern": ("(?:[^"\\]|\\.)*")')


class SchemaCheck:
    """The check of one schema. Raises `SlmError` (USAGE) for a pattern that cannot be read."""

    def __init__(self, schema: Any, text: str | None = None) -> None:
        """`text`: the schema as JSON text, where somebody has it already."""
        text = json.dumps(schema) if text is None else text
        self._document = references.flattened(schema, text)
        if '"patternProperties"' in text or any(map(_is_unreadable, _PATTERNS.findall(text))):
            _refuse_unreadable(self._document)

    def problem(self, value: Any) -> str | None:
        """What is wrong with the value, in one phrase; None when it is right."""
        try:
            found = self.found(self._document, value)
        except RecursionError:
            return "the value is nested too deep to be checked"
        return None if found is None else str(found)

    def is_right(self, value: Any) -> bool:
        return self.problem(value) is None

    @classmethod
    def of_flattened(cls, document: Any) -> "SchemaCheck":
        """The check of a schema whose references are flattened, and whose patterns somebody else looks at."""
        check = cls.__new__(cls)
        check._document = document
        return check

    def found(self, schema: Any, value: Any) -> Problem | None:
        """The first problem of a value with one schema of the document."""
        if schema is True:
            return None
        if not isinstance(schema, dict):
            return Problem("is not allowed") if schema is False else Problem("cannot be checked: not a schema")
        for keyword in schema:
            checked = _ASSERTIONS.get(keyword)
            if checked is not None and (problem := checked(self, schema[keyword], value, schema)) is not None:
                return problem
        return None

    def holds(self, schema: Any, value: Any) -> bool:
        return self.found(schema, value) is None

    def target(self, reference: Any) -> Any:
        """What a `$ref` leads to. Raises `SlmError` (USAGE)."""
        return references.target(self._document, reference, "the schema")


def _is_unreadable(pattern: str) -> bool:
    try:
        python_regex.compiled(json.loads(pattern))
    except SlmError:
        return True
    return False


def _refuse_unreadable(document: Any) -> None:
    for schema in all_below(document):
        pattern = schema.get("pattern")
        if isinstance(pattern, str):
            python_regex.compiled(pattern)
        for name in schema.get("patternProperties", {}) if isinstance(schema.get("patternProperties"), dict) else ():
            python_regex.compiled(name)
