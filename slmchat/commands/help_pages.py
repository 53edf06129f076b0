"""The help page of a command, as wide as the terminal: usage, what it does, what it takes, examples.

A page with more than ten options has them in groups, by what they are about. In a narrow window the meaning of an
option stands below it.

Knows: how a page is laid out. Refuses to know: any command.
"""

from collections.abc import Iterator

from slmchat.commands.command_line import CommandNode, Invocation
from slmchat.commands.examples import EXAMPLES
from slmchat.commands.parser import Parameter
from slmchat.option_fields import OptionGroup
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
_HELP = ("-h, --help", "Show this message and exit.")
# What is written as a space, but where no line ends. It is ASCII, since the width of other characters costs an import.
_NO_BREAK = "\x1f"


def show(context: Invocation) -> None:
    """Print the page of the command of this context, its headings bold on a terminal in colour."""
    console = current_console()
    for line in page(context.node, context.path, console.size[0]):
        is_heading = line.endswith(":") and not line.startswith(" ")
        console.write(line, BOLD if is_heading and console.has_color else None)
        console.write("\n")


def page(command: CommandNode, path: str, columns: int) -> Iterator[str]:
    """The lines of the page of a command that is called so, in a window of `columns`; those of headings end with a
    colon and are not indented."""
    width = min(columns, _WIDEST)
    yield from hanging("Usage: ", " ".join([path, "[OPTIONS]", *_operands(command)]), width)
    yield ""
    yield from hanging("  ", command.help, width)
    arguments = [param for param in command.parameters if not param.is_option and param.help]
    yield from _section("Arguments", [(param.metavar or "", param.help) for param in arguments], width)
    options = [(_spelling(param), _meaning(param), param.group) for param in command.parameters if param.is_option]
    options.append((*_HELP, OptionGroup.GENERAL))
    is_grouped = len(options) > _MOST_UNGROUPED
    widest = max(len(spelling) for spelling, _, _ in options)
    for heading in OptionGroup if is_grouped else ("Options",):
        own = [(spelling, meaning) for spelling, meaning, group in options if not is_grouped or group == heading]
        yield from _section(str(heading), own, width, widest)
    commands = command.commands or {}
    told = [(name, _first_sentence(each.help)) for name, each in commands.items() if not each.is_hidden]
    yield from _section("Commands", told, width)
    examples = EXAMPLES.get(path.partition(" ")[2], ())
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


def _operands(command: CommandNode) -> list[str]:
    """What stands behind the options in the usage line; a metavar has brackets around what may be left out."""
    if command.commands is not None:
        return ["COMMAND [ARGS]..."]
    return [param.metavar or "" for param in command.parameters if not param.is_option]


def _spelling(param: Parameter) -> str:
    spellings = ", ".join(sorted(param.opts, key=lambda flag: flag.startswith("--")))
    other = f" / {', '.join(param.secondary_opts)}" if param.secondary_opts else ""
    return f"{spellings}{other}" + (f" {param.metavar}" if param.takes_value and param.metavar else "")


def _meaning(param: Parameter) -> str:
    if param.range is None:
        return param.help
    return f"{param.help} [{param.range.in_short.replace(' ', _NO_BREAK)}]"


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".;")


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
