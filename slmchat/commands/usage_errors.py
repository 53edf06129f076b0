"""What typer says of a wrong command line, in slm's words: what is wrong, and the line that would be right.

Knows: the sentences of click (vendored by typer) and which commands take an option. Refuses to know: what options mean.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from slmchat.errors import SlmError, usage_error
from slmchat.ranges import NO_LIMIT, Range

_EXAMPLE = 'text that begins with "-" goes behind "--": slm run -- "-5 plus 3"'

_OUT_OF_RANGE = re.compile(r"(?P<value>\S+) is not in the range (?P<low>\d+(?:\.\d+)?)<=x<=(?P<high>\d+(?:\.\d+)?)")
_NO_NUMBER = re.compile(r"(?P<value>'.*') is not a valid (?P<kind>int|float)\w*(?: range)?")


def explained(error: Any, arguments: Sequence[str], commands: Mapping[str, Any]) -> SlmError:
    """The sentence and the hint for a usage error of typer's. `commands`: those of the program, by name."""
    called = next((word for word in arguments if word in commands), None)
    context = getattr(error, "ctx", None)
    path = context.command_path if context else " ".join(["slm", *([called] if called else [])])
    hint = f"{path} --help"
    message = error.format_message().strip()
    if getattr(error, "option_name", None) and "no such option" in message.lower():
        message = f"there is no option {error.option_name}"
        hint = _right_option(error, arguments, commands, called) or hint
    elif "o such command" in message:
        name, _, better = message.partition("Did you mean ")
        message = name.strip().rstrip(".")
        names = re.findall(r"'([^']+)'", better)
        hint = f"did you mean {' or '.join(f'{path} {each}' for each in names)}?" if names else hint
    else:
        message = _OUT_OF_RANGE.sub(_range, message)
        message = _NO_NUMBER.sub(lambda found: f"{found['value']} is not a {_KINDS[found['kind']]}", message)
        if "'-n'" in message and "is not" in message:
            hint = "without -n an answer is as long as the context window lets it be"
    message = message.rstrip(".")
    return usage_error(f"{message[:1].lower()}{message[1:]}.", hint)


_KINDS = {"int": "whole number", "float": "number"}


def _range(found: "re.Match[str]") -> str:
    low, high = (float(found[name]) if "." in found[name] else int(found[name]) for name in ("low", "high"))
    value = found["value"].removesuffix(".0")
    if high >= NO_LIMIT and isinstance(low, int) and float(value) < low:
        return f"{value} is not a whole number from {low:,} on"
    return f"{value} is not {Range(low, high)}"


def _right_option(error: Any, arguments: Sequence[str], commands: Mapping[str, Any], called: str | None) -> str | None:
    """How the option would be right: behind a command, with another spelling, or as a text."""
    name = error.option_name
    takers = [command for command in commands if name in options_of(commands[command])]
    is_before_command = error.ctx is not None and error.ctx.parent is None
    if is_before_command and takers:
        taker = called if called in takers else "run" if "run" in takers else takers[0]
        return f"{name} goes behind the command: slm {taker} {name} …"
    if name in ("-m", "--model") and error.ctx is not None and _takes_model(error.ctx.command):
        model = next(iter(arguments[arguments.index(name) + 1 :]), "NAME") if name in arguments else "NAME"
        return f"without {name}: {error.ctx.command_path} {model}"
    known = options_of(error.ctx.command) if error.ctx is not None else ()
    given = next((word for word in arguments if word.startswith(name)), name)
    if not given.startswith("--"):  # click reads "-temp" as the letters t, e, m, p
        if f"-{given}" in known:
            return f"did you mean -{given}?"
        if re.match(r"-[\d.]", given):
            return _EXAMPLE
    if takers and name.startswith("--"):
        return f"it is an option of slm {', slm '.join(takers)}"
    near = difflib.get_close_matches(name, [each for each in known if each.startswith("--")], n=2, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else None


def _takes_model(command: Any) -> bool:
    """Whether a model is named without an option there."""
    return any(
        "MODEL" in (parameter.metavar or "") for parameter in command.params if not parameter.opts[0].startswith("-")
    )


def options_of(command: Any) -> tuple[str, ...]:
    """Every spelling of every option of a command."""
    return tuple(spelling for parameter in command.params for spelling in parameter.opts if spelling.startswith("-"))
