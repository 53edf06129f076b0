"""A curve of characters: at every width the points are where they belong, and the axes say so."""

import re

import pytest

from slmchat.terminal.plot import plot

POINTS = [(0.0, 80.0), (1000.0, 60.0), (2000.0, 40.0), (4000.0, 20.0)]


@pytest.mark.parametrize("width", [80, 60, 40, 20])
@pytest.mark.parametrize("is_plain", [True, False])
def test_it_fits_and_a_point_is_as_high_as_its_number(width: int, is_plain: bool) -> None:
    lines = plot(POINTS, width=width, height=9, is_plain=is_plain)
    assert len(lines) == 11
    assert max(map(len, lines)) <= width
    mark = "*" if is_plain else "●"
    found = sorted(
        (match.start(), row) for row, line in enumerate(lines) for match in re.finditer(re.escape(mark), line)
    )
    assert [row for _, row in found] == [0, 2, 4, 6]  # a row is 10 tokens a second
    columns = [column for column, _ in found]
    assert columns[1] - columns[0] == pytest.approx((columns[3] - columns[0]) / 4, abs=1)
    assert [lines[row].split()[0] for row in (0, 4)] == ["80", "40"]
    assert lines[-1].split()[0] == "0" and lines[-1].split()[-1] == "4,000"
    if is_plain:
        assert all(line.isascii() for line in lines)


def test_one_point_and_points_of_one_height() -> None:
    assert any("*" in line for line in plot([(5.0, 3.0)], width=30, height=5, is_plain=True))
    level = plot([(0.0, 7.0), (10.0, 7.0)], width=30, height=5, is_plain=True)
    assert level[0].count("*") == 2 and "..." in level[0]
