"""What a model expects at every place of a text (`LlamaTextLogits`): all logits, not only those of a choice.

Two models that read the same tokens are compared by what they expect at each of them (evaluation/agreement.py). All
logits of a text are far too many to keep (a gigabyte for 1,000 places in a vocabulary of 262,144), so they come in
pieces of a few dozen places, and each piece is gone when the next one is read.

Knows: evaluating tokens from an empty cache, rows of logits. Refuses to know: what is compared with what.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from slmchat.engine.context import window_full
from slmchat.engine.loaded import LoadedModel
from slmchat.engine.probabilities import LogProbabilities
from slmchat.engine.requests import Part, Prompt, SessionSettings
from slmchat.engine.sequences import Sequences, TokenSpan

# Bytes of the logits of one piece: llama.cpp holds them all until the next one.
_PIECE_BYTES = 32 << 20
_LEAST_PIECE = 8
_FLOAT_BYTES = 4


class LlamaTextLogits:
    """One context for reading texts. Implements `TextLogits`."""

    def __init__(self, loaded: LoadedModel, settings: SessionSettings) -> None:
        """Raises `SlmError`: NO_FIT for the memory of the KV cache, DAMAGED for an adapter of another model."""
        self._vocabulary = loaded.vocabulary
        self._probabilities = LogProbabilities(loaded.api, loaded.vocabulary.n_tokens)
        self._n_ctx = settings.n_ctx
        self._is_cancelled = False
        piece = max(
            _LEAST_PIECE, min(settings.batch_tokens, _PIECE_BYTES // (_FLOAT_BYTES * loaded.vocabulary.n_tokens))
        )
        self._sequences = Sequences(
            loaded,
            replace(settings, batch_tokens=piece),
            n_sequences=1,
            n_cells=settings.n_ctx,
            is_cancelled=lambda: self._is_cancelled,
            abortable_from=1,
        )

    def tokens(self, text: str) -> list[int]:
        """The tokens of a plain text, with the mark of its beginning where the model wants one."""
        return self._vocabulary.tokenize(Prompt((Part(text),)))

    def read(self, tokens: Sequence[int]) -> Iterator[Any]:
        """Arrays of float32, together a row of logits for each token, in order; each is gone when the next one comes.

        Ends early when it is cancelled. Raises `SlmError`: CONTEXT for more tokens than the window has, BUG.
        """
        self._is_cancelled = False
        self._sequences.forget_all()
        step = self._sequences.batch_tokens
        for begin in range(0, len(tokens), step):
            piece = tokens[begin : begin + step]
            span = TokenSpan(0, begin, piece, needs_all_logits=True)
            if self._sequences.evaluate([span]) is None:
                raise window_full(self._n_ctx)
            if self._is_cancelled:
                return
            yield self._probabilities.rows(self._sequences.handle, len(piece))

    def cancel(self) -> None:
        """End `read` soon; from any thread or a signal handler."""
        self._is_cancelled = True

    def close(self) -> None:
        """Free the KV cache."""
        self._sequences.close()
