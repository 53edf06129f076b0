"""What `slm batch` asks about each row: from the options to prompts, and to what becomes of completions.

Knows: instructions, templates, formats and choices of a batch. Refuses to know: where records are written, how many
rows are under way (batch.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from slmchat.commands.inputs import prefix_messages, read_text
from slmchat.commands.run import TOP_LOGPROBS
from slmchat.commands.structured_options import formats_of, refuse_beside_questions
from slmchat.conversation import window
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.pictures import is_picture
from slmchat.engine.api import Pool
from slmchat.engine.requests import Prompt
from slmchat.errors import usage_error
from slmchat.generation import params
from slmchat.generation.batch.answers import Answers, ChosenTexts, Completions, EmptyPrompts
from slmchat.generation.batch.labelled import fit, labelled_format
from slmchat.generation.batch.prompts import PromptMaker, SeveralPrompts, check_fields, fields_in
from slmchat.generation.batch.recipe import Recipe, recipe_of
from slmchat.generation.batch.rows import RowSource, open_source
from slmchat.generation.batch.runner import Rows
from slmchat.generation.best_of import best_of
from slmchat.generation.classify import CONTENT_FREE, ClassificationTask, question
from slmchat.generation.priors import Priors
from slmchat.generation.prompt import begins_thought, layout, thinks
from slmchat.generation.prompt_template import PromptFile, prompt_file
from slmchat.generation.structured import ResponseFormat
from slmchat.lazy_dataclasses import dataclass
from slmchat.models.open import OpenModel
from slmchat.options import (
    BatchOptions,
    GenerationOptions,
    TemplateOptions,
    Wanted,
)
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.terminal.interrupts import cancelled_by_ctrl_c
from slmchat.terminal.piped import telling_when_idle


@dataclass(frozen=True, slots=True)
class BatchInput:
    """What is read, and what is asked about each row of it. Nothing of it needs a model.

    `instructions`: one for each question. `tasks`: what has choices, by the names of the questions, "" where there is
    one; empty where completions are generated. `prefix`: a system message.
    """

    source: RowSource
    files: Sequence[str]
    instructions: Sequence[str]
    template: PromptFile | None
    prefix: Sequence[Message]
    response_format: ResponseFormat | None
    tasks: Mapping[str, ClassificationTask]
    wanted: Wanted

    @property
    def has_pictures(self) -> bool:
        """Whether rows are pictures."""
        return self.source.format == "files" and any(map(is_picture, map(Path, self.files)))

    def check_pictures(self) -> None:
        """Raises `SlmError` (USAGE) for what cannot be asked about pictures."""
        if self.template is None and not self.instructions[0].strip():
            raise usage_error(
                "there is no question about the pictures.", 'slm batch -f a.png -f b.png "What does it show?"'
            )


def batch_input(
    batch: BatchOptions,
    options: GenerationOptions,
    wanted: Wanted,
    template_options: TemplateOptions,
    settings: Settings,
    console: Console,
) -> BatchInput:
    """Open what is read, and settle what is asked. Raises `SlmError` (USAGE) for what does not go together."""
    if len(wanted[1].choices) > 1:
        refuse_beside_questions(wanted[:2], template_options)
    response_format, tasks = formats_of(wanted[:2], is_stdin_taken=not options.files or "-" in options.files)
    for note in response_format.notes if response_format else ():
        console.note(note)
    words = batch.words or []
    text = " ".join(words)
    instructions = [question(text, name) if name else text for name in tasks or ("",)]
    template = prompt_file(template_options, words, read_text)
    wants_fields = batch.input_field is not None or bool(template.fields if template else fields_in(instructions[0]))
    source = open_source(
        options.files, batch.format, wants_fields, console.stdin, lambda read: telling_when_idle(read, console)
    )
    if template and not source.has_fields:
        template.check()
    check_fields(source, instructions[0], batch.input_field, template)
    _tell_of_fields(source, instructions[0], template, console)
    prefix = prefix_messages(options, settings)
    return BatchInput(source, options.files, instructions, template, prefix, response_format, tasks, wanted)


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


@dataclass(frozen=True, slots=True)
class AskedRows:
    """The rows as requests to one model, and what becomes of its results. `recipe`: what decides the answers."""

    rows: Rows
    makers: Sequence[PromptMaker]  # one for each question
    prompts: PromptMaker | SeveralPrompts
    answers: Answers
    recipe: Recipe

    def calibrate(self, opened: OpenModel, pool: Pool, given: BatchInput) -> None:
        """What the model prefers without any input, for each question. Raises `SlmError`."""
        if not isinstance(self.answers, ChosenTexts):
            return
        is_files = given.source.format == "files"
        may_show = is_files and any(name == "-" or is_picture(Path(name)) for name in given.files)
        may_say = not is_files or not all(is_picture(Path(name)) for name in given.files)

        def empty(maker: PromptMaker) -> EmptyPrompts:
            return EmptyPrompts(
                [maker.without_input(text) for text in CONTENT_FREE] if may_say else [],
                [maker.without_picture()] if may_show else [],
            )

        priors = Priors(opened)
        self.answers.calibrate(lambda task, prompts: priors.of(task, pool, prompts), [*map(empty, self.makers)])

    def fit(self, pool: Pool, labelled: str | None, console: Console) -> None:
        """Fit the probabilities of choices on the rows of `labelled`, whose labels are known. Raises `SlmError`."""
        if labelled is None or not isinstance(self.answers, ChosenTexts):
            return
        source = open_source([labelled], labelled_format(labelled), True, console.stdin)
        for name, found in fit(self.answers, self.prompts, pool, source.rows, cancelled_by_ctrl_c).items():
            console.note(f"{name}: {found}" if name else str(found))


def asked_rows(opened: OpenModel, given: BatchInput, batch: BatchOptions, n_ctx: int, console: Console) -> AskedRows:
    """`n_ctx`: the window of each row in tokens. Raises `SlmError` (USAGE) for what this model cannot be asked."""
    model, options, settings, engine = opened.model, opened.options, opened.settings, opened.engine
    thinking = params.thinking_of(options, settings)
    response_format = given.response_format
    lay_out = layout(
        engine,
        is_raw=options.raw,
        instruction=response_format,
        closes_thought=bool(given.tasks),
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

    trims = fits if options.on_overflow == "trim" else None
    makers = [
        PromptMaker(each, batch.input_field, given.prefix, lay_out, trims, given.template)
        for each in given.instructions
    ]
    if given.tasks:
        answers: Answers = ChosenTexts(given.tasks)
    else:
        several, is_remote = given.wanted[2], model.host is not None
        asked_limits = params.limits(options, TOP_LOGPROBS if given.wanted[1].logprobs else None)
        limits = params.with_thinking(asked_limits, thinking, engine.info.architecture, is_raw=options.raw)
        answers = Completions(
            sampler,
            limits,
            is_raw=options.raw,
            is_sanitized=not options.raw_output,
            response_format=response_format,
            asked=best_of(several.best_of or 1, several.vote, response_format, sampler, is_remote=is_remote),
        )
    prompts = SeveralPrompts(makers) if len(makers) > 1 else makers[0]
    recipe = recipe_of(
        model.label,
        given.instructions[0],
        batch.input_field,
        given.prefix,
        given.template,
        sampler,
        options,
        response_format,
        given.wanted[1:],
    ).with_option("labelled", batch.labelled and Path(batch.labelled).name)
    rows = Rows(given.source, prompts, answers, is_echoed=not batch.no_echo)
    return AskedRows(rows, makers, prompts, answers, recipe)
