"""The requests of the API of OpenAI: what they ask, in slm's own terms.

Knows: fields, their types and ranges. Refuses to know: messages (request_messages.py), connections, models, answers
(records.py).

A field that slm does not know is ignored, and named in the log; one that it knows with a value that cannot be used is
an error that names the field.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from slmchat import ranges
from slmchat.engine.requests import Limits
from slmchat.engine.thinking import Thinking, ThinkingMode
from slmchat.errors import SlmError
from slmchat.generation import structured, tools
from slmchat.generation.prompt import PromptRequest
from slmchat.generation.structured import ResponseFormat
from slmchat.generation.tools import CallMode, Tool, Toolbox
from slmchat.lazy_dataclasses import dataclass
from slmchat.ranges import Range
from slmchat.server.fields import BadRequest, checked_flag, checked_list, checked_number, checked_object, model_named
from slmchat.server.request_messages import conversation, request_of

# As OpenAI has them.
_MOST_STOPS = 16
_MOST_TOP_LOGPROBS = 20
_MOST_CHOICES = 16
_MOST_TOOLS = 128
_MOST_PROMPTS = 128
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

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
_KNOWN_OF_CHAT = _KNOWN | {"messages", "response_format", "tools", "tool_choice", "parallel_tool_calls", "functions"}
_KNOWN_OF_TEXT = _KNOWN | {"prompt", "echo", "suffix"}


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request for completions.

    `sampler`: what it gives of the sampler settings, by the names of `SamplerSettings`. `n`: completions of each
    prompt. `further`: the prompts behind the first. `ignored`: fields that mean nothing here.
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
    toolbox: Toolbox | None = None  # what the model may call
    further: tuple[PromptRequest, ...] = ()


def chat_request(body: object) -> ApiRequest:
    """What a request to /v1/chat/completions asks. Raises `BadRequest`."""
    given = checked_object(body)
    messages = checked_list(given, "messages")
    if not messages:
        raise BadRequest("messages must hold at least one message.", "messages")
    response_format, toolbox = _response_format(given.get("response_format")), _toolbox(given)
    request = conversation(messages)
    if toolbox is None:
        return _asked(given, request, _KNOWN_OF_CHAT, is_raw=False, response_format=response_format)
    made = _asked(given, request, _KNOWN_OF_CHAT, is_raw=False)
    if response_format is not None and toolbox.mode is not CallMode.REQUIRED:  # else there is no answer but calls
        if request.answer:
            raise BadRequest("an answer in a given format cannot go on with one that was cut.", "response_format")
        toolbox = replace(toolbox, answer=response_format)
        made = replace(made, limits=replace(made.limits, stop=()))  # they would cut through
    try:
        toolbox.constraint()  # as its model writes calls is seen later
    except SlmError as error:
        raise BadRequest(error.message, "tools") from error
    return replace(made, toolbox=toolbox)


def text_request(body: object) -> ApiRequest:
    """What a request to /v1/completions asks: a bare prompt that goes on. Raises `BadRequest`."""
    given = checked_object(body)
    prompt = given.get("prompt")
    listed = prompt if isinstance(prompt, list) else [prompt]
    prompts = [each for each in listed if isinstance(each, str)]
    if not 1 <= len(prompts) <= _MOST_PROMPTS or len(prompts) < len(listed):
        raise BadRequest(f"prompt must be a text or a list of 1 to {_MOST_PROMPTS} texts.", "prompt")
    if given.get("echo"):
        raise BadRequest("echo is not supported: the prompt is not part of the answer.", "echo")
    if given.get("suffix"):
        raise BadRequest("suffix is not supported: an answer goes on behind the prompt alone.", "suffix")
    if not all(each.strip() for each in prompts):
        raise BadRequest("the prompt is empty.", "prompt")
    first, *further = (request_of(each, [], (), "") for each in prompts)
    return replace(_asked(given, first, _KNOWN_OF_TEXT, is_raw=True), further=tuple(further))


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
    if given.get("seed") == -1:  # any seed, as llama-server and Ollama have it
        given = {**given, "seed": None}
    sampler = {
        name: value for name, within in _SAMPLER.items() if (value := checked_number(given, name, within)) is not None
    }
    most = _first_number(given, ("max_completion_tokens", "max_tokens"), ranges.MAX_TOKENS)
    limits = Limits(most, _stops(given.get("stop")), top_logprobs=_top_logprobs(given, is_raw))
    options = given.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise BadRequest("stream_options must be an object.", "stream_options")
    quiet = {"frequency_penalty", "presence_penalty"}
    return ApiRequest(
        request,
        model_named(given),
        sampler,
        limits,
        is_raw,
        response_format,
        n=int(checked_number(given, "n", Range(1, _MOST_CHOICES)) or 1),
        is_streamed=checked_flag(given, "stream"),
        includes_usage=bool((options or {}).get("include_usage")),
        ignored=tuple(sorted(name[:60] for name in given if name not in known | quiet)),
        thinking=_thinking(given),
    )


# Fields


def _response_format(given: object) -> ResponseFormat | None:
    if given is None:
        return None
    kind = given.get("type") if isinstance(given, dict) else None
    if kind == "text":
        return None
    described = given.get("json_schema") if isinstance(given, dict) else None
    if isinstance(given, dict) and kind == "json_object":
        if given.get("schema") is None:
            return structured.of_any_json()
        described = given  # as llama-server has it
    elif kind != "json_schema" or not isinstance(described, dict) or "schema" not in described:
        raise BadRequest("response_format must be text, json_object or json_schema with a schema.", "response_format")
    assert described is not None
    try:
        return structured.of_schema(described["schema"])
    except SlmError as error:
        raise BadRequest(error.message, "response_format") from error


def _toolbox(given: Mapping[str, Any]) -> Toolbox | None:
    """What may be called; None: nothing."""
    choice, listed = given.get("tool_choice"), given.get("tools")
    if given.get("functions"):
        raise BadRequest("functions are the older form of tools: send tools.", "functions")
    if not listed or choice == "none":
        return None
    if not isinstance(listed, list) or len(listed) > _MOST_TOOLS:
        raise BadRequest(f"tools must be a list of at most {_MOST_TOOLS} functions.", "tools")
    made = tuple(_tool(each, f"tools[{number}]") for number, each in enumerate(listed))
    most = 1 if given.get("parallel_tool_calls") is False else None
    if choice in (None, "auto", "required"):
        return Toolbox(made, CallMode(choice or "auto"), most)
    function = choice.get("function", choice) if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    named = tuple(tool for tool in made if tool.name == name)
    if not named:
        raise BadRequest("tool_choice must be none, auto, required or one of the tools.", "tool_choice")
    return Toolbox(named, CallMode.REQUIRED, 1)


def _tool(given: object, place: str) -> Tool:
    function = given.get("function", given) if isinstance(given, dict) and given.get("type") == "function" else None
    if not isinstance(function, dict):
        raise BadRequest(f"{place} must be a function.", place)
    name, described, parameters = (function.get(key) for key in ("name", "description", "parameters"))
    if not isinstance(name, str) or not tools.NAME.fullmatch(name):
        raise BadRequest(f"{place}.function.name must be letters, digits, _ and -.", place)
    if not isinstance(parameters, dict | None):
        raise BadRequest(f"{place}.function.parameters must be a JSON Schema.", place)
    return Tool(name, described if isinstance(described, str) else "", parameters)


def _first_number(given: Mapping[str, Any], names: Sequence[str], within: Range) -> int | None:
    """The first of these fields that is there. -1 is no limit, as in llama-server and LM Studio."""
    numbers = [checked_number(given, name, within) for name in names if given.get(name) != -1]
    return next((int(each) for each in numbers if each is not None), None)


def _stops(given: object) -> tuple[str, ...]:
    stops = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(stops, list) or len(stops) > _MOST_STOPS or not all(isinstance(each, str) for each in stops):
        raise BadRequest(f"stop must be a text or a list of at most {_MOST_STOPS} texts.", "stop")
    return tuple(stop for stop in stops if stop)


def _top_logprobs(given: Mapping[str, Any], is_raw: bool) -> int | None:
    """How many alternatives of each token are told; None: no logprobs. In /v1/completions `logprobs` is the number."""
    asked = given.get("logprobs")
    if asked is None or asked is False:
        return None
    if is_raw:
        return int(checked_number(given, "logprobs", Range(0, _MOST_TOP_LOGPROBS)) or 0)
    if asked is not True:
        raise BadRequest("logprobs must be true or false.", "logprobs")
    return int(checked_number(given, "top_logprobs", Range(0, _MOST_TOP_LOGPROBS)) or 0)


def _thinking(given: Mapping[str, Any]) -> Thinking | None:
    """What is asked of a thought: by OpenAI's field, or by those of vLLM and llama-server."""
    budget = _first_number(given, _BUDGETS, ranges.THINK_BUDGET)
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
