"""What the events of an answer say: data of one event in, text, thoughts, counts and reasons out.

Knows: the answers of OpenAI's chat and text completions, streamed or whole, and how servers of the field differ.
Refuses to know: HTTP, what was asked, what becomes of it. Nothing here is trusted: what is not of the API is named.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from slmchat.engine.results import TokenLogprob
from slmchat.lazy_dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counted:
    """Tokens as the endpoint counted them; `thinking` of the completion are a thought."""

    prompt: int
    completion: int
    cached: int
    thinking: int = 0


@dataclass(frozen=True, slots=True)
class AnswerEvent:
    """What one event says. `progress`: tokens of the prompt that are read, all of them, and those from the cache.

    `calls_tool`, `has_others`: it has a call of a tool, or another answer beside the first one.
    """

    text: str = ""
    thinking: str = ""
    reason: str | None = None
    counted: Counted | None = None
    progress: tuple[int, int, int] | None = None
    has_choice: bool = False
    logprobs: tuple[TokenLogprob, ...] = ()
    calls_tool: bool = False
    has_others: bool = False

    @property
    def brings_something(self) -> bool:
        """Whether the answer is further than before it: a comment, a role or an empty text is nothing."""
        return bool(self.text or self.thinking or self.reason or self.calls_tool)


class MalformedEvent(Exception):
    """An event that is not one of the API's; the message says why."""


class ErrorEvent(Exception):
    """An event that says what went wrong on the other side; the message is its data."""


# An event with one of these needs no choices: counts at the end, progress before the beginning, a sign of life.
_BESIDE_CHOICES = ("usage", "prompt_progress", "timings", "type")


def read(data: str) -> AnswerEvent:
    """One event, or a whole answer that was not streamed. Raises `MalformedEvent`, `ErrorEvent`."""
    try:
        event = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedEvent("an event is not JSON") from error
    if not isinstance(event, dict):
        raise MalformedEvent("an event is not an object")
    choices = event.get("choices")
    if event.get("error") or event.get("object") == "error" or (choices is None and event.get("detail")):
        raise ErrorEvent(data)
    if choices is None and any(event.get(name) for name in _BESIDE_CHOICES):
        choices = []
    if not isinstance(choices, list):
        raise MalformedEvent("an event has no list of choices")
    if not all(isinstance(choice, dict) for choice in choices):
        raise MalformedEvent("a choice of an event is not an object")
    choice = next((choice for choice in choices if not _count(choice, "index")), None)
    return _said(event, choice, has_others=any(other is not choice for other in choices))


def _said(event: Mapping[str, Any], choice: Mapping[str, Any] | None, *, has_others: bool) -> AnswerEvent:
    counted, progress = _counted(event.get("usage")), _progress(event.get("prompt_progress"))
    if choice is None:
        return AnswerEvent(counted=counted, progress=progress, has_others=has_others)
    if choice.get("error"):  # OpenRouter
        raise ErrorEvent(json.dumps({"error": choice["error"]}))
    spoken = next((choice[name] for name in ("delta", "message") if choice.get(name) is not None), None)
    spoken = {"content": choice.get("text")} if spoken is None else spoken
    if not isinstance(spoken, dict):
        raise MalformedEvent("what an event says is not an object")
    text, thinking = _texts(spoken)
    reason = choice.get("finish_reason")
    return AnswerEvent(
        text,
        thinking,
        reason if isinstance(reason, str) and reason else None,
        counted,
        progress,
        True,
        _logprobs(choice.get("logprobs")),
        calls_tool=bool(spoken.get("tool_calls") or spoken.get("function_call")),
        has_others=has_others,
    )


def _logprobs(told: object) -> tuple[TokenLogprob, ...]:
    """OpenAI's `logprobs` of a chat: `{"content": [{"token", "logprob", "top_logprobs": [{"token", "logprob"}]}]}`."""
    content = told.get("content") if isinstance(told, dict) else None
    found = []
    for entry in _items(content):
        own = _token(entry)
        if own is not None:
            given = _items(entry.get("top_logprobs")) if isinstance(entry, dict) else ()
            tops = [(top, _bytes(each)) for each in given if (top := _token(each))]
            found.append(
                TokenLogprob(*own, tuple(top for top, _ in tops), _bytes(entry), tuple(data for _, data in tops))
            )
    return tuple(found)


def _bytes(entry: object) -> bytes | None:
    """The bytes of a token, where the endpoint tells them: a list of numbers."""
    told = entry.get("bytes") if isinstance(entry, dict) else None
    if not isinstance(told, list) or not all(type(each) is int and 0 <= each <= 255 for each in told):
        return None
    return bytes(told)


def _items(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()


def _token(entry: object) -> tuple[str, float] | None:
    if not isinstance(entry, dict):
        return None
    text, logprob = entry.get("token"), entry.get("logprob")
    if not isinstance(text, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
        return None
    return whole_characters(text), float(logprob)


def _texts(spoken: Mapping[str, Any]) -> tuple[str, str]:
    """Answer and thought. `reasoning_content`: DeepSeek, llama-server, vLLM; `reasoning`: Ollama, OpenRouter, Groq."""
    thinking = next((_plain(spoken[name]) for name in ("reasoning_content", "reasoning") if spoken.get(name)), "")
    content = spoken.get("content") or spoken.get("refusal")
    if isinstance(content, list):  # Mistral: [{"type": "thinking", "thinking": [{"text": …}]}, {"type": "text", …}]
        thoughts = [part["thinking"] for part in content if isinstance(part, dict) and "thinking" in part]
        thinking += "".join(_plain(thought) for thought in thoughts)
        content = [part for part in content if not (isinstance(part, dict) and "thinking" in part)]
    return _plain(content), thinking


def _plain(content: object) -> str:
    """The text of a string, of a list of parts, or of nothing; halves of characters are left in it."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_plain(part.get("text") if isinstance(part, dict) else part) for part in content)
    raise MalformedEvent("the text of an event is not text")


def _counted(usage: object) -> Counted | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if prompt is None and completion is None:
        return None
    cached = _count(details, "cached_tokens") if isinstance(details, dict) else None
    made = usage.get("completion_tokens_details")
    thinking = _count(made, "reasoning_tokens") if isinstance(made, dict) else None
    return Counted(prompt or 0, completion or 0, min(cached or 0, prompt or 0), min(thinking or 0, completion or 0))


def _progress(progress: object) -> tuple[int, int, int] | None:
    """llama-server's `prompt_progress`: `processed` counts from the beginning of the prompt, the cache included."""
    if not isinstance(progress, dict):
        return None
    total, done = _count(progress, "total"), _count(progress, "processed")
    return None if total is None or done is None else (min(done, total), total, _count(progress, "cache") or 0)


# No count of tokens has more digits; a longer one would end up in sums and sentences.
_MOST_DIGITS = 15


def _count(fields: Mapping[str, Any], name: str) -> int | None:
    """A number of this name that counts something; some servers write it as a text or as a fraction (`"7"`, 7.0)."""
    value = fields.get(name)
    if isinstance(value, str) and re.fullmatch(rf"[0-9]{{1,{_MOST_DIGITS}}}", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**_MOST_DIGITS
    return value if is_count else None


# Characters

_HALF = re.compile("[\ud800-\udfff]")
_FIRST_HALF = re.compile("[\ud800-\udbff]\\Z")


def whole_characters(text: str) -> str:
    """The text with pairs of surrogates as the characters that they spell, and U+FFFD for a lone one."""
    if not _HALF.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class CharacterJoiner:
    """Joins characters whose halves come in two events (`\\ud83d`, `\\ude00`): some servers count in UTF-16.

    For one text: what is answered and what is thought need one each.
    """

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """What is whole now. The first half of a character waits for the second."""
        text = self._held + text
        self._held = text[-1] if _FIRST_HALF.search(text) else ""
        return whole_characters(text[: len(text) - len(self._held)])

    def flush(self) -> str:
        """What waited for nothing, as U+FFFD."""
        held, self._held = self._held, ""
        return whole_characters(held)
