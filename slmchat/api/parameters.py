"""Errors in the words of a Python program: `ctx=N` where the command line says `--ctx N`.

Knows: which options are parameters here. Refuses to know: what went wrong. Rooms below say what to do in the command
line's words, which most people use; a command that a hint names (`slm pull NAME`) stays as it is.
"""

import functools
import re
from collections.abc import Callable
from typing import TypeVar

from slmchat.api.options import CompletionOptions, LoadOptions
from slmchat.errors import SlmError

_NAMES = {
    *LoadOptions.__annotations__,
    *CompletionOptions.__annotations__,
    *("ctx", "endpoint", "threads", "gpu_layers", "raw", "system", "threshold", "parallel", "logprobs"),
}
# An option with what may stand behind it: a number, a word in capitals that stands for a value, a type of the KV cache.
_OPTION = re.compile(r"(?<![\w-])(?:--([a-z][a-z-]*)|-n\b)(?: (\d[\d,]*|[A-Z]+|q\d_\d|f16)\b)?")

Function = TypeVar("Function", bound=Callable[..., object])


def says_parameters(function: Function) -> Function:
    """The same function, whose `SlmError`s name parameters."""

    @functools.wraps(function)
    def call(*arguments: object, **keywords: object) -> object:
        try:
            return function(*arguments, **keywords)
        except SlmError as error:
            name_parameters(error)
            raise

    return call  # type: ignore[return-value]


def name_parameters(error: SlmError) -> SlmError:
    """The same error, which names parameters from now on."""
    said = f"hint: {error.hint}"
    error.message = _in_parameters(error.message)
    error.args = (error.message,)
    if error.hint:
        error.hint = _in_parameters(error.hint)
        notes = [note for note in error.__notes__ if note != said]
        error.__notes__ = [*notes, f"hint: {error.hint}"]
    return error


def _in_parameters(text: str) -> str:
    parts = text.split("; ")
    return "; ".join(part if re.search(r"\bslm [a-z]", part) else _OPTION.sub(_parameter, part) for part in parts)


def _parameter(option: "re.Match[str]") -> str:
    name, value = (option[1] or "max_tokens").replace("-", "_"), option[2]
    if name not in _NAMES:
        return option[0]
    if value is None:
        return "force=True" if name == "force" else name
    return f'{name}="{value}"' if value[0] in "qf" else f"{name}={value.replace(',', '')}"
