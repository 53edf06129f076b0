"""A chat template, compiled: what it writes for a conversation, in the one sandbox of this process.

Knows: the helpers that templates of the field expect, in which words a template refuses.
Refuses to know: messages and where they end up (template.py), what a template may do (template_sandbox.py).
"""

import re
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from slmchat.conversation.template_budget import NESTED, TooMuch
from slmchat.errors import ExitCode, SlmError

if TYPE_CHECKING:
    from slmchat.conversation.template_sandbox import TemplateSandbox

# A template longer than this is not a template (the longest known one, with tools, has about 20 KiB).
MAX_TEMPLATE_LENGTH = 256 * 1024

# There is one sandbox with one budget in a process, and a server has threads.
_one_at_a_time = threading.Lock()


class TemplateRefusal(Exception):
    """The template would not render; the message is its reason."""


class CompiledTemplate:
    """A template's source, compiled once. It keeps nothing from one rendering to the next."""

    def __init__(self, source: str) -> None:
        """Raises `SlmError` (DAMAGED) when it is not valid Jinja."""
        if len(source) > MAX_TEMPLATE_LENGTH:
            raise SlmError("the model's chat template is absurdly long.", exit_code=ExitCode.DAMAGED)
        self._sandbox = _environment()
        try:
            self._template = self._sandbox.from_string(source)
        except Exception as error:  # also what Python's compiler says: SyntaxError (loops too deep), MemoryError
            raise SlmError(
                f"the model's chat template is not valid Jinja: {_reason(error)}.",
                hint="plain completion does without it: slm run --raw",
                exit_code=ExitCode.DAMAGED,
            ) from error

    def written(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
        """The text for these messages, as a template has them. Raises `TemplateRefusal`."""
        from jinja2 import TemplateError

        try:
            with _one_at_a_time:
                self._sandbox.begin()
                return "".join(self._template.generate(messages=messages, **{"tools": None, **variables}))
        except TemplateRefusal:
            raise
        except TooMuch as error:
            raise TemplateRefusal(str(error)) from error
        except TemplateError as error:
            raise TemplateRefusal(str(error.message or type(error).__name__)) from error
        except Exception as error:  # a template is foreign code: whatever it raises is its refusal
            raise TemplateRefusal(_reason(error)) from error


def get_ready() -> None:
    """Import and make what lays prompts out, which takes 30 ms: while something else is waited for."""
    _environment()


@cache
def _environment() -> "TemplateSandbox":
    """The one sandbox of this process. It keeps nothing of a template, and only one is rendered at a time."""
    from slmchat.conversation.template_sandbox import TemplateSandbox

    environment = TemplateSandbox()
    # The helpers of transformers' apply_chat_template, which templates are written for (`tojson` is a filter).
    environment.add_helper("raise_exception", _raise_exception)
    environment.add_helper("strftime_now", _strftime_now)
    return environment


def _reason(error: Exception) -> str:
    """What went wrong inside a template, without Python's words for a stack or a memory that is full."""
    if isinstance(error, RecursionError | MemoryError):
        return NESTED
    if isinstance(error, TooMuch):
        return str(error)
    text = str(error).strip().rstrip(".")
    return f"{type(error).__name__}: {text}" if not hasattr(error, "message") else text or type(error).__name__


def _raise_exception(message: str) -> None:
    raise TemplateRefusal(str(message).strip().rstrip("."))  # the sentence around it has a full stop of its own


def _strftime_now(format: str) -> str:
    if len(format) > 200 or re.search(r"\d{3}", format):  # glibc writes '%9999d' as wide as it says
        raise TemplateRefusal("it asks for an absurd date")
    return datetime.now().strftime(format)
