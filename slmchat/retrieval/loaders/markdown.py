"""Markdown: its headings divide it, its text stays as it is written.

Knows: ATX and setext headings, fenced code, front matter (CommonMark 0.31). Refuses to know: inline marks, tables.
"""

import re
from collections.abc import Iterator

from slmchat.retrieval.documents import Section
from slmchat.retrieval.loaders.sections import HeadingPath

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_SETEXT = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_TITLE = re.compile(r"title:\s*[\"']?(.*?)[\"']?\s*$")


def sections(text: str) -> Iterator[Section]:
    """The sections of a Markdown file, each beginning with its heading."""
    lines = text.split("\n")
    path = HeadingPath()
    begin = 0
    for line, level, title in headings(lines):
        if line > begin:
            yield Section("\n".join(lines[begin:line]), begin + 1, heading=path.above)
        path.enter(level, title)
        begin = line
    yield Section("\n".join(lines[begin:]), begin + 1, heading=path.above)


def title(text: str) -> str | None:
    """The title of the front matter, else the first heading."""
    lines = text.split("\n", 2_000)
    for line in lines[1 : _front_matter(lines)]:
        if found := _TITLE.match(line):
            return found[1]
    return next((title for _, _, title in headings(lines)), None)


def headings(lines: list[str]) -> Iterator[tuple[int, int, str]]:
    """Line (from 0), level and text of each heading."""
    fence = ""
    for number in range(_front_matter(lines), len(lines)):
        line = lines[number]
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
        elif mark:
            fence = mark[1]
        elif found := _ATX.match(line):
            if found[2]:
                yield number, len(found[1]), found[2]
        elif number and (found := _SETEXT.match(line)) and _is_paragraph(lines, number - 1):
            yield number - 1, 1 if found[1][0] == "=" else 2, lines[number - 1].strip()


def _front_matter(lines: list[str]) -> int:
    """The number of lines of YAML at the beginning, with both marks."""
    if lines[0].rstrip() != "---":
        return 0
    return next((number + 1 for number, line in enumerate(lines) if number and line.rstrip() == "---"), 0)


def _is_paragraph(lines: list[str], number: int) -> bool:
    """Whether a line is the only one of a paragraph, and thus of a heading, when it is underlined."""
    line = lines[number].strip()
    is_first = number == 0 or not lines[number - 1].strip()
    return bool(line) and is_first and line[0] not in "|>-+*#"
