"""`slm batch --choices NAME=A,B --choices NAME=C,D`: several questions about each row. On the fake engine."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome
from fake_engine import FakeEngine, Ready

from slmchat.catalog.records import Installed, InstalledFile
from slmchat.cli import run_cli
from slmchat.engine.results import Score
from slmchat.errors import ExitCode
from slmchat.models import loader, resolve, sandbox
from slmchat.terminal.console import Console

ASKED = ("--choices", "mood=good,bad", "--choices", "topic=food,service")


class Batch:
    """The command in this process, unsealed; what a choice scores: whether its word stands in the row."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = InstalledFile(tmp_path / "m.gguf", None, 1, 1)
        found = Installed("fake:1b", "Q4_K_M", (file,), "test", "2026-01-01T00:00:00Z")
        self.engine = FakeEngine(score=lambda prompt, text: Score((0.0 if text.strip() in prompt else -3.0,)))
        monkeypatch.setattr(resolve, "find", lambda *_: found)
        monkeypatch.setattr(loader, "start_loading", lambda *_, **__: Ready(self.engine))
        monkeypatch.setattr(sandbox, "seal", lambda *_, **__: None)
        self.folder = tmp_path

    def __call__(self, rows: str, *arguments: str) -> Outcome:
        (self.folder / "rows.txt").write_text(rows)
        streams = [io.StringIO() for _ in range(3)]
        console = Console(*streams, {"SLM_HOME": str(self.folder / "home")})
        given = ["batch", "-m", "fake:1b", "-f", str(self.folder / "rows.txt"), "--format", "lines", *arguments]
        return Outcome(run_cli(given, console), streams[1].getvalue(), streams[2].getvalue())

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "out.jsonl").read_text().splitlines()]

    @property
    def out(self) -> tuple[str, str]:
        return "-o", str(self.folder / "out.jsonl")


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Batch:
    return Batch(tmp_path, monkeypatch)


def test_each_row_has_an_answer_to_each_question(batch: Batch) -> None:
    batch.engine.n_held, batch.engine.pick = 3, lambda n_held: n_held - 1  # in another order than asked
    done = batch("good food\nbad service\n", *ASKED, *batch.out, "What is the {name}?")
    assert (done.code, done.err) == (0, "")
    first, second = batch.records
    assert first["value"] == {"mood": "good", "topic": "food"}
    assert second["value"] == json.loads(second["completion"]) == {"mood": "bad", "topic": "service"}
    assert first["probabilities"]["mood"]["good"] > 0.9 and sum(first["probabilities"]["topic"].values()) == 1
    assert first["usage"]["prompt_tokens"] > 40  # of both questions
    assert first["made_with"]["options"]["choices"] == ["mood=good,bad", "topic=food,service"]
    prompts = {"".join(part.text for part in request.prompt.parts) for request in batch.engine.requests}
    assert any("What is the mood?" in prompt for prompt in prompts)
    assert any("What is the topic?" in prompt for prompt in prompts)


def test_a_row_that_cannot_be_asked_is_a_record_like_any_other(batch: Batch) -> None:
    done = batch("good food\nnull \x00 byte\nbad food\n", *ASKED, *batch.out, "What is the {name}?")
    assert [record["value"] and record["value"]["mood"] for record in batch.records] == ["good", None, "bad"]
    assert [record["error"] is None for record in batch.records] == [True, False, True]
    assert done.code == ExitCode.ROWS_FAILED


def test_questions_need_names_and_have_no_other_format(batch: Batch) -> None:
    for arguments, says in (
        (("--choices", "a,b", "--choices", "c,d"), "has no name"),
        ((*ASKED, "--fields", "a"), "cannot be one of --choices and in another format"),
    ):
        done = batch("x\n", *arguments, "?")
        assert done.code == ExitCode.USAGE and says in done.err
