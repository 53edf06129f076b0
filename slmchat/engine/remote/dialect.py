"""What servers of the field take and say: the models they list, the fields of a request, the events of an answer.

Knows: OpenAI's chat and text completions, and where llama-server, llama-cpp-python, vLLM, Ollama, LM Studio and hosted
services differ. Refuses to know: HTTP, sockets, when something is sent.

A field that OpenAI's API does not have is sent to servers that are known to take it, and to others only when its value
is not slm's default: some refuse a request for a field that they do not know.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from slmchat.engine.api import Chance, Constraint, ConstraintKind, Limits, Prompt, Turn
from slmchat.engine.gbnf import to_gbnf
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError


class Kind(Enum):
    """Who answers, by `owned_by` in its list of models."""

    LLAMA_SERVER = "llamacpp"
    LLAMA_PYTHON = "me"
    VLLM = "vllm"
    OTHER = ""

    @property
    def can_go_on(self) -> bool:
        """Whether it can go on with an answer that was cut."""
        return self in (Kind.LLAMA_SERVER, Kind.VLLM)

    @property
    def answers_one(self) -> bool:
        """Whether a second request ends the stream of the first one (llama_cpp.server: `interrupt_requests`)."""
        return self is Kind.LLAMA_PYTHON


@dataclass(frozen=True, slots=True)
class Listed:
    """One model of an endpoint. `n_ctx`: its context window in tokens, None when the endpoint does not say."""

    id: str
    kind: Kind = Kind.OTHER
    n_ctx: int | None = None
    aliases: tuple[str, ...] = ()


# Where servers put the window: vLLM, llama-server (in "meta"), Groq, OpenRouter, Mistral, LM Studio.
_WINDOWS = ("max_model_len", "n_ctx", "context_window", "context_length", "max_context_length", "loaded_context_length")
_MOST_MODELS = 10_000


def listed(document: object) -> tuple[Listed, ...] | None:
    """The models in an answer of `/models`; None when it is something else."""
    entries = document.get("data") if isinstance(document, dict) else document
    if not isinstance(entries, list):
        return None
    found = []
    for entry in entries[:_MOST_MODELS]:
        if isinstance(entry, dict) and isinstance(entry.get("id"), str) and entry["id"]:
            owner = entry.get("owned_by")
            kind = Kind(owner) if owner in {kind.value for kind in Kind} else Kind.OTHER
            aliases = tuple(
                name for name in _items(entry.get("aliases")) if isinstance(name, str) and name != entry["id"]
            )
            found.append(Listed(entry["id"], kind, _window(entry), aliases))
    return tuple(found)


def _items(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()


def _window(entry: Mapping[str, Any]) -> int | None:
    meta = entry.get("meta")
    for place in (entry, meta if isinstance(meta, dict) else {}):
        for name in _WINDOWS:
            size = place.get(name)
            if isinstance(size, int) and not isinstance(size, bool) and size > 0:
                return size
    return None


# Requests


def body(model: Listed, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> dict[str, Any]:
    """The fields of a request for this prompt: messages where it has turns, else plain text."""
    fields: dict[str, Any] = {"model": model.id, "stream": True, "stream_options": {"include_usage": True}}
    if prompt.turns:
        fields["messages"] = [_message(turn) for turn in prompt.turns]
        if goes_on(prompt):
            fields |= {"add_generation_prompt": False, "continue_final_message": True}
    else:
        fields["prompt"] = "".join(part.text for part in prompt.parts)
    fields |= {"temperature": sampler.temperature, "top_p": sampler.top_p, "seed": sampler.seed}
    fields |= _beyond(model.kind, sampler)
    if limits.max_tokens is not None:
        fields["max_tokens"] = limits.max_tokens
    elif not prompt.turns and model.kind is not Kind.LLAMA_SERVER:
        fields["max_tokens"] = _ROOM  # else 16, as OpenAI's API has it
    if limits.stop:
        fields["stop"] = list(limits.stop)
    if limits.n_alternatives is not None:
        fields |= _chances_wanted(limits.n_alternatives, is_bare=not prompt.turns)
    if limits.constraint is not None:
        fields |= constrained(model.kind, limits.constraint, is_bare=not prompt.turns)
    if model.kind is Kind.LLAMA_SERVER:
        fields |= {"return_progress": True, "cache_prompt": True}
    return fields


def _chances_wanted(n_alternatives: int, *, is_bare: bool) -> dict[str, Any]:
    if is_bare:  # servers answer it in several shapes
        raise SlmError(
            "an endpoint tells the probabilities of tokens in chats only, not for --raw.", exit_code=ExitCode.USAGE
        )
    return {"logprobs": True, "top_logprobs": n_alternatives}


def constrained(kind: Kind, constraint: Constraint, *, is_bare: bool) -> dict[str, Any]:
    """The fields that hold an answer to a constraint. `is_bare`: the request is for a plain completion.

    llama.cpp's servers take its grammars: their answers are held to what a local model is held to. Others take JSON
    Schema in `response_format`, vLLM regular expressions too (0.11 and later). Raises `SlmError` (USAGE) for what a
    server is not known to take: a field that it ignores would let any answer through.
    """
    if kind in (Kind.LLAMA_SERVER, Kind.LLAMA_PYTHON):
        return {"grammar": to_gbnf(constraint)}
    if kind is Kind.VLLM and constraint.kind is ConstraintKind.REGEX:
        return {"structured_outputs": {"regex": constraint.text}}
    is_json = constraint.kind in (ConstraintKind.JSON, ConstraintKind.SCHEMA)
    if not is_json or (is_bare and kind is not Kind.VLLM):
        what = "JSON in plain completions (--raw)" if is_json else f"a {_CALLED[constraint.kind]}"
        raise SlmError(
            f"this endpoint is not known to hold answers to {what}.",
            hint="llama-server does; most others do for JSON without --raw: --schema, --fields, --json-output",
            exit_code=ExitCode.USAGE,
        )
    if constraint.kind is ConstraintKind.JSON:
        return {"response_format": {"type": "json_object"}}
    schema = json.loads(constraint.text)
    asked = {"name": "answer", "schema": schema, **({"strict": True} if _is_strict(schema) else {})}
    return {"response_format": {"type": "json_schema", "json_schema": asked}}


_CALLED = {ConstraintKind.REGEX: "regular expression", ConstraintKind.GRAMMAR: "grammar"}


def _is_strict(schema: object) -> bool:
    """Whether OpenAI's API takes it as a strict one: every object is closed and every property of it required."""
    if isinstance(schema, list):
        return all(map(_is_strict, schema))
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object":
        is_closed = schema.get("additionalProperties") is False
        if not is_closed or set(schema.get("required", ())) != set(schema.get("properties", ())):
            return False
    return all(map(_is_strict, schema.values()))


# Tokens of a plain completion that nobody limited.
_ROOM = 2048


def goes_on(prompt: Prompt) -> bool:
    """Whether the prompt ends inside of an answer."""
    return bool(prompt.turns) and prompt.turns[-1].role == "assistant"


def _message(turn: Turn) -> dict[str, str]:
    return {"role": turn.role, "content": turn.text}


def _beyond(kind: Kind, sampler: SamplerSettings) -> dict[str, float]:
    """The sampler settings that OpenAI's API does not have, by the names that this server gives them."""
    penalty = "repetition_penalty" if kind is Kind.VLLM else "repeat_penalty"
    values = {"top_k": sampler.top_k, "min_p": sampler.min_p, penalty: sampler.repeat_penalty}
    if kind is Kind.OTHER:
        usual = SamplerSettings()
        usually = {"top_k": usual.top_k, "min_p": usual.min_p, penalty: usual.repeat_penalty}
        return {name: value for name, value in values.items() if value != usually[name]}
    return values


# Fields that a request can do without. Their values are slm's own or a wish; none of them changes what is asked.
_DISPENSABLE = (
    *("stream_options", "seed", "top_k", "min_p", "top_p", "temperature", "repeat_penalty", "repetition_penalty"),
    *("return_progress", "cache_prompt"),
)
_UNKNOWN_FIELD = re.compile(
    r"unsupported|not support|n't support|unrecogni[sz]ed|unknown|unexpected|extra (?:inputs|fields)|not permitted|"
    r"not allowed|invalid (?:parameter|field|argument)",
    re.IGNORECASE,
)


def without_refused(fields: Mapping[str, Any], text: str, param: str | None) -> tuple[str, dict[str, Any]] | None:
    """The request as it may be taken, after a refusal in these words that names a field; and the name of the field.

    None: the refusal is about something else, or about a field that slm must not leave out by itself.
    """
    if not _UNKNOWN_FIELD.search(text):
        return None
    if "max_tokens" in fields and "max_completion_tokens" in text:  # OpenAI's newer models
        renamed = {("max_completion_tokens" if name == "max_tokens" else name): it for name, it in fields.items()}
        return "max_tokens", renamed
    for name in _DISPENSABLE:
        if name in fields and (param == name or re.search(rf"\b{name}\b", text)):
            return name, {key: value for key, value in fields.items() if key != name}
    return None


# Answers


@dataclass(frozen=True, slots=True)
class Counted:
    """Tokens as the endpoint counted them."""

    prompt: int
    completion: int
    cached: int


@dataclass(frozen=True, slots=True)
class Said:
    """What one event says. `progress`: tokens of the prompt that are read, all of them, and those from the cache."""

    text: str = ""
    thinking: str = ""
    reason: str | None = None
    counted: Counted | None = None
    progress: tuple[int, int, int] | None = None
    has_choice: bool = False
    chances: tuple[Chance, ...] = ()


class Malformed(Exception):
    """An event that is not one of the API's; the message says why."""


class ErrorEvent(Exception):
    """An event that says what went wrong on the other side; the message is its data."""


def read(data: str) -> Said:
    """One event, or a whole answer that was not streamed. Raises `Malformed`, `ErrorEvent`."""
    try:
        event = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed("an event is not JSON") from error
    if not isinstance(event, dict):
        raise Malformed("an event is not an object")
    if event.get("error"):
        raise ErrorEvent(data)
    choices = event.get("choices", [])
    if not isinstance(choices, list) or (choices and not isinstance(choices[0], dict)):
        raise Malformed("the choices of an event are none")
    choice = choices[0] if choices else {}
    spoken = choice.get("delta", choice.get("message"))
    if spoken is None:
        spoken = {"content": choice.get("text")}
    if not isinstance(spoken, dict):
        raise Malformed("an event says nothing that can be read")
    text, thinking = _texts(spoken)
    reason = choice.get("finish_reason")
    return Said(
        text,
        thinking,
        reason if isinstance(reason, str) and reason else None,
        _counted(event.get("usage")),
        _progress(event.get("prompt_progress")),
        bool(choices),
        _chances(choice.get("logprobs")),
    )


def _chances(told: object) -> tuple[Chance, ...]:
    """OpenAI's `logprobs` of a chat: `{"content": [{"token", "logprob", "top_logprobs": [{"token", "logprob"}]}]}`."""
    content = told.get("content") if isinstance(told, dict) else None
    found = []
    for entry in _items(content):
        own = _token(entry)
        if own is not None:
            given = _items(entry.get("top_logprobs")) if isinstance(entry, dict) else ()
            tops = [(top, _bytes(each)) for each in given if (top := _token(each))]
            found.append(Chance(*own, tuple(top for top, _ in tops), _bytes(entry), tuple(data for _, data in tops)))
    return tuple(found)


def _bytes(entry: object) -> bytes | None:
    """The bytes of a token, where the endpoint tells them: a list of numbers."""
    told = entry.get("bytes") if isinstance(entry, dict) else None
    if not isinstance(told, list) or not all(type(each) is int and 0 <= each <= 255 for each in told):
        return None
    return bytes(told)


def _token(entry: object) -> tuple[str, float] | None:
    if not isinstance(entry, dict):
        return None
    text, logprob = entry.get("token"), entry.get("logprob")
    if not isinstance(text, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
        return None
    return _plain(text), float(logprob)


def _texts(spoken: Mapping[str, Any]) -> tuple[str, str]:
    """Answer and thought. `reasoning_content`: DeepSeek, llama-server, vLLM; `reasoning`: Ollama, OpenRouter, Groq."""
    thinking = next((_plain(spoken[name]) for name in ("reasoning_content", "reasoning") if spoken.get(name)), "")
    content = spoken.get("content") or spoken.get("refusal")
    if isinstance(content, list):  # Mistral: [{"type": "thinking", "thinking": [{"text": …}]}, {"type": "text", …}]
        thoughts = [part["thinking"] for part in content if isinstance(part, dict) and "thinking" in part]
        thinking += "".join(_plain(thought) for thought in thoughts)
        content = [part for part in content if isinstance(part, dict) and "thinking" not in part]
    return _plain(content), thinking


def _plain(content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content.encode("utf-8", "replace").decode() if not content.isascii() else content  # lone surrogates
    if isinstance(content, list):
        return "".join(_plain(part.get("text")) for part in content if isinstance(part, dict))
    raise Malformed("a text of an event is none")


def _counted(usage: object) -> Counted | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if prompt is None and completion is None:
        return None
    cached = _count(details, "cached_tokens") if isinstance(details, dict) else None
    return Counted(prompt or 0, completion or 0, min(cached or 0, prompt or 0))


def _progress(progress: object) -> tuple[int, int, int] | None:
    """llama-server's `prompt_progress`: `processed` counts from the beginning of the prompt, the cache included."""
    if not isinstance(progress, dict):
        return None
    total, done = _count(progress, "total"), _count(progress, "processed")
    return None if total is None or done is None else (min(done, total), total, _count(progress, "cache") or 0)


def _count(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
