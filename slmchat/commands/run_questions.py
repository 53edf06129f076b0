"""`slm run --choices NAME=A,B --choices NAME=C,D`: several questions about one text, which is read once.

The same story as `slm run`, with a prompt for each question: they begin with the text, so the model reads that once.
"""

import json
import time
from collections.abc import Sequence

from slmchat.commands.endings import exit_code
from slmchat.commands.inputs import prefix_messages, read_inputs
from slmchat.commands.output import OutputWriter
from slmchat.commands.structured_options import questions_of
from slmchat.engine.api import FinishReason
from slmchat.errors import ExitCode
from slmchat.generation import params
from slmchat.generation.classify import as_printed, question, usage_of_all
from slmchat.generation.generator import Generator
from slmchat.generation.prompt import PromptRequest
from slmchat.generation.response import Completion, describe, interrupted
from slmchat.models.backend import open_backend
from slmchat.models.open import open_model
from slmchat.options import ChoiceOptions, GenerationOptions, OutputOptions
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.terminal.interrupts import cancelled_by_ctrl_c


def run_questions(
    words: Sequence[str],
    options: GenerationOptions,
    choices: ChoiceOptions,
    output: OutputOptions,
    settings: Settings,
    console: Console,
    *,
    reads_input: bool,
) -> ExitCode:
    """Answer every question with one of its choices, as a JSON object. Raises `SlmError`."""
    start = time.perf_counter()
    options = params.with_persona(options, settings)
    asked = questions_of(choices)
    writer = OutputWriter(output, console, is_structured=True, is_raw_output=options.raw_output)
    writer.keep_target()
    backend = open_backend(options, settings, console)
    opened = open_model(backend, options, settings, console)
    attachments, pictures = read_inputs(options, console, reads_piped=reads_input)
    if pictures:
        opened.model.check_vision(settings)
    generator = Generator(opened)
    for line in opened.describe(pictures):
        console.note(line)
    prefix = prefix_messages(options, settings)
    prepared = [
        generator.prepare(
            PromptRequest(question(" ".join(words), name), attachments, prefix, pictures), is_raw=options.raw, task=task
        )
        for name, task in asked.items()
    ]
    longest = max(prepared, key=lambda each: each.n_prompt)
    generator.open_for(longest, is_trimmed=False)
    load_s = time.perf_counter() - start
    found = generator.classify_all(prepared, cancelled_by_ctrl_c)
    if found is None:
        completion = interrupted(longest.n_prompt)
        besides: dict[str, object] = {}
    else:
        value = {name: made.label for name, (made, _) in zip(asked, found, strict=True)}
        probabilities = {name: as_printed(made.probabilities) for name, (made, _) in zip(asked, found, strict=True)}
        finishes = [finish for _, finish in found]
        usage = usage_of_all(finishes)
        text = json.dumps(value, ensure_ascii=False)
        completion = Completion(text, value, "", FinishReason.STOP, usage, finishes[-1].timings, 0)
        besides = {"value": value, "probabilities": probabilities}
    writer.write(completion, {**completion.record(opened.model.key, load_s), **besides}, discard_partial=True)
    console.detail(describe(completion.finish_reason, completion.usage, completion.timings))
    n_ctx = generator.n_ctx
    generator.close()
    return exit_code(completion.finish_reason, console, n_ctx, generator.engine.info.trained_context_length)
