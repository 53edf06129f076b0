"""The index of this user, opened: its file, and the embedding model if one is installed.

Knows: where the index is, that `--private` keeps it in memory, which embedding model is used, what is said where there
is none. Refuses to know: what is in the index (index.py), how a vector is computed.
"""

from collections.abc import Iterator

from slmchat.catalog.records import Installed
from slmchat.engine.api import Embedder
from slmchat.engine.requests import TextOrTokens
from slmchat.engine.results import Embedding
from slmchat.errors import SlmError
from slmchat.models.backend import Backend, LocalModel
from slmchat.models.embedding import embedder, newest_embedding_model
from slmchat.models.open import OpenModel
from slmchat.options import GenerationOptions
from slmchat.reporting import Reporter
from slmchat.retrieval.chunks import TokenCounter
from slmchat.retrieval.index import DocumentIndex
from slmchat.retrieval.vectors import Vectors, prefixes_of
from slmchat.settings import Settings

# Digits of a model's sha256 that tell its vectors from those of another file of the same name.
_DIGITS = 16


def open_index(
    settings: Settings, reporter: Reporter, count_tokens: TokenCounter, backend: Backend | None = None
) -> DocumentIndex:
    """The index. An embedding model that is installed is opened beside it when it is first needed; where there is none,
    a note says once, with the first document, what it would add and how to get it.

    `backend`: where the model that answers is; None: here. With an endpoint no model is loaded here, and documents are
    found by their words. Call it after the seal has closed. Close the index at the end.
    """
    file = None if settings.is_private else settings.paths.documents
    if backend is not None and backend.host is not None:
        return DocumentIndex(file, count_tokens)
    installed = newest_embedding_model(settings, reporter)
    if installed is not None:
        reporter.detail(f"documents are also searched by meaning, with {installed.key}")
        on_demand = _EmbedderOnDemand(installed, settings, reporter)
        vectors = Vectors(_identity(installed), on_demand, prefixes_of(_description(installed)))
        return DocumentIndex(file, count_tokens, vectors)
    tell = reporter.detail if file is None or file.exists() else reporter.note
    tell("documents are searched by their words; an embedding model also finds what says it in other words:")
    tell("  slm pull all-minilm (English), slm pull embeddinggemma (100 languages)")
    return DocumentIndex(file, count_tokens)


def _identity(installed: Installed) -> str:
    """What tells the vectors of a model from those of another: its name and what its file is. A file that is used in
    place has no sha256, so that its size and its time of change count: of BERT's size there are many."""
    file = installed.files[0]
    return f"{installed.key} {file.sha256[:_DIGITS] if file.sha256 else f'{file.size}-{file.mtime_ns}'}"


def _description(installed: Installed) -> str:
    """By what a model says which it is: a name of the user's own need not tell."""
    told = (installed.name, installed.path.name, installed.title, installed.architecture)
    return " ".join(text for text in told if text)


class _EmbedderOnDemand:
    """An embedder whose model is loaded for the first text. Implements `Embedder`."""

    def __init__(self, installed: Installed, settings: Settings, reporter: Reporter) -> None:
        self._installed = installed
        self._settings = settings
        self._reporter = reporter
        self._opened: OpenModel | None = None
        self._embedder: Embedder | None = None

    def run(self, texts: Iterator[TextOrTokens]) -> Iterator[Embedding | SlmError]:
        if self._embedder is None:
            model = LocalModel(self._installed, embeds=True)
            options = GenerationOptions(model=self._installed.key)
            self._opened = OpenModel(model, options, self._settings, self._reporter, is_remembered=False)
            self._embedder = embedder(self._opened, is_cut=True)
        return self._embedder.run(texts)

    def cancel(self) -> None:
        if self._embedder is not None:
            self._embedder.cancel()

    def close(self) -> None:
        if self._embedder is not None and self._opened is not None:
            self._embedder.close()
            self._opened.close()
        self._embedder, self._opened = None, None
