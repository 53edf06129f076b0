"""`slm run`: one prompt, one completion on stdout.

The story: read the prompt while the model loads, lay it out through the chat template, make a context window of the
size that it needs, show what comes, and leave with an exit code that a script can trust.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from slmchat.catalog.library import Library
from slmchat.catalog.records import Installed
from slmchat.commands import adapters, answering, opening
from slmchat.commands.options import GenerationOptions
from slmchat.conversation import window
from slmchat.conversation.attachments import Attachment, compose, trim
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.template import ChatTemplate
from slmchat.conversation.thinking import opens_thinking
from slmchat.engine.api import Engine, Finish, FinishReason, Part, Prompt
from slmchat.errors import ExitCode, SlmError
from slmchat.settings import Settings
from slmchat.terminal.answer_view import PlainView
from slmchat.terminal.console import Console

# Room for a completion without -n, in tokens, and the step in which context windows are made.
_COMPLETION_ROOM = 2048
_CTX_STEP = 256


def run(
    words: Sequence[str], options: GenerationOptions, settings: Settings, console: Console, *, is_json: bool
) -> ExitCode:
    """Answer one prompt. Raises `SlmError`; the exit code tells how the completion ended."""
    start = time.perf_counter()
    on_overflow = overflow_choice(options)
    options = opening.with_persona(options, settings)
    opening.seal(settings)
    installed = opening.find(options.model, settings, console)
    sampler = opening.sampler_settings(installed, settings, options)
    laid = adapters.laid(installed, options.lora, settings)
    loading = opening.start_loading(installed, options, settings)
    question = _Question(" ".join(words), _attachments(words, options, console), _head(options, settings), options.raw)
    engine = loading.engine()
    opening.report_native_log(console)
    prompt = _prompt(question, engine)
    n_prompt = engine.count(prompt)
    n_ctx = _window(n_prompt, engine, options, settings)
    if not window.fits(n_prompt, n_ctx):
        if on_overflow == "fail":
            raise _too_long(n_prompt, n_ctx, engine.info.trained_context_length)
        prompt = _trimmed(question, engine, n_ctx, n_prompt, console)
    with loading.on_trial():
        made = opening.session_settings(options, settings, n_ctx)
        session = engine.open_session(replace(made, adapters=laid))
    load_s = time.perf_counter() - start
    console.detail(f"context window: {n_ctx:,} tokens; loaded after {load_s:.2f} s")
    if laid:
        console.detail(f"adapters: {adapters.labels(laid)}")
    limits = opening.limits(options)
    # before the handler: what it cancels must have begun
    events = loading.tried(session.generate(prompt, sampler, limits))
    with opening.cancelled_by_ctrl_c(session):
        answer = answering.follow(
            events,
            PlainView(console, is_silent=is_json),
            sanitizer=None if options.raw_output else console.sanitizer(),
            keeps_space=options.raw,
            is_thinking=opens_thinking(prompt.parts[-1].text),
        )
    assert answer.finish is not None
    if is_json:
        console.print_json(_as_json(installed, answer.text, answer.finish, load_s))
    elif not answer.text.endswith("\n"):
        console.write("\n")
    console.detail(answering.describe(answer.finish))
    if not settings.is_private:
        Library(settings.paths).remember(installed.key)
    session.close()
    engine.close()
    return _exit_code(answer.finish.reason, console, n_ctx)


def overflow_choice(options: GenerationOptions) -> str:
    """What to do with a prompt that does not fit: "fail" or "trim"."""
    if options.on_overflow not in (None, "fail", "trim"):
        raise SlmError(
            f"--on-overflow cannot be '{options.on_overflow}'.", hint="fail or trim", exit_code=ExitCode.USAGE
        )
    return options.on_overflow or "fail"


class _Question:
    """What was asked, before it becomes a prompt."""

    def __init__(self, instruction: str, attachments: list[Attachment], head: list[Message], is_raw: bool) -> None:
        """`head`: the system message and the examples of a persona, which stand before the question."""
        self.instruction = instruction
        self.attachments = attachments
        self.head = head
        self.is_raw = is_raw
        if not self.text(attachments).strip():
            raise SlmError(
                "the prompt is empty.",
                hint='slm run "Why is the sky blue?", or pipe text into it',
                exit_code=ExitCode.USAGE,
            )

    def text(self, attachments: Sequence[Attachment]) -> str:
        return compose(self.instruction, attachments)


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


def _head(options: GenerationOptions, settings: Settings) -> list[Message]:
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


def _prompt(question: _Question, engine: Engine, attachments: Sequence[Attachment] | None = None) -> Prompt:
    text = question.text(question.attachments if attachments is None else attachments)
    if question.is_raw:
        return Prompt((Part("\n\n".join([*(message.text for message in question.head), text])),))
    info = engine.info
    template = ChatTemplate(info.chat_template, bos_text=info.bos_text, eos_text=info.eos_text)
    return template.render([*question.head, Message(Role.USER, text)])


def _window(n_prompt: int, engine: Engine, options: GenerationOptions, settings: Settings) -> int:
    """A context window of the size asked for, else just large enough for this prompt and its completion."""
    asked = options.ctx or settings.n_ctx
    if asked:
        return asked
    needed = n_prompt + (options.max_tokens or _COMPLETION_ROOM)
    return min(engine.info.trained_context_length, -(-needed // _CTX_STEP) * _CTX_STEP)


def _too_long(n_prompt: int, n_ctx: int, n_trained: int) -> SlmError:
    larger = f"a larger one: --ctx {n_prompt + _COMPLETION_ROOM}" if n_prompt < n_trained else None
    return SlmError(
        f"the prompt is {n_prompt:,} tokens and the context window holds {n_ctx:,}"
        + ("." if larger else f"; this model was trained for {n_trained:,}."),
        hint=f"{larger or 'a shorter input'}; or leave out the end of the input: --on-overflow trim",
        exit_code=ExitCode.CONTEXT,
    )


def _trimmed(question: _Question, engine: Engine, n_ctx: int, n_prompt: int, console: Console) -> Prompt:
    """The prompt with the end of the longest input cut off; says what was cut."""

    def fits(attachments: Sequence[Attachment]) -> bool:
        return window.fits(engine.count(_prompt(question, engine, attachments)), n_ctx)

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
    return _prompt(question, engine, kept)


def _as_json(installed: Installed, completion: str, finish: Finish, load_s: float) -> dict[str, object]:
    usage, timings = finish.usage, finish.timings
    evaluated = usage.prompt_tokens - usage.cached_tokens
    return {
        "model": installed.key,
        "completion": completion,
        "finish_reason": finish.reason.value,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
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
        console.warn(
            f"the completion ran into the end of the context window of {n_ctx:,} tokens (a larger one: --ctx N)."
        )
        return ExitCode.CONTEXT
    return ExitCode.DONE
