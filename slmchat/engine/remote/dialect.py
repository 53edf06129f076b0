"""What servers of the field take: the models they list, the fields of a request.

Knows: OpenAI's chat and text completions, and where llama-server, llama-cpp-python, vLLM, Ollama, LM Studio and hosted
services differ. Refuses to know: HTTP, sockets, when something is sent, what is answered (completion.py).

A field that OpenAI's API does not have is sent to servers that are known to take it, and to others only when its value
is not slm's default: some refuse a request for a field that they do not know.
"""

import json
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from slmchat.engine.gbnf import to_gbnf
from slmchat.engine.remote.png import data_url
from slmchat.engine.requests import Constraint, ConstraintKind, Limits, Prompt, Turn
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.thinking import Thinking, ThinkingMode
from slmchat.errors import usage_error
from slmchat.lazy_dataclasses import dataclass


class ServerKind(Enum):
    """Who answers, by `owned_by` in its list of models."""

    LLAMA_SERVER = "llamacpp"
    LLAMA_PYTHON = "me"
    VLLM = "vllm"
    OTHER = ""

    @property
    def can_go_on(self) -> bool:
        """Whether it can go on with an answer that was cut."""
        return self in (ServerKind.LLAMA_SERVER, ServerKind.VLLM)

    @property
    def answers_one(self) -> bool:
        """Whether a second request ends the stream of the first one (llama_cpp.server: `interrupt_requests`)."""
        return self is ServerKind.LLAMA_PYTHON


@dataclass(frozen=True, slots=True)
class Listed:
    """One model of an endpoint. None when the endpoint does not say: `n_ctx`, its context window in tokens; `sees`."""

    id: str
    kind: ServerKind = ServerKind.OTHER
    n_ctx: int | None = None
    aliases: tuple[str, ...] = ()
    sees: bool | None = None


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
            kind = ServerKind(owner) if owner in {kind.value for kind in ServerKind} else ServerKind.OTHER
            aliases = tuple(
                name for name in _items(entry.get("aliases")) if isinstance(name, str) and name != entry["id"]
            )
            found.append(Listed(entry["id"], kind, _window(entry), aliases, _sees(entry)))
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


def _sees(entry: Mapping[str, Any]) -> bool | None:
    """Whether it is told to see: Mistral's `capabilities.vision`, OpenRouter's `architecture.input_modalities`."""
    for place, name in (("capabilities", "vision"), ("architecture", "input_modalities")):
        inner = entry.get(place)
        told = inner.get(name) if isinstance(inner, dict) else None
        if isinstance(told, bool):
            return told
        if isinstance(told, list) and told:
            return "image" in told
    return None


# Requests


def body(model: Listed, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> dict[str, Any]:
    """The fields of a request for this prompt: messages where it has turns, else plain text."""
    fields: dict[str, Any] = {"model": model.id, "stream": True, "stream_options": {"include_usage": True}}
    if prompt.turns:
        fields["messages"] = [_message(turn) for turn in prompt.turns]
        if goes_on(prompt):
            fields |= {"add_generation_prompt": False, "continue_final_message": True}
    elif any(part.image for part in prompt.parts):
        raise usage_error("an endpoint is shown pictures in chats only, not with --raw.")
    else:
        fields["prompt"] = "".join(part.text for part in prompt.parts)
    fields |= {"temperature": sampler.temperature, "top_p": sampler.top_p, "seed": sampler.seed}
    fields |= _beyond(model.kind, sampler)
    if limits.max_tokens is not None:
        fields["max_tokens"] = limits.max_tokens
    elif not prompt.turns and model.kind is not ServerKind.LLAMA_SERVER:
        fields["max_tokens"] = _ROOM  # else 16, as OpenAI's API has it
    if limits.stop:
        fields["stop"] = list(limits.stop)
    if limits.top_logprobs is not None:
        fields |= _chances_wanted(limits.top_logprobs, is_bare=not prompt.turns)
    if prompt.turns:
        fields |= thinking_fields(model.kind, limits.thinking)
    if limits.constraint is not None:
        fields |= constrained(model.kind, limits.constraint, is_bare=not prompt.turns)
    if model.kind is ServerKind.LLAMA_SERVER:
        fields |= {"return_progress": True, "cache_prompt": True}
    return fields


def thinking_fields(kind: ServerKind, asked: Thinking) -> dict[str, Any]:
    """The fields that switch and limit the thought, as far as this server is known to have them.

    llama-server and vLLM pass variables on to the chat template and have a budget of their own; OpenAI's API knows
    efforts, which Ollama and others take as well.
    """
    fields: dict[str, Any] = {}
    is_off = asked.mode is ThinkingMode.OFF
    if kind in _BUDGETS:
        if asked.mode is not ThinkingMode.AUTO:
            fields["chat_template_kwargs"] = {"enable_thinking": not is_off}
        if asked.budget is not None:
            fields[_BUDGETS[kind]] = asked.budget
    elif kind is ServerKind.OTHER and asked.mode is not ThinkingMode.AUTO:
        fields["reasoning_effort"] = "none" if is_off else "medium"
    return fields


# What servers call a budget of thinking.
_BUDGETS = {ServerKind.LLAMA_SERVER: "thinking_budget_tokens", ServerKind.VLLM: "thinking_token_budget"}


def not_asked(kind: ServerKind, asked: Thinking) -> str | None:
    """What of thinking this server is not known to take, after "ENDPOINT …"; None when it takes all of it."""
    if kind is ServerKind.LLAMA_PYTHON and asked.mode is not ThinkingMode.AUTO:
        return "is not known to have a switch for thinking: --think changes nothing"
    if kind not in _BUDGETS and asked.budget:
        return "is not known to have a budget for thinking: --think-budget changes nothing"
    return None


def _chances_wanted(top_logprobs: int, *, is_bare: bool) -> dict[str, Any]:
    if is_bare:  # servers answer it in several forms
        raise usage_error("an endpoint tells the probabilities of tokens in chats only, not for --raw.")
    return {"logprobs": True, "top_logprobs": top_logprobs}


def constrained(kind: ServerKind, constraint: Constraint, *, is_bare: bool) -> dict[str, Any]:
    """The fields that hold an answer to a constraint. `is_bare`: the request is for a plain completion.

    llama.cpp's servers take its grammars: their answers are held to what a local model is held to. Others take JSON
    Schema in `response_format`, vLLM regular expressions too (0.11 and later). Raises `SlmError` (USAGE) for what a
    server is not known to take: a field that it ignores would let any answer through.
    """
    if constraint.kind is ConstraintKind.QUOTATIONS:
        raise usage_error("an endpoint cannot be held to passages.")
    if kind in (ServerKind.LLAMA_SERVER, ServerKind.LLAMA_PYTHON):
        return {"grammar": to_gbnf(constraint)}
    if kind is ServerKind.VLLM and constraint.kind is ConstraintKind.REGEX:
        return {"structured_outputs": {"regex": constraint.text}}
    is_json = constraint.kind in (ConstraintKind.JSON, ConstraintKind.SCHEMA)
    if not is_json or (is_bare and kind is not ServerKind.VLLM):
        what = "JSON in plain completions (--raw)" if is_json else f"a {_CALLED[constraint.kind]}"
        raise usage_error(
            f"this endpoint is not known to hold answers to {what}.",
            "llama-server does; most others do for JSON without --raw: --schema, --fields, --json-output",
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


def _message(turn: Turn) -> dict[str, Any]:
    if not turn.images:
        return {"role": turn.role, "content": turn.text}
    shown = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in turn.images]
    return {"role": turn.role, "content": [*shown, {"type": "text", "text": turn.text}]}


def _beyond(kind: ServerKind, sampler: SamplerSettings) -> dict[str, float]:
    """The sampler settings that OpenAI's API does not have, by the names that this server gives them."""
    penalty = "repetition_penalty" if kind is ServerKind.VLLM else "repeat_penalty"
    values = {"top_k": sampler.top_k, "min_p": sampler.min_p, penalty: sampler.repeat_penalty}
    if kind is ServerKind.OTHER:
        usual = SamplerSettings()
        usually = {"top_k": usual.top_k, "min_p": usual.min_p, penalty: usual.repeat_penalty}
        return {name: value for name, value in values.items() if value != usually[name]}
    return values


THINKING_FIELDS = ("chat_template_kwargs", "reasoning_effort", *_BUDGETS.values())

# Fields that a request can do without. Their values are slm's own or a wish; none of them changes what is asked.
_DISPENSABLE = (
    *("stream_options", "seed", "top_k", "min_p", "top_p", "temperature", "repeat_penalty", "repetition_penalty"),
    *("return_progress", "cache_prompt", *THINKING_FIELDS),
)
_UNKNOWN_FIELD = re.compile(
    r"unsupported|not support|n't support|unrecogni[sz]ed|unknown|unexpected|extra (?:inputs|fields)|not permitted|"
    r"not allowed|not (?:available|implemented|possible|enabled)|disabled|cannot|invalid (?:parameter|field|argument)",
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
    if fields.get("stream") and (param == "stream" or re.search(r"\bstream(?:ing|ed)?\b", text, re.IGNORECASE)):
        return "stream", unstreamed(fields)
    return None


def unstreamed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The request for an answer in one document."""
    whole = {key: value for key, value in fields.items() if key not in ("stream_options", "return_progress")}
    return whole | {"stream": False}
