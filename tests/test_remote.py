"""The remote engine against a scripted endpoint: records, requests, and every fault of the way."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from endpoint_server import (
    DONE,
    USAGE,
    Answer,
    EndpointServer,
    Handler,
    cut,
    delta,
    events,
    hold,
    raw,
    status,
    stream,
)

from slmchat import endpoints
from slmchat.engine.remote import client as client_module
from slmchat.engine.remote import engine as engine_module
from slmchat.engine.remote.events import MOST_OF_A_LINE, EventStream, TooLarge
from slmchat.engine.remote.route import Route, route_to
from slmchat.engine.requests import Limits, Part, Prompt, SessionSettings, Turn
from slmchat.engine.results import Chunk, Event, Finish, FinishReason, Prefill
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.thinking import Thinking, ThinkingMode
from slmchat.errors import ExitCode, SlmError

KEY = "sk-a-very-secret-key-0123456789"
QUESTION = Prompt((Part("Hi"), Part("", is_template=True)), (Turn("system", "Be brief."), Turn("user", "Hi")))
GREEDY = SamplerSettings(temperature=0.0, seed=7)


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with EndpointServer() as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for a pause that people would wait for."""
    monkeypatch.setattr(client_module, "_FIRST_PAUSE_S", 0.01)


class Asked:
    """An engine on the server and a session of it; what it told the user."""

    def __init__(
        self, server: EndpointServer, *, key: str | None = None, name: str | None = None, **facts: Any
    ) -> None:
        self.told: list[str] = []
        self.endpoint = replace(endpoints.from_url(server.url, "test"), **{"timeout_s": 5.0, **facts})
        self.engine = engine_module.load(self.endpoint, key, name, route_to(self.endpoint, {}), self.told.append)
        self.session = self.engine.open_session(SessionSettings(1, 1, 1))

    def records(self, prompt: Prompt = QUESTION, limits: Limits | None = None, **sampler: Any) -> list[Event]:
        return list(self.session.generate(prompt, replace(GREEDY, **sampler), limits or Limits()))

    def says(self, prompt: Prompt = QUESTION, limits: Limits | None = None, **sampler: Any) -> tuple[str, Finish]:
        *found, finish = self.records(prompt, limits, **sampler)
        assert isinstance(finish, Finish)
        return "".join(item.text for item in found if isinstance(item, Chunk) and not item.is_thinking), finish

    def error(self) -> SlmError:
        with pytest.raises(SlmError) as raised:
            self.records()
        return raised.value


# What is asked, and what comes of it


def test_an_answer_becomes_the_records_of_every_engine(server: EndpointServer) -> None:
    records = Asked(server).records()
    assert [type(item) for item in records] == [Prefill, Prefill, Chunk, Chunk, Finish]
    finish = records[-1]
    assert isinstance(finish, Finish)
    assert (finish.reason, finish.seed, finish.tokens) == (FinishReason.STOP, 7, None)
    assert (finish.usage.prompt_tokens, finish.usage.cached_tokens, finish.usage.completion_tokens) == (7, 3, 2)
    assert not finish.usage.is_estimate
    assert finish.timings.ttft_s is not None


def test_the_request_has_the_turns_the_sampler_and_the_limits(server: EndpointServer) -> None:
    Asked(server, key=KEY).records(limits=Limits(5, ("END",)), temperature=0.5, top_p=0.9)
    (post,) = server.posts
    assert post.path == "/v1/chat/completions"
    assert post.headers["authorization"] == f"Bearer {KEY}"
    assert post.body["model"] == "small"
    assert post.body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]
    asked = {name: post.body[name] for name in ("temperature", "top_p", "seed", "max_tokens", "stop", "stream")}
    assert asked == {"temperature": 0.5, "top_p": 0.9, "seed": 7, "max_tokens": 5, "stop": ["END"], "stream": True}
    assert post.body["stream_options"] == {"include_usage": True}


def test_a_bare_prompt_goes_to_the_text_completions(server: EndpointServer) -> None:
    server.usual = stream({"choices": [{"text": " upon", "finish_reason": None}]}, reason="stop")
    text, _ = Asked(server).says(Prompt((Part("Once"),)))
    assert text == " upon"
    assert (server.posts[0].path, server.posts[0].body["prompt"]) == ("/v1/completions", "Once")
    assert server.posts[0].body["max_tokens"] > 16  # OpenAI's default would cut it there


@pytest.mark.parametrize(
    ("owner", "sent", "not_sent"),
    [
        ("llamacpp", {"top_k": 40, "min_p": 0.05, "repeat_penalty": 1.1, "return_progress": True}, ()),
        ("me", {"top_k": 40, "min_p": 0.05, "repeat_penalty": 1.1}, ("return_progress",)),
        ("vllm", {"top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1}, ("repeat_penalty",)),
        ("someone", {"repeat_penalty": 1.1}, ("top_k", "min_p", "cache_prompt")),
    ],
)
def test_settings_that_the_api_does_not_have_go_to_whom_knows_them(
    owner: str, sent: dict[str, object], not_sent: tuple[str, ...]
) -> None:
    with EndpointServer(owner=owner) as server:
        Asked(server).records(repeat_penalty=1.1)
        body = server.posts[0].body
    assert {name: body.get(name) for name in sent} == sent
    assert not set(not_sent) & set(body)


@pytest.mark.parametrize(
    ("owner", "asked", "sent", "told"),
    [
        ("llamacpp", Thinking(), {}, ""),
        (
            "llamacpp",
            Thinking(ThinkingMode.ON, 9),
            {"chat_template_kwargs": {"enable_thinking": True}, "thinking_budget_tokens": 9},
            "",
        ),
        (
            "vllm",
            Thinking(ThinkingMode.OFF, 0),
            {"chat_template_kwargs": {"enable_thinking": False}, "thinking_token_budget": 0},
            "",
        ),
        ("someone", Thinking(ThinkingMode.OFF, 0), {"reasoning_effort": "none"}, ""),
        ("someone", Thinking(ThinkingMode.ON, 9), {"reasoning_effort": "medium"}, "--think-budget changes nothing"),
        ("me", Thinking(ThinkingMode.OFF, 0), {}, "--think changes nothing"),
    ],
)
def test_thinking_is_switched_where_a_server_is_known_to_do_it(
    owner: str, asked: Thinking, sent: dict[str, object], told: str
) -> None:
    with EndpointServer(owner=owner) as server:
        running = Asked(server)
        for _ in range(2):
            running.records(limits=Limits(thinking=asked))
        body = server.posts[0].body
    names = ("chat_template_kwargs", "thinking_budget_tokens", "thinking_token_budget", "reasoning_effort")
    assert {name: body[name] for name in names if name in body} == sent
    assert len(running.told) == bool(told)
    assert all(told in sentence for sentence in running.told)


def test_a_switch_that_is_refused_is_left_out_and_said(server: EndpointServer) -> None:
    server.script.append(status(400, {"error": {"message": "Unsupported parameter: 'reasoning_effort'."}}))
    asked = Asked(server)
    assert asked.says(limits=Limits(thinking=Thinking(ThinkingMode.OFF, 0)))[0] == "Hello."
    assert asked.told == [f"127.0.0.1:{server.port} does not take reasoning_effort: it is left out"]


def test_tokens_of_thinking_are_those_that_the_endpoint_counts(server: EndpointServer) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 5}}
    server.usual = stream(delta("Hello."), reason="stop", usage=usage)
    assert Asked(server).says()[1].usage.thinking_tokens == 5


@pytest.mark.parametrize(
    ("fields", "thought"),
    [
        ({"reasoning_content": "hm"}, "hm"),
        ({"reasoning": "hm"}, "hm"),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}, "hm"),
    ],
)
def test_thinking_is_told_apart(server: EndpointServer, fields: dict[str, object], thought: str) -> None:
    server.usual = stream(delta(**fields), "Yes.")
    records = Asked(server).records()
    chunks = [(item.text, item.is_thinking) for item in records if isinstance(item, Chunk)]
    assert chunks == [(thought, True), ("Yes.", False)]


@pytest.mark.parametrize(
    ("reason", "most", "completion", "expected"),
    [
        ("stop", None, 2, FinishReason.STOP),
        ("length", 2, 2, FinishReason.LENGTH),
        ("length", 50, 2, FinishReason.CONTEXT),
        ("length", None, 2, FinishReason.CONTEXT),
        ("content_filter", None, 2, FinishReason.STOP),
        ("tool_calls", None, 2, FinishReason.STOP),
    ],
)
def test_finish_reasons(
    server: EndpointServer, reason: str, most: int | None, completion: int, expected: FinishReason
) -> None:
    server.usual = stream("a", "b", reason=reason, usage={**USAGE, "completion_tokens": completion})
    asked = Asked(server)
    _, finish = asked.says(limits=Limits(most))
    assert finish.reason is expected
    assert ("content filter" in "".join(asked.told)) == (reason == "content_filter")


def test_without_usage_the_counts_are_called_estimates(server: EndpointServer) -> None:
    server.usual = stream("a", "b", "c")
    _, finish = Asked(server).says()
    assert finish.usage.is_estimate
    assert finish.usage.completion_tokens == 3


def test_estimates_follow_what_the_endpoint_counts(server: EndpointServer) -> None:
    long = Prompt((Part("word " * 200),), (Turn("user", "word " * 200),))
    server.usual = stream("a", usage={"prompt_tokens": 504, "completion_tokens": 1})
    asked = Asked(server)
    assert asked.engine.count(long) != 504
    asked.records(long)
    assert asked.engine.count(long) == 504


def test_progress_of_a_long_prompt_is_passed_on(server: EndpointServer) -> None:
    progress = [{"choices": [delta()], "prompt_progress": {"total": 90, "cache": 10, "processed": n}} for n in (10, 50)]
    server.usual = stream(*[{**delta(), **item, "choices": []} for item in progress], "x")
    found = [item for item in Asked(server).records() if isinstance(item, Prefill)]
    assert found[1:] == [Prefill(10, 90, 10), Prefill(50, 90, 10)]


def test_an_answer_that_is_not_streamed_is_taken_all_the_same(server: EndpointServer) -> None:
    whole = {
        "choices": [{"message": {"role": "assistant", "content": "All."}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    server.usual = status(200, whole)
    text, finish = Asked(server).says()
    assert (text, finish.usage.prompt_tokens) == ("All.", 7)


def test_a_connection_is_kept(server: EndpointServer) -> None:
    asked = Asked(server)
    assert [asked.says()[0] for _ in range(3)] == ["Hello."] * 3
    assert len({request.port for request in server.requests}) == 1


def test_a_kept_connection_that_was_closed_meanwhile_is_opened_again(server: EndpointServer) -> None:
    def then_close(handler: Handler) -> None:
        stream("one")(handler)
        handler.drop()

    server.script.append(then_close)
    asked = Asked(server)
    assert [asked.says()[0], asked.says()[0]] == ["one", "Hello."]
    assert asked.told == []


def test_many_sessions_at_once(server: EndpointServer) -> None:
    gate = threading.Barrier(8, timeout=300)

    def together(handler: Handler) -> None:
        gate.wait()  # all eight are here, or none goes on
        stream(server.requests[-1].path[:0] + "x")(handler)

    server.usual = together
    asked = Asked(server)
    texts: list[str] = []

    def one() -> None:
        session = asked.engine.open_session(SessionSettings(1, 1, 1))
        records = list(session.generate(QUESTION, GREEDY, Limits()))
        texts.append("".join(item.text for item in records if isinstance(item, Chunk)))
        session.close()

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert texts == ["x"] * 8


# Going on with an answer


def test_going_on_is_asked_for_where_it_is_known_to_work() -> None:
    prompt = Prompt(QUESTION.parts, (*QUESTION.turns, Turn("assistant", "One, two")))
    with EndpointServer(owner="llamacpp") as server:
        Asked(server).records(prompt)
        body = server.posts[0].body
    assert body["messages"][-1] == {"role": "assistant", "content": "One, two"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    with EndpointServer(owner="library") as server, pytest.raises(SlmError, match="cannot go on") as raised:
        Asked(server).records(prompt)
    assert raised.value.exit_code is ExitCode.USAGE
    assert server.posts == []


# Which model


def test_the_only_model_is_taken_and_a_near_miss_answered() -> None:
    with EndpointServer(ids=("qwen3:4b", "gemma3:1b", "llama3:latest", "/models/smollm2.gguf")) as server:
        endpoint = endpoints.from_url(server.url, "test")

        def load(name: str | None) -> str:
            return engine_module.load(endpoint, None, name, route_to(endpoint, {}), print).model.id

        assert (load("gemma3:1b"), load("llama3"), load("Qwen3:4B")) == ("gemma3:1b", "llama3:latest", "qwen3:4b")
        for name, near in (("gema3:1b", "gemma3:1b"), ("smollm2", "/models/smollm2.gguf")):
            with pytest.raises(SlmError, match=f"no model '{name}'") as raised:
                load(name)
            assert near in (raised.value.hint or "")
            assert raised.value.exit_code is ExitCode.NO_MODEL
        with pytest.raises(SlmError, match="has 4 models and none is chosen"):
            load(None)


def test_an_endpoint_without_a_list_takes_the_name_as_it_is(server: EndpointServer) -> None:
    server.models_answer = status(404)
    assert Asked(server, name="whatever").engine.model.id == "whatever"
    with pytest.raises(SlmError, match=r"lists no models \(404 at /v1/models\)"):
        Asked(server)


@pytest.mark.parametrize(
    ("entry", "n_ctx"),
    [
        ({"max_model_len": 4096}, 4096),
        ({"meta": {"n_ctx": 2048, "n_ctx_train": 8192}}, 2048),
        ({"context_length": 100}, 100),
        ({"context_length": "many"}, 0),
        ({}, 0),
    ],
)
def test_the_window_is_known_where_it_is_told(server: EndpointServer, entry: dict[str, object], n_ctx: int) -> None:
    server.models[0].update(entry)
    assert Asked(server).session.n_ctx == n_ctx


def test_a_prompt_that_does_not_fit_tells_the_window(server: EndpointServer) -> None:
    said = "This model's maximum context length is 512 tokens. However, your messages resulted in 600 tokens."
    server.usual = status(400, {"error": {"message": said, "code": "context_length_exceeded"}})
    asked = Asked(server)
    error = asked.error()
    assert error.exit_code is ExitCode.CONTEXT
    assert asked.session.n_ctx == 512


# Faults


def _html(code: int) -> Answer:
    page = b"<!DOCTYPE html><html><head><title>502 Bad\nGateway</title></head><body>x</body></html>"
    return status(code, page, Content_Type="text/html")


_LINE = b"data: " + b"x" * (MOST_OF_A_LINE + 100_000)
FAULTS: dict[str, tuple[Answer, str, ExitCode]] = {
    "cut stream": (cut("Hel"), "broke off in the middle", ExitCode.NETWORK),
    "stream without an end": (stream("Hel", reason=None, is_done=False), "broke off in the middle", ExitCode.NETWORK),
    "cut event": (stream("Hel", b'data: {"choices"', reason=None, is_done=False), "broke off", ExitCode.NETWORK),
    "event that is no JSON": (stream("Hel", b"data: {oops\n\n"), "an event is not JSON", ExitCode.NETWORK),
    "event that is a number": (stream(b"data: 7\n\n"), "an event is not an object", ExitCode.NETWORK),
    "choices of another kind": (stream({"choices": "none"}), "an event has no list of choices", ExitCode.NETWORK),
    "text of another kind": (stream(delta(content={"a": 1})), "the text of an event is not text", ExitCode.NETWORK),
    "deep event": (stream(b"data: " + b"[" * 100_000 + b"\n\n"), "not JSON", ExitCode.NETWORK),
    "no choices": (stream(reason=None), "there is no completion in it", ExitCode.NETWORK),
    "empty choices": (status(200, {"choices": []}), "there is no completion in it", ExitCode.NETWORK),
    "error event": (
        stream("Hel", {"error": {"message": "out of memory"}}),
        "broke off with an error: out of memory",
        ExitCode.NETWORK,
    ),
    "endless line": (stream(_LINE, b"x"), "a line of the stream has no end", ExitCode.NETWORK),
    "web page": (_html(200), "web page ('502 Bad Gateway')", ExitCode.NETWORK),
    "web page with a status": (_html(404), "has nothing at /v1", ExitCode.NETWORK),
    "wrong type": (status(200, b"OK", Content_Type="text/plain"), "its type is 'text/plain'", ExitCode.NETWORK),
    "compressed": (status(200, b"xx", Content_Encoding="br"), "it is compressed (br)", ExitCode.NETWORK),
    "short body": (raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{}"), "broke off in the middle", ExitCode.NETWORK),
    "no HTTP": (raw(b"SSH-2.0-OpenSSH_9.9\r\n"), "not HTTP as it should be", ExitCode.NETWORK),
    "endless header": (raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000), "not HTTP as it should be", ExitCode.NETWORK),
    "hung up": (raw(b""), "closed the connection without an answer", ExitCode.NETWORK),
    "no model": (
        status(404, {"error": {"message": "The model `small` does not exist", "code": "model_not_found"}}),
        "does not have this model",
        ExitCode.NO_MODEL,
    ),
    "no key": (status(401, {"error": {"message": "missing"}}), "a request without a key (401", ExitCode.NETWORK),
    "bad request": (status(400, {"error": "temperature must be at most 2"}), "does not take this", ExitCode.USAGE),
    "FastAPI's error": (status(422, {"detail": [{"msg": "field required"}]}), "field required", ExitCode.USAGE),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_sentence_and_the_session_stays_usable(server: EndpointServer, fault: str) -> None:
    answer, words, code = FAULTS[fault]
    asked = Asked(server)
    # a kept connection that is gone without a word is opened again, once
    server.script.extend([answer] * (2 if fault == "hung up" else 1))
    error = asked.error()
    assert words in error.message
    assert error.exit_code is code
    assert error.message.count("\n") == 0 and error.message.endswith(".")
    assert len(error.message) < 400
    assert asked.says()[0] == "Hello."


def test_what_came_before_a_cut_has_come(server: EndpointServer) -> None:
    server.script.append(cut("Hel", "lo"))
    found: list[Event] = []
    with pytest.raises(SlmError):
        found.extend(Asked(server).session.generate(QUESTION, GREEDY, Limits()))
    assert "".join(item.text for item in found if isinstance(item, Chunk)) == "Hello"


def test_a_stream_that_said_why_it_ended_is_whole_without_its_last_bytes(server: EndpointServer) -> None:
    server.script.append(cut("Hello", delta(reason="stop")))
    assert Asked(server).says()[0] == "Hello"


def test_silence_after_the_end_is_not_waited_for(server: EndpointServer) -> None:
    server.script.append(hold(server, "Hello", delta(reason="stop"), DONE))
    asked = Asked(server, timeout_s=600.0)
    assert asked.says()[0] == "Hello"
    assert asked.says()[0] == "Hello."


@pytest.mark.parametrize(("begins", "words"), [(False, "has not answered for"), (True, "fell silent in the middle")])
@pytest.mark.slow
def test_silence_is_given_up(server: EndpointServer, begins: bool, words: str) -> None:
    asked = Asked(server, timeout_s=1.0 if begins else 0.2)  # the beginning comes before that on a busy machine, too
    server.script.append(hold(server, "Hel", begins=begins))
    error = asked.error()
    assert words in error.message
    assert error.exit_code is ExitCode.NETWORK
    assert server.left.wait(300)


def test_nobody_there_is_one_sentence() -> None:
    with EndpointServer() as server:
        url = server.url
    with pytest.raises(SlmError, match="nobody listens there") as raised:
        engine_module.load(
            endpoints.from_url(url, "test"), None, None, Route("127.0.0.1", int(url.rpartition(":")[2])), print
        )
    assert raised.value.exit_code is ExitCode.NETWORK


def test_an_unknown_host_is_one_sentence() -> None:
    endpoint = endpoints.from_url("https://no-such-host.invalid/v1", "test")
    with pytest.raises(SlmError, match=r"no-such-host\.invalid cannot be found") as raised:
        engine_module.load(endpoint, None, None, route_to(endpoint, {}), print)
    assert raised.value.exit_code is ExitCode.NETWORK


# Trying again


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504, 529])
def test_a_busy_endpoint_is_asked_again(server: EndpointServer, code: int) -> None:
    server.script += [status(code), status(code, Retry_After="0")]
    asked = Asked(server)
    assert asked.says()[0] == "Hello."
    assert [line.split(";")[0] for line in asked.told] == [
        f"127.0.0.1:{server.port} answers {code} ({_meaning(code)})"
    ] * 2
    assert "try 2 of 5" in asked.told[0] and "try 3 of 5 in 0.0 s" in asked.told[1]


def _meaning(code: int) -> str:
    from slmchat.engine.remote.errors import meaning

    return meaning(code)


def test_patience_ends(server: EndpointServer) -> None:
    server.usual = status(503, {"error": {"message": "Loading model"}})
    error = Asked(server).error()
    assert "answers 503 (Service Unavailable): Loading model" in error.message
    assert len(server.posts) == client_module.MOST_TRIES


def test_what_cannot_pass_is_not_tried_again(server: EndpointServer) -> None:
    server.usual = status(501)
    asked = Asked(server)
    asked.error()
    assert (len(server.posts), asked.told) == (1, [])


def test_a_pause_that_nobody_would_wait_is_refused(server: EndpointServer) -> None:
    server.usual = status(429, {"error": {"message": "daily limit"}}, Retry_After="86400")
    error = Asked(server).error()
    assert "wants 86,400 seconds of patience: daily limit" in error.message
    assert len(server.posts) == 1


def test_retry_after_may_be_a_date() -> None:
    from email.utils import formatdate

    asked = client_module._asked_pause(formatdate(time.time() + 30, usegmt=True))
    assert asked is not None and 25 < asked <= 30
    assert client_module._asked_pause("Mon, 01 Jan 2001 00:00:00 GMT") == 0.0
    assert client_module._asked_pause("soon") is None


# Fields that are refused


def test_a_field_that_the_endpoint_does_not_take_is_left_out_and_said(server: EndpointServer) -> None:
    refused = {"error": {"message": "Unsupported parameter: 'seed' is not supported.", "param": "seed"}}
    server.script.append(status(400, refused))
    asked = Asked(server)
    assert asked.says()[0] == "Hello."
    assert asked.told == [f"127.0.0.1:{server.port} does not take seed: it is left out"]
    asked.says()
    assert ["seed" in post.body for post in server.posts] == [True, False, False]


def test_a_stream_that_the_endpoint_does_not_take_is_not_asked_for_again(server: EndpointServer) -> None:
    server.script.append(status(400, {"error": {"message": "streaming is not supported"}}))
    asked = Asked(server)
    assert [asked.says()[0], asked.says()[0]] == ["Hello."] * 2
    assert [(post.body["stream"], "stream_options" in post.body) for post in server.posts] == [
        (True, True),
        (False, False),
        (False, False),
    ]


def test_a_limit_by_another_name(server: EndpointServer) -> None:
    said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    server.script.append(status(400, {"error": {"message": said, "param": "max_tokens"}}))
    Asked(server).records(limits=Limits(9))
    assert server.posts[1].body["max_completion_tokens"] == 9
    assert "max_tokens" not in server.posts[1].body


def test_a_value_that_is_refused_is_not_left_out(server: EndpointServer) -> None:
    server.usual = status(400, {"error": {"message": "temperature must be between 0 and 2", "param": "temperature"}})
    assert Asked(server).error().exit_code is ExitCode.USAGE
    assert len(server.posts) == 1


# Cancelling


@pytest.mark.timeout(30)
@pytest.mark.parametrize("begins", [False, True])
def test_cancel_closes_the_stream_at_once(server: EndpointServer, begins: bool) -> None:
    server.script.append(hold(server, "Hel", begins=begins))
    asked = Asked(server, timeout_s=600.0)

    def cancel() -> None:
        server.holding.wait(300)
        if begins:
            seen.wait(300)
        asked.session.cancel()

    seen = threading.Event()
    threading.Thread(target=cancel, daemon=True).start()
    text = ""
    for item in asked.session.generate(QUESTION, GREEDY, Limits()):
        if isinstance(item, Chunk):
            text += item.text
            seen.set()
    assert isinstance(item, Finish)
    assert (text, item.reason) == ("Hel" if begins else "", FinishReason.INTERRUPTED)
    assert server.left.wait(300), "the endpoint goes on generating for nobody"
    assert asked.says()[0] == "Hello."


@pytest.mark.timeout(30)
def test_cancel_ends_a_pause(server: EndpointServer) -> None:
    server.usual = status(429, Retry_After="50")
    asked = Asked(server)
    events = asked.session.generate(QUESTION, GREEDY, Limits())
    next(events)
    threading.Timer(0.1, asked.session.cancel).start()
    (finish,) = events
    assert isinstance(finish, Finish) and finish.reason is FinishReason.INTERRUPTED


def test_cancel_counts_from_the_call(server: EndpointServer) -> None:
    asked = Asked(server)
    events = asked.session.generate(QUESTION, GREEDY, Limits())
    asked.session.cancel()
    assert [type(item) for item in events] == [Prefill, Finish]


@pytest.mark.timeout(30)
def test_cancel_ends_the_search_for_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from slmchat.engine.remote import wire
    from slmchat.engine.remote.cancel import Cancel, Cancelled

    asked, answered = threading.Event(), threading.Event()

    def slow(*_: object, **__: object) -> list[object]:
        asked.set()
        answered.wait(300)
        return []

    monkeypatch.setattr(wire.socket, "getaddrinfo", slow)
    cancel = Cancel()
    threading.Thread(target=lambda: (asked.wait(300), cancel.set()), daemon=True).start()
    with pytest.raises(Cancelled):
        wire.resolve("example.org", 443, cancel)
    answered.set()


# Keys and redirects


def test_a_redirect_to_another_host_is_refused_and_the_key_stays(server: EndpointServer) -> None:
    with EndpointServer() as other:
        server.usual = status(307, Location=f"{other.url}/v1/chat/completions")
        error = Asked(server, key=KEY).error()
        assert "redirects to" in error.message and error.exit_code is ExitCode.NETWORK
        assert other.requests == []


def test_a_redirect_on_the_same_host_is_followed_with_the_question(server: EndpointServer) -> None:
    server.script.append(status(308, Location="/v2/chat/completions"))
    assert Asked(server, key=KEY).says()[0] == "Hello."
    assert server.posts[1].path == "/v2/chat/completions"
    assert server.posts[1].body == server.posts[0].body


@pytest.mark.parametrize("code", [301, 302, 303])
def test_a_redirect_that_would_lose_the_question_is_refused(server: EndpointServer, code: int) -> None:
    server.usual = status(code, Location="/elsewhere")
    assert "redirects to /elsewhere" in Asked(server).error().message


def test_a_circle_of_redirects_ends(server: EndpointServer) -> None:
    server.usual = status(307, Location="/v1/chat/completions")
    assert "circle" in Asked(server).error().message
    assert len(server.posts) < 10


def test_a_key_that_the_endpoint_repeats_is_not_shown(server: EndpointServer) -> None:
    from slmchat.redaction import hide

    hide("not-like-a-key")
    server.usual = status(401, {"error": {"message": f"Incorrect API key {KEY} or not-like-a-key"}})
    message = Asked(server, key=KEY).error().message
    assert "refuses the key" in message and KEY not in message and "not-like-a-key" not in message


# The parser of events


EXAMPLES: dict[str, tuple[bytes, list[str]]] = {
    "plain": (b"data: a\n\ndata: b\n\n", ["a", "b"]),
    "carriage returns": (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", ["a", "b", "c"]),
    "several lines": (b"data: a\ndata: b\n\n", ["a\nb"]),
    "other fields": (b": ping\n\nevent: x\nid: 1\nretry: 5\ndata: a\n\n", ["a"]),
    "no space": (b"data:a\n\ndata:  b\n\n", ["a", " b"]),
    "mark of UTF-8": (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
    "not finished": (b"data: a\n\ndata: b\n", ["a"]),
    "characters": ("data: ä€😀\n\n".encode(), ["ä€😀"]),
    "empty": (b"\n\n\ndata\n\n", [""]),
}


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("step", [1, 2, 3, 5, 1000])
def test_events_do_not_depend_on_where_the_stream_is_cut(example: str, step: int) -> None:
    data, expected = EXAMPLES[example]
    parser = EventStream()
    found = [item for at in range(0, len(data), step) for item in parser.feed(data[at : at + step])]
    assert found == expected


def test_events_are_bounded() -> None:
    many = EventStream()
    with pytest.raises(TooLarge, match="event"):
        many.feed((b"data: " + b"x" * 1000 + b"\n") * (MOST_OF_A_LINE // 1000 + 2))


def test_a_stream_in_odd_pieces(server: EndpointServer) -> None:
    data = b"".join(events("Grüße", " 😀", usage=USAGE))

    def crumbs(handler: Handler) -> None:
        handler.begin()
        for at in range(0, len(data), 7):
            handler.block(data[at : at + 7])
        handler.end()

    server.usual = crumbs
    assert Asked(server).says()[0] == "Grüße 😀"


# Proxies


def test_the_way_goes_through_the_proxy_of_the_environment_but_never_for_this_device() -> None:
    here = endpoints.from_url("http://localhost:8080", "test")
    there = endpoints.from_url("https://api.example.org/v1", "test")
    environ = {"https_proxy": "http://me:pass%21word@proxy:3128", "HTTP_PROXY": "http://proxy:3128"}
    assert route_to(here, environ) == Route("localhost", 8080)
    found = route_to(there, environ)
    assert (found.host, found.port, found.is_proxy) == ("proxy", 3128, True)
    assert found.authorization == "Basic bWU6cGFzcyF3b3Jk"
    assert route_to(there, {**environ, "NO_PROXY": "localhost,.example.org"}) == Route("api.example.org", 443)
    with pytest.raises(SlmError, match="HTTPS_PROXY cannot be used"):
        route_to(there, {"HTTPS_PROXY": "socks5://proxy:1080"})


def test_a_plain_request_through_a_proxy_names_the_whole_address(server: EndpointServer) -> None:
    endpoint = endpoints.from_url("http://far.example:8000/v1", "test")
    route = route_to(endpoint, {"http_proxy": server.url})
    engine = engine_module.load(endpoint, None, None, route, print)
    assert engine.model.id == "small"
    assert server.requests[0].path == "http://far.example:8000/v1/models"
    assert server.requests[0].headers["host"] == "far.example:8000"


def test_a_proxy_that_refuses_the_tunnel_is_one_sentence(server: EndpointServer) -> None:
    endpoint = endpoints.from_url("https://far.example/v1", "test")
    route = route_to(endpoint, {"https_proxy": server.url})
    with pytest.raises(
        SlmError, match=r"the proxy 127.0.0.1:\d+ \(HTTPS_PROXY\) does not let slm through to far\.example"
    ) as raised:
        engine_module.load(endpoint, KEY, None, route, print)
    assert raised.value.exit_code is ExitCode.NETWORK
    assert server.requests == []


def test_a_proxy_that_is_not_there_is_named_and_not_the_endpoint() -> None:
    with EndpointServer() as gone:
        url = gone.url
    for address, environ in (
        ("https://far.example/v1", {"https_proxy": url}),
        ("http://far.example/v1", {"all_proxy": url}),
        ("http://far.example/v1", {"http_proxy": "http://no-such-proxy.invalid:3128"}),
    ):
        endpoint = endpoints.from_url(address, "test")
        with pytest.raises(SlmError, match=r"the proxy \S+ \(\w+_PROXY\) cannot be (reached|found)") as raised:
            engine_module.load(endpoint, None, None, route_to(endpoint, environ), print)
        assert "NO_PROXY" in (raised.value.hint or "")
        assert "far.example" not in raised.value.message


def test_a_proxy_that_wants_a_login_is_named(server: EndpointServer) -> None:
    server.models_answer = status(407, b"<html><title>Login</title></html>")
    endpoint = endpoints.from_url("http://far.example/v1", "test")
    with pytest.raises(SlmError, match=r"the proxy 127\.0\.0\.1:\d+ \(HTTP_PROXY\) does not let slm through to far"):
        engine_module.load(endpoint, None, None, route_to(endpoint, {"http_proxy": server.url}), print)
