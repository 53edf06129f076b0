"""Choosing tokens that copy what they write out of given passages.

Few tokens may follow at most places, so that nothing looks at the whole vocabulary: their logits are gathered, and the
choice is among them. A repeat penalty does not count. What is copied repeats what was read.

Knows: llama.cpp's samplers and logits. Refuses to know: what a quotation is (quotations.py).
"""

import ctypes
from types import ModuleType
from typing import Any

from slmchat.engine.logits import LogitsCheck
from slmchat.engine.quotations import END, QuotationRules, Quoting
from slmchat.engine.requests import Constraint
from slmchat.engine.sampler import SamplerSettings, choosers
from slmchat.engine.vocabulary import Vocabulary
from slmchat.errors import ExitCode, SlmError


class QuotationSampler:
    """Picks the tokens of a generation that quotes. Implements `TokenSampler`."""

    def __init__(
        self, api: ModuleType, vocabulary: Vocabulary, settings: SamplerSettings, constraint: Constraint
    ) -> None:
        self._api = api
        self._quoting = Quoting(QuotationRules.of(constraint), vocabulary.pieces)
        self._ends = vocabulary.turn_ends
        self._check = LogitsCheck(api, vocabulary.n_tokens)
        self._is_greedy = settings.temperature <= 0
        self._chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        for sampler in choosers(api, settings):
            api.llama_sampler_chain_add(self._chain, sampler)

    def pick(self, context: Any, index: int = -1) -> int:
        """The next token, from the logits of the batch's token `index` (-1: the last one).

        Raises `SlmError`: UNSATISFIED when this vocabulary cannot go on, DAMAGED when the logits are no numbers.
        """
        self._check.before(context, index)
        options = self._quoting.options
        allowed = [token for token in options if token != END]
        if END in options:
            allowed += self._ends
        if not allowed:
            raise SlmError(
                "this model has no token with which a quotation could go on.",
                hint="another model quotes: slm list",
                exit_code=ExitCode.UNSATISFIED,
            )
        token = allowed[0] if len(allowed) == 1 else self._chosen(context, index, allowed)
        self._check.picked(context, index, token)
        if token not in self._ends:
            self._quoting.accept(token)
        return token

    def close(self) -> None:
        """Free the chain."""
        self._api.llama_sampler_free(self._chain)

    def _chosen(self, context: Any, index: int, allowed: list[int]) -> int:
        # float * llama_get_logits_ith(struct llama_context * ctx, int32_t i);
        logits = self._api.llama_get_logits_ith(context, index)
        if self._is_greedy:
            return max(allowed, key=logits.__getitem__)
        # typedef struct llama_token_data { llama_token id; float logit; float p; } llama_token_data;
        data = (self._api.llama_token_data * len(allowed))(*((token, logits[token], 0.0) for token in allowed))
        array = self._api.llama_token_data_array(data=data, size=len(allowed), selected=-1, sorted=False)
        self._api.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)
