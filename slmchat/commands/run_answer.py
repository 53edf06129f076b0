"""What `slm run` does while the model loads and behind that: the prompt, its window, the answer.

Knows: the way of one prompt from its inputs to an exit code. Refuses to know: what is settled before the weights are
read (run.py), which imports nothing of this until then.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from slmchat.commands import process_end
from slmchat.commands.endings import exit_code, tell_of_silence
from slmchat.commands.inputs import prefix_messages, read_inputs
from slmchat.commands.output import OutputWriter
from slmchat.commands.several_answers import elected, settled
from slmchat.conversation.compiled_template import get_ready
from slmchat.engine.cancellable import Cancellable
from slmchat.engine.requests import Limits
from slmchat.engine.results import FinishReason
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import params
from slmchat.generation.attempts import FALLBACK
from slmchat.generation.classify import ClassificationTask, as_printed, question, usage_of_all
from slmchat.generation.generator import Generator, PreparedPrompt
from slmchat.generation.prompt import PromptRequest
from slmchat.generation.prompt_template import PromptFile
from slmchat.generation.response import Completion, Response, describe, interrupted, logprob_fields, silence
from slmchat.generation.structured import ResponseFormat
from slmchat.lazy_dataclasses import dataclass
from slmchat.models import adapters
from slmchat.models.backend import BackendModel
from slmchat.models.open import OpenModel
from slmchat.options import BestOfOptions, OutputOptions
from slmchat.terminal.console import Console
from slmchat.terminal.interrupts import cancelled_by_ctrl_c
from slmchat.terminal.plain_view import PlainView

if TYPE_CHECKING:  # most runs have one answer, and begin without this
    from slmchat.generation.best_of import BestOf


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What was settled before. `writer` None: the answer goes to stdout as it comes. `start`: when slm began."""

    instruction: str
    reads_piped: bool
    is_structured: bool
    writer: OutputWriter | None
    template: PromptFile | None
    response_format: ResponseFormat | None
    tasks: Mapping[str, ClassificationTask]  # by the names of the questions, "" where there is one
    several: BestOfOptions | None
    top_logprobs: int | None
    shows_doubt: bool
    start: float


def answer(opened: OpenModel, plan: RunRequest, console: Console) -> ExitCode:
    """Answer one prompt by a model that is being loaded. Raises `SlmError`; the exit code tells how it ended."""
    options = opened.options
    writer = plan.writer or OutputWriter(
        OutputOptions(), console, is_structured=plan.is_structured, is_raw_output=options.raw_output
    )
    # 1. The prompt, and a window for it.
    is_trimmed = options.on_overflow == "trim"
    generator, questions = _prepared(opened, plan, console)
    longest = max(questions, key=lambda each: each.n_prompt)
    sampler = params.sampler_settings(
        generator.opened.model, opened.settings, options, lambda: longest.thinks(generator.engine)
    )
    several = settled(plan.several, plan.response_format, sampler, is_remote=opened.model.host is not None)
    is_alone = len(questions) == 1
    longest = generator.open_for(longest, is_trimmed=is_trimmed and is_alone, n_answers=several.n if several else 1)
    load_s, n_ctx = time.perf_counter() - plan.start, generator.n_ctx
    console.detail(f"context window: {f'{n_ctx:,} tokens' if n_ctx else 'not told'}; loaded after {load_s:.2f} s")
    if opened.adapters:
        console.detail(f"adapters: {adapters.labels(opened.adapters)}")
    # 2. The completion, while it comes and as a whole.
    delegate = _Delegate(
        console,
        writer,
        may_grow=not plan.tasks and several is None and (not plan.is_structured or console.is_stdout_tty),
        shows_doubt=plan.shows_doubt and console.is_stdout_tty and not console.is_dumb,
    )
    completion, besides = _completed(
        generator, plan, [longest] if is_alone else questions, sampler, several, delegate, console
    )
    # 3. Where it goes, and what is said of it.
    if delegate.is_shown:
        is_ended = completion.text.endswith("\n")
        is_nothing = not completion.text and completion.finish_reason is FinishReason.INTERRUPTED
        console.write("" if is_ended or (is_nothing and not console.is_stdout_tty) else "\n")
    else:
        record = {**completion.record(opened.model.key, load_s), **besides}
        writer.write(completion, record, discard_partial=plan.is_structured or several is not None)
    _tell_of(completion, opened.model, console)
    if generator.n_ctx > n_ctx:
        n_ctx = generator.n_ctx
        console.detail(f"context window: grown to {n_ctx:,} tokens")
    n_trained = generator.engine.info.trained_context_length
    _end(generator)
    return exit_code(completion.finish_reason, console, n_ctx, n_trained)


def _prepared(opened: OpenModel, plan: RunRequest, console: Console) -> tuple[Generator, list[PreparedPrompt]]:
    """A prompt for each question, and the model that has room for them: of a server's window they may be too long.

    Raises `SlmError` for an input that cannot be read, and as `Generator.prepare` does.
    """
    options, settings = opened.options, opened.settings
    thinking = params.thinking_of(options, settings)
    attachments, pictures = read_inputs(options, console, reads_piped=plan.reads_piped)
    if pictures:
        opened.model.check_vision(settings)
    prefix = prefix_messages(options, settings)
    words = [question(plan.instruction, name) if name else plan.instruction for name in plan.tasks or ("",)]
    requests = [PromptRequest(each, attachments, prefix, pictures, plan.template) for each in words]
    if not options.raw and opened.model.host is None:
        get_ready()
    generator = Generator(opened)
    for line in opened.describe(pictures):
        console.note(line)

    def prepared_by(generator: Generator) -> list[PreparedPrompt]:
        return [
            generator.prepare(
                request, is_raw=options.raw, response_format=plan.response_format, task=task, thinking=thinking
            )
            for request, task in zip(requests, plan.tasks.values() or (None,), strict=True)
        ]

    questions = prepared_by(generator)
    if not all(map(generator.has_room_for, questions)):
        opened.load_here()
        generator = Generator(opened)
        questions = prepared_by(generator)
    return generator, questions


def _completed(
    generator: Generator,
    plan: RunRequest,
    questions: Sequence[PreparedPrompt],
    sampler: SamplerSettings,
    several: "BestOf | None",
    delegate: "_Delegate",
    console: Console,
) -> tuple[Completion, dict[str, object]]:
    """The completion, and what `--json` says besides. Raises `SlmError`."""
    if plan.tasks:
        return _chosen(generator, plan.tasks, questions, console)
    (prepared,) = questions
    limits = params.limits(generator.opened.options, plan.top_logprobs)
    if several is not None:
        completion = elected(generator, prepared, sampler, limits, several, console)
    else:
        completion = generator.generate(prepared, sampler, limits, delegate)
    if plan.top_logprobs is not None and completion.usage.completion_tokens and not completion.logprobs:
        console.warn(f"{generator.opened.model.label} does not tell the probabilities of its tokens.")
    return completion, _besides(completion, prepared, limits)


def _tell_of(completion: Completion, model: BackendModel, console: Console) -> None:
    """What stands on stderr behind an answer."""
    is_local = not model.host  # of an endpoint's silence its engine tells
    why = silence(completion, completion.usage, completion.finish_reason) if is_local else None
    tell_of_silence(why, completion.thinking, console)
    console.detail(describe(completion.finish_reason, completion.usage, completion.timings))
    if completion.best_of is not None:
        console.detail(str(completion.best_of))


def _end(generator: Generator) -> None:
    """Close what others see of it. The weights are freed by the end of the process: one by one, the 49,152 tokens of a
    small vocabulary take 20 ms, and nobody needs them to be."""
    is_in_this_process = generator.opened.loading.path is not None
    if not (is_in_this_process and process_end.may_leave_at_once()):
        generator.close()


def _chosen(
    generator: Generator, names: Iterable[str], prepared: Sequence[PreparedPrompt], console: Console
) -> tuple[Completion, dict[str, object]]:
    """The choice of each question, and what `--json` says besides. Several are a JSON object."""
    found = generator.classify(prepared, cancelled_by_ctrl_c)
    if found is None:
        return interrupted(max(each.n_prompt for each in prepared)), {}
    made = {name: classification for name, (classification, _) in zip(names, found, strict=True)}
    finishes = [finish for _, finish in found]
    last = finishes[-1]
    probabilities = {name: as_printed(one.probabilities) for name, one in made.items()}
    if "" in made:
        console.detail(", ".join(f"{text} {share:.3f}" for text, share in made[""].probabilities.items()))
        completion = Completion(str(made[""]), None, "", last.reason, last.usage, last.timings, last.seed)
        return completion, {"probabilities": probabilities[""]}
    value = {name: one.label for name, one in made.items()}
    text, usage = json.dumps(value, ensure_ascii=False), usage_of_all(finishes)
    completion = Completion(text, value, "", FinishReason.STOP, usage, last.timings, 0)
    return completion, {"value": value, "probabilities": probabilities}


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
            self._console, is_silent=not self.is_shown, shows_doubt=self._shows_doubt, is_raw=self._writer.is_raw_output
        )

    def cancellable(self, session: Cancellable) -> AbstractContextManager[None]:
        return cancelled_by_ctrl_c(session)

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
