"""What the Tab key offers: command names, their arguments, file names.

Knows: where the last word of a line begins, quoting, directories, the form in which prompt_toolkit wants completions.
Refuses to know: models, sessions, settings; a command brings its own completer for those (slash_commands.py).
"""

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmchat.sanitize import sanitize
from slmchat.terminal.input_history import is_unicode
from slmchat.terminal.slash_commands import CommandTable
from slmchat.wording import in_bytes

if TYPE_CHECKING:
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document

# More than anybody reads in a menu; a directory with 100,000 files must not make typing slow.
_MOST = 300
# Where a backslash separates directories it quotes nothing.
_ESCAPE = "\\" if os.sep == "/" else ""
_NAMED = re.compile(r'(?:^|\s)@("[^"\n]*|[^\s"]*)$')
_NEEDS_QUOTES = frozenset(" \t\n\"'\\" if _ESCAPE else " \t\n\"'")


def complete_path(text: str, start_in: Path | None = None) -> Iterable[tuple[str, str]]:
    """Completions of the last path in `text`: (the whole text with it, "directory" or the size).

    `start_in`: where relative paths begin; None: in the current directory.
    `~` is the home directory. Names with spaces or quotes are put into double quotes, as a POSIX shell reads them; the
    quotes of a directory stay open, since more follows. Hidden files come when the name begins with a dot.
    """
    start, word = last_word(text)
    head = text[:start]
    if word == "~":
        yield f"{head}~/", "directory"
        return
    folder, slash, fragment = word.rpartition("/")
    for entry in _entries(os.path.join(start_in or ".", os.path.expanduser(folder + slash)), fragment):
        name = folder + slash + entry.name
        is_open = text[start : start + 1] in ('"', "'")
        if _is_directory(entry):
            yield head + _quoted(name + "/", is_open=is_open, is_closed=False), "directory"
        else:
            yield head + _quoted(name, is_open=is_open, is_closed=True), _size(entry)


def split_words(text: str) -> list[str]:
    """The words of an argument text, quotes removed. A quote that is not closed ends with the text."""
    return [word for _, word in _words(text) if word is not None]


def last_word(text: str) -> tuple[int, str]:
    """Where the last word begins and what it says without quotes; an empty one at the end after a space."""
    start, word = list(_words(text))[-1]
    return start, word or ""


def named_path(text: str) -> str | None:
    """What is typed of a path behind `@` at the end of a message; None when none is begun there."""
    found = _NAMED.search(text)
    return found[1] if found is not None and not text.startswith("/") else None


def command_completer(table: CommandTable[Any], state: Any) -> "Completer":
    """Names after a slash at the start of the message, then what the command's own completer offers."""
    from prompt_toolkit.completion import Completer, Completion

    class Commands(Completer):
        def get_completions(self, document: "Document", _event: "CompleteEvent") -> "Iterable[Completion]":
            text = document.text_before_cursor
            path = named_path(text)
            if path is not None:
                for replacement, description in itertools.islice(complete_path(path), _MOST):
                    if is_unicode(replacement):
                        shown = sanitize(_new_part(path, replacement), one_line=True)
                        yield Completion(replacement, -len(path), display=shown, display_meta=description)
                return
            if not text.startswith("/") or text.startswith("//") or "\n" in text:
                return
            name, space, rest = text[1:].partition(" ")
            if not space:
                for command in table.commands:
                    if command.name.startswith(name):
                        meta = command.help
                        yield Completion(f"/{command.name}", -len(text), display=command.usage, display_meta=meta)
                return
            argument = rest.lstrip()
            for replacement, shown, description in _arguments(table, state, name, argument):
                yield Completion(replacement, -len(argument), display=shown, display_meta=description)

    return Commands()


def _arguments(table: CommandTable[Any], state: Any, name: str, argument: str) -> Iterator[tuple[str, str, str]]:
    """(replacement, what the menu shows of it, description)."""
    command = table.find(name)
    if command is None or command.complete is None or not is_unicode(argument):
        return  # the last: a folded paste
    try:
        offers = list(itertools.islice(command.complete(state, argument), _MOST))
    except Exception:  # noqa: BLE001  whatever a completer stumbles over, typing must go on
        return
    for replacement, description in offers:
        if is_unicode(replacement):
            shown = _new_part(argument, replacement)
            yield replacement, sanitize(shown, one_line=True), sanitize(description, one_line=True)


def _new_part(typed: str, replacement: str) -> str:
    """What a menu shows: the replacement without the words, and without the directories, that are typed already."""
    start, word = last_word(typed)
    folder = word[: word.rfind("/") + 1]
    name = last_word(replacement)[1]
    if folder and name.startswith(folder) and name != folder:
        return name[len(folder) :]
    return replacement[start:] if replacement.startswith(typed[:start]) else replacement


def _words(text: str) -> Iterator[tuple[int, str | None]]:
    """(position, word without quotes) for each word; at the end (length, None) when no word is open there."""
    start, word, quote = 0, None, ""  # word None: between words
    position = 0
    while position < len(text):
        char = text[position]
        following = text[position + 1 : position + 2]
        if quote == "" and char.isspace():
            if word is not None:
                yield start, word
            word = None
        else:
            if word is None:
                start, word = position, ""
            if quote == "" and char in "\"'":
                quote = char
            elif char == quote:
                quote = ""
            elif _ESCAPE and char == _ESCAPE and following and (quote == "" or (quote == '"' and following in '"\\')):
                word += following
                position += 1
            else:
                word += char
        position += 1
    yield (start, word) if word is not None else (len(text), None)


def _quoted(name: str, *, is_open: bool, is_closed: bool) -> str:
    if not is_open and not _NEEDS_QUOTES & set(name):
        return name
    inside = name.replace("\\", "\\\\").replace('"', '\\"') if _ESCAPE else name
    return f'"{inside}"' if is_closed else f'"{inside}'


def _entries(folder: str, fragment: str) -> list["os.DirEntry[str]"]:
    """What in `folder` begins with `fragment`; when nothing does, what does in other cases of letters."""
    try:
        with os.scandir(folder) as scan:
            found = [entry for entry in scan if fragment.startswith(".") or not entry.name.startswith(".")]
    except (OSError, ValueError):  # no such directory, no permission, a NUL in the name
        return []
    exact = [entry for entry in found if entry.name.startswith(fragment)]
    loose = [entry for entry in found if entry.name.casefold().startswith(fragment.casefold())]
    return sorted(exact or loose, key=lambda entry: (entry.name.casefold(), entry.name))[:_MOST]


def _is_directory(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _size(entry: "os.DirEntry[str]") -> str:
    try:
        return in_bytes(entry.stat().st_size)
    except OSError:
        return "cannot be read"
