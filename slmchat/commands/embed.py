"""`slm embed`: texts to vectors, one model load, one record for each text in the order of the texts.

The story: close the process in, read the texts as `slm batch` reads its rows, make the vectors many at a time, write
each record as soon as its vector is there. A text that fails is a record with an error, and the exit code tells it.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from slmchat import safe_json
from slmchat.engine.requests import Prompt
from slmchat.engine.results import Embedding
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.generation.batch.prompts import PromptMaker
from slmchat.generation.batch.rows import Row, open_source
from slmchat.lazy_dataclasses import dataclass
from slmchat.models.backend import open_backend
from slmchat.models.embedding import embedder, open_embedding
from slmchat.options import EmbedOptions, GenerationOptions
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.terminal.interrupts import cancelled_by_ctrl_c
from slmchat.terminal.piped import telling_when_idle
from slmchat.wording import counted

# Digits behind the point of a number in a vector: those that an F32 of length 1 has.
_DIGITS = 8


def embed(options: EmbedOptions, settings: Settings, console: Console) -> ExitCode:
    """The vectors of the texts. Raises `SlmError`; where there are several texts, one that fails stops no other."""
    generation = GenerationOptions.of(options)
    backend = open_backend(generation, settings, console)
    rows = _rows(options, console)
    opened = open_embedding(backend, generation, settings, console)
    texts = _Texts(rows, options.input_field)
    made = embedder(opened, is_cut=options.on_overflow == "trim")
    collected: list[dict[str, Any]] = []
    interrupted = True
    results = made.run(iter(texts))
    with cancelled_by_ctrl_c(made):
        for record in texts.records(results):
            if options.json:
                collected.append(record)
            else:
                console.write(safe_json.encode(record, indent=None))
        interrupted = texts.is_waiting
    made.close()
    if options.json and not interrupted:
        console.write(safe_json.encode(_as_one(opened.model.key, collected), indent=None))
    opened.close()
    if interrupted:
        return ExitCode.INTERRUPTED
    if not texts.n_records:
        console.warn("there were no texts: nothing was done.")
    if texts.failed and options.words:
        raise texts.failed[0]
    if texts.failed:
        console.warn(f"{len(texts.failed):,} of {counted(texts.n_records, 'text')} failed: 'error' says why.")
        return ExitCode.ROWS_FAILED
    return ExitCode.DONE


def _rows(options: EmbedOptions, console: Console) -> Iterator[Row]:
    if not options.words:
        source = open_source(
            options.files,
            options.format,
            options.input_field is not None,
            console.stdin,
            lambda read: telling_when_idle(read, console),
        )
        return source.rows
    if options.files:
        raise usage_error("texts come from the command line or from files, not both.")
    return (Row(number, text, number) for number, text in enumerate(options.words, 1))


@dataclass(slots=True)
class _Waiting:
    """A row whose record is not written; `error`: it never became a text."""

    row: Row
    error: SlmError | None


class _Texts:
    """The texts of rows on their way to vectors, and records of what came of them."""

    def __init__(self, rows: Iterator[Row], field: str | None) -> None:
        self._rows = rows
        self._prompts = PromptMaker("", field, [], lambda _messages: Prompt(()), None)
        self._waiting: deque[_Waiting] = deque()
        self.failed: list[SlmError] = []
        self.n_records = 0

    @property
    def is_waiting(self) -> bool:
        """Whether something was taken that has no record: it was cancelled."""
        return bool(self._waiting)

    def __iter__(self) -> Iterator[str]:
        for row in self._rows:
            try:
                text = self._text(row)
            except SlmError as error:
                self._waiting.append(_Waiting(row, error))
                continue
            self._waiting.append(_Waiting(row, None))
            yield text

    def _text(self, row: Row) -> str:
        if row.error is not None or row.picture is not None:
            raise usage_error(f"{row.error or 'a picture is not a text'}.")
        return self._prompts.input_text(row)

    def records(self, results: Iterator[Embedding | SlmError]) -> Iterator[dict[str, Any]]:
        """A record for each row, in order; `results` are those of the rows that became texts."""
        for result in results:
            yield from self._failed_before()
            yield self._record(self._waiting.popleft().row, result)
        yield from self._failed_before()

    def _failed_before(self) -> Iterator[dict[str, Any]]:
        while self._waiting and (error := self._waiting[0].error) is not None:
            yield self._record(self._waiting.popleft().row, error)

    def _record(self, row: Row, result: Embedding | SlmError) -> dict[str, Any]:
        self.n_records += 1
        if isinstance(result, SlmError):
            self.failed.append(result)
            return {"id": row.id, "embedding": None, "tokens": None, "error": result.message}
        vector = [round(value, _DIGITS) for value in result.vector]
        return {"id": row.id, "embedding": vector, "tokens": result.n_tokens or None, "error": None}


def _as_one(model: str, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The object of `--json`."""
    dimensions = next((len(record["embedding"]) for record in records if record["embedding"]), None)
    tokens = sum(record["tokens"] or 0 for record in records)
    return {"model": model, "dimensions": dimensions, "embeddings": list(records), "usage": {"prompt_tokens": tokens}}
