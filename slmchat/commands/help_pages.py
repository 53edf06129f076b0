"""The help page of a command, as wide as the terminal: usage, what it does, what it takes, examples.

A page with more than ten options has them in groups, by what they are about. In a narrow window the meaning of an
option stands below it.

Knows: click's records of commands (vendored by typer), how a page is laid out. Refuses to know: any command.
"""

from collections.abc import Iterator
from typing import Any

from slmchat.commands.examples import EXAMPLES
from slmchat.option_fields import OptionGroup
from slmchat.ranges import Range
from slmchat.terminal.console import current_console
from slmchat.terminal.screen import BOLD
from slmchat.terminal.tables import hanging

# Longer lines are hard to read; examples may be as long as the window is wide.
_WIDEST = 80
# In a window narrower than this, the meaning of an option stands below it.
_NARROW = 60
# The options of a page with more than these are in groups.
_MOST_UNGROUPED = 10
_SPELLING_WIDTH = 28
# What is written as a space, but where no line ends. It is ASCII, since the width of other characters costs an import.
_NO_BREAK = "\x1f"


def show(context: Any) -> None:
    """Print the page of the command of this context, its headings bold on a terminal in colour."""
    console = current_console()
    for line in page(context.command, context, console.size[0]):
        is_heading = line.endswith(":") and not line.startswith(" ")
        console.write(line, BOLD if is_heading and console.has_color else None)
        console.write("\n")


def page(command: Any, context: Any, columns: int) -> Iterator[str]:
    """The lines of the page in a window of `columns`; those of headings end with a colon and are not indented."""
    width = min(columns, _WIDEST)
    yield from hanging("Usage: ", " ".join([context.command_path, "[OPTIONS]", *_operands(command)]), width)
    yield ""
    yield from hanging("  ", " ".join((command.help or "").split()), width)
    parameters = [param for param in command.get_params(context) if not getattr(param, "hidden", False)]
    arguments = [param for param in parameters if param.param_type_name == "argument" and param.help]
    yield from _section("Arguments", [(param.metavar, param.help) for param in arguments], width)
    options = [param for param in parameters if param.param_type_name == "option"]
    is_grouped = len(options) > _MOST_UNGROUPED
    widest = max(len(_spelling(param)) for param in options)
    for heading in OptionGroup if is_grouped else ("Options",):
        own = [param for param in options if not is_grouped or _group_of(param) == heading]
        yield from _section(str(heading), [(_spelling(param), _meaning(param)) for param in own], width, widest)
    commands = getattr(command, "commands", {})
    told = [(name, _first_sentence(each.help)) for name, each in commands.items() if not each.hidden]
    yield from _section("Commands", told, width)
    examples = EXAMPLES.get(context.command_path.partition(" ")[2], ())
    if examples:
        yield from ("", "Examples:")
        for line in examples:
            yield from example(line, columns)
    if command.epilog:
        yield ""
        yield from hanging("", command.epilog, width)


def _section(heading: str, rows: list[tuple[str, str]], width: int, widest: int = 0) -> Iterator[str]:
    """A heading, and in two columns what it is about; `widest`: the longest text of the first one in all sections."""
    if not rows:
        return
    yield ""
    yield f"{heading}:"
    widest = max(widest, *(len(left) for left, _ in rows))
    column = min(widest, _SPELLING_WIDTH)
    is_below = width < _NARROW and widest > width // 3
    for left, right in rows:
        if is_below or len(left) > column:
            yield f"  {left}"
            lines = hanging(" " * (6 if is_below else column + 4), right, width) if right else []
        else:
            lines = hanging(f"  {left:<{column}}  ", right, width)
        yield from (line.replace(_NO_BREAK, " ").rstrip() for line in lines)


def _operands(command: Any) -> list[str]:
    """What stands behind the options in the usage line; a metavar has brackets around what may be left out."""
    if hasattr(command, "commands"):
        return [command.subcommand_metavar]
    return [param.metavar for param in command.params if param.param_type_name == "argument"]


def _group_of(param: Any) -> str:
    return getattr(param, "rich_help_panel", None) or OptionGroup.GENERAL


def _spelling(param: Any) -> str:
    spellings = ", ".join(sorted(param.opts, key=lambda flag: flag.startswith("--")))
    other = f" / {', '.join(param.secondary_opts)}" if param.secondary_opts else ""
    takes_value = not param.is_flag and not param.count
    return f"{spellings}{other}" + (f" {param.metavar}" if takes_value and param.metavar else "")


def _meaning(param: Any) -> str:
    low, high = getattr(param.type, "min", None), getattr(param.type, "max", None)
    if low is None or high is None or param.count:
        return param.help or ""
    limits = Range(low, high).in_short.replace(" ", _NO_BREAK)
    return f"{param.help} [{limits}]"


def _first_sentence(text: str | None) -> str:
    return " ".join((text or "").split()).partition(". ")[0].rstrip(".;")


def example(line: str, columns: int) -> Iterator[str]:
    """A command line to copy: where it is too long, the shell is told that it goes on (`\\` at the end)."""
    words, made = _shell_words(line), "  "
    for number, word in enumerate(words):
        more = 2 if number < len(words) - 1 else 0
        if made.strip() and len(made) + 1 + len(word) + more > columns:
            yield f"{made} \\"
            made = "    " + word
        else:
            made += f" {word}" if made.strip() else word
    yield made


def _shell_words(line: str) -> list[str]:
    """The words of a line of shell as they stand there; what is quoted is one, and so is an option with its value."""
    words, quote = [""], ""
    for char in line:
        is_option = words[-1].startswith("-") and " " not in words[-1]
        if char == " " and not quote and not is_option:
            words.append("")
            continue
        words[-1] += char
        quote = "" if char == quote else quote or (char if char in "\"'" else "")
    return words
