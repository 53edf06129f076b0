"""What `PATH=SCALE` means, on the command line, in the chat and in `models.toml`.

Knows: how a scale is told from a name that holds `=`. Refuses to know: files, and where adapters come from.
"""

from slmchat.errors import usage_error

MAX_SCALE = 100.0
"""A larger scale is a slip of the hand; adapters are trained to count once."""


def parse(text: str) -> tuple[str, float]:
    """`TARGET` or `TARGET=SCALE` as (target, scale), scale 1 where none is given. A target may hold `=` where no number
    follows. Raises `SlmError` (USAGE)."""
    target, equals, scale = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        value = float(scale)
    except ValueError:
        return text, 1.0
    if not target or not -MAX_SCALE <= value <= MAX_SCALE:
        raise usage_error(
            f"an adapter cannot be '{text}'.", f"PATH or PATH=SCALE with a scale from -{MAX_SCALE:g} to {MAX_SCALE:g}"
        )
    return target, value


def labelled(name: str, scale: float) -> str:
    """An adapter for people, as it could be typed: the name alone where it counts as it was trained."""
    return name if scale == 1 else f"{name}={scale:g}"
