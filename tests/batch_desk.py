"""A batch without weights: the rows, records and files of `slm batch` on the fake engine."""

import io
import json
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from fake_engine import FakeEngine

from slmchat.engine.requests import Limits, SessionSettings
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode
from slmchat.generation.batch.answers import Answers, Completions
from slmchat.generation.batch.prompts import PromptMaker
from slmchat.generation.batch.records import RecordWriter, open_output
from slmchat.generation.batch.rows import Row, RowSource
from slmchat.generation.batch.runner import BatchWork, Rows
from slmchat.generation.prompt import layout
from slmchat.terminal.console import Console


class Desk:
    """A batch on the fake engine, its records in a file."""

    def __init__(self, tmp_path: Path, engine: FakeEngine | None = None, is_echoed: bool = True) -> None:
        self.engine = engine or FakeEngine()
        self.file = tmp_path / "out.jsonl"
        self.errors = io.StringIO()
        self.is_echoed = is_echoed
        self.made_with: dict[str, Any] | None = None
        self.answers: Answers = Completions(SamplerSettings(seed=5), Limits(), is_raw=True, is_sanitized=True)

    def run(self, rows: Iterator[Row], *, goes_on: bool = False, instruction: str = "") -> ExitCode:
        console = Console(io.StringIO(), io.StringIO(), self.errors, {})
        prompts = PromptMaker(instruction, None, [], layout(self.engine, is_raw=True), None)
        made = Rows(RowSource(rows, None, "lines"), prompts, self.answers, is_echoed=self.is_echoed)
        if self.made_with is not None:
            made.tell_made_with(self.made_with)
        descriptor = open_output(self.file, [], may_exist=goes_on)
        try:
            begun = made.skip_begun(descriptor, self.file) if goes_on else None
            os.ftruncate(descriptor, begun.end if begun else 0)
            writer = RecordWriter(descriptor, str(self.file), lambda: None)
            pool = self.engine.open_pool(SessionSettings(1000, 1, 1))
            work = BatchWork(made, pool, writer, console, begun)
            work.run(lambda _work: nullcontext())
            return work.tell(str(self.file))
        finally:
            os.close(descriptor)

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()]
