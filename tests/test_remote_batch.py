"""`slm batch --endpoint`: requests side by side with a bound, busy and failing servers, order; formats over there."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fork_server
import pytest
from conftest import Outcome, environment
from endpoint_server import USAGE, Answer, EndpointServer, Handler, cut, delta, hold, status, stream

from slmchat import endpoints
from slmchat.engine.remote import client as client_module
from slmchat.engine.remote import pool as pool_module
from slmchat.engine.remote.engine import load
from slmchat.engine.remote.pool import RemotePool
from slmchat.engine.remote.route import route_to
from slmchat.engine.requests import Constraint, ConstraintKind, Limits, Part, Prompt, Request, SessionSettings, Turn
from slmchat.engine.results import Result
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError

pytestmark = pytest.mark.real


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with EndpointServer() as running:
        running.usual = echo
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(pool_module, "_PAUSE_S", 0.01)


def asked(handler: Handler) -> str:
    """What the request that is being answered asks."""
    return str(handler.body["messages"][-1]["content"])


def echo(handler: Handler) -> None:
    stream(f"<{asked(handler)}>", usage=USAGE)(handler)


def _open(server: EndpointServer, parallel: int | None = 4, **facts: Any) -> RemotePool:
    endpoint = replace(endpoints.from_url(server.url, "test"), **{"timeout_s": 5.0, **facts})
    engine = load(endpoint, None, None, route_to(endpoint, {}), lambda text: None)
    return engine.open_pool(SessionSettings(1, 1, 1), parallel)


def _requests(*texts: str, limits: Limits | None = None) -> Iterator[Request | Result]:
    for number, text in enumerate(texts):
        prompt = Prompt((Part(text),), (Turn("user", text),))
        yield Request(number, prompt, SamplerSettings(seed=3), limits or Limits(9))


class TestPool:
    def test_every_job_has_its_own_answer(self, server: EndpointServer) -> None:
        pool = _open(server)
        texts = [f"t{n}" for n in range(40)]
        done = {each.id: each for each in pool.run(_requests(*texts))}
        pool.close()
        assert [done[n].text for n in range(40)] == [f"<{text}>" for text in texts]
        assert all(each.finish and each.finish.usage.prompt_tokens == 7 for each in done.values())
        assert len({post.port for post in server.posts}) <= 4  # connections are kept

    def test_as_many_at_once_as_asked_for_and_no_more(self, server: EndpointServer) -> None:
        together = threading.Barrier(3, timeout=300)  # nobody is answered before three are there
        lock, now, most = threading.Lock(), [0], [0]

        def answer(handler: Handler) -> None:
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            together.wait()
            with lock:
                now[0] -= 1
            echo(handler)

        server.usual = answer
        pool = _open(server, 3)
        assert len(list(pool.run(_requests(*"abcdefghi")))) == 9
        pool.close()
        assert most[0] == 3
        assert pool.report.startswith("3 requests at once")

    def test_jobs_are_taken_as_there_is_room(self, server: EndpointServer) -> None:
        taken: list[int] = []

        def requests() -> Iterator[Request | Result]:
            for request in _requests(*(str(n) for n in range(100))):
                taken.append(request.id)
                yield request

        pool = _open(server, 2)
        running = pool.run(requests())
        for _ in range(3):
            next(running)
        assert len(taken) < 20
        assert len(list(running)) == 97
        pool.close()

    def test_a_busy_server_is_asked_again(self, server: EndpointServer) -> None:
        server.script.extend([status(429), status(503), status(429, Retry_After="0"), cut("Hel"), status(500)])
        pool = _open(server)
        done = list(pool.run(_requests(*"abcdef")))
        pool.close()
        assert sorted(each.text for each in done) == [f"<{text}>" for text in "abcdef"]

    def test_a_job_that_always_fails_is_one_record_among_others(self, server: EndpointServer) -> None:
        server.usual = lambda handler: (status(500) if asked(handler) == "c" else echo)(handler)
        pool = _open(server)
        done = {each.id: each for each in pool.run(_requests(*"abcdefgh"))}
        pool.close()
        error = done.pop(2).error
        assert error is not None and error.exit_code is ExitCode.NETWORK and "answers 500" in error.message
        assert len(done) == 7 and all(each.error is None for each in done.values())

    @pytest.mark.parametrize(
        ("answer", "code"),
        [
            (status(503), ExitCode.NETWORK),
            (status(401), ExitCode.NETWORK),
            (status(404, {"error": {"message": "model 'x' not found"}}), ExitCode.NO_MODEL),
            (status(400, {"error": {"message": "response_format is too new"}}), ExitCode.USAGE),
        ],
    )
    def test_an_endpoint_that_answers_nobody_ends_it(
        self, server: EndpointServer, answer: Answer, code: ExitCode
    ) -> None:
        server.usual = answer
        taken: list[int] = []
        pool = _open(server, 2)
        requests = (taken.append(request.id) or request for request in _requests(*(str(n) for n in range(100))))  # type: ignore[func-returns-value]
        with pytest.raises(SlmError) as caught:
            list(pool.run(requests))
        pool.close()
        assert caught.value.exit_code is code
        assert len(taken) < 15

    def test_rows_that_do_not_fit_are_records(self, server: EndpointServer) -> None:
        server.usual = status(400, {"error": {"message": "maximum context length is 5 tokens"}})
        pool = _open(server, 2)
        done = list(pool.run(_requests(*"abcdefghij")))
        pool.close()
        assert [each.error and each.error.exit_code for each in done] == [ExitCode.CONTEXT] * 10

    def test_a_job_that_is_asked_again(self, server: EndpointServer) -> None:
        pool = _open(server, 2)
        seen: list[str] = []
        for done in pool.run(_requests("a", "b")):
            seen.append(done.text)
            if done.text == "<b>":
                (again,) = _requests("c")
                pool.resubmit(replace(again, id=1))
        pool.close()
        assert sorted(seen) == ["<a>", "<b>", "<c>"]

    def test_thinking_is_kept_apart(self, server: EndpointServer) -> None:
        server.usual = stream(delta(reasoning_content="hm"), "yes")
        pool = _open(server)
        (done,) = pool.run(_requests("a"))
        pool.close()
        assert (done.text, done.thinking) == ("yes", "hm")

    def test_a_server_that_answers_one_is_asked_one_at_a_time(self) -> None:
        """llama_cpp.server ends a stream without a reason when the next request comes; nobody may take it for whole."""
        with EndpointServer(owner="me") as server:
            server.script.append(stream("Hel", reason=None))
            server.usual = echo
            pool = _open(server, 4)
            done = sorted(pool.run(_requests(*"abc")), key=lambda each: each.id)
            pool.close()
        assert [each.text for each in done] == ["<a>", "<b>", "<c>"]
        assert pool.report.startswith("1 request at once")
        assert len({post.port for post in server.posts}) == 1

    def test_cancel_closes_what_is_open(self, server: EndpointServer) -> None:
        server.usual = hold(server, "Hel")
        pool = _open(server, 2, timeout_s=60.0)
        threading.Thread(target=lambda: (server.holding.wait(300), pool.cancel()), daemon=True).start()
        assert list(pool.run(_requests(*"abcd"))) == []
        assert server.left.wait(300)  # the server can stop, too
        pool.close()


SCHEMA = (
    '{"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"], "additionalProperties": false}'
)


class TestResponseFormats:
    """What an endpoint is asked for, and what is refused before anything is sent."""

    def _body(self, owner: str, constraint: Constraint, *, is_bare: bool = False) -> dict[str, Any]:
        with EndpointServer(owner=owner) as server:
            pool = _open(server, 1)
            turns = () if is_bare else (Turn("user", "x"),)
            request = Request(0, Prompt((Part("x"),), turns), SamplerSettings(), Limits(constraint=constraint))
            list(pool.run(iter([request])))
            pool.close()
            return server.posts[0].body

    @pytest.mark.parametrize("owner", ["llamacpp", "me"])
    @pytest.mark.parametrize("is_bare", [False, True])
    def test_llama_cpp_takes_grammars(self, owner: str, is_bare: bool) -> None:
        body = self._body(owner, Constraint(ConstraintKind.REGEX, "(yes|no)"), is_bare=is_bare)
        assert "root" in body["grammar"] and "yes" in body["grammar"]
        body = self._body(owner, Constraint(ConstraintKind.GRAMMAR, 'root ::= "a"'), is_bare=is_bare)
        assert body["grammar"] == 'root ::= "a"'
        assert "age" in self._body(owner, Constraint(ConstraintKind.SCHEMA, SCHEMA), is_bare=is_bare)["grammar"]

    def test_others_take_schemas(self) -> None:
        body = self._body("someone", Constraint(ConstraintKind.SCHEMA, SCHEMA))
        asked_for = body["response_format"]["json_schema"]
        assert body["response_format"]["type"] == "json_schema"
        assert (asked_for["schema"], asked_for["strict"]) == (json.loads(SCHEMA), True)
        loose = SCHEMA.replace('["age"]', "[]")
        body = self._body("someone", Constraint(ConstraintKind.SCHEMA, loose))
        assert "strict" not in body["response_format"]["json_schema"]  # OpenAI refuses optional fields there
        body = self._body("someone", Constraint(ConstraintKind.JSON, ""))
        assert body["response_format"] == {"type": "json_object"}

    def test_vllm_takes_regular_expressions(self) -> None:
        body = self._body("vllm", Constraint(ConstraintKind.REGEX, "(yes|no)"))
        assert body["structured_outputs"] == {"regex": "(yes|no)"}
        assert "response_format" in self._body("vllm", Constraint(ConstraintKind.SCHEMA, SCHEMA), is_bare=True)

    @pytest.mark.parametrize(
        ("owner", "kind", "is_bare"),
        [
            ("someone", ConstraintKind.REGEX, False),
            ("someone", ConstraintKind.GRAMMAR, False),
            ("vllm", ConstraintKind.GRAMMAR, False),
            ("someone", ConstraintKind.JSON, True),
        ],
    )
    def test_what_a_server_is_not_known_to_take_is_refused(
        self, owner: str, kind: ConstraintKind, is_bare: bool
    ) -> None:
        with EndpointServer(owner=owner) as server:
            pool = _open(server, 1)
            turns = () if is_bare else (Turn("user", "x"),)
            limits = Limits(constraint=Constraint(kind, "a"))
            requests = iter([Request(n, Prompt((Part("x"),), turns), SamplerSettings(), limits) for n in range(3)])
            with pytest.raises(SlmError, match="not known to hold answers") as caught:
                list(pool.run(requests))
            pool.close()
            assert caught.value.exit_code is ExitCode.USAGE
            assert server.posts == []


class TestProgram:
    def test_records_stand_in_input_order(self, server: EndpointServer, slm: Callable[..., Outcome]) -> None:
        turn = threading.Event()

        def answer(handler: Handler) -> None:  # the first one comes last
            if "t0" in asked(handler):
                turn.wait(300)
            elif "t7" in asked(handler):
                turn.set()
            echo(handler)

        server.usual = answer
        server.script.append(status(429, Retry_After="0"))
        lines = "".join(f"t{n}\n" for n in range(12))
        done = slm("batch", "--endpoint", server.url, "--seed", "4", "Say {}", stdin=lines)
        assert done.code == 0, done.err
        assert "answers 429" in done.err
        records = [json.loads(line) for line in done.out.splitlines()]
        assert [record["completion"] for record in records] == [f"<Say t{n}>" for n in range(12)]
        assert records[0]["usage"] == {"prompt_tokens": 7, "cached_tokens": 3, "completion_tokens": 2}
        assert {post.body["seed"] for post in server.posts} == {4}

    def test_fields_are_asked_for_and_checked(self, server: EndpointServer, slm: Callable[..., Outcome]) -> None:
        server.script.append(stream('{"age": "old"}'))
        server.usual = stream('{"age": 34}', usage=USAGE)
        done = slm("batch", "--endpoint", server.url, "--fields", "age int", "How old?", stdin="Ann is 34.\n")
        assert done.code == 0, done.err
        record = json.loads(done.out)
        assert record["value"] == {"age": 34}
        first, second = server.posts
        assert second.body["max_tokens"] == 2 * first.body["max_tokens"]
        assert first.body["response_format"]["json_schema"]["strict"] is True
        assert first.body["messages"][-1]["content"].endswith("Answer with JSON that has these fields: age.")

    def test_run_is_refused_what_the_endpoint_cannot(self, server: EndpointServer, slm: Callable[..., Outcome]) -> None:
        done = slm("run", "--endpoint", server.url, "--regex", "(yes|no)", "Hi")
        assert (done.code, done.out) == (2, "")
        assert "not known to hold answers to a regular expression" in done.err
        server.usual = stream('{"age": 34}')
        done = slm("run", "--endpoint", server.url, "--fields", "age int", "Hi")
        assert (done.code, done.out) == (0, '{"age": 34}\n')

    def test_an_endpoint_that_goes_away_leaves_whole_records_and_a_way_on(
        self, server: EndpointServer, slm: Callable[..., Outcome], tmp_path: Path
    ) -> None:
        file = tmp_path / "out.jsonl"
        lines = "".join(f"t{n}\n" for n in range(40))
        server.script.extend([echo] * 5)
        server.usual = status(401, {"error": {"message": "expired"}})
        asking = ("batch", "--endpoint", server.url, "--parallel", "1", "--resume", file)
        done = slm(*asking, stdin=lines)
        assert done.code == 5
        assert "expired" in done.err and f"--resume {file}" in done.err
        assert len(file.read_text().splitlines()) == 5
        server.usual = echo
        assert slm(*asking, stdin=lines).code == 0
        records = [json.loads(line) for line in file.read_text().splitlines()]
        assert [record["completion"] for record in records] == [f"<t{n}>" for n in range(40)]

    def test_local_options_are_refused(self, server: EndpointServer, slm: Callable[..., Outcome]) -> None:
        done = slm("batch", "--endpoint", server.url, "--ctx", "512", stdin="x\n")
        assert (done.code, done.out) == (2, "")
        assert server.posts == []

    @pytest.mark.skipif(sys.platform == "win32", reason="signals")
    def test_ctrl_c_closes_the_requests(self, server: EndpointServer, home: Path) -> None:
        # the first row is answered whichever request comes first: rows are written in their order
        server.usual = lambda handler: (echo if asked(handler) == "a" else hold(server, "Hel"))(handler)
        command = [sys.executable, "-m", "slmchat", "batch", "--endpoint", server.url, "--parallel", "2"]
        with fork_server.popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(home)
        ) as program:
            assert program.stdin and program.stdout and program.stderr
            program.stdin.write(b"a\nb\nc\n")
            program.stdin.flush()
            assert json.loads(program.stdout.readline())["completion"] == "<a>"
            assert server.holding.wait(300)
            program.send_signal(signal.SIGINT)
            assert program.wait(300) == 130
            assert b"interrupted; 1 row " in program.stderr.read()
        assert server.left.wait(300)
