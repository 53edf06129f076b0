"""Texts to vectors at an endpoint (`RemoteEmbedder`).

Knows: OpenAI's `/embeddings`, how many texts go into one request, that an answer may be anything.
Refuses to know: connections (client.py), which model is meant (engine.py).
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from slmchat.endpoints import Endpoint
from slmchat.engine.remote import errors
from slmchat.engine.remote.cancel import Cancelled
from slmchat.engine.remote.client import Client
from slmchat.engine.requests import TextOrTokens
from slmchat.engine.results import Embedding
from slmchat.errors import SlmError, usage_error

_AT_ONCE = 32
# Numbers of one vector: more than any model has.
_MOST_NUMBERS = 100_000


class RemoteEmbedder:
    """Vectors of one model over there. Implements `Embedder`."""

    def __init__(self, endpoint: Endpoint, model: str, client: Client) -> None:
        self._endpoint = endpoint
        self._model = model
        self._client = client

    def cancel(self) -> None:
        """Close the answer that is awaited; from any thread or a signal handler."""
        self._client.cancel.set()

    def run(self, texts: Iterator[TextOrTokens]) -> Iterator[Embedding | SlmError]:
        """As `Embedder` has it. Raises `SlmError` (NETWORK, and USAGE or CONTEXT for what the endpoint refuses)."""
        self._client.cancel.reset()
        while group := list(islice(texts, _AT_ONCE)):
            asked = [text for text in group if not _is_empty(text)]
            try:
                found = iter(self._asked(asked) if asked else [])
            except Cancelled:
                self._client.close()
                return
            for text in group:
                yield _empty() if _is_empty(text) else next(found)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _asked(self, texts: Sequence[TextOrTokens]) -> list[Embedding]:
        body = {"model": self._model, "input": list(texts), "encoding_format": "float"}
        answer = "".join(self._client.events("/embeddings", body))
        try:
            return _embeddings(json.loads(answer), len(texts))
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise errors.garbled(self._endpoint, "there are no vectors in it") from error


def _embeddings(document: Any, count: int) -> list[Embedding]:
    """Raises ValueError, KeyError or TypeError for what is not a vector for each text."""
    entries = document["data"]
    if not isinstance(entries, list) or len(entries) != count or not all(isinstance(one, dict) for one in entries):
        raise ValueError("not an entry for each text")
    in_order = sorted(enumerate(entries), key=lambda pair: _index(pair[1], pair[0]))
    usage = document.get("usage")
    counted = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    # the endpoint counts all texts together
    n_tokens = counted if isinstance(counted, int) and not isinstance(counted, bool) and 0 <= counted < 10**12 else 0
    made = [_normalised(entry["embedding"]) for _, entry in in_order]
    if len({len(vector) for vector in made}) > 1:
        raise ValueError("vectors of several lengths")
    return [Embedding(vector, n_tokens if number == 0 else 0) for number, vector in enumerate(made)]


def _index(entry: Mapping[str, Any], place: int) -> int:
    index = entry.get("index", place)
    return index if type(index) is int else place


def _normalised(values: Any) -> tuple[float, ...]:
    if not isinstance(values, list) or not 0 < len(values) <= _MOST_NUMBERS:
        raise ValueError("not a vector")
    numbers = [float(value) for value in values if not isinstance(value, bool | str)]
    length = math.sqrt(math.fsum(number * number for number in numbers)) if len(numbers) == len(values) else 0.0
    if not length or not math.isfinite(length):
        raise ValueError("not a vector")
    return tuple(number / length for number in numbers)


def _is_empty(text: TextOrTokens) -> bool:
    return not (text.strip() if isinstance(text, str) else text)


def _empty() -> SlmError:
    return usage_error("the text is empty.", "a vector needs words")
