"""What is known here of a model of an endpoint (`KnownModel`): what it said, and what its answers have taught.

Knows: which fields it refuses, whether it sees, how many tokens a text may be over there, what was told of it already.
Refuses to know: connections, requests, answers. The engine and all its sessions share one.
"""

import math
from dataclasses import replace

from slmchat.endpoints import Endpoint
from slmchat.engine.remote.completion import Counted
from slmchat.engine.remote.dialect import Listed
from slmchat.engine.requests import Prompt

# Bytes of UTF-8 for one token of English text, before the endpoint has told better; tokens around a message.
_BYTES_PER_TOKEN = 4.0
_TOKENS_PER_TURN = 4
# Pixels of an image for one token: patches of 28 by 28 (Qwen-VL and its like; others take fewer tokens).
_PIXELS_PER_TOKEN = 28 * 28
# What a guess may be off by before it is believed.
_SANE = (0.5, 16.0)


class KnownModel:
    """One model over there, as far as it is known. Token counts are guesses that get better with every answer."""

    def __init__(self, endpoint: Endpoint, listed: Listed) -> None:
        """`listed`: what the endpoint's list of models says of it."""
        self.endpoint = endpoint
        self.listed = listed
        self.n_ctx = listed.n_ctx or 0  # context window in tokens, 0 while the endpoint has not told it
        self.left_out: frozenset[str] = frozenset()  # fields that this endpoint refuses
        self._told: set[str] = set()
        self._bytes_per_token = _BYTES_PER_TOKEN

    def count(self, prompt: Prompt) -> int:
        """About how many tokens the prompt has; better once the endpoint has counted one itself."""
        return round(_bytes(prompt) / self._bytes_per_token) + _tokens_besides(prompt)

    def learn(self, prompt: Prompt, counted: Counted) -> None:
        """The endpoint has counted a prompt: later guesses follow it."""
        size, tokens = _bytes(prompt), counted.prompt - _tokens_besides(prompt)
        if size >= 200 and tokens > 0:
            self._bytes_per_token = min(max(size / tokens, _SANE[0]), _SANE[1])

    def learn_blindness(self) -> None:
        """The endpoint has refused pictures."""
        self.listed = replace(self.listed, sees=False)

    def learn_window(self, n_ctx: int) -> None:
        """The endpoint has told its context window, in an error for example."""
        self.n_ctx = n_ctx

    def is_new(self, sentence: str) -> bool:
        """Whether this has not been told yet: what an endpoint does at every answer is told once."""
        is_new = sentence not in self._told
        self._told.add(sentence)
        return is_new


def _bytes(prompt: Prompt) -> int:
    return sum(len(part.text.encode()) for part in prompt.parts)


def _tokens_besides(prompt: Prompt) -> int:
    """About how many tokens are not of the text: around each message, and for images."""
    images = [part.image for part in prompt.parts if part.image is not None]
    return _TOKENS_PER_TURN * len(prompt.turns) + sum(
        math.ceil(image.width * image.height / _PIXELS_PER_TOKEN) for image in images
    )
