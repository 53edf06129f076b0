"""The generations of one question, and who hears of them.

Knows: that there is no second attempt, that references are mended while an answer comes.
Refuses to know: what is asked (answers.py), how anything is drawn.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from slmchat.engine.cancellable import Cancellable, CancelScope
from slmchat.engine.results import Prefill
from slmchat.generation.generator import OneAttempt
from slmchat.generation.response import NullHandler, StreamHandler
from slmchat.retrieval.citations import CitationFilter
from slmchat.retrieval.quotations import Quotation


class AnswerDelegate(Protocol):
    """The door around a question: what shows it, and what may end it."""

    def reading(self) -> StreamHandler:
        """What hears of the passages being read, and of nothing that is copied before it is checked."""
        ...

    def quoted(self, quotations: Sequence[Quotation]) -> None:
        """What was found, before the answer begins."""
        ...

    def answering(self) -> StreamHandler:
        """What gets the answer."""
        ...

    def cancellable(self, session: Cancellable) -> AbstractContextManager[None]:
        """While this lasts, the generation can be cancelled."""
        ...


class SilentDelegate:
    """For a program that wants the answer whole. Implements `AnswerDelegate`."""

    def __init__(self, scope: CancelScope) -> None:
        self._scope = scope

    def reading(self) -> StreamHandler:
        return NullHandler()

    def quoted(self, quotations: Sequence[Quotation]) -> None: ...

    def answering(self) -> StreamHandler:
        return NullHandler()

    def cancellable(self, session: Cancellable) -> AbstractContextManager[None]:
        return self._scope(session)


class AnswerStep(OneAttempt):
    """One generation of a question. Implements `GenerationDelegate`."""

    def __init__(self, handler: StreamHandler, delegate: AnswerDelegate) -> None:
        self._handler = handler
        self._delegate = delegate

    def handler(self) -> StreamHandler:
        return self._handler

    def cancellable(self, session: Cancellable) -> AbstractContextManager[None]:
        return self._delegate.cancellable(session)


class ReadingHandler(NullHandler):
    """Passes on how far a prompt is read, and nothing else."""

    def __init__(self, reads: Callable[[Prefill], None], ended: Callable[[], None] = lambda: None) -> None:
        self._reads = reads
        self._ended = ended

    def prefill(self, event: Prefill) -> None:
        self._reads(event)

    def close(self) -> None:
        self._ended()


class CitingHandler:
    """Shows an answer whose references are right, and keeps it. Implements `StreamHandler`."""

    def __init__(self, shown: StreamHandler, citations: CitationFilter) -> None:
        self._shown = shown
        self._citations = citations
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """What was shown."""
        return "".join(self._pieces)

    def prefill(self, event: Prefill) -> None:
        self._shown.prefill(event)

    def thinking(self, text: str) -> None:
        self._shown.thinking(text)

    def logprob(self, logprob: float) -> None:
        self._shown.logprob(logprob)

    def answer(self, text: str) -> None:
        self._put(self._citations.feed(text))

    def close(self) -> None:
        self._put(self._citations.flush())
        self._shown.close()

    def _put(self, text: str) -> None:
        if text:
            self._pieces.append(text)
            self._shown.answer(text)
