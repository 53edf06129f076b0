"""Filling in code between two ends: the prompt of a gap, and what of it fits around the cursor.

Knows: in which order prefix, suffix and other files stand between the model's infill tokens, and what to leave out.
Refuses to know: where the texts were read from, how long they are in tokens (a counting function is passed in).

The layout is that of llama.cpp's server (`format_prompt_infill`), with two differences: the real names of project and
file stand where it writes "myproject" and "filename", and the other files come behind the beginning-of-sequence token.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from slmchat.engine.api import InfillTokens
from slmchat.engine.requests import Part, Prompt
from slmchat.lazy_dataclasses import dataclass
from slmchat.wording import counted

# What stands before another file for a model without a token for that (llama.cpp, tools/server/server-common.cpp).
_SNIPPET = "\n\n--- snippet ---\n\n"

# How a window too small for both is shared: 3 parts prefix, 1 part suffix, as llama.cpp's server does it.
_SUFFIX_SHARE = 4

# Text beyond this many characters a token is cut off before anything is counted: code has 2 to 5.
_MOST_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class SourceFile:
    """Another file that the model may look at."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Code around a cursor. `name`: the file's path inside `project`; both empty when there is only text."""

    prefix: str
    suffix: str
    name: str = ""
    project: str = ""
    others: tuple[SourceFile, ...] = ()


def lay_out(gap: Gap, tokens: InfillTokens) -> Prompt:
    """The prompt of a gap. What files and texts say is plain text; the control tokens are given by their ids."""
    prefix = (_control(tokens.prefix), Part(gap.prefix))
    suffix = (_control(tokens.suffix), Part(gap.suffix))
    ends = (*suffix, *prefix) if tokens.is_suffix_first else (*prefix, *suffix)
    return Prompt(tuple(part for part in (*_before(gap, tokens), *ends, _control(tokens.middle)) if part != Part("")))


def _before(gap: Gap, tokens: InfillTokens) -> list[Part]:
    """Other files, and where this one is."""
    if tokens.separator is None:
        return [Part("".join(_SNIPPET + other.text for other in gap.others))]
    if tokens.repository is None:
        return [part for other in gap.others for part in (Part(other.text), _control(tokens.separator))]
    heads = [f"{other.name}\n{other.text}" for other in gap.others] + ([f"{gap.name}\n"] if gap.name else [])
    if not heads:
        return []
    project = [_control(tokens.repository), Part(f"{gap.project}\n")]
    return [*project, *(part for head in heads for part in (_control(tokens.separator), Part(head)))]


def _control(token: int) -> Part:
    return Part("", tokens=(token,))


def fit(gap: Gap, count: Callable[[Gap], int], most: int) -> Gap | None:
    """The gap without what is farthest from the cursor, so that it is at most `most` tokens; None if nothing helps.

    Of the ends whole lines stay, unless not even the cursor's own fits, and more of the prefix than of the suffix.
    Other files may take half of the room from them; one that does not fit is left out whole.
    """
    bare = replace(gap, prefix="", suffix="", others=())
    empty = count(bare)
    limit = max(0, most - empty) * _MOST_CHARACTERS
    others = [other for other in gap.others if len(other.text) <= limit]
    needed = count(replace(bare, others=tuple(others))) - empty
    room = max((most - empty) // 2, most - empty - needed)
    if room <= 0:
        return None

    def length(text: str) -> int:
        return count(replace(bare, prefix=text)) - empty

    prefix, suffix = _near(gap, limit)
    wanted = length(prefix)
    suffix = _first(suffix, lambda text: length(text) <= max(room // _SUFFIX_SHARE, room - wanted))
    prefix = _last(prefix, lambda text: length(text) <= room - length(suffix))
    fitted = replace(bare, prefix=prefix, suffix=suffix)
    for other in others:
        more = replace(fitted, others=(*fitted.others, other))
        if count(more) <= most:
            fitted = more
    return fitted


def _near(gap: Gap, limit: int) -> tuple[str, str]:
    """At most so many characters on each side, in whole lines if there is more than one."""
    prefix, suffix = gap.prefix[-limit:], gap.suffix[:limit]
    if len(prefix) < len(gap.prefix):
        prefix = prefix.partition("\n")[2] or prefix
    if len(suffix) < len(gap.suffix):
        suffix = suffix[: suffix.rfind("\n") + 1] or suffix
    return prefix, suffix


def _first(text: str, fits: Callable[[str], bool]) -> str:
    """As many whole lines from the beginning as fit; characters where the first line does not fit."""
    lines = _lines(text)
    kept = _most(len(lines), lambda number: fits("".join(lines[:number])))
    if kept or not lines:
        return "".join(lines[:kept])
    return text[: _most(len(lines[0]), lambda number: fits(text[:number]))]


def _last(text: str, fits: Callable[[str], bool]) -> str:
    """As many whole lines from the end as fit; characters where the last line does not fit."""
    lines = _lines(text)
    kept = _most(len(lines), lambda number: fits("".join(lines[len(lines) - number :])))
    if kept or not lines:
        return "".join(lines[len(lines) - kept :])
    return text[len(text) - _most(len(lines[-1]), lambda number: fits(text[len(text) - number :])) :]


def _lines(text: str) -> list[str]:
    """Lines with their ends. Only a line feed ends one, as in editors (`splitlines` knows ten more)."""
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def _most(number: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `number` that fits, if fewer always fit too."""
    if fits(number):
        return number
    low, high = 0, number
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def left_out(whole: Gap, kept: Gap) -> Sequence[str]:
    """What `fit` has left out, in words; empty when nothing."""
    before = whole.prefix[: len(whole.prefix) - len(kept.prefix)]
    after = whole.suffix[len(kept.suffix) :]
    ends = [f"the {which} {measured(text)}" for which, text in (("first", before), ("last", after)) if text]
    return [*ends, *(other.name for other in whole.others if other not in kept.others)]


def measured(text: str) -> str:
    """How much text that is, in words: lines if there are several."""
    number, noun = (lines, "line") if (lines := len(_lines(text))) > 1 else (len(text), "character")
    return counted(number, noun)
