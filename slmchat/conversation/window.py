"""Fitting a conversation into the context window; never silently.

Knows: which messages may go (the oldest exchanges) and that dropping happens in large steps.
Refuses to know: tokens (a counting function is passed in), how it is told to the user.
"""

from collections.abc import Callable, Sequence

from slmchat.conversation.messages import Message, Role

# When something must go, go down to this share of the window: the cached prefix then survives the next turns.
TRIMMED_SHARE = 0.5

# A completion needs some room to be worth starting, in tokens.
MIN_COMPLETION_TOKENS = 16


def fits(n_prompt: int, n_ctx: int) -> bool:
    """Whether a prompt of this many tokens leaves room for a completion; a window of 0 is not known, and holds all."""
    return not n_ctx or n_prompt + MIN_COMPLETION_TOKENS <= n_ctx


def drop_oldest(messages: Sequence[Message], head: int, count: Callable[[Sequence[Message]], int], n_ctx: int) -> int:
    """How many of the oldest messages behind the first `head` must go so that the rest fits.

    `head` messages (the system message, examples) always stay. Whole exchanges go, so that the conversation still
    begins with a user message; 0 when everything fits already, and all exchanges before the last message when nothing
    less helps.
    """
    if fits(count(messages), n_ctx):
        return 0
    kept, rest = list(messages[:head]), list(messages[head:])
    ends = [place for place in range(1, len(rest)) if rest[place].role is Role.USER]
    for place in ends:
        if count(kept + rest[place:]) <= n_ctx * TRIMMED_SHARE:
            return place
    return ends[-1] if ends else 0
