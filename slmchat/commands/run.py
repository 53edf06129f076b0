"""`slm run`: one prompt, one completion on stdout.

The story: read the prompt while the model loads, lay it out through the chat template, make a context window of the
size that it needs, show what comes, and leave with an exit code that a script can trust.
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from slmchat.commands.output import OutputWriter
from slmchat.conversation import window
from slmchat.engine.api import Engine, Finish, FinishReason, Limits, Session, Timings, Usage
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import response, structured
from slmchat.generation.classify import ROOM as CHOICE_ROOM
from slmchat.generation.classify import Classification, ClassificationTask, classification_task_of
from slmchat.generation.generator import COMPLETION_ROOM, Generator, PreparedPrompt
from slmchat.generation.prompt import PromptRequest, prefix_messages, read_inputs, read_text
from slmchat.generation.prompt_template import prompt_file
from slmchat.generation.response import Response
from slmchat.generation.structured import ResponseFormat
from slmchat.models import adapters, backend, loader
from slmchat.models.backend import Model
from slmchat.options import ChoiceOptions, GenerationOptions, OutputOptions, ShapeOptions, TemplateOptions
from slmchat.settings import Settings
from slmchat.terminal.answer_view import PlainView
from slmchat.terminal.console import Console
from slmchat.terminal.doubt import LEGEND
from slmchat.terminal.sanitize import Sanitizer

# The step in which context windows are made, in tokens.
_CTX_STEP = 256


def run(
    words: Sequence[str],
    options: GenerationOptions,
    wanted: tuple[ShapeOptions, ChoiceOptions],
    output: OutputOptions,
    template_options: TemplateOptions,
    settings: Settings,
    console: Console,
    *,
    reads_input: bool = True,
) -> ExitCode:
    """Answer one prompt; `wanted`: what the answer has to be. `reads_input` False: not what is piped in, unasked.

    Raises `SlmError`; the exit code tells how it ended.
    """
    start = time.perf_counter()
    on_overflow = overflow_choice(options)
    options = loader.with_persona(options, settings)
    is_shaped = wanted != (ShapeOptions(), ChoiceOptions())
    delivery = OutputWriter(output, console, is_shaped=is_shaped, is_raw_output=options.raw_output)
    n_alternatives = _alternatives(wanted[1], output, delivery, console)
    delivery.keep_target()
    place = backend.open_backend(options, settings, console)
    template = prompt_file(template_options, words, read_text)
    shape, choosing = response_format_from(*wanted, is_stdin_taken="-" in options.files)
    model = place.find(options.model, settings, console).with_projector(options.mmproj)
    sampler = loader.sampler_settings(model, settings, options)
    draft = loader.draft_model(options, settings, console)
    laid = model.laid(options.lora, settings)
    loading = model.start(options, settings)
    attachments, shown = read_inputs(options, console, reads_piped=reads_input)
    if shown:
        model.check_vision(settings)
    question = PromptRequest(" ".join(words), attachments, prefix_messages(options, settings), shown, template)
    asker = Generator(loading, options, settings, console)
    model.report(loading, console)
    for line in asker.describe(shown):
        console.note(line)
    request = asker.request(question, is_raw=options.raw, shape=shape, choosing=choosing)
    n_wanted = _window(request.n_prompt, _room(request, options), asker.engine, options, settings)
    n_ctx = loader.window(loading, n_wanted, options, least=None if options.ctx else request.n_prompt + 1) or n_wanted
    loader.tell_of_small_window(n_ctx, n_wanted, console)
    request = asker.fitted(request, n_ctx, is_trimmed=on_overflow == "trim")
    if choosing:
        asker.open_scorer(n_ctx, laid=laid)
    else:
        most = loader.most_window(loading, options, settings)
        asker.open(n_ctx, most_ctx=most, draft=draft, is_multi_turn=shape is not None, laid=laid)
    load_s = time.perf_counter() - start
    console.detail(f"context window: {f'{n_ctx:,} tokens' if n_ctx else 'not told'}; loaded after {load_s:.2f} s")
    if laid:
        console.detail(f"adapters: {adapters.labels(laid)}")
    shown_on = _Shown(
        console,
        delivery,
        is_growing=choosing is None and (not is_shaped or console.is_stdout_tty),
        shows_doubt=output.confidence and console.is_stdout_tty and not console.is_dumb,
    )
    answer, besides = _answered(asker, request, sampler, loader.limits(options, n_alternatives), shown_on)
    assert answer.finish is not None
    if n_alternatives is not None and answer.finish.usage.completion_tokens and not answer.chances:
        console.warn(f"{model.label} does not tell the probabilities of its tokens.")
    if shown_on.is_shown:
        console.write("" if answer.text.endswith("\n") else "\n")
    else:
        record = {**as_json(model, answer, load_s), **besides}
        delivery.give(answer, record, discard_partial=is_shaped)
    console.detail(response.describe(answer.finish))
    if not choosing and asker.n_ctx > n_ctx:
        console.detail(f"context window: grown to {asker.n_ctx:,} tokens")
        n_ctx = asker.n_ctx
    if not settings.is_private:
        model.remember(settings)
    asker.close()
    return exit_code(answer.finish.reason, console, n_ctx, asker.engine.info.trained_context_length)


# How many of the most probable tokens stand beside each one (`--logprobs`).
ALTERNATIVES = 5


def _alternatives(choice: ChoiceOptions, output: OutputOptions, delivery: OutputWriter, console: Console) -> int | None:
    """How many alternatives of each token are wanted; None: no chances at all. Raises `SlmError` (USAGE)."""
    if choice.logprobs and not output.json:
        raise SlmError(
            "--logprobs are part of --json.", hint="--json --logprobs; or --confidence", exit_code=ExitCode.USAGE
        )
    if not output.confidence:
        return ALTERNATIVES if choice.logprobs else None
    if not console.is_stdout_tty or console.is_dumb:
        console.note("--confidence underlines on a terminal only; elsewhere: --json --logprobs")
    elif delivery.is_streamed:
        console.draw(LEGEND)
    return ALTERNATIVES if choice.logprobs else 0


def response_format_from(
    shape_options: ShapeOptions, choice_options: ChoiceOptions, *, is_stdin_taken: bool
) -> tuple[ResponseFormat | None, ClassificationTask | None]:
    """What the answer has to be: of a shape, one of some choices, or neither. Raises `SlmError` (USAGE)."""
    choosing = classification_task_of(choice_options)
    shape = structured.response_format_of(shape_options, is_stdin_taken=is_stdin_taken)
    if choosing is not None and shape is not None:
        raise SlmError("an answer cannot be one of --choices and of a shape.", exit_code=ExitCode.USAGE)
    if choosing is not None and choice_options.logprobs:
        raise SlmError("--choices have probabilities of their own, without --logprobs.", exit_code=ExitCode.USAGE)
    return shape, choosing


def _answered(
    asker: Generator, request: PreparedPrompt, sampler: SamplerSettings, limits: Limits, shown_on: "_Shown"
) -> tuple[Response, dict[str, object]]:
    """The answer, and what `--json` says besides."""
    if request.choosing is None:
        answer, value = asker.ask(request, sampler, limits, shown_on)
        shaped: dict[str, object] = {"value": value} if request.shape else {}
        if limits.n_alternatives:
            shaped["logprobs"] = response.logprob_fields(answer.chances)
        return answer, shaped
    found = asker.choose(request, loader.cancelled_by_ctrl_c)
    if found is None:
        usage, timings = Usage(request.n_prompt, 0, 0), Timings(0.0, 0.0, None)
        return Response(finish=Finish(FinishReason.INTERRUPTED, usage, timings, 0, None)), {}
    verdict, finish = found
    shown_on.tell(verdict)
    return Response(verdict.choice, finish=finish), {"probabilities": verdict.probabilities}


class _Shown:
    """The answer on stdout, and Ctrl-C. Implements `GenerationDelegate`.

    A shaped answer is shown while it comes only on a terminal: what reads a pipe gets it whole and right, or nothing.
    A choice comes at once.
    """

    def __init__(self, console: Console, delivery: OutputWriter, *, is_growing: bool, shows_doubt: bool) -> None:
        """`is_growing`: the answer may be shown while it comes."""
        self._console = console
        self._delivery = delivery
        self._shows_doubt = shows_doubt
        self.is_shown = delivery.is_streamed and is_growing

    def view(self) -> PlainView:
        return PlainView(
            self._console,
            is_silent=not self.is_shown,
            shows_doubt=self._shows_doubt,
            is_raw=self._delivery.is_raw_output,
        )

    def sanitizer(self) -> Sanitizer | None:
        return self._delivery.sanitizer()

    def cancellable(self, session: Session) -> AbstractContextManager[None]:
        return loader.cancelled_by_ctrl_c(session)

    def tell(self, verdict: Classification) -> None:
        """How probable each choice is, for `-v`."""
        self._console.detail(", ".join(f"{text} {share:.3f}" for text, share in verdict.probabilities.items()))

    def on_retry(self, error: SlmError) -> None:
        self._console.write("\n" if self.is_shown else "")
        self._console.warn(f"{error.message.rstrip('.')}; trying once more, with more room.")


def overflow_choice(options: GenerationOptions) -> str:
    """What to do with a prompt that does not fit: "fail" or "trim"."""
    if options.on_overflow not in (None, "fail", "trim"):
        raise SlmError(
            f"--on-overflow cannot be '{options.on_overflow}'.", hint="fail or trim", exit_code=ExitCode.USAGE
        )
    return options.on_overflow or "fail"


def _room(request: PreparedPrompt, options: GenerationOptions) -> int:
    """Tokens that the window has to hold behind the prompt."""
    if request.choosing is not None:
        return CHOICE_ROOM
    return structured.room_for(options.max_tokens) if request.shape else options.max_tokens or COMPLETION_ROOM


def _window(n_prompt: int, room: int, engine: Engine, options: GenerationOptions, settings: Settings) -> int:
    """A context window of the size asked for, else just large enough for this prompt and its completion."""
    if not engine.info.has_exact_counts:
        return engine.info.trained_context_length  # it has the window that it has
    asked = options.ctx or settings.n_ctx
    if asked:
        return asked
    needed = n_prompt + max(room, window.MIN_COMPLETION_TOKENS)
    return min(engine.info.trained_context_length, -(-needed // _CTX_STEP) * _CTX_STEP)


def as_json(model: Model, answer: Response, load_s: float) -> dict[str, object]:
    """The object of `--json`: docs/commands.md has its keys."""
    finish = answer.finish
    assert finish is not None
    usage, timings = finish.usage, finish.timings
    evaluated = usage.prompt_tokens - usage.cached_tokens
    rate = response.generation_tps(finish)
    return {
        "model": model.key,
        "completion": answer.text,
        **({"thinking": answer.thinking} if answer.thinking else {}),
        "finish_reason": finish.reason.value,
        "usage": response.usage_fields(usage),
        "timings": {
            "load_s": round(load_s, 4),
            "prompt_s": round(timings.prompt_s, 4),
            "generation_s": round(timings.generation_s, 4),
            "prompt_tps": round(evaluated / timings.prompt_s, 2) if timings.prompt_s else None,
            "generation_tps": None if rate is None else round(rate, 2),
            "ttft_s": None if timings.ttft_s is None else round(timings.ttft_s, 4),
        },
        "seed": finish.seed,
    }


def exit_code(reason: FinishReason, console: Console, n_ctx: int, n_trained: int) -> ExitCode:
    """The exit code of a completion that ended so; warns when the context window was full, with what to do.

    `n_ctx`: the window in tokens (0: not told); `n_trained`: what the model was trained for.
    """
    if reason is FinishReason.INTERRUPTED:
        return ExitCode.INTERRUPTED
    if reason is FinishReason.CONTEXT:
        larger = min(n_trained, 2 * n_ctx)
        way = f"twice as much: --ctx {larger}" if larger == 2 * n_ctx else f"the most for this model: --ctx {larger}"
        way = way if larger > n_ctx else f"the model was trained for {n_trained:,}; a shorter input leaves more"
        size = f"context window of {n_ctx:,} tokens ({way})" if n_ctx else "context window"
        console.warn(f"the completion ran into the end of the {size}.")
        return ExitCode.CONTEXT
    return ExitCode.DONE
