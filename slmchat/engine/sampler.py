"""Sampler settings (the only defaults) and the llama.cpp sampler chain made from them.

Knows: temperature, top-k, top-p, min-p, repeat penalty, seed, and the order in which llama.cpp applies them.
Refuses to know: where the settings come from.
"""

import ctypes
from collections.abc import Mapping
from dataclasses import fields, replace
from types import ModuleType
from typing import Any

from slmchat.engine.logits import LogitsCheck
from slmchat.engine.shortlist import Shortlist
from slmchat.lazy_dataclasses import dataclass
from slmchat.ranges import SEED

# llama.cpp looks back over this many tokens for the repeat penalty (common/common.h: penalty_last_n).
PENALTY_LAST_N = 64

# More of them are no short list.
_MOST_TOP_K = 128


@dataclass(frozen=True, slots=True)
class SamplerSettings:
    """How the next token is chosen. The defaults are llama.cpp's own (common/common.h, common_params_sampling).

    `temperature` 0 is greedy: the most probable token, always; top-k, top-p and min-p then change nothing.
    `top_k` 0, `top_p` 1, `min_p` 0 and `repeat_penalty` 1 switch the respective sampler off.
    `seed` None: a new one for each generation (reported in `Finish`).
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int | None = None

    def with_values(self, values: Mapping[str, float | int | None]) -> "SamplerSettings":
        """These settings with the given ones laid over; None means: not given. Unknown keys raise TypeError."""
        given = {key: value for key, value in values.items() if value is not None}
        types = {field.name: int if field.name in ("top_k", "seed") else float for field in fields(self)}
        return replace(self, **{key: types[key](value) if key in types else value for key, value in given.items()})  # type: ignore[arg-type]

    def with_seed(self) -> "SamplerSettings":
        """The same settings with a definite seed."""
        if self.seed is not None:
            return self
        import secrets  # 3 ms, with random and hmac

        return replace(self, seed=secrets.randbelow(int(SEED.high)))


class Sampler:
    """A llama.cpp sampler chain at work: it picks one token after another and remembers them."""

    def __init__(self, api: ModuleType, n_vocab: int, settings: SamplerSettings) -> None:
        self._api = api
        self._chain = _chain(api, n_vocab, settings)
        # penalties change any logit, and without top-k any token may come
        self._may_be_short = settings.repeat_penalty == 1.0 and (
            settings.temperature <= 0 or 0 < settings.top_k <= _MOST_TOP_K
        )
        self._n_vocab = n_vocab
        self._shortlist: Shortlist | None = None
        self._top_k = 0 if settings.temperature <= 0 else settings.top_k
        self._check = LogitsCheck(api, n_vocab)

    def pick(self, context: Any, index: int = -1) -> int:
        """The next token, from the logits of the batch's token `index` (-1: the last one).

        Raises `SlmError` (DAMAGED) when these are no numbers.
        """
        self._check.before(context, index)
        token = self._chosen_of_few(context, index)
        if token is None:
            token = int(self._api.llama_sampler_sample(self._chain, context, index))
        self._check.picked(context, index, token)
        return token

    def _chosen_of_few(self, context: Any, index: int) -> int | None:
        """The token that the chain chooses, where it need not look at all of them; else None."""
        if self._shortlist is None and self._may_be_short:
            self._shortlist = Shortlist.made(self._api, self._n_vocab)
        if self._shortlist is None:
            return None
        if not self._top_k:
            return self._shortlist.best(context, index)
        array = self._shortlist.candidates(context, index, self._top_k)
        if array is None:
            return None
        self._api.llama_sampler_apply(self._chain, ctypes.byref(array))
        token = int(array.data[array.selected].id)
        self._api.llama_sampler_accept(self._chain, token)
        return token

    def accept(self, token: int) -> None:
        """Remember a token that was not picked here: it counts for the penalties."""
        self._api.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        """Free the chain."""
        self._api.llama_sampler_free(self._chain)


def _chain(api: ModuleType, n_vocab: int, settings: SamplerSettings) -> Any:
    """The chain, in the order of llama.cpp's own tools: penalties, top-k, top-p, min-p, temperature, draw."""
    chain = penalties(api, n_vocab, settings)
    for sampler in choosers(api, settings):
        api.llama_sampler_chain_add(chain, sampler)
    return chain


def penalties(api: ModuleType, n_vocab: int, settings: SamplerSettings) -> Any:
    """A chain with what changes the logits before anything is chosen; the caller frees it."""
    chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
    if settings.repeat_penalty != 1.0:
        penalty = api.llama_sampler_init_penalties(n_vocab, PENALTY_LAST_N, settings.repeat_penalty, 0.0, 0.0)
        api.llama_sampler_chain_add(chain, penalty)
    return chain


def choosers(api: ModuleType, settings: SamplerSettings) -> list[Any]:
    """The samplers that narrow the candidates down to one, in order; who adds them to a chain hands them over."""
    if settings.temperature <= 0:
        return [api.llama_sampler_init_greedy()]
    made = []
    if settings.top_k > 0:
        made.append(api.llama_sampler_init_top_k(settings.top_k))
    if settings.top_p < 1.0:
        made.append(api.llama_sampler_init_top_p(settings.top_p, 1))
    if settings.min_p > 0.0:
        made.append(api.llama_sampler_init_min_p(settings.min_p, 1))
    return [*made, api.llama_sampler_init_temp(settings.temperature), api.llama_sampler_init_dist(settings.seed)]
