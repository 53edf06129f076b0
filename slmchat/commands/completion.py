"""What could stand next on a command line: commands, options, names of models and personas.

Knows: which word takes which kind of value, where names come from; it reads records and the config, nothing more.
Refuses to know: typer (cli.py hands its commands over as they are), shells (completion_scripts.py).
"""

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from slmchat.commands.completion_scripts import SCRIPTS
from slmchat.lazy_dataclasses import dataclass
from slmchat.sanitize import sanitize
from slmchat.settings import Settings


@dataclass(frozen=True, slots=True)
class CompletionCandidate:
    """One thing that could stand here, and what it is."""

    value: str
    about: str = ""


# Values that shells complete by themselves.
FILES = "files"

# What a shell may put on the line as it is. Names of models and personas come from files.
_PLAIN = re.compile(r"[\w.:@/+#=-]+")
_FILE_LIKE = ("FILE", "PATH", "SCHEMA", "TARGET")
_CHOICE = re.compile(r"[a-z][a-z0-9_]*")


def split_line(line: str) -> tuple[list[str], str]:
    """A command line up to the cursor: the words behind the program's name, and the one that is being typed."""
    try:
        words = shlex.split(line)
    except ValueError:  # a quotation that is still open
        words = shlex.split(line.replace('"', " ").replace("'", " ").replace("\\", " "))
    incomplete = "" if not line or line[-1].isspace() or not words else words.pop()
    return words[1:], incomplete


def names_in(words: Sequence[str]) -> list[str]:
    """The words that are not options: the command comes first."""
    return [word for word in words if not word.startswith("-")]


def complete(
    program: Any, words: Sequence[str], incomplete: str, settings: Callable[[], Settings]
) -> list[CompletionCandidate] | str:
    """What `incomplete` could become behind `words`; `FILES` where the shell knows better.

    `program`: the whole command line (a click group). `settings` are loaded only when names are asked for.
    """
    names = names_in(words)
    if names[:1] == ["help"] and not incomplete.startswith("-"):
        return _helped(program, names[1:], incomplete)
    return _offered(program, words, incomplete, settings)


def _offered(
    program: Any, words: Sequence[str], incomplete: str, settings: Callable[[], Settings]
) -> list[CompletionCandidate] | str:
    command, path, waiting, n_given, is_literal = program, "", None, 0, False
    for word in words:
        if waiting is not None:
            waiting = None
        elif word == "--" and not is_literal:
            is_literal = True
        elif word.startswith("-") and len(word) > 1 and not is_literal:
            option = _option(command, word)
            waiting = option if option is not None and not (option.is_flag or option.count) else None
        elif hasattr(command, "commands"):
            if word not in command.commands:
                return []
            command, path = command.commands[word], f"{path} {word}".strip()
        else:
            n_given += 1
    name, equals, _ = incomplete.partition("=")
    attached = _option(command, name) if equals and name.startswith("--") and not is_literal else None
    if waiting is not None:
        found = _values(path, waiting, settings)
    elif attached is not None:
        found, incomplete = _prefixed(f"{name}=", _values(path, attached, settings)), incomplete
    elif incomplete.startswith("-") and not is_literal:
        found = list(_options(command))
    elif hasattr(command, "commands"):
        found = _commands(command)
    else:
        found = _values(path, _argument(command, n_given), settings)
    if isinstance(found, str):
        return found
    return [one for one in found if one.value.startswith(incomplete) and _PLAIN.fullmatch(one.value)]


def _helped(program: Any, words: Sequence[str], incomplete: str) -> list[CompletionCandidate]:
    """The commands that `slm help` could be asked about."""
    command = program
    for word in words:
        command = getattr(command, "commands", {}).get(word)
    return [one for one in _commands(command) if one.value.startswith(incomplete)]


def _commands(command: Any) -> list[CompletionCandidate]:
    known = getattr(command, "commands", {})
    return [CompletionCandidate(each, _first_line(sub.help)) for each, sub in known.items() if not sub.hidden]


def lines(found: Sequence[CompletionCandidate] | str) -> Iterator[str]:
    """What the scripts read: `files` or `words`, then one candidate on each line, its meaning behind a tab."""
    yield FILES if isinstance(found, str) else "words"
    for one in () if isinstance(found, str) else found:
        yield f"{one.value}\t{sanitize(one.about, one_line=True)}"


def _prefixed(prefix: str, found: list[CompletionCandidate] | str) -> list[CompletionCandidate] | str:
    return found if isinstance(found, str) else [CompletionCandidate(prefix + one.value, one.about) for one in found]


def _option(command: Any, word: str) -> Any | None:
    name = word.partition("=")[0]
    return next((param for param in command.params if name in param.opts and name.startswith("-")), None)


def _options(command: Any) -> Iterator[CompletionCandidate]:
    for param in command.params:
        if param.param_type_name == "option" and not param.hidden:
            for flag in param.opts:
                if flag.startswith("--"):
                    yield CompletionCandidate(flag, param.help or "")
    yield CompletionCandidate("--help", "Show this message and exit.")


def _argument(command: Any, n_given: int) -> Any | None:
    """The argument that the next word belongs to: the last one takes all that follow."""
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    if not arguments or (n_given >= len(arguments) and arguments[-1].nargs == 1):
        return None
    return arguments[min(n_given, len(arguments) - 1)]


def _values(path: str, param: Any | None, settings: Callable[[], Settings]) -> list[CompletionCandidate] | str:
    """What an option or an argument of the command at `path` takes."""
    metavar = (param.metavar or "") if param is not None else ""
    flag = param.opts[-1] if param is not None else ""
    if param is None:
        return []
    if flag == "--task":
        from slmchat.evaluation.task_catalog import PUBLIC, SUITE

        return [CompletionCandidate(name) for name in (*SUITE, *PUBLIC)]
    if any(name in metavar for name in _FILE_LIKE):
        return FILES
    if path == "completion":
        return [CompletionCandidate(shell) for shell in SCRIPTS]
    if (
        flag in ("--model", "--draft")
        or "MODEL" in metavar
        or (path in ("show", "rm", "verify") and not _is_option(param))
    ):
        return _installed(settings())
    if path == "pull" and not _is_option(param):
        return [CompletionCandidate(name, title) for name, title in _catalog(settings())]
    if flag == "--persona":
        from slmchat.personas import load as load_personas

        found = settings()
        personas = load_personas(found.personas, found.paths.config_file).values()
        return [CompletionCandidate(persona.name, persona.description) for persona in personas]
    return [CompletionCandidate(choice) for choice in metavar.split("|") if _CHOICE.fullmatch(choice)]


def _is_option(param: Any) -> bool:
    return bool(param.param_type_name == "option")


def _installed(settings: Settings) -> list[CompletionCandidate]:
    """Installed models by name, those of several quantizations with each of them, and the user's own names."""
    from slmchat.catalog import registry
    from slmchat.catalog.library import Library

    records = Library(settings.paths).all()
    counts = Counter(record.name for record in records)
    found = {record.name: record.title or "" for record in records}
    found |= {record.key: record.title or "" for record in records if counts[record.name] > 1}
    found |= {name.name: "" for name in registry.load_user_names(settings.paths.user_registry).values() if name.target}
    return [CompletionCandidate(name, about) for name, about in sorted(found.items())]


def _catalog(settings: Settings) -> list[tuple[str, str]]:
    from slmchat.catalog import registry

    own: Mapping[str, Any] = registry.load_user_names(settings.paths.user_registry)
    return sorted({**dict.fromkeys(own, ""), **registry.catalog_titles()}.items())


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]
