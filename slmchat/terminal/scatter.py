"""A plot of points in text: letters on a grid with two axes, readable without colour.

Knows: rows and columns of characters, round numbers at an axis. Refuses to know: what the numbers mean, streams.
"""

from collections.abc import Sequence

from slmchat.lazy_dataclasses import dataclass

# Columns left of the plot: `100 |`.
_LABEL = 4
_LEAST_WIDTH = 20


@dataclass(frozen=True, slots=True)
class PlotPoint:
    """A mark of one character, and where it stands."""

    mark: str
    x: float
    y: float


def scatter(points: Sequence[PlotPoint], width: int, height: int, *, x_label: str, y_label: str) -> list[str]:
    """The lines of a plot of at most `width` columns and `height` rows of points. x and y begin at 0.

    A point that falls on another one stands beside it. No points, or no room: no lines.
    """
    columns = width - _LABEL - 2
    if not points or columns < _LEAST_WIDTH or height < 2:
        return []
    top_x, top_y = _above(max(point.x for point in points)), _above(max(point.y for point in points))
    grid = [[" "] * columns for _ in range(height)]
    for point in sorted(points, key=lambda point: (point.x, point.y)):
        row = height - 1 - round((height - 1) * point.y / top_y)
        column = round((columns - 1) * point.x / top_x)
        free = [place for place in range(columns) if grid[row][place] == " "]
        grid[row][min(free, key=lambda place: abs(place - column)) if free else column] = point.mark
    marks = {0: f"{top_y:g}", height - 1: "0"}
    lines = [y_label]
    lines += [f"{marks.get(number, ''):>{_LABEL}} |{''.join(row).rstrip()}" for number, row in enumerate(grid)]
    lines.append(" " * _LABEL + " +" + "-" * columns)
    end = f"{top_x:g}"
    middle = x_label if len(x_label) <= columns - len(end) - 4 else ""
    lines.append(f"{'0':>{_LABEL + 3}}{middle:^{columns - 1 - len(end)}}{end}")
    return lines


def _above(value: float) -> float:
    """The next round number: 1, 2 or 5 times a power of ten; the end of an axis."""
    if value <= 0:
        return 1.0
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value:
        power /= 10
    return next(power * step for step in (1, 1.5, 2, 3, 5, 7.5, 10) if power * step >= value)
