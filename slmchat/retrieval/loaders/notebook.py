"""Notebooks (Jupyter): text and code in the order of the cells, and what a cell has printed where that is short.

The number of a cell is its place: lines of the file are JSON. Headings in text divide it, as in Markdown.

Knows: nbformat 4, and 3 as far as it is the same. Refuses to know: pictures, widgets, languages.
"""

import json
from collections.abc import Iterator
from typing import Any

from slmchat import text_files
from slmchat.retrieval.documents import Section
from slmchat.retrieval.loaders import markdown
from slmchat.retrieval.loaders.bounds import mislabelled
from slmchat.retrieval.loaders.sections import SectionBuilder

# What a cell has printed is read up to here: a table, the value of an expression. The rest are logs.
_MOST_LINES, _MOST_CHARACTERS, _MOST_VALUES = 20, 1_500, 5


def read(data: bytes) -> tuple[str | None, list[Section]]:
    """The title of a notebook and its sections; lines are cells. Raises `Unreadable`, and `NotText`."""
    try:
        notebook = json.loads(text_files.decode(data))
    except text_files.NotText:
        raise
    except ValueError as error:
        raise mislabelled(".ipynb") from error
    builder = SectionBuilder()
    for number, cell in enumerate(_cells(notebook), 1):
        text = text_files.with_line_feeds(_joined(cell.get("source", cell.get("input"))))
        if cell.get("cell_type") == "markdown":
            _put_text(builder, text, number)
        else:
            for each in (text, *_outputs(cell)):
                if each.strip():
                    builder.unit(each.strip("\n").rstrip(), number)
    metadata = notebook.get("metadata")
    title = metadata.get("title") if isinstance(metadata, dict) else None
    return title if isinstance(title, str) and title.strip() else None, list(builder.sections())


def _cells(notebook: Any) -> Iterator[dict[str, Any]]:
    """Raises `Unreadable`."""
    if not isinstance(notebook, dict):
        raise mislabelled(".ipynb")
    sheets = notebook.get("worksheets")
    holders = [notebook, *(sheets if isinstance(sheets, list) else ())]
    lists = [each["cells"] for each in holders if isinstance(each, dict) and isinstance(each.get("cells"), list)]
    if not lists:
        raise mislabelled(".ipynb")
    yield from (cell for cells in lists for cell in cells if isinstance(cell, dict))


def _put_text(builder: SectionBuilder, text: str, number: int) -> None:
    lines = text.split("\n")
    begin = 0
    for line, level, title in (*markdown.headings(lines), (len(lines), 0, "")):
        if block := "\n".join(lines[begin:line]).strip("\n").rstrip():
            builder.unit(block, number)
        if level:
            builder.enter(level, title)
        begin = line


def _outputs(cell: dict[str, Any]) -> Iterator[str]:
    """What a cell has printed, in one piece, and its values, as text; of an error its name, not where it came from."""
    outputs = cell.get("outputs")
    printed, values = "", []
    for output in outputs if isinstance(outputs, list) else ():
        if not isinstance(output, dict):
            continue
        data = output.get("data")
        if output.get("output_type") in ("error", "pyerr"):
            values.append(f"{_joined(output.get('ename'))}: {_joined(output.get('evalue'))}")
        elif isinstance(data, dict):
            if not any(kind.startswith("image/") for kind in data):  # the text of a picture is its size
                values.append(_joined(data.get("text/plain")))
        else:
            printed += _joined(output.get("text"))
    for text in (printed, *values[:_MOST_VALUES]):
        if len(text) <= _MOST_CHARACTERS and text.count("\n") <= _MOST_LINES:
            yield text_files.with_line_feeds(text)


def _joined(text: Any) -> str:
    """A text, which a notebook may have as the list of its lines."""
    if isinstance(text, list):
        return "".join(each for each in text if isinstance(each, str))
    return text if isinstance(text, str) else ""
