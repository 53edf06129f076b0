"""What a line that was typed stands for: a command of the chat, or a message.

Knows: the table of commands with name, arguments, help and function; that only exact names count; which names are near
an unknown one; `//` for a leading slash and the marks of a block.
Refuses to know: what the commands do; the errand that owns them brings the functions.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from slmchat.errors import SlmError, usage_error
from slmchat.lazy_dataclasses import dataclass

State = TypeVar("State")

BLOCK_MARK = '"""'
# What stands before the text that a command is given; `//` begins a message.
_TO_COMMAND = re.compile(r"\s*/[^\s/]\S*\s+")
# A name in an error is cut here, in characters: a pasted path is not repeated in full.
_SHOWN_NAME = 40


@dataclass(frozen=True, slots=True)
class SlashCommand(Generic[State]):
    """`/name arguments`: the function gets the state of the chat and the text after the name.

    `help` is a line, `more` what `/help NAME` says besides; commands of a `group` stand together in `/help`.
    `also`: names by which other tools call it.
    `complete` gets the argument text so far and gives (replacement for the whole argument text, description) pairs.
    """

    name: str
    arguments: str
    help: str
    run: Callable[[State, str], None]
    complete: Callable[[State, str], Iterable[tuple[str, str]]] | None = None
    group: str = ""
    more: str = ""
    also: tuple[str, ...] = ()

    @property
    def usage(self) -> str:
        """As it is typed: `/name ARGUMENTS`."""
        return f"/{self.name} {self.arguments}".rstrip()


class CommandTable(Generic[State]):
    """The commands by name."""

    def __init__(self, commands: Iterable[SlashCommand[State]]) -> None:
        self.commands: Sequence[SlashCommand[State]] = tuple(commands)
        self._groups = list(dict.fromkeys(command.group for command in self.commands))
        self._by_name = {name: command for command in self.commands for name in (*command.also, command.name)}

    def find(self, name: str) -> SlashCommand[State] | None:
        """The command with exactly this name."""
        return self._by_name.get(name)

    def parse(self, line: str) -> tuple[SlashCommand[State], str] | None:
        """The command of a line and its argument text; None when the line is a message (see `message_of`).

        Raises `SlmError` (USAGE) with the nearest names for a `/word` that is no command, a path among them: what
        looks like a command is never sent to the model by accident, blanks before the slash included. So is what
        stands behind a command that takes nothing: `/undo 3` is not one step, nor does `/private off` switch it on.
        """
        text = line.lstrip()
        if not text.startswith("/") or text.startswith("//"):
            return None
        name = text[1:].split(maxsplit=1)[0] if text[1:2].strip() else ""
        command = self._by_name.get(name)
        if command is None:
            raise self._unknown(name)
        arguments = text[1 + len(name) :].strip()
        if arguments and not command.arguments:
            raise usage_error(
                f"/{name} takes nothing behind it; nothing was done.", f"/{name} by itself: {command.help}"
            )
        return command, _without_marks(arguments)

    def help_lines(self) -> Iterator[str]:
        """One line for each command, aligned, below the name of its group."""
        width = max(len(command.usage) for command in self.commands)
        group = ""
        for command in sorted(self.commands, key=lambda command: self._groups.index(command.group)):
            if command.group != group:
                group = command.group
                yield from ("", group)
            yield f"  {command.usage:<{width}}  {command.help}"

    def help_of(self, name: str) -> Iterator[str]:
        """What there is to know of one command. Raises `SlmError` with the nearest names."""
        command = self._by_name.get(name.removeprefix("/"))
        if command is None:
            raise self._unknown(name.removeprefix("/"))
        yield f"{command.usage}: {command.help}"
        if command.more:
            yield command.more
        if command.also:
            yield f"Also: {', '.join('/' + name for name in command.also)}"

    def _unknown(self, name: str) -> SlmError:
        near = self._near(name)
        also = f"did you mean {' or '.join('/' + item for item in near)}? " if near else ""
        shown = name if len(name) <= _SHOWN_NAME else name[: _SHOWN_NAME - 1] + "…"
        return usage_error(
            f"there is no command /{shown}; nothing was sent to the model.",
            f"{also}/help lists the commands; a message that begins with a slash: //{shown}",
        )

    def _near(self, name: str) -> list[str]:
        """At most three names: those that go on where `name` stops, then those that are spelled alike."""
        import difflib

        small = name.casefold()
        longer = [item for item in self._by_name if small and item.startswith(small)]
        alike = difflib.get_close_matches(small, self._by_name, 3)
        return list(dict.fromkeys([*longer, *alike]))[:3]


def message_of(line: str) -> str:
    """The message that a line stands for: `//` at its beginning means one slash."""
    at = _first_visible(line)
    return line[:at] + line[at + 1 :] if line.startswith("//", at) else line


def literal(text: str) -> str:
    """The line that stands for `text` as a message: the inverse of `message_of`."""
    at = _first_visible(text)
    return text[:at] + "/" + text[at:] if text.startswith("/", at) else text


def as_typed(text: str) -> str:
    """What has to stand in the line editor so that `text` is sent as a message, whatever it begins with."""
    return f"{BLOCK_MARK}\n{text}\n{BLOCK_MARK}" if text.startswith(BLOCK_MARK) else literal(text)


def is_open_block(typed: str) -> bool:
    '''Whether the text, or what a command is given, begins with `"""` and its last line does not end with it yet.'''
    command = _TO_COMMAND.match(typed)
    block = typed[command.end() :] if command else typed
    return block.startswith(BLOCK_MARK) and not _is_closed(block)


def line_of(typed: str) -> str:
    '''What was typed without the marks of a `"""` block; the inside of a block is a message, never a command.'''
    inside = _without_marks(typed)
    return typed if inside is typed else literal(inside)


def _without_marks(block: str) -> str:
    """The inside of a block; any other text as it is. The line ends next to the marks belong to the marks."""
    if not block.startswith(BLOCK_MARK) or not _is_closed(block):
        return block
    return re.sub(r"\A[ \t]*\n|\n[ \t]*\Z", "", block.rstrip()[len(BLOCK_MARK) : -len(BLOCK_MARK)])


def _is_closed(typed: str) -> bool:
    text = typed.rstrip()
    return len(text) >= 2 * len(BLOCK_MARK) and text.endswith(BLOCK_MARK)


def _first_visible(text: str) -> int:
    return len(text) - len(text.lstrip())
