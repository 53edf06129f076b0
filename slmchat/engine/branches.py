"""Which prompts of a group begin alike beyond what all of them share (`branches`): several questions about one text.

What such prompts have in common is a branch: it stands in a sequence of its own, behind the shared prefix, and is
evaluated once. Sorted, prompts that begin alike stand side by side, so each branch is a run of neighbours.

Knows: tokens, and which split saves most. Refuses to know: KV caches, what the prompts ask (scoring.py).
"""

from collections.abc import Sequence

from slmchat.engine.shared_prefix import MIN_SHARED, n_common
from slmchat.lazy_dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Branch:
    """The first `n_tokens` tokens are the same for these prompts, named by their places in the group."""

    n_tokens: int
    members: tuple[int, ...]


def branches(prompts: Sequence[list[int]], shared: Sequence[int], most: int) -> list[Branch]:
    """At most `most` branches, those that save the most tokens; no prompt is in two of them.

    `shared`: how many tokens of each prompt need no evaluation anyway. A prompt joins the branch of its neighbours as
    long as the branch saves no less by it, though it may become shorter.
    """
    order = sorted(range(len(prompts)), key=lambda place: tuple(prompts[place]))
    found: list[tuple[int, Branch]] = []
    begin = 0
    while begin < len(order) - 1:
        first = order[begin]
        members, length, saved = [first], len(prompts[first]), 0
        for place in order[begin + 1 :]:
            one, other = prompts[first], prompts[place]
            common = min(length, n_common(one, other), n_common(other, one))
            gain = len(members) * (common - max(shared[first], shared[place]))
            if common < max(shared[first], shared[place]) + MIN_SHARED or gain < saved:
                break
            members.append(place)
            length, saved = common, gain
        if saved:
            found.append((saved, Branch(length, tuple(members))))
        begin += len(members)
    best = sorted(found, key=lambda each: -each[0])[:most]
    return [branch for _, branch in best]
