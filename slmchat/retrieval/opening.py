"""The index of this user, opened: its file, and the embedding model if one is installed.

Knows: where the index is, that `--private` keeps it in memory, what is said where no embedding model is installed.
Refuses to know: what is in the index (index.py).
"""

from slmchat.models.backend import Backend
from slmchat.reporting import Reporter
from slmchat.retrieval.chunks import TokenCounter
from slmchat.retrieval.index import DocumentIndex
from slmchat.settings import Settings


def open_index(
    settings: Settings, reporter: Reporter, count_tokens: TokenCounter, backend: Backend | None = None
) -> DocumentIndex:
    """The index. With a `backend`, an installed embedding model is opened beside it; where there is none, a note says
    once what it would add and how to get it. Call it after the seal has closed. Close the index at the end."""
    raise NotImplementedError
