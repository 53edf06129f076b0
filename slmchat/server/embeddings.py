"""`/v1/embeddings` of the API of OpenAI: its requests, its answers.

Knows: the fields, what a text can be, the two ways to write a vector. Refuses to know: models, how vectors are made.
"""

import base64
import math
import struct
from collections.abc import Sequence
from typing import Any

from slmchat.engine.requests import TextOrTokens
from slmchat.engine.results import Embedding
from slmchat.lazy_dataclasses import dataclass
from slmchat.ranges import Range
from slmchat.server.fields import BadRequest, checked_number, checked_object, model_named

# As OpenAI has it: texts of one request.
_MOST_TEXTS = 2048
_DIMENSIONS = Range(1, 100_000)
_KNOWN = frozenset(("model", "input", "encoding_format", "dimensions", "user"))


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """A request for vectors. `dimensions` None: as many numbers as the model's vectors have."""

    model: str | None
    texts: tuple[TextOrTokens, ...]
    is_base64: bool
    dimensions: int | None
    ignored: tuple[str, ...] = ()


def embeddings_request(body: object) -> EmbeddingsRequest:
    """What a request to /v1/embeddings asks. Raises `BadRequest`."""
    given = checked_object(body)
    encoding = given.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise BadRequest("encoding_format must be float or base64.", "encoding_format")
    dimensions = checked_number(given, "dimensions", _DIMENSIONS)
    return EmbeddingsRequest(
        model_named(given),
        _texts(given.get("input")),
        encoding == "base64",
        None if dimensions is None else int(dimensions),
        tuple(sorted(name[:60] for name in given if name not in _KNOWN)),
    )


def _texts(given: object) -> tuple[TextOrTokens, ...]:
    """The texts of `input`: a text, tokens, or a list of texts or of lists of tokens."""
    if isinstance(given, str) or _are_tokens(given):
        given = [given]
    if not isinstance(given, list) or not 0 < len(given) <= _MOST_TEXTS:
        raise BadRequest(f"input must be a text, tokens, or a list of at most {_MOST_TEXTS:,} of them.", "input")
    return tuple(_text(each, f"input[{number}]") for number, each in enumerate(given))


def _text(given: object, place: str) -> TextOrTokens:
    if isinstance(given, str):
        return given
    if isinstance(given, list) and _are_tokens(given):
        return tuple(given)
    raise BadRequest(f"{place} must be a text or a list of tokens.", place)


def _are_tokens(given: object) -> bool:
    return isinstance(given, list) and bool(given) and all(type(each) is int for each in given)


def check_dimensions(asked: EmbeddingsRequest, n_numbers: int, *, can_be_shortened: bool) -> None:
    """Raises `BadRequest` for vectors of a length that the model, whose have `n_numbers`, has not been trained for."""
    wanted = asked.dimensions or n_numbers
    if wanted > n_numbers or (wanted < n_numbers and not can_be_shortened):
        why = "" if can_be_shortened else ", and it was not trained for shorter ones"
        raise BadRequest(f"the vectors of this model have {n_numbers:,} numbers{why}.", "dimensions")


def embeddings_record(model: str, made: Sequence[Embedding], asked: EmbeddingsRequest) -> dict[str, Any]:
    """The answer: a vector for each text, in order."""
    n_tokens = sum(each.n_tokens for each in made)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": number, "embedding": _written(each.vector, asked)}
            for number, each in enumerate(made)
        ],
        "model": model,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }


def _written(vector: Sequence[float], asked: EmbeddingsRequest) -> str | list[float]:
    values = list(vector)
    if asked.dimensions is not None and asked.dimensions < len(values):
        values = values[: asked.dimensions]
        length = math.sqrt(math.fsum(value * value for value in values)) or 1.0
        values = [value / length for value in values]
    if asked.is_base64:
        return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
    return values
