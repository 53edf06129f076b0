"""The records of the API of OpenAI: answers, whole and in chunks, counts, logprobs, errors.

Knows: their fields. Refuses to know: requests (openai.py), connections, how an answer is made.
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slmchat.engine.api import FinishReason, TokenLogprob, Usage
from slmchat.errors import ExitCode, SlmError
from slmchat.generation.tools import ToolCall

_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CONTEXT: "length",
    FinishReason.INTERRUPTED: "stop",
}


@dataclass(slots=True)
class AnswerRecords:
    """The records of one answer: whole, and as chunks. `is_chat` False: those of /v1/completions."""

    model: str
    is_chat: bool
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.id = f"{'chatcmpl' if self.is_chat else 'cmpl'}-{uuid.uuid4().hex}"

    def whole(self, choices: Sequence[Mapping[str, Any]], usage: Usage) -> dict[str, Any]:
        """A whole answer."""
        return {**self._head("chat.completion" if self.is_chat else "text_completion"), "choices": list(choices),
                "usage": usage_of(usage)}  # fmt: skip

    def choice(
        self,
        index: int,
        text: str,
        thinking: str,
        reason: FinishReason,
        logprobs: Sequence[TokenLogprob] | None,
        calls: Sequence[ToolCall] = (),
    ) -> dict[str, Any]:
        """One of the completions of a whole answer. `logprobs` None: they were not asked for."""
        told: dict[str, Any] = {"index": index, "finish_reason": _REASONS[reason]}
        if not self.is_chat:
            return {**told, "text": text, "logprobs": None if logprobs is None else _text_logprobs(logprobs)}
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thinking:
            message["reasoning_content"] = thinking
        if calls:
            message |= {"content": text or None, "tool_calls": [call_record(call) for call in calls]}
            told["finish_reason"] = _reason(reason, has_calls=True)
        return {**told, "message": message, "logprobs": None if logprobs is None else _chat_logprobs(logprobs)}

    def chunk(self, index: int, delta: Mapping[str, Any] | str, **more: Any) -> dict[str, Any]:
        """A piece of an answer: a delta, or a text of /v1/completions."""
        told = {"delta": delta} if self.is_chat else {"text": delta}
        choice = {"index": index, **told, "logprobs": None, "finish_reason": None, **more}
        return {**self._head("chat.completion.chunk" if self.is_chat else "text_completion"), "choices": [choice]}

    def last_chunk(
        self, index: int, reason: FinishReason, logprobs: Sequence[TokenLogprob] | None, *, has_calls: bool = False
    ) -> dict[str, Any]:
        """The end of a completion; the logprobs of all its tokens, where they were asked for, are here."""
        told = None if logprobs is None else _chat_logprobs(logprobs) if self.is_chat else _text_logprobs(logprobs)
        said = _reason(reason, has_calls=has_calls)
        return self.chunk(index, {} if self.is_chat else "", finish_reason=said, logprobs=told)

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """The counts, behind all chunks, where they were asked for."""
        head = self._head("chat.completion.chunk" if self.is_chat else "text_completion")
        return {**head, "choices": [], "usage": usage_of(usage)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def _reason(reason: FinishReason, *, has_calls: bool) -> str:
    return "tool_calls" if has_calls and reason is FinishReason.STOP else _REASONS[reason]


def call_record(call: ToolCall) -> dict[str, Any]:
    """A call of a function."""
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


def status_of(error: SlmError) -> tuple[int, str | None]:
    """The status and the code of an error of slm's."""
    return _STATUS.get(error.exit_code, (500, None))
