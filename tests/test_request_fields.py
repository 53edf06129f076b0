"""Requests to `slm serve` with a wrong value in any place: the client's error (400), never one of slm's own (500)."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from slmchat.server.embeddings import embeddings_request
from slmchat.server.fields import BadRequest
from slmchat.server.openai import chat_request, text_request
from slmchat.server.responses import response_request

_CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
_SCHEMA = {"type": "object", "properties": {"a": {"type": ["string", "null"], "enum": ["a", None]}}, "required": ["a"]}
_FUNCTION = {"name": "f", "description": "d", "parameters": _SCHEMA}
_CHAT = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [_CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "x"},
    ],
    **{"stream": True, "stream_options": {"include_usage": True}, "stop": ["x"], "n": 1, "seed": 1, "user": "u"},
    **{"max_tokens": 3, "max_completion_tokens": 3, "logprobs": True, "top_logprobs": 3, "temperature": 1, "top_p": 1},
    **{"top_k": 4, "min_p": 0.1, "repeat_penalty": 1.1, "reasoning_effort": "low", "thinking_budget_tokens": 3},
    **{"chat_template_kwargs": {"enable_thinking": True}, "frequency_penalty": 0, "parallel_tool_calls": False},
    "tools": [{"type": "function", "function": _FUNCTION}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
}
_SHAPED = {
    "messages": [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]}
    ],
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": _SCHEMA}},
}
_RESPONSE = {
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "x"},
    ],
    **{"instructions": "i", "max_output_tokens": 16, "previous_response_id": None},
    "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
}
_TEXT = {"prompt": ["x", "y"], "logprobs": 3, "echo": False, "stop": "x"}
_VECTORS = {"input": ["a", [1, 2]], "model": "m", "dimensions": 3, "encoding_format": "float"}

_WRONG = [
    None,
    True,
    0,
    -1,
    1.5,
    math.nan,
    math.inf,
    10**30,
    "",
    "x",
    "\ud800",
    [],
    [[]],
    [{}],
    {},
    {"a": 1},
    ["x"],
    [None],
]


def _places(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield place
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield from _places(each, (*place, key))


def _with(value: Any, place: tuple[str | int, ...], wrong: object) -> Any:
    if not place:
        return wrong
    made = within = copy.deepcopy(value)
    for key in place[:-1]:
        within = within[key]
    within[place[-1]] = wrong
    return made


@pytest.mark.parametrize(
    ("read", "body"),
    [
        (chat_request, _CHAT),
        (chat_request, _SHAPED),
        (response_request, _RESPONSE),
        (text_request, _TEXT),
        (embeddings_request, _VECTORS),
    ],
)
def test_a_wrong_value_in_any_place_is_a_bad_request(read: Callable[[object], object], body: dict[str, Any]) -> None:
    for place in _places(body):
        for wrong in _WRONG:
            with suppress(BadRequest):
                read(_with(body, place, wrong))


def test_the_role_and_the_call_are_named_as_what_is_wrong() -> None:
    for wrong in ([], {}):
        with pytest.raises(BadRequest, match=r"messages\[0\]\.role must be system, developer"):
            chat_request(_with(_CHAT, ("messages", 0, "role"), wrong))
        with pytest.raises(BadRequest, match=r"messages\[3\]\.tool_call_id must name a call"):
            chat_request(_with(_CHAT, ("messages", 3, "tool_call_id"), wrong))


def test_arguments_that_are_an_object_become_json() -> None:
    """As Ollama has them; OpenAI's are a text."""
    call = {"id": "1", "function": {"name": "f", "arguments": {"city": "Zürich", "now": True}}}
    asked = chat_request(_with(_CHAT, ("messages", 2, "tool_calls"), [call]))
    assert '{"city": "Zürich", "now": true}' in asked.request.prefix[-1].text


def test_a_system_message_alone_is_the_question() -> None:
    """LangChain's SystemMessage alone, a title that an agent asks for: servers take it."""
    said = [{"role": "system", "content": "Say"}, {"role": "developer", "content": "hi"}]
    asked = chat_request({"messages": said}).request
    assert (asked.instruction, list(asked.prefix)) == ("Say\n\nhi", [])


def test_each_effort_of_the_package_openai_is_known() -> None:
    for effort in ("none", "minimal", "low", "medium", "high", "xhigh", "max"):
        assert chat_request({**_SHAPED, "messages": _CHAT["messages"], "reasoning_effort": effort}).thinking


def test_half_of_a_surrogate_pair_in_a_schema_is_a_bad_request() -> None:
    """No model can write one: without this the answer would be an error of the server's (500)."""
    half = "a\ud800"
    for schema in (
        {"type": "object", "properties": {half: {"type": "string"}}, "required": [half]},
        {"enum": [half]},
        {"type": "string", "pattern": half},
        {"const": {"a": [half]}},
    ):
        body = {"messages": [{"role": "user", "content": "hi"}]}
        shaped = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
        with pytest.raises(BadRequest, match="half of a surrogate pair") as refused:
            chat_request({**body, "response_format": shaped})
        assert refused.value.param == "response_format"
        with pytest.raises(BadRequest, match="half of a surrogate pair"):
            chat_request({**body, "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]})
    whole = {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"enum": ["\U0001f600"], "title": "\\ud800"}},
    }
    assert chat_request({**body, "response_format": whole}).response_format is not None


def test_minus_one_is_any_seed() -> None:
    """As llama-server and Ollama have it; programs for these send it with each request."""
    assert "seed" not in chat_request({**_CHAT, "seed": -1}).sampler
    with pytest.raises(BadRequest):
        chat_request({**_CHAT, "seed": -2})
