"""`slm run`: one prompt, one completion on stdout.

The story: read the prompt while the model loads, lay it out through the chat template, make a context window of the
size that it needs, show what comes, and leave with an exit code that a script can trust.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from slmchat.commands import answering, chosen, opening, shaping
from slmchat.commands import choosing as choose
from slmchat.commands.choosing import Choosing
from slmchat.commands.chosen import Model
from slmchat.commands.options import ChoiceOptions, GenerationOptions, RunOptions, ShapeOptions
from slmchat.commands.shaping import Shape
from slmchat.conversation import window
from slmchat.conversation.attachments import Attachment, compose, trim
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.template import layout_of
from slmchat.conversation.thinking import opens_thinking
from slmchat.engine.api import Engine, Finish, FinishReason, Job, Limits, Part, Prompt, Session, SessionSettings
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.settings import Settings
from slmchat.terminal.answer_view import PlainView
from slmchat.terminal.console import Console
from slmchat.terminal.doubt import LEGEND

Layout = Callable[[Sequence[Message]], Prompt]

# Room for a completion without -n, in tokens, and the step in which context windows are made.
_COMPLETION_ROOM = 2048
_CTX_STEP = 256


def run(
    words: Sequence[str],
    options: GenerationOptions,
    wanted: tuple[ShapeOptions, ChoiceOptions],
    settings: Settings,
    console: Console,
    *,
    output: RunOptions,
) -> ExitCode:
    """Answer one prompt; `wanted`: what the answer has to be. Raises `SlmError`; the exit code tells how it ended."""
    start = time.perf_counter()
    is_json = output.json
    on_overflow = overflow_choice(options)
    options = opening.with_persona(options, settings)
    n_alternatives = _alternatives(wanted[1], output, console)
    place = chosen.enter(options, settings, console)
    shape, choosing = wanted_of(*wanted, is_stdin_taken="-" in options.files)
    model = place.find(options.model, settings, console)
    sampler = opening.sampler_settings(model, settings, options)
    loading = model.start(options, settings)
    question = _Question(" ".join(words), _attachments(words, options, console), head_messages(options, settings))
    engine = loading.engine()
    model.report(console)
    lay_out = layout(engine, is_raw=options.raw, told=(shape or choosing))
    prompt = question.prompt(lay_out)
    n_prompt = engine.count(prompt)
    room = shaping.room_for(options.max_tokens) if shape else options.max_tokens or _COMPLETION_ROOM
    room = choose.ROOM if choosing else room
    n_ctx = _window(n_prompt, room, engine, options, settings)
    if not window.fits(n_prompt, n_ctx):
        if on_overflow == "trim":
            prompt = _trimmed(question, engine, lay_out, n_ctx, console)
        elif engine.info.has_exact_counts:  # else it is the engine that knows, and says so
            raise _too_long(n_prompt, n_ctx, engine.info.trained_context_length)
    if choosing is not None:
        opened = _Opened(model, engine, loading, opening.session_settings(options, settings, n_ctx), start)
        empty = [question.without_input(lay_out, text) for text in choose.CONTENT_FREE]
        return _chosen(choosing, opened, prompt, empty, console, is_json=is_json)
    with loading.on_trial():
        session = engine.open_session(opening.session_settings(options, settings, n_ctx))
    load_s = time.perf_counter() - start
    console.detail(f"context window: {f'{n_ctx:,} tokens' if n_ctx else 'not told'}; loaded after {load_s:.2f} s")
    asking = _Asking(session, prompt, options, loading, console, is_shaped=shape is not None, output=output)
    limits = opening.limits(options, n_alternatives)
    value: object = None
    if shape is None:
        answer = asking.once(sampler, limits)
    else:
        answer, value = shaping.satisfied(shape, sampler, limits, asking.once, on_retry=asking.warn)
    assert answer.finish is not None
    if n_alternatives is not None and answer.finish.usage.completion_tokens and not answer.chances:
        console.warn(f"{model.label} does not tell the probabilities of its tokens.")
    if is_json:
        shaped: dict[str, object] = {"value": value} if shape else {}
        if n_alternatives is not None:
            shaped["logprobs"] = answering.chance_fields(answer.chances)
        console.print_json({**_as_json(model, answer.text, answer.finish, load_s), **shaped})
    elif asking.is_shown or answer.finish.reason is not FinishReason.INTERRUPTED:  # half a value is none
        console.write("" if asking.is_shown else answer.text)
        console.write("" if answer.text.endswith("\n") else "\n")
    console.detail(answering.describe(answer.finish))
    if not settings.is_private:
        model.remember(settings)
    session.close()
    engine.close()
    return _exit_code(answer.finish.reason, console, n_ctx)


# How many of the most probable tokens stand beside each one (`--logprobs`).
ALTERNATIVES = 5


def _alternatives(choice: ChoiceOptions, output: RunOptions, console: Console) -> int | None:
    """How many alternatives of each token are wanted; None: no chances at all. Raises `SlmError` (USAGE)."""
    if choice.logprobs and not output.json:
        raise SlmError(
            "--logprobs are part of --json.", hint="--json --logprobs; or --confidence", exit_code=ExitCode.USAGE
        )
    if not output.confidence:
        return ALTERNATIVES if choice.logprobs else None
    if not console.is_stdout_tty or console.is_dumb:
        console.note("--confidence underlines on a terminal only; elsewhere: --json --logprobs")
    elif not output.json:
        console.stderr.write(f"{LEGEND}\n" if console.is_stderr_tty and not console.is_quiet else "")
    return ALTERNATIVES if choice.logprobs else 0


def wanted_of(
    shape_options: ShapeOptions, choice_options: ChoiceOptions, *, is_stdin_taken: bool
) -> tuple[Shape | None, Choosing | None]:
    """What the answer has to be: of a shape, one of some choices, or neither. Raises `SlmError` (USAGE)."""
    choosing = choose.choosing_of(choice_options)
    shape = shaping.shape_of(shape_options, is_stdin_taken=is_stdin_taken)
    if choosing is not None and shape is not None:
        raise SlmError("an answer cannot be one of --choices and of a shape.", exit_code=ExitCode.USAGE)
    if choosing is not None and choice_options.logprobs:
        raise SlmError("--choices have probabilities of their own, without --logprobs.", exit_code=ExitCode.USAGE)
    return shape, choosing


@dataclass(frozen=True, slots=True)
class _Opened:
    """A model that is loaded; `start`: when the command began (time.perf_counter)."""

    model: Model
    engine: Engine
    loading: opening.Loading
    settings: SessionSettings
    start: float


def _chosen(
    choosing: Choosing, opened: _Opened, prompt: Prompt, empty: Sequence[Prompt], console: Console, *, is_json: bool
) -> ExitCode:
    """Answer with one of the choices. Raises `SlmError`."""
    with opened.loading.on_trial():
        pool = opened.engine.open_scorer(opened.settings)
    load_s = time.perf_counter() - opened.start
    done = None
    with opening.cancelled_by_ctrl_c(pool):
        prior = choose.prior_of(choosing, pool, empty)
        is_going = prior is not None or not choosing.is_calibrated
        jobs = iter([Job(0, prompt, choices=choosing.choices(prompt))] if is_going else [])
        for done in opened.loading.tried(pool.run(jobs)):
            if done.error is not None:
                raise done.error
    pool.close()
    opened.engine.close()
    if done is None or done.finish is None:
        return ExitCode.INTERRUPTED
    verdict = choosing.verdict(done.scores, prior)
    if is_json:
        fields = _as_json(opened.model, verdict.choice, done.finish, load_s)
        console.print_json({**fields, "probabilities": verdict.probabilities})
    else:
        console.write(f"{verdict.choice}\n")
    shares = (f"{text} {share:.3f}" for text, share in verdict.probabilities.items())
    console.detail(f"{', '.join(shares)}; {answering.describe(done.finish)}")
    return ExitCode.DONE


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
        *,
        is_shaped: bool,
        output: RunOptions,
    ) -> None:
        self._session = session
        self._prompt = prompt
        self._options = options
        self._loading = loading
        self._console = console
        self._is_shaped = is_shaped
        self._shows_doubt = output.confidence and console.is_stdout_tty and not console.is_dumb
        self.is_shown = not output.json and (not is_shaped or console.stdout.isatty())

    def once(self, sampler: SamplerSettings, limits: Limits) -> answering.Answer:
        """One generation, followed to its end."""
        # before the handler: what it cancels must have begun
        events = self._loading.tried(self._session.generate(self._prompt, sampler, limits))
        with opening.cancelled_by_ctrl_c(self._session):
            return answering.follow(
                events,
                PlainView(self._console, is_silent=not self.is_shown, shows_doubt=self._shows_doubt),
                sanitizer=None if self._options.raw_output else self._console.sanitizer(),
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


class _Question:
    """What was asked, before it becomes a prompt."""

    def __init__(self, instruction: str, attachments: list[Attachment], head: list[Message]) -> None:
        """`head`: the system message and the examples of a persona, which stand before the question."""
        self.instruction = instruction
        self.attachments = attachments
        self.head = head
        if not self.text(attachments).strip():
            raise SlmError(
                "the prompt is empty.",
                hint='slm run "Why is the sky blue?", or pipe text into it',
                exit_code=ExitCode.USAGE,
            )

    def text(self, attachments: Sequence[Attachment]) -> str:
        return compose(self.instruction, attachments)

    def without_input(self, lay_out: Layout, text: str) -> Prompt:
        """The prompt with this text instead of its input: every attachment, or the question where there is none."""
        if not self.attachments:
            return lay_out([*self.head, Message(Role.USER, text)])
        return self.prompt(lay_out, [replace(item, text=text) for item in self.attachments])

    def prompt(self, lay_out: Layout, attachments: Sequence[Attachment] | None = None) -> Prompt:
        """The prompt with these attachments; None: with all of them."""
        text = self.text(self.attachments if attachments is None else attachments)
        return lay_out([*self.head, Message(Role.USER, text)])


def _attachments(words: Sequence[str], options: GenerationOptions, console: Console) -> list[Attachment]:
    """Files in the order given, then what is piped in. Standard input is read once, and only when it is no terminal."""
    found: list[Attachment] = []
    is_stdin_read = False
    for name in options.files:
        if name == "-":
            is_stdin_read = True
            found.append(Attachment(_decoded(sys.stdin.buffer.read(), "standard input")))
        else:
            found.append(Attachment(read_text(name), Path(name).name))
    if not is_stdin_read and not console.stdin.isatty():
        piped = _decoded(sys.stdin.buffer.read(), "standard input")
        if piped.strip():
            found.append(Attachment(piped))
    return found


def head_messages(options: GenerationOptions, settings: Settings) -> list[Message]:
    """What stands before the question: the system message, and the examples of a persona."""
    system = system_text(options.system)
    examples = opening.example_messages(opening.persona_of(options, settings))
    return [*([Message(Role.SYSTEM, system)] if system else []), *examples]


def read_text(name: str) -> str:
    """A text file of the user's; `SlmError` (USAGE) when it cannot be read as one."""
    try:
        return _decoded(Path(name).expanduser().read_bytes(), name)
    except OSError as error:
        raise SlmError(f"{name} cannot be read: {error.strerror}.", exit_code=ExitCode.USAGE) from error


def system_text(given: str | None) -> str | None:
    """The system message of `-s`: the text itself, or what @FILE holds."""
    return read_text(given[1:]).strip() if given and given.startswith("@") and len(given) > 1 else given


def _decoded(data: bytes, what: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SlmError(
            f"{what} is not UTF-8 text (byte 0x{data[error.start]:02x} at position {error.start:,}).",
            hint="convert it first, for example: iconv -f latin1 -t utf-8",
            exit_code=ExitCode.USAGE,
        ) from error
    if "\0" in text:
        raise SlmError(f"{what} is a binary file, not text.", exit_code=ExitCode.USAGE)
    return text.replace("\r\n", "\n")


class Told(Protocol):
    """What the model is told of the answer that is wanted."""

    def told(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with it."""
        ...


def layout(engine: Engine, *, is_raw: bool, told: Told | None = None) -> Layout:
    """How messages become a prompt: through the model's chat template, by the engine itself, or bare.

    What the model is `told` stands last, behind everything of the user's (not in a bare prompt).
    Raises `SlmError` (USAGE) when the model has no template; what is returned raises it (DAMAGED) when the template
    refuses the messages.
    """
    if is_raw:
        return lambda messages: Prompt((Part("\n\n".join(message.text for message in messages)),))
    render = layout_of(engine.info, is_raw=False).render
    if told is None:
        return render
    return lambda messages: shaping.thought_closed(render(told.told(messages)))


def _window(n_prompt: int, room: int, engine: Engine, options: GenerationOptions, settings: Settings) -> int:
    """A context window of the size asked for, else just large enough for this prompt and its completion."""
    if not engine.info.has_exact_counts:
        return engine.info.trained_context_length  # it has the window that it has
    asked = options.ctx or settings.n_ctx
    if asked:
        return asked
    needed = n_prompt + room
    return min(engine.info.trained_context_length, -(-needed // _CTX_STEP) * _CTX_STEP)


def _too_long(n_prompt: int, n_ctx: int, n_trained: int) -> SlmError:
    larger = f"a larger one: --ctx {n_prompt + _COMPLETION_ROOM}" if n_prompt < n_trained else None
    return SlmError(
        f"the prompt is {n_prompt:,} tokens and the context window holds {n_ctx:,}"
        + ("." if larger else f"; this model was trained for {n_trained:,}."),
        hint=f"{larger or 'a shorter input'}; or leave out the end of the input: --on-overflow trim",
        exit_code=ExitCode.CONTEXT,
    )


def _trimmed(question: _Question, engine: Engine, lay_out: Layout, n_ctx: int, console: Console) -> Prompt:
    """The prompt with the end of the longest input cut off; says what was cut."""
    n_prompt = engine.count(question.prompt(lay_out))

    def fits(attachments: Sequence[Attachment]) -> bool:
        return window.fits(engine.count(question.prompt(lay_out, attachments)), n_ctx)

    kept = trim(question.attachments, fits)
    if kept is None:
        raise SlmError(
            f"the prompt is {n_prompt:,} tokens, the context window holds {n_ctx:,}, and there is no input to trim.",
            hint="a larger window: --ctx N, or a shorter prompt",
            exit_code=ExitCode.CONTEXT,
        )
    before = sum(len(item.text) for item in question.attachments)
    after = sum(len(item.text) for item in kept)
    console.warn(
        f"the prompt is {n_prompt:,} tokens and the context window holds {n_ctx:,}: "
        f"the last {before - after:,} of {before:,} characters of the input were left out."
    )
    return question.prompt(lay_out, kept)


def _as_json(model: Model, completion: str, finish: Finish, load_s: float) -> dict[str, object]:
    usage, timings = finish.usage, finish.timings
    evaluated = usage.prompt_tokens - usage.cached_tokens
    return {
        "model": model.key,
        "completion": completion,
        "finish_reason": finish.reason.value,
        "usage": answering.usage_fields(usage),
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
