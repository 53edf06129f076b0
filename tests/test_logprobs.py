"""The probabilities of tokens: `--logprobs` in JSON, `--confidence` and `/confidence` on a terminal."""

import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Outcome
from endpoint_server import EndpointServer, delta, stream
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama
from terminal import Terminal

from slmchat.engine import llama
from slmchat.engine.requests import Constraint, ConstraintKind, Limits, Part, Prompt, Request, SessionSettings
from slmchat.engine.results import Chunk, Finish
from slmchat.engine.sampler import SamplerSettings
from slmchat.terminal.doubt import style_of
from slmchat.terminal.screen import Screen

GREEDY = SamplerSettings(temperature=0)
SETTINGS = SessionSettings(512, 1, 1)
PROMPT = Prompt((Part("the people said that"),))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    control = ("<|im_start|>", "<|im_end|>")
    return write_tiny_llama(path, chat_template=CHATML_TEMPLATE, extra_control_tokens=control, context_length=512)


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Iterator[llama.LlamaEngine]:
    engine = llama.load(tiny)
    yield engine
    engine.close()


def _generated(engine: llama.LlamaEngine, limits: Limits, sampler: SamplerSettings = GREEDY) -> list[Chunk]:
    session = engine.open_session(SETTINGS)
    events = list(session.generate(PROMPT, sampler, limits))
    session.close()
    assert isinstance(events[-1], Finish)
    return [event for event in events if isinstance(event, Chunk)]


@pytest.mark.real
class TestEngine:
    def test_each_token_has_its_chance_and_those_beside_it(self, engine: llama.LlamaEngine) -> None:
        chunks = _generated(engine, Limits(12, top_logprobs=4))
        for chunk in chunks:
            assert len(chunk.logprobs) == len(chunk.tokens)
        logprobs = [chance for chunk in chunks for chance in chunk.logprobs]
        assert "".join(chance.text for chance in logprobs) == "".join(chunk.text for chunk in chunks)
        for chance in logprobs:
            best = [each for _, each in chance.alternatives]
            assert len(best) == 4 and best == sorted(best, reverse=True)
            assert chance.alternatives[0] == (chance.text, chance.logprob)  # greedy
            assert sum(map(math.exp, best)) <= 1.0001

    def test_nobody_who_does_not_ask_gets_them(self, engine: llama.LlamaEngine) -> None:
        assert all(chunk.logprobs == () for chunk in _generated(engine, Limits(5)))

    def test_they_are_the_models_own_whatever_the_sampler_does(self, engine: llama.LlamaEngine) -> None:
        hot = SamplerSettings(temperature=5.0, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=2.0, seed=3)
        held = Constraint(ConstraintKind.REGEX, "x+")
        greedy, sampled, structured = (
            _generated(engine, Limits(1, top_logprobs=3, constraint=constraint), sampler)[0].logprobs[0]
            for sampler, constraint in ((GREEDY, None), (hot, None), (GREEDY, held))
        )
        assert len({greedy.text, sampled.text, structured.text}) == 3
        assert greedy.alternatives == sampled.alternatives == structured.alternatives
        assert sampled.logprob < greedy.logprob and structured.logprob < greedy.logprob

    def test_of_a_pool_as_of_a_session(self, engine: llama.LlamaEngine) -> None:
        limits = Limits(8, top_logprobs=2)
        alone = [chance for chunk in _generated(engine, limits) for chance in chunk.logprobs]
        pool = engine.open_pool(SETTINGS, 2)
        done = list(pool.run(iter([Request(n, PROMPT, GREEDY, limits) for n in range(3)])))
        pool.close()
        for each in done:
            assert [chance.text for chance in each.logprobs] == [chance.text for chance in alone]
            assert [c.logprob for c in each.logprobs] == pytest.approx([c.logprob for c in alone], abs=0.1)


def test_marks_leave_white_space_alone() -> None:
    def shown(text: str, probability: float) -> str:
        out = io.StringIO()
        Screen(out).write(text, style_of(math.log(probability)))
        return out.getvalue()

    assert shown(" sure", 0.9) == " sure"
    assert shown(" maybe\n", 0.3) == " \x1b[4mmaybe\x1b[24m\n"
    assert shown(" never", 0.01) == " \x1b[1m\x1b[4mnever\x1b[24m\x1b[22m"
    assert shown(" \n", 0.01) == " \n"


@pytest.mark.real
class TestProgram:
    def test_json_of_run_and_batch(self, slm: Callable[..., Outcome], tiny: Path) -> None:
        asked = ("-m", tiny, "--temp", "0", "-n", "6", "--logprobs")
        done = slm("run", *asked, "--json", stdin="hello world")
        assert done.code == 0, done.err
        said = json.loads(done.out)
        assert len(said["logprobs"]) == said["usage"]["completion_tokens"] == 6
        assert len(said["logprobs"][0]["top"]) == 5
        assert set(said["logprobs"][0]) == {"token", "bytes", "logprob", "top"}
        row = json.loads(slm("batch", *asked, stdin="hello world\n").out)
        assert [each["token"] for each in row["logprobs"]] == [each["token"] for each in said["logprobs"]]
        assert "logprobs" not in json.loads(slm("batch", *asked[:-1], stdin="hello world\n").out)

    def test_what_is_refused_and_what_is_no_terminal(self, slm: Callable[..., Outcome], tiny: Path) -> None:
        done = slm("run", "-m", tiny, "--logprobs", "hi")
        assert (done.code, done.out) == (2, "") and "are part of --json" in done.err
        done = slm("run", "-m", tiny, "--logprobs", "--json", "--choices", "a,b", "hi")
        assert done.code == 2 and "without --logprobs" in done.err
        done = slm("run", "-m", tiny, "--confidence", "-n", "3", "hi")
        assert done.code == 0 and "\x1b" not in done.out
        assert "on a terminal only" in done.err

    def test_a_terminal_shows_them_underlined_with_a_legend(self, home: Path, tiny: Path) -> None:
        asked = ["run", "-m", tiny, "--confidence", "--temp", "5", "--top-k", "0", "--seed", "1", "-n", "12", "hi"]
        with Terminal(asked, home=home) as terminal:
            assert terminal.end() == 0
            legend, _, answer = terminal.raw.partition("less than 10 %")
            assert "the model gave it less than 50 %" in legend
            assert "\x1b[4m" in answer and "\x1b[24m" in answer
        with Terminal([*asked, "-q"], home=home, env={"TERM": "dumb"}) as terminal:
            assert terminal.end() == 0
            assert "\x1b[4m" not in terminal.raw

    def test_the_chat_switches_it_on_and_off(self, home: Path, tiny: Path) -> None:
        with Terminal(["chat", tiny, "--temp", "5", "--top-k", "0", "--seed", "1", "-n", "12"], home=home) as terminal:
            terminal.wait_for("/help lists")
            terminal.enter("/confidence")
            terminal.wait_for("less than 10 %")
            begin = len(terminal.raw)
            terminal.enter("hello")
            terminal.wait_for(lambda: "\x1b[1m\x1b[4m" in terminal.raw[begin:])
            terminal.enter("/confidence")
            terminal.wait_for("Answers are shown as usual.")
            terminal.enter("/exit")
            assert terminal.end() == 0


@pytest.mark.real
class TestEndpoint:
    def test_they_are_asked_for_and_read(self, slm: Callable[..., Outcome]) -> None:
        top = [{"token": "Hel", "logprob": -0.1}, {"token": "No", "logprob": -3.0}]
        told = {"content": [{"token": "Hel", "logprob": -0.1, "top_logprobs": top}]}
        with EndpointServer() as server:
            event = delta("Hel")
            event["choices"][0]["logprobs"] = told  # type: ignore[index]
            server.usual = stream(event, "lo")
            done = slm("run", "--endpoint", server.url, "--json", "--logprobs", "Hi")
            assert done.code == 0, done.err
            assert json.loads(done.out)["logprobs"] == [{"token": "Hel", "logprob": -0.1, "top": top}]
            assert (server.posts[0].body["logprobs"], server.posts[0].body["top_logprobs"]) == (True, 5)
            row = json.loads(slm("batch", "--endpoint", server.url, "--logprobs", stdin="Hi\n").out)
            assert row["logprobs"][0]["token"] == "Hel"
            server.usual = stream("Hello")
            done = slm("run", "--endpoint", server.url, "--json", "--logprobs", "Hi")
            assert json.loads(done.out)["logprobs"] == []
            assert "does not tell the probabilities" in done.err
            done = slm("run", "--endpoint", server.url, "--raw", "--json", "--logprobs", "Hi")
            assert done.code == 2 and "in chats only" in done.err

    @pytest.mark.parametrize("told", [3, {"content": 5}, {"content": [1, {}, {"token": 1, "logprob": "x"}]}])
    def test_nonsense_is_left_out(self, slm: Callable[..., Outcome], told: object) -> None:
        with EndpointServer() as server:
            event = delta("Hello")
            event["choices"][0]["logprobs"] = told  # type: ignore[index]
            server.usual = stream(event)
            done = slm("run", "--endpoint", server.url, "--json", "--logprobs", "Hi")
        assert done.code == 0, done.err
        assert json.loads(done.out)["completion"] == "Hello"
