"""`slm serve`: what HTTP clients get, see and may do. The fake engine first; tests/test_serve_real.py has the process."""

import contextlib
import gzip
import itertools
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_engine import CHATML, FakeEngine
from serving import NAME, Serving, read_all, serving

from slmchat.cli import run_cli
from slmchat.commands import serve as serve_command
from slmchat.engine.requests import Limits, Part, Prompt
from slmchat.engine.results import AtLeast, FinishReason
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.warm import connection
from slmchat.engine.warm.codec import encode
from slmchat.engine.warm.connection import WarmConnection
from slmchat.engine.warm.engine import WarmEngine, WarmModel
from slmchat.errors import ExitCode, SlmError
from slmchat.server import completion_answer, listeners, on_demand
from slmchat.server import connection as wire
from slmchat.server.served_models import is_called

PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(replies=[["Hel", "lo"]])


def endless(word: str = "on ") -> Any:
    return itertools.repeat(word)


def _until(condition: Callable[[], object]) -> None:
    """Wait for what another thread does; the test's own time limit ends it."""
    import time

    while not condition():
        time.sleep(0.005)


class TestRoutes:
    def test_health_and_the_root_answer(self, server: Serving) -> None:
        assert server.get("/health").json == {"status": "ok"}
        assert NAME in server.get("/").body.decode()

    def test_models_names_the_one_model(self, server: Serving) -> None:
        (model,) = server.get("/v1/models").json["data"]
        assert (model["id"], model["object"]) == (NAME, "model")
        assert server.get(f"/v1/models/{NAME}").json == model

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [("GET", "/nowhere", 404), ("GET", "/v1/chat/completions", 405), ("POST", "/v1/models", 405)],
    )
    def test_what_is_not_there_is_an_error_in_openais_shape(
        self, server: Serving, method: str, path: str, status: int
    ) -> None:
        reply = server.request(method, path, {} if method == "POST" else None)
        assert reply.status == status
        assert set(reply.json["error"]) == {"message", "type", "param", "code"}

    def test_a_name_without_its_quantization_is_found_as_well(self, server: Serving) -> None:
        """A client looks a model up by the name with which it asks."""
        assert server.get("/v1/models/fake:1b").json["id"] == NAME
        assert server.get("/v1/models/fake:2b").status == 404

    def test_the_whole_address_may_stand_in_the_request(self, server: Serving) -> None:
        said = server.raw(b"GET http://localhost/health?x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 200")

    def test_slashes_too_many_are_one(self, server: Serving) -> None:
        """A base URL that ends in one, and a path that begins with one."""
        assert [server.get(path).status for path in ("/v1//models", "//v1/models/", "/v1/models//fake:1b")] == [
            *(200, 200),
            404,
        ]

    def test_a_path_that_lacks_the_version_is_told(self, server: Serving) -> None:
        reply = server.post("/chat/completions", {})
        assert (
            reply.json["error"]["message"] == "there is nothing at /chat/completions (it is at /v1/chat/completions)."
        )

    def test_a_method_that_is_not_taken_is_answered_with_those_that_are(self, server: Serving) -> None:
        assert server.get("/v1/completions").headers["allow"] == "POST"
        assert server.post("/health", {}).headers["allow"] == "GET, HEAD"

    def test_a_packed_body_is_named_as_one(self, server: Serving) -> None:
        reply = server.post("/v1/chat/completions", gzip.compress(b"{}"), content_encoding="gzip")
        assert (reply.status, "'gzip'" in reply.json["error"]["message"]) == (415, True)

    def test_head_is_get_without_a_body(self, server: Serving) -> None:
        reply = server.request("HEAD", "/health")
        assert (reply.status, reply.body) == (200, b"")


class TestChat:
    def test_a_completion_whole(self, server: Serving, engine: FakeEngine) -> None:
        reply = server.chat("Hi", seed=7, temperature=0.5, max_tokens=9).json
        (choice,) = reply["choices"]
        assert choice["message"] == {"role": "assistant", "content": "Hello", "refusal": None}
        assert (choice["finish_reason"], reply["object"], reply["model"]) == ("stop", "chat.completion", NAME)
        assert reply["usage"]["completion_tokens"] == 2
        assert reply["usage"]["total_tokens"] == reply["usage"]["prompt_tokens"] + 2
        assert (engine.samplers[0].seed, engine.samplers[0].temperature, engine.limits[0].max_tokens) == (7, 0.5, 9)
        assert engine.prompts == ["<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"]

    def test_a_stream_says_the_same(self, server: Serving) -> None:
        events = server.chat(stream=True, stream_options={"include_usage": True}).events
        assert events[-1] == "[DONE]"
        *chunks, usage = events[:-1]
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert deltas[0] == {"role": "assistant", "content": ""}
        assert "".join(delta.get("content", "") for delta in deltas) == "Hello"
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
        assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 2
        assert len({chunk["id"] for chunk in [*chunks, usage]}) == 1

    def test_a_stream_has_no_comments_and_is_not_silent_while_a_long_prompt_is_read(
        self, server: Serving, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Shell-GPT 1.0 and scripts take each line for JSON; Codex gives up where no event comes."""
        engine.replies = [["Hello"]] * 4
        told: list[list[Any]] = []
        for quiet_s in (1e9, 0.0):
            monkeypatch.setattr(completion_answer, "QUIET_S", quiet_s)
            reply = server.chat(stream=True)
            assert all(line.startswith(b"data: ") for line in reply.body.splitlines() if line)
            told.append([event["choices"][0]["delta"] for event in reply.events[:-1]])
            kinds = [event["type"] for event in server.post("/v1/responses", {"input": "Hi", "stream": True}).events]
            told.append(kinds)
        usual = [{"role": "assistant", "content": ""}, {"content": "Hello"}, {}]
        assert (
            told[0] == usual
            and {"content": ""} in told[2]
            and [each for each in told[2] if each != {"content": ""}] == usual
        )
        assert told[1].count("response.in_progress") == 1 < told[3].count("response.in_progress")
        assert told[3].count("response.created") == 1

    def test_a_stream_without_usage_has_none(self, server: Serving) -> None:
        assert all(event == "[DONE]" or event["choices"] for event in server.chat(stream=True).events)

    def test_a_thought_is_apart(self, server: Serving, engine: FakeEngine) -> None:
        engine.replies = [["<think>", "hm", "</think>", "\n\nyes"]] * 2
        message = server.chat().json["choices"][0]["message"]
        assert (message["content"], message["reasoning_content"]) == ("yes", "hm")
        deltas = [event["choices"][0]["delta"] for event in server.chat(stream=True).events[:-1]]
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hm"
        assert "".join(delta.get("content", "") for delta in deltas) == "yes"

    def test_thinking_is_asked_for_as_clients_do(self, server: Serving, engine: FakeEngine) -> None:
        engine.template = "{% if enable_thinking is defined and not enable_thinking %}NO{% endif %}" + CHATML
        engine.replies = [["a"]] * 3
        server.chat()
        server.chat(reasoning_effort="none")
        server.chat(chat_template_kwargs={"enable_thinking": False})
        assert [prompt.startswith("NO") for prompt in engine.prompts] == [False, True, True]
        assert server.chat(reasoning_effort="much").status == 400

    def test_n_completions_have_seeds_of_their_own(self, server: Serving, engine: FakeEngine) -> None:
        engine.replies = [["a"], ["b"], ["a"], ["b"]]
        reply = server.chat(n=2, seed=5).json
        assert [choice["message"]["content"] for choice in reply["choices"]] == ["a", "b"]
        assert [sampler.seed for sampler in engine.samplers] == [5, 6]
        assert reply["usage"]["completion_tokens"] == 2
        chunks = server.chat(n=2, stream=True).events[:-1]
        assert {chunk["choices"][0]["index"] for chunk in chunks} == {0, 1}

    def test_the_limit_is_a_finish_reason(self, server: Serving) -> None:
        assert server.chat(max_completion_tokens=1).json["choices"][0]["finish_reason"] == "length"

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    def test_minus_one_is_no_limit(self, server: Serving, engine: FakeEngine, name: str) -> None:
        assert server.chat(**{name: -1}).status == 200
        assert engine.limits[0].max_tokens is None

    def test_the_schema_of_a_json_object_counts(self, server: Serving, engine: FakeEngine) -> None:
        engine.replies = [["3"]]
        assert server.chat(response_format={"type": "json_object", "schema": {"type": "integer"}}).status == 200
        constraint = engine.limits[0].constraint
        assert constraint is not None and constraint.text == '{"type": "integer"}'

    def test_the_older_form_of_tools_is_not_passed_over(self, server: Serving) -> None:
        reply = server.chat(functions=[{"name": "f", "parameters": {}}])
        assert (reply.status, reply.json["error"]["param"]) == (400, "functions")

    def test_messages_become_one_system_message_and_sides_in_turn(self, server: Serving, engine: FakeEngine) -> None:
        said = [("system", "S1"), ("user", "A"), ("user", "B"), ("assistant", "C"), ("developer", "S2"), ("user", "D")]
        messages = [{"role": role, "content": text} for role, text in said]
        assert server.post("/v1/chat/completions", {"messages": messages}).status == 200
        turns = engine.prompts[0].replace("<|im_start|>", "").split("<|im_end|>\n")
        assert turns == ["system\nS1\n\nS2", "user\nA\n\nB", "assistant\nC", "user\nD", "assistant\n"]

    def test_braces_in_a_message_are_text(self, server: Serving, engine: FakeEngine) -> None:
        server.chat("a {} {name} {{ x }}")
        assert "a {} {name} {{ x }}" in engine.prompts[0]

    def test_an_answer_that_was_begun_goes_on(self, server: Serving, engine: FakeEngine) -> None:
        messages = [{"role": "user", "content": "Count"}, {"role": "assistant", "content": "one, two,"}]
        server.post("/v1/chat/completions", {"messages": messages})
        assert engine.prompts[0].endswith("assistant\none, two,")

    def test_a_field_that_is_not_known_is_ignored_and_noted(self, server: Serving) -> None:
        assert server.chat(logit_bias={}, wonder=1).status == 200
        assert "ignored: logit_bias, wonder" in server.notes.lines

    def test_nothing_that_is_said_is_logged(self, server: Serving, engine: FakeEngine) -> None:
        server.chat("my secret")
        engine.replies = [["1"]]
        schema = {"type": "integer", "secretWord": True}  # of which slm run would say that it does not know it
        server.chat(response_format={"type": "json_schema", "json_schema": {"schema": schema}})
        assert not any("secret" in line or "Hello" in line for line in server.notes.lines)

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"temperature": "hot"}, "temperature"),
            ({"temperature": -1}, "temperature"),
            ({"n": 0}, "n"),
            ({"n": 1000}, "n"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"stop": [1]}, "stop"),
            ({"stream": "yes"}, "stream"),
            ({"logprobs": 3}, "logprobs"),
            ({"logprobs": True, "top_logprobs": 99}, "top_logprobs"),
            ({"presence_penalty": 1}, "presence_penalty"),
            ({"response_format": {"type": "xml"}}, "response_format"),
            ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 1}}}}, "response_format"),
            ({"messages": []}, "messages"),
            ({"messages": "hi"}, "messages"),
            ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0]"),
            ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": ""}]}, "messages"),
            ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
            ({"stream_options": 1}, "stream_options"),
            ({"model": 3}, "model"),
        ],
    )
    def test_a_value_that_cannot_be_used_names_its_field(
        self, server: Serving, fields: dict[str, object], param: str
    ) -> None:
        reply = server.chat(**fields)
        error = reply.json["error"]
        assert (reply.status, error["type"]) == (400, "invalid_request_error")
        assert error["param"].startswith(param.partition(".")[0])

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
    def test_a_body_that_is_no_object_is_refused(self, server: Serving, body: bytes) -> None:
        assert server.post("/v1/chat/completions", body).status == 400

    def test_another_model_is_not_found(self, server: Serving) -> None:
        reply = server.chat(model="gpt-4")
        assert (reply.status, reply.json["error"]["code"]) == (404, "model_not_found")
        assert server.chat(model="fake:1b").status == 200

    @pytest.mark.parametrize("name", ["/home/u/tiny.Q4.gguf", "tiny.Q4.gguf", "tiny.Q4"])
    def test_a_file_is_called_by_its_name_too(self, name: str) -> None:
        """gptme refuses a slash at the beginning."""
        assert is_called("/home/u/tiny.Q4.gguf", name)
        assert not is_called("/home/u/tiny.Q4.gguf", "tiny") and not is_called("hf.co/a/b:1b", "b:1b")

    def test_what_does_not_fit_is_told_as_openai_does(self, server: Serving) -> None:
        reply = server.chat("x" * 5000)
        assert (reply.status, reply.json["error"]["code"]) == (400, "context_length_exceeded")
        message = reply.json["error"]["message"]
        assert message.endswith("and the context window holds 4,096.")
        # for these LangChain and litellm look: the package openai tells them no more than the words
        assert "context_length_exceeded" in message and "this model's maximum context length is" in message

    def test_pictures_are_data_urls_and_nothing_is_fetched(self, server: Serving) -> None:
        part = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}}
        reply = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": [part]}]})
        assert reply.status == 400 and "nothing is fetched" in reply.json["error"]["message"]

    def test_a_model_that_does_not_see_says_so(self, server: Serving) -> None:
        part = {"type": "image_url", "image_url": {"url": PNG}}
        reply = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": [part]}]})
        assert reply.status == 400

    def test_an_error_of_the_engine_is_a_500_and_the_server_goes_on(self, server: Serving, engine: FakeEngine) -> None:
        def broken() -> Iterator[str]:
            yield "a"
            raise SlmError("llama.cpp failed.", exit_code=ExitCode.BUG)

        engine.replies = [broken(), broken(), ["fine"]]
        assert server.chat().status == 500
        events = server.chat(stream=True).events
        assert events[-1]["error"]["message"] == "llama.cpp failed."
        assert server.chat().json["choices"][0]["message"]["content"] == "fine"


class TestCompletions:
    def test_no_alternatives_are_logprobs_all_the_same(self, server: Serving, engine: FakeEngine) -> None:
        choice = server.post("/v1/completions", {"prompt": "Once", "logprobs": 0}).json["choices"][0]
        assert choice["logprobs"] is not None and engine.limits[0].top_logprobs == 0

    def test_a_bare_prompt_goes_on(self, server: Serving, engine: FakeEngine) -> None:
        engine.replies = [[" upon", " a"]]
        reply = server.post("/v1/completions", {"prompt": "Once", "max_tokens": 2}).json
        assert (reply["object"], reply["choices"][0]["text"]) == ("text_completion", " upon a")
        assert engine.prompts == ["Once"]

    def test_a_stream_of_text(self, server: Serving) -> None:
        events = server.post("/v1/completions", {"prompt": "Once", "stream": True}).events
        assert "".join(event["choices"][0]["text"] for event in events[:-1]) == "Hello"

    def test_several_prompts_have_choices_in_their_order(self, server: Serving, engine: FakeEngine) -> None:
        engine.replies = [["a1"], ["a2"], ["b1"], ["b2"]] * 2
        asked = {"prompt": ["A", "BB"], "n": 2, "seed": 5}
        reply = server.post("/v1/completions", asked).json
        assert [(each["index"], each["text"]) for each in reply["choices"]] == [
            (0, "a1"),
            (1, "a2"),
            (2, "b1"),
            (3, "b2"),
        ]
        assert engine.prompts == ["A", "A", "BB", "BB"]
        assert [sampler.seed for sampler in engine.samplers] == [5, 6, 5, 6]
        alone = [
            server.post("/v1/completions", {"prompt": each}).json["usage"]["prompt_tokens"] for each in ("A", "BB")
        ]
        assert (reply["usage"]["prompt_tokens"], reply["usage"]["completion_tokens"]) == (sum(alone), 4)
        engine.replies = [["a"], ["b"]]
        chunks = server.post("/v1/completions", {"prompt": ["A", "BB"], "stream": True}).events[:-1]
        assert [(each["choices"][0]["index"], each["choices"][0]["text"]) for each in chunks] == [
            *((0, "a"), (0, "")),
            *((1, "b"), (1, "")),
        ]

    def test_a_prompt_that_does_not_fit_costs_none_of_the_others(self, server: Serving, engine: FakeEngine) -> None:
        reply = server.post("/v1/completions", {"prompt": ["A", "x" * 5000]})
        assert (reply.status, reply.json["error"]["code"]) == (400, "context_length_exceeded")
        assert engine.prompts == []

    @pytest.mark.parametrize(
        "fields",
        [
            {"prompt": []},
            {"prompt": ["a", ""]},
            {"prompt": [1, 2]},
            {"prompt": 1},
            {},
            {"prompt": "a", "echo": True},
            {"prompt": "a", "suffix": "b"},
        ],
    )
    def test_what_cannot_be_done_is_refused(self, server: Serving, fields: dict[str, object]) -> None:
        assert server.post("/v1/completions", fields).status == 400


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
SHAPED = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


class TestResponseFormat:
    def test_the_schema_constrains_and_is_checked(self, server: Serving, engine: FakeEngine) -> None:
        engine.replies = [['{"a":', " 1}"]]
        assert server.chat(response_format=SHAPED).json["choices"][0]["message"]["content"] == '{"a": 1}'
        constraint = engine.limits[0].constraint
        assert constraint is not None and json.loads(constraint.text) == SCHEMA

    def test_the_length_is_an_answer_that_ends_early(self, server: Serving, engine: FakeEngine) -> None:
        engine.replies = [['{"a":', " 1"]] * 2
        reply = server.chat(response_format=SHAPED, max_tokens=1)
        assert reply.status == 200
        assert reply.json["choices"][0]["finish_reason"] == "length"
        events = server.chat(response_format=SHAPED, max_tokens=1, stream=True).events
        assert events[-1] == "[DONE]" and events[-2]["choices"][0]["finish_reason"] == "length"

    def test_an_answer_that_is_not_right_is_asked_for_again(self, server: Serving, engine: FakeEngine) -> None:
        engine.replies = [['{"a": "x"}'], ['{"a": 2}'], ["{}"], ["{}"]]
        assert server.chat(response_format=SHAPED).json["choices"][0]["message"]["content"] == '{"a": 2}'
        reply = server.chat(response_format=SHAPED)
        assert (reply.status, reply.json["error"]["code"]) == (500, "response_format_not_met")

    def test_any_json_and_text(self, server: Serving, engine: FakeEngine) -> None:
        engine.replies = [["[1]"], ["x"]]
        assert server.chat(response_format={"type": "json_object"}).json["choices"][0]["message"]["content"] == "[1]"
        assert server.chat(response_format={"type": "text"}).json["choices"][0]["message"]["content"] == "x"


class TestWhoMayAsk:
    @pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
    def test_a_name_that_is_not_the_servers_is_refused(self, server: Serving, host: str) -> None:
        assert server.get("/v1/models", Host=host).status in (400, 403)

    @pytest.mark.parametrize("host", ["localhost", "localhost:8484", "LOCALHOST", "127.0.0.1:1"])
    def test_its_own_names_are_right(self, server: Serving, host: str) -> None:
        assert server.get("/v1/models", Host=host).status == 200

    def test_pages_of_other_sites_may_not_ask(self, server: Serving, engine: FakeEngine) -> None:
        assert server.post("/v1/chat/completions", {}, Origin="https://evil.example").status == 403
        assert server.post("/v1/chat/completions", {}, Origin="null").status == 403
        assert server.get("/v1/models", Sec_Fetch_Site="cross-site").status == 403
        assert "access-control-allow-origin" not in server.get("/v1/models").headers
        assert not engine.prompts

    def test_an_origin_that_is_allowed_may(self, engine: FakeEngine, tmp_path: Path) -> None:
        with serving(engine, tmp_path, origins=("https://app.example",)) as server:
            asked = server.request("OPTIONS", "/v1/chat/completions", None, Origin="https://app.example")
            assert asked.status == 204 and not {"content-length", "content-type"} & set(asked.headers)
            assert asked.headers["access-control-allow-origin"] == "https://app.example"
            assert server.get("/v1/models", Origin="https://app.example", Sec_Fetch_Site="cross-site").status == 200
            assert server.get("/v1/models", Origin="https://other.example").status == 403

    def test_a_page_may_send_the_headers_of_its_client(self, engine: FakeEngine, tmp_path: Path) -> None:
        """The package openai of npm sends x-stainless-os and others; a browser asks for each of them."""
        asking = {"Origin": "https://app.example", "Access_Control_Request_Method": "POST"}
        with serving(engine, tmp_path, origins=("https://app.example",)) as server:
            named = "authorization,content-type,x-stainless-os"
            asked = server.request("OPTIONS", "/v1/models", None, Access_Control_Request_Headers=named, **asking)
            assert (asked.status, asked.headers["access-control-allow-headers"]) == (204, named)
            usual = server.request("OPTIONS", "/v1/models", None, **asking)
            assert usual.headers["access-control-allow-headers"] == "Authorization, Content-Type"
            named = "x\xff"
            assert (
                server.request("OPTIONS", "/v1/models", None, Access_Control_Request_Headers=named, **asking).status
                == 204
            )

    def test_the_key(self, engine: FakeEngine, tmp_path: Path) -> None:
        with serving(engine, tmp_path, key="right") as server:
            assert server.get("/health").status == 200
            assert server.get("/v1/models").status == 401
            for wrong in ("Bearer wrong", "Bearer ", "Basic right", "right"):
                assert server.get("/v1/models", Authorization=wrong).status == 401
            assert server.get("/v1/models", Authorization="Bearer r\xefght").status == 401
            assert server.get("/v1/models", Authorization="Bearer right").status == 200
            assert server.get("/v1/models", Authorization="bearer right").status == 200
            assert not any("right" in line for line in server.notes.lines)


@pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
def test_the_users_own_socket_speaks_http_and_wants_no_key(engine: FakeEngine, tmp_path: Path) -> None:
    with serving(engine, tmp_path, key="right") as server, socket.socket(socket.AF_UNIX) as made:
        made.connect(str(server.path))
        made.sendall(b"GET /v1/models HTTP/1.1\r\nHost: anything\r\nConnection: close\r\n\r\n")
        assert b"200" in read_all(made).splitlines()[0]


@pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
def test_a_word_that_comes_with_the_request_gives_it_up(server: Serving, engine: FakeEngine) -> None:
    engine.replies = [endless(), ["Hello"]]
    prompt = {"prompt": encode(Prompt((Part("Hi"),))), "sampler": encode(SamplerSettings()), "limits": encode(Limits())}
    asked = json.dumps({"generate": {**prompt, "n_ctx": 4096}}).encode() + b"\n"
    with socket.socket(socket.AF_UNIX) as made, made.makefile("rb") as lines:
        made.connect(str(server.path))
        for data, reason in ((asked + b'{"cancel": true}\n', "interrupted"), (asked, "stop")):
            made.sendall(data)
            said: dict[str, Any] = {}
            while "finish" not in said:
                said = json.loads(lines.readline())
            assert said["finish"]["reason"] == reason


@pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
def test_tokens_that_were_not_counted_to_the_end_are_told_so(
    server: Serving, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(str(server.path))
        asking = WarmConnection(made)
        warm = WarmEngine(asking, [], WarmModel(4096, 1, engine.info))
        prompt = Prompt((Part("Hi there"),))
        monkeypatch.setattr(FakeEngine, "count", lambda self, prompt, most=None: AtLeast(9000) if most else 9500)
        assert f"{warm.count(prompt, 4096):,}" == "at least 9,000"
        assert f"{warm.count(prompt):,}" == "9,500"


@pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
def test_a_line_longer_than_the_server_reads_is_not_sent(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MOST_LINE", 3_000_000)
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(str(server.path))
        asking = WarmConnection(made)
        with pytest.raises(SlmError, match="the prompt takes 4 MB, and slm serve reads at most 3 MB") as caught:
            connection.ask(asking, {"count": "x" * 4_000_000})
        assert caught.value.exit_code is ExitCode.CONTEXT
        assert asking.asked({"hello": True})["version"]  # and the line is as good as before


@pytest.mark.parametrize("line", [b"{}", b"{", b'{"generate": 1}', b'{"count": []}', b"{" + b"[" * 100_000])
def test_a_line_that_is_no_request_is_answered_with_an_error(server: Serving, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(str(server.path))
        made.sendall(line + b"\n")
        assert b'"error"' in made.recv(4096)
    assert server.get("/health").status == 200


HELLO = b'{"messages": [{"role": "user", "content": "Hi"}]}'
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"


class TestOnTheWire:
    def test_a_chunked_body(self, server: Serving) -> None:
        body = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (10, HELLO[:10], len(HELLO) - 10, HELLO[10:])
        said = server.raw(HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + body)
        assert b"200" in said.splitlines()[0] and b"Hello" in said

    def test_expect_100_continue(self, server: Serving) -> None:
        with server.connect() as made:
            made.sendall(HEAD + b"Content-Length: %d\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n" % len(HELLO))
            assert made.recv(4096).startswith(b"HTTP/1.1 100")
            made.sendall(HELLO)
            assert b"Hello" in read_all(made)

    def test_http_1_0(self, server: Serving) -> None:
        said = server.raw(b"POST /v1/chat/completions HTTP/1.0\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(HELLO), HELLO))  # fmt: skip
        assert b"200" in said.splitlines()[0] and b"Hello" in said

    def test_http_1_0_gets_a_stream_without_chunks(self, server: Serving) -> None:
        body = HELLO[:-1] + b', "stream": true}'
        said = server.raw(b"POST /v1/chat/completions HTTP/1.0\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))  # fmt: skip
        assert b"chunked" not in said.lower().partition(b"\r\n\r\n")[0]
        assert said.endswith(b"data: [DONE]\n\n")

    def test_requests_one_behind_the_other_are_answered_in_order(self, server: Serving, engine: FakeEngine) -> None:
        engine.replies = [["first"], ["second"]]
        one = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(HELLO), HELLO)
        last = HEAD + b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(HELLO), HELLO)
        said = server.raw(one + last)
        assert said.count(b"HTTP/1.1 200") == 2 and said.index(b"first") < said.index(b"second")

    def test_one_connection_serves_many_requests(self, server: Serving) -> None:
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
        for _ in range(3):
            connection.request("GET", "/health")
            assert connection.getresponse().read() == b'{"status": "ok"}'
        connection.close()

    @pytest.mark.parametrize(
        ("said", "status"),
        [
            (b"\x16\x03\x01\x02\x00\x01\x00", b"400"),  # TLS
            (b"GARBAGE\r\n\r\n", b"400"),
            (b"GET /health HTTP/1.1\r\n\r\n", b"400"),  # without a host
            (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", b"400"),
            (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", b"431"),
            # in one packet, where it is whole before it is too long
            (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 33_000 + b"\r\n\r\n", b"431"),
            (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", b"400"),
            (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
            (HEAD + b"Content-Length: -5\r\n\r\n", b"400"),
            (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", b"501"),
        ],
    )
    def test_what_is_not_http_is_refused_and_closed(self, server: Serving, said: bytes, status: bytes) -> None:
        with server.connect() as made:
            with contextlib.suppress(OSError):  # it may have been refused and closed by then
                made.sendall(said)
                made.shutdown(socket.SHUT_WR)
            try:
                answer = read_all(made)
            except ConnectionResetError:
                answer = b""
        assert answer == b"" or status in answer.splitlines()[0]
        assert server.get("/health").status == 200

    def test_a_body_that_is_too_long_is_refused_before_it_is_read(self, server: Serving) -> None:
        said = server.raw(HEAD + b"Content-Length: %d\r\n\r\n" % (wire.MOST_BODY + 1))
        assert b"413" in said.splitlines()[0]

    def test_a_body_that_grows_too_long_is_refused(self, server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wire, "MOST_BODY", 1000)
        said = server.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + (b"190\r\n" + b"x" * 400 + b"\r\n") * 4)
        assert b"413" in said.splitlines()[0]

    def test_a_head_that_does_not_end_is_not_waited_for(self, server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wire, "_HEAD_S", 0.1)
        assert server.raw(b"GET /health HTTP/1.1\r\nHost: lo") == b""

    def test_an_idle_connection_is_closed(self, server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wire, "IDLE_S", 0.1)
        assert server.raw(b"") == b""

    def test_a_client_that_said_its_last_word_still_gets_its_answer(self, server: Serving) -> None:
        with server.connect() as made:
            made.sendall(HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(HELLO), HELLO))
            made.shutdown(socket.SHUT_WR)
            assert b"Hello" in read_all(made)


class TestManyClients:
    @pytest.mark.parametrize("is_streamed", [True, False])
    def test_a_client_that_vanishes_ends_its_generation(
        self, server: Serving, engine: FakeEngine, is_streamed: bool
    ) -> None:
        engine.replies = [endless()]
        body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "stream": is_streamed}).encode()
        made = server.connect()
        made.sendall(HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        _until(lambda: engine.prompts)
        made.close()
        _until(lambda: engine.stream_pool and engine.stream_pool.is_idle)
        assert engine.stream_pool is not None and engine.stream_pool.cancelled
        _until(lambda: server.server.status()["working"] == 0)

    @pytest.mark.slow
    def test_a_reader_that_does_not_read_is_left(
        self, server: Serving, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(wire, "_WRITE_S", 0.2)
        engine.replies = [endless("x" * 100_000)]
        body = HELLO[:-1] + b', "stream": true}'
        with server.connect() as made:
            made.sendall(HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
            _until(lambda: engine.stream_pool and engine.stream_pool.cancelled)

    def test_a_queue_that_is_full_is_a_429(
        self, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from slmchat.server import served_model

        monkeypatch.setattr(served_model, "MOST_WAITING", 1)
        gate = threading.Event()

        def held() -> Iterator[str]:
            yield "a"
            while not gate.is_set():
                yield ""

        engine.replies = [held(), ["b"], ["c"]]
        replies: list[Any] = []
        with serving(engine, tmp_path, parallel=1) as server:
            asking = [threading.Thread(target=lambda: replies.append(server.chat())) for _ in range(2)]
            asking[0].start()
            _until(lambda: engine.prompts)
            asking[1].start()
            _until(lambda: server.server.status()["waiting"] == 1)
            reply = server.chat()
            assert reply.status == 429 and int(reply.headers["retry-after"]) >= 1
            assert reply.json["error"]["type"] == "rate_limit_error"
            gate.set()
            for each in asking:
                each.join()
        assert [reply.status for reply in replies] == [200, 200]

    def test_too_many_connections(self, server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
        from slmchat.server import app

        monkeypatch.setattr(app, "_MOST_CONNECTIONS", 1)
        with server.connect() as first:
            first.sendall(b"GET /health HTTP/1.1\r\n")
            _until(lambda: server.server._connections)
            assert server.get("/health").status == 503

    @pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
    def test_few_descriptors_are_fewer_connections(self, server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
        import resource

        monkeypatch.setattr(resource, "getrlimit", lambda _what: (65, 65))
        with server.connect() as first:
            first.sendall(b"GET /health HTTP/1.1\r\n")
            _until(lambda: server.server._connections)
            assert server.get("/health").status == 503

    def test_answers_side_by_side_are_not_mixed(self, server: Serving, engine: FakeEngine) -> None:
        engine.replies = [[f"{n} "] * 30 for n in range(8)]
        texts: list[str] = []
        asking = [
            threading.Thread(target=lambda: texts.append(server.chat().json["choices"][0]["message"]["content"]))
            for _ in range(8)
        ]
        for each in asking:
            each.start()
        for each in asking:
            each.join()
        assert sorted(texts) == [f"{n} " * 30 for n in range(8)]

    @pytest.mark.slow
    def test_templates_of_several_requests_at_once(self, engine: FakeEngine, tmp_path: Path) -> None:
        engine.replies = [["a"]] * 200
        engine.trained = 10_000_000
        from slmchat.options import GenerationOptions

        statuses: list[int] = []
        turns = [{"role": role, "content": "x"} for role in ("user", "assistant")] * 150
        body = {"messages": [*turns, {"role": "user", "content": "y"}]}
        with serving(engine, tmp_path, options=GenerationOptions(ctx=1_000_000)) as server:
            ask = lambda: [statuses.append(server.post("/v1/chat/completions", body).status) for _ in range(5)]  # noqa: E731
            asking = [threading.Thread(target=ask) for _ in range(8)]
            for each in asking:
                each.start()
            for each in asking:
                each.join()
        assert statuses == [200] * 40


class TestEnd:
    def test_a_running_answer_ends_before_the_server(self, server: Serving, engine: FakeEngine) -> None:
        gate = threading.Event()

        def held() -> Iterator[str]:
            yield "a"
            while not gate.is_set():
                yield ""
            yield "b"

        engine.replies = [held()]
        replies: list[Any] = []
        asking = threading.Thread(target=lambda: replies.append(server.chat()))
        asking.start()
        _until(lambda: server.server.status()["working"] == 1)
        server.server.stop()
        _until(lambda: not _is_listened(server.port))
        gate.set()
        asking.join()
        server.thread.join(300)
        assert replies[0].json["choices"][0]["message"]["content"] == "ab"
        assert replies[0].json["choices"][0]["finish_reason"] == FinishReason.STOP
        assert engine.is_closed

    def test_weights_are_freed_when_nobody_asks_and_come_again(
        self, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(on_demand, "_LOOK_AGAIN_S", 0.05)
        engine.replies = [["a"], ["b"]]
        with serving(engine, tmp_path, keep_alive_s=0.05) as server:
            assert server.chat().status == 200
            _until(lambda: not server.server.status()["is_loaded"])
            assert engine.is_closed
            assert server.get("/v1/models").json["data"][0]["id"] == NAME
            assert server.chat().json["choices"][0]["message"]["content"] == "b"
            assert len(server.opened) == 2


def _is_listened(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_a_server_that_ends_late_leaves_the_socket_of_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = listeners.on_unix(path)
    first.close()
    second = listeners.on_unix(path)
    first.close()  # its process ends when its states are written
    assert path.exists() and listeners.is_taken(path)
    second.close()
    assert not path.exists() and not listeners.is_taken(path)


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b"])
def test_an_address_of_another_device_is_told_as_that(host: str) -> None:
    with pytest.raises(SlmError) as refused:
        listeners.on_tcp(host, 0)
    assert refused.value.message.startswith(f"{host}:0 cannot be listened on: ")
    assert "unknown error" not in refused.value.message
    assert refused.value.hint == "an address of this device: --host ADDRESS"


def test_a_port_that_is_taken_is_told_as_that() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            SlmError, match=f"127.0.0.1:{port} cannot be listened on: address already in use."
        ) as refused:
            listeners.on_tcp("127.0.0.1", port)
    assert refused.value.hint == "another port: --port N; or slm serve --status, if that is slm itself"


@pytest.mark.parametrize("origin", ["localhost:3000", "*", "https://", "https://app.example/page", "x"])
def test_what_is_no_origin_is_refused(origin: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["serve", "--allow-origin", origin], environ={}) == ExitCode.USAGE
    assert capsys.readouterr().err.startswith(f"slm: --allow-origin cannot be '{origin}'.\nhint: scheme and host")


@pytest.mark.parametrize(
    ("written", "origin"),
    [("https://App.example/", "https://app.example"), ("http://[::1]:3000", "http://[::1]:3000"), ("null", "null")],
)
def test_an_origin_is_what_browsers_send(written: str, origin: str) -> None:
    assert serve_command._origin(written) == origin
