"""The index of this user, opened: its file, and the embedding model if one is installed.

Knows: where the index is, that `--private` keeps it in memory, which embedding model is used, what is said where there
is none. Refuses to know: what is in the index (index.py), how a vector is computed.
"""

from collections.abc import Iterator

from slmchat.catalog.library import Library
from slmchat.catalog.records import EMBEDDING_TAG, Installed
from slmchat.engine.api import Embedder, Embedding, TextOrTokens
from slmchat.errors import SlmError
from slmchat.models.backend import Backend, LocalModel
from slmchat.models.embedding import embedder
from slmchat.models.open import OpenModel
from slmchat.options import GenerationOptions
from slmchat.reporting import Reporter
from slmchat.retrieval.chunks import TokenCounter
from slmchat.retrieval.index import DocumentIndex
from slmchat.retrieval.vectors import Vectors
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
    installed = _newest(settings, reporter)
    if installed is not None:
        model = f"{installed.key} {(installed.sha256 or str(installed.size))[:_DIGITS]}"
        vectors = Vectors(model, _EmbedderOnDemand(installed, settings, reporter))
        return DocumentIndex(file, count_tokens, vectors)
    tell = reporter.detail if file is None or file.exists() else reporter.note
    tell("documents are searched by their words; an embedding model also finds what says it in other words:")
    tell("  slm pull all-minilm (English), slm pull embeddinggemma (100 languages)")
    return DocumentIndex(file, count_tokens)


def _newest(settings: Settings, reporter: Reporter) -> Installed | None:
    """The embedding model that was installed last; None: there is none."""
    there_are = [one for one in Library(settings.paths, warn=reporter.warn).all() if EMBEDDING_TAG in one.tags]
    return max(there_are, key=lambda one: (one.admitted_at, one.key), default=None)


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
