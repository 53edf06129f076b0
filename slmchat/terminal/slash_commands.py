"""The commands of the chat: one table with name, arguments, help and function.

Knows: how a line becomes a command (exact names only), which names are near an unknown one.
Refuses to know: what the commands do; the errand that owns them brings the functions.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from slmchat.errors import ExitCode, SlmError

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class SlashCommand(Generic[State]):
    """`/name arguments`: the function gets the state of the chat and the text after the name."""

    name: str
    arguments: str
    help: str
    run: Callable[[State, str], None]


class CommandTable(Generic[State]):
    """The commands by name."""

    def __init__(self, commands: Iterable[SlashCommand[State]]) -> None:
        self.commands: Sequence[SlashCommand[State]] = tuple(commands)
        self._by_name = {command.name: command for command in self.commands}

    def parse(self, line: str) -> tuple[SlashCommand[State], str] | None:
        """The command of a line and its argument text; None when the line is a message (see `message_of`).

        Raises `SlmError` with the nearest names for a `/word` that is no command: it is never sent to the model.
        """
        if not line.startswith("/") or line.startswith("//"):
            return None
        name, _, rest = line[1:].partition(" ")
        command = self._by_name.get(name)
        if command is None:
            import difflib

            near = difflib.get_close_matches(name, self._by_name, 3)
            also = f"did you mean {' or '.join('/' + item for item in near)}? " if near else ""
            raise SlmError(
                f"there is no command /{name}; nothing was sent to the model.",
                hint=f"{also}/help lists the commands; a message that begins with a slash: //{name}",
                exit_code=ExitCode.USAGE,
            )
        return command, rest.strip()

    def help_lines(self) -> list[str]:
        """One line for each command, aligned."""
        heads = [f"/{command.name} {command.arguments}".rstrip() for command in self.commands]
        width = max(map(len, heads))
        return [f"{head:<{width}}  {command.help}" for head, command in zip(heads, self.commands, strict=True)]


def message_of(line: str) -> str:
    """The message that a line stands for: `//` at its beginning means one slash."""
    return line[1:] if line.startswith("//") else line
