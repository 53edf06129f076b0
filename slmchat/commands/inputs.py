"""What a command is given to work on: files, pictures, standard input.

Knows: in which order they count, what is read once. Refuses to know: what becomes of them.
"""

from slmchat import text_files
from slmchat.conversation import pictures
from slmchat.conversation.attachments import Attachment
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.pictures import Picture
from slmchat.errors import usage_error
from slmchat.generation import params
from slmchat.options import GenerationOptions
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.terminal.piped import read_piped
from slmchat.text_files import text_of, with_line_feeds
from slmchat.user_paths import user_path


def read_inputs(
    options: GenerationOptions, console: Console, *, reads_piped: bool = True
) -> tuple[list[Attachment], list[Picture]]:
    """Files in the order given, then what is piped in. Standard input is read once, and only when it is no terminal.

    `reads_piped` False: only where it is named (`-f -`).
    """
    found: list[Attachment] = []
    shown: list[Picture] = []
    is_stdin_read = False
    for name in options.files:
        path = user_path(name)
        if name == "-":
            is_stdin_read = True
            _take_piped(found, shown, console, is_named=True)
        elif pictures.is_picture(path):
            shown.append(pictures.read(path))
        else:
            found.append(Attachment(read_text(name), path.name))
    if reads_piped and not is_stdin_read and not console.stdin.isatty():
        _take_piped(found, shown, console, is_named=False)
    return found, shown


def _take_piped(found: list[Attachment], shown: list[Picture], console: Console, *, is_named: bool) -> None:
    """Standard input, a picture or text. `is_named`: asked for with `-f -`, so that it counts even when it is empty."""
    data = text_files.read_whole(lambda most: read_piped(console, most), "standard input")
    if pictures.looks_like_picture(data):
        shown.append(Picture.of("standard input", pictures.decode(data, "standard input")))
        return
    text = with_line_feeds(text_of(data, "standard input"))
    if is_named or text.strip():
        found.append(Attachment(text))


def prefix_messages(options: GenerationOptions, settings: Settings) -> list[Message]:
    """What stands before the question: the system message, and the examples of a persona."""
    system = system_text(options.system)
    examples = params.example_messages(params.persona_of(options, settings))
    return [*([Message(Role.SYSTEM, system)] if system else []), *examples]


def read_text(name: str) -> str:
    """A text file of the user's; `SlmError` (USAGE) when it cannot be read as one."""
    if not name:
        raise usage_error("a file needs a name, and this one is empty.", "-f FILE; - is standard input")
    return with_line_feeds(text_files.read(name))


def system_text(given: str | None) -> str | None:
    """The system message of `-s`: the text itself, or what @FILE holds."""
    return read_text(given[1:]).strip() if given and given.startswith("@") and len(given) > 1 else given
