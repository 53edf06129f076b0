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

# The step in which context windows are made, in tokens: llama.cpp rounds up to it.
_STEP = 256


def least_room(max_tokens: int | None) -> int:
    """Tokens that a completion of at most `max_tokens` (None: no limit) must have to be worth starting."""
    return MIN_COMPLETION_TOKENS if max_tokens is None else min(max_tokens, MIN_COMPLETION_TOKENS)


def fits(n_prompt: int, n_ctx: int, max_tokens: int | None = None) -> bool:
    """Whether a prompt of this many tokens leaves room for a completion; a window of 0 is not known, and holds all."""
    return not n_ctx or n_prompt + least_room(max_tokens) <= n_ctx


def size_for(n_tokens: int, most: int) -> int:
    """A context window that holds so many tokens: a whole number of steps, but not more than `most`."""
    return min(most, -(-n_tokens // _STEP) * _STEP)


def overflow(what: str, n_prompt: int, n_ctx: int, max_tokens: int | None = None, *, about: str = "") -> str:
    """Why a prompt does not fit, without a full stop: its tokens, and those for an answer where they decide it.

    `what`: the subject, with its verb ("the prompt is"). `about`: "about " before a number that is a guess.
    """
    if n_prompt >= n_ctx:
        return f"{what} {about}{n_prompt:,} tokens and the context window holds {n_ctx:,}"
    return (
        f"{what} {about}{n_prompt:,} tokens; with {least_room(max_tokens)} for an answer it does not fit the context "
        f"window of {n_ctx:,}"
    )


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
    if not ends:
        return 0

    def is_small(n_exchanges: int) -> bool:
        return count(kept + rest[ends[-n_exchanges] :]) <= n_ctx * TRIMMED_SHARE

    # from the end, as nobody wants to count thousands of messages of which a few stay
    most, step = 1, 1
    while most + step <= len(ends) and is_small(most + step):
        most, step = most + step, 2 * step
    while step:
        if most + step <= len(ends) and is_small(most + step):
            most += step
        step //= 2
    return ends[-most]
