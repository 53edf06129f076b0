"""`/v1/responses` of `slm serve`, asked by the `openai` package."""

import json
from typing import TYPE_CHECKING, Any

import pydantic
import pytest
from fake_engine import FakeEngine
from serving import NAME, Serving

if TYPE_CHECKING:
    import openai  # a second of imports: not for a worker that runs none of these tests

pytestmark = pytest.mark.real

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(replies=[["Hel", "lo"]])


def test_a_text(client: "openai.OpenAI", engine: FakeEngine) -> None:
    done = client.responses.create(model=NAME, input="Hi", instructions="Be brief.", temperature=0.5)
    assert (done.output_text, done.status, done.temperature) == ("Hello", "completed", 0.5)
    assert done.usage is not None and done.usage.output_tokens == 2
    assert engine.prompts[0].startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>")


def test_a_conversation(client: "openai.OpenAI", engine: FakeEngine) -> None:
    engine.replies = [["One."], ["Two."]]
    said: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": "First"}]}]
    first = client.responses.create(model=NAME, input=said)
    said += [*(item.model_dump() for item in first.output), {"role": "user", "content": "Second"}]
    assert client.responses.create(model=NAME, input=said).output_text == "Two."
    assert "assistant\nOne.<|im_end|>\n<|im_start|>user\nSecond" in engine.prompts[1]


def test_the_limit_makes_it_incomplete(client: "openai.OpenAI") -> None:
    done = client.responses.create(model=NAME, input="Hi", max_output_tokens=1)
    assert done.status == "incomplete" and done.incomplete_details is not None
    assert done.incomplete_details.reason == "max_output_tokens"


def test_a_stream(client: "openai.OpenAI", engine: FakeEngine) -> None:
    engine.replies = [["<think>", "hm", "</think>\n\n", "yes", " no"]]
    events = list(client.responses.create(model=NAME, input="Hi", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    thought = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
    assert (said, thought) == ("yes no", "hm")
    done: Any = events[-1]
    assert done.response.output_text == "yes no"
    assert [item.type for item in done.response.output] == ["reasoning", "message"]


def test_the_helper_for_streams(client: "openai.OpenAI", engine: FakeEngine) -> None:
    engine.replies = [["Wait.\n", CALL]]
    with client.responses.stream(model=NAME, input="Weather?", tools=[WEATHER]) as stream:
        for _ in stream:
            pass
        done = stream.get_final_response()
    assert done.output_text == "Wait."
    call: Any = done.output[1]
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Oslo"})


def test_a_call_and_its_result(client: "openai.OpenAI", engine: FakeEngine) -> None:
    engine.replies = [[CALL], ["Sunny."]]
    said: list[Any] = [{"role": "user", "content": "Weather?"}]
    first = client.responses.create(model=NAME, input=said, tools=[WEATHER], tool_choice="required")
    (call,) = first.output
    assert call.type == "function_call"
    said += [call.model_dump(), {"type": "function_call_output", "call_id": call.call_id, "output": "sun"}]
    assert client.responses.create(model=NAME, input=said, tools=[WEATHER]).output_text == "Sunny."
    assert f"assistant\n{CALL}" in engine.prompts[1] and "<tool_response>\nsun" in engine.prompts[1]


def test_a_class_is_a_schema(client: "openai.OpenAI", engine: FakeEngine) -> None:
    class Pet(pydantic.BaseModel):
        legs: int

    engine.replies = [['{"legs": 4}']]
    assert client.responses.parse(model=NAME, input="Hi", text_format=Pet).output_parsed == Pet(legs=4)
    assert engine.limits[0].constraint is not None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [3]}, "input[0]"),
        ({"input": [{"type": "web_search_call"}]}, "input[0]"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "input[0]"),
        ({"input": [{"role": "wizard", "content": "x"}], "instructions": "Be brief."}, "input[0]"),
        ({"input": [{"type": "reasoning"}, {"role": "messages[7]", "content": "x"}]}, "input[1]"),
        ({"input": "x", "instructions": 3}, "instructions"),
        ({"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "x", "text": {"format": {"type": "xml"}}}, "text.format"),
        ({"input": "x", "text": "json"}, "text"),
        ({"input": "x", "reasoning": {"effort": "very"}}, "reasoning.effort"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "x", "instructions": ["Be brief."]}, "instructions"),
        ({"instructions": "x", "input": [{"type": "reasoning"}, {"role": "wizard", "content": "x"}]}, "input[1]"),
        ({"input": "x", "tools": [{"name": "f"}]}, "tools[0]"),
    ],
)
def test_what_cannot_be_used_is_named(server: Serving, body: dict[str, object], param: str) -> None:
    reply = server.post("/v1/responses", body)
    assert (reply.status, reply.json["error"]["param"]) == (400, param)


def test_fields_that_mean_nothing_here_are_named_in_the_log(server: Serving) -> None:
    assert server.post("/v1/responses", {"input": "Hi", "truncation": "auto", "prompt": {"id": "p"}}).status == 200
    assert "ignored: prompt, truncation" in server.notes.lines


def test_tools_of_other_kinds_are_left_out_and_named_in_the_log(server: Serving, engine: FakeEngine) -> None:
    """Codex lists them with every request."""
    engine.replies = [["yes"], ["yes"]]
    others = [{"type": "web_search", "external_web_access": False}, {"type": "namespace", "name": "n", "tools": []}]
    assert server.post("/v1/responses", {"input": "Hi", "tools": [others[0], WEATHER, others[1]]}).status == 200
    assert "ignored: the tool namespace, the tool web_search" in server.notes.lines
    assert '"weather"' in engine.prompts[0] and "web_search" not in engine.prompts[0]
    assert server.post("/v1/responses", {"input": "Hi", "tools": others}).status == 200


def test_calls_side_by_side_are_one_answer(server: Serving, engine: FakeEngine) -> None:
    """As in a chat completion: else the next prompt is another one, and is read again."""
    call = {"type": "function_call", "name": "weather", "arguments": "{}"}
    result = {"type": "function_call_output", "output": "sun"}
    said = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "Wait."},
        {**call, "call_id": "a"},
        {"type": "reasoning", "summary": []},
        {**call, "call_id": "b"},
        {**result, "call_id": "a"},
        {**result, "call_id": "b"},
    ]
    assert server.post("/v1/responses", {"input": said}).status == 200
    written = CALL.replace('{"city": "Oslo"}', "{}")
    assert f"assistant\nWait.\n{written}\n{written}<|im_end|>" in engine.prompts[0]
