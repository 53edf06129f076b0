"""The door: the table of commands, and the ONE place where an error becomes a sentence, a next step and an exit code.

Knows: which command takes what and does which errand, settings and console of this process.
Refuses to know: how any errand is done. A command body is one lazy import and one call.
"""

import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from typing import Annotated, Any

import typer

from slmchat import settings
from slmchat.commands import own_options as take
from slmchat.commands import process_end
from slmchat.commands.command_line import Command, CommandCall, called, program, writes_to_stdout
from slmchat.commands.own_options import GlobalOptions
from slmchat.errors import ExitCode, SlmError, is_debugged
from slmchat.privacy import bytecode
from slmchat.terminal.console import Console, console_of_call, current_console

_HELP = "Talk to small language models on your own device."
_EPILOG = "Exit codes and streams: docs/commands.md. What you type stays on this device."

_ROOT_TAKES = (GlobalOptions, take.ProgramOptions)
COMMANDS: dict[str, Command] = {}


def _command(
    name: str,
    *takes: type[Any] | str,
    is_answer: bool = True,
    seals_itself: bool = False,
    has_settings: bool = True,
) -> Callable[[Callable[[CommandCall], ExitCode]], Callable[[CommandCall], ExitCode]]:
    """Put a function into the table of commands (command_line.Command has the words)."""

    def register(errand: Callable[[CommandCall], ExitCode]) -> Callable[[CommandCall], ExitCode]:
        COMMANDS[name] = Command(name, takes, errand, is_answer, seals_itself, has_settings)
        return errand

    return register


@_command("pull", "PullOptions", is_answer=False)
def _pull(call: CommandCall) -> ExitCode:
    """Fetch, verify and install models."""
    from slmchat.commands.pull import pull
    from slmchat.options import PullOptions

    return pull(call[PullOptions], call.settings, call.console)


_ANSWERING = ("TemplateOptions", "GenerationOptions", "FormatOptions", "ChoiceOptions", "BestOfOptions")


@_command("run", take.RunOptions, "OutputOptions", *_ANSWERING, "InfillOptions", seals_itself=True)
def _run(call: CommandCall) -> ExitCode:
    """Answer one prompt on stdout, or fill in code with --infill."""
    from slmchat import options

    own, output, template = call[take.RunOptions], call[options.OutputOptions], call[options.TemplateOptions]
    generation, infill = call[options.GenerationOptions], call[options.InfillOptions]
    wanted = (call[options.FormatOptions], call[options.ChoiceOptions], call[options.BestOfOptions])
    if infill.is_asked:
        from slmchat.commands.infill import fill

        beside = (*wanted, template, replace(output, json=False))
        return fill(own.words or [], generation, beside, infill, call.settings, call.console, is_json=output.json)
    from slmchat.commands.warm_run import run_warm

    answered = run_warm(own, generation, (*wanted, template, output), call.settings, call.console)
    if answered is not None:
        return answered
    from slmchat.commands.run import run

    return run(own, generation, wanted, output, template, call.settings, call.console)


@_command("batch", "BatchOptions", *_ANSWERING, seals_itself=True)
def _batch(call: CommandCall) -> ExitCode:
    """Answer many inputs with one model load. Each of them gets a line of JSON."""
    from slmchat import options
    from slmchat.commands.batch import batch

    asked, template = call[options.BatchOptions], call[options.TemplateOptions]
    wanted = (call[options.FormatOptions], call[options.ChoiceOptions], call[options.BestOfOptions])
    return batch(asked, call[options.GenerationOptions], wanted, template, call.settings, call.console)


@_command("ask", "AskOptions", seals_itself=True)
def _ask(call: CommandCall) -> ExitCode:
    """Answer a question from documents, with quotations that are in them word by word."""
    from slmchat.commands.ask import ask
    from slmchat.options import AskOptions

    return ask(call[AskOptions], call.settings, call.console)


@_command("embed", "EmbedOptions", seals_itself=True)
def _embed(call: CommandCall) -> ExitCode:
    """Turn texts into vectors with an embedding model."""
    from slmchat.commands.embed import embed
    from slmchat.options import EmbedOptions

    return embed(call[EmbedOptions], call.settings, call.console)


@_command("chat", take.ModelName, "ChatOptions", "GenerationOptions", is_answer=False, seals_itself=True)
def _chat(call: CommandCall) -> ExitCode:
    """Have a conversation in the terminal."""
    from slmchat.commands.repl.command import chat
    from slmchat.options import ChatOptions, GenerationOptions

    name = call[take.ModelName].name
    return chat(name, call[GenerationOptions], call[ChatOptions], call.settings, call.console)


@_command("serve", take.ModelName, "ServeOptions", is_answer=False, seals_itself=True)
def _serve(call: CommandCall) -> ExitCode:
    """Answer programs over HTTP (the API of OpenAI) and slm's own commands, from one warm model."""
    from slmchat.commands.serve import serve
    from slmchat.options import ServeOptions

    return serve(call[take.ModelName].name, call[ServeOptions], call.settings, call.console)


@_command("list", take.ListOptions)
def _list(call: CommandCall) -> ExitCode:
    """Show installed models, or what could be pulled."""
    from slmchat.commands.models import list_models, list_remote

    asked = call[take.ListOptions]
    if asked.endpoint is not None:
        return list_remote(asked.endpoint, call.settings, call.console, is_json=asked.json)
    return list_models(call.settings, call.console, is_available=asked.available, is_json=asked.json)


@_command("show", take.ShowOptions)
def _show(call: CommandCall) -> ExitCode:
    """Show what is known of a model. That is its file, header, licence, template and sampler defaults."""
    from slmchat.commands.models import show

    return show(call[take.ShowOptions].name, call.settings, call.console, is_json=call[take.ShowOptions].json)


@_command("rm", take.RemoveOptions, is_answer=False)
def _rm(call: CommandCall) -> ExitCode:
    """Remove installed models, or names given with `slm add`."""
    from slmchat.commands.rm import rm

    return rm(call[take.RemoveOptions].names, call.settings, call.console, is_json=call[take.RemoveOptions].json)


@_command("add", take.AddOptions, is_answer=False)
def _add(call: CommandCall) -> ExitCode:
    """Give a file or a Hub repository a name of its own."""
    from slmchat.commands.models import add

    asked = call[take.AddOptions]
    return add(asked.name, asked.target, call.settings, call.console, is_json=asked.json)


@_command("verify", take.VerifyOptions)
def _verify(call: CommandCall) -> ExitCode:
    """Hash installed models again and compare."""
    from slmchat.commands.verify import verify

    asked = call[take.VerifyOptions]
    return verify(asked.names or [], call.settings, call.console, is_json=asked.json)


@_command("sessions list", take.SessionsListOptions)
def _sessions_list(call: CommandCall) -> ExitCode:
    """List saved conversations, the newest first."""
    from slmchat.commands.sessions import list_sessions

    asked = call[take.SessionsListOptions]
    return list_sessions(call.settings, call.console, limit=asked.limit, is_json=asked.json)


@_command("sessions show", take.SessionsShowOptions)
def _sessions_show(call: CommandCall) -> ExitCode:
    """Print a conversation."""
    from slmchat.commands.sessions import show

    asked = call[take.SessionsShowOptions]
    return show(asked.name, call.settings, call.console, is_json=asked.json)


@_command("sessions search", take.SessionsSearchOptions)
def _sessions_search(call: CommandCall) -> ExitCode:
    """Search all conversations for all of the words; "a quoted phrase" stays together."""
    from slmchat.commands.sessions import search

    asked = call[take.SessionsSearchOptions]
    return search(asked.words, call.settings, call.console, is_json=asked.json)


@_command("sessions export", take.SessionsExportOptions, seals_itself=True)
def _sessions_export(call: CommandCall) -> ExitCode:
    """Write a conversation as Markdown (the current branch) or JSON (everything)."""
    from slmchat.commands.sessions import export

    asked = call[take.SessionsExportOptions]
    file, console = asked.file, call.console
    return export(asked.name, call.settings, console, format=asked.format, file=file, is_forced=asked.force)


@_command("sessions import", take.SessionsImportOptions, is_answer=False)
def _sessions_import(call: CommandCall) -> ExitCode:
    """Read an export back in, or the chats of ChatGPT, Claude, Open WebUI, llm and aichat."""
    from slmchat.commands.sessions import import_

    return import_(call[take.SessionsImportOptions].file, call.settings, call.console)


@_command("sessions rename", take.SessionsRenameOptions, is_answer=False)
def _sessions_rename(call: CommandCall) -> ExitCode:
    """Give a conversation another title."""
    from slmchat.commands.sessions import rename

    asked = call[take.SessionsRenameOptions]
    return rename(asked.name, asked.title, call.settings, call.console)


@_command("sessions rm", take.SessionsRemoveOptions, is_answer=False)
def _sessions_rm(call: CommandCall) -> ExitCode:
    """Remove conversations for good."""
    from slmchat.commands.sessions import rm

    asked = call[take.SessionsRemoveOptions]
    return rm(asked.names or [], call.settings, call.console, is_all=asked.all, is_yes=asked.yes)


@_command("docs list", take.JsonOption)
def _docs_list(call: CommandCall) -> ExitCode:
    """List the documents that were read, by their paths."""
    from slmchat.commands.docs import list_documents

    return list_documents(call.settings, call.console, is_json=call[take.JsonOption].json)


@_command("docs show", take.DocsShowOptions)
def _docs_show(call: CommandCall) -> ExitCode:
    """Show what was read of a document, passage by passage."""
    from slmchat.commands.docs import show

    asked = call[take.DocsShowOptions]
    return show(asked.name, call.settings, call.console, is_json=asked.json)


@_command("docs rm", take.DocsRemoveOptions, is_answer=False)
def _docs_rm(call: CommandCall) -> ExitCode:
    """Forget documents; the files stay where they are."""
    from slmchat.commands.docs import rm

    asked = call[take.DocsRemoveOptions]
    return rm(asked.names or [], call.settings, call.console, is_all=asked.all, is_yes=asked.yes)


@_command("bench", take.ModelName, "BenchOptions", seals_itself=True)
def _bench(call: CommandCall) -> ExitCode:
    """Measure how fast a model is on this device."""
    from slmchat.commands.bench import bench
    from slmchat.options import BenchOptions

    return bench(call[take.ModelName].name, call[BenchOptions], call.settings, call.console)


@_command("eval", "EvalOptions", seals_itself=True)
def _eval(call: CommandCall) -> ExitCode:
    """Measure how good models are in tasks, and how fast. The tasks may be your own."""
    from slmchat.commands.eval import eval_models
    from slmchat.options import EvalOptions

    return eval_models(call[EvalOptions], call.settings, call.console)


@_command("doctor", take.ModelName, take.JsonOption, seals_itself=True)
def _doctor(call: CommandCall) -> ExitCode:
    """Find what is wrong here or with a model. It says why it matters and what to do."""
    from slmchat.commands.doctor import doctor

    return doctor(call[take.ModelName].name, call.settings, call.console, is_json=call[take.JsonOption].json)


@_command("tune", take.ModelName, take.TuneOptions, seals_itself=True)
def _tune(call: CommandCall) -> ExitCode:
    """Find a model's fastest settings. They are measured on this device, kept and used from then on."""
    from slmchat.commands.tune import tune

    asked = call[take.TuneOptions]
    return tune(call[take.ModelName].name, call.settings, call.console, is_reset=asked.reset, is_json=asked.json)


@_command("privacy", take.PrivacyOptions, seals_itself=True)
def _privacy(call: CommandCall) -> ExitCode:
    """Show what may leave this device. Also what is written where; with --check, the proof that nothing leaves."""
    from slmchat.commands.privacy import privacy

    asked = call[take.PrivacyOptions]
    return privacy(call.settings, call.console, is_check=asked.check, is_json=asked.json)


@_command("completion", take.ShellCompletionOptions, has_settings=False)
def _completion(call: CommandCall) -> ExitCode:
    """Print the completion script of a shell. It says where to put it."""
    from slmchat.commands.completion_scripts import completion

    return completion(call[take.ShellCompletionOptions].shell, call.console)


@_command("help", take.HelpOptions, has_settings=False)
def _help(call: CommandCall) -> ExitCode:
    """Show the help of slm, or of a command."""
    called(whole_program(), [*(call[take.HelpOptions].words or []), "--help"])
    return ExitCode.DONE


def _root(context: typer.Context, version: bool, **given: Any) -> None:
    if version:
        from slmchat.commands.version import version as tell

        tell(current_console(), is_verbose=bool(given["verbose"]))
        raise typer.Exit(0)
    context.obj = GlobalOptions(**given)
    if context.invoked_subcommand is not None:
        return
    console, resolved = _world(context, context.obj)
    if not console.is_interactive:
        from slmchat.commands import help_pages

        help_pages.show(context)
        raise typer.Exit(int(ExitCode.USAGE))
    from slmchat.commands.repl.command import chat as errand
    from slmchat.options import ChatOptions, GenerationOptions

    raise typer.Exit(int(errand(None, GenerationOptions(), ChatOptions(), resolved, console)))


def _invoke(command: Command, context: typer.Context, given: Mapping[type[Any], Any]) -> None:
    """Run a command with what was given for it, in the world of this process."""
    console, resolved = _world(context, given[GlobalOptions]) if command.has_settings else (current_console(), None)
    if resolved and resolved.is_offline and not command.seals_itself and not context.params.get("endpoint"):
        # with an endpoint one way stays open, if it does not leave this device: the command sees to that
        from slmchat.models.sandbox import seal

        seal(resolved, configures=True)
    if writes_to_stdout(command, given):
        console.check_stdout()
    raise typer.Exit(int(command.errand(CommandCall(given, resolved, console))))


def _complete(
    words: Annotated[list[str] | None, typer.Argument()] = None,
    line: Annotated[str | None, typer.Option("--line")] = None,
) -> None:
    """What could stand next: asked by the scripts of `slm completion`, with the words or the line up to the cursor."""
    from slmchat.commands.completion import complete, lines, split_line

    *before, incomplete = words or [""]
    if line is not None:
        before, incomplete = split_line(line)
    console = current_console()
    found = complete(program_to_complete(before), before, incomplete, lambda: settings.load(console.environ))
    console.write("".join(f"{each}\n" for each in lines(found)))


# typer vendors click: its usage errors are the vendored ones, which only typer itself names.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


@functools.cache
def whole_program() -> Any:
    """The command line with all of its commands."""
    return program(_root, _ROOT_TAKES, COMMANDS.values(), _invoke, help=_HELP, epilog=_EPILOG)


def program_for(arguments: Sequence[str]) -> Any:
    """The command line with nothing but the command that is called, or the group of commands: all of them take 30 ms.

    The whole of it where help is asked for before a name, or the name is unknown.
    """
    before = list(itertools.takewhile(lambda word: word.startswith("-"), arguments))
    name = arguments[len(before)] if len(before) < len(arguments) else None
    if name == "__complete":
        return program(_root, _ROOT_TAKES, (), _invoke, {name: _complete})
    is_known = any(known.partition(" ")[0] == name for known in COMMANDS)
    if (not is_known and "--version" not in before) or {"-h", "--help"} & set(before):
        return whole_program()
    return _program_with(name)


def program_to_complete(words: Sequence[str]) -> Any:
    """The command line that has what could stand behind these words: `slm help` takes the name of every command."""
    from slmchat.commands.completion import names_in

    return whole_program() if names_in(words)[:1] == ["help"] else program_for(words)


@functools.cache
def _program_with(name: str | None) -> Any:
    called = [command for known, command in COMMANDS.items() if known.partition(" ")[0] == name]
    return program(_root, _ROOT_TAKES, called, _invoke, help=_HELP, epilog=_EPILOG)


def _world(context: typer.Context, given: GlobalOptions) -> tuple[Console, settings.Settings]:
    """Console and settings of this call; global options count before and after the command's name."""
    before: GlobalOptions = context.find_root().obj
    console = current_console()
    console.is_quiet = before.quiet or given.quiet
    console.is_verbose = before.verbose + given.verbose > 0
    console.shows_engine_log = before.verbose + given.verbose > 1
    resolved = settings.load(
        console.environ,
        is_offline=True if before.offline or given.offline else None,
        is_private=True if before.private or given.private else None,
    )
    console.is_accessible = resolved.is_accessible
    from slmchat.private_files import narrow

    for path in narrow(resolved.paths.private()):
        console.detail(f"{path} could be read by others; now it is yours alone")
    if not resolved.is_private:
        bytecode.make_up(resolved.paths.cache)
    return console, resolved


def run_program(arguments: Sequence[str]) -> int:
    """Run one command line in a process that is slm's own: also what ends it from below is a sentence."""
    process_end.take_over()
    bytecode.watch()
    code = run_cli(arguments)
    if code == ExitCode.INTERRUPTED or process_end.may_leave_at_once():
        process_end.leave_at_once(code)
    return code


def run_cli(arguments: Sequence[str], console: Console | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run one command line; the exit code. Every error ends here as a sentence on stderr, never as a traceback.

    `console` stands for the streams of this process, and brings their environment with it; `environ` is that of this
    process's own console. What llama.cpp and huggingface_hub read of the environment is always the process's.
    """
    if console is None:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                # with PYTHONUNBUFFERED each token would be a write, so that lines of two programs would mix
                stream.reconfigure(encoding="utf-8", errors="replace", write_through=False)
        console = Console(environ=environ)
    with _in_the_world_of(console):
        return _run_cli(arguments, console)


@contextmanager
def _in_the_world_of(console: Console) -> Iterator[None]:
    """What writes to the streams of the process (the help, an editor) writes to those of the console."""
    before = sys.stdin
    try:
        with console_of_call(console), redirect_stdout(console.stdout), redirect_stderr(console.stderr):
            sys.stdin = console.stdin
            yield
    finally:
        sys.stdin = before


def _run_cli(arguments: Sequence[str], console: Console) -> int:
    try:
        code = called(program_for(arguments), arguments)
        console.flush()
        return code
    except BrokenPipeError:  # the reader has gone (`slm … | head -1`): end quietly
        return int(ExitCode.DONE)
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
    console.is_quiet = False  # an error never is
    if is_debugged(console.environ):
        import traceback

        from slmchat.redaction import redacted

        console.note(redacted("".join(traceback.format_exception(error))))
    console.error(error)
    return int(error.exit_code)


def _usage(error: Any, arguments: Sequence[str]) -> SlmError:
    from slmchat.commands.usage_errors import explained

    return explained(error, arguments, whole_program().commands)


def _has_current_directory() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _bug(error: Exception) -> SlmError:
    if isinstance(error, MemoryError):
        return SlmError(
            "this device has too little memory left for this command.",
            hint="end other programs, or raise the limit (ulimit -v, the memory of the container)",
            exit_code=ExitCode.NO_FIT,
        )
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):  # of tempfile, when it finds none
        return SlmError(
            "this system has no directory for temporary files that can be written.",
            hint="TMPDIR=DIRECTORY names one",
            exit_code=ExitCode.STORAGE,
        )
    if isinstance(error, FileNotFoundError) and error.filename is None and not _has_current_directory():
        return SlmError(
            "the current directory has been deleted.", hint="cd to one that is there", exit_code=ExitCode.STORAGE
        )
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return SlmError(f"{error.strerror[:1].lower()}{error.strerror[1:]}{where}.", exit_code=ExitCode.STORAGE)
    return SlmError(
        f"an error of slm's own: {type(error).__name__}: {error}.",
        hint="SLM_DEBUG=1 shows where; please report it",
        exit_code=ExitCode.BUG,
    )
