"""`slm run`: one prompt, one completion on stdout.

The story: read the prompt while the model loads, lay it out through the chat template, make a context window of the
size that it needs, show what comes, and leave with an exit code that a script can trust.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

from slmchat.commands import answering, chosen, opening, picture_files, shaping
from slmchat.commands.chosen import Model
from slmchat.commands.delivery import Delivery
from slmchat.commands.options import GenerationOptions, OutputOptions, ShapeOptions, TemplateOptions
from slmchat.commands.prompt_files import prompt_file
from slmchat.commands.question import Question, head_messages, layout, read_inputs, read_text
from slmchat.conversation import window
from slmchat.conversation.thinking import opens_thinking
from slmchat.engine.api import Engine, Finish, FinishReason, Limits, Prompt, Session
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.settings import Settings
from slmchat.terminal.answer_view import PlainView
from slmchat.terminal.console import Console

# Room for a completion without -n, in tokens, and the step in which context windows are made.
_COMPLETION_ROOM = 2048
_CTX_STEP = 256


def run(
    words: Sequence[str],
    options: GenerationOptions,
    shape_options: ShapeOptions,
    output: OutputOptions,
    template_options: TemplateOptions,
    settings: Settings,
    console: Console,
) -> ExitCode:
    """Answer one prompt. Raises `SlmError`; the exit code tells how the completion ended."""
    start = time.perf_counter()
    on_overflow = overflow_choice(options)
    options = opening.with_persona(options, settings)
    is_shaped = shape_options != ShapeOptions()
    delivery = Delivery(output, console, is_shaped=is_shaped, is_raw_output=options.raw_output)
    place = chosen.enter(options, settings, console, delivery.places)
    template = prompt_file(template_options, words, read_text)
    shape = shaping.shape_of(shape_options, is_stdin_taken="-" in options.files)
    model = place.find(options.model, settings, console).with_projector(options.mmproj)
    sampler = opening.sampler_settings(model, settings, options)
    draft = opening.draft_model(options, settings, console)
    loading = model.start(options, settings)
    attachments, shown = read_inputs(options, console)
    if shown:
        model.check_sees(settings)
    question = Question(" ".join(words), attachments, head_messages(options, settings), shown, template)
    engine = loading.engine()
    model.report(console)
    lay_out = layout(engine, is_raw=options.raw, shape=shape)
    prompt = question.prompt(lay_out)
    with loading.on_trial():  # the first picture opens the projector
        for line in picture_files.describe(shown, engine):
            console.note(line)
        n_prompt = engine.count(prompt)
    room = shaping.room_for(options.max_tokens) if shape else options.max_tokens or _COMPLETION_ROOM
    wanted = _window(n_prompt, room, engine, options, settings)
    n_ctx = opening.window(loading, wanted, options, least=None if options.ctx else n_prompt + 1) or wanted
    if not window.fits(n_prompt, n_ctx):
        if on_overflow == "trim":
            prompt = question.trimmed(lay_out, engine, n_ctx, console)
        elif engine.info.has_exact_counts:  # else it is the engine that knows, and says so
            raise _too_long(n_prompt, n_ctx, engine.info.trained_context_length)
    made = opening.session_settings(options, settings, n_ctx, opening.kv_store(settings), draft)
    with loading.on_trial():
        session = engine.open_session(replace(made, goes_back=shape is not None))
    load_s = time.perf_counter() - start
    console.detail(f"context window: {f'{n_ctx:,} tokens' if n_ctx else 'not told'}; loaded after {load_s:.2f} s")
    asking = _Asking(session, prompt, options, loading, console, delivery, is_shaped=is_shaped)
    limits = opening.limits(options)
    value: object = None
    if shape is None:
        answer = asking.once(sampler, limits)
    else:
        answer, value = shaping.satisfied(shape, sampler, limits, asking.once, on_retry=asking.warn)
    assert answer.finish is not None
    if asking.is_shown:
        console.write("" if answer.text.endswith("\n") else "\n")
    else:
        shaped = {"value": value} if shape else {}
        record = {**_as_json(model, answer.text, answer.finish, load_s), **shaped}
        delivery.give(answer, record, is_half_nothing=is_shaped)
    console.detail(answering.describe(answer.finish))
    if not settings.is_private:
        model.remember(settings)
    session.close()
    engine.close()
    return _exit_code(answer.finish.reason, console, n_ctx)


class _Asking:
    """One prompt, asked as often as it takes.

    A shaped answer is shown while it comes only on a terminal: what reads a pipe gets it whole and right, or nothing.
    """

    def __init__(
        self,
        session: Session,
        prompt: Prompt,
        options: GenerationOptions,
        loading: opening.Loading,
        console: Console,
        delivery: Delivery,
        *,
        is_shaped: bool,
    ) -> None:
        self._session = session
        self._prompt = prompt
        self._options = options
        self._loading = loading
        self._console = console
        self._delivery = delivery
        self._is_shaped = is_shaped
        self.is_shown = delivery.is_streamed and (not is_shaped or console.stdout.isatty())

    def once(self, sampler: SamplerSettings, limits: Limits) -> answering.Answer:
        """One generation, followed to its end."""
        # before the handler: what it cancels must have begun
        events = self._loading.tried(self._session.generate(self._prompt, sampler, limits))
        with opening.cancelled_by_ctrl_c(self._session):
            return answering.follow(
                events,
                PlainView(self._console, is_silent=not self.is_shown),
                sanitizer=self._delivery.sanitizer(),
                keeps_space=self._options.raw or self._is_shaped,
                is_thinking=opens_thinking(self._prompt.parts[-1].text),
            )

    def warn(self, error: SlmError) -> None:
        """The first answer is not of the shape; there will be a second one."""
        self._console.write("\n" if self.is_shown else "")
        self._console.warn(f"{error.message.rstrip('.')}; trying once more, with more room.")


def overflow_choice(options: GenerationOptions) -> str:
    """What to do with a prompt that does not fit: "fail" or "trim"."""
    if options.on_overflow not in (None, "fail", "trim"):
        raise SlmError(
            f"--on-overflow cannot be '{options.on_overflow}'.", hint="fail or trim", exit_code=ExitCode.USAGE
        )
    return options.on_overflow or "fail"


def _window(n_prompt: int, room: int, engine: Engine, options: GenerationOptions, settings: Settings) -> int:
    """A context window of the size asked for, else just large enough for this prompt and its completion."""
    if not engine.info.has_exact_counts:
        return engine.info.trained_context_length  # it has the window that it has
    asked = options.ctx or settings.n_ctx
    if asked:
        return asked
    needed = n_prompt + max(room, window.MIN_COMPLETION_TOKENS)
    return min(engine.info.trained_context_length, -(-needed // _CTX_STEP) * _CTX_STEP)


def _too_long(n_prompt: int, n_ctx: int, n_trained: int) -> SlmError:
    larger = f"a larger one: --ctx {n_prompt + _COMPLETION_ROOM}" if n_prompt < n_trained else None
    return SlmError(
        f"the prompt is {n_prompt:,} tokens and the context window holds {n_ctx:,}"
        + ("." if larger else f"; this model was trained for {n_trained:,}."),
        hint=f"{larger or 'a shorter input'}; or leave out the end of the input: --on-overflow trim",
        exit_code=ExitCode.CONTEXT,
    )


def _as_json(model: Model, completion: str, finish: Finish, load_s: float) -> dict[str, object]:
    usage, timings = finish.usage, finish.timings
    evaluated = usage.prompt_tokens - usage.cached_tokens
    return {
        "model": model.key,
        "completion": completion,
        "finish_reason": finish.reason.value,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            **({"is_estimate": True} if usage.is_estimate else {}),
        },
        "timings": {
            "load_s": round(load_s, 4),
            "prompt_s": round(timings.prompt_s, 4),
            "generation_s": round(timings.generation_s, 4),
            "prompt_tps": round(evaluated / timings.prompt_s, 2) if timings.prompt_s else None,
            "generation_tps": round(usage.completion_tokens / timings.generation_s, 2)
            if timings.generation_s
            else None,
            "ttft_s": None if timings.ttft_s is None else round(timings.ttft_s, 4),
        },
        "seed": finish.seed,
    }


def _exit_code(reason: FinishReason, console: Console, n_ctx: int) -> ExitCode:
    if reason is FinishReason.INTERRUPTED:
        return ExitCode.INTERRUPTED
    if reason is FinishReason.CONTEXT:
        size = f"context window of {n_ctx:,} tokens (a larger one: --ctx N)" if n_ctx else "context window"
        console.warn(f"the completion ran into the end of the {size}.")
        return ExitCode.CONTEXT
    return ExitCode.DONE
