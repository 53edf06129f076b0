"""What a wrong command line is answered with: what is wrong, and the line that would be right.

Knows: the errors of the parser and which commands take an option. Refuses to know: what options mean.
"""

import difflib
import re
from collections.abc import Sequence

from slmchat.commands.command_line import CommandNode
from slmchat.commands.parser import UsageError
from slmchat.errors import ExitCode, SlmError

_EXAMPLE = 'text that begins with "-" goes behind "--": slm run -- "-5 plus 3"'


def explained(error: UsageError, arguments: Sequence[str], program: CommandNode) -> SlmError:
    """The sentence and the hint for a command line of this program that is not understood."""
    commands = program.commands or {}
    hint = f"{error.path} --help"
    if error.option is not None:
        hint = _right_option(error, arguments, program) or hint
    elif error.command is not None:
        near = difflib.get_close_matches(error.command, _node_at(program, error.path).commands or {})
        hint = f"did you mean {' or '.join(f'{error.path} {name}' for name in near)}?" if near else hint
    elif "'-n'" in error.message and "is not" in error.message:
        hint = "without -n an answer is as long as the context window lets it be"
    elif error.path == "slm" and arguments and arguments[0] in commands:
        hint = f"slm {arguments[0]} --help"
    return SlmError(f"{error.message}.", hint=hint, exit_code=ExitCode.USAGE)


def _node_at(program: CommandNode, path: str) -> CommandNode:
    """The node that is called so."""
    node = program
    for name in path.split()[1:]:
        node = (node.commands or {})[name]
    return node


def _right_option(error: UsageError, arguments: Sequence[str], program: CommandNode) -> str | None:
    """How the option would be right: behind a command, with another spelling, or as a text."""
    name, commands = error.option or "", program.commands or {}
    called = next((word for word in arguments if word in commands), None)
    takers = [command for command in commands if name in options_of(commands[command])]
    if error.path == "slm" and takers:
        taker = called if called in takers else "run" if "run" in takers else takers[0]
        return f"{name} goes behind the command: slm {taker} {name} …"
    known = options_of(_node_at(program, error.path))
    given = next((word for word in arguments if word.startswith(name)), name)
    if not given.startswith("--"):  # "-temp" was read as the letters t, e, m, p
        if f"-{given}" in known:
            return f"did you mean -{given}?"
        if re.match(r"-[\d.]", given):
            return _EXAMPLE
    if takers and name.startswith("--"):
        return f"it is an option of slm {', slm '.join(takers)}"
    near = difflib.get_close_matches(name, [each for each in known if each.startswith("--")], n=2, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else None


def options_of(command: CommandNode) -> tuple[str, ...]:
    """Every spelling of every option of a command."""
    return tuple(spelling for parameter in command.parameters for spelling in parameter.opts)
