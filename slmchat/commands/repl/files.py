"""Files that go into a chat and come out of it: text files for the next message, exports, lines of a search.

Knows: globs and quoting in `/file`, what is no text, which format an export gets from its name.
Refuses to know: how the contents are used.
"""

import glob
import os
from contextlib import suppress
from pathlib import Path

from slmchat.commands.inputs import read_text
from slmchat.conversation import exchange, pictures
from slmchat.conversation.archive_search import Hit
from slmchat.conversation.attachments import Attachment
from slmchat.conversation.messages import Conversation
from slmchat.conversation.pictures import Picture
from slmchat.errors import ExitCode, SlmError
from slmchat.privacy.seal import explain
from slmchat.privacy.writable_paths import check_directory
from slmchat.private_files import make_private
from slmchat.settings import Settings
from slmchat.terminal import preview
from slmchat.terminal.completion import split_words
from slmchat.terminal.console import Console

# More files than this by one glob are a mistake more often than a wish.
MOST_FILES = 100
MOST_PICTURES = 16
# Bytes of one file; a context window of a million tokens holds about four times as many characters.
MOST_BYTES = 16 * 1024 * 1024


def read_all(arguments: str) -> list[Attachment]:
    """The text files that `/file` names: paths with `~`, quotes and globs. Raises `SlmError` (USAGE)."""
    paths = [path for word in split_words(arguments) for path in _matching(word)]
    if len(paths) > MOST_FILES:
        raise SlmError(
            f"{len(paths):,} files are more than {MOST_FILES}.", hint="a narrower pattern", exit_code=ExitCode.USAGE
        )
    for path in paths:
        if path.is_file() and path.stat().st_size > MOST_BYTES:
            raise SlmError(f"{path} has more than {MOST_BYTES:,} bytes.", exit_code=ExitCode.USAGE)
    return [Attachment(read_text(str(path)), path.name) for path in paths]


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
    name = os.path.expanduser(word)
    if Path(name).exists() or not glob.has_magic(name):
        return [Path(name)]
    found = sorted(Path(path) for path in glob.glob(name, recursive=True) if Path(path).is_file())
    if not found:
        raise SlmError(f"no file matches {word}.", exit_code=ExitCode.USAGE)
    return found


def export_directory(named: str | None, settings: Settings) -> Path:
    """Where the sealed chat may write exports: what was named, else a directory of slm's own, made when missing.

    Raises `SlmError` (USAGE) for a directory that a sealed process must not write in.
    """
    if named or settings.export_dir:
        return check_directory(Path(named or settings.export_dir or ""), "--export-dir" if named else "export-dir")
    with suppress(SlmError):  # a home that cannot be written: `/export` says so
        make_private(settings.paths.exports)
    return settings.paths.exports


def export(conversation: Conversation, arguments: str, directory: Path) -> Path:
    """Write a conversation to a file: Markdown (the current path), or JSON (everything) when it ends in `.json`.

    Names are those of files in `directory`. Without one: the title. Raises `SlmError`: USAGE when the file exists,
    STORAGE.
    """
    name = os.path.expanduser(arguments.strip().strip("\"'")) or f"{_file_name(conversation)}.md"
    file = directory / name
    write = exchange.to_json if file.suffix == ".json" else exchange.to_markdown
    times = [node.created_at for node in conversation.nodes()]
    text = write(conversation, exchange.Times(min(times), max(times)))
    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError as error:
        raise SlmError(
            f"{file} exists already.", hint="another name: /export FILE", exit_code=ExitCode.USAGE
        ) from error
    except OSError as error:
        hint = f"/export NAME writes to {directory}; slm chat --export-dir DIR chooses another directory"
        if conversation.recorder is not None:
            hint += f"; later: slm sessions export {conversation.id[:8]} -o FILE"
        raise explain(error, file, hint) from error
    return file


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
