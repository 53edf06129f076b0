"""`slm sessions list|show|search|export|import|rename|rm`: the conversations that were saved.

Every function prints what was asked for on stdout and returns the exit code; errors leave as `SlmError`. Nothing is
written but by `import_`, `rename`, `rm` and `export` to a file; with `--private` a search leaves the index alone, too.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from slmchat.conversation import exchange, foreign_chat, foreign_formats
from slmchat.conversation.archive import Archive
from slmchat.conversation.archive_names import SessionSummary
from slmchat.conversation.archive_search import Hit
from slmchat.conversation.exchange import MOST_CHARACTERS
from slmchat.conversation.messages import Conversation, Node, Role
from slmchat.engine.kvstore import KvStore
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.privacy.writer import FileWriter
from slmchat.private_files import storage_error
from slmchat.sanitize import Sanitizer, sanitize
from slmchat.settings import Settings
from slmchat.terminal import pager
from slmchat.terminal.console import Console
from slmchat.terminal.piped import read_piped
from slmchat.terminal.screen import BOLD, ControlSequences
from slmchat.terminal.tables import Column
from slmchat.text_files import text_of
from slmchat.wording import counted

_MOST_BYTES = 4 * MOST_CHARACTERS  # of an export that is read
_MOST_HITS = 50  # of a search


def _archive(settings: Settings) -> closing[Archive]:
    return closing(Archive(settings.paths.sessions))


_LISTED = (
    Column("ID"),
    Column("TITLE", is_prose=True),
    Column("MODEL", rank=2),
    Column("MESSAGES", rank=3),
    Column("WHEN", rank=1),
)


def list_sessions(settings: Settings, console: Console, *, limit: int | None = None, is_json: bool = False) -> ExitCode:
    """The sessions, the last one written to first.

    Without a `limit` a terminal gets the newest 50. A pipe gets all: one line each, with tabs between the columns.
    """
    with _archive(settings) as archive:
        sessions = archive.list(limit)
    if is_json:
        console.print_json([_as_json(session) for session in sessions])
    elif not sessions:
        console.note("no session is saved.")
        console.note("next: slm chat")
    else:
        rows = [_columns(session, console) for session in sessions]
        console.listing(_LISTED, rows, "session", "slm sessions list --limit N", limit)
    return ExitCode.DONE


def _columns(session: SessionSummary, console: Console) -> tuple[str, ...]:
    when = _when(session.updated_at, console)
    return session.short_id, session.title, session.model or "", str(session.message_count), when


def _as_json(session: SessionSummary) -> dict[str, Any]:
    return {
        "id": session.id,
        "title": session.title,
        "model": session.model,
        "messages": session.message_count,
        "created_at": session.created_at,
        "updated_at": session.updated_at,
    }


def show(name: str, settings: Settings, console: Console, *, is_json: bool = False) -> ExitCode:
    """The current path of a session; as JSON the whole tree, as `export` gives it."""
    with _archive(settings) as archive:
        session = archive.find(name)
        if is_json:
            console.write(archive.export_json(session.id))
            return ExitCode.DONE
        conversation = archive.load(session.id)
    when = _when(session.updated_at, console)
    messages = counted(session.message_count, "message")
    head = f"{session.id} · {messages} · {session.model or 'no answer'} · {when}"
    page = _Page(console)
    page.lines(_one_line(session.title), _one_line(head))
    if conversation.system:
        page.message("System", conversation.system)
    for node in conversation.path():
        if node is conversation.seen_from:
            page.lines("", "--- the model no longer sees what stands above ---")
            if conversation.summary:
                page.message("It sees this summary of it", conversation.summary)
        page.message(_speaker(conversation, node), node.message.text, is_answer=node.message.role is Role.ASSISTANT)
    pager.show(console, page.text())
    return ExitCode.DONE


class _Page:
    """A conversation as it is shown: answers through the Markdown renderer on a terminal, plain in a pipe."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._written: list[str] = []

    def lines(self, *texts: str) -> None:
        self._written += (sanitize(text) + "\n" for text in texts)

    def message(self, speaker: str, text: str, *, is_answer: bool = False) -> None:
        on, off = BOLD if self._console.has_color else ("", "")
        self._written.append(f"\n{on}{sanitize(_one_line(speaker), one_line=True)}{off}\n")
        if not (is_answer and self._console.has_color):
            self.lines(text.strip("\n"))
            return
        from slmchat.terminal.markdown import MarkdownStream

        stream = MarkdownStream(self._written.append, width=lambda: self._console.size[0])
        stream.feed(text.strip("\n"))
        stream.close()

    def text(self) -> ControlSequences:
        return ControlSequences("".join(self._written))


def _speaker(conversation: Conversation, node: Node) -> str:
    """Who speaks, and in brackets what there is to know about the message."""
    message = node.message
    name = {Role.USER: "You", Role.SYSTEM: "System"}.get(message.role) or message.model or "Assistant"
    alternatives = conversation.alternatives(node)
    facts = [f"{alternatives.index(node) + 1} of {len(alternatives)}"] if len(alternatives) > 1 else []
    facts += ["cut off"] if message.is_cut else []
    return f"{name} ({', '.join(facts)})" if facts else name


def search(words: Sequence[str], settings: Settings, console: Console, *, is_json: bool = False) -> ExitCode:
    """Where all these words were said, with what stands around them. Finding nothing is no error."""
    query = " ".join(words)
    if not query.strip():
        raise usage_error("search for what?", "slm sessions search WORDS")
    with _archive(settings) as archive:
        found = archive.search(query, _MOST_HITS + 1, may_write=not settings.is_private)
        if not archive.has_index():
            console.warn("this Python's SQLite has no full-text index (FTS5); every message was read instead.")
    hits = found[:_MOST_HITS]
    if is_json:
        console.print_json([_hit_as_json(hit) for hit in hits])
    elif hits:
        _print_hits(hits, console)
    else:
        console.note(f"nothing is saved with {query}.")
    if len(found) > len(hits):
        console.note(f"these are the first {_MOST_HITS} places; one more word finds fewer.")
    return ExitCode.DONE


def _print_hits(hits: Sequence[Hit], console: Console) -> None:
    previous = ""
    for hit in hits:
        if hit.session != previous:
            console.write("\n" if previous else "")
            title = hit.parts if hit.role is None else ((hit.title, False),)
            console.write(f"{hit.session[:8]}  ")
            _print_highlighted(title, console)
            console.write(f"  ({_when(hit.created_at, console)})\n")
            previous = hit.session
        if hit.role is not None:
            console.write(f"    {hit.role}: ")
            _print_highlighted(hit.parts, console)
            console.write("\n")


def _hit_as_json(hit: Hit) -> dict[str, Any]:
    return {
        "id": hit.session,
        "title": hit.title,
        "role": hit.role,
        "created_at": hit.created_at,
        "snippet": "".join(text for text, _ in hit.parts),
        "found": [text for text, is_found in hit.parts if is_found],
    }


def _when(time: str, console: Console) -> str:
    """For people how long ago, for programs ISO 8601 to the second."""
    return ago(time) if console.is_stdout_tty else datetime.fromisoformat(time).isoformat(timespec="seconds")


def _print_highlighted(parts: Sequence[tuple[str, bool]], console: Console) -> None:
    """Part of a line; what was found is bold where the terminal can do it."""
    for text, is_found in parts:
        console.write(sanitize(text, one_line=True), BOLD if is_found and console.has_color else None)


def export(
    name: str,
    settings: Settings,
    console: Console,
    *,
    format: str = "md",
    file: Path | None = None,
    is_forced: bool = False,
) -> ExitCode:
    """A session as Markdown (the current path) or JSON (the whole tree), on stdout or in a file of the owner's own.

    Raises `SlmError`: usage (no such session, a file that exists and not `is_forced`), storage.
    """
    writer = None
    if file is not None:
        file, writer = _writer(file, format, is_forced)
    if settings.is_offline:  # not before: the file may lie where a sealed process cannot write
        from slmchat.models import sandbox

        sandbox.seal(settings)
    with _archive(settings) as archive:
        session = archive.find(name)
        text = archive.export_json(session.id) if format == "json" else archive.export_markdown(session.id)
    if format == "md":
        sanitizer = Sanitizer(show_invisible=False)
        text = sanitizer.feed(text) + sanitizer.flush()
    if writer is None:
        console.write(text)
        return ExitCode.DONE
    from slmchat.commands import output

    try:
        writer.replace(text.encode())
    except OSError as error:
        raise output.refusal_of(error, Path(str(file))) from error
    finally:
        writer.close()
    console.note(f"written to {file}.")
    return ExitCode.DONE


def _writer(file: Path, format: str, is_forced: bool) -> tuple[Path, FileWriter]:
    """The file of `-o`, and the right to write it. Raises `SlmError`: USAGE, STORAGE."""
    from slmchat.commands import output  # with what answers are made of

    path = output.target_of(str(file), "-o", f"chat.{format}")
    try:
        if path.exists() and not path.is_file():
            raise usage_error(f"-o: {file} is not a file.")
        if path.exists() and not is_forced:
            raise usage_error(f"-o: {file} exists.", "--force overwrites it")
        return path, FileWriter(Path(os.path.realpath(path)), is_private=True)
    except OSError as error:
        raise output.refusal_of(error, path) from error


def import_(file: str, settings: Settings, console: Console) -> ExitCode:
    """Take in an export of slm's own, or the chats of another tool; `-` is stdin. New ids go to stdout."""
    path = Path(file) if file != "-" else None
    data = _read(path) if path is not None else read_piped(console, _MOST_BYTES)
    chats = foreign_formats.chats_in(data, path)
    with _archive(settings) as archive:
        if chats is None:
            return _import_own(text_of(data, file if path else "standard input"), archive, settings, console)
        n_empty = 0

        def made() -> Iterator[tuple[Conversation, exchange.Times]]:
            nonlocal n_empty
            for chat in chats:
                conversation = foreign_chat.conversation_of(chat)
                if conversation is None:
                    n_empty += 1
                else:
                    yield conversation, chat.times

        taken = archive.take_in(made())
    if not console.is_stdout_tty:
        console.write("".join(f"{id}\n" for id in taken.new))
    told = [f"{counted(len(taken.new), 'conversation')} imported"]
    told += [f"{counted(taken.n_grown, 'conversation')} brought up to date"] if taken.n_grown else []
    told += [f"{counted(taken.n_known, 'conversation')} known already"] if taken.n_known else []
    told += [f"{counted(n_empty, 'conversation')} without a message left out"] if n_empty else []
    console.note(f"{', '.join(told)}.")
    if taken.new:
        console.note("next: slm chat --resume, or slm sessions search WORDS")
    return ExitCode.DONE


def _import_own(text: str, archive: Archive, settings: Settings, console: Console) -> ExitCode:
    if '"pictures"' in text:  # an untrusted picture is decoded behind the seal only
        from slmchat.models import sandbox

        sandbox.seal(settings)
    id = archive.import_json(text)
    console.print(id)
    console.note(f"imported. next: slm chat --session {id[:8]}")
    return ExitCode.DONE


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(foreign_formats.MOST_BYTES)
    except FileNotFoundError:
        raise usage_error(f"there is no file {file}.") from None
    except OSError as error:
        raise usage_error(f"{file} cannot be read: {error.strerror or error}.") from error


def rename(name: str, title: str, settings: Settings, console: Console) -> ExitCode:
    """Another title for a session."""
    title = _one_line(title)
    if not title:
        raise usage_error("a title cannot be empty.")
    with _archive(settings) as archive:
        session = archive.find(name)
        archive.rename(session.id, title)
    console.note(f"{session.short_id} is now '{title}'.")
    return ExitCode.DONE


def rm(
    names: Sequence[str], settings: Settings, console: Console, *, is_all: bool = False, is_yes: bool = False
) -> ExitCode:
    """Remove sessions for good: all that are named, or none if one is not there.

    A person is asked first, unless `is_yes`; a script only for `is_all`. A title counts only when it is given whole.
    """
    if bool(names) == is_all:
        raise usage_error("remove which sessions?", "slm sessions rm ID..., or --all")
    with _archive(settings) as archive:
        sessions = archive.list() if is_all else [archive.find(name, is_exact=True) for name in names]
        if sessions and not is_yes and (is_all or console.can_ask):
            _ask(sessions, console)
        ids = [session.id for session in sessions]
        # the states first: on a full disk they make the room that the archive needs
        _forget_states(settings, None if is_all else ids)
        try:
            is_erased = archive.remove(ids)
        except SlmError as error:
            if error.exit_code is not ExitCode.STORAGE:
                raise
            _forget_states(settings, None)  # all of them: they are only a cache
            is_erased = archive.remove(ids)
    if is_all:
        console.note(f"removed {counted(len(sessions), 'session')}.")
    for session in () if is_all else dict.fromkeys(sessions):
        console.note(f"removed {session.short_id} '{_one_line(session.title)}'.")
    if not is_erased:
        console.warn("traces may stay in the archive's file: another slm is using it, or the disk is full.")
        console.note("the next slm sessions rm clears them.")
    return ExitCode.DONE


def _forget_states(settings: Settings, ids: Sequence[str] | None) -> None:
    """Delete what was said in these sessions from the states of the KV cache; None: all states, documents too."""
    store = KvStore(settings.paths.kv_states)
    try:
        if ids is None:
            store.forget_all()
        else:
            store.forget_owners(ids)
    except OSError as error:
        raise storage_error(error, settings.paths.kv_states) from error


def _ask(sessions: Sequence[SessionSummary], console: Console) -> None:
    what = counted(len(sessions), "session")
    if len(sessions) == 1:
        what = f"'{_one_line(sessions[0].title)}' ({counted(sessions[0].message_count, 'message')})"
    if not console.ask(f"Remove {what} for good?"):
        raise usage_error("nothing was removed.", "--yes removes without asking")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def ago(time: str, now: datetime | None = None) -> str:
    """How long ago a moment (ISO 8601) was, as people say it; from a month on the date."""
    then = datetime.fromisoformat(time)
    passed = (now or datetime.now(UTC)) - then
    if passed < timedelta(minutes=1):
        return "just now"
    if passed < timedelta(hours=1):
        return f"{passed // timedelta(minutes=1)} min ago"
    if passed < timedelta(days=1):
        return f"{passed // timedelta(hours=1)} h ago"
    if passed < timedelta(days=2):
        return "yesterday"
    if passed < timedelta(days=30):
        return f"{passed.days} days ago"
    return then.astimezone().date().isoformat()
