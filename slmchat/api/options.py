"""The keywords of the public interface, and how they become the options that the commands understand.

Knows: their names, types and limits (those of the command line's options of the same name).
Refuses to know: what they do.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Literal, TypedDict, cast

from slmchat.api import arguments
from slmchat.api.schema_types import schema_of_class
from slmchat.conversation import pictures
from slmchat.conversation.pictures import Picture
from slmchat.errors import SlmError, usage_error
from slmchat.generation import structured
from slmchat.generation.ballot import Vote
from slmchat.generation.classify import ClassificationTask, problem_of
from slmchat.generation.structured import ResponseFormat
from slmchat.option_fields import check_choice, range_of
from slmchat.options import GenerationOptions
from slmchat.ranges import BEST_OF, GPU_LAYERS, SHARE, Range
from slmchat.settings import THINK
from slmchat.user_paths import user_path

_SCHEMAS = "a mapping, JSON text, a pydantic class, a dataclass or a TypedDict"

# How many of the most probable tokens can be told beside each one, as other interfaces have it.
_ALTERNATIVES = Range(0, 20)

# A picture: its file, or the bytes of a PNG, JPEG, WebP, GIF or BMP file.
ImageSource = str | os.PathLike[str] | bytes


class LoadOptions(TypedDict, total=False):
    """What `load` takes besides the usual.

    `kv_type`: type of the KV cache, "f16", "q8_0" or "q4_0". `mmproj`: the projector with which a GGUF file sees
    images. `lora`: LoRA adapters over the model, PATH or PATH=SCALE each. `device`: GPUs by the names of `slm doctor`,
    separated by commas, or "none". `force`: load it although it does not fit into memory.
    """

    kv_type: str | None
    mmproj: str | os.PathLike[str] | None
    lora: Sequence[str]
    device: str | None
    force: bool


class SamplingOptions(TypedDict, total=False):
    """How tokens are chosen and where an answer ends. What is not given is as the model's makers recommend.

    `temperature` 0 always takes the most probable token. `top_k`: a number of tokens, 0 for all; `top_p`, `min_p`:
    probabilities; `repeat_penalty`: 1 for none. `seed` as a whole number below 2**32 - 1, None for a new one each time.
    `max_tokens`: at most so many tokens, None for as many as the context window holds. `stop`: sequences that end the
    answer and are no part of it. `think`: True or "on", False or "off", "auto" as the model's makers have it;
    `think_budget`: at most so many tokens of thinking, then the answer.
    """

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repeat_penalty: float | None
    seed: int | None
    max_tokens: int | None
    stop: str | Sequence[str] | None
    think: bool | Literal["on", "off", "auto"] | None
    think_budget: int | None


class ResponseFormatOptions(TypedDict, total=False):
    """What the answer has to look like; at most one of them (docs/structured.md).

    `schema`: a JSON Schema, as a mapping or as JSON text, or a class: pydantic's, a dataclass, or a TypedDict.
    `fields`: a schema in short. `regex`: the answer matches it as a whole. `grammar`: the text of a GBNF grammar.
    `json`: any JSON object or array.
    """

    schema: Mapping[str, Any] | str | type | None
    fields: str | None
    regex: str | None
    grammar: str | None
    json: bool


class SeveralOptions(TypedDict, total=False):
    """Several answers side by side, of which one counts (not for a stream).

    `best_of`: so many, 1 to 64. `vote`: what they are compared by, "number" (the last one), "text", "value" (what an
    answer in a format says) or "logprob" (none: the most probable one); None: "value" with a
    response format, else "logprob".
    """

    best_of: int | None
    vote: Literal["number", "text", "value", "logprob"] | None


class CompletionOptions(SamplingOptions, ResponseFormatOptions, SeveralOptions, total=False):
    """The keywords of `complete` and `stream`."""


def refuse_unknown(given: Mapping[str, object], known: type, function: str) -> None:
    """Raises TypeError for a keyword that `function` does not have, as Python itself does."""
    for name in given:
        if name not in known.__annotations__:
            raise TypeError(f"{function}() got an unexpected keyword argument '{name}'")


def with_loading(given: Mapping[str, Any]) -> GenerationOptions:
    """The options of `load`. Raises `SlmError` (USAGE)."""
    mmproj, adapters = given.get("mmproj"), given.get("lora", ())
    for name in ("kv_type", "device"):
        arguments.text_or_none(given.get(name), name)
    arguments.flag(given.get("force", False), "force")
    gpu_layers = given.get("gpu_layers")
    is_auto = gpu_layers is None or (isinstance(gpu_layers, str) and gpu_layers == "auto")
    if not is_auto and not GPU_LAYERS.holds(arguments.number(gpu_layers)):
        raise usage_error(f'gpu_layers must be {GPU_LAYERS}, or "auto".')
    return _with_values(
        GenerationOptions(),
        {
            **given,
            "gpu_layers": None if gpu_layers is None else str(gpu_layers),
            "mmproj": None if mmproj is None else arguments.path(mmproj, "mmproj"),
            "lora": arguments.text_or_texts(adapters, "lora"),
        },
    )


def with_sampling(options: GenerationOptions, given: Mapping[str, Any]) -> GenerationOptions:
    """The options with these `SamplingOptions` (others are left out). Raises `SlmError` (USAGE)."""
    values = {name: value for name, value in given.items() if name in SamplingOptions.__annotations__}
    if values.get("stop") is not None:
        values["stop"] = arguments.text_or_texts(values["stop"], "stop")
    if "think" in values:
        values["think"] = _thinking(values["think"])
    return _with_values(options, values)


def _thinking(given: object) -> str | None:
    """The word for it. Raises `SlmError` (USAGE)."""
    word = {True: "on", False: "off"}[given] if isinstance(given, bool) else given
    if word is None or (isinstance(word, str) and word in THINK):
        return word
    raise usage_error(f'think cannot be {given!r}: True, False, "on", "off" or "auto".')


def choosing_of(choices: Sequence[str], threshold: float | None, *, is_calibrated: bool) -> ClassificationTask:
    """What `classify` chooses from. Raises `SlmError` (USAGE)."""
    texts, share = tuple(arguments.texts(choices, "choices")), arguments.number(threshold)
    if share is not None and not SHARE.holds(share):
        raise usage_error(f"threshold must be {SHARE}.")
    threshold = cast("float | None", share)
    problem = problem_of(texts, threshold)
    if problem:
        raise usage_error(f"the choices cannot be used: {problem}.")
    return ClassificationTask(texts, threshold, is_calibrated)


def _with_values(options: GenerationOptions, given: Mapping[str, Any]) -> GenerationOptions:
    """The options with these values; None means: not given. Raises `SlmError` (USAGE) that names the limits."""
    values: dict[str, Any] = {name: arguments.number(value) for name, value in given.items() if value is not None}
    for field in fields(options):
        within = range_of(field)
        if field.name in values and within is not None and not within.holds(values[field.name]):
            raise usage_error(f"{field.name} must be {within}.")
        check_choice(field, values.get(field.name), field.name)
    return replace(options, **values)


def response_format_of(given: Mapping[str, Any]) -> ResponseFormat | None:
    """The format that these `ResponseFormatOptions` ask for (others are left out). Raises `SlmError` (USAGE)."""
    asked = structured.only_one({name: given.get(name) for name in ResponseFormatOptions.__annotations__})
    if asked is None:
        return None
    name, value = asked
    if name == "schema":
        return structured.of_schema(_schema(value))
    if name == "json":
        arguments.flag(value, "json")
        return structured.of_any_json()
    return {"fields": structured.of_fields, "regex": structured.of_regex, "grammar": structured.of_grammar}[name](
        arguments.text(value, name)
    )


def _schema(given: object) -> Any:
    """The schema as JSON has it. Raises `SlmError` (USAGE)."""
    schema = schema_of_class(given) if isinstance(given, type) else given
    if not isinstance(schema, (Mapping, bool, str)):
        raise arguments.refused("schema", _SCHEMAS, given)
    try:
        return structured.parsed(schema if isinstance(schema, str) else json.dumps(schema))
    except SlmError as error:
        raise SlmError(error.message, hint=f"schema can be {_SCHEMAS}", exit_code=error.exit_code) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise usage_error(f"the schema is not valid JSON: {error}.") from error


def n_answers_of(given: Mapping[str, Any]) -> tuple[int, str | None]:
    """How many answers are made, and what they are compared by. Raises `SlmError` (USAGE)."""
    n, vote = arguments.number(given.get("best_of")), arguments.text_or_none(given.get("vote"), "vote")
    if n is not None and not BEST_OF.holds(n):
        raise usage_error(f"best_of must be {BEST_OF}, or None.")
    if vote not in (None, *Vote):
        raise usage_error(f"vote cannot be '{vote}'.", "value, number, text or logprob")
    if vote is not None and n in (None, 1):
        raise usage_error("vote is between several answers.", "with best_of=5")
    return (n if isinstance(n, int) else 1), vote


def top_logprobs_of(asked: object) -> int | None:
    """How many alternatives are told beside each token; None: no logprobs. Raises `SlmError` (USAGE)."""
    if asked is None or isinstance(asked, bool):
        return 0 if asked else None
    asked = arguments.number(asked)
    if not isinstance(asked, int) or not _ALTERNATIVES.holds(asked):
        raise usage_error(f"logprobs must be True, False or {_ALTERNATIVES}.")
    return asked


def pictures_of(images: Sequence[ImageSource]) -> list[Picture]:
    """The pictures, decoded. Raises `SlmError`: USAGE for a file that cannot be read, DAMAGED for one that is none."""
    given = [images] if isinstance(images, (str, bytes, os.PathLike)) else arguments.several(images, "images", "files")
    return [_picture(source, number) for number, source in enumerate(given, 1)]


def _picture(source: object, number: int) -> Picture:
    if isinstance(source, bytes):
        name = f"image {number}"
        return Picture.of(name, pictures.decode(source, name))
    return pictures.read(user_path(arguments.path(source, f"images[{number - 1}]")))
