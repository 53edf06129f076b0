"""How many tokens a long text has at least, without tokenizing it: 100 MB take a minute, and fit no context window.

No token writes more letters and digits than the longest of the vocabulary does, so the letters and digits of a text,
divided by them, are a number below which its tokens cannot be. English text has 10 to 30 times as many; what is told is
"at least". Spaces, line ends and punctuation do not count: vocabularies have long runs of them as one token.

Knows: the pieces of one vocabulary. Refuses to know: prompts, context windows.
"""

import functools
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

# Bytes that count for nothing: ASCII that is neither a letter nor a digit.
_UNCOUNTED = bytes(byte for byte in range(128) if not chr(byte).isalnum())

# How SentencePiece writes a space; a text that has the character itself may lose it to a token of many spaces.
_SPACE_MARK = "\u2581".encode()


class LeastTokens:
    """The bound for the texts of one vocabulary."""

    def __init__(self, api: ModuleType, vocabulary: Any, n_tokens: int, piece: Callable[[int], bytes]) -> None:
        """`piece`: the bytes that a token writes, control tokens too."""
        # enum llama_vocab_type llama_vocab_type(const struct llama_vocab * vocab);
        kind = api.llama_vocab_type(vocabulary)
        # the others have a token for any unknown word, however long it is
        self._spells_all = kind in (api.LLAMA_VOCAB_TYPE_SPM, api.LLAMA_VOCAB_TYPE_BPE)
        self._n_tokens = n_tokens
        self._piece = piece

    def of(self, texts: Iterable[str]) -> int:
        """So many tokens these texts of one prompt have, or more; 0: not known."""
        if not self._spells_all:
            return 0
        uncounted, longest = self._measured
        n_counted = sum(_n_counted(text.encode("utf-8", "replace"), uncounted) for text in texts)
        return -(-n_counted // longest)

    @functools.cached_property
    def _measured(self) -> tuple[bytes, int]:
        """The bytes that count for nothing, and the most others that a token has (0.1 s for 49,152 tokens, 0.5 s for
        262,144). llama.cpp leaves a byte out for which a vocabulary has no token, so that it counts for nothing, too.
        """
        pieces = [self._piece(token) for token in range(self._n_tokens)]
        single = {piece for piece in pieces if len(piece) == 1}
        uncounted = _UNCOUNTED + bytes(byte for byte in range(256) if bytes((byte,)) not in single)
        return uncounted, max(1, max((len(piece.translate(None, uncounted)) for piece in pieces), default=1))


def _n_counted(data: bytes, uncounted: bytes) -> int:
    return len(data.replace(_SPACE_MARK, b"").translate(None, uncounted))
