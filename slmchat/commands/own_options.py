"""What single commands take besides the records of options.py, and what every command takes.

These records are made at each start and used by one call at most: they have no methods but `__init__`, which is a third
of the time. Refuses to know: typer, and what any option does.
"""

from functools import partial
from pathlib import Path
from typing import Any

from slmchat.lazy_dataclasses import dataclass
from slmchat.option_fields import OptionGroup, argument, json_option, option
from slmchat.ranges import Range

_input = partial(option, group=OptionGroup.INPUT)


@dataclass(frozen=True, slots=True)
class GlobalOptions:
    """What every command understands, before or after its name."""

    offline: bool = option("--offline", help="Never use the network.", default=False)
    private: bool = option("--private", help="Write nothing about the conversation to the disk.", default=False)
    verbose: int = option(
        "-v",
        "--verbose",
        help="Statistics and details on stderr; -vv: also what the engine itself says.",
        default=0,
        is_count=True,
    )
    quiet: bool = option("-q", "--quiet", help="Errors only on stderr.", default=False)


@dataclass(eq=False, repr=False)
class ProgramOptions:
    """What `slm` itself takes, besides the global options."""

    version: bool = option(
        "--version", help="Show the version; with -v also the llama.cpp library in use.", default=False
    )


@dataclass(eq=False, repr=False)
class ModelName:
    """A model that may be named, without a flag; `chat`, `bench`, `doctor` and `tune` share it."""

    name: str | None = argument("[MODEL]", default=None)


@dataclass(eq=False, repr=False)
class JsonOption:
    """Where nothing else is taken."""

    json: bool = json_option()


@dataclass(eq=False, repr=False)
class RunOptions:
    """What `slm run` alone takes."""

    words: list[str] | None = argument("[PROMPT]...", "The prompt, or an instruction about what comes on stdin.", None)
    no_input: bool = _input(
        "--no-input", help="Do not read standard input (for loops that read it themselves).", default=False
    )


@dataclass(eq=False, repr=False)
class ListOptions:
    """What `slm list` takes."""

    available: bool = option("--available", help="The catalog instead of what is installed.", default=False)
    endpoint: str | None = option("--endpoint", help="The models of an endpoint instead.", metavar="URL|NAME")
    json: bool = json_option()


@dataclass(eq=False, repr=False)
class ShowOptions:
    """What `slm show` takes."""

    name: str = argument("NAME")
    json: bool = json_option()


@dataclass(eq=False, repr=False)
class RemoveOptions:
    """What `slm rm` takes."""

    names: list[str] = argument("NAME...")
    json: bool = json_option()


@dataclass(eq=False, repr=False)
class AddOptions:
    """What `slm add` takes."""

    name: str = argument("NAME")
    target: str = argument("TARGET", "A .gguf file or hf:OWNER/REPO[@QUANT].")
    json: bool = json_option()


@dataclass(eq=False, repr=False)
class VerifyOptions:
    """What `slm verify` takes."""

    names: list[str] | None = argument("[NAME]...", "All of them, without it.", None)
    json: bool = json_option()


@dataclass(eq=False, repr=False)
class TuneOptions:
    """What `slm tune` takes."""

    reset: bool = option("--reset", help="Forget what was measured (without MODEL: for all).", default=False)
    json: bool = json_option()


@dataclass(eq=False, repr=False)
class PrivacyOptions:
    """What `slm privacy` takes."""

    check: bool = option("--check", help="Try to get out of the seal in every way known.", default=False)
    json: bool = json_option()


@dataclass(eq=False, repr=False)
class ShellCompletionOptions:
    """What `slm completion` takes."""

    shell: str = argument("SHELL", "bash, zsh, fish or powershell.")


@dataclass(eq=False, repr=False)
class HelpOptions:
    """What `slm help` takes."""

    words: list[str] | None = argument("[COMMAND]...", "All commands, without it.", None)


def _session() -> Any:
    return argument("ID|TITLE", "An id (4 characters are enough) or a title.")


@dataclass(eq=False, repr=False)
class SessionsListOptions:
    """What `slm sessions list` takes."""

    limit: int | None = option("--limit", help="Only the newest N.", metavar="N", within=Range(1, 10_000_000))
    json: bool = json_option()


@dataclass(eq=False, repr=False)
class SessionsShowOptions:
    """What `slm sessions show` takes."""

    name: str = _session()
    json: bool = json_option()


@dataclass(eq=False, repr=False)
class SessionsSearchOptions:
    """What `slm sessions search` takes."""

    words: list[str] = argument("WORDS...")
    json: bool = json_option()


@dataclass(eq=False, repr=False)
class SessionsExportOptions:
    """What `slm sessions export` takes."""

    name: str = _session()
    format: str = option("--format", help="Markdown or JSON.", metavar="md|json", default="md")
    file: Path | None = option("-o", "--output", help="Instead of stdout.", metavar="FILE", is_destination=True)
    force: bool = option("--force", help="Overwrite FILE.", default=False)


@dataclass(eq=False, repr=False)
class SessionsImportOptions:
    """What `slm sessions import` takes."""

    file: str = argument("FILE", "An export of slm or of another tool; - is stdin.")


@dataclass(eq=False, repr=False)
class SessionsRenameOptions:
    """What `slm sessions rename` takes."""

    name: str = _session()
    title: str = argument("TITLE")


@dataclass(eq=False, repr=False)
class SessionsRemoveOptions:
    """What `slm sessions rm` takes."""

    names: list[str] | None = argument("[ID|TITLE]...", default=None)
    all: bool = option("--all", help="Remove every conversation.", default=False)
    yes: bool = option("--yes", help="Do not ask.", default=False)


@dataclass(eq=False, repr=False)
class DocsShowOptions:
    """What `slm docs show` takes."""

    name: str = argument("PATH", "A document that was read.")
    json: bool = json_option()


@dataclass(eq=False, repr=False)
class DocsRemoveOptions:
    """What `slm docs rm` takes."""

    names: list[str] | None = argument("[PATH]...", "Documents, or directories with some.", default=None)
    all: bool = option("--all", help="Forget every document.", default=False)
    yes: bool = option("--yes", help="Do not ask.", default=False)
