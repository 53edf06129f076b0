"""Quotations below an answer, for `slm ask` and the chat.

Knows: how a place in a file is written. Refuses to know: how quotations are found.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from slmchat.models.backend import BackendModel, LocalModel
from slmchat.models.info import in_millions
from slmchat.retrieval.quotations import Quotation
from slmchat.retrieval.thresholds import is_very_small
from slmchat.sanitize import sanitize


def source_lines(quotations: Sequence[Quotation]) -> Iterator[str]:
    """`[1] file, page: "quotation"` for each of them, with the line ends that the document has."""
    for quotation in quotations:
        place = f"{shown_path(quotation.passage.chunk.path)}, {quotation.where}"
        yield f'[{quotation.number}] {place}: "{quotation.text}"'


def shown_path(path: Path) -> str:
    """A path from here, where it is below; on one line, whatever is in it."""
    with suppress(OSError):  # the current directory has been deleted
        here = Path.cwd()
        path = path.relative_to(here) if path.is_relative_to(here) else path
    return sanitize(str(path), one_line=True)


def smallness(model: BackendModel) -> str | None:
    """What to expect of a very small model; None for others, and for those of which nothing is known."""
    if not (isinstance(model, LocalModel) and is_very_small(model)):
        return None
    size = in_millions(model.installed.parameters)
    return (
        f"({model.label} is a very small model ({size} parameters): what it quotes is in the documents, but it may be "
        "beside the point)"
    )
