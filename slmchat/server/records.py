"""The records of the API of OpenAI: answers, whole and in chunks, counts, logprobs, errors.

Knows: their fields. Refuses to know: requests (openai.py), connections, how an answer is made.
"""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from slmchat.engine.results import FinishReason, TokenLogprob, Usage
from slmchat.errors import ExitCode, SlmError
from slmchat.generation.tools import ToolCall
from slmchat.lazy_dataclasses import dataclass

_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CONTEXT: "length",
    FinishReason.REPETITION: "length",
    FinishReason.INTERRUPTED: "stop",
}


# An event of a stream: its name, where it has one, and what it says; a text as it is, all else as JSON.
Sent = tuple[str | None, object]


@dataclass(frozen=True, slots=True)
class Made:
    """One completion as a client gets it. `logprobs` None: they were not asked for."""

    text: str
    thinking: str
    calls: Sequence[ToolCall]
    reason: FinishReason
    logprobs: Sequence[TokenLogprob] | None = None


class CompletionRecords:
    """Those of /v1/chat/completions, and with `is_chat` False of /v1/completions.

    An answer is written whole, or as the events of a stream, in the order of these methods.
    """

    def __init__(self, model: str, *, is_chat: bool) -> None:
        self._is_chat = is_chat
        self._kind = "chat.completion" if is_chat else "text_completion"
        made = f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._head = {"id": made, "created": int(time.time()), "model": model}
        self._index = self._n_calls = 0

    def begin(self, index: int) -> Iterator[Sent]:
        self._index, self._n_calls = index, 0
        if self._is_chat:
            yield self._chunk({"role": "assistant", "content": ""})

    def waiting(self) -> Iterator[Sent]:
        yield from self.text("")

    def thinking(self, text: str) -> Iterator[Sent]:
        if self._is_chat:
            yield self._chunk({"reasoning_content": text})

    def text(self, text: str) -> Iterator[Sent]:
        yield self._chunk({"content": text} if self._is_chat else text)

    def call(self, call: ToolCall) -> Iterator[Sent]:
        yield self._chunk({"tool_calls": [{"index": self._n_calls, **_call_record(call)}]})
        self._n_calls += 1

    def end(self, made: Made) -> Iterator[Sent]:
        """The logprobs of all tokens are here, where they were asked for."""
        told = {"finish_reason": _reason(made), "logprobs": self._logprobs(made)}
        yield self._chunk({} if self._is_chat else "", **told)

    def close(self, usage: Usage, *, includes_usage: bool) -> Iterator[Sent]:
        if includes_usage:
            yield None, {**self._chunk_head(), "choices": [], "usage": usage_of(usage)}
        yield None, "[DONE]"

    def whole(self, made: Sequence[Made], usage: Usage) -> dict[str, Any]:
        choices = [self._choice(index, each) for index, each in enumerate(made)]
        return {**self._head, "object": self._kind, "choices": choices, "usage": usage_of(usage)}

    def _choice(self, index: int, made: Made) -> dict[str, Any]:
        told = {"index": index, "finish_reason": _reason(made), "logprobs": self._logprobs(made)}
        if not self._is_chat:
            return {**told, "text": made.text}
        message: dict[str, Any] = {"role": "assistant", "content": made.text, "refusal": None}
        if made.thinking:
            message["reasoning_content"] = made.thinking
        if made.calls:
            message |= {"content": made.text or None, "tool_calls": [_call_record(call) for call in made.calls]}
        return {**told, "message": message}

    def _logprobs(self, made: Made) -> dict[str, Any] | None:
        if made.logprobs is None:
            return None
        return _chat_logprobs(made.logprobs) if self._is_chat else _text_logprobs(made.logprobs)

    def _chunk(self, delta: Mapping[str, Any] | str, **more: Any) -> Sent:
        told = {"delta": delta} if self._is_chat else {"text": delta}
        choice = {"index": self._index, **told, "logprobs": None, "finish_reason": None, **more}
        return None, {**self._chunk_head(), "choices": [choice]}

    def _chunk_head(self) -> dict[str, Any]:
        return {**self._head, "object": f"{self._kind}.chunk" if self._is_chat else self._kind}


def _reason(made: Made) -> str:
    return "tool_calls" if made.calls and made.reason is FinishReason.STOP else _REASONS[made.reason]


def _call_record(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def usage_of(usage: Usage) -> dict[str, Any]:
    """The counts of an answer."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.thinking_tokens},
    }


def _chat_logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    def told(text: str, logprob: float, data: bytes | None) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": None if data is None else list(data)}

    return {
        "content": [
            {
                **told(each.text, each.logprob, each.data),
                "top_logprobs": [
                    told(text, logprob, data)
                    for (text, logprob), data in zip(each.alternatives, each.alternative_data, strict=False)
                ],
            }
            for each in logprobs
        ],
        "refusal": None,
    }


def _text_logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    offsets, place = [], 0
    for each in logprobs:
        offsets.append(place)
        place += len(each.text)
    return {
        "tokens": [each.text for each in logprobs],
        "token_logprobs": [each.logprob for each in logprobs],
        "top_logprobs": [dict(each.alternatives) for each in logprobs],
        "text_offset": offsets,
    }


def error_of(message: str, status: int, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The body of an error."""
    kind = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    usual = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind.get(status, usual), "param": param, "code": code}}


# How what slm itself says becomes a status: an input that does not fit, an answer that was not right, ...
_STATUS = {
    ExitCode.USAGE: (400, None),
    ExitCode.CONTEXT: (400, "context_length_exceeded"),
    ExitCode.DAMAGED: (400, None),
    ExitCode.UNSATISFIED: (500, "response_format_not_met"),
    ExitCode.NETWORK: (503, None),
    ExitCode.NO_FIT: (503, "out_of_memory"),
    ExitCode.NO_MODEL: (503, "model_not_found"),
}


def message_of(error: SlmError) -> str:
    """What is said of an error of slm's. A prompt that is too long begins with words for which clients look that make
    room then: LangChain for the code, litellm (aider, DSPy, CrewAI) for those of OpenAI's sentence."""
    if error.exit_code is not ExitCode.CONTEXT:
        return error.message
    return f"this model's maximum context length is exceeded (context_length_exceeded): {error.message}"


def status_of(error: SlmError) -> tuple[int, str | None]:
    """The status and the code of an error of slm's."""
    return _STATUS.get(error.exit_code, (500, None))
