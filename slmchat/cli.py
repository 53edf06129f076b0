"""The door: commands and options, and the ONE place where an error becomes a sentence, a next step and an exit code.

Knows: typer, which command does which errand, settings and console of this process.
Refuses to know: how any errand is done. A command body is one lazy import and one call.
"""

import copy
import inspect
import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from slmchat import settings
from slmchat.commands import process_end
from slmchat.commands.examples import epilog
from slmchat.errors import ExitCode, SlmError
from slmchat.options import (
    BatchOptions,
    BenchOptions,
    ChatOptions,
    ChoiceOptions,
    GenerationOptions,
    GlobalOptions,
    InfillOptions,
    OutputOptions,
    PullOptions,
    ShapeOptions,
    TemplateOptions,
)
from slmchat.terminal.console import Console

_EPILOG = "Exit codes and streams: docs/commands.md. What you type stays on this device."

# PEP 383: a byte of an argument that is not UTF-8; and what is meant by the options whose value is the name of a file.
_SURROGATE = re.compile("[\udc80-\udcff]")
_FILE = re.compile("FILE|PATH|DIR|NAME$")

app = typer.Typer(
    name="slm",
    help="Talk to small language models on your own device.",
    epilog=_EPILOG,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _parameters(record: type[Any]) -> list[inspect.Parameter]:
    """The fields of an options record as typer options."""
    return [
        inspect.Parameter(
            item.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_default(item),
            annotation=_annotation(item),
        )
        for item in fields(record)
    ]


def _default(item: "Field[Any]") -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _annotation(item: "Field[Any]") -> Any:
    told = dict(item.metadata)
    return Annotated[item.type, typer.Option(*told.pop("flags"), show_default=False, **told)]


def _takes(*records: type[Any]) -> Callable[[Callable[..., ExitCode]], Callable[..., Any]]:
    """Give a command the options of these records (and the global ones) without writing them again.

    The command is called with its own parameters, then `settings`, `console` and one keyword for each record.
    """

    def decorate(function: Callable[..., ExitCode]) -> Callable[..., Any]:
        def command(**values: Any) -> None:
            made = {
                record: record(**{item.name: values.pop(item.name) for item in fields(record)})
                for record in (*records, GlobalOptions)
            }
            context = values.pop("context")
            _check_text(values, made)
            console, resolved = _world(context, made.pop(GlobalOptions))
            given = {_keyword(record): value for record, value in made.items()}
            if resolved.is_offline:
                _seal_offline(context, resolved)
            try:
                code = int(function(**values, **given, settings=resolved, console=console))
            except BrokenPipeError:  # before typer sees it, which would make it exit code 1
                code = _closed_pipe()
            raise typer.Exit(code)

        own = [
            parameter
            for parameter in inspect.signature(function).parameters.values()
            if parameter.name not in ("settings", "console", *map(_keyword, records))
        ]
        added = [parameter for record in (*records, GlobalOptions) for parameter in _parameters(record)]
        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        ordered = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + added + [context]
        command.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in ordered}
        command.__doc__ = function.__doc__
        command.__name__ = function.__name__
        return command

    return decorate


def _check_text(values: dict[str, Any], records: dict[type[Any], Any]) -> None:
    """Refuse arguments that are not text: Python keeps their bytes as surrogates, which no model and no file takes.

    Names of files may have any bytes. Raises `SlmError` (USAGE).
    """
    given = {name.replace("_", " "): value for name, value in values.items()}
    for record in records.values():
        for item in fields(record):
            if not _FILE.search(item.metadata.get("metavar") or ""):
                given[item.metadata["flags"][-1]] = getattr(record, item.name)
    for name, value in given.items():
        for text in value if isinstance(value, list) else [value]:
            wrong = _SURROGATE.search(text) if isinstance(text, str) else None
            if wrong is not None:
                what = "the prompt" if name == "words" else name
                raise SlmError(
                    f"{what} is not UTF-8 text: byte 0x{ord(wrong[0]) - 0xDC00:02x} at character {wrong.start() + 1}.",
                    hint="put the text into a file and convert it: iconv -f latin1 -t utf-8 FILE | slm run",
                    exit_code=ExitCode.USAGE,
                )


def _seal_offline(context: typer.Context, resolved: settings.Settings) -> None:
    """`--offline` seals every command; those that always run sealed do it themselves, `privacy` tries it on a child.

    With `--endpoint` one way stays open, if it does not leave this device: the command sees to that.
    """
    if context.info_name in (
        "run",
        "chat",
        "batch",
        "bench",
        "doctor",
        "tune",
        "privacy",
        "export",
    ) or context.params.get("endpoint"):
        return
    from slmchat.models.loader import seal

    seal(resolved, configures=True)


def _keyword(record: type[Any]) -> str:
    return record.__name__.removesuffix("Options").lower()


def _world(context: typer.Context, given: GlobalOptions) -> tuple[Console, settings.Settings]:
    """Console and settings of this call; global options count before and after the command's name."""
    before: GlobalOptions = context.find_root().obj
    console = Console()
    console.is_quiet = before.quiet or given.quiet
    console.is_verbose = before.verbose or given.verbose
    resolved = settings.load(
        os.environ,
        is_offline=True if before.offline or given.offline else None,
        is_private=True if before.private or given.private else None,
    )
    from slmchat.private_files import narrow

    for path in narrow(resolved.paths.private()):
        console.detail(f"{path} could be read by others; now it is yours alone")
    return console, resolved


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
    private: Annotated[
        bool, typer.Option("--private", help="Write nothing about the conversation to the disk.")
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Statistics and details on stderr.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Errors only on stderr.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version; with -v also the llama.cpp library in use.")
    ] = False,
) -> None:
    if version:
        from slmchat.commands.version import version as tell

        tell(Console(), is_verbose=verbose)
        raise typer.Exit(0)
    context.obj = GlobalOptions(offline=offline, private=private, verbose=verbose, quiet=quiet)
    if context.invoked_subcommand is not None:
        return
    console, resolved = _world(context, context.obj)
    if not console.is_interactive:
        console.write(context.get_help() + "\n")
        raise typer.Exit(int(ExitCode.USAGE))
    from slmchat.commands.repl.app import chat as errand

    raise typer.Exit(int(errand(None, GenerationOptions(), ChatOptions(), resolved, console)))


@app.command("pull", epilog=epilog("pull"))
@_takes(PullOptions)
def _pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="gemma3:1b, smollm2:135m@Q4_1, hf:OWNER/REPO")],
    pull: PullOptions,
    settings: settings.Settings,
    console: Console,
) -> ExitCode:
    """Fetch, verify and install models."""
    from slmchat.models.pull import pull as errand

    return errand(names, pull, settings, console)


@app.command("run", epilog=epilog("run"))
@_takes(OutputOptions, TemplateOptions, GenerationOptions, ShapeOptions, ChoiceOptions, InfillOptions)
def _run(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PROMPT]...", help="The prompt, or an instruction about what comes on stdin."),
    ] = None,
    no_input: Annotated[
        bool,
        typer.Option("--no-input", help="Do not read standard input unasked (for loops that read it); -f - does."),
    ] = False,
    *,
    output: OutputOptions,
    generation: GenerationOptions,
    shape: ShapeOptions,
    choice: ChoiceOptions,
    infill: InfillOptions,
    template: TemplateOptions,
    settings: settings.Settings,
    console: Console,
) -> ExitCode:
    """Answer one prompt on stdout, or fill in code with --infill."""
    if infill.is_asked:
        from slmchat.commands.infill import fill

        beside = (shape, choice, template, replace(output, json=False))
        return fill(words or [], generation, beside, infill, settings, console, is_json=output.json)
    from slmchat.commands.run import run as errand

    return errand(
        words or [], generation, (shape, choice), output, template, settings, console, reads_input=not no_input
    )


@app.command("batch", epilog=epilog("batch"))
@_takes(BatchOptions, TemplateOptions, GenerationOptions, ShapeOptions, ChoiceOptions)
def _batch(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PROMPT]...", help="The instruction for every input; {} or {field} says where the input goes."
        ),
    ] = None,
    *,
    batch: BatchOptions,
    generation: GenerationOptions,
    shape: ShapeOptions,
    choice: ChoiceOptions,
    template: TemplateOptions,
    settings: settings.Settings,
    console: Console,
) -> ExitCode:
    """Answer many inputs with one model load. Each of them gets a line of JSON."""
    from slmchat.commands.batch import batch as errand

    return errand(words or [], batch, generation, (shape, choice), template, settings, console)


@app.command("chat", epilog=epilog("chat"))
@_takes(ChatOptions, GenerationOptions)
def _chat(
    name: Annotated[str | None, typer.Argument(metavar="[MODEL]")] = None,
    *,
    chat: ChatOptions,
    generation: GenerationOptions,
    settings: settings.Settings,
    console: Console,
) -> ExitCode:
    """Have a conversation in the terminal."""
    from slmchat.commands.repl.app import chat as errand

    return errand(name, generation, chat, settings, console)


_Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


@app.command("list", epilog=epilog("list"))
@_takes()
def _list(
    available: Annotated[bool, typer.Option("--available", help="The catalog instead of what is installed.")] = False,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", metavar="URL|NAME", help="The models of an endpoint instead.")
    ] = None,
    json: _Json = False,
    *,
    settings: settings.Settings,
    console: Console,
) -> ExitCode:
    """Show installed models, or what could be pulled."""
    if endpoint is not None:
        from slmchat.commands.remote_models import list_remote

        return list_remote(endpoint, settings, console, is_json=json)
    from slmchat.commands.models import list_models

    return list_models(settings, console, is_available=available, is_json=json)


@app.command("show", epilog=epilog("show"))
@_takes()
def _show(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    json: _Json = False,
    *,
    settings: settings.Settings,
    console: Console,
) -> ExitCode:
    """Show what is known of a model. That is its file, header, licence, template and sampler defaults."""
    from slmchat.commands.models import show

    return show(name, settings, console, is_json=json)


@app.command("rm", epilog=epilog("rm"))
@_takes()
def _rm(
    names: Annotated[list[str], typer.Argument(metavar="NAME...")],
    json: _Json = False,
    *,
    settings: settings.Settings,
    console: Console,
) -> ExitCode:
    """Remove installed models, or names given with `slm add`."""
    from slmchat.commands.models import rm

    return rm(names, settings, console, is_json=json)


@app.command("add", epilog=epilog("add"))
@_takes()
def _add(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A .gguf file or hf:OWNER/REPO[@QUANT].")],
    json: _Json = False,
    *,
    settings: settings.Settings,
    console: Console,
) -> ExitCode:
    """Give a file or a Hub repository a name of its own."""
    from slmchat.commands.models import add

    return add(name, target, settings, console, is_json=json)


@app.command("verify", epilog=epilog("verify"))
@_takes()
def _verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...")] = None,
    json: _Json = False,
    *,
    settings: settings.Settings,
    console: Console,
) -> ExitCode:
    """Hash installed models again and compare."""
    from slmchat.commands.models import verify

    return verify(names or [], settings, console, is_json=json)


sessions = typer.Typer(
    help="Saved conversations. List, show, search, export, import, rename or remove them.", rich_markup_mode=None
)
app.add_typer(sessions, name="sessions", epilog=epilog("sessions"))

_Session = Annotated[str, typer.Argument(metavar="ID|TITLE", help="An id (4 characters are enough) or a title.")]


@sessions.command("list", epilog=epilog("sessions list"))
@_takes()
def _sessions_list(
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the newest N.")] = None,
    json: _Json = False,
    *,
    settings: settings.Settings,
    console: Console,
) -> ExitCode:
    """List saved conversations, the newest first."""
    from slmchat.commands.sessions import list_sessions

    return list_sessions(settings, console, limit=limit, is_json=json)


@sessions.command("show", epilog=epilog("sessions show"))
@_takes()
def _sessions_show(name: _Session, json: _Json = False, *, settings: settings.Settings, console: Console) -> ExitCode:
    """Print a conversation."""
    from slmchat.commands.sessions import show

    return show(name, settings, console, is_json=json)


@sessions.command("search", epilog=epilog("sessions search"))
@_takes()
def _sessions_search(
    words: Annotated[list[str], typer.Argument(metavar="WORDS...")],
    json: _Json = False,
    *,
    settings: settings.Settings,
    console: Console,
) -> ExitCode:
    """Search all conversations for all of the words; "a quoted phrase" stays together."""
    from slmchat.commands.sessions import search

    return search(words, settings, console, is_json=json)


@sessions.command("export", epilog=epilog("sessions export"))
@_takes()
def _sessions_export(
    name: _Session,
    format: Annotated[str, typer.Option("--format", metavar="md|json", help="Markdown or JSON.")] = "md",
    file: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Instead of stdout.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
    *,
    settings: settings.Settings,
    console: Console,
) -> ExitCode:
    """Write a conversation as Markdown (the current branch) or JSON (everything)."""
    from slmchat.commands.sessions import export

    return export(name, settings, console, format=format, file=file, is_forced=force)


@sessions.command("import", epilog=epilog("sessions import"))
@_takes()
def _sessions_import(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A JSON export; - is stdin.")],
    settings: settings.Settings,
    console: Console,
) -> ExitCode:
    """Read a JSON export back in."""
    from slmchat.commands.sessions import import_

    return import_(file, settings, console)


@sessions.command("rename", epilog=epilog("sessions rename"))
@_takes()
def _sessions_rename(
    name: _Session,
    title: Annotated[str, typer.Argument(metavar="TITLE")],
    settings: settings.Settings,
    console: Console,
) -> ExitCode:
    """Give a conversation another title."""
    from slmchat.commands.sessions import rename

    return rename(name, title, settings, console)


@sessions.command("rm", epilog=epilog("sessions rm"))
@_takes()
def _sessions_rm(
    names: Annotated[list[str] | None, typer.Argument(metavar="[ID|TITLE]...")] = None,
    all: Annotated[bool, typer.Option("--all", help="Remove every conversation.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    *,
    settings: settings.Settings,
    console: Console,
) -> ExitCode:
    """Remove conversations for good."""
    from slmchat.commands.sessions import rm

    return rm(names or [], settings, console, is_all=all, is_yes=yes)


@app.command("bench", epilog=epilog("bench"))
@_takes(BenchOptions)
def _bench(
    name: Annotated[str | None, typer.Argument(metavar="[MODEL]")] = None,
    *,
    bench: BenchOptions,
    settings: settings.Settings,
    console: Console,
) -> ExitCode:
    """Measure how fast a model is on this device."""
    from slmchat.commands.bench import bench as errand

    return errand(name, bench, settings, console)


@app.command("doctor", epilog=epilog("doctor"))
@_takes()
def _doctor(
    name: Annotated[str | None, typer.Argument(metavar="[MODEL]")] = None,
    json: _Json = False,
    *,
    settings: settings.Settings,
    console: Console,
) -> ExitCode:
    """Find what is wrong here or with a model. It says why it matters and what to do."""
    from slmchat.commands.doctor import doctor

    return doctor(name, settings, console, is_json=json)


@app.command("tune", epilog=epilog("tune"))
@_takes()
def _tune(
    name: Annotated[str | None, typer.Argument(metavar="[MODEL]")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Forget what was measured (without MODEL: for all).")] = False,
    json: _Json = False,
    *,
    settings: settings.Settings,
    console: Console,
) -> ExitCode:
    """Find a model's fastest settings. They are measured on this device, kept and used from then on."""
    from slmchat.commands.tune import tune

    return tune(name, settings, console, is_reset=reset, is_json=json)


@app.command("privacy", epilog=epilog("privacy"))
@_takes()
def _privacy(
    check: Annotated[bool, typer.Option("--check", help="Try to get out of the seal in every way known.")] = False,
    json: _Json = False,
    *,
    settings: settings.Settings,
    console: Console,
) -> ExitCode:
    """Show what may leave this device. Also what is written where; with --check, the proof that nothing leaves."""
    from slmchat.commands.privacy import privacy

    return privacy(settings, console, is_check=check, is_json=json)


@app.command("completion", epilog=epilog("completion"))
@_takes()
def _completion(
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh, fish or powershell.")],
    *,
    settings: settings.Settings,
    console: Console,
) -> ExitCode:
    """Print the completion script of a shell. It says where to put it."""
    from slmchat.commands.completion_scripts import completion

    return completion(shell, console)


@app.command("__complete", hidden=True)
def _complete(
    words: Annotated[list[str] | None, typer.Argument()] = None,
    line: Annotated[str | None, typer.Option("--line")] = None,
) -> None:
    """What could stand next: asked by the scripts of `slm completion`, with the words or the line up to the cursor."""
    import typer.main

    from slmchat.commands.completion import complete, lines, split_line

    *before, incomplete = words or [""]
    if line is not None:
        before, incomplete = split_line(line)
    program = typer.main.get_command(_app_for(before))
    found = complete(program, before, incomplete, lambda: settings.load(os.environ))
    Console().write("".join(f"{each}\n" for each in lines(found)))


# typer vendors click: its usage errors are the vendored ones, which only typer itself names.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def _app_for(arguments: Sequence[str]) -> typer.Typer:
    """The app with nothing but the command that is called: typer prepares all options of all commands otherwise, 10 ms.

    The whole app where help is asked for before a name, or the name is that of a group or unknown.
    """
    before = list(itertools.takewhile(lambda word: word.startswith("-"), arguments))
    name = arguments[len(before)] if len(before) < len(arguments) else None
    called = [command for command in app.registered_commands if command.name == name]
    if (not called and "--version" not in before) or {"-h", "--help"} & set(before):
        return app
    one = copy.copy(app)
    one.registered_commands, one.registered_groups = called, []
    return one


def run_program(arguments: Sequence[str]) -> int:
    """Run one command line in a process that is slm's own: also what ends it from below is a sentence."""
    process_end.take_over()
    code = run_cli(arguments)
    if code == ExitCode.INTERRUPTED:
        process_end.leave_at_once(code)
    return code


def run_cli(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code. Every error ends here as a sentence on stderr, never as a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # with PYTHONUNBUFFERED, usual in containers, each token would be a write: lines of two programs would mix
            stream.reconfigure(encoding="utf-8", errors="replace", write_through=False)
    console = Console()
    try:
        return int(_app_for(arguments)(list(arguments), prog_name="slm", standalone_mode=False) or 0)
    except SlmError as error:
        return _failed(console, error)
    except _UsageError as error:
        return _failed(console, _usage(error, arguments))
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - the last net: a bug becomes a sentence too
        bug = _bug(error)
        bug.__cause__ = error
        return _failed(console, bug)


def _failed(console: Console, error: SlmError) -> int:
    if os.environ.get("SLM_DEBUG"):
        import traceback

        from slmchat.redaction import redacted

        console.note(redacted("".join(traceback.format_exception(error))))
    try:
        console.error(error)
    except BrokenPipeError:
        return _closed_pipe()
    return int(error.exit_code)


def _usage(error: Any, arguments: Sequence[str]) -> SlmError:
    import typer.main

    from slmchat.commands.usage_errors import explained

    return explained(error, arguments, getattr(typer.main.get_command(app), "commands", {}))


def _bug(error: Exception) -> SlmError:
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return SlmError(f"{error.strerror[:1].lower()}{error.strerror[1:]}{where}.", exit_code=ExitCode.STORAGE)
    return SlmError(
        f"an error of slm's own: {type(error).__name__}: {error}.",
        hint="SLM_DEBUG=1 shows where; please report it",
        exit_code=ExitCode.BUG,
    )


def _closed_pipe() -> int:
    """The reader has gone: end quietly. What Python still holds in its buffer must not be flushed at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(ExitCode.DONE)
