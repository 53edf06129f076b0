"""The documents that a Python program asks about.

Knows: paths as a program gives them; one index for each model, in memory or where the user's own is.
Refuses to know: how documents are read and searched (retrieval/), what is asked.
"""

from collections.abc import Sequence
from pathlib import Path

from slmchat.api import arguments
from slmchat.engine.cancellable import CancelFlag, CancelScope
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.models.open import OpenModel
from slmchat.retrieval.answers import ReadingOrder, Search
from slmchat.retrieval.chunk_vectors import VECTORS_S
from slmchat.retrieval.index import DocumentIndex
from slmchat.retrieval.opening import open_index
from slmchat.user_paths import user_path


class ModelDocuments:
    """The index of one model, and the order in which it has read passages."""

    def __init__(self, opened: OpenModel) -> None:
        self._opened = opened
        self._index: DocumentIndex | None = None
        self.order = ReadingOrder()

    def search_in(self, paths: Sequence[Path], running: CancelScope) -> Search:
        """Read what is new at these paths; what finds passages there.

        Raises `SlmError`: USAGE for a path that does not exist or has nothing that can be read, INTERRUPTED.
        """
        opened, flag = self._opened, CancelFlag()
        if self._index is None:
            self._index = open_index(opened.settings, opened.reporter, opened.count_text)
        index = self._index
        with running(flag):
            report = index.add(paths, opened.reporter, flag, vectors_s=VECTORS_S)
        if flag():
            raise SlmError("this was cancelled before it was done.", exit_code=ExitCode.INTERRUPTED)
        if not report.n_files:
            reasons = "; ".join(report.skipped) or "there is no file"
            raise usage_error(f"nothing in these documents can be read: {reasons}.")
        return lambda question, top: index.search(question, top, report.roots)

    def close(self) -> None:
        """Free the index."""
        if self._index is not None:
            self._index.close()
            self._index = None


def paths_of(given: object) -> list[Path]:
    """One path or several. Raises `SlmError` (USAGE)."""
    several = [given] if isinstance(given, (str, Path)) else arguments.several(given, "documents", "paths")
    if not several:
        raise usage_error("documents is empty.")
    return [user_path(arguments.path(one, f"documents[{number}]")) for number, one in enumerate(several)]
