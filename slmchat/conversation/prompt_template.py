"""A prompt of the user's own with `{{ variables }}` in it.

Knows: Jinja in the sandbox of chat templates, which variables a template uses, how a missing one is told.
Refuses to know: where values come from, messages. What stands in a value is text: it is never read as a template, and
what comes out is a message like any other.
"""

import re
from collections.abc import Mapping
from typing import Any

from slmchat.conversation.template_budget import NESTED
from slmchat.errors import ExitCode, SlmError, usage_error

# A template longer than this is a mistake, in characters.
MAX_LENGTH = 1 << 20

_UNDEFINED = re.compile(r"'(.+)' is undefined")


class NoValue(SlmError):
    """A variable (`name`) that the template uses and nobody has given."""

    def __init__(self, file: str, name: str, known: Mapping[str, Any]) -> None:
        given = ", ".join(sorted(known)[:12]) or "none"
        super().__init__(
            f"{file} uses {{{{ {name} }}}}, which has no value (given: {given}).",
            hint=f'--var {name}="…"; or {{{{ {name} | default("…") }}}} in the file',
            exit_code=ExitCode.USAGE,
        )
        self.name = name


class PromptTemplate:
    """The template in one file."""

    def __init__(self, source: str, file: str) -> None:
        """`file` is for errors. Raises `SlmError` (USAGE) with the line that Jinja cannot read."""
        from jinja2 import StrictUndefined, TemplateSyntaxError, meta

        from slmchat.conversation.template_sandbox import TemplateSandbox

        self.file = file
        self.source = source
        if len(source) > MAX_LENGTH:
            raise self._wrong("it is larger than 1 MiB")
        self._sandbox = TemplateSandbox()
        self._sandbox.undefined = StrictUndefined
        try:
            self._template = self._sandbox.from_string(source)
            names = meta.find_undeclared_variables(self._sandbox.parse(source))
        except TemplateSyntaxError as error:
            raise self._wrong(f"line {error.lineno}: {(error.message or 'it cannot be read').rstrip('.')}") from error
        except Exception as error:  # also what Python's compiler says: loops too deep, no memory
            raise self._wrong(_reason(error)) from error
        self.names = frozenset(names) - set(self._sandbox.globals)

    def fill(self, values: Mapping[str, Any]) -> str:
        """The prompt with these values. Raises `NoValue`, or `SlmError` (USAGE) for what else goes wrong inside."""
        from jinja2 import UndefinedError

        self._sandbox.begin()
        try:
            return self._template.render(values)
        except UndefinedError as error:
            missing = _UNDEFINED.fullmatch(error.message or "")
            if missing:
                raise NoValue(self.file, missing[1], values) from error
            raise self._wrong(_reason(error)) from error
        except Exception as error:  # a template is a program: whatever it raises is its failure
            raise self._wrong(_reason(error)) from error

    def _wrong(self, reason: str) -> SlmError:
        return usage_error(
            f"{self.file} cannot be used as a template: {reason}.", "{{ name }} stands for a value; docs/scripts.md"
        )


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError | MemoryError):
        return NESTED
    return (str(error).strip() or type(error).__name__).rstrip(".")
