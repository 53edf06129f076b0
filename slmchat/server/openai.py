"""The requests of the API of OpenAI: what they ask, in slm's own terms.

Knows: fields, their types and ranges, messages. Refuses to know: connections, models, answers (records.py).

A field that slm does not know is ignored, and named in the log; one that it knows with a value that cannot be used is
an error that names the field. Pictures are taken from data URLs alone: a server that fetched one would have to reach
out.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from slmchat import ranges
from slmchat.conversation import pictures
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.pictures import Picture
from slmchat.engine.requests import Limits
from slmchat.engine.thinking import Thinking, ThinkingMode
from slmchat.errors import SlmError
from slmchat.generation import structured, tools
from slmchat.generation.prompt import PromptRequest
from slmchat.generation.structured import ResponseFormat
from slmchat.generation.tools import CallMode, Tool, Toolbox, ToolCall
from slmchat.lazy_dataclasses import dataclass
from slmchat.ranges import Range
from slmchat.server.fields import BadRequest, checked_flag, checked_list, checked_number, checked_object, model_named

# As OpenAI has them.
_MOST_STOPS = 16
_MOST_TOP_LOGPROBS = 20
_MOST_CHOICES = 16
_MOST_TOOLS = 128
_MOST_PROMPTS = 128
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
    request = _conversation(messages)
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
    first, *further = (_request(each, [], (), "") for each in prompts)
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


# Messages


def _conversation(messages: Sequence[object]) -> PromptRequest:
    """The messages as a request: one system message at the beginning, then the sides in turn."""
    system: list[str] = []
    called: set[str] = set()
    turns: list[Message] = []
    for number, each in enumerate(messages):
        place = f"messages[{number}]"
        role, text, shown = _message(each, place, called)
        if role is Role.SYSTEM:
            system.append(text)
        elif turns and turns[-1].role is role:  # many templates refuse two of one side
            last = turns.pop()
            are_results = text.startswith(tools.RESULT[0]) and last.text.endswith(tools.RESULT[1])
            joined = ("\n" if are_results else "\n\n").join(part for part in (last.text, text) if part)
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
    "tool": Role.USER,  # what a function gave comes from this side
}


def _message(given: object, place: str, called: set[str]) -> tuple[Role, str, tuple[Picture, ...]]:
    """Role, text and pictures of a message. `called`: ids of the calls so far, which results may name."""
    if not isinstance(given, dict):
        raise BadRequest(f"{place} must be an object.", place)
    named = given.get("role")
    role = _ROLES.get(named) if isinstance(named, str) else None
    if role is None:
        said = str(named)[:40]
        raise BadRequest(f"{place}.role must be system, developer, user, assistant or tool, not {said!r}.", place)
    text, shown = _content(given.get("content"), place, role)
    if named == "tool":
        if str(given.get("tool_call_id")) not in called:
            raise BadRequest(f"{place}.tool_call_id must name a call of an earlier message.", place)
        return role, tools.result_written(text), ()
    calls = _calls(given.get("tool_calls"), f"{place}.tool_calls") if role is Role.ASSISTANT else []
    called |= {call.id for call in calls}
    return role, "\n".join(part for part in (text, *(call.written() for call in calls)) if part), shown


def _calls(given: object, place: str) -> list[ToolCall]:
    made = []
    for each in given if isinstance(given, list) else []:
        function = each.get("function") if isinstance(each, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRequest(f"{place} must be calls of functions.", place)
        arguments = function.get("arguments") or {}
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        made.append(ToolCall(function["name"], written, str(each.get("id"))))
    return made


def _content(content: object, place: str, role: Role) -> tuple[str, tuple[Picture, ...]]:
    if content is None and role is Role.ASSISTANT:
        return "", ()
    if isinstance(content, str):
        return content, ()
    if not isinstance(content, list):
        raise BadRequest(f"{place}.content must be a text or a list of parts.", place)
    texts: list[str] = []
    shown: list[Picture] = []
    for number, part in enumerate(content):
        _part(part, f"{place}.content[{number}]", texts, shown)
    if shown and role is not Role.USER:
        raise BadRequest(f"{place}: only a message of the user can show pictures.", place)
    return "\n".join(texts), tuple(shown)


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
