"""`slm run`: one prompt, one completion on stdout.

The story: close the process in, begin to read the weights, and only then import what reads the prompt meanwhile, lays
it out through the chat template, makes a context window of the size that it needs and shows what comes
(run_answer.py). What is asked for seldom (formats, files, several answers) is imported when it is asked for.
"""

import time
from typing import TYPE_CHECKING

from slmchat.commands.own_options import RunOptions
from slmchat.errors import ExitCode, usage_error
from slmchat.generation import params
from slmchat.models.backend import open_backend
from slmchat.models.open import open_model
from slmchat.models.warm_server import WarmServer
from slmchat.options import (
    BestOfOptions,
    ChoiceOptions,
    FormatOptions,
    GenerationOptions,
    OutputOptions,
    TemplateOptions,
    Wanted,
)
from slmchat.settings import Settings
from slmchat.terminal.console import Console

if TYPE_CHECKING:
    from slmchat.commands.output import OutputWriter
    from slmchat.generation.classify import ClassificationTask
    from slmchat.generation.prompt_template import PromptFile
    from slmchat.generation.structured import ResponseFormat

# How many of the most probable tokens stand beside each one (`--logprobs`).
TOP_LOGPROBS = 5


def run(
    own: RunOptions,
    options: GenerationOptions,
    wanted: Wanted,
    output: OutputOptions,
    template_options: TemplateOptions,
    settings: Settings,
    console: Console,
) -> ExitCode:
    """Answer one prompt; `wanted`: what the answer has to be.

    Raises `SlmError`; the exit code tells how it ended.
    """
    words, reads_input = own.words or [], not own.no_input
    if len(wanted[1].choices) > 1:
        from slmchat.commands.structured_options import refuse_beside_questions

        refuse_beside_questions(wanted[:2], template_options)
    start = time.perf_counter()
    options = params.with_persona(options, settings)
    is_structured = wanted[:2] != (FormatOptions(), ChoiceOptions())
    writer = _writer(output, console, is_structured=is_structured, is_raw_output=options.raw_output)
    top_logprobs = _alternatives(wanted[1], output, console, is_streamed=writer is None or writer.is_streamed)
    several = _several(wanted, output)
    if writer is not None:
        writer.keep_target()
    # 1. Closed in; only then is anything read.
    needs_own = bool(wanted[1].choices) or several is not None
    server = None if needs_own else WarmServer.find(options, settings)
    backend = open_backend(options, settings, console, server=server)
    template = _template(template_options, words)
    response_format, tasks = _format(wanted, is_stdin_taken="-" in options.files)
    # 2. The model loads, behind the imports and what the prompt takes.
    opened = open_model(backend, options, settings, console)
    opened.loading.wait_until_begun()
    from slmchat.commands.run_answer import RunRequest, answer

    plan = RunRequest(
        instruction=" ".join(words),
        reads_piped=reads_input,
        is_structured=is_structured,
        writer=writer,
        template=template,
        response_format=response_format,
        tasks=tasks,
        several=several,
        top_logprobs=top_logprobs,
        shows_doubt=output.confidence,
        start=start,
    )
    return answer(opened, plan, console)


def _writer(
    output: OutputOptions, console: Console, *, is_structured: bool, is_raw_output: bool
) -> "OutputWriter | None":
    """Where the answer goes; None: to stdout as it comes. Raises `SlmError` as `OutputWriter` does."""
    if output == OutputOptions():
        return None
    from slmchat.commands.output import OutputWriter

    return OutputWriter(output, console, is_structured=is_structured, is_raw_output=is_raw_output)


def _several(wanted: Wanted, output: OutputOptions) -> BestOfOptions | None:
    """What `--best-of` asks for; None: one answer. Raises `SlmError` (USAGE)."""
    if wanted[2] == BestOfOptions():
        return None
    from slmchat.commands.several_answers import several_of

    return several_of(wanted, output)


def _template(options: TemplateOptions, words: list[str]) -> "PromptFile | None":
    """The template that stands for the instruction. Raises `SlmError` as `prompt_file` does."""
    if options == TemplateOptions():
        return None
    from slmchat.commands.inputs import read_text
    from slmchat.generation.prompt_template import prompt_file

    return prompt_file(options, words, read_text)


def _format(wanted: Wanted, *, is_stdin_taken: bool) -> "tuple[ResponseFormat | None, dict[str, ClassificationTask]]":
    """As `formats_of`, which most runs begin without."""
    if wanted[:2] == (FormatOptions(), ChoiceOptions()):
        return None, {}
    from slmchat.commands.structured_options import formats_of

    return formats_of(wanted[:2], is_stdin_taken=is_stdin_taken)


def _alternatives(choice: ChoiceOptions, output: OutputOptions, console: Console, *, is_streamed: bool) -> int | None:
    """How many alternatives of each token are wanted; None: no probabilities at all. Raises `SlmError` (USAGE)."""
    if choice.logprobs and not output.json:
        raise usage_error("--logprobs are part of --json.", "--json --logprobs; or --confidence")
    if not output.confidence:
        return TOP_LOGPROBS if choice.logprobs else None
    if not console.is_stdout_tty or console.is_dumb:
        console.note("--confidence underlines on a terminal only; elsewhere: --json --logprobs")
    elif is_streamed:
        from slmchat.terminal.doubt import LEGEND

        console.draw(LEGEND)
    return TOP_LOGPROBS if choice.logprobs else 0
