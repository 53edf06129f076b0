"""When a completion goes round in circles: the same few words over and over, as small models do now and then.

Nothing ends such a completion but a limit, and where nobody has set one it fills the whole window, for minutes. So it
is ended when its last `STRETCH` tokens are one short piece, again and again.

Knows: what counts as going round. Refuses to know: where a completion may do that (generation_state.py).
"""

from collections.abc import Sequence

# So many tokens have to repeat: a poem, a table or "write it fifty times" has its end before that.
STRETCH = 512
# The longest piece that counts, in tokens: a paragraph. It has come four times then, a line of code some fifty times.
LONGEST_PIECE = 128
# It is looked for after so many tokens each, which makes it cost nothing.
EVERY = 32


def repeats_itself(tokens: Sequence[int]) -> bool:
    """Whether the last `STRETCH` tokens are one piece of at most `LONGEST_PIECE` tokens over and over, to the token."""
    if len(tokens) < STRETCH:
        return False
    tail = tokens[-STRETCH:]
    return any(tail[-1] == tail[-1 - n] and tail[n:] == tail[:-n] for n in range(1, LONGEST_PIECE + 1))
