"""`slm eval` at work: grades, what is kept and gone on with, budgets, what is shown. On the fake engine."""

import io
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine, FakePool, Ready
from gguf_samples import write_tiny_llama

from slmchat import settings
from slmchat.catalog.library import from_path
from slmchat.catalog.records import BASE_TAG
from slmchat.commands import eval_report
from slmchat.commands.eval import eval_models
from slmchat.engine.requests import Request, SessionSettings
from slmchat.engine.results import Result, Score
from slmchat.errors import ExitCode, SlmError
from slmchat.evaluation import grading, run_records, task_catalog
from slmchat.evaluation.method import EvalMethod
from slmchat.evaluation.progress import EvalProgress, TimeBudget
from slmchat.evaluation.records import EvalItem, ItemResult, ModelReport, TaskKind, TaskResult
from slmchat.evaluation.report_records import differences
from slmchat.evaluation.run_records import RunPlan, RunRecords, last_run
from slmchat.evaluation.statistics import paired_difference, wilson
from slmchat.models import loader, resolve, sandbox
from slmchat.options import EvalOptions
from slmchat.terminal.console import Console
from slmchat.terminal.scatter import PlotPoint, scatter

WORDS = (" word",) * 80


@dataclass
class Told:
    code: ExitCode
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        return json.loads(self.out)

    def task(self, number: int = 0, model: int = 0) -> dict[str, Any]:
        return self.report["models"][model]["tasks"][number]


class Bench:
    """The command in this process on fake engines, unsealed: models by name, tasks of a folder."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = tmp_path / "home"
        self.folder = tmp_path
        self.engines: dict[str, FakeEngine] = {}
        self.private = False
        self.tags: tuple[str, ...] = ()
        self._tiny = from_path(write_tiny_llama(tmp_path / "tiny.gguf", chat_template=None))
        monkeypatch.setattr(sandbox, "seal", lambda settings: None)
        monkeypatch.setattr(resolve, "find", lambda name, settings, console: self.installed(name or "fake"))
        monkeypatch.setattr(loader, "start_loading", lambda installed, *_, **__: Ready(self.engine(installed.name)))

    def installed(self, name: str) -> Any:
        if name == "missing":
            raise SlmError("there is no model 'missing'.", exit_code=ExitCode.NO_MODEL)
        return replace(self._tiny, name=name, tags=self.tags)

    def engine(self, name: str) -> FakeEngine:
        return self.engines.setdefault(name, FakeEngine(replies=[WORDS] * 3))

    def task(self, kind: str, *rows: dict[str, Any], name: str = "mine", toml: str = "") -> str:
        (self.folder / f"{name}.toml").write_text(f'kind = "{kind}"\n{toml}')
        (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        task_catalog.load.cache_clear()
        return str(self.folder / f"{name}.toml")

    def numbers(self, count: int, **more: Any) -> str:
        return self.task("number", *({"question": f"What is {n}?", "answer": n} for n in range(count)), **more)

    def __call__(self, *names: str, tty: bool = False, environ: dict[str, str] | None = None, **options: Any) -> Told:
        options.setdefault("json", not tty)
        streams = [io.StringIO(), _Tty() if tty else io.StringIO(), io.StringIO()]
        console = Console(*streams, environ={"COLUMNS": "80", "TERM": "xterm", **(environ or {})})
        loaded = settings.load({"SLM_HOME": str(self.home)}, is_private=self.private)
        code = eval_models(EvalOptions(names=list(names), **options), loaded, console)
        return Told(code, streams[1].getvalue(), streams[2].getvalue())


class _Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def _says_the_number(prompt: str) -> str:
    """Right for even numbers."""
    number = int(prompt.rpartition("What is ")[2].partition("?")[0])
    return f"It must be {number if number % 2 == 0 else number + 1}."


class TestScores:
    def test_numbers_are_counted_with_their_interval(self, bench: Bench) -> None:
        bench.engine("a").answer = _says_the_number
        told = bench("a", tasks=[bench.numbers(10)])
        task = told.task()
        assert told.code is ExitCode.DONE
        assert (task["score"], task["right"], task["done"], task["items"]) == (0.5, 5, 10, 10)
        assert (task["low"], task["high"]) == (0.2366, 0.7634)
        assert [answer["is_right"] for answer in task["answers"]] == [True, False] * 5
        assert task["answers"][1]["answer"] == "It must be 2."

    def test_choices_go_by_their_probability_and_by_their_length_where_the_task_says_so(self, bench: Bench) -> None:
        rows = [{"question": "?", "choices": ["no", "yes of course it is"], "answer": "no"}]
        engine = bench.engine("a")
        engine.score = lambda prompt, text: Score((-0.5,) * len(text.split()))
        assert bench("a", tasks=[bench.task("choices", *rows)]).task()["score"] == 1
        by_bytes = bench.task("choices", *rows, name="bytes", toml='normalize = "bytes"\n')
        assert bench("a", tasks=[by_bytes]).task()["score"] == 0
        by_tokens = bench.task("choices", *rows, name="tokens", toml='normalize = "tokens"\n')
        told = bench("a", tasks=[by_tokens]).task()
        assert told["score"] == 1 and told["answers"][0]["logprobs"] == [-0.5, -2.5]
        assert told["chance"] == 0.5

    def test_what_is_liked_without_input_is_taken_away(self, bench: Bench) -> None:
        def score(prompt: str, text: str) -> Score:
            return Score((-0.1 if text.strip() == "good" else -1.0 if "bad soup" not in prompt else -0.5,))

        bench.engine("a").score = score
        rows = [{"text": "a bad soup", "answer": "bad"}]
        toml = 'prompt = "{text}"\nchoices = ["good", "bad"]\n'
        assert bench("a", tasks=[bench.task("choices", *rows, toml=toml)]).task()["score"] == 0
        fair = bench.task("choices", *rows, name="fair", toml=toml + "calibrate = true\n")
        assert bench("a", tasks=[fair]).task()["score"] == 1

    def test_examples_stand_before_every_question_and_a_base_model_gets_bare_text(self, bench: Bench) -> None:
        (bench.folder / "shown.jsonl").write_text('{"question": "1+1?", "answer": 2, "worked": "So 2."}\n')
        task = bench.numbers(1, toml='system = "Count."\nexamples = "shown.jsonl"\n')
        seen: list[str] = []

        def answer(prompt: str) -> str:
            seen.append(prompt)
            return "0"

        bench.engine("a").answer = answer
        bench("a", tasks=[task])
        bench.tags = (BASE_TAG,)
        bench("a", tasks=[task])
        assert seen[0].index("Count.") < seen[0].index("1+1?") < seen[0].index("So 2.") < seen[0].index("What is 0?")
        assert "<|im_start|>" in seen[0]
        assert seen[1] == "Count.\n\n1+1? So 2.\n\nWhat is 0?"
        assert bench.engine("a").requests[-1].limits.stop == ("\n\n", "\nQuestion:")

    def test_calls_are_held_to_their_notation_and_graded_by_name_and_arguments(self, bench: Bench) -> None:
        toml = '[[tool]]\nname = "go"\n[tool.parameters]\ntype = "object"\nproperties.to = { type = "string" }\n'
        task = bench.task(
            "tools", {"question": "To Rome.", "call": {"name": "go", "arguments": {"to": "Rome"}}}, toml=toml
        )
        engine = bench.engine("a")
        engine.answer = lambda _: '<tool_call>\n{"name":"go","arguments":{"to":"rome."}}\n</tool_call>'
        assert bench("a", tasks=[task]).task()["score"] == 1
        assert engine.requests[-1].limits.constraint is not None
        engine.answer = lambda _: '<tool_call>\n{"name":"go","arguments":{"to":"Paris"}}\n</tool_call>'
        assert bench("a", tasks=[task]).task()["answers"][0]["failed"] == ["to"]

    def test_greedy_unless_the_makers_sampler_is_asked_for(self, bench: Bench) -> None:
        engine = bench.engine("a")
        bench("a", tasks=[bench.numbers(1)])
        assert engine.requests[-1].sampler.temperature == 0
        bench("a", tasks=[bench.numbers(1)], sampler="maker")
        assert engine.requests[-1].sampler.temperature > 0 and engine.requests[-1].sampler.seed == 1

    def test_a_thought_has_room_of_its_own_and_is_off_unless_asked_for(self, bench: Bench) -> None:
        engine, task = bench.engine("a"), bench.numbers(1, toml="max_tokens = 50\n")
        bench("a", tasks=[task])
        assert (engine.requests[-1].limits.max_tokens, engine.requests[-1].limits.thinking.mode) == (50, "off")
        engine.answer = lambda prompt: "<think>Is it 7?</think>It is 0."
        told = bench("a", tasks=[task], think_budget=100)
        asked = engine.requests[-1].limits
        assert asked.max_tokens is not None and 150 < asked.max_tokens < 250
        assert (asked.thinking.mode, asked.thinking.budget) == ("on", 100)
        assert told.task()["answers"][0]["answer"] == "It is 0." and told.task()["score"] == 1

    def test_a_row_may_allow_fewer_tokens_than_its_task(self, bench: Bench) -> None:
        rows = [{"question": f"What is {n}?", "answer": n, **more} for n, more in enumerate(({}, {"max_tokens": 9}))]
        engine = bench.engine("a")
        bench("a", tasks=[bench.task("number", *rows, toml="max_tokens = 50\n")])
        assert [request.limits.max_tokens for request in list(engine.requests)[-2:]] == [50, 9]

    def test_an_item_that_cannot_be_asked_counts_as_wrong_and_is_told(self, bench: Bench) -> None:
        error = SlmError("it does not fit.", exit_code=ExitCode.CONTEXT)
        bench.engine("a").answer = lambda prompt: error if "What is 1?" in prompt else _says_the_number(prompt)
        told = bench("a", tasks=[bench.numbers(3)])
        assert (told.task()["right"], told.task()["answers"][1]["error"]) == (2, "it does not fit.")
        assert "1 item could not be asked" in told.err


GRADES: list[tuple[TaskKind, EvalItem, str, bool]] = [
    (TaskKind.EXACT, EvalItem("", "?", answers=("The Hague",)), "the hague.", True),
    (TaskKind.EXACT, EvalItem("", "?", answers=("Hague",)), "It is Hague", False),
    (TaskKind.EXACT, EvalItem("", "?", answers=("A",)), "a.", True),
    (TaskKind.EXACT, EvalItem("", "?", answers=("A",)), "", False),
    (TaskKind.EXACT, EvalItem("", "?", answers=("A",)), "the", False),
    (TaskKind.EXACT, EvalItem("", "?", answers=("+",)), "+", True),
    (TaskKind.EXACT, EvalItem("", "?", answers=("+",)), "-", False),
    (TaskKind.SPAN, EvalItem("", "?", answers=("A",)), "The answer is A.", True),
    (TaskKind.SPAN, EvalItem("", "?", answers=("A",)), "The answer is B.", False),
    (TaskKind.SPAN, EvalItem("", "?", answers=("A",)), "", False),
    (TaskKind.SPAN, EvalItem("", "?", answers=("4.6 metres",)), "It rose to 4.6 metres.", True),
    (TaskKind.SPAN, EvalItem("", "?", answers=("fish",)), "It eats starfish.", False),
    (TaskKind.SPAN, EvalItem("", "?", answers=("fish",)), "Birds.\n\nAlso fish.", False),
    (TaskKind.SPAN, EvalItem("", "?", answers=("fish",)), "word " * 30 + "fish", False),
    (TaskKind.NUMBER, EvalItem("", "?", answers=("1250",)), "3 * 4 = 12\n#### 1,250.0", True),
    (TaskKind.NUMBER, EvalItem("", "?", answers=("4",)), "four", False),
    (TaskKind.TOOLS, EvalItem("", "?", call=None), "Hello!", True),
    (TaskKind.TOOLS, EvalItem("", "?", call=None), '<tool_call>\n{"name":"a","arguments":{}}\n</tool_call>', False),
]


@pytest.mark.parametrize(("kind", "item", "text", "is_right"), GRADES)
def test_grades(kind: TaskKind, item: EvalItem, text: str, is_right: bool) -> None:
    assert grading.grade(kind, item, text).is_right is is_right


class TestKept:
    def test_what_is_measured_is_the_owners_alone(self, bench: Bench) -> None:
        bench("a", tasks=[bench.numbers(3)])
        file = last_run(bench.home / "data" / "evaluations")
        assert file is not None
        if os.name == "posix":
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700

    def test_private_keeps_nothing_and_resumes_nothing(self, bench: Bench) -> None:
        bench.private = True
        assert bench("a", tasks=[bench.numbers(3)]).code is ExitCode.DONE
        assert not (bench.home / "data" / "evaluations").exists()
        with pytest.raises(SlmError, match="--private keeps nothing"):
            bench(resume=True)

    def test_ctrl_c_shows_what_there_is_and_resume_asks_only_the_rest(self, bench: Bench) -> None:
        asked: list[str] = []
        bench.engine("a").answer = _ending_after(bench.engine("a"), 60, asked)
        told = bench("a", tasks=[bench.numbers(100)])
        assert told.code is ExitCode.INTERRUPTED
        assert told.task()["done"] == 60 and told.task()["items"] == 100
        assert "slm eval --resume goes on" in told.err
        bench.engines.clear()
        again: list[str] = []
        bench.engine("a").answer = _ending_after(None, None, again)
        whole = bench(resume=True)
        assert whole.code is ExitCode.DONE
        assert len(again) == 52  # a group of 48 was kept, the one that was cut is asked again
        assert (whole.task()["done"], whole.task()["score"]) == (100, 0.5)

    @pytest.mark.parametrize("cut", [1, 30, 200])
    def test_a_last_line_that_was_cut_is_measured_again(self, bench: Bench, cut: int) -> None:
        bench.engine("a").answer = _says_the_number
        before = bench("a", tasks=[bench.numbers(100)])
        file = last_run(bench.home / "data" / "evaluations")
        assert file is not None
        file.write_bytes(file.read_bytes()[:-cut])
        asked: list[str] = []
        bench.engines.clear()
        bench.engine("a").answer = _ending_after(None, None, asked)
        after = bench(resume=True)
        assert len(asked) == 4  # the third group
        assert _without_times(after.report) == _without_times(before.report)
        assert _without_times(bench(resume=True).report) == _without_times(before.report)
        assert len(asked) == 4

    def test_a_task_or_a_model_that_has_changed_is_not_gone_on_with(self, bench: Bench) -> None:
        bench("a", tasks=[bench.numbers(3)])
        bench.numbers(4)
        with pytest.raises(SlmError, match=r"the task .*mine\.toml has changed") as caught:
            bench(resume=True)
        assert caught.value.exit_code is ExitCode.USAGE

    def test_resume_takes_nothing_else_and_needs_a_run(self, bench: Bench) -> None:
        with pytest.raises(SlmError, match="there is no run to go on with"):
            bench(resume=True)
        with pytest.raises(SlmError, match="just as it was begun"):
            bench("a", resume=True)
        with pytest.raises(SlmError, match="just as it was begun"):
            bench(resume=True, parallel=3)

    @pytest.mark.slow
    def test_a_sample_of_all_tasks_together_is_gone_on_with_and_a_named_task_is_asked_whole(self, bench: Bench) -> None:
        def answer(prompt: str) -> str:
            if "\nQuestion: In which year was the lighthouse built?" in prompt:
                os.kill(os.getpid(), 2)
            return "0"

        engine = bench.engine("a")
        engine.score = lambda prompt, text: Score((-1.0,))
        engine.answer = answer
        assert bench("a").code is ExitCode.INTERRUPTED
        engine.answer = lambda prompt: "0"
        whole = bench(resume=True)
        assert whole.code is ExitCode.DONE
        assert {task["task"]: task["items"] for task in whole.report["models"][0]["tasks"]}["sentiment"] == 48
        assert all(task["done"] == task["items"] >= 40 for task in whole.report["models"][0]["tasks"])
        n_asked = len(engine.requests)
        assert bench(resume=True).report["models"] == whole.report["models"]
        assert len(engine.requests) == n_asked
        assert bench("a", tasks=["sentiment"]).task()["items"] == 204

    def test_a_file_that_is_no_run_is_named(self, bench: Bench) -> None:
        folder = bench.home / "data" / "evaluations"
        folder.mkdir(parents=True)
        (folder / "2026-01-01T00-00-00.jsonl").write_text('{"format": 99}\n')
        with pytest.raises(SlmError, match="is not a run of slm eval") as caught:
            bench(resume=True)
        assert caught.value.exit_code is ExitCode.DAMAGED

    def test_runs_that_begin_in_the_same_moment_have_a_file_each(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = RunPlan({}, {}, EvalMethod())
        monkeypatch.setattr(run_records.time, "time_ns", lambda: 1_790_000_000_999_999_000)
        # the other one has looked before this one had made its file
        exists = Path.exists
        monkeypatch.setattr(Path, "exists", lambda file: file.parent != tmp_path and exists(file))
        runs = [RunRecords.begin(plan, tmp_path) for _ in range(12)]
        monkeypatch.undo()
        files = [run.file for run in runs]
        assert sorted(tmp_path.iterdir()) == files  # and the last one by its name began last
        assert last_run(tmp_path) == files[-1]
        for run in runs:
            run.close()

    @pytest.mark.skipif(os.name != "posix", reason="locks of files")
    def test_two_runs_do_not_write_one_file(self, bench: Bench) -> None:
        bench("a", tasks=[bench.numbers(3)])
        file = last_run(bench.home / "data" / "evaluations")
        assert file is not None
        first = RunRecords.read(file)
        first.go_on()
        with pytest.raises(SlmError, match="is being written by another slm eval"):
            bench(resume=True)
        first.close()


def _ending_after(engine: FakeEngine | None, count: int | None, asked: list[str]) -> Callable[[str], str]:
    """Answers, and cancels the pool at work when so many have been asked."""

    def answer(prompt: str) -> str:
        asked.append(prompt)
        if len(asked) == count and engine is not None:
            os.kill(os.getpid(), 2)
        return _says_the_number(prompt)

    return answer


def _without_times(report: dict[str, Any]) -> dict[str, Any]:
    told = json.loads(json.dumps(report))
    for model in told["models"]:
        del model["memory"]
        for task in model["tasks"]:
            del task["seconds"]
    return told


class TestModels:
    def test_one_that_fails_stops_no_other(self, bench: Bench) -> None:
        class Broken(FakeEngine):
            def open_pool(self, settings: SessionSettings, parallel: int | None = None) -> FakePool:
                raise SlmError("a KV cache does not fit.", exit_code=ExitCode.NO_FIT)

        bench.engines["a"] = Broken(replies=[WORDS] * 3)
        bench.engine("b").answer = _says_the_number
        told = bench("a", "b", tasks=[bench.numbers(4)])
        assert told.code is ExitCode.ROWS_FAILED
        assert told.report["models"][0]["error"] == "a KV cache does not fit."
        assert told.task(model=1)["score"] == 0.5
        assert "a could not be measured to the end: a KV cache does not fit." in told.err
        assert bench("a", tasks=[bench.numbers(4)]).code is ExitCode.NO_FIT

    def test_a_task_has_the_same_window_whatever_is_measured_beside_it(self, bench: Bench) -> None:
        """The size of a window can move the last bits of a score."""
        opened: list[int] = []

        class Watched(FakeEngine):
            def open_pool(self, settings: SessionSettings, parallel: int | None = None) -> FakePool:
                opened.append(settings.n_ctx)
                return super().open_pool(settings, parallel)

        short = bench.numbers(2, toml="max_tokens = 10\n")
        long = bench.numbers(2, name="long", toml="max_tokens = 3000\n")
        for tasks in ([short], [short, long], [long, short]):
            bench.engines["a"] = Watched(replies=[WORDS] * 3)
            bench("a", tasks=tasks)
        assert opened == [256, 256, 3072, 3072, 256]
        bench.engines["a"] = Watched(replies=[WORDS] * 3)
        bench("a", tasks=[short], ctx=700)
        assert opened[-1] == 700

    def test_a_model_that_is_named_twice_is_measured_once(self, bench: Bench) -> None:
        told = bench("a", "a", tasks=[bench.numbers(4)])
        assert [model["model"] for model in told.report["models"]] == ["a"]

    def test_two_tasks_of_one_name_are_refused(self, bench: Bench, tmp_path: Path) -> None:
        first = bench.numbers(4)
        bench.folder = tmp_path / "other"
        bench.folder.mkdir()
        with pytest.raises(SlmError, match="two tasks are called 'mine'"):
            bench("a", tasks=[first, bench.numbers(4)])

    def test_a_name_that_is_wrong_costs_no_measurement(self, bench: Bench) -> None:
        with pytest.raises(SlmError, match="missing"):
            bench("a", "missing", tasks=[bench.numbers(4)])
        assert not bench.engine("a").requests

    def test_every_engine_is_closed_and_asked_repeatably(self, bench: Bench) -> None:
        opened: list[SessionSettings] = []

        class Watched(FakeEngine):
            def open_pool(self, settings: SessionSettings, parallel: int | None = None) -> FakePool:
                opened.append(settings)
                return super().open_pool(settings, parallel)

        bench.engines["a"] = Watched(replies=[WORDS] * 3)
        bench("a", tasks=[bench.numbers(60)])
        assert bench.engine("a").is_closed
        assert [(made.waits_for_requests, made.adapts_threads, made.store) for made in opened] == [(True, False, None)]


class _Expecting(FakeEngine):
    """Expects the same token everywhere, and counts the texts that it reads."""

    n_read = 0
    expects = 0
    fault: SlmError | None = None
    is_interrupted = False

    def open_text_logits(self, settings: SessionSettings) -> "_Expecting":
        if self.fault is not None:
            raise self.fault
        return self

    def tokens(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def read(self, tokens: Sequence[int]) -> Iterator[Any]:
        self.n_read += 1
        if self.is_interrupted:
            os.kill(os.getpid(), 2)
        yield np.tile(np.eye(3, dtype=np.float32)[self.expects], (len(tokens), 1))

    def cancel(self) -> None: ...


class TestQuantizationsOfOneModel:
    """`slm eval a@F16 a@Q8_0 a@Q4_0 b`: how much each says what the largest one says, beside the scores."""

    @pytest.fixture
    def bench(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
        sizes = {"F16": 400, "Q8_0": 200, "Q4_0": 100, "": 50}

        def find(name: str, *_: object) -> Any:
            model, _, quantization = name.partition("@")
            made = bench.installed(model)
            files = (replace(made.files[0], size=sizes[quantization]),)
            return replace(made, quantization=quantization, files=files, admitted_at="2026-11-26")

        monkeypatch.setattr(resolve, "find", find)
        monkeypatch.setattr(loader, "start_loading", lambda installed, *_, **__: Ready(bench.engine(installed.key)))
        for key in ("a@F16", "a@Q8_0", "a@Q4_0", "b"):
            bench.engines[key] = _Expecting(replies=[WORDS] * 3)
        return bench

    def engine(self, bench: Bench, key: str) -> _Expecting:
        found = bench.engines[key]
        assert isinstance(found, _Expecting)
        return found

    def test_they_are_compared_with_the_largest_whatever_the_order(self, bench: Bench) -> None:
        self.engine(bench, "a@Q4_0").expects = 1
        told = bench("a@Q4_0", "b", "a@F16", "a@Q8_0", tasks=[bench.numbers(2)]).report["models"]
        q4, b, f16, q8 = (model["agreement"] for model in told)
        assert (b, f16) == (None, None)
        assert (q4["reference"], q4["top_token"]) == ("a@F16", 0)
        assert (q8["reference"], q8["top_token"], q8["kl_divergence"]) == ("a@F16", 1, 0)
        # of three tokens one has e/(e+2) and the others 1/(e+2), and another one is first: (e-1)/(e+2) nats
        assert q4["kl_divergence"] == pytest.approx((math.e - 1) / (math.e + 2), abs=1e-4)

    def test_the_table_and_the_sentences_say_it(self, bench: Bench) -> None:
        names, task = ("a@F16", "a@Q8_0"), bench.numbers(2)
        out = bench(*names, tasks=[task], tty=True).out
        assert re.search(r"same token, % +the largest +100 \(100-100\)", out), out
        assert re.search(r"KL, nats +- +0.0000", out)
        plain = bench(*names, tasks=[task], tty=True, plain=True).out
        assert "At 100 percent of the places of a text its most probable token is that of a@F16" in plain

    def test_it_is_kept_and_not_measured_again(self, bench: Bench) -> None:
        first = bench("a@F16", "a@Q8_0", tasks=[bench.numbers(2)])
        n_read = self.engine(bench, "a@Q8_0").n_read
        again = bench(resume=True)
        assert again.report["models"][1]["agreement"] == first.report["models"][1]["agreement"]
        assert 0 < n_read == self.engine(bench, "a@Q8_0").n_read

    def test_ctrl_c_meanwhile_keeps_the_scores_and_resume_compares(self, bench: Bench) -> None:
        self.engine(bench, "a@Q8_0").is_interrupted = True
        told = bench("a@F16", "a@Q8_0", "a@Q4_0", tasks=[bench.numbers(2)])
        assert told.code is ExitCode.INTERRUPTED and "slm eval --resume goes on" in told.err
        assert [model["tasks"][0]["done"] for model in told.report["models"]] == [2, 2, 2]
        assert [model["agreement"] for model in told.report["models"]] == [None, None, None]
        self.engine(bench, "a@Q8_0").is_interrupted = False
        again = bench(resume=True)
        assert again.code is ExitCode.DONE
        assert [bool(model["agreement"]) for model in again.report["models"]] == [False, True, True]

    def test_one_that_cannot_be_compared_keeps_its_scores(self, bench: Bench) -> None:
        self.engine(bench, "a@Q8_0").fault = SlmError("there is no memory for it.", exit_code=ExitCode.NO_FIT)
        told = bench("a@F16", "a@Q8_0", "a@Q4_0", tasks=[bench.numbers(2)])
        assert told.code is ExitCode.DONE
        _f16, q8, q4 = told.report["models"]
        assert (q8["agreement"], q8["tasks"][0]["done"], q4["agreement"]["top_token"]) == (None, 2, 1)
        assert "a@Q8_0 could not be compared token by token: there is no memory for it." in told.err

    def test_minutes_are_for_the_tasks(self, bench: Bench) -> None:
        told = bench("a@F16", "a@Q8_0", tasks=[bench.numbers(2)], minutes=1.0)
        assert told.report["models"][1]["agreement"] is None
        assert self.engine(bench, "a@F16").n_read == 0


class TestShown:
    def test_rows_of_a_public_task_that_cannot_be_asked_are_counted(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows: list[dict[str, Any]] = [{"question": "What is 2?", "answer": 2}, {"question": "What is it?"}]
        (bench.folder / "fetched.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in [*rows, rows[1], rows[0]])
        )
        monkeypatch.setattr("slmchat.evaluation.public_data.here", lambda spec: bench.folder / "fetched.jsonl")
        hub = f'[hub]\nrepo = "owner/set"\nrevision = "{"a" * 40}"\nfile = "f.jsonl"\nsha256 = "{"b" * 64}"\n'
        task = bench.task("number", toml=hub)
        told = bench("a", tasks=[task])
        assert (told.task()["items"], told.task()["left_out"]) == (2, 2)
        out = bench("a", tasks=[task], tty=True).out
        said = "mine: 2 rows cannot be asked and are left out (line 2: 'answer' must be a number)"
        assert said in " ".join(out.split())

    def both(self, bench: Bench) -> list[str]:
        bench.engine("small").answer = lambda prompt: "nothing"
        bench.engine("large").answer = lambda prompt: prompt.rpartition("What is ")[2].partition("?")[0]
        return [
            bench.numbers(40),
            bench.task("choices", {"question": "?", "choices": ["a", "b"], "answer": "a"}, name="c"),
        ]

    @pytest.mark.parametrize("columns", [80, 60, 40])
    def test_table_and_plot_fit_the_window(self, bench: Bench, columns: int) -> None:
        told = bench("small", "large", tasks=self.both(bench), tty=True, environ={"COLUMNS": str(columns)})
        lines = [_plain(line) for line in told.out.splitlines()]
        assert max(map(len, lines)) <= columns, lines
        text = " ".join(" ".join(lines).split())
        assert "100 (91-100)" in text and "0 (0-9)" in text
        assert "large is better than small in mine: 100 points (100 to 100)" in text
        assert "does not do better than guessing in: c" in text
        assert any(line.rstrip().endswith("A") for line in lines) and "generation tok/s" in text

    def test_a_pipe_gets_the_table_without_a_plot(self, bench: Bench) -> None:
        told = bench("small", "large", tasks=self.both(bench), json=False)
        assert "RIGHT, in %" in told.out and "+---" not in told.out and "\x1b" not in told.out

    def test_a_screen_reader_gets_sentences(self, bench: Bench) -> None:
        told = bench("small", "large", tasks=self.both(bench), tty=True, plain=True)
        assert "mine: 100 percent right, 91 to 100; 40 of 40 items." in told.out
        assert "c: 100 percent right" in told.out and "guessing gives 50%" in told.out
        assert "RIGHT, in %" not in told.out and "|" not in told.out

    def test_long_names_get_letters(self, bench: Bench) -> None:
        names = ["a-model-with-a-very-long-name:1b@Q4_K_M", "another-model-with-a-long-name:2b@Q8_0"]
        told = bench(*names, tasks=[bench.numbers(2)], tty=True)
        assert f"A  {names[0]}" in told.out and "RIGHT, in %" in told.out

    def test_the_list_has_every_task(self, bench: Bench) -> None:
        told = bench(is_list=True)
        assert [each["task"] for each in told.report] == [*task_catalog.SUITE, *task_catalog.PUBLIC]  # type: ignore[index]
        assert all(word in bench(is_list=True, json=False).out for word in ("gsm8k", "MIT", "knowledge", "48 of 204"))

    def test_a_task_that_does_not_exist_is_answered_with_the_nearest(self, bench: Bench) -> None:
        with pytest.raises(SlmError, match="there is no task 'mathematic'") as caught:
            bench("a", tasks=["mathematic"])
        assert caught.value.hint == "did you mean mathematics?"

    def test_an_interrupted_first_item_shows_no_empty_table(self) -> None:
        console = Console(io.StringIO(), io.StringIO(), io.StringIO(), environ={})
        empty = TaskResult("t", "t", TaskKind.NUMBER, 5, 0.0, (), 0.0)
        eval_report.show([ModelReport("m", "m", 1, None, (empty,))], None, EvalOptions(), console)  # type: ignore[arg-type]
        assert console.stdout.getvalue() == ""  # type: ignore[attr-defined]


def _plain(line: str) -> str:
    return line.replace("\x1b[1m", "").replace("\x1b[0m", "").replace("\x1b[22m", "")


class TestStatistics:
    @pytest.mark.parametrize(
        ("right", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)]
    )
    def test_wilson_as_in_the_books(self, right: int, n: int, low: float, high: float) -> None:
        """81 of 263: Newcombe 1998, table I."""
        found = wilson(right, n)
        assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))

    def test_nothing_measured_may_be_anything(self) -> None:
        assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)

    @pytest.mark.slow
    def test_a_difference_is_paired(self) -> None:
        """The same two scores: clear where one is right wherever the other is, unclear where they are right by turns."""
        one, other = [1.0] * 60 + [0.0] * 40, [1.0] * 50 + [0.0] * 50
        assert paired_difference(one, other).is_clear
        turned = [0.0] * 50 + [1.0] * 50
        assert not paired_difference(one, turned).is_clear
        assert paired_difference(one, other).value == paired_difference(one, turned).value == pytest.approx(0.1)
        assert paired_difference(one, other) == paired_difference(one, other)
        assert not paired_difference(one, one).is_clear

    def test_only_items_that_both_have_are_compared(self) -> None:
        def report(name: str, **items: bool) -> ModelReport:
            made = tuple(ItemResult(id, right) for id, right in items.items())
            return ModelReport(name, name, 1, None, (TaskResult("t", "t", TaskKind.NUMBER, 9, 0.0, made, 0.0),))

        (found,) = differences([report("a", x=True, y=False), report("b", y=True, z=True)])
        assert (found.difference.n, found.difference.value) == (1, 1.0)


class TestTime:
    def test_minutes_are_shared_among_models_and_tasks(self) -> None:
        now = [0.0]
        budget = TimeBudget(4, 2, lambda: now[0])
        groups = []
        for _ in range(2):
            budget.begin_model()
            for left in (2, 1):
                budget.begin_task(left)
                count = 0
                while budget.has_room():
                    now[0] += 25
                    budget.note(25)
                    count += 1
                groups.append(count)
        assert groups == [2, 2, 2, 2] and now[0] <= 240

    def test_each_task_gets_a_first_group_and_without_minutes_there_is_no_end(self) -> None:
        now = [0.0]
        late = TimeBudget(0.1, 1, lambda: now[0])
        late.begin_model()
        now[0] = 100.0
        late.begin_task(1)
        assert late.has_room()
        late.note(50)
        assert not late.has_room()
        endless = TimeBudget(None, 1, lambda: 1e9)
        endless.begin_model()
        endless.begin_task(1)
        endless.note(1e6)
        assert endless.has_room()

    def test_with_minutes_every_task_has_a_score(self, bench: Bench) -> None:
        bench.engine("a").answer = _says_the_number
        told = bench("a", tasks=[bench.numbers(200), bench.numbers(200, name="two")], minutes=0.1)
        assert all(task["done"] >= 8 for task in told.report["models"][0]["tasks"])

    def test_the_time_left_is_told(self) -> None:
        said: list[str] = []
        now = [0.0]
        task = replace(task_catalog.load("mathematics"), items=task_catalog.load("mathematics").items[:10])
        progress = EvalProgress(_StatusLine(said), [task], 2, lambda: now[0])  # type: ignore[arg-type]
        progress.begin("m", task, 0)
        for _ in range(5):
            now[0] += 2
            progress.add()
        assert said[-1] == "m · mathematics 5 of 10, 0:30 left"

    def test_the_time_left_is_told_before_the_first_item_and_stays_about_right(self) -> None:
        """The whole suite on a device that reads 100 tokens a second, as many as SmolLM2-135M was measured to take."""
        spent = {"knowledge": 9.2, "reasoning": 14.1, "mathematics": 62.6, "reading": 29.8, "instructions": 35.4}
        spent |= {"tools": 76.7, "sentiment": 16.2}
        said: list[str] = []
        now = [0.0]
        tasks = [EvalMethod(is_suite=True).selected(task_catalog.load(name)) for name in task_catalog.SUITE]
        progress = EvalProgress(_StatusLine(said), tasks, 1, lambda: now[0])  # type: ignore[arg-type]
        progress.expect(100.0)
        for task in tasks:
            progress.begin("m", task, 0)
            for _ in task.items:
                now[0] += spent[task.name] / len(task.items)
                progress.add()
                minutes, seconds = map(int, said[-1].rpartition(", ")[2].removesuffix(" left").split(":"))
                left = sum(spent.values()) - now[0]
                assert left / 1.75 - 5 < 60 * minutes + seconds < left * 1.75 + 5, said[-1]
        assert re.fullmatch(r"m · knowledge 0 of 52, 3:[0-5]\d left", said[0]), said[0]


class TestScatter:
    def test_points_stand_where_they_belong_and_never_on_each_other(self) -> None:
        lines = scatter(
            [PlotPoint("A", 10, 50), PlotPoint("B", 10, 50), PlotPoint("C", 20, 100)], 40, 5, x_label="x", y_label="y"
        )
        assert lines[0] == "y" and lines[1].endswith("C") and lines[1].startswith(" 100 |")
        assert "AB" in lines[3] or "BA" in lines[3]
        assert all(len(line) <= 40 for line in lines)

    def test_no_room_no_plot(self) -> None:
        assert scatter([PlotPoint("A", 1, 1)], 15, 5, x_label="x", y_label="y") == []
        assert scatter([], 80, 5, x_label="x", y_label="y") == []


def test_a_result_of_a_pool_that_failed_before_it_was_asked_is_an_item_too(bench: Bench) -> None:
    class Refusing(FakePool):
        def _done(self, request: Request) -> Result:
            return Result(request.id, error=SlmError("no.", exit_code=ExitCode.CONTEXT))

    class Engine(FakeEngine):
        def open_pool(self, settings: SessionSettings, parallel: int | None = None) -> FakePool:
            return Refusing(self, settings)

    bench.engines["a"] = Engine(replies=[WORDS] * 3)
    assert bench("a", tasks=[bench.numbers(2)]).task()["right"] == 0


class _StatusLine:
    """A reporter that keeps what it is told to show."""

    has_status_line = True

    def __init__(self, said: list[str]) -> None:
        self.status = said.append
