"""Whether a model computes numbers: damaged weights, and builds that compute wrongly, give NaN or infinity.

Knows: the logits that a token was picked from. Refuses to know: how it was picked. llama.cpp samples from anything, and
a model without numbers then answers with token 0 for ever.
"""

import ctypes
import math
from array import array
from types import ModuleType
from typing import Any

from slmchat.engine.shortlist import numpy_in_use
from slmchat.errors import ExitCode, SlmError


class LogitsCheck:
    """The check of one completion: every logit behind the prompt, then only those of the tokens that are picked."""

    def __init__(self, api: ModuleType, n_tokens: int) -> None:
        """`n_tokens`: size of the vocabulary."""
        self._api = api
        self._n_tokens = n_tokens
        self._is_first = True

    def before(self, context: Any, index: int) -> None:
        """A token is about to be picked from the logits at `index` of the last batch (-1: its last one).

        The first call takes below 1 ms for 49,000 tokens and 4 ms for 262,000 (0.2 ms with NumPy), later ones nothing.
        Raises `SlmError` (DAMAGED).
        """
        if not self._is_first:
            return
        self._is_first = False
        data = ctypes.string_at(self._row(context, index), ctypes.sizeof(ctypes.c_float) * self._n_tokens)
        # Finite ones never add up to infinity in double precision; NaN is not below it. Negative infinity is a number
        # here: a model may forbid tokens so.
        numpy = numpy_in_use()  # not imported for this: it takes 0.1 s
        total = sum(array("f", data)) if numpy is None else numpy.frombuffer(data, "f").sum(dtype="d")
        if not total < math.inf:
            raise _no_numbers()

    def picked(self, context: Any, index: int, token: int) -> None:
        """`token` was picked from these logits. Raises `SlmError` (DAMAGED)."""
        if not math.isfinite(self._row(context, index)[token]):
            raise _no_numbers()

    def _row(self, context: Any, index: int) -> Any:
        # float * llama_get_logits_ith(struct llama_context * ctx, int32_t i);
        return self._api.llama_get_logits_ith(context, index)


def _no_numbers() -> SlmError:
    return SlmError(
        "the model computes no numbers (NaN or infinite): its weights are damaged, or this build of llama.cpp computes "
        "wrongly.",
        hint="slm verify checks the weights; slm doctor MODEL tells about the build",
        exit_code=ExitCode.DAMAGED,
    )
