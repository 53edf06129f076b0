"""`slm batch`: many inputs, one model load, one record for each input in input order.

The story: open what is read and written, load the model, find out what an earlier run has done, then let rows in as
there is room, many of them at once through the engine's pool, and write each record as soon as it is its turn.
A row that fails is a record with an error; the exit code tells that there were some.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmchat.catalog.library import Library
from slmchat.commands import opening
from slmchat.commands.batch_answers import Answers, Completions, Unsuitable
from slmchat.commands.batch_inputs import Row, Source, open_source
from slmchat.commands.batch_output import (
    Begun,
    Expected,
    RecordWriter,
    Window,
    encoded,
    fingerprint,
    open_output,
    read_begun,
)
from slmchat.commands.batch_progress import Progress
from slmchat.commands.batch_prompts import Asked, PromptMaker, has_fields
from slmchat.commands.options import BatchOptions, GenerationOptions
from slmchat.commands.run import head_messages, layout, overflow_choice
from slmchat.conversation import window as context_window
from slmchat.engine.api import Done, Engine, FinishReason, Job, Pool
from slmchat.errors import ExitCode, SlmError
from slmchat.settings import Settings
from slmchat.terminal.console import Console

# Rows under way, finished ones that wait for a slow one included. Large enough that one long completion does not leave
# the others idle, small enough to be nothing in memory.
_MOST_UNDER_WAY = 256

_MOST_PARALLEL = 255  # llama.cpp has 256 sequences (LLAMA_MAX_SEQ), and one of them holds what the prompts share


def batch(
    words: Sequence[str], batch: BatchOptions, options: GenerationOptions, settings: Settings, console: Console
) -> ExitCode:
    """Answer every input. Raises `SlmError` when the batch as a whole cannot go on; what is written stays whole."""
    on_overflow = overflow_choice(options)
    n_parallel = _parallel(batch)
    options = opening.with_persona(options, settings)
    descriptor = _open_output(batch)  # before the seal: it may lie where a sealed process cannot open it
    opening.seal(settings)
    instruction = " ".join(words)
    wants_fields = batch.input_field is not None or has_fields(instruction)
    source = open_source(options.files, batch.format, wants_fields, console.stdin)
    installed = opening.find(options.model, settings, console)
    sampler = opening.sampler_settings(installed, settings, options)
    head = head_messages(options, settings)
    loading = opening.start_loading(installed, options, settings)
    engine = loading.engine()
    opening.report_native_log(console)
    n_ctx = options.ctx or settings.n_ctx or min(engine.info.trained_context_length, opening.DEFAULT_N_CTX)
    lay_out = layout(engine, is_raw=options.raw)

    def fits(prompt: Any) -> bool:
        return context_window.fits(engine.count(prompt), n_ctx)

    prompts = PromptMaker(instruction, batch.input_field, head, lay_out, fits if on_overflow == "trim" else None)
    answers = Completions(sampler, opening.limits(options), is_raw=options.raw, is_sanitized=not options.raw_output)
    rows = _Rows(source, prompts, answers, is_echoed=not batch.no_echo)
    begun = rows.skip_begun(descriptor, Path(batch.resume)) if descriptor is not None and batch.resume else None
    console.detail(
        f"inputs: {source.format}{f', the first {begun.records:,} are done already' if begun else ''}; "
        f"context window of each: {n_ctx:,} tokens"
    )
    pool = engine.open_pool(opening.session_settings(options, settings, n_ctx), n_parallel)
    writer = _writer(descriptor, batch, console)
    work = _Batch(rows, pool, writer, console, begun)
    work.run()
    code = work.tell(batch.resume or batch.output)
    _close(pool, engine, descriptor)
    if not settings.is_private:
        Library(settings.paths).remember(installed.key)
    return code


def _parallel(options: BatchOptions) -> int | None:
    """`--parallel`: None for auto."""
    given = options.parallel or "auto"
    if given == "auto":
        return None
    if not given.isdecimal() or not 1 <= int(given) <= _MOST_PARALLEL:
        raise SlmError(
            f"--parallel cannot be '{given}'.", hint=f"auto, or 1 to {_MOST_PARALLEL}", exit_code=ExitCode.USAGE
        )
    return int(given)


def _open_output(options: BatchOptions) -> int | None:
    if options.resume and options.output:
        raise SlmError(
            "--resume FILE and -o FILE cannot stand together.",
            hint="--resume FILE alone: it appends to FILE, and begins it when it is not there",
            exit_code=ExitCode.USAGE,
        )
    name = options.resume or options.output
    if name is None:
        return None
    return open_output(Path(name).expanduser(), goes_on=options.resume is not None, is_forced=options.force)


def _writer(descriptor: int | None, options: BatchOptions, console: Console) -> RecordWriter:
    if descriptor is not None:
        return RecordWriter(descriptor, options.resume or options.output or "", lambda: None)
    clears = console.is_stdout_tty
    console.stdout.flush()
    return RecordWriter(console.stdout.fileno(), "standard output", lambda: console.status("") if clears else None)


def _close(pool: Pool, engine: Engine, descriptor: int | None) -> None:
    pool.close()
    engine.close()
    if descriptor is not None:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A row whose record is not written yet; `asked` None: it never became a question."""

    row: Row
    asked: Asked | None


class _Rows:
    """The rows of a batch as jobs, and records of what came of them."""

    def __init__(self, source: Source, prompts: PromptMaker, answers: Answers, *, is_echoed: bool) -> None:
        self.total = source.total
        self._rows = source.rows
        self._prompts = prompts
        self._answers = answers
        self._is_echoed = is_echoed
        self._under_way: dict[int, _UnderWay] = {}

    def skip_begun(self, descriptor: int, file: Path) -> Begun:
        """Skip the rows that an earlier run has written; cut off what it had only begun to write."""
        begun = read_begun(descriptor, file, self._expected())
        os.ftruncate(descriptor, begun.end)
        os.lseek(descriptor, begun.end, os.SEEK_SET)
        return begun

    def _expected(self) -> Iterator[Expected]:
        return (Expected(row.id, self._prompts.shown_input(row), row.end) for row in self._rows)

    def jobs(self, window: Window) -> Iterator[Job | Done]:
        """A job for each row, when the window has room for it. Runs on the thread of the pool that takes jobs."""
        for row in self._rows:
            number = window.enter(row.size)
            try:
                asked = self._prompts.make(row)
            except SlmError as error:
                self._under_way[number] = _UnderWay(row, None)
                yield Done(number, error=error)
            else:
                self._under_way[number] = _UnderWay(row, asked)
                yield self._answers.job(number, asked.prompt)

    def record(self, done: Done) -> tuple[dict[str, Any], Row, SlmError | None]:
        """The record of a row, the row, and what it failed with."""
        under_way = self._under_way.pop(done.id)
        row, asked, error = under_way.row, under_way.asked, done.error
        fields: dict[str, Any] = {"completion": None, "finish_reason": None, "usage": None}
        if error is None and asked is not None:
            try:
                fields = self._answers.record(done, asked.prompt)
            except Unsuitable as unsuitable:
                fields, error = unsuitable.fields, unsuitable.error
            if asked.n_trimmed:
                fields["trimmed_characters"] = asked.n_trimmed
        shown = self._prompts.shown_input(row)
        head = {"id": row.id, **({"input": shown} if self._is_echoed else {"input_sha256": fingerprint(shown)})}
        return {**head, **fields, "error": error and error.message}, row, error


class _Batch:
    """The rows on their way through the pool."""

    def __init__(self, rows: _Rows, pool: Pool, writer: RecordWriter, console: Console, begun: Begun | None) -> None:
        self._rows = rows
        self._pool = pool
        self._writer = writer
        self._console = console
        self._n_begun = begun.records if begun else 0
        self._failures = Counter({ExitCode.ROWS_FAILED: begun.failed} if begun and begun.failed else {})
        self._progress = Progress(console, rows.total, begun.end_of_input if begun else 0)
        self._window = Window(_MOST_UNDER_WAY)
        self._is_interrupted = False
        self._n_tokens = self._n_trimmed = self._n_without_end = 0

    def cancel(self) -> None:
        """Ctrl-C: what is written stays, what is under way is dropped."""
        self._is_interrupted = True
        self._pool.cancel()

    def run(self) -> None:
        """All rows, or as many as Ctrl-C allows."""
        done_rows = self._pool.run(self._rows.jobs(self._window))  # before the handler: what it cancels has begun
        ends: dict[int, tuple[int, bool]] = {}
        try:
            with opening.cancelled_by_ctrl_c(self):
                for done in done_rows:
                    record, row, error = self._rows.record(done)
                    self._count(record, error)
                    ends[done.id] = (row.end, error is not None)
                    for number, line in self._window.leave(done.id, encoded(record)):
                        self._writer.write(line)
                        end, is_failed = ends.pop(number)
                        self._progress.add(end, is_failed=is_failed)
        except KeyboardInterrupt:
            self._is_interrupted = True
        finally:
            self._console.status("")
            self._console.detail(self._progress.summary(self._n_tokens))
            self._console.detail(self._pool.report)

    def _count(self, record: dict[str, Any], error: SlmError | None) -> None:
        if error is not None:
            self._failures[error.exit_code] += 1
        usage = record.get("usage")
        self._n_tokens += usage["completion_tokens"] if usage else 0
        self._n_trimmed += "trimmed_characters" in record
        self._n_without_end += record.get("finish_reason") == FinishReason.CONTEXT

    def tell(self, file: str | None) -> ExitCode:
        """What the user should know at the end, and the exit code; `file` is where the records went."""
        console = self._console
        if self._n_trimmed:
            console.warn(f"{_rows(self._n_trimmed)} did not fit and lost the end of the input ('trimmed_characters').")
        if self._n_without_end:
            console.warn(
                f"{_rows(self._n_without_end)} ran into the end of the context window (a larger one: --ctx N)."
            )
        failed = self._failures.total()
        if failed:
            console.warn(f"{failed:,} of {_rows(self._n_begun + self._progress.rows)} failed: 'error' says why.")
        if self._is_interrupted:
            console.warn(f"interrupted; {_rows(self._n_begun + self._progress.rows)} are written.")
            console.note(f"hint: go on with the same command and --resume {file or 'FILE (where you kept them)'}")
            return ExitCode.INTERRUPTED
        alike = set(self._failures) if self._failures else {ExitCode.DONE}
        code = alike.pop() if len(alike) == 1 else ExitCode.ROWS_FAILED
        return code if code in (ExitCode.DONE, ExitCode.CONTEXT, ExitCode.UNSATISFIED) else ExitCode.ROWS_FAILED


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"
