"""How much an answer may be, in tokens, in text and in time: slm holds to it where an endpoint does not.

Knows: what was asked for (`-n`), what has come so far, how long the next part may take.
Refuses to know: sockets, events, what is done with an answer that is over.

A server counts tokens, slm sees pieces: an event brings at least one token (a token that ends in the middle of a
character waits for the next), so as many pieces as tokens were asked for are the whole answer. A server that puts
many tokens into an event is held by the size of the text.
"""

from slmchat.engine.remote.events import TooLarge
from slmchat.lazy_dataclasses import dataclass

# Characters of one token on average at most (white space in code comes close), and of a single long one.
_CHARACTERS_PER_TOKEN = 16
_CHARACTERS_OF_A_TOKEN = 256
# An answer without -n: more pieces, or characters, than any model says in one go (hosted ones stop at 128,000 tokens).
MOST_PIECES = 1 << 17
MOST_CHARACTERS = 8 << 20
# An answer that has begun must bring a piece in each tenth of the endpoint's time limit, on average.
_PARTS_OF_THE_TIMEOUT = 10
# Seconds for what may follow the last word: the counts, and [DONE].
_AFTER_THE_END_S = 2.0


@dataclass(slots=True)
class Bounds:
    """The bounds of one answer. `max_tokens` None: nobody said how many. `timeout_s`: the endpoint's own limit."""

    max_tokens: int | None
    timeout_s: float
    pieces: int = 0
    characters: int = 0
    waited_before: float | None = None  # `waited_s` when the first piece came
    is_cut: bool = False  # more came than was asked for, and was left out

    @property
    def is_full(self) -> bool:
        """Whether all tokens that were asked for have come."""
        return self.max_tokens is not None and self.pieces >= self.max_tokens

    def admit(self, text: str, n_counted: int | None) -> str:
        """What of this next piece still belongs to the answer; the rest is left out, and `is_cut`.

        `n_counted`: tokens of the whole answer so far, where the endpoint tells them with the piece.
        Raises `TooLarge` when nobody said how many, and there is no end.
        """
        if self.max_tokens is None:
            if self.pieces >= MOST_PIECES or self.characters + len(text) > MOST_CHARACTERS:
                raise TooLarge("it has no end")
            admitted = text
        else:
            admitted = text[: self._room(len(text), n_counted, self.max_tokens)]
        self.characters += len(admitted)
        self.is_cut = len(admitted) < len(text) or (self.is_full and not text)
        self.pieces += bool(admitted) or (not text and not self.is_cut)  # a part of a tool's call has no text
        return admitted

    def _room(self, size: int, n_counted: int | None, most: int) -> int:
        """Characters that the next piece may have, of the `size` that it has."""
        room = most * _CHARACTERS_PER_TOKEN + _CHARACTERS_OF_A_TOKEN - self.characters
        if self.pieces >= most and (n_counted is None or n_counted > most):
            return 0
        if self.pieces == 0 and n_counted is not None and n_counted > most:  # an answer in one piece
            return min(room, size * most // n_counted)
        return max(0, room)

    def patience(self, waited_s: float) -> tuple[str, float]:
        """What the wire waits for after a piece that has just come (`TimedOut.phase`), and for how many seconds.

        `waited_s`: how long it has waited so far. The time that the reader of the answer takes is not the endpoint's.
        """
        if self.waited_before is None:
            self.waited_before = waited_s
        in_all = self.timeout_s * (1 + self.pieces / _PARTS_OF_THE_TIMEOUT) - (waited_s - self.waited_before)
        return ("drip", max(0.0, in_all)) if in_all < self.timeout_s else ("rest", self.timeout_s)

    @property
    def patience_at_the_end(self) -> float:
        """Seconds for what may follow the last piece."""
        return min(_AFTER_THE_END_S, self.timeout_s)
