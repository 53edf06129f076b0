"""Files that go into a chat and come out of it: text files for the next message, exports, lines of a search.

Knows: globs, directories and quoting in `/file`, what is no text, which format an export gets from its name.
Refuses to know: how the contents are used.
"""

import contextlib
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from slmchat.commands.inputs import read_text
from slmchat.conversation import exchange, pictures
from slmchat.conversation.archive_search import Hit
from slmchat.conversation.attachments import Attachment
from slmchat.conversation.messages import Conversation
from slmchat.conversation.pictures import Picture
from slmchat.errors import ExitCode, SlmError
from slmchat.privacy.seal import explain
from slmchat.private_files import storage_error
from slmchat.terminal import preview
from slmchat.terminal.completion import split_words
from slmchat.terminal.console import Console
from slmchat.user_paths import user_path
from slmchat.wording import counted

# More files than this by one glob are a mistake more often than a wish.
MOST_FILES = 100
# Files that are listed one by one.
MOST_LISTED = 8
# How often a name is taken before that is a mistake.
MOST_NUMBERED = 999
MOST_PICTURES = 16
# Bytes of one file; a context window of a million tokens holds about four times as many characters.
MOST_BYTES = 16 * 1024 * 1024
# Directories that other programs fill; nobody means them.
_TOOLS = ("node_modules", "__pycache__", "venv", "target", "build", "dist")


def read_all(arguments: str, console: Console) -> list[Attachment]:
    """The text files that `/file` names: paths with `~`, quotes, globs and directories. Raises `SlmError` (USAGE)."""
    return read_paths([path for word in split_words(arguments) for path in _matching(word)], console)


def read_paths(paths: Sequence[Path], console: Console) -> list[Attachment]:
    """The texts of these files, and of the text files below these directories. Raises `SlmError` (USAGE)."""
    named = [path for path in paths if not os.path.isdir(path)]
    below = [(path, folder) for folder in paths if os.path.isdir(folder) for path in _files_below(folder)]
    if len(named) + len(below) > MOST_FILES:
        raise SlmError(
            f"{len(named) + len(below):,} files are more than {MOST_FILES}.",
            hint="a narrower pattern, or a directory further down",
            exit_code=ExitCode.USAGE,
        )
    for path in named:
        if os.path.isfile(path) and path.stat().st_size > MOST_BYTES:
            raise SlmError(f"{path} has more than {MOST_BYTES:,} bytes.", exit_code=ExitCode.USAGE)
    read = [Attachment(read_text(str(path)), path.name) for path in named]
    skipped = 0
    for path, folder in below:
        try:
            is_read = path.is_file() and path.stat().st_size <= MOST_BYTES  # a pipe would be waited for
            if is_read:
                read.append(Attachment(read_text(str(path)), str(path.relative_to(folder.parent))))
        except (SlmError, OSError):
            is_read = False
        skipped += not is_read  # of a directory only what is text was asked for
    if skipped:
        console.note(f"{counted(skipped, 'file')} left out: not text, too large or not readable.")
    if paths and not read:
        raise SlmError("there is no text file in that directory.", exit_code=ExitCode.USAGE)
    return read


def _files_below(folder: Path) -> Iterator[Path]:
    """The files in a directory and those below it, but not what is hidden or a tool's own."""
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _TOOLS)
        yield from (Path(top, name) for name in sorted(names) if not name.startswith("."))


def read_pictures(arguments: str) -> list[Picture]:
    """The pictures that `/image` names: paths with `~`, quotes and globs. Raises `SlmError` (USAGE, DAMAGED)."""
    paths = [path for word in split_words(arguments) for path in _matching(word)]
    if len(paths) > MOST_PICTURES:
        raise SlmError(
            f"{len(paths):,} pictures are more than {MOST_PICTURES}.",
            hint="a narrower pattern",
            exit_code=ExitCode.USAGE,
        )
    return [pictures.read(path) for path in paths]


def _matching(word: str) -> list[Path]:
    name = str(user_path(word))
    if "\0" in name or os.path.exists(name) or not glob.has_magic(name):  # glob fails on a null character
        return [Path(name)]
    found = sorted(Path(path) for path in glob.glob(name, recursive=True) if os.path.isfile(path))
    if not found:
        raise SlmError(f"no file matches {word}.", exit_code=ExitCode.USAGE)
    return found


def export(conversation: Conversation, arguments: str, directory: Path) -> Path:
    """Write a conversation to a file: Markdown (the current path), or JSON (everything) when it ends in `.json`.

    Names are those of files in `directory`. Without one: the title. Raises `SlmError` (USAGE, STORAGE).
    """
    name = arguments.strip().strip("\"'") or f"{_file_name(conversation)}.md"
    write = exchange.to_json if name.endswith(".json") else exchange.to_markdown
    times = [node.created_at for node in conversation.nodes()]
    later = f"; later: slm sessions export {conversation.id[:8]} -o FILE" if conversation.recorder is not None else ""
    return write_new(directory, name, write(conversation, exchange.Times(min(times), max(times))), later)


def write_new(directory: Path, name: str, text: str, later: str = "") -> Path:
    """Write a text to a file of this name, or, where there is one, with the next free number; the file.

    `later`: what else can be done, for the hint. Raises `SlmError`: USAGE for what names no file, STORAGE.
    """
    file = directory / user_path(name)
    names = f"names are those of files in {directory}"
    if name.endswith(("/", os.sep)) or os.path.isdir(file):
        raise SlmError(f"'{name}' is not the name of a file.", hint=names, exit_code=ExitCode.USAGE)
    for number in range(1, MOST_NUMBERED + 1):
        numbered = file if number == 1 else file.with_stem(f"{file.stem}-{number}")
        try:
            descriptor = os.open(numbered, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            continue
        except OSError as error:
            hint = f"{names}; slm chat --export-dir DIR chooses another directory"
            raise explain(error, numbered, hint + later) from error
        try:
            with open(descriptor, "w", encoding="utf-8", errors="replace") as out:
                out.write(text)
        except OSError as error:
            with contextlib.suppress(OSError):
                numbered.unlink()  # part of a text, under the name of the whole
            raise storage_error(error, numbered) from error
        return numbered
    raise SlmError(f"{file} and {MOST_NUMBERED} more of that name exist.", exit_code=ExitCode.USAGE)


def _file_name(conversation: Conversation) -> str:
    letters = "".join(letter if letter.isalnum() else "-" for letter in conversation.title.lower())
    return "-".join(part for part in letters.split("-") if part)[:60] or f"conversation-{conversation.id[:8]}"


def hit_line(hit: Hit) -> str:
    """One line of a search result."""
    found = " ".join("".join(text for text, _ in hit.parts).split())
    return f"{hit.session[:8]}  {' '.join(hit.title.split())}" + (f"  {hit.role}: {found}" if hit.role else "")


def draw(picture: Picture, console: Console) -> None:
    """A small preview, where the terminal draws pictures; nothing elsewhere."""
    drawing = preview.drawing_of(console.environ) if console.is_stderr_tty else None
    if drawing is preview.Drawing.KITTY:
        console.draw(preview.kitty(picture.small_png(*preview.SIZE)))
    elif drawing is preview.Drawing.ITERM2:
        console.draw(preview.iterm2(picture.small_png(*preview.SIZE)))
    elif drawing is preview.Drawing.SIXEL:
        console.draw(preview.sixel(*picture.small_indexed(*preview.SIZE, preview.COLOURS)))
