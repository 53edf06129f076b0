"""Bars of text for small charts.

Knows: eighths of a block character, and what to draw where a terminal has none.
Refuses to know: what the numbers mean, colours, tables.
"""

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(value: float, top: float, width: int, *, is_plain: bool) -> str:
    """A bar of at most `width` characters whose length is to `width` as `value` is to `top`.

    Something above zero never vanishes. `is_plain`: `#` instead of block characters.
    """
    if value <= 0 or top <= 0:
        return ""
    eighths = min(8 * width, max(1, round(8 * width * value / top)))
    if is_plain:
        return "#" * max(1, round(eighths / 8))
    whole, rest = divmod(eighths, 8)
    return _EIGHTHS[8] * whole + (_EIGHTHS[rest] if rest else "")
