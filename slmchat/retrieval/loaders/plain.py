"""Text that needs no parser: plain text, source code, tables in CSV, and the text of a page.

Knows: lines that are headings though nothing marks them (`3.1. Duty Cycle`, `§ 4 Anteile`, `CHAPTER II`).
Refuses to know: encodings (text_files.py), where a section is cut (chunks.py).
"""

import re
from collections.abc import Iterator
from itertools import pairwise

from slmchat.retrieval.documents import DocumentKind, Section
from slmchat.retrieval.loaders.sections import HeadingPath

_LONGEST_HEADING = 90
# A number with its parts, a sign or a word that counts parts of a text, in five languages.
_NUMBERED = re.compile(
    r"(?P<number>\d{1,3}(?:\.\d{1,3}){0,4})\.?[ \t]+(?=[^\W\d_])"
    r"|(?:§+|Art(?:icle|ikel|ículo|icolo|\.)?|Section|Abschnitt|Chapter|Kapitel|Chapitre|Capítulo|Part|Teil|Appendix|Anhang)"
    r"\s*[\dIVXLC]+[a-z]?\b"
)
_CAPITALS = re.compile(r"[^\W\d_a-zß][^a-zß]{2,}")


def text_sections(
    text: str, kind: DocumentKind, page: int | None = None, path: HeadingPath | None = None
) -> Iterator[Section]:
    """The sections of a text, each beginning with its heading where it has one. `kind`: TEXT, CODE, CSV, or PDF, whose
    pages have no blank lines around headings. `path`: the headings of the pages before, which go on."""
    if kind is DocumentKind.CSV:
        yield Section(text, heading=(_first_row(text),))
        return
    if kind is DocumentKind.CODE:
        yield Section(text)
        return
    lines = text.split("\n")
    starts = [0, *(number for number in range(len(lines)) if _is_heading(lines, number, kind)), len(lines)]
    path = path or HeadingPath()
    for begin, end in pairwise(starts):
        if begin == end:
            continue
        if begin or _is_heading(lines, 0, kind):
            title = lines[begin].strip()
            path.enter(_level(title), title)
        yield Section("\n".join(lines[begin:end]), begin + 1, page, path.above)


def _first_row(text: str) -> str:
    return text.lstrip("\n").partition("\n")[0].strip()


def _is_heading(lines: list[str], number: int, kind: DocumentKind) -> bool:
    line = lines[number].rstrip()
    if not line or line[0].isspace() or len(line) > _LONGEST_HEADING or line[-1] in ".,;:!?":
        return False
    if kind is DocumentKind.PDF:
        return bool(_NUMBERED.match(line)) and len(line) <= _LONGEST_HEADING // 2
    stands_alone = _is_blank(lines, number - 1) and _is_blank(lines, number + 1)
    return stands_alone and bool(_NUMBERED.match(line) or _CAPITALS.fullmatch(line))


def _is_blank(lines: list[str], number: int) -> bool:
    return not 0 <= number < len(lines) or not lines[number].strip()


def _level(title: str) -> int:
    """1 for a title without a number; one more for each part of the number."""
    found = _NUMBERED.match(title)
    if found is None:
        return 1
    return 2 + (found["number"] or "").count(".")
