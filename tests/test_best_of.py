"""`--best-of N`: several answers of which one counts; votes, seeds, refusals, batches, Ctrl-C."""

import io
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_desk import Desk
from conftest import Outcome, run_slm
from endpoint_server import USAGE, EndpointServer, Handler, stream
from fake_engine import FakeEngine, Ready
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama

import slmchat
from slmchat.api.model import Model
from slmchat.catalog.records import Installed, InstalledFile
from slmchat.cli import run_cli
from slmchat.engine.requests import Limits
from slmchat.engine.results import FinishReason
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import structured
from slmchat.generation.ballot import AnswerCandidate, Vote, elected
from slmchat.generation.batch.answers import Completions
from slmchat.generation.batch.rows import Row
from slmchat.generation.best_of import BestOf
from slmchat.generation.numbers import last_number
from slmchat.models import loader, resolve, sandbox
from slmchat.terminal.console import Console


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("So the answer is 42.", "42"),
        ("He pays $1,250.50 in all", "1250.5"),
        ("1, 2 and 3.0", "3"),
        ("between 5-10", "10"),
        ("it falls to −3", "-3"),
        ("a loss of -$5", "-5"),
        ("**18** apples", "18"),
        (r"\boxed{072}", "72"),
        ("-0", "0"),
        ("x2 is a name", None),
        ("none", None),
    ],
)
def test_the_last_number_of_an_answer_in_one_spelling(text: str, number: str | None) -> None:
    assert last_number(text) == number


def _said(
    text: str, logprob: float | None = -1.0, reason: FinishReason = FinishReason.STOP, **more: Any
) -> AnswerCandidate:
    return AnswerCandidate(1, text, mean_logprob=logprob, reason=reason, n_tokens=3, **more)


class TestElection:
    def test_the_majority_wins_and_its_most_probable_answer_is_shown(self) -> None:
        said = [_said("7", -0.1), _said("so 8.0", -2.0), _said("it is 8", -1.0), _said("?", -0.01)]
        ballot = elected(said, Vote.NUMBER)
        assert (ballot.chosen, ballot.n_agreeing, ballot.ballots) == (2, 2, ("7", "8", "8", None))

    def test_a_tie_goes_to_the_answer_that_was_most_probable(self) -> None:
        said = [_said("1", -3.0), _said("1", -3.0), _said("2", -9.0), _said("2", -0.5)]
        assert elected(said, Vote.NUMBER).chosen == 3
        assert elected([_said("1", None), _said("2", None)], Vote.NUMBER).chosen == 0

    def test_free_text_is_chosen_by_its_mean_logprob_and_an_end_counts_before_it(self) -> None:
        cut = _said("and then", -0.1, FinishReason.LENGTH)
        assert elected([_said("a", -2.0), cut, _said("b", -1.5), _said(" ", -0.0)], Vote.LOGPROB).chosen == 2
        assert elected([cut, _said("", -0.1)], Vote.LOGPROB).chosen == 0

    def test_texts_are_compared_without_case_space_and_full_stop(self) -> None:
        ballot = elected([_said("Paris."), _said(" paris"), _said("Lyon", -0.1)], Vote.TEXT)
        assert (ballot.chosen, ballot.n_agreeing) == (0, 2)

    def test_values_are_compared_whatever_the_order_of_their_keys(self) -> None:
        said = [_said("x", value={"a": 1, "b": 2}), _said("y", -0.1, value=3), _said("z", -0.2, value={"b": 2, "a": 1})]
        assert elected(said, Vote.VALUE).chosen == 2

    def test_one_that_failed_has_no_vote_and_when_all_have_the_first_says_why(self) -> None:
        failed = [_said("", error=SlmError(text, exit_code=ExitCode.UNSATISFIED)) for text in ("one.", "two.")]
        assert elected([failed[0], _said("3"), failed[1]], Vote.NUMBER).chosen == 1
        with pytest.raises(SlmError, match="one"):
            elected(failed, Vote.NUMBER)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def planted(engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose one model is the fake engine, in a process that is not sealed."""
    file = InstalledFile(tmp_path / "m.gguf", None, 1, 1)
    found = Installed("fake:1b", "Q4_K_M", (file,), "test", "2026-01-01T00:00:00Z", sampler={"temperature": 0.3})
    monkeypatch.setattr(resolve, "find", lambda *_: found)
    monkeypatch.setattr(loader, "start_loading", lambda *_, **__: Ready(engine))
    monkeypatch.setattr(sandbox, "seal", lambda *_, **__: None)
    monkeypatch.setenv("SLM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def model(planted: Path) -> Iterator[Model]:
    with slmchat.load("fake:1b", ctx=400) as made:
        yield made


def _saying(engine: FakeEngine, *texts: str) -> None:
    said = iter(texts)
    engine.answer = lambda _prompt: next(said)


class TestPython:
    def test_the_number_that_most_answers_end_with(self, model: Model, engine: FakeEngine) -> None:
        _saying(engine, "7", "it is 8", "so 8")
        done = model.complete("How many?", best_of=3, vote="number", seed=5)
        assert (done.text, done.seed, done.best_of and done.best_of.n_agreeing) == ("it is 8", 7, 2)
        assert [request.sampler.seed for request in engine.requests] == [5, 7, 9]
        assert done.logprobs == ()  # asked for to choose by, not by the program

    def test_a_second_attempt_takes_the_seed_that_is_left_for_it(self, model: Model, engine: FakeEngine) -> None:
        _saying(engine, "none", "4", "5", "5")
        done = model.complete("How many?", best_of=3, regex="[0-9]", seed=5)
        assert sorted(request.sampler.seed or 0 for request in engine.requests) == [5, 6, 7, 9]
        assert (done.value, done.best_of and done.best_of.n_agreeing) == ("5", 2)

    def test_a_thought_has_no_vote_and_no_say_in_how_probable_an_answer_is(
        self, model: Model, engine: FakeEngine
    ) -> None:
        _saying(engine, "<think>9 surely</think>1", "<think>it is</think>2")
        engine.logprob = lambda word: {"surely</think>1": -0.2, "is</think>2": -0.1}.get(word.strip(), -50.0)
        done = model.complete("?", best_of=2)
        assert (done.text, done.thinking) == ("2", "it is")
        assert done.best_of is not None
        assert [one.mean_logprob for one in done.best_of.candidates] == [-0.2, -0.1]
        _saying(engine, "<think>9</think>1", "<think>9</think>2", "<think>8</think>2")
        assert model.complete("?", best_of=3, vote="number").text == "2"

    def test_many_prompts_each_with_its_own_vote(self, model: Model, engine: FakeEngine) -> None:
        _saying(engine, "1", "2", "2", "3", "3", "4")
        done = model.complete_many(["a", "b"], best_of=3, vote="text")
        assert [str(one) for one in done] == ["2", "3"]

    def test_one_is_as_ever(self, model: Model, engine: FakeEngine) -> None:
        done = model.complete("Hi", best_of=1)
        assert (done.text, done.best_of, len(engine.requests)) == ("Hello.", None, 0)

    def test_to_cancel_leaves_none(self, model: Model, engine: FakeEngine) -> None:
        said = iter(["one", "two", "three"])

        def answer(_prompt: str) -> str:
            model.cancel()
            return next(said)

        engine.answer = answer
        done = model.complete("Hi", best_of=3)
        assert (done.finish_reason, done.text) == (FinishReason.INTERRUPTED, "")
        _saying(engine, "a", "a")
        assert model.complete("Hi", best_of=2).text == "a"

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"best_of": 3, "temperature": 0}, "at temperature 0 all 3 answers would be the same."),
            ({"best_of": 3, "top_k": 1}, "with top_k=1 all 3 answers would be the same."),
            ({"best_of": 65}, "best_of must be a whole number from 1 to 64, or None."),
            ({"best_of": True}, "best_of must be a whole number from 1 to 64, or None."),
            ({"vote": "number"}, "vote is between several answers."),
            ({"best_of": 3, "vote": "luck"}, "vote cannot be 'luck'."),
            ({"best_of": 3, "vote": "value"}, "vote value compares answers in a given format."),
        ],
    )
    def test_what_is_refused(self, model: Model, options: dict[str, Any], said: str) -> None:
        with pytest.raises(SlmError) as caught:
            model.complete("Hi", **options)
        assert (caught.value.message, caught.value.exit_code) == (said, ExitCode.USAGE)

    def test_a_stream_shows_an_answer_while_it_comes(self, model: Model) -> None:
        with pytest.raises(SlmError, match="best_of chooses among whole ones"):
            model.stream("Hi", best_of=2)


def _run(planted: Path, *arguments: str) -> Outcome:
    streams = [io.StringIO() for _ in range(3)]
    code = run_cli(["run", "-m", "fake:1b", *arguments], Console(*streams, {"SLM_HOME": str(planted)}))
    return Outcome(code, streams[1].getvalue(), streams[2].getvalue())


class TestRun:
    def test_the_winner_comes_at_once_and_nothing_else_does(self, planted: Path, engine: FakeEngine) -> None:
        _saying(engine, "red", "blue", "Blue.")
        done = _run(planted, "--best-of", "3", "--vote", "text", "Which colour?")
        assert done == Outcome(0, "blue\n", "")

    def test_json_says_how_many_agreed_and_what_each_scored(self, planted: Path, engine: FakeEngine) -> None:
        _saying(engine, "red", "blue")
        engine.logprob = lambda word: -0.25 if word == "blue" else -3.0
        record = json.loads(_run(planted, "--best-of", "2", "--seed", "1", "--json", "Which colour?").out)
        assert record["completion"] == "blue"
        assert record["best_of"] == {
            "n": 2,
            "vote": "logprob",
            "agree": 1,
            "chosen": 1,
            "completion_tokens": 2,
            "candidates": [
                {"seed": 1, "mean_logprob": -3.0, "completion_tokens": 1, "finish_reason": "stop"},
                {"seed": 3, "mean_logprob": -0.25, "completion_tokens": 1, "finish_reason": "stop"},
            ],
        }

    def test_all_wrong_is_exit_code_8(self, planted: Path, engine: FakeEngine) -> None:
        engine.answer = lambda _prompt: "words"
        done = _run(planted, "--best-of", "2", "--regex", "[0-9]", "How many?")
        assert (done.code, done.out) == (ExitCode.UNSATISFIED, "")
        assert "does not match the regular expression" in done.err

    def test_ctrl_c_ends_it_without_an_answer(self, planted: Path, engine: FakeEngine) -> None:
        said = iter(["one", "two", "three"])

        def answer(_prompt: str) -> str:
            signal.raise_signal(signal.SIGINT)
            return next(said)

        engine.answer = answer
        done = _run(planted, "--best-of", "3", "Hi")
        assert (done.code, done.out) == (ExitCode.INTERRUPTED, "")

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--temp", "0"), "at temperature 0 all 2 answers would be the same"),
            (("--choices", "a,b"), "--choices are scored, not sampled"),
            (("--confidence",), "--confidence underlines an answer while it comes"),
            (("--best-of", "99"), "--best-of"),
            (("--infill", "x.py:1"), "--infill"),
        ],
    )
    def test_what_is_refused(self, planted: Path, arguments: tuple[str, ...], says: str) -> None:
        done = _run(planted, "--best-of", "2", *arguments, "Hi")
        assert done.code == ExitCode.USAGE and says in done.err and "Traceback" not in done.err


class TestBatch:
    def test_each_row_has_a_vote_of_its_own_and_its_own_error(self, tmp_path: Path) -> None:
        desk = Desk(tmp_path, FakeEngine(n_held=4, pick=lambda n_held: n_held - 1))

        def answer(prompt: str) -> str | SlmError:
            if "bad" in prompt:
                return SlmError("it broke.", exit_code=ExitCode.BUG)
            return next(said) if "votes" in prompt else "8"

        said = iter(["1", "2", "2"])
        desk.engine.answer = answer
        asked = BestOf(3, Vote.NUMBER)
        shape = structured.of_regex("[0-9]")
        desk.answers = Completions(
            SamplerSettings(seed=5), Limits(), is_raw=True, is_sanitized=True, response_format=shape, asked=asked
        )
        rows = [Row(1, "votes", 1), Row(2, "bad", 2), Row(3, "", 3), Row(4, "all", 4)]
        assert desk.run(iter(rows)) is ExitCode.ROWS_FAILED
        records = desk.records
        assert [(one["id"], one["completion"], one["value"]) for one in records] == [
            (1, "2", "2"),
            (2, None, None),
            (3, None, None),
            (4, "8", "8"),
        ]
        assert [one.get("best_of", {}).get("agree") for one in records] == [2, None, None, 3]
        assert [one["error"] for one in records] == [None, "it broke.", "the input is empty.", None]


@pytest.mark.real
def test_real_tiny_weights_make_several_answers_that_repeat_with_their_seed(home: Path, tmp_path: Path) -> None:
    tiny = write_tiny_llama(
        tmp_path / "tiny.gguf", chat_template=CHATML_TEMPLATE, extra_control_tokens=("<|im_start|>", "<|im_end|>")
    )
    asked = ("run", "-m", tiny, "--best-of", "3", "-n", "6", "--seed", "4", "--json", "--threads", "1", "hello")
    first, again = (json.loads(run_slm(*asked, home=home).out) for _ in range(2))
    assert first["best_of"]["n"] == 3 and first["completion"] == again["completion"]
    assert first["usage"]["cached_tokens"] == first["usage"]["prompt_tokens"] - 1  # read once for all three
    scores = [one["mean_logprob"] for one in first["best_of"]["candidates"]]
    assert scores[first["best_of"]["chosen"]] == max(scores) and len(set(scores)) == 3


@pytest.mark.real
class TestEndpoint:
    @pytest.fixture
    def server(self) -> Iterator[EndpointServer]:
        with EndpointServer() as running:
            yield running

    def _asked(self, server: EndpointServer, home: Path, *arguments: str) -> Outcome:
        said = iter(["red", "blue", "blue"])
        lock = threading.Lock()

        def answer(handler: Handler) -> None:
            with lock:
                text = next(said)
            stream(text, usage=USAGE)(handler)

        server.usual = answer
        return run_slm("run", "--endpoint", server.url, "--best-of", "3", *arguments, "Which colour?", home=home)

    def test_the_majority_with_a_seed_for_each_and_no_probabilities_asked_for(
        self, server: EndpointServer, home: Path
    ) -> None:
        done = self._asked(server, home, "--vote", "text", "--seed", "5")
        assert (done.code, done.out) == (0, "blue\n"), done.err
        assert sorted(post.body["seed"] for post in server.posts) == [5, 7, 9]
        assert all("logprobs" not in post.body for post in server.posts)

    def test_free_text_without_probabilities_is_told(self, server: EndpointServer, home: Path) -> None:
        done = self._asked(server, home)
        assert done.code == 0 and done.out in ("red\n", "blue\n")
        assert "does not tell the probabilities of its tokens: the first answer counts" in done.err
        assert all(post.body["logprobs"] for post in server.posts)
