"""The rows of a batch at work: let in as there is room, answered many at once, written in order, counted.

Knows: rows, requests, records, how many of what there was. Refuses to know: models, files, how the pool works.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slmchat.engine.api import Pool
from slmchat.engine.cancellable import CancelScope
from slmchat.engine.requests import Request
from slmchat.engine.results import FinishReason, Result
from slmchat.errors import ExitCode, SlmError
from slmchat.generation.batch.answers import Answers, Unsuitable
from slmchat.generation.batch.progress import Progress
from slmchat.generation.batch.prompts import Asked, PromptMaker, SeveralPrompts
from slmchat.generation.batch.records import Begun, Expected, RecordWriter, Window, encoded, fingerprint, read_begun
from slmchat.generation.batch.rows import Row, RowSource
from slmchat.lazy_dataclasses import dataclass
from slmchat.reporting import Reporter
from slmchat.wording import counted

# Rows under way, finished ones that wait for a slow one included. Large enough that one long completion does not leave
# the others idle, small enough to be nothing in memory.
_MOST_UNDER_WAY = 256


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A row whose record is not written yet; `asked` None: it never became a question."""

    row: Row
    asked: Asked | None


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A row with its record, and what it failed with."""

    record: dict[str, Any]
    row: Row
    error: SlmError | None
    number: int


class Rows:
    """The rows of a batch as requests, and records of what came of them."""

    def __init__(
        self, source: RowSource, prompts: PromptMaker | SeveralPrompts, answers: Answers, *, is_echoed: bool
    ) -> None:
        self.total = source.total
        self._rows = source.rows
        self._prompts = prompts
        self._answers = answers
        self._is_echoed = is_echoed
        self._made_with: Mapping[str, Any] | None = None
        self._under_way: dict[int, _UnderWay] = {}
        self._n_each = answers.n_each

    def skip_begun(self, descriptor: int, file: Path) -> Begun:
        """Skip the rows that an earlier run has written. Raises `SlmError` when they are not those of these inputs."""
        return read_begun(descriptor, file, self._expected())

    def tell_made_with(self, recipe: Mapping[str, Any]) -> None:
        """Let the first record say what all of them are made with."""
        self._made_with = recipe

    def _expected(self) -> Iterator[Expected]:
        return (Expected(row.id, self._prompts.shown_input(row), row.end) for row in self._rows)

    def requests(self, window: Window) -> Iterator[Request | Result]:
        """A request for each row, when the window has room for it. Runs on the thread that takes requests."""
        for row in self._rows:
            number = window.enter(row.size)
            try:
                asked = self._prompts.make(row)
            except SlmError as error:
                self._under_way[number] = _UnderWay(row, None)
                yield Result(number * self._n_each, error=error)
            else:
                self._under_way[number] = _UnderWay(row, asked)
                yield from self._answers.requests(number, asked)

    def record(self, done: Result) -> _Recorded | Request | None:
        """The record of a row, or the request with which it is asked again; None: it is not done yet."""
        number = done.id // self._n_each
        under_way = self._under_way.pop(number)
        row, asked, error = under_way.row, under_way.asked, done.error
        fields = self._answers.nothing
        if asked is not None:
            try:
                answered = self._answers.record(done, asked.prompt)
            except Unsuitable as unsuitable:
                fields |= unsuitable.fields
                error = unsuitable.error
            else:
                if answered is None or isinstance(answered, Request):
                    self._under_way[number] = under_way
                    return answered
                fields = answered
            if asked.n_trimmed:
                fields["trimmed_characters"] = asked.n_trimmed
        shown = self._prompts.shown_input(row)
        head = {"id": row.id, **({"input": shown} if self._is_echoed else {"input_sha256": fingerprint(shown)})}
        is_first = number == 0 and self._made_with is not None
        tail = {"error": error and error.message, **({"made_with": self._made_with} if is_first else {})}
        return _Recorded({**head, **fields, **tail}, row, error, number)


class BatchWork:
    """The rows on their way through the pool."""

    def __init__(self, rows: Rows, pool: Pool, writer: RecordWriter, reporter: Reporter, begun: Begun | None) -> None:
        self._rows = rows
        self._pool = pool
        self._writer = writer
        self._reporter = reporter
        self._n_begun = begun.records if begun else 0
        self._failures = Counter({ExitCode.ROWS_FAILED: begun.failed} if begun and begun.failed else {})
        self._progress = Progress(reporter, rows.total, begun.end_of_input if begun else 0)
        self._window = Window(_MOST_UNDER_WAY)
        self._is_interrupted = False
        self._n_tokens = self._n_trimmed = self._n_resubmitted = self._n_silent = 0
        self._n_without_end = self._n_repeating = 0

    def cancel(self) -> None:
        """Ctrl-C: what is written stays, what is under way is dropped."""
        self._is_interrupted = True
        self._pool.cancel()

    def run(self, cancellable: CancelScope) -> None:
        """All rows, or as many as whoever may cancel allows."""
        # before the handler: what it cancels has begun
        done_rows = self._pool.run(self._rows.requests(self._window))
        ends: dict[int, tuple[int, bool]] = {}
        try:
            with cancellable(self):
                for done in done_rows:
                    made = self._rows.record(done)
                    if isinstance(made, Request):
                        self._pool.resubmit(made)
                        self._n_resubmitted += 1
                        continue
                    if made is None:
                        continue
                    self._count(made.record, made.error)
                    ends[made.number] = (made.row.end, made.error is not None)
                    for number, line in self._window.leave(made.number, encoded(made.record)):
                        self._writer.write(line)
                        end, is_failed = ends.pop(number)
                        self._progress.add(end, is_failed=is_failed)
        except KeyboardInterrupt:
            self._is_interrupted = True
        finally:
            self._reporter.status("")
            self._reporter.detail(self._progress.summary(self._n_tokens))
            self._reporter.detail(self._pool.report)
            if self._n_resubmitted:
                self._reporter.detail(
                    f"{counted(self._n_resubmitted, 'row')} had to be asked a second time, with more room"
                )

    def _count(self, record: dict[str, Any], error: SlmError | None) -> None:
        if error is not None:
            self._failures[error.exit_code] += 1
        usage = record.get("usage")
        counted_in = record.get("best_of", usage)  # of several answers all were generated
        self._n_tokens += counted_in["completion_tokens"] if counted_in else 0
        self._n_trimmed += "trimmed_characters" in record
        self._n_without_end += record.get("finish_reason") == FinishReason.CONTEXT
        self._n_repeating += record.get("finish_reason") == FinishReason.REPETITION
        self._n_silent += error is None and "value" not in record and not record["completion"].strip()

    def tell(self, file: str | None, nothing: str = "there were no inputs") -> ExitCode:
        """What the user should know at the end, and the exit code.

        `file` is where the records went, `nothing` what is said when there was no row.
        """
        reporter = self._reporter
        if not (self._n_begun + self._progress.rows or self._is_interrupted):
            reporter.warn(f"{nothing}: nothing was done.")
        if self._n_trimmed:
            reporter.warn(
                f"{counted(self._n_trimmed, 'row')} did not fit and lost the end of the input ('trimmed_characters')."
            )
        if self._n_without_end:
            reporter.warn(
                f"{counted(self._n_without_end, 'row')} ran into the end of the context window (a larger one: --ctx N)."
            )
        if self._n_repeating:
            reporter.warn(
                f"{counted(self._n_repeating, 'row')} went round in circles and ended there (-n N lets a row go on)."
            )
        if self._n_silent:
            reporter.warn(
                f"{counted(self._n_silent, 'row')} came without an answer ('completion' is empty; where it has "
                "'thinking': --think-budget N limits that, --think off leaves it out)."
            )
        failed = self._failures.total()
        if failed:
            reporter.warn(
                f"{failed:,} of {counted(self._n_begun + self._progress.rows, 'row')} failed: 'error' says why."
            )
        if self._is_interrupted:
            reporter.warn(f"interrupted; {counted(self._n_begun + self._progress.rows, 'row')} are written.")
            reporter.note(f"hint: go on with the same command and --resume {file or 'FILE (where you kept them)'}")
            return ExitCode.INTERRUPTED
        alike = set(self._failures) if self._failures else {ExitCode.DONE}
        code = alike.pop() if len(alike) == 1 else ExitCode.ROWS_FAILED
        return code if code in (ExitCode.DONE, ExitCode.CONTEXT, ExitCode.UNSATISFIED) else ExitCode.ROWS_FAILED
