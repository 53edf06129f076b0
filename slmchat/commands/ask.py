"""`slm ask`: a question answered from documents, with quotations that are in them word by word.

The story: take the questions, close the process in, read what is new of the documents while the model loads, let the
model quote and then answer, and show below each answer where it is from. What the documents do not answer is one
sentence and an exit code of its own.
"""

import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from slmchat import safe_json, text_files
from slmchat.commands.endings import exit_code
from slmchat.commands.inputs import system_text
from slmchat.commands.sources import shown_path, smallness, source_lines
from slmchat.conversation.messages import Message, Role
from slmchat.engine.cancellable import CancelFlag, Cancellable
from slmchat.engine.results import FinishReason
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.generation.generator import Generator
from slmchat.generation.response import describe
from slmchat.models.backend import open_backend
from slmchat.models.open import open_model
from slmchat.models.warm_server import WarmServer
from slmchat.options import AskOptions, GenerationOptions
from slmchat.retrieval.answer_record import answer_record
from slmchat.retrieval.answers import TOP, Answer, DocumentAnswers
from slmchat.retrieval.chunk_vectors import VECTORS_S
from slmchat.retrieval.file_tree import LEFT_OUT, resolved
from slmchat.retrieval.index import DocumentIndex, IndexReport
from slmchat.retrieval.loaders.kinds import READABLE
from slmchat.retrieval.opening import open_index
from slmchat.retrieval.quotations import Quotation
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.terminal.interrupts import cancelled_by_ctrl_c
from slmchat.terminal.piped import read_piped
from slmchat.terminal.plain_view import PlainView
from slmchat.user_paths import user_path
from slmchat.wording import counted

# Files of one reason that are named when they are skipped.
_MOST_NAMED = 3


def ask(asked: AskOptions, settings: Settings, console: Console) -> ExitCode:
    """Answer one question, or each line of stdin. Raises `SlmError`: NO_ANSWER for a single question without one."""
    start = time.perf_counter()
    # 1. What is asked, of what. 2. Closed in; only then is a document read.
    paths = [user_path(path) for path in asked.documents]
    words = _checked_words(asked.words or [])
    options = GenerationOptions.of(asked)
    backend = open_backend(options, settings, console, server=WarmServer.find(options, settings))
    resolved(paths)  # what is not there is told before a model is loaded
    questions = [" ".join(words)] if words else _questions_on_stdin(console)
    opened = open_model(backend, options, settings, console)
    # 3. What is new of the documents is read.
    generator = Generator(opened)
    index = open_index(settings, console, opened.count_text, backend)
    within = _read_documents(index, paths, asked, console)
    if within is None:
        return ExitCode.INTERRUPTED
    # 4. Quoted and answered, one question after the other in one window.
    if (sentence := smallness(opened.model)) is not None:
        console.note(sentence)
    system = system_text(asked.system)
    answers = DocumentAnswers(
        generator,
        lambda question, top: index.search(question, top, within),
        options,
        [Message(Role.SYSTEM, system)] if system else [],
        top=asked.top,
        is_quoting_only=asked.quotes_only,
    )
    writer = _AnswerWriter(console, asked, is_one=len(questions) == 1)
    load_s = time.perf_counter() - start
    codes = []
    for question in questions:
        answer = answers.answer(question, writer.begin(question))
        writer.end(answer, opened.model.key, load_s)
        console.detail(describe(answer.finish_reason, answer.usage, answer.timings))
        trained = generator.engine.info.trained_context_length
        codes.append(exit_code(answer.finish_reason, console, generator.n_ctx, trained))
        if answer.refusal:
            codes[-1] = ExitCode.NO_ANSWER
        if codes[-1] is ExitCode.INTERRUPTED:
            break
    generator.close()
    index.close()
    return _worst(codes, answer, questions, asked)


def _worst(codes: Sequence[ExitCode], last: Answer, questions: Sequence[str], asked: AskOptions) -> ExitCode:
    """The exit code of all of them. Raises `SlmError` (NO_ANSWER) for a single question that people have asked."""
    if codes == [ExitCode.NO_ANSWER] and not asked.json:
        raise SlmError(
            last.refusal,
            hint=f"other words, or more passages: --top {2 * (asked.top or TOP)}; -v tells what was read",
            exit_code=ExitCode.NO_ANSWER,
        )
    for code in (ExitCode.INTERRUPTED, ExitCode.CONTEXT, ExitCode.NO_ANSWER):
        if code in codes:
            return code
    return ExitCode.DONE


def _checked_words(words: Sequence[str]) -> list[str]:
    """The words of the question; none: it comes on stdin. Raises `SlmError` (USAGE): empty, or a file among them."""
    if list(words) == ["-"]:
        return []
    if words and not " ".join(words).strip():
        raise _no_question()
    files = [word for word in words[1:] if "." in word and os.path.isfile(word)]
    if files:
        raise usage_error(
            f"{files[0]} is a file, and it stands among the words of the question.",
            f"each file or directory wants a -d of its own: -d {files[0]}; or -d and the directory",
        )
    return list(words)


def _questions_on_stdin(console: Console) -> list[str]:
    """A question on each line. Raises `SlmError` (USAGE) when there is none."""
    if console.stdin.isatty():
        raise _no_question()
    data = text_files.read_whole(lambda most: read_piped(console, most), "standard input")
    lines = text_files.lines_of(text_files.text_of(data, "standard input"))
    questions = [line.strip() for line in lines if line.strip()]
    if not questions:
        raise _no_question()
    return questions


def _no_question() -> SlmError:
    return usage_error(
        "there is no question.", 'slm ask "How often is it cleaned?" -d manual.pdf; or pipe questions in, one a line'
    )


def _read_documents(
    index: DocumentIndex, paths: Sequence[Path], asked: AskOptions, console: Console
) -> tuple[Path, ...] | None:
    """Bring the index up to date; where to search. None: Ctrl-C. Raises `SlmError` (USAGE) when nothing is there."""
    if not paths:
        if not index.documents():
            raise usage_error("there are no documents to answer from.", 'slm ask "…" -d PATH')
        return ()
    flag = CancelFlag()
    with cancelled_by_ctrl_c(flag):
        vectors_s = None if asked.reindex else VECTORS_S
        report = index.add(paths, console, flag, is_fresh=asked.reindex, vectors_s=vectors_s)
    if report.is_cut and flag():
        return None
    tell_of(report, console)
    if not report.n_files:
        raise usage_error("nothing in these documents can be read.", f"{READABLE} can")
    return report.roots


def tell_of(report: IndexReport, console: Console) -> None:
    """What became of the documents that were named."""
    for reason, files in report.skipped.items():
        names = ", ".join(shown_path(path) for path in files.examples[:_MOST_NAMED])
        more = f" and {files.n_files - _MOST_NAMED:,} more" if files.n_files > _MOST_NAMED else ""
        # once: the next question is about the same files
        is_new = files.is_news or (report.n_read and reason not in LEFT_OUT)
        tell = console.warn if is_new or not report.n_files else console.detail
        if files.n_files == 1:
            tell(f"skipped {names}: it {reason}.")
        else:
            tell(f"skipped {files.n_files:,} files, each {reason}: {names}{more}.")
    if report.n_without_vector:
        console.note(
            f"{report.n_without_vector:,} of {counted(report.n_chunks, 'passage')} are found by their words so far; "
            "each question prepares some more to be found by meaning, slm ask --reindex all of them."
        )
    total = f"{counted(report.n_files, 'file')} with {counted(report.n_chunks, 'passage')}"
    console.detail(f"{total} to search, {counted(report.n_read, 'file')} read just now")


class _AnswerWriter:
    """Answers on stdout, as text or as JSON."""

    def __init__(self, console: Console, asked: AskOptions, *, is_one: bool) -> None:
        self._console = console
        self._is_json = asked.json
        self._is_one = is_one
        self._n_written = 0

    def begin(self, question: str) -> "_Delegate":
        """What hears of the next question."""
        if not (self._is_one or self._is_json):
            self._console.write(f"{'' if not self._n_written else chr(10)}> {question}\n")
        self._n_written += 1
        return _Delegate(self._console, is_silent=self._is_json)

    def end(self, answer: Answer, model: str, load_s: float) -> None:
        """What came of it."""
        if self._is_json:
            record = answer_record(answer, model, load_s)
            self._console.write(safe_json.encode(record, indent=2 if self._is_one else None))
            return
        if answer.refusal:
            if not self._is_one:
                self._console.note(f"slm: {answer.refusal}")
            return
        if answer.finish_reason is FinishReason.INTERRUPTED and not answer.text:
            return
        between = "\n\n" if answer.text else ""
        self._console.write(between + "".join(f"{line}\n" for line in source_lines(answer.quotations)))


class _Delegate:
    """Implements `AnswerDelegate`."""

    def __init__(self, console: Console, *, is_silent: bool) -> None:
        self._console = console
        self._is_silent = is_silent

    def reading(self) -> PlainView:
        return PlainView(self._console, is_silent=True)

    def quoted(self, quotations: Sequence[Quotation]) -> None:
        self._console.detail(f"{counted(len(quotations), 'quotation')} found")

    def answering(self) -> PlainView:
        return PlainView(self._console, is_silent=self._is_silent)

    def cancellable(self, session: Cancellable) -> AbstractContextManager[None]:
        return cancelled_by_ctrl_c(session)
