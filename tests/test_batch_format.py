"""`slm batch` with answers in a given format: the value of each row, the second attempt, rows that fail, one constraint."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fork_server
import pytest
from batch_desk import Desk
from conftest import Outcome, environment, run_slm
from fake_engine import FakeEngine
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama

from slmchat.engine import llama
from slmchat.engine.gbnf import to_gbnf
from slmchat.engine.requests import Constraint, ConstraintKind, Limits, Part, Prompt, Request, SessionSettings
from slmchat.engine.results import FinishReason, Result
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import structured
from slmchat.generation.batch.answers import Completions
from slmchat.generation.batch.rows import Row

FORMAT = structured.of_schema(
    {"type": "object", "properties": {"age": {"type": "integer"}, "mood": {"type": "string"}}, "required": ["age"]}
)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return _desk(tmp_path)


def _desk(tmp_path: Path, limits: Limits | None = None) -> Desk:
    desk = Desk(tmp_path)
    given = limits or Limits(stop=("}",))
    desk.answers = Completions(SamplerSettings(seed=5), given, is_raw=False, is_sanitized=True, response_format=FORMAT)
    return desk


def _rows(*texts: str) -> Iterator[Row]:
    return (Row(number, text, number) for number, text in enumerate(texts, 1))


class TestRecords:
    def test_the_value_stands_beside_the_text(self, desk: Desk) -> None:
        desk.engine.answer = lambda prompt: '{"age": 34}'
        assert desk.run(_rows("a", "b")) is ExitCode.DONE
        assert [record["value"] for record in desk.records] == [{"age": 34}, {"age": 34}]
        assert desk.records[0]["completion"] == '{"age": 34}'
        assert list(desk.records[0])[-1] == "error"
        (request, _) = desk.engine.requests
        assert request.limits == Limits(
            structured.ROOM, constraint=FORMAT.constraint
        )  # no stop sequence cuts through it

    def test_a_row_that_is_cut_off_is_asked_again_with_more_room(self, tmp_path: Path) -> None:
        desk = _desk(tmp_path, Limits(max_tokens=3))
        desk.engine = FakeEngine(
            answer=lambda prompt: '{"age": 34}' if prompt == "a" else '{"age": 34, "mood": "very good"}', n_held=3
        )
        assert desk.run(_rows("a", "b", "c")) is ExitCode.DONE
        assert [record["id"] for record in desk.records] == [1, 2, 3]
        assert [record["value"].get("mood") for record in desk.records] == [None, "very good", "very good"]
        assert [(request.limits.max_tokens, request.sampler.seed) for request in desk.engine.requests].count(
            (6, 6)
        ) == 2
        assert len(desk.engine.requests) == 5

    def test_a_row_that_fails_twice_is_a_record(self, desk: Desk) -> None:
        desk.engine.answer = lambda prompt: '{"age": "old"}' if prompt == "b" else '{"age": 1}'
        assert desk.run(_rows("a", "b", "c")) is ExitCode.UNSATISFIED
        assert [record["value"] for record in desk.records] == [{"age": 1}, None, {"age": 1}]
        failed = desk.records[1]
        assert failed["completion"] == '{"age": "old"}'
        assert failed["error"].startswith("the answer is not what was asked for: ")
        assert [request.id for request in desk.engine.requests].count(1) == 2
        assert "1 of 3 rows failed" in desk.errors.getvalue()

    def test_other_failures_are_not_tried_again(self, desk: Desk) -> None:
        desk.engine.answer = lambda prompt: SlmError("the prompt is too long.", exit_code=ExitCode.CONTEXT)
        assert desk.run(_rows("a")) is ExitCode.CONTEXT
        assert desk.records[0]["error"] == "the prompt is too long."
        assert (desk.records[0]["value"], desk.records[0]["completion"]) == (None, None)
        assert len(desk.engine.requests) == 1


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    control = ("<|im_start|>", "<|im_end|>")
    return write_tiny_llama(path, chat_template=CHATML_TEMPLATE, extra_control_tokens=control, context_length=1024)


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Iterator[llama.LlamaEngine]:
    engine = llama.load(tiny)
    yield engine
    engine.close()


@pytest.mark.real
class TestPool:
    def _done(self, engine: llama.LlamaEngine, constraint: Constraint, count: int = 6) -> list[Result]:
        pool = engine.open_pool(SessionSettings(512, 1, 1), 3)
        limits = Limits(60, constraint=constraint)
        requests = (
            Request(n, Prompt((Part("word " * n),)), SamplerSettings(seed=n), limits) for n in range(1, count + 1)
        )
        try:
            return sorted(pool.run(requests), key=lambda done: done.id)
        finally:
            pool.close()

    def test_every_slot_keeps_to_it_by_itself(self, engine: llama.LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        from slmchat.schemas import regex

        parsed: list[str] = []
        before = regex.parse
        monkeypatch.setattr(regex, "parse", lambda pattern: (parsed.append(pattern), before(pattern))[1])
        to_gbnf.cache_clear()
        done = self._done(engine, Constraint(ConstraintKind.REGEX, "[a-f]{5}(x|yz)"))
        texts = [each.text for each in done]
        assert all(each.finish and each.finish.reason is FinishReason.STOP for each in done)
        assert all(text[5:] in ("x", "yz") and set(text[:5]) <= set("abcdef") for text in texts)
        assert len(set(texts)) > 3
        assert len(parsed) == 1  # converted once for all rows

    def test_what_the_model_cannot_write_fails_the_row_alone(self, engine: llama.LlamaEngine) -> None:
        pool = engine.open_pool(SessionSettings(512, 1, 1), 3)
        free = Request(1, Prompt((Part("hello"),)), SamplerSettings(temperature=0), Limits(5))
        stuck = Limits(5, constraint=Constraint(ConstraintKind.GRAMMAR, "root ::= <[0]> | <[1]>"))
        done = {each.id: each for each in pool.run(iter([free, Request(2, free.prompt, free.sampler, stuck)]))}
        pool.close()
        assert done[1].error is None and done[1].text
        assert done[2].error is not None and done[2].error.exit_code is ExitCode.UNSATISFIED

    def test_a_job_that_is_asked_again_while_its_answer_is_looked_at(self, engine: llama.LlamaEngine) -> None:
        pool = engine.open_pool(SessionSettings(512, 1, 1), 2)
        requests = [Request(n, Prompt((Part("word"),)), SamplerSettings(temperature=0), Limits(3)) for n in range(3)]
        found: list[tuple[int, int]] = []
        for done in pool.run(iter(requests)):
            assert done.finish is not None
            found.append((done.id, done.finish.usage.completion_tokens))
            if done.finish.usage.completion_tokens == 3:
                pool.resubmit(Request(done.id, requests[0].prompt, requests[0].sampler, Limits(6)))
        pool.close()
        assert sorted(found) == [(0, 3), (0, 6), (1, 3), (1, 6), (2, 3), (2, 6)]


@pytest.mark.real
class TestProgram:
    def test_rows_of_a_pipe_come_one_by_one_and_a_bad_one_has_its_second_attempt(self, home: Path, tiny: Path) -> None:
        """The second attempt must not wait for the next line: whoever writes it may wait for this one's answer."""
        arguments = ["batch", "-v", "-m", str(tiny), "-n", "8", "--seed", "3", "--regex", "[ab]{12}"]
        with fork_server.popen(
            [sys.executable, "-m", "slmchat", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(home),
        ) as program:
            assert program.stdin and program.stdout and program.stderr
            for text in (b"one\n", b"two\n"):
                program.stdin.write(text)
                program.stdin.flush()
                record = json.loads(program.stdout.readline())
                assert record["error"] is None
                assert len(record["value"]) == 12
            program.stdin.close()
            assert program.wait(300) == 0
            assert b"2 rows had to be asked a second time" in program.stderr.read()

    def test_rows_that_stay_unfinished(self, slm: Callable[..., Outcome], tiny: Path) -> None:
        done = slm("batch", "-m", tiny, "-n", "2", "--regex", "[ab]{40}", stdin="one\ntwo\n")
        assert done.code == 8
        records = [json.loads(line) for line in done.out.splitlines()]
        assert [record["value"] for record in records] == [None, None]
        assert all("it was cut off" in record["error"] for record in records)
        assert "2 of 2 rows failed" in done.err

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--schema", "-"], "standard input cannot be the schema and the input"),
            (["--schema", "{", "x"], "the schema is not valid JSON"),
            (["--regex", "a", "--json-output"], "cannot be combined"),
            (["--regex", r"\bword"], r"\b"),
        ],
    )
    def test_what_is_refused(self, slm: Callable[..., Outcome], tiny: Path, arguments: list[str], says: str) -> None:
        done = slm("batch", "-m", tiny, *arguments, stdin="one\n")
        assert (done.code, done.out) == (2, "")
        assert says in done.err

    def test_a_grammar_that_nobody_can_read_ends_the_batch(
        self, slm: Callable[..., Outcome], tiny: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "bad.gbnf").write_text('root ::= "a" | other\n')
        done = slm("batch", "-m", tiny, "--grammar", tmp_path / "bad.gbnf", stdin="one\ntwo\n")
        assert (done.code, done.out) == (2, "")
        assert "Undefined rule identifier 'other'" in done.err
        assert len(done.err.splitlines()) == 2


@pytest.mark.model
def test_fields_with_real_weights(model_home: Path, smollm2: Path) -> None:
    rows = "Ann Miller is 34.\nBob Stone is 7 years old.\nEve is 51.\n"
    done = run_slm(
        *("batch", "-m", "smollm2:135m", "--temp", "0", "--fields", "name, age int", "Who is it?"),
        home=model_home,
        stdin=rows,
    )
    assert done.code == 0, done.err
    values = [json.loads(line)["value"] for line in done.out.splitlines()]
    assert [value["age"] for value in values] == [34, 7, 51]
    assert [str(value["name"]).split()[0] for value in values] == ["Ann", "Bob", "Eve"]
