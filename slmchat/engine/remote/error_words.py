"""The words with which servers refuse: found in whatever they answer, made fit to be quoted, and what they are about.

Knows: the JSON that OpenAI's API made a habit, and where servers of the field put their words. What a server says is
untrusted: it is cut, put on one line, and keys are taken out. Refuses to know: what slm says of it (errors.py).
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from slmchat.redaction import redacted

_MOST_QUOTED = 240  # characters of a server's own words

# "maximum context length is 4096 tokens" (OpenAI, vLLM, llama-cpp-python); "exceeds the available context size (4096
# tokens)" (llama-server); "context window of 4096" (llama-cpp-python)
_CONTEXT = re.compile(
    r"context[ _-]?(?:length|size|window)|exceed_context|prompt is too long|too many (?:input )?tokens", re.IGNORECASE
)
_CONTEXT_SIZE = re.compile(
    r"(?:maximum|available) (?:model )?context (?:length|size|window)(?: is| of)?:? \(?(\d+)|"
    r"context window of (\d+)|max_model_len\D{1,20}(\d+)",
    re.IGNORECASE,
)
# "image input is not supported … mmproj" (llama-server), "is not a multimodal model" (vLLM), "missing data required for
# image input" (Ollama), "content: Input should be a valid string" (FastAPI): the model, or the server, sees nothing.
_NO_PICTURES = re.compile(
    r"mmproj|(?:not|n't|no) .{0,20}multi-?modal|"
    r"\b(?:images?|image_url|vision|pictures?)\b.{0,40}\b(?:not|n't) (?:supported|accepted|enabled|allowed)|"
    r"(?:not|n't|no endpoints found that) (?:support|accept|take|have|process|handle).{0,60}\b(?:image|vision|picture)|"
    r"(?:missing|lacks).{0,40}\b(?:image|vision)|content\b.{0,40}(?:must|should) be an? (?:valid )?(?:string|str)\b",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(r"model.{0,200}(?:not found|does not exist|not exist|unknown|not supported)", re.IGNORECASE)


class ErrorWords:
    """The words of a refusal, from the JSON that OpenAI's API made a habit, or from whatever else came."""

    def __init__(self, body: bytes | str) -> None:
        text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
        self.is_page = bool(re.match(r"\s*<(?:!doctype|html|head|\?xml)", text, re.IGNORECASE))
        self.param: str | None = None
        self.code = ""
        self.n_ctx: int | None = None
        self.status: int | None = None
        if self.is_page:
            title = re.search(r"<title[^>]*>(.{1,200}?)</title>", text, re.IGNORECASE | re.DOTALL)
            self.text = quoted(title[1]) if title else ""
            return
        fields = _error_fields(text)
        words = next((_words(fields[name]) for name in _WORDED if fields.get(name)), "")
        self.text = quoted(words or (text if not fields else ""))
        self.code = " ".join(str(fields[name]) for name in ("code", "type") if fields.get(name))
        self.param = fields["param"] if isinstance(fields.get("param"), str) else None
        number = str(fields.get("code") or fields.get("status") or "")
        self.status = int(number) if re.fullmatch(r"[45]\d\d", number) else None  # which an event may tell
        size = fields.get("n_ctx")
        found = _CONTEXT_SIZE.search(self.text)
        if isinstance(size, int) and size > 0:
            self.n_ctx = size
        elif found:
            self.n_ctx = int(next(number for number in found.groups() if number))

    @property
    def is_about_context(self) -> bool:
        return bool(_CONTEXT.search(f"{self.text} {self.code}"))

    @property
    def is_about_pictures(self) -> bool:
        """Whether they say that pictures are not taken, whatever there is in them."""
        return bool(_NO_PICTURES.search(self.text)) and not self.is_about_context

    @property
    def is_about_model(self) -> bool:
        return "model_not_found" in self.code or bool(_NO_MODEL.search(self.text) and not self.is_about_pictures)


# Where servers put the words of a refusal.
_WORDED = ("message", "detail", "msg", "error", "errors")
# What pydantic says of a field, as Python prints it (vLLM puts that into its message).
_PRINTED = re.compile(r"'loc': \(([^)]{0,200})\), 'msg': (?:'([^']{0,300})'|\"([^\"]{0,300})\")")
# A refusal names this many fields.
_MOST_REASONS = 5


def _words(value: object) -> str:
    """The words in a part of a refusal: a text, FastAPI's list of `{"loc": [...], "msg": ...}`, or what holds one."""
    if isinstance(value, list):
        return "; ".join(words for item in value[:_MOST_REASONS] if (words := _words(item)))
    if isinstance(value, dict):
        words = next((_words(value[name]) for name in _WORDED if value.get(name)), "")
        place = value.get("loc")
        return _of_field(place if isinstance(place, list) else [], words)
    if not isinstance(value, str):
        return ""
    printed = _PRINTED.findall(value[: 64 * 1024])[:_MOST_REASONS]
    return "; ".join(_of_field(place.replace("'", "").split(", "), one or two) for place, one, two in printed) or value


def _of_field(place: Sequence[object], words: str) -> str:
    """`messages.0.content: field required`. The body is where every field is."""
    names = [str(name).strip(" ,") for name in place]
    names = [name for name in (names[1:] if names[:1] == ["body"] else names) if name]
    return f"{'.'.join(names)}: {words}" if names and words else words


def _error_fields(text: str) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`, `{"error": "…"}`, `{"detail": …}`, `{"message": …}`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if isinstance(value, list) and value:  # Vertex AI wraps it
        value = value[0]
    if not isinstance(value, dict):
        return {}
    error = value.get("error") or value
    return error if isinstance(error, dict) else {"message": error}


def quoted(text: str) -> str:
    """A server's words on one line, of a bounded length, without keys."""
    words = redacted(" ".join(text.split()))
    return (words if len(words) <= _MOST_QUOTED else f"{words[:_MOST_QUOTED]} …").rstrip(".")
