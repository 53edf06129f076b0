"""`slm docs list|show|rm`: the documents that `slm ask` has read.

Every function prints what was asked for on stdout and returns the exit code; errors leave as `SlmError`. Nothing but
`rm` writes, and no document is read here: what the index knows of it is shown.
"""

import os
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from slmchat.commands.sessions import ago
from slmchat.errors import ExitCode, usage_error
from slmchat.retrieval.chunks import DocumentChunk
from slmchat.retrieval.index import DocumentIndex
from slmchat.retrieval.store import IndexedFile
from slmchat.sanitize import sanitize
from slmchat.settings import Settings
from slmchat.terminal import pager
from slmchat.terminal.console import Console
from slmchat.terminal.screen import BOLD, ControlSequences
from slmchat.terminal.tables import Column
from slmchat.user_paths import home_directory, user_path
from slmchat.wording import counted, in_bytes

_LISTED = (
    Column("DOCUMENT"),
    Column("KIND", rank=3),
    Column("PASSAGES", rank=2),
    Column("SIZE", rank=4),
    Column("READ", rank=1),
)


def _index(settings: Settings) -> closing[DocumentIndex]:
    return closing(DocumentIndex(settings.paths.documents, lambda _text: 0))  # nothing is cut here


def list_documents(settings: Settings, console: Console, *, is_json: bool = False) -> ExitCode:
    """The documents by their paths. A terminal gets the first 50, a pipe all: one line each, with tabs between."""
    with _index(settings) as index:
        documents = index.documents()
    if is_json:
        console.print_json([_as_json(document) for document in documents])
    elif not documents:
        console.note("no document has been read.")
        console.note('next: slm ask "What does it say?" -d PATH')
    else:
        rows = [_columns(document, console) for document in documents]
        console.listing(_LISTED, rows, "document", "slm docs list | less")
    return ExitCode.DONE


def _columns(document: IndexedFile, console: Console) -> tuple[str, ...]:
    when = ago(document.indexed_at) if console.is_stdout_tty else document.indexed_at
    path, size = _shown(document.path, console), in_bytes(document.n_bytes)
    return path, document.kind.value, f"{document.n_chunks:,}", size, when


def _shown(path: Path, console: Console) -> str:
    """A path for people, from here or from their home where it lies below; a pipe gets it whole."""
    if console.is_stdout_tty:
        with suppress(OSError):  # the current directory has been deleted
            if path.is_relative_to(Path.cwd()):
                return str(path.relative_to(Path.cwd()))
        home = home_directory()
        if home is not None and path.is_relative_to(home):
            return f"~{os.sep}{path.relative_to(home)}"
    return str(path)


def _as_json(document: IndexedFile) -> dict[str, Any]:
    return {
        "path": str(document.path),
        "title": document.title,
        "kind": document.kind.value,
        "size": document.n_bytes,
        "pages": document.n_pages,
        "passages": document.n_chunks,
        "indexed_at": document.indexed_at,
    }


def show(name: str, settings: Settings, console: Console, *, is_json: bool = False) -> ExitCode:
    """One document: its facts, and its passages with the places they come from."""
    path = _path(name)
    with _index(settings) as index:
        found = [document for document in index.documents([path]) if document.path == path]
        chunks = index.chunks(path)
    document = found[0]
    if is_json:
        console.print_json({**_as_json(document), "text": [_chunk_as_json(chunk) for chunk in chunks]})
        return ExitCode.DONE
    facts = [document.kind.value, in_bytes(document.n_bytes)]
    facts += [counted(document.n_pages, "page")] if document.n_pages is not None else []
    facts += [counted(document.n_chunks, "passage"), f"read {ago(document.indexed_at)}"]
    lines = [document.title, f"{_shown(path, console)} · {' · '.join(facts)}"]
    written = ["".join(sanitize(line, one_line=True) + "\n" for line in lines)]
    on, off = BOLD if console.has_color else ("", "")
    for chunk in chunks:
        head = sanitize(" · ".join((_place(chunk), *chunk.heading[-1:])), one_line=True)
        written.append(f"\n{on}{head}{off}\n{sanitize(chunk.text)}\n")
    pager.show(console, ControlSequences("".join(written)))
    return ExitCode.DONE


def _place(chunk: DocumentChunk) -> str:
    lines = chunk.kind.lines(chunk.first_line, chunk.last_line)
    return lines if chunk.page is None else f"page {chunk.page}, {lines}"


def _chunk_as_json(chunk: DocumentChunk) -> dict[str, Any]:
    return {
        "text": chunk.text,
        "page": chunk.page,
        "first_line": chunk.first_line,
        "last_line": chunk.last_line,
        "heading": list(chunk.heading),
        "tokens": chunk.n_tokens,
    }


def rm(
    names: Sequence[str], settings: Settings, console: Console, *, is_all: bool = False, is_yes: bool = False
) -> ExitCode:
    """Forget documents, and those below a directory; the files stay where they are.

    A person is asked before all of them go, unless `is_yes`. Raises `SlmError` (USAGE) for what is not in the index:
    then nothing is removed.
    """
    if bool(names) == is_all:
        raise usage_error("forget which documents?", "slm docs rm PATH..., or --all")
    paths = [_path(name) for name in names]
    with _index(settings) as index:
        n_documents = len(index.documents())
        if is_all and n_documents and not is_yes and not console.ask(f"Forget {counted(n_documents, 'document')}?"):
            raise usage_error("nothing was removed.", "--yes removes without asking")
        removed = index.remove(None if is_all else paths)
    console.note(f"forgot {counted(removed.n_documents, 'document')}; the files are as they were.")
    if not removed.is_erased:
        console.warn("traces may stay in the index: another slm is using it, or the disk is full.")
        console.note("the next slm docs rm clears them.")
    return ExitCode.DONE


def _path(name: str) -> Path:
    """The path as the index has it: without links, also where the file is gone."""
    return Path(os.path.realpath(user_path(name)))
