"""`slm run`: one prompt, one completion on stdout.

The story: close the process in, read the prompt while the model loads, lay it out through the chat template, make a
context window of the size that it needs, show what comes, and leave with an exit code that a script can trust.
"""

import time
from contextlib import AbstractContextManager

from slmchat.commands.endings import exit_code, tell_of_silence
from slmchat.commands.inputs import prefix_messages, read_inputs, read_text
from slmchat.commands.output import OutputWriter
from slmchat.commands.own_options import RunOptions
from slmchat.commands.several_answers import elected, settled, several_of
from slmchat.commands.structured_options import refuse_beside_questions, response_format_from
from slmchat.engine.api import Limits
from slmchat.engine.cancellable import Cancellable
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import params
from slmchat.generation.attempts import FALLBACK
from slmchat.generation.classify import as_printed
from slmchat.generation.generator import Generator, PreparedPrompt
from slmchat.generation.prompt import PromptRequest
from slmchat.generation.prompt_template import prompt_file
from slmchat.generation.response import Completion, Response, describe, interrupted, logprob_fields, silence
from slmchat.models import adapters
from slmchat.models.backend import BackendModel, open_backend
from slmchat.models.open import open_model
from slmchat.models.warm_server import WarmServer
from slmchat.options import (
    BestOfOptions,
    ChoiceOptions,
    FormatOptions,
    GenerationOptions,
    OutputOptions,
    TemplateOptions,
)
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.terminal.doubt import LEGEND
from slmchat.terminal.interrupts import cancelled_by_ctrl_c
from slmchat.terminal.plain_view import PlainView


def run(
    own: RunOptions,
    options: GenerationOptions,
    wanted: tuple[FormatOptions, ChoiceOptions, BestOfOptions],
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
        refuse_beside_questions(wanted[:2], template_options)
        from slmchat.commands.run_questions import run_questions

        return run_questions(words, options, wanted[1], output, settings, console, reads_input=reads_input)
    start = time.perf_counter()
    is_trimmed = params.overflow_choice(options) == "trim"
    options = params.with_persona(options, settings)
    thinking = params.thinking_of(options, settings)
    is_structured = wanted[:2] != (FormatOptions(), ChoiceOptions())
    writer = OutputWriter(output, console, is_structured=is_structured, is_raw_output=options.raw_output)
    top_logprobs = _alternatives(wanted[1], output, writer, console)
    several = several_of(wanted, output)
    writer.keep_target()
    # 1. Closed in; only then is anything read. 2. The model loads, behind what the prompt takes.
    needs_own = bool(wanted[1].choices) or several is not None
    server = None if needs_own else WarmServer.find(options, settings)
    backend = open_backend(options, settings, console, server=server)
    template = prompt_file(template_options, words, read_text)
    response_format, task = response_format_from(*wanted[:2], is_stdin_taken="-" in options.files)
    opened = open_model(backend, options, settings, console)
    attachments, pictures = read_inputs(options, console, reads_piped=reads_input)
    if pictures:
        opened.model.check_vision(settings)
    request = PromptRequest(" ".join(words), attachments, prefix_messages(options, settings), pictures, template)
    # 3. The prompt, and a window for it.
    generator = Generator(opened)
    for line in opened.describe(pictures):
        console.note(line)

    def prepared_by(generator: Generator) -> PreparedPrompt:
        return generator.prepare(
            request, is_raw=options.raw, response_format=response_format, task=task, thinking=thinking
        )

    prepared = prepared_by(generator)
    if not generator.has_room_for(prepared):  # of a server's window
        opened.load_here()
        generator = Generator(opened)
        prepared = prepared_by(generator)
    model = opened.model
    sampler = params.sampler_settings(model, settings, options, lambda: prepared.thinks(generator.engine))
    asked = settled(several, response_format, sampler, is_remote=model.host is not None)
    prepared = generator.open_for(prepared, is_trimmed=is_trimmed, n_answers=asked.n if asked else 1)
    load_s = time.perf_counter() - start
    n_ctx = generator.n_ctx
    console.detail(f"context window: {f'{n_ctx:,} tokens' if n_ctx else 'not told'}; loaded after {load_s:.2f} s")
    if opened.adapters:
        console.detail(f"adapters: {adapters.labels(opened.adapters)}")
    # 4. The completion, while it comes and as a whole.
    delegate = _Delegate(
        console,
        writer,
        may_grow=task is None and several is None and (not is_structured or console.is_stdout_tty),
        shows_doubt=output.confidence and console.is_stdout_tty and not console.is_dumb,
    )
    limits = params.limits(options, top_logprobs)
    if asked is not None:
        completion = elected(generator, prepared, sampler, limits, asked, console)
        besides = _besides(completion, prepared, limits)
    else:
        completion, besides = _completed(generator, prepared, sampler, limits, delegate)
    if top_logprobs is not None and completion.usage.completion_tokens and not completion.logprobs:
        console.warn(f"{model.label} does not tell the probabilities of its tokens.")
    if delegate.is_shown:
        console.write("" if completion.text.endswith("\n") else "\n")
    else:
        record = {**completion.record(model.key, load_s), **besides}
        writer.write(completion, record, discard_partial=is_structured or asked is not None)
    tell_of_silence(_silence(completion, model), completion.thinking, console)
    console.detail(describe(completion.finish_reason, completion.usage, completion.timings))
    if completion.best_of is not None:
        console.detail(str(completion.best_of))
    if generator.n_ctx > n_ctx:
        n_ctx = generator.n_ctx
        console.detail(f"context window: grown to {n_ctx:,} tokens")
    generator.close()
    return exit_code(completion.finish_reason, console, n_ctx, generator.engine.info.trained_context_length)


def _silence(completion: Completion, model: BackendModel) -> str | None:
    """Why there is no answer; None: there is one, or it is an endpoint's, and then its engine tells."""
    return None if model.host else silence(completion, completion.usage, completion.finish_reason)


# How many of the most probable tokens stand beside each one (`--logprobs`).
TOP_LOGPROBS = 5


def _alternatives(choice: ChoiceOptions, output: OutputOptions, writer: OutputWriter, console: Console) -> int | None:
    """How many alternatives of each token are wanted; None: no probabilities at all. Raises `SlmError` (USAGE)."""
    if choice.logprobs and not output.json:
        raise SlmError(
            "--logprobs are part of --json.", hint="--json --logprobs; or --confidence", exit_code=ExitCode.USAGE
        )
    if not output.confidence:
        return TOP_LOGPROBS if choice.logprobs else None
    if not console.is_stdout_tty or console.is_dumb:
        console.note("--confidence underlines on a terminal only; elsewhere: --json --logprobs")
    elif writer.is_streamed:
        console.draw(LEGEND)
    return TOP_LOGPROBS if choice.logprobs else 0


def _completed(
    generator: Generator, prepared: PreparedPrompt, sampler: SamplerSettings, limits: Limits, delegate: "_Delegate"
) -> tuple[Completion, dict[str, object]]:
    """The completion, and what `--json` says besides."""
    if prepared.task is None:
        completion = generator.generate(prepared, sampler, limits, delegate)
        return completion, _besides(completion, prepared, limits)
    found = generator.classify(prepared, cancelled_by_ctrl_c)
    if found is None:
        return interrupted(prepared.n_prompt), {}
    made, finish = found
    delegate.detail(made.probabilities)
    completion = Completion(str(made), None, "", finish.reason, finish.usage, finish.timings, finish.seed)
    return completion, {"probabilities": as_printed(made.probabilities)}


def _besides(completion: Completion, prepared: PreparedPrompt, limits: Limits) -> dict[str, object]:
    besides: dict[str, object] = {"value": completion.value} if prepared.response_format else {}
    if limits.top_logprobs:
        besides["logprobs"] = logprob_fields(completion.logprobs)
    return besides


class _Delegate:
    """The completion on stdout, and Ctrl-C. Implements `GenerationDelegate`.

    A structured completion is shown while it comes only on a terminal: what reads a pipe gets it whole and right, or
    nothing. A choice comes at once.
    """

    def __init__(self, console: Console, writer: OutputWriter, *, may_grow: bool, shows_doubt: bool) -> None:
        """`may_grow`: the completion may be shown while it comes."""
        self._console = console
        self._writer = writer
        self._shows_doubt = shows_doubt
        self.is_shown = writer.is_streamed and may_grow

    def handler(self) -> PlainView:
        return PlainView(
            self._console,
            is_silent=not self.is_shown,
            shows_doubt=self._shows_doubt,
            is_raw=self._writer.is_raw_output,
        )

    def cancellable(self, session: Cancellable) -> AbstractContextManager[None]:
        return cancelled_by_ctrl_c(session)

    def detail(self, probabilities: dict[str, float]) -> None:
        """How probable each choice is, for `-v`."""
        self._console.detail(", ".join(f"{text} {share:.3f}" for text, share in probabilities.items()))

    @property
    def may_retry(self) -> bool:
        return True

    def on_retry(self, error: SlmError) -> None:
        self._console.write("\n" if self.is_shown else "")
        self._console.warn(f"{error.message.rstrip('.')}; trying once more, with more room.")

    def on_fallback(self, response: Response) -> None:
        self._console.write("\n" if self.is_shown else "")
        self._console.warn(FALLBACK)
        self._console.write(response.text if self.is_shown else "")
