"""A line through a few points, drawn with characters: one figure against another.

Knows: where a point falls in a field of characters, the line between two points, the numbers at the axes; what to draw
where a terminal has no such characters. Refuses to know: what the numbers mean, colours.
"""

from collections.abc import Sequence
from itertools import pairwise

from slmchat.lazy_dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Marks:
    point: str
    line: str
    upright: str
    tick: str
    corner: str
    level: str


_DRAWN = _Marks("●", "·", "│", "┤", "└", "─")
_PLAIN = _Marks("*", ".", "|", "+", "+", "-")


def plot(points: Sequence[Point], *, width: int, height: int, is_plain: bool) -> list[str]:
    """Lines of at most `width` characters with these points (of rising x, no y below 0), from 0 up.

    `height`: rows of the field without the axis. At the y axis stand the highest value, its half and 0, below it the
    lowest and the highest x, and the middle one where there is room. `is_plain`: ASCII alone.
    """
    marks = _PLAIN if is_plain else _DRAWN
    top = max(y for _, y in points) or 1.0
    names = {0: _number(top), height // 2: _number(top * (1 - (height // 2) / (height - 1))), height - 1: "0"}
    margin = max(map(len, names.values()))
    n_columns = max(2, width - margin - 2)
    field = _field(points, top, n_columns, height, marks)
    lines = [
        f"{names.get(row, ''):>{margin}} {marks.tick if row in names else marks.upright}{''.join(field[row]).rstrip()}"
        for row in range(height)
    ]
    under = " " * (margin + 1)
    return [*lines, f"{under}{marks.corner}{marks.level * n_columns}", f"{under} {_below(points, n_columns)}"]


def _field(points: Sequence[Point], top: float, n_columns: int, height: int, marks: _Marks) -> list[list[str]]:
    left, right = points[0][0], points[-1][0]
    span = right - left or 1.0
    field = [[" "] * n_columns for _ in range(height)]

    def column(x: float) -> int:
        return round((x - left) / span * (n_columns - 1))

    def row(y: float) -> int:
        return round((1 - y / top) * (height - 1))

    for (x, y), (next_x, next_y) in pairwise(points):
        begin, end = column(x), column(next_x)
        for at in range(begin + 1, end):
            field[row(y + (next_y - y) * (at - begin) / (end - begin))][at] = marks.line
    for x, y in points:
        field[row(y)][column(x)] = marks.point
    return field


def _below(points: Sequence[Point], n_columns: int) -> str:
    """The x of the first and the last point, and the middle one where there is room."""
    left, right = points[0][0], points[-1][0]
    first, last, middle = _number(left), _number(right), _number((left + right) / 2)
    if left == right:
        return first
    begin = n_columns // 2 - len(middle) // 2
    if begin < len(first) + 2 or begin + len(middle) + 2 > n_columns - len(last):
        return f"{first}{last:>{max(len(last) + 1, n_columns - len(first))}}"
    text = f"{first}{'':{begin - len(first)}}{middle}"
    return f"{text}{last:>{n_columns - len(text)}}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"
