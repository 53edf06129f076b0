"""`slm batch`: many inputs, one model load, one record for each input in input order.

The story: open what is read and written, load the model, find out what an earlier run has done, then let rows in as
there is room, many of them at once through the engine's pool, and write each record as soon as it is its turn.
A row that fails is a record with an error; the exit code tells that there were some. What each row is asked stands in
batch_rows.py.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from slmchat.commands.batch_rows import AskedRows, asked_rows, batch_input
from slmchat.commands.output import target_of
from slmchat.commands.several_answers import several_of
from slmchat.conversation import window
from slmchat.engine.api import Pool
from slmchat.engine.sequential_pool import OneByOne
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.generation import params
from slmchat.generation.batch.recipe import Recipe, check_same
from slmchat.generation.batch.records import Begun, RecordWriter, cut, open_output
from slmchat.generation.batch.runner import BatchWork
from slmchat.models.backend import open_backend
from slmchat.models.open import OpenModel
from slmchat.models.warm_server import WarmLocalModel, WarmServer
from slmchat.option_fields import number_or_auto
from slmchat.options import BatchOptions, ChoiceOptions, GenerationOptions, TemplateOptions, Wanted
from slmchat.ranges import PARALLEL
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.terminal.interrupts import cancelled_by_ctrl_c
from slmchat.user_paths import user_path

# Tokens that one row and its completion may take when nobody says so: enough for a page or two.
_N_CTX = 4096

# Rows that a server of this user gets at once: as many connections are made before the seal.
_MOST_AT_A_SERVER = 8


def batch(
    batch: BatchOptions,
    options: GenerationOptions,
    wanted: Wanted,
    template_options: TemplateOptions,
    settings: Settings,
    console: Console,
) -> ExitCode:
    """Answer every input. Raises `SlmError` when the batch as a whole cannot go on; what is written stays whole."""
    # 1. What is wrong with the options is said before anything is opened.
    batch = replace(batch, output=None if batch.output == "-" else batch.output)
    n_parallel = number_or_auto(batch.parallel, "--parallel", PARALLEL)
    options = params.with_persona(options, settings)
    several_of(wanted)
    _check_labelled(batch, wanted[1])
    # 2. What is written, before the seal: it may lie where a sealed process cannot open it. Then what is read.
    descriptor = _open_output(batch, options.files, console)
    needs_own = bool(wanted[1].choices) or wanted[2].best_of is not None
    server = None if needs_own else WarmServer.find(options, settings, _MOST_AT_A_SERVER)
    backend = open_backend(options, settings, console, server=server)
    given = batch_input(batch, options, wanted, template_options, settings, console)
    # 3. The model, and a window for each row.
    model = backend.find(options.model, settings, console).with_projector(options.mmproj)
    if given.has_pictures:
        given.check_pictures()
        model.check_vision(settings)
    opened = OpenModel(backend.warmed(model, options, settings), options, settings, console)
    if given.has_pictures or not _has_room_for(opened, n_parallel):
        opened.load_here()
    n_ctx = _window(opened)
    # 4. What each row is asked, and what an earlier run has done of it.
    asked = asked_rows(opened, given, batch, n_ctx, console)
    begun = _begun(descriptor, asked, batch, console)
    console.detail(
        f"inputs: {given.source.format}{f', the first {begun.records:,} are done already' if begun else ''}; "
        f"context window of each: {f'{n_ctx:,} tokens' if n_ctx else 'not told'}"
    )
    # 5. The rows.
    pool = _pool(opened, n_ctx, n_parallel, is_classifying=bool(given.tasks), has_pictures=given.has_pictures)
    asked.calibrate(opened, pool, given)
    asked.fit(pool, batch.labelled, console)
    work = BatchWork(asked.rows, pool, _writer(descriptor, batch, console), console, begun)
    try:
        work.run(cancelled_by_ctrl_c)
    except SlmError as error:
        raise _resumable(error, batch.resume or batch.output) from error
    code = work.tell(batch.resume or batch.output, given.source.nothing)
    pool.close()
    opened.close()
    if descriptor is not None:
        os.close(descriptor)
    return code


def _begun(descriptor: int | None, asked: AskedRows, batch: BatchOptions, console: Console) -> Begun | None:
    """What an earlier run has written; those rows are skipped, and a torn record behind them is cut off.

    None where there is no such run. Raises `SlmError` (USAGE) when its records belong to another prompt, model or
    options.
    """
    begun = None
    if descriptor is not None:
        begun = asked.rows.skip_begun(descriptor, Path(batch.resume)) if batch.resume else None
        _check_recipe(asked.recipe, begun, batch, console)
        cut(descriptor, begun.end if begun else 0)
    if begun is None or begun.made_with is None or asked.recipe.differences(begun.made_with):
        asked.rows.tell_made_with(asked.recipe.as_json())
    return begun


def _check_recipe(recipe: Recipe, begun: Begun | None, options: BatchOptions, console: Console) -> None:
    """Whether the records that are there belong to this prompt, model and options. Raises `SlmError` (USAGE)."""
    if begun is None or not begun.records or options.allow_changes:
        return
    if begun.made_with is None:
        console.note(f"{options.resume} does not tell which prompt and model made it: they are not compared.")
        return
    check_same(recipe, begun.made_with, Path(options.resume or ""))


def _pool(opened: OpenModel, n_ctx: int, n_parallel: int | None, *, is_classifying: bool, has_pictures: bool) -> Pool:
    if is_classifying:
        return opened.open_scorer(n_ctx)
    if has_pictures and not opened.engine.info.has_own_layout:  # an endpoint sees as many at once as it likes
        return OneByOne(opened.open_plain_session(n_ctx))
    return opened.open_pool(n_ctx, n_parallel)


def _check_labelled(batch: BatchOptions, choices: ChoiceOptions) -> None:
    if batch.labelled is not None and not choices.choices:
        hint = "for example: --choices positive,negative"
        raise usage_error("--labelled needs --choices.", hint)


def _wanted_window(opened: OpenModel) -> int:
    return opened.options.ctx or opened.settings.n_ctx or min(opened.trained_context_length, _N_CTX)


def _window(opened: OpenModel) -> int:
    """The context window of each row in tokens; 0: the endpoint does not tell its own."""
    if not opened.engine.info.has_exact_counts:
        return opened.trained_context_length
    return opened.window(_wanted_window(opened), least=None if opened.options.ctx else window.MIN_COMPLETION_TOKENS)


def _has_room_for(opened: OpenModel, n_parallel: int | None) -> bool:
    """Whether a server that has the model works on so many rows at once, in windows as large as they are here."""
    if not isinstance(opened.model, WarmLocalModel):
        return True
    return (n_parallel or 1) <= opened.model.engine.most and opened.has_room_in_server(_wanted_window(opened))


def _open_output(options: BatchOptions, files: Sequence[str], console: Console) -> int | None:
    if options.resume and options.output:
        raise usage_error(
            "--resume FILE and -o FILE cannot stand together.",
            "--resume FILE alone: it appends to FILE, and begins it when it is not there",
        )
    name = options.output if options.resume is None else options.resume
    if name is None:
        return None
    path = target_of(name, "--resume" if options.resume is not None else "-o", "answers.jsonl")
    if options.resume and path.exists() and not path.is_file():
        raise usage_error(f"--resume: {name} is not a regular file.")
    inputs = [console.stdin.fileno() if file == "-" else user_path(file) for file in files or ["-"]]
    return open_output(path, inputs, may_exist=options.resume is not None or options.overwrite)


def _writer(descriptor: int | None, options: BatchOptions, console: Console) -> RecordWriter:
    if descriptor is not None:
        return RecordWriter(descriptor, options.resume or options.output or "", lambda: None)
    clears = console.is_stdout_tty
    console.stdout.flush()
    return RecordWriter(console.stdout.fileno(), "standard output", lambda: console.status("") if clears else None)


def _resumable(error: SlmError, file: str | None) -> SlmError:
    """An endpoint that fails ends the batch, not its rows: the hint says how to go on."""
    if error.exit_code is not ExitCode.NETWORK:
        return error
    hint = f"all records written are whole; go on with the same command and --resume {file or 'FILE'}"
    return SlmError(error.message, hint=hint, exit_code=error.exit_code)
