"""Choosing tokens while a model thinks: freely in the thought, then those that close it, by a constraint behind it.

Knows: when the thought has had enough (thinking.py tells), which tokens close it.
Refuses to know: how free and constrained tokens are chosen (sampler.py, constraint.py).
"""

from collections import deque
from typing import Any, Protocol

from slmchat.engine.constraint import open_sampler
from slmchat.engine.loaded import LoadedModel
from slmchat.engine.requests import Limits, Prompt
from slmchat.engine.sampler import Sampler, SamplerSettings
from slmchat.engine.thinking import ThoughtWatch


class TokenSampler(Protocol):
    """What picks the tokens of one generation."""

    def pick(self, context: Any, index: int = -1) -> int:
        """The next token, from the logits of the batch's token `index` (-1: the last one). Raises `SlmError`."""
        ...

    def close(self) -> None: ...


def watch_for(prompt: Prompt, limits: Limits) -> ThoughtWatch | None:
    """What follows the thought of a completion behind this prompt; None where nothing is taken for one."""
    if not limits.marks:
        return None
    last = prompt.parts[-1]
    tail = last.text if last.is_template else ""
    return ThoughtWatch(limits.marks, tail, limits.thinking.budget, limits.unbroken)


def sampler_for(
    loaded: LoadedModel, settings: SamplerSettings, limits: Limits, watch: ThoughtWatch | None
) -> TokenSampler:
    """What picks the tokens of a generation within these limits.

    Raises `SlmError` (USAGE) when the constraint cannot be used.
    """
    if watch is None or (limits.thinking.budget is None and not (limits.constraint and watch.is_thinking)):
        return _behind(loaded, settings, limits)
    return ThinkingSampler(loaded, settings, limits, watch)


def _behind(loaded: LoadedModel, settings: SamplerSettings, limits: Limits) -> TokenSampler:
    """What picks the tokens behind a thought."""
    shown = loaded.vocabulary.tokens_of(limits.shown) if limits.constraint else frozenset()
    return open_sampler(loaded, settings, limits.constraint, shown)


class ThinkingSampler:
    """Picks the tokens of a generation that may begin with a thought. Implements `TokenSampler`."""

    def __init__(self, loaded: LoadedModel, settings: SamplerSettings, limits: Limits, watch: ThoughtWatch) -> None:
        """Raises `SlmError` (USAGE) when the constraint cannot be used."""
        self._vocabulary = loaded.vocabulary
        self._watch = watch
        self._due: deque[int] = deque()
        self._free = Sampler(loaded.api, loaded.vocabulary.n_tokens, settings)
        self._behind: TokenSampler = self._free
        if limits.constraint is not None:
            try:
                self._behind = _behind(loaded, settings, limits)
            except BaseException:
                self._free.close()
                raise

    def pick(self, context: Any, index: int = -1) -> int:
        """The token that is due to close the thought, else one that is chosen."""
        if self._watch.is_due:
            marks = self._watch.marks
            assert marks is not None
            text = (marks.bridge if self._watch.n_tokens else "") + marks.end
            self._due.extend(self._vocabulary.template_tokens(text))
            self._watch.end()
        if self._due:
            token = self._due.popleft()
            self._free.accept(token)
            if not self._due:
                self._watch.ended()
            return token
        return (self._free if self._watch.is_thinking else self._behind).pick(context, index)

    def close(self) -> None:
        """Free the samplers."""
        self._free.close()
        if self._behind is not self._free:
            self._behind.close()
