"""`slm run --infill FILE:LINE[:COL]`: code between two ends, on stdout and, with `--write`, in the file.

The story: find the cursor, cut the file in two there, keep what fits around it, let the model fill the gap, insert it.

Knows: which options make sense together, the names of files inside their project, when a file is written.
Refuses to know: how a gap becomes a prompt (conversation/infill.py), where a place in a file is (places.py).
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from slmchat.catalog import registry
from slmchat.commands.endings import exit_code
from slmchat.commands.infill_target import InfillPlace, InfillTarget, named, place_of, read, read_target, resolved
from slmchat.conversation import infill, window
from slmchat.conversation.infill import Gap, SourceFile
from slmchat.engine.api import Engine, InfillTokens
from slmchat.engine.requests import Limits
from slmchat.engine.results import FinishReason
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.generation.response import completion_of, consume_stream, describe
from slmchat.models.backend import open_backend
from slmchat.models.open import open_model
from slmchat.options import GenerationOptions, InfillOptions
from slmchat.privacy.writable_paths import check_file
from slmchat.privacy.writer import FileWriter
from slmchat.sanitize import Sanitizer
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.terminal.interrupts import cancelled_by_ctrl_c
from slmchat.terminal.plain_view import PlainView
from slmchat.text_files import text_of, with_line_feeds

# Room for a fill without -n, in tokens: some 20 lines. Base models do not always know where to stop.
_FILL_ROOM = 256
# What is read around the cursor without --ctx, in tokens, as in llama.cpp's server (n_batch); as much for other files.
_NEAR = 2048


def fill(
    words: Sequence[str],
    options: GenerationOptions,
    beside: Sequence[object],
    asked: InfillOptions,
    settings: Settings,
    console: Console,
    *,
    is_json: bool,
) -> ExitCode:
    """Fill in one gap; `beside`: the records of options that do not apply, to be refused when something was given.

    Raises `SlmError`; the exit code tells how the completion ended.
    """
    start = time.perf_counter()
    _check(words, options, beside, asked)
    place = place_of(asked.place) if asked.place is not None else None
    writer = _writer(place) if place and asked.write else None
    backend = open_backend(options, settings, console)
    target = read_target(place, is_written=asked.write) if place else None
    whole = _gap(target, options, asked)
    opened = open_model(backend, options, settings, console)
    engine = opened.engine
    tokens = _tokens(engine, asked.order, opened.model.key, settings)
    kept, max_tokens, n_ctx = _fitted(whole, tokens, engine, options, settings)
    n_ctx = opened.window(n_ctx)
    _tell_left_out(infill.left_out(whole, kept), n_ctx, options, console)
    session = opened.open_plain_session(n_ctx)
    load_s = time.perf_counter() - start
    sampler = SamplerSettings(temperature=0).with_values(options.sampler_values())
    limits = Limits(max_tokens, tuple(options.stop))
    events = session.generate(infill.lay_out(kept, tokens), sampler, limits)
    with cancelled_by_ctrl_c(session):
        made = consume_stream(
            events,
            PlainView(console, is_silent=is_json, is_raw=options.raw_output),
            sanitizer=_sanitizer(options, asked),
            keeps_space=True,
        )
    completion = completion_of(made)
    if not is_json and not completion.text.endswith("\n"):
        console.write("\n")
    error = _write(writer, target, completion.text, completion.finish_reason, console) if target and writer else None
    if is_json:
        about = _as_json(target, tokens, whole, kept)
        about["is_written"] = bool(asked.write and completion.text and error is None)
        console.print_json({**completion.record(opened.model.key, load_s), "infill": about})
    console.detail(describe(completion.finish_reason, completion.usage, completion.timings))
    session.close()
    opened.close()
    if error is not None:
        raise error
    return exit_code(completion.finish_reason, console, n_ctx, engine.info.trained_context_length)


def _check(words: Sequence[str], options: GenerationOptions, beside: Sequence[object], asked: InfillOptions) -> None:
    """Refuse what makes no sense together. Raises `SlmError` (USAGE)."""
    has_texts = asked.prefix is not None or asked.suffix is not None
    inputs = (asked.place or "").startswith("-:"), asked.prefix == "@-", asked.suffix == "@-", "-" in options.files
    problems = {
        "--infill fills in between the two ends of the file: --prefix and --suffix have no place beside it": (
            asked.place is not None and has_texts
        ),
        "--write and --infill-order need a place to fill in: --infill FILE:LINE, or --prefix and --suffix": (
            asked.place is None and not has_texts
        ),
        "--write needs the file to write into: --infill FILE:LINE": (
            asked.write and (asked.place is None or asked.place.startswith("-:"))
        ),
        "a fill has no place for an instruction: say it in a comment before the cursor": bool(
            words or options.system or options.persona
        ),
        "models of this device fill in code, --endpoint has no place beside --infill": options.endpoint is not None,
        "a fill is code: the options for the format, the file and the prompt of an answer do not apply": (
            any(record != type(record)() for record in beside)
        ),
        "standard input can be only one of the inputs": sum(inputs) > 1,
    }
    for problem, is_there in problems.items():
        if is_there:
            raise usage_error(f"{problem}.", "slm run --infill main.py:12")


def _gap(target: InfillTarget | None, options: GenerationOptions, asked: InfillOptions) -> Gap:
    """What is around the cursor, with the other files of `-f`."""
    if target is None:
        return Gap(_end(asked.prefix), _end(asked.suffix), "", Path.cwd().name, _others(options.files, Path.cwd()))
    prefix, suffix = with_line_feeds(target.text[: target.offset]), with_line_feeds(target.text[target.offset :])
    if target.place.file == "-":
        return Gap(prefix, suffix, "", Path.cwd().name, _others(options.files, Path.cwd()))
    path = target.place.path
    root = _project(path)
    return Gap(prefix, suffix, _name_in(root, path), root.name, _others(options.files, root))


def _others(files: Sequence[str], root: Path) -> tuple[SourceFile, ...]:
    return tuple(
        SourceFile(
            "stdin" if file == "-" else _name_in(root, resolved(file)),
            with_line_feeds(text_of(read(file), named(file))),
        )
        for file in files
    )


def _project(path: Path) -> Path:
    """The directory of the repository that the file is in, or the file's own."""
    return next((folder for folder in path.parents if (folder / ".git").exists()), path.parent)


def _name_in(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _end(given: str | None) -> str:
    """The text of `--prefix` or `--suffix`: itself, or what @FILE holds."""
    if given is None or not given.startswith("@") or given == "@":
        return given or ""
    return with_line_feeds(text_of(read(given[1:]), named(given[1:])))


def _tokens(engine: Engine, order: str | None, key: str, settings: Settings) -> InfillTokens:
    """The infill tokens of the model, in the order asked for. Raises `SlmError` (USAGE) when it has none."""
    tokens = engine.info.infill
    if tokens is None:
        models = registry.load(settings.paths.user_registry).models
        names = sorted(name for name, spec in models.items() if "infill" in spec.tags)
        raise usage_error(
            f"{key} has no tokens for filling in code.", f"models that have them: {', '.join(names)}; slm pull NAME"
        )
    return tokens if order is None else replace(tokens, is_suffix_first=order == "spm")


def _fitted(
    whole: Gap, tokens: InfillTokens, engine: Engine, options: GenerationOptions, settings: Settings
) -> tuple[Gap, int, int]:
    """What fits around the cursor, the most tokens of the fill and the context window. Raises `SlmError` (CONTEXT)."""
    most = options.ctx or settings.n_ctx
    if not most:
        wanted = _NEAR * (2 if whole.others else 1) + (options.max_tokens or _FILL_ROOM)
        most = min(engine.info.trained_context_length, wanted)
    max_tokens = options.max_tokens or min(_FILL_ROOM, most // 2)
    kept = infill.fit(whole, lambda gap: engine.count(infill.lay_out(gap, tokens)), most - max_tokens)
    if kept is None:
        raise SlmError(
            f"a context window of {most:,} tokens has no room for code beside a fill of {max_tokens:,} tokens.",
            hint="a larger window: --ctx N, or a shorter fill: -n N",
            exit_code=ExitCode.CONTEXT,
        )
    if options.ctx or settings.n_ctx:
        return kept, max_tokens, most
    needed = engine.count(infill.lay_out(kept, tokens)) + max_tokens
    return kept, max_tokens, window.size_for(needed, most)


def _tell_left_out(said: Sequence[str], n_ctx: int, options: GenerationOptions, console: Console) -> None:
    if not said:
        return
    if options.on_overflow == "fail":
        raise SlmError(
            f"the code does not fit a context window of {n_ctx:,} tokens.",
            hint="a larger window: --ctx N; or leave out what is far from the cursor: --on-overflow trim",
            exit_code=ExitCode.CONTEXT,
        )
    console.warn(f"left out, to fit a context window of {n_ctx:,} tokens (a larger one: --ctx N): {', '.join(said)}.")


def _sanitizer(options: GenerationOptions, asked: InfillOptions) -> Sanitizer | None:
    """What goes into a file must not hide anything in it, even when it is not shown on a terminal."""
    if options.raw_output:
        return None
    return Sanitizer(show_invisible=asked.write)


def _writer(place: InfillPlace) -> FileWriter:
    """The right to change the file, kept across the seal. Raises `SlmError`: USAGE, STORAGE."""
    check_file(place.path, "--write")
    try:
        return FileWriter(place.path)
    except OSError as error:
        raise SlmError(f"{place.file} cannot be written: {error.strerror}.", exit_code=ExitCode.STORAGE) from error


def _write(
    writer: FileWriter, target: InfillTarget, text: str, reason: FinishReason, console: Console
) -> SlmError | None:
    """Insert the fill into its file; the error for the caller to raise when the completion has been put out."""
    file = target.place.file
    if reason is FinishReason.INTERRUPTED:
        return SlmError(f"interrupted: {file} was left as it is.", exit_code=ExitCode.INTERRUPTED)
    if not text:
        console.note(f"the model filled in nothing; {file} was left as it is")
        return None
    try:
        writer.exchange(target.data, target.with_text(text))
    except SlmError as error:
        return error
    except OSError as error:
        return SlmError(
            f"{file} cannot be written: {error.strerror}; it was left as it is.", exit_code=ExitCode.STORAGE
        )
    finally:
        writer.close()
    console.note(f"{file}: {infill.measured(text)} inserted at line {target.place.line}, column {target.column}")
    if reason is not FinishReason.STOP:
        console.warn("the fill was cut off and may be incomplete (a longer one: -n N).")
    return None


def _as_json(target: InfillTarget | None, tokens: InfillTokens, whole: Gap, kept: Gap) -> dict[str, object]:
    return {
        "file": target.place.file if target else None,
        "line": target.place.line if target else None,
        "column": target.column if target else None,
        "order": "spm" if tokens.is_suffix_first else "psm",
        "prefix_characters": len(kept.prefix),
        "suffix_characters": len(kept.suffix),
        "left_out": list(infill.left_out(whole, kept)),
    }
