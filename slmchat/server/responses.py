"""`/v1/responses` of the API of OpenAI: its requests in the words of a chat completion, its answers as items, events.

Knows: the fields, the items, the order of the events. Refuses to know: how an answer is made. Nothing is stored: a
client sends the whole conversation every time.
"""

import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from slmchat.engine.results import FinishReason, Usage
from slmchat.generation.tools import ToolCall
from slmchat.server.fields import BadRequest, checked_object
from slmchat.server.openai import ApiRequest, chat_request
from slmchat.server.records import CompletionRecords, Made, Sent

# What a chat completion calls some fields.
_OWN_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
# Fields that mean the same as in a chat completion.
_SAME = (
    *("model", "stream", "temperature", "top_p", "top_k", "min_p", "seed", "tools", "tool_choice"),
    *("parallel_tool_calls", "user", "metadata", "store", "chat_template_kwargs"),
)
_KNOWN = frozenset(
    (*_SAME, "input", "instructions", "max_output_tokens", "text", "reasoning", "previous_response_id", "conversation")
)
# Fields that an answer repeats.
_REPEATED: Mapping[str, Any] = {"instructions": None, "metadata": {}, "temperature": None, "top_p": None, "tools": [],
             "tool_choice": "auto", "parallel_tool_calls": True, "max_output_tokens": None}  # fmt: skip


def response_request(body: object) -> ApiRequest:
    """What a request to /v1/responses asks. Raises `BadRequest`."""
    given = checked_object(body)
    if given.get("previous_response_id") or given.get("conversation"):
        raise BadRequest("nothing is stored: send the whole conversation as input.", "previous_response_id")
    asked = {name: given[name] for name in _SAME if name in given}
    messages, places = _messages(given)
    asked["messages"] = messages
    asked["max_completion_tokens"] = given.get("max_output_tokens")
    asked["response_format"] = _format(_object(given, "text").get("format"))
    asked["reasoning_effort"] = _object(given, "reasoning").get("effort")
    asked["tools"], left_out = _functions(given.get("tools"))
    try:
        made = chat_request(asked)
    except BadRequest as error:
        param = None if error.param is None else _in_own_names(error.param, places)
        raise BadRequest(_in_own_names(error.message, places), param, error.code, error.status) from error
    ignored = sorted(name[:60] for name in given if name not in _KNOWN)
    return replace(made, ignored=(*ignored, *(f"the tool {kind[:60]}" for kind in left_out)))


def _functions(tools: object) -> tuple[Any, list[str]]:
    """The tools that are functions, and the kinds of the others: clients list by themselves what only OpenAI's own
    servers can do (web_search), and work without it."""
    if not isinstance(tools, list):
        return tools, []
    kinds = [tool.get("type") if isinstance(tool, dict) else None for tool in tools]
    kept = [tool for tool, kind in zip(tools, kinds, strict=True) if kind == "function" or not isinstance(kind, str)]
    return kept, sorted({kind for kind in kinds if isinstance(kind, str) and kind != "function"})


def _in_own_names(text: str, places: Sequence[str]) -> str:
    """What is said of a chat completion, in the fields of this request. `places`: where its messages come from."""
    named = {f"messages[{number}]": place for number, place in enumerate(places)}  # others are the client's own words
    text = re.sub(r"messages\[\d+\]", lambda found: named.get(found[0], found[0]), text)
    return re.sub("|".join(_OWN_NAMES), lambda found: _OWN_NAMES[found[0]], text)


def _object(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = given.get(name)
    if not isinstance(value, dict | None):
        raise BadRequest(f"{name} must be an object.", name)
    return value or {}


def _format(given: Any) -> Any:
    """The format of a chat completion, which has the schema one level deeper."""
    is_schema = isinstance(given, dict) and given.get("type") == "json_schema"
    return {"type": "json_schema", "json_schema": given} if is_schema else given


def _messages(body: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """The items as messages, and where each of them stands in the request."""
    given, instructions = body.get("input"), body.get("instructions")
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise BadRequest("input must be a text or a list of items.", "input")
    if not isinstance(instructions, str | None):
        raise BadRequest("instructions must be a text.", "instructions")
    made: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
    places = ["instructions"] if instructions else []
    for number, item in enumerate(given):
        place = f"input[{number}]"
        message = _message(item, place)
        if message is None:
            continue
        if (
            "tool_calls" in message and made and made[-1]["role"] == "assistant"
        ):  # one answer, as a chat completion has it
            made[-1] = {**made[-1], "tool_calls": [*made[-1].get("tool_calls", ()), *message["tool_calls"]]}
        else:
            made.append(message)
            places.append(place)
    return made, places


def _message(item: object, place: str) -> dict[str, Any] | None:
    """The message that an item is; None: it is no part of a later prompt."""
    if not isinstance(item, dict):
        raise BadRequest(f"{place} must be an object.", place)
    kind = item.get("type", "message")
    if kind == "message":
        return {"role": item.get("role"), "content": item.get("content")}
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        return {"role": "assistant", "content": None, "tool_calls": [{"id": item.get("call_id"), "function": function}]}
    if kind == "function_call_output":
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
    if kind != "reasoning":
        raise BadRequest(f"{place}: items of the type {str(kind)[:40]!r} are not supported.", place)
    return None


class ResponseRecords:
    """One answer as a response with items."""

    def __init__(self, model: str, body: object) -> None:
        """`body`: the request, of which an answer repeats some fields."""
        asked = body if isinstance(body, dict) else {}
        self._head = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "error": None,
            "incomplete_details": None,
            "previous_response_id": None,
            **{name: usual if asked.get(name) is None else asked[name] for name, usual in _REPEATED.items()},
        }
        self._begun = {**self._head, "status": "in_progress", "output": [], "usage": None}
        self._output: list[dict[str, Any]] = []  # items that are whole
        self._open: dict[str, Any] | None = None  # the one that is being written
        self._said = ""
        self._n_events = 0
        self._reason = FinishReason.STOP

    # A stream

    def begin(self, index: int) -> Iterator[Sent]:
        yield self._event("response.created", response=self._begun)
        yield from self.waiting()

    def waiting(self) -> Iterator[Sent]:
        yield self._event("response.in_progress", response=self._begun)

    def thinking(self, text: str) -> Iterator[Sent]:
        yield from self._written("reasoning", text)

    def text(self, text: str) -> Iterator[Sent]:
        yield from self._written("message", text)

    def call(self, call: ToolCall) -> Iterator[Sent]:
        yield from self._closed()
        item = _call_item(call)
        yield self._item_event("added", {**item, "arguments": "", "status": "in_progress"})
        told = {"item_id": item["id"], "output_index": len(self._output)}
        yield self._event("response.function_call_arguments.delta", **told, delta=call.arguments)
        yield self._event("response.function_call_arguments.done", **told, name=call.name, arguments=call.arguments)
        yield self._item_event("done", item)
        self._output.append(item)

    def end(self, made: Made) -> Iterator[Sent]:
        yield from self._closed()
        self._reason = made.reason

    def close(self, usage: Usage, *, includes_usage: bool) -> Iterator[Sent]:
        response = self._response(self._output, self._reason, usage)
        yield self._event(f"response.{response['status']}", response=response)

    def _written(self, kind: str, text: str) -> Iterator[Sent]:
        """More of a message or a thought, which begins here where another item was open."""
        if self._open is None or self._open["type"] != kind:
            yield from self._closed()
            self._open = _message_item("") if kind == "message" else _thought_item("")
            yield self._item_event("added", {**self._open, "content": [], "status": "in_progress"})
            yield self._part_event("response.content_part.added", part=self._open["content"][0])
        self._said += text
        more: dict[str, Any] = {"logprobs": []} if kind == "message" else {}
        yield self._part_event(f"response.{self._open['content'][0]['type']}.delta", delta=text, **more)

    def _closed(self) -> Iterator[Sent]:
        """The end of the item that is open, if there is one."""
        if self._open is None:
            return
        part = self._open["content"][0]
        more: dict[str, Any] = {"logprobs": []} if self._open["type"] == "message" else {}
        part["text"] = self._said
        yield self._part_event(f"response.{part['type']}.done", text=self._said, **more)
        yield self._part_event("response.content_part.done", part=part)
        yield self._item_event("done", self._open)
        self._output.append(self._open)
        self._open, self._said = None, ""

    def _part_event(self, kind: str, **fields: Any) -> Sent:
        assert self._open is not None
        told = {"item_id": self._open["id"], "output_index": len(self._output), "content_index": 0}
        return self._event(kind, **told, **fields)

    def _item_event(self, what: str, item: Mapping[str, Any]) -> Sent:
        return self._event(f"response.output_item.{what}", output_index=len(self._output), item=item)

    def _event(self, kind: str, **fields: Any) -> Sent:
        self._n_events += 1
        return kind, {"type": kind, "sequence_number": self._n_events - 1, **fields}

    # Whole

    def whole(self, made: Sequence[Made], usage: Usage) -> dict[str, Any]:
        (only,) = made  # there is no `n` here
        items = [_thought_item(only.thinking)] if only.thinking else []
        items += [_message_item(only.text)] if only.text or not only.calls else []
        return self._response([*items, *(_call_item(call) for call in only.calls)], only.reason, usage)

    def _response(self, output: Sequence[Mapping[str, Any]], reason: FinishReason, usage: Usage) -> dict[str, Any]:
        is_cut = reason.is_cut
        return {
            **self._head,
            "status": "incomplete" if is_cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": list(output),
            "usage": {
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": {"cached_tokens": usage.cached_tokens},
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": usage.thinking_tokens},
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            },
        }


AnswerRecords = CompletionRecords | ResponseRecords
"""How an answer is written, whole or as the events of a stream."""


def _message_item(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"id": _id("msg"), "type": "message", "status": "completed", "role": "assistant", "content": [part]}


def _thought_item(text: str) -> dict[str, Any]:
    part = {"type": "reasoning_text", "text": text}
    return {"id": _id("rs"), "type": "reasoning", "status": "completed", "summary": [], "content": [part]}


def _call_item(call: ToolCall) -> dict[str, Any]:
    told = {"call_id": call.id, "name": call.name, "arguments": call.arguments}
    return {"id": _id("fc"), "type": "function_call", "status": "completed", **told}


def _id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"
