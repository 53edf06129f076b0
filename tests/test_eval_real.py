"""`slm eval` with the real llama.cpp: scores that repeat, a kill, Ctrl-C in a terminal, tasks from a Hub."""

import hashlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome, environment, run_slm
from gguf_random import write_random
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama, write_tiny_mamba
from gguf_shapes import Shape
from hub_server import HubServer
from terminal import Terminal

from slmchat.engine import llama
from slmchat.engine.requests import Choices, Limits, Part, Prompt, Request, SessionSettings
from slmchat.engine.sampler import SamplerSettings
from slmchat.evaluation import task_catalog
from slmchat.evaluation.method import EvalMethod

pytestmark = pytest.mark.real

DATA = Path(__file__).parent / "data" / "evaluation"
WORDS = [
    "the",
    "people",
    "said",
    "that",
    "water",
    "and",
    "oil",
    "were",
    "not",
    "found",
    "by",
    "the",
    "first",
    "man",
    "who",
    "could",
    "write",
    "about",
    "it",
]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_llama(
        tmp_path / "tiny.gguf",
        chat_template=CHATML_TEMPLATE,
        extra_control_tokens=("<|im_start|>", "<|im_end|>"),
        context_length=512,
    )


def write_task(folder: Path, kind: str, rows: list[dict[str, Any]], toml: str = "", name: str = "mine") -> Path:
    (folder / f"{name}.toml").write_text(f'kind = "{kind}"\nmax_tokens = 12\n{toml}')
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / f"{name}.toml"


@pytest.fixture
def tasks(tmp_path: Path) -> list[str]:
    """A task of generated answers and one of choices; more items than go into a group."""
    asked = [" ".join(WORDS[n % 7 : n % 7 + 4 + n % 5]) + f" {n}" for n in range(60)]
    words = write_task(tmp_path, "exact", [{"question": text, "answer": "word"} for text in asked], name="words")
    rows = [{"question": text, "answer": "oil", "choices": ["oil", "the water", "people who write"]} for text in asked]
    return ["--task", str(words), "--task", str(write_task(tmp_path, "choices", rows, name="choice"))]


def measured(done: Outcome) -> Any:
    """What has to be the same every time: each answer and each log-probability."""
    assert done.code == 0, done.err
    (model,) = json.loads(done.out)["models"]
    return [(task["score"], task["answers"]) for task in model["tasks"]]


def test_scores_repeat_to_the_last_bit(slm: Callable[..., Outcome], tiny: Path, tasks: list[str]) -> None:
    first = measured(slm("eval", tiny, *tasks, "--json", "--threads", "1"))
    assert [len(answers) for _, answers in first] == [60, 60]
    assert measured(slm("eval", tiny, *tasks, "--json", "--threads", "1")) == first


def test_a_killed_run_goes_on_to_the_same_scores(
    slm: Callable[..., Outcome], home: Path, tiny: Path, tasks: list[str]
) -> None:
    whole = measured(slm("eval", tiny, *tasks, "--json", "--threads", "1"))
    folder = home / "data" / "evaluations"
    before = set(folder.iterdir())
    command = [sys.executable, "-m", "slmchat", "eval", str(tiny), *tasks, "--threads", "1"]
    with subprocess.Popen(command, env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        while run.poll() is None:
            new = [file for file in set(folder.iterdir()) - before if file.read_bytes().count(b'"task"') == 1]
            if new:  # one group is kept, three are not
                run.kill()
    assert run.returncode in (0, -signal.SIGKILL)
    assert measured(slm("eval", "--resume", "--json")) == whole


def test_a_slow_source_of_requests_changes_no_batch(tmp_path: Path) -> None:
    """What a repeatable pool computes together depends on the requests alone, not on when they come."""
    engine = llama.load(write_tiny_llama(tmp_path / "t.gguf", chat_template=None, context_length=512))
    settings = SessionSettings(512, threads=1, threads_batch=1, waits_for_requests=True)
    prompts = [Prompt((Part(" ".join(WORDS[n % 9 :]) + f" {n}"),)) for n in range(20)]
    sizes: list[list[int]] = []

    def requests(turns: int, choices: Choices | None) -> Iterator[Request]:
        for n, prompt in enumerate(prompts):
            for _ in range(turns):
                hashlib.sha256(b"x" * 100_000).digest()
            yield Request(n, prompt, SamplerSettings(temperature=0, seed=1), Limits(9), choices)

    for choices in (None, Choices(("oil", "water and oil"))):
        sizes.clear()
        for turns in (0, 20):
            pool = engine.open_scorer(settings) if choices else engine.open_pool(settings, 4)
            seen: list[int] = []
            evaluate = pool._sequences.evaluate

            def watched(spans: Any, evaluate: Any = evaluate, seen: list[int] = seen) -> Any:
                seen.append(sum(len(span.tokens) for span in spans))
                return evaluate(spans)

            pool._sequences.evaluate = watched  # type: ignore[method-assign]
            assert len(list(pool.run(requests(turns, choices)))) == 20
            pool.close()
            sizes.append(seen)
        assert sizes[0] == sizes[1]
    engine.close()


def test_the_examples_are_read_once(slm: Callable[..., Outcome], tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "shown.jsonl").write_text(json.dumps({"question": " ".join(WORDS), "answer": "oil"}) + "\n")
    rows = [{"question": f"{word} {n}", "answer": "word"} for n, word in enumerate(WORDS)]
    done = slm("eval", tiny, "--task", write_task(tmp_path, "exact", rows, 'examples = "shown.jsonl"\n'), "-v")
    assert done.code == 0, done.err
    told = re.search(r"mine: .*; (\d+) tokens of every prompt were evaluated once", done.err)
    assert told and int(told[1]) > len(WORDS)


def test_a_recurrent_model_is_measured_too(slm: Callable[..., Outcome], tmp_path: Path, tasks: list[str]) -> None:
    mamba = write_tiny_mamba(tmp_path / "mamba.gguf")
    assert len(measured(slm("eval", mamba, *tasks, "--limit", "10", "--json"))) == 2


def test_ctrl_c_in_a_terminal_shows_the_table_and_how_to_go_on(home: Path, tiny: Path, tmp_path: Path) -> None:
    rows = [{"question": " ".join(WORDS) + f" {n}", "answer": "word"} for n in range(30_000)]
    task = write_task(tmp_path, "exact", rows)
    with Terminal(["eval", tiny, "--task", task, "--threads", "1"], home=home, columns=100) as terminal:
        terminal.wait_for(r"mine [1-9][\d,]+ of 30,000")
        terminal.interrupt()
        terminal.wait_for("slm eval --resume goes on")
        assert terminal.end() == 130
        shown = terminal.everything
    assert "RIGHT, in %" in shown and "interrupted; this is what was measured until then" in shown
    assert " of " in shown.partition("RIGHT, in %")[2].splitlines()[1]


class TestPublic:
    """The program and the real huggingface_hub against a Hub on the loopback."""

    @pytest.fixture
    def hub(self) -> Iterator[HubServer]:
        with HubServer() as server:
            yield server

    @pytest.fixture
    def call(self, home: Path, hub: HubServer) -> Callable[..., Outcome]:
        env = {"HF_ENDPOINT": hub.endpoint, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        return lambda *arguments: run_slm(*arguments, home=home, env=env)

    def task(self, folder: Path, hub: HubServer, file: str, sha256: str | None = None) -> Path:
        """GSM8K's first problems, as the catalog names its file."""
        content = (DATA / file).read_bytes()
        repo = hub.add("owner/gsm8k", {f"main/{file}": content})
        told = (
            f'kind = "number"\nanswer_after = "####"\nmax_tokens = 8\n[hub]\nrepo = "{repo.name}"\n'
            f'revision = "{repo.commit}"\nfile = "main/{file}"\nsha256 = "{sha256 or repo.sha256(f"main/{file}")}"\n'
        )
        (folder / "gsm.toml").write_text(told)
        return folder / "gsm.toml"

    @pytest.mark.parametrize("file", ["gsm8k.parquet", "gsm8k.jsonl"])
    def test_items_are_fetched_once_and_checked(
        self, call: Callable[..., Outcome], hub: HubServer, tiny: Path, tmp_path: Path, home: Path, file: str
    ) -> None:
        task = self.task(tmp_path, hub, file)
        done = call("eval", tiny, "--task", task, "--limit", "4", "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["models"][0]["tasks"][0]["done"] == 4
        assert len(hub.asked("storage", "GET")) == 1
        snapshot = home / "hf" / "hub" / "datasets--owner--gsm8k" / "snapshots"
        assert [path.name for path in snapshot.rglob(file)] == [file]
        assert call("eval", tiny, "--task", task, "--limit", "4", "--offline").code == 0
        assert len(hub.asked("storage", "GET")) == 1

    def test_offline_nothing_is_fetched(
        self, call: Callable[..., Outcome], hub: HubServer, tiny: Path, tmp_path: Path
    ) -> None:
        done = call("eval", tiny, "--task", self.task(tmp_path, hub, "gsm8k.parquet"), "--offline")
        assert (done.code, done.out, hub.requests) == (5, "", [])
        assert "--offline forbids to fetch them" in done.err

    def test_other_bytes_than_the_pinned_ones_are_refused(
        self, call: Callable[..., Outcome], hub: HubServer, tiny: Path, tmp_path: Path
    ) -> None:
        done = call("eval", tiny, "--task", self.task(tmp_path, hub, "gsm8k.parquet", "0" * 64))
        assert (done.code, done.out) == (6, "")
        assert "the Hub has another main/gsm8k.parquet at this revision" in done.err

    def test_a_hub_that_is_away_is_a_sentence(
        self, call: Callable[..., Outcome], hub: HubServer, tiny: Path, tmp_path: Path
    ) -> None:
        task = self.task(tmp_path, hub, "gsm8k.parquet")
        hub.status = 503
        done = call("eval", tiny, "--task", task)
        assert done.code == 5 and "Traceback" not in done.err and done.err.startswith("slm: ")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("nothing:1b",), 3, "nothing:1b"),
        (("TINY", "--task", "essay"), 2, "there is no task 'essay'"),
        (("TINY", "--task", "no.toml"), 2, "there is no task file"),
        (("TINY", "--sampler", "best"), 2, "--sampler cannot be 'best'"),
        (("TINY", "--think", "much"), 2, "--think cannot be 'much'"),
        (("TINY", "--limit", "0"), 2, "--limit"),
        (("TINY", "--minutes", "0"), 2, "--minutes"),
        (("--resume",), 2, "there is no run to go on with"),
        (("--resume", "--private"), 2, "--private keeps nothing"),
    ],
)
def test_mistakes_are_a_sentence_and_a_code(
    slm: Callable[..., Outcome], tiny: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = slm("eval", *(str(tiny) if word == "TINY" else word for word in arguments))
    assert (done.code, done.out) == (code, "")
    assert says in done.err


def test_the_time_of_the_suite_is_measured_with_answers_of_given_lengths(home: Path, tmp_path: Path) -> None:
    control = ("<|im_start|>", "<|im_end|>")
    words = write_tiny_llama(tmp_path / "words.gguf", chat_template=CHATML_TEMPLATE, extra_control_tokens=control)
    shape = Shape("llama", 2, 256, 256, 4, 2, 64, 2000, "Q4_0", context=2048)
    model = write_random(tmp_path / "random.gguf", shape, words)
    asked = EvalMethod(limit=4).selected(task_catalog.load("mathematics")).items
    lengths = json.loads((DATA / "lengths.json").read_text())["mathematics"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.eval_time", str(model), "--task", "mathematics", "--limit", "4", "--plain"],
        cwd=DATA.parents[2],
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _name, _passes, _read, generated, *_ = next(
        line for line in done.stdout.splitlines() if line.startswith("mathematics  ")
    ).split()
    # the first token of an answer is picked behind its prompt
    assert int(generated.replace(",", "")) == sum(lengths[item.id] - 1 for item in asked)


@pytest.mark.model
def test_real_weights_are_better_than_guessing(model_home: Path) -> None:
    done = run_slm(
        *("eval", "smollm2:135m", "--task", "knowledge", "--json", "--private"),
        home=model_home,
        env={"SLM_THREADS": "1"},
    )
    assert done.code == 0, done.err
    (model,) = json.loads(done.out)["models"]
    (knowledge,) = model["tasks"]
    assert knowledge["done"] == 52 and knowledge["low"] > knowledge["chance"]
    assert model["generation_tps"] > 0 and 90e6 < model["memory"] < 2e9
