"""The API of OpenAI, both ways: what a request asks, and the records of an answer.

Knows: fields, their types and ranges, the shape of answers, chunks and errors.
Refuses to know: connections, models, how an answer is made.

A field that slm does not know is ignored, and named in the log; one that it knows with a value that cannot be used is
an error that names the field. Pictures are taken from data URLs alone: a server that fetched one would have to reach
out.
"""

import base64
import binascii
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slmchat import ranges
from slmchat.conversation import pictures
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.pictures import Picture
from slmchat.engine.api import FinishReason, Limits, TokenLogprob, Usage
from slmchat.engine.thinking import Thinking, ThinkingMode
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import structured
from slmchat.generation.prompt import PromptRequest
from slmchat.generation.structured import ResponseFormat
from slmchat.ranges import Range

# As OpenAI has them.
_MOST_STOPS = 16
_MOST_TOP_LOGPROBS = 20
_MOST_CHOICES = 16
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")

_SAMPLER = {
    "temperature": ranges.SAMPLER["temperature"],
    "top_p": ranges.SAMPLER["top_p"],
    "top_k": ranges.SAMPLER["top_k"],
    "min_p": ranges.SAMPLER["min_p"],
    "repeat_penalty": ranges.SAMPLER["repeat_penalty"],
    "seed": ranges.SEED,
}

# What llama-server and vLLM call a budget of thinking.
_BUDGETS = ("thinking_budget_tokens", "thinking_token_budget")

_KNOWN = frozenset(
    (
        *("model", "stream", "stream_options", "stop", "n", "max_tokens", "max_completion_tokens", "logprobs"),
        *("top_logprobs", "user", "metadata", "store", "reasoning_effort", "chat_template_kwargs", *_BUDGETS),
        *_SAMPLER,
    )
)
_KNOWN_OF_CHAT = _KNOWN | {"messages", "response_format"}
_KNOWN_OF_TEXT = _KNOWN | {"prompt", "echo"}


class BadRequest(Exception):
    """What a client asked cannot be done; `param` is the field at fault."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request for completions.

    `sampler`: what it gives of the sampler settings, by the names of `SamplerSettings`. `n`: completions.
    `ignored`: fields that mean nothing here.
    """

    request: PromptRequest
    model: str | None
    sampler: Mapping[str, float | int]
    limits: Limits
    is_raw: bool
    response_format: ResponseFormat | None = None
    n: int = 1
    is_streamed: bool = False
    includes_usage: bool = False
    ignored: tuple[str, ...] = ()
    thinking: Thinking | None = None  # None: as the server has it


def chat_request(body: object) -> ApiRequest:
    """What a request to /v1/chat/completions asks. Raises `BadRequest`."""
    given = _object(body)
    messages = _list(given, "messages")
    if not messages:
        raise BadRequest("messages must hold at least one message.", "messages")
    response_format = _response_format(given.get("response_format"))
    return _asked(given, _conversation(messages), _KNOWN_OF_CHAT, is_raw=False, response_format=response_format)


def text_request(body: object) -> ApiRequest:
    """What a request to /v1/completions asks: a bare prompt that goes on. Raises `BadRequest`."""
    given = _object(body)
    prompt = given.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise BadRequest("prompt must be a text.", "prompt")
    if given.get("echo"):
        raise BadRequest("echo is not supported: the prompt is not part of the answer.", "echo")
    return _asked(given, _request(prompt, [], (), ""), _KNOWN_OF_TEXT, is_raw=True)


def _asked(
    given: Mapping[str, Any],
    request: PromptRequest,
    known: frozenset[str],
    *,
    is_raw: bool,
    response_format: ResponseFormat | None = None,
) -> ApiRequest:
    for name in ("frequency_penalty", "presence_penalty"):
        if given.get(name) not in (None, 0, 0.0):
            raise BadRequest(f"{name} is not supported; there is repeat_penalty.", name)
    sampler = {name: value for name, within in _SAMPLER.items() if (value := _number(given, name, within)) is not None}
    most = _number(given, "max_completion_tokens", ranges.MAX_TOKENS) or _number(given, "max_tokens", ranges.MAX_TOKENS)
    limits = Limits(
        None if most is None else int(most), _stops(given.get("stop")), top_logprobs=_top_logprobs(given, is_raw)
    )
    model = given.get("model")
    if model is not None and not isinstance(model, str):
        raise BadRequest("model must be a text.", "model")
    options = given.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise BadRequest("stream_options must be an object.", "stream_options")
    quiet = {"frequency_penalty", "presence_penalty"}
    return ApiRequest(
        request,
        model,
        sampler,
        limits,
        is_raw,
        response_format,
        n=int(_number(given, "n", Range(1, _MOST_CHOICES)) or 1),
        is_streamed=_flag(given, "stream"),
        includes_usage=bool((options or {}).get("include_usage")),
        ignored=tuple(sorted(name[:60] for name in given if name not in known | quiet)),
        thinking=_thinking(given),
    )


# Messages


def _conversation(messages: Sequence[object]) -> PromptRequest:
    """The messages as a request: one system message at the beginning, then the sides in turn."""
    system: list[str] = []
    turns: list[Message] = []
    for number, each in enumerate(messages):
        place = f"messages[{number}]"
        role, text, shown = _message(each, place)
        if role is Role.SYSTEM:
            system.append(text)
        elif turns and turns[-1].role is role:  # many templates refuse two of one side
            last = turns.pop()
            joined = "\n\n".join(part for part in (last.text, text) if part)
            turns.append(Message(role, joined, pictures=(*last.pictures, *shown)))
        else:
            turns.append(Message(role, text, pictures=shown))
    answer = turns.pop().text if turns and turns[-1].role is Role.ASSISTANT else ""
    if not turns or turns[-1].role is not Role.USER:
        raise BadRequest("messages must hold a message of the user.", "messages")
    question = turns.pop()
    if any(message.pictures for message in turns):
        raise BadRequest("pictures are taken in the last message alone.", "messages")
    head = [Message(Role.SYSTEM, "\n\n".join(system))] if any(text.strip() for text in system) else []
    return _request(question.text, [*head, *turns], question.pictures, answer)


def _request(text: str, head: Sequence[Message], shown: Sequence[Picture], answer: str) -> PromptRequest:
    if not text.strip() and not shown:
        raise BadRequest("the last message is empty.", "messages")
    # braces stay what they are: there is no input that would take their place
    return PromptRequest(text or " ", [], head, shown, answer=answer)


_ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
}


def _message(given: object, place: str) -> tuple[Role, str, tuple[Picture, ...]]:
    if not isinstance(given, dict):
        raise BadRequest(f"{place} must be an object.", place)
    role = _ROLES.get(given.get("role"))  # type: ignore[arg-type]
    if role is None:
        said = str(given.get("role"))[:40]
        raise BadRequest(f"{place}.role must be system, developer, user or assistant, not {said!r}.", place)
    content = given.get("content")
    if content is None and role is Role.ASSISTANT:
        return role, "", ()
    if isinstance(content, str):
        return role, content, ()
    if not isinstance(content, list):
        raise BadRequest(f"{place}.content must be a text or a list of parts.", place)
    texts: list[str] = []
    shown: list[Picture] = []
    for number, part in enumerate(content):
        _part(part, f"{place}.content[{number}]", texts, shown)
    if shown and role is not Role.USER:
        raise BadRequest(f"{place}: only a message of the user can show pictures.", place)
    return role, "\n".join(texts), tuple(shown)


def _part(part: object, place: str, texts: list[str], shown: list[Picture]) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, dict) and kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        texts.append(part["text"])
    elif isinstance(part, dict) and kind in ("image_url", "input_image"):
        url = part.get("image_url")
        shown.append(_picture(url.get("url") if isinstance(url, dict) else url, place))
    else:
        raise BadRequest(f"{place} must be a text or a picture (image_url).", place)


def _picture(url: object, place: str) -> Picture:
    head, comma, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise BadRequest(f"{place} must be a data URL (data:image/png;base64,...): nothing is fetched.", place)
    try:
        raw = base64.b64decode(data, validate=True)
        return Picture.of("the picture", pictures.decode(raw, "the picture"))
    except binascii.Error as error:
        raise BadRequest(f"{place} is not valid base64.", place) from error
    except SlmError as error:
        raise BadRequest(error.message, place) from error


# Fields


def _response_format(given: object) -> ResponseFormat | None:
    if given is None:
        return None
    kind = given.get("type") if isinstance(given, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return structured.of_any_json()
    described = given.get("json_schema") if isinstance(given, dict) else None
    if kind != "json_schema" or not isinstance(described, dict) or "schema" not in described:
        raise BadRequest("response_format must be text, json_object or json_schema with a schema.", "response_format")
    try:
        return structured.of_schema(described["schema"])
    except SlmError as error:
        raise BadRequest(error.message, "response_format") from error


def _stops(given: object) -> tuple[str, ...]:
    stops = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(stops, list) or len(stops) > _MOST_STOPS or not all(isinstance(each, str) for each in stops):
        raise BadRequest(f"stop must be a text or a list of at most {_MOST_STOPS} texts.", "stop")
    return tuple(stop for stop in stops if stop)


def _top_logprobs(given: Mapping[str, Any], is_raw: bool) -> int | None:
    """How many alternatives of each token are told; None: no logprobs. In /v1/completions `logprobs` is the number."""
    asked = given.get("logprobs")
    if asked in (None, False):
        return None
    if is_raw:
        return int(_number(given, "logprobs", Range(0, _MOST_TOP_LOGPROBS)) or 0)
    if asked is not True:
        raise BadRequest("logprobs must be true or false.", "logprobs")
    return int(_number(given, "top_logprobs", Range(0, _MOST_TOP_LOGPROBS)) or 0)


def _thinking(given: Mapping[str, Any]) -> Thinking | None:
    """What is asked of a thought: by OpenAI's field, or by those of vLLM and llama-server."""
    budgets = (_number(given, name, ranges.THINK_BUDGET) for name in _BUDGETS if given.get(name) != -1)  # -1: no limit
    budget = next((int(each) for each in budgets if each is not None), None)
    mode = _thinking_mode(given)
    if mode is ThinkingMode.OFF or (budget == 0 and mode is None):
        return Thinking(ThinkingMode.OFF, 0)
    return None if mode is None and budget is None else Thinking(mode or ThinkingMode.AUTO, budget)


def _thinking_mode(given: Mapping[str, Any]) -> ThinkingMode | None:
    arguments = given.get("chat_template_kwargs")
    if arguments is not None and not isinstance(arguments, dict):
        raise BadRequest("chat_template_kwargs must be an object.", "chat_template_kwargs")
    switch = (arguments or {}).get("enable_thinking")
    if isinstance(switch, bool):
        return ThinkingMode.ON if switch else ThinkingMode.OFF
    effort = given.get("reasoning_effort")
    if effort is None:
        return None
    if effort not in _EFFORTS:
        raise BadRequest(f"reasoning_effort must be one of {', '.join(_EFFORTS)}.", "reasoning_effort")
    return ThinkingMode.OFF if effort == "none" else ThinkingMode.AUTO


def _number(given: Mapping[str, Any], name: str, within: Range) -> float | int | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, float) and within.is_whole and value.is_integer():
        value = int(value)
    if not within.holds(value):
        raise BadRequest(f"{name} must be {within}.", name)
    return value


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name)
    if value not in (None, True, False):
        raise BadRequest(f"{name} must be true or false.", name)
    return bool(value)


def _object(body: object) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise BadRequest("the request must be a JSON object.")
    return body


def _list(given: Mapping[str, Any], name: str) -> list[object]:
    value = given.get(name)
    if not isinstance(value, list):
        raise BadRequest(f"{name} must be a list.", name)
    return value


# Answers


_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CONTEXT: "length",
    FinishReason.INTERRUPTED: "stop",
}


@dataclass(slots=True)
class Answering:
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
        self, index: int, text: str, thinking: str, reason: FinishReason, logprobs: Sequence[TokenLogprob] | None
    ) -> dict[str, Any]:
        """One of the completions of a whole answer. `logprobs` None: they were not asked for."""
        told: dict[str, Any] = {"index": index, "finish_reason": _REASONS[reason]}
        if not self.is_chat:
            return {**told, "text": text, "logprobs": None if logprobs is None else _text_logprobs(logprobs)}
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thinking:
            message["reasoning_content"] = thinking
        return {**told, "message": message, "logprobs": None if logprobs is None else _chat_logprobs(logprobs)}

    def chunk(self, index: int, delta: Mapping[str, Any] | str, **more: Any) -> dict[str, Any]:
        """A piece of an answer: a delta, or a text of /v1/completions."""
        told = {"delta": delta} if self.is_chat else {"text": delta}
        choice = {"index": index, **told, "logprobs": None, "finish_reason": None, **more}
        return {**self._head("chat.completion.chunk" if self.is_chat else "text_completion"), "choices": [choice]}

    def last_chunk(self, index: int, reason: FinishReason, logprobs: Sequence[TokenLogprob] | None) -> dict[str, Any]:
        """The end of a completion; the logprobs of all its tokens, where they were asked for, are here."""
        told = None if logprobs is None else _chat_logprobs(logprobs) if self.is_chat else _text_logprobs(logprobs)
        return self.chunk(index, {} if self.is_chat else "", finish_reason=_REASONS[reason], logprobs=told)

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """The counts, behind all chunks, where they were asked for."""
        head = self._head("chat.completion.chunk" if self.is_chat else "text_completion")
        return {**head, "choices": [], "usage": usage_of(usage)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


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
