"""`slm batch`: many inputs, one model load, one record for each input in input order.

The story: open what is read and written, load the model, find out what an earlier run has done, then let rows in as
there is room, many of them at once through the engine's pool, and write each record as soon as it is its turn.
A row that fails is a record with an error; the exit code tells that there were some.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from slmchat.commands.inputs import prefix_messages, read_text
from slmchat.commands.output import target_of
from slmchat.commands.run import TOP_LOGPROBS
from slmchat.commands.several_answers import settled, several_of
from slmchat.commands.structured_options import questions_of, refuse_beside_questions, response_format_from
from slmchat.conversation import window
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.pictures import is_picture
from slmchat.engine.api import Pool
from slmchat.engine.requests import Prompt
from slmchat.engine.sequential_pool import OneByOne
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import params
from slmchat.generation.batch.answers import Answers, ChosenTexts, Completions, EmptyPrompts
from slmchat.generation.batch.labelled import fit, labelled_format
from slmchat.generation.batch.prompts import PromptMaker, SeveralPrompts, check_fields, fields_in
from slmchat.generation.batch.recipe import Recipe, check_same, recipe_of
from slmchat.generation.batch.records import Begun, RecordWriter, cut, open_output
from slmchat.generation.batch.rows import RowSource, open_source
from slmchat.generation.batch.runner import BatchWork, Rows
from slmchat.generation.best_of import ONE
from slmchat.generation.classify import CONTENT_FREE, ClassificationTask, question
from slmchat.generation.priors import Priors
from slmchat.generation.prompt import begins_thought, layout, thinks
from slmchat.generation.prompt_template import PromptFile, prompt_file
from slmchat.generation.structured import ResponseFormat
from slmchat.models.backend import open_backend
from slmchat.models.open import OpenModel
from slmchat.models.warm_server import WarmLocalModel, WarmServer
from slmchat.option_fields import number_or_auto
from slmchat.options import (
    BatchOptions,
    BestOfOptions,
    ChoiceOptions,
    FormatOptions,
    GenerationOptions,
    TemplateOptions,
)
from slmchat.ranges import PARALLEL
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.terminal.interrupts import cancelled_by_ctrl_c
from slmchat.terminal.piped import telling_when_idle
from slmchat.user_paths import user_path

# Tokens that one row and its completion may take when nobody says so: enough for a page or two.
_N_CTX = 4096

# Rows that a server of this user gets at once: as many connections are made before the seal.
_MOST_AT_A_SERVER = 8


def batch(
    words: Sequence[str],
    batch: BatchOptions,
    options: GenerationOptions,
    wanted: tuple[FormatOptions, ChoiceOptions, BestOfOptions],
    template_options: TemplateOptions,
    settings: Settings,
    console: Console,
) -> ExitCode:
    """Answer every input. Raises `SlmError` when the batch as a whole cannot go on; what is written stays whole."""
    batch = replace(batch, output=None if batch.output == "-" else batch.output)
    is_trimmed = params.overflow_choice(options) == "trim"
    n_parallel = number_or_auto(batch.parallel, "--parallel", PARALLEL)
    options = params.with_persona(options, settings)
    thinking = params.thinking_of(options, settings)
    several = several_of(wanted)
    _check_labelled(batch, wanted[1])
    descriptor = _open_output(
        batch, options.files, console
    )  # before the seal: it may lie where a sealed process cannot open it
    needs_own = bool(wanted[1].choices) or wanted[2].best_of is not None
    server = None if needs_own else WarmServer.find(options, settings, _MOST_AT_A_SERVER)
    backend = open_backend(options, settings, console, server=server)
    questions = _questions(wanted, template_options)
    response_format, task = (None, None) if questions else _one_answer(wanted, options)
    is_classifying = task is not None or bool(questions)
    for note in response_format.notes if response_format else ():
        console.note(note)
    instructions = [question(" ".join(words), name) for name in questions] or [" ".join(words)]
    instruction = instructions[0]
    template = prompt_file(template_options, words, read_text)
    wants_fields = batch.input_field is not None or bool(template.fields if template else fields_in(instruction))
    source = open_source(
        options.files, batch.format, wants_fields, console.stdin, lambda read: telling_when_idle(read, console)
    )
    if template and not source.has_fields:
        template.check()
    check_fields(source, instruction, batch.input_field, template)
    _tell_of_fields(source, instruction, template, console)
    model = backend.find(options.model, settings, console).with_projector(options.mmproj)
    has_pictures = source.format == "files" and any(map(is_picture, map(Path, options.files)))
    if has_pictures:
        _check_pictures(instruction, template)
        model.check_vision(settings)
    prefix = prefix_messages(options, settings)
    opened = OpenModel(backend.warmed(model, options, settings), options, settings, console)
    if has_pictures or not _has_room_for(opened, n_parallel):
        opened.load_here()
    engine = opened.engine
    n_ctx = _window(opened)
    lay_out = layout(
        engine,
        is_raw=options.raw,
        instruction=response_format,
        closes_thought=is_classifying,
        thinking=thinking,
        tell=console.note,
    )
    if response_format is not None:
        response_format = replace(response_format, thinks_first=begins_thought(lay_out([Message(Role.USER, "?")])))
    sampler = params.sampler_settings(
        model,
        settings,
        options,
        lambda: response_format.thinks_first if response_format else thinks(engine, thinking, is_raw=options.raw),
    )

    def fits(prompt: Prompt) -> bool:
        return window.fits(engine.count(prompt, n_ctx), n_ctx, options.max_tokens)

    trims = fits if is_trimmed else None
    makers = [PromptMaker(each, batch.input_field, prefix, lay_out, trims, template) for each in instructions]
    top_logprobs = TOP_LOGPROBS if wanted[1].logprobs else None
    limits = params.with_thinking(
        params.limits(options, top_logprobs), thinking, engine.info.architecture, is_raw=options.raw
    )
    asked = settled(several, response_format, sampler, is_remote=model.host is not None) or ONE
    answers: Answers = Completions(
        sampler,
        limits,
        is_raw=options.raw,
        is_sanitized=not options.raw_output,
        response_format=response_format,
        asked=asked,
    )
    if choosing := questions or ({"": task} if task else {}):
        answers = ChosenTexts(choosing)
    prompts = SeveralPrompts(makers) if questions else makers[0]
    rows = Rows(source, prompts, answers, is_echoed=not batch.no_echo)
    recipe = recipe_of(
        model.label, instruction, batch.input_field, prefix, template, sampler, options, response_format, wanted[1:]
    ).with_option("labelled", batch.labelled and Path(batch.labelled).name)
    begun = None
    if descriptor is not None:
        begun = rows.skip_begun(descriptor, Path(batch.resume)) if batch.resume else None
        _check_recipe(recipe, begun, batch, console)
        cut(descriptor, begun.end if begun else 0)
    if begun is None or begun.made_with is None or recipe.differences(begun.made_with):
        rows.tell_made_with(recipe.as_json())
    console.detail(
        f"inputs: {source.format}{f', the first {begun.records:,} are done already' if begun else ''}; "
        f"context window of each: {f'{n_ctx:,} tokens' if n_ctx else 'not told'}"
    )
    pool = _pool(opened, n_ctx, n_parallel, is_classifying=is_classifying, has_pictures=has_pictures)
    _calibrate(answers, pool, makers, opened, source, options.files)
    _fit(answers, prompts, pool, batch, console)
    writer = _writer(descriptor, batch, console)
    work = BatchWork(rows, pool, writer, console, begun)
    try:
        work.run(cancelled_by_ctrl_c)
    except SlmError as error:
        raise _resumable(error, batch.resume or batch.output) from error
    code = work.tell(batch.resume or batch.output, source.nothing)
    pool.close()
    opened.close()
    if descriptor is not None:
        os.close(descriptor)
    return code


def _tell_of_fields(source: RowSource, instruction: str, template: PromptFile | None, console: Console) -> None:
    """Say what may have been meant otherwise: columns that are taken for a line, fields where there are none."""
    if source.suspected_header is not None:
        console.warn(
            f"the first line looks like the header of a CSV ({source.suspected_header}), and it is taken as an input "
            "like every line (for columns: --format csv, with --input-field NAME or {NAME} in the prompt)."
        )
    literal = fields_in(instruction) if template is None and not source.has_fields else []
    if literal:
        named = ", ".join(f"{{{name}}}" for name in literal)
        console.warn(f"{named} stays in the prompt as it is written: {source.format} have no fields.")


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


def _questions(
    wanted: tuple[FormatOptions, ChoiceOptions, BestOfOptions], template: TemplateOptions
) -> dict[str, ClassificationTask]:
    """Several questions about each row, by their names; none where there is one. Raises `SlmError` (USAGE)."""
    if len(wanted[1].choices) < 2:
        return {}
    refuse_beside_questions(wanted[:2], template)
    return questions_of(wanted[1])


def _one_answer(
    wanted: tuple[FormatOptions, ChoiceOptions, BestOfOptions], options: GenerationOptions
) -> tuple[ResponseFormat | None, ClassificationTask | None]:
    return response_format_from(*wanted[:2], is_stdin_taken=not options.files or "-" in options.files)


def _calibrate(
    answers: Answers,
    pool: Pool,
    makers: Sequence[PromptMaker],
    opened: OpenModel,
    source: RowSource,
    files: Sequence[str],
) -> None:
    """What the model prefers without any input, for each question. Raises `SlmError`."""
    if not isinstance(answers, ChosenTexts):
        return
    may_show = source.format == "files" and any(name == "-" or is_picture(Path(name)) for name in files)
    may_say = source.format != "files" or not all(is_picture(Path(name)) for name in files)

    def empty(maker: PromptMaker) -> EmptyPrompts:
        return EmptyPrompts(
            [maker.without_input(text) for text in CONTENT_FREE] if may_say else [],
            [maker.without_picture()] if may_show else [],
        )

    priors = Priors(opened)
    answers.calibrate(lambda task, prompts: priors.of(task, pool, prompts), [empty(maker) for maker in makers])


def _check_labelled(batch: BatchOptions, choices: ChoiceOptions) -> None:
    if batch.labelled is not None and not choices.choices:
        hint = "for example: --choices positive,negative"
        raise SlmError("--labelled needs --choices.", hint=hint, exit_code=ExitCode.USAGE)


def _fit(
    answers: Answers, prompts: PromptMaker | SeveralPrompts, pool: Pool, batch: BatchOptions, console: Console
) -> None:
    """Fit the probabilities of choices on rows whose labels are known. Raises `SlmError`."""
    if batch.labelled is None or not isinstance(answers, ChosenTexts):
        return
    source = open_source([batch.labelled], labelled_format(batch.labelled), True, console.stdin)
    for name, found in fit(answers, prompts, pool, source.rows, cancelled_by_ctrl_c).items():
        console.note(f"{name}: {found}" if name else str(found))


def _check_pictures(instruction: str, template: PromptFile | None) -> None:
    """Raises `SlmError` (USAGE) for what cannot be asked about pictures."""
    if template is None and not instruction.strip():
        raise SlmError(
            "there is no question about the pictures.",
            hint='slm batch -f a.png -f b.png "What does it show?"',
            exit_code=ExitCode.USAGE,
        )


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
        raise SlmError(
            "--resume FILE and -o FILE cannot stand together.",
            hint="--resume FILE alone: it appends to FILE, and begins it when it is not there",
            exit_code=ExitCode.USAGE,
        )
    name = options.output if options.resume is None else options.resume
    if name is None:
        return None
    path = target_of(name, "--resume" if options.resume is not None else "-o", "answers.jsonl")
    if options.resume and path.exists() and not path.is_file():
        raise SlmError(f"--resume: {name} is not a regular file.", exit_code=ExitCode.USAGE)
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
