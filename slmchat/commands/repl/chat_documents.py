"""The documents of a chat: what of them answers a message goes along with it, and is shown below the answer.

The model first quotes, beside the conversation, out of the passages that are nearest to the message. The quotations are
then attached to the message, as files are: the conversation holds what was quoted and not whole pages, and what the
model sees of a document is what the user sees.

Knows: which documents count, what was quoted for the message that is on its way. Refuses to know: what is typed
(documents.py), how anything is quoted (retrieval/).
"""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from slmchat.commands.sources import shown_path
from slmchat.conversation.attachments import Attachment
from slmchat.engine.cancellable import CancelFlag, Cancellable, CancelScope
from slmchat.engine.results import FinishReason
from slmchat.generation.chat_session import ChatSession
from slmchat.generation.generator import Generator
from slmchat.generation.response import StreamHandler
from slmchat.retrieval.answers import DocumentAnswers, ReadingOrder
from slmchat.retrieval.chunk_vectors import VECTORS_S
from slmchat.retrieval.file_tree import resolved
from slmchat.retrieval.index import DocumentIndex, IndexReport
from slmchat.retrieval.opening import open_index
from slmchat.retrieval.quotations import Quotation
from slmchat.settings import Settings

# How `attach` names a quotation.
_QUOTED = re.compile(r"\[\d+\] .+, ")


class ChatDocuments:
    """Those that were named with `/docs`."""

    def __init__(self) -> None:
        self.roots: list[Path] = []
        self.quoted: tuple[Quotation, ...] = ()
        self._attached: list[Attachment] = []
        self._order = ReadingOrder()
        self._index: DocumentIndex | None = None
        self._is_private = False
        self._has_missing = False  # passages without a vector, for want of time

    def add(
        self, paths: Sequence[Path], session: ChatSession, settings: Settings, scope: CancelScope
    ) -> IndexReport | None:
        """Read these documents; None when that was cancelled. Raises `SlmError` (USAGE) for what does not exist."""
        resolved(paths)  # what is not there is told before all else
        flag = CancelFlag()
        with scope(flag):
            report = self._opened(session, settings).add(paths, session.reporter, flag, vectors_s=VECTORS_S)
        if flag():
            return None
        self._has_missing = self._has_missing or bool(report.n_without_vector)
        if report.n_files:
            self.roots += [root for root in report.roots if root not in self.roots]
        return report

    def drop(self) -> None:
        """None counts any more. The index keeps them (`slm docs rm`)."""
        self.roots = []

    def count(self, session: ChatSession, settings: Settings) -> list[tuple[Path, int]]:
        """The documents with the number of their passages."""
        if not self.roots:
            return []
        found = self._opened(session, settings).documents(self.roots)
        return [(document.path, document.n_chunks) for document in found]

    def attach(
        self,
        message: str,
        session: ChatSession,
        settings: Settings,
        reading: Callable[[], StreamHandler],
        scope: CancelScope,
    ) -> None:
        """Let what answers the message go along with it. Raises KeyboardInterrupt when that was cancelled."""
        self.withdraw(session)
        if not self.roots:
            return
        index, roots = self._opened(session, settings), tuple(self.roots)
        if self._has_missing:
            flag = CancelFlag()
            with scope(flag):
                report = index.add(roots, session.reporter, flag, vectors_s=VECTORS_S)
            if flag():
                raise KeyboardInterrupt
            self._has_missing = bool(report.n_without_vector)
        generator = Generator(session.opened)
        generator.use(session.ready())
        answers = DocumentAnswers(
            generator,
            lambda question, top: index.search(question, top, roots),
            session.options,
            is_quoting_only=True,
            order=self._order,
        )
        found = answers.answer(message, _QuietDelegate(reading, scope))
        if found.finish_reason is FinishReason.INTERRUPTED:
            raise KeyboardInterrupt
        self.quoted = found.quotations
        self._attached = [
            Attachment(each.text, f"[{each.number}] {shown_path(each.file)}, {each.where}") for each in self.quoted
        ]
        session.attachments += self._attached
        told = f"{found.refusal.rstrip('.')}; the answer is the model's own" if found.refusal else ""
        if told:
            session.reporter.note(f"({told})")

    def withdraw(self, session: ChatSession) -> None:
        """What was quoted for a message that has not been answered goes along with no other one."""
        session.attachments = [each for each in session.attachments if each not in self._attached]
        self._attached, self.quoted = [], ()

    @staticmethod
    def is_quotation(attachment: Attachment) -> bool:
        """Whether this went along with a message because it was quoted for it, in an earlier chat, too."""
        return _QUOTED.match(attachment.name or "") is not None

    def close(self) -> None:
        """Close the index."""
        if self._index is not None:
            self._index.close()
            self._index = None

    def _opened(self, session: ChatSession, settings: Settings) -> DocumentIndex:
        if self._index is None or self._is_private is not settings.is_private:
            self.close()
            self._is_private = settings.is_private
            self._index = open_index(settings, session.reporter, session.count_text)
            if self.roots:  # a chat that has become private: what was read is read again, into memory
                report = self._index.add(self.roots, session.reporter, CancelFlag(), vectors_s=VECTORS_S)
                self._has_missing = bool(report.n_without_vector)
        return self._index


class _QuietDelegate:
    """Implements `AnswerDelegate` for quotations alone."""

    def __init__(self, reading: Callable[[], StreamHandler], scope: CancelScope) -> None:
        self.reading = reading
        self.answering = reading
        self._scope = scope

    def quoted(self, quotations: Sequence[Quotation]) -> None: ...

    def cancellable(self, session: Cancellable) -> AbstractContextManager[None]:
        return self._scope(session)
