"""`/v1/responses` of the API of OpenAI: its requests in the words of a chat completion, its answers as items, events.

Knows: the fields, the items, the order of the events. Refuses to know: how an answer is made. Nothing is stored: a
client sends the whole conversation every time.
"""

import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from slmchat.engine.results import FinishReason, Usage
from slmchat.generation.tools import ToolCall
from slmchat.server.fields import BadRequest
from slmchat.server.openai import ApiRequest, chat_request
from slmchat.server.records import Made, Sent

# Fields that mean the same as in a chat completion.
_SAME = (
    *("model", "stream", "temperature", "top_p", "top_k", "min_p", "seed", "tools", "tool_choice"),
    *("parallel_tool_calls", "user", "metadata", "store", "chat_template_kwargs"),
)
# How an error of a chat completion names a message, or all of them.
_MESSAGE = re.compile(r"messages(?:\[(\d+)\])?")
# Fields that an answer repeats.
_REPEATED: Mapping[str, Any] = {"instructions": None, "metadata": {}, "temperature": None, "top_p": None, "tools": [],
             "tool_choice": "auto", "parallel_tool_calls": True, "max_output_tokens": None}  # fmt: skip


def response_request(body: object) -> ApiRequest:
    """What a request to /v1/responses asks. Raises `BadRequest`."""
    if not isinstance(body, dict):
        raise BadRequest("the request must be a JSON object.")
    if body.get("previous_response_id") or body.get("conversation"):
        raise BadRequest("nothing is stored: send the whole conversation as input.", "previous_response_id")
    asked = {name: body[name] for name in _SAME if name in body}
    messages = _messages(body)
    asked["messages"] = [message for _, message in messages]
    asked["max_completion_tokens"] = body.get("max_output_tokens")
    written, reasoning = body.get("text"), body.get("reasoning")
    if isinstance(written, dict) and written.get("format") is not None:
        asked["response_format"] = _format(written["format"])
    if isinstance(reasoning, dict):
        asked["reasoning_effort"] = reasoning.get("effort")
    try:
        return chat_request(asked)
    except BadRequest as error:
        places = [place for place, _ in messages]
        param = _in_own_words(error.param or "", places) or None
        raise BadRequest(_in_own_words(error.message, places), param, error.code, error.status) from error


def _in_own_words(text: str, places: Sequence[str]) -> str:
    """What a chat completion says of its messages, as it is called in this request."""
    named = {str(number): place for number, place in enumerate(places)}
    return _MESSAGE.sub(lambda found: named.get(found[1], found[0]) if found[1] else "input", text)


def _format(given: Any) -> Any:
    """The format of a chat completion, which has the schema one level deeper."""
    is_schema = isinstance(given, dict) and given.get("type") == "json_schema"
    return {"type": "json_schema", "json_schema": given} if is_schema else given


def _messages(body: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The messages of a chat completion, each with the place where it stands in this request."""
    given, instructions = body.get("input"), body.get("instructions")
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise BadRequest("input must be a text or a list of items.", "input")
    head = [("instructions", {"role": "system", "content": instructions})] if instructions else []
    places = ((f"input[{number}]", item) for number, item in enumerate(given))
    return [*head, *((place, message) for place, item in places for message in _message(item, place))]


def _message(item: object, place: str) -> Iterator[Any]:
    if not isinstance(item, dict):
        raise BadRequest(f"{place} must be an object.", place)
    kind = item.get("type", "message")
    if kind == "message":
        yield item
    elif kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        yield {"role": "assistant", "tool_calls": [{"id": item.get("call_id"), "function": function}]}
    elif kind == "function_call_output":
        yield {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
    elif kind != "reasoning":  # what was thought is not part of a later prompt
        raise BadRequest(f"{place}: items of the type {str(kind)[:40]!r} are not supported.", place)


class ResponseRecords:
    """One answer as a response with items. Implements `AnswerRecords`."""

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
        self._output: list[dict[str, Any]] = []  # items that are whole
        self._open: dict[str, Any] | None = None  # the one that is being written
        self._said = ""
        self._n_events = 0
        self._reason = FinishReason.STOP

    # A stream

    def begin(self, index: int) -> Iterator[Sent]:
        response = {**self._head, "status": "in_progress", "output": [], "usage": None}
        yield self._event("response.created", response=response)
        yield self._event("response.in_progress", response=response)

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
