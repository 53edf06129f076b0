"""`slm run`: one prompt, one completion on stdout.

The story: read the prompt while the model loads, lay it out through the chat template, make a context window of the
size that it needs, show what comes, and leave with an exit code that a script can trust.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from slmchat.catalog.library import Library
from slmchat.catalog.records import Installed
from slmchat.commands import answering, opening, picture_files
from slmchat.commands.options import GenerationOptions
from slmchat.conversation import pictures, window
from slmchat.conversation.attachments import Attachment, compose, trim
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.pictures import Picture
from slmchat.conversation.template import ChatTemplate, raw_prompt
from slmchat.conversation.thinking import opens_thinking
from slmchat.engine.api import Engine, Finish, FinishReason, Prompt
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
    installed = picture_files.with_projector(opening.find(options.model, settings, console), options.mmproj)
    sampler = opening.sampler_settings(installed, settings, options)
    draft = opening.draft_model(options, settings, console)
    loading = opening.start_loading(installed, options, settings)
    attachments, shown = _inputs(options, console)
    if shown:
        picture_files.check_sees(installed, settings)
    question = _Question(" ".join(words), attachments, _head(options, settings), options.raw, shown)
    engine = loading.engine()
    opening.report_native_log(console)
    prompt = _prompt(question, engine)
    with loading.on_trial():  # the first picture opens the projector
        for line in picture_files.describe(shown, engine):
            console.note(line)
        n_prompt = engine.count(prompt)
    wanted = _window(n_prompt, engine, options, settings)
    n_ctx = opening.window(loading, wanted, options, least=None if options.ctx else n_prompt + 1) or wanted
    opening.tell_of_small_window(n_ctx, wanted, console)
    if not window.fits(n_prompt, n_ctx):
        if on_overflow == "fail":
            raise _too_long(n_prompt, n_ctx, engine.info.trained_context_length)
        prompt = _trimmed(question, engine, n_ctx, n_prompt, console)
    made = opening.session_settings(options, settings, n_ctx, opening.kv_store(settings), draft, installed.path)
    with loading.on_trial():
        session = engine.open_session(replace(made, goes_back=False))
    load_s = time.perf_counter() - start
    console.detail(f"context window: {n_ctx:,} tokens; loaded after {load_s:.2f} s")
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

    def __init__(
        self,
        instruction: str,
        attachments: list[Attachment],
        head: list[Message],
        is_raw: bool,
        shown: Sequence[Picture] = (),
    ) -> None:
        """`head`: the system message and the examples of a persona, which stand before the question."""
        self.instruction = instruction
        self.attachments = attachments
        self.head = head
        self.is_raw = is_raw
        self.pictures = tuple(shown)
        if not self.text(attachments).strip():
            raise SlmError(
                "the prompt is empty.",
                hint='slm run -f PICTURE "What does it show?"'
                if shown
                else 'slm run "Why is the sky blue?", or pipe text into it',
                exit_code=ExitCode.USAGE,
            )

    def text(self, attachments: Sequence[Attachment]) -> str:
        return compose(self.instruction, attachments)


def _inputs(options: GenerationOptions, console: Console) -> tuple[list[Attachment], list[Picture]]:
    """Files in the order given, then what is piped in. Standard input is read once, and only when it is no terminal."""
    found: list[Attachment] = []
    shown: list[Picture] = []
    is_stdin_read = False
    for name in options.files:
        path = Path(name).expanduser()
        if name == "-":
            is_stdin_read = True
            _take_piped(found, shown, is_named=True)
        elif pictures.is_picture(path):
            shown.append(pictures.read(path))
        else:
            found.append(Attachment(read_text(name), path.name))
    if not is_stdin_read and not console.stdin.isatty():
        _take_piped(found, shown, is_named=False)
    return found, shown


def _take_piped(found: list[Attachment], shown: list[Picture], *, is_named: bool) -> None:
    """Standard input, a picture or text. `is_named`: asked for with `-f -`, so that it counts even when it is empty."""
    data = sys.stdin.buffer.read()
    if pictures.looks_like_picture(data):
        shown.append(Picture.of("standard input", pictures.decode(data, "standard input")))
        return
    text = _decoded(data, "standard input")
    if is_named or text.strip():
        found.append(Attachment(text))


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
    attachments = question.attachments if attachments is None else attachments
    prompt = _rendered(question, engine, question.text(attachments))
    others = _alike(question.instruction, attachments, has_head=bool(question.head))
    return replace(prompt, alike=tuple(_rendered(question, engine, text) for text in others))


def _rendered(question: _Question, engine: Engine, text: str) -> Prompt:
    if question.is_raw:
        whole = "\n\n".join([*(message.text for message in question.head), text])
        return raw_prompt([Message(Role.USER, whole, pictures=question.pictures)])
    info = engine.info
    template = ChatTemplate(info.chat_template, bos_text=info.bos_text, eos_text=info.eos_text)
    return template.render([*question.head, Message(Role.USER, text, pictures=question.pictures)])


def _alike(instruction: str, attachments: Sequence[Attachment], *, has_head: bool) -> Iterator[str]:
    """What may be asked next: something else of the same system message, another question about the same input, the
    same about another input."""
    if has_head:
        yield opening.OTHER
    if attachments and "{}" in instruction:
        yield compose(instruction, [Attachment(opening.OTHER)])
    elif attachments and instruction:
        yield compose(opening.OTHER, attachments)


def _window(n_prompt: int, engine: Engine, options: GenerationOptions, settings: Settings) -> int:
    """A context window of the size asked for, else just large enough for this prompt and its completion."""
    asked = options.ctx or settings.n_ctx
    if asked:
        return asked
    needed = n_prompt + max(options.max_tokens or _COMPLETION_ROOM, window.MIN_COMPLETION_TOKENS)
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
