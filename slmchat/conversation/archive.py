"""The saved conversations: sessions in one SQLite file, written as they happen, listed, found, removed.

Knows: how the tree of a conversation lies in the tables.
Refuses to know: the file itself (database.py), how people name a session (archive_names.py), the search index
(archive_search.py), formats for other programs (exchange.py), when to write (recorder.py), and how anything is shown:
texts come out as raw as they went in.

The file is opened when something is first asked of it, so each method may raise `SlmError` (storage, damaged), and it
is created by the first message that is written: asking an archive that does not exist finds nothing and leaves nothing.
"""

import itertools
import struct
from collections.abc import Collection, Iterable, Sequence
from dataclasses import field
from datetime import UTC, datetime
from pathlib import Path

from slmchat.conversation import archive_names, archive_pictures, archive_rows, archive_schema, archive_search, exchange
from slmchat.conversation.archive_names import SHORT_ID, SessionSummary, unknown
from slmchat.conversation.archive_search import Hit
from slmchat.conversation.messages import Conversation, Message, Node, Role, new_id
from slmchat.database import WAIT_S, Database
from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass

_TAKEN_AT_ONCE = 500  # conversations of one transaction


@dataclass(slots=True)
class TakenIn:
    """What became of conversations that were taken in: ids of the new ones, how many had more to say, or nothing."""

    new: "list[str]" = field(default_factory=list)
    n_grown: int = 0
    n_known: int = 0


class Archive:
    """The sessions in `file`. One object for each thread of work; many processes may use the file at once."""

    def __init__(self, file: Path) -> None:
        self._database = Database(file, archive_schema.SCHEMA)

    def close(self) -> None:
        self._database.close()

    # Writing

    def store(
        self,
        conversation: Conversation,
        nodes: Iterable[Node],
        *,
        growing: Collection[str] = (),
        is_title_new: bool = True,
        is_synced: bool = True,
        wait_s: float = WAIT_S,
    ) -> None:
        """Write the session and these of its nodes, parents before children.

        `growing`: ids of answers that are not complete; they are marked as cut, and left out while they are empty.
        Not `is_title_new`: a title that the archive has stays, it may have been changed in another terminal.
        A session that is gone (removed in another terminal) is written anew, whole.
        """
        with self._database.transaction(is_synced=is_synced, wait_s=wait_s):
            key = self._key(conversation.id)
            if key is None:
                key, nodes, is_title_new = self._insert_session(conversation), conversation.nodes(), True
            if not self._put_all(key, nodes, growing):
                self._put_all(key, conversation.nodes(), growing)
            self._update_session(key, conversation, is_title_new)

    def refresh_index(self) -> None:
        """Bring the search index up to date; what cannot be done now is done by a later call."""
        archive_search.refresh(self._database)

    def has(self, id: str) -> bool:
        """Whether the session is here; False also where the archive cannot be read just now."""
        try:
            return bool(self._database.rows("SELECT 1 FROM sessions WHERE id = ?", (id,)))
        except SlmError:
            return False

    def rename(self, id: str, title: str) -> None:
        """Another title. Raises `SlmError` (usage) when there is no such session."""
        if not self._database.rows("SELECT 1 FROM sessions WHERE id = ?", (id,)):
            raise unknown(id)
        with self._database.transaction():
            self._database.run("UPDATE sessions SET title = ? WHERE id = ?", (_storable(title), id))

    def remove(self, ids: Sequence[str]) -> bool:
        """Delete sessions for good; ids that are not there are no error.

        True: nothing of their text is left in the archive's files. False: another slm was in the way, and traces may
        stay until the next removal.
        """
        database = self._database
        keys = [key for id in ids if (key := self._key(id)) is not None]
        if not keys:
            return True
        is_everything = not set(self._all_keys()) - set(keys)
        try:
            with database.transaction():
                is_purged = self._remove(keys, is_everything=is_everything)
        except SlmError as error:
            if error.exit_code is not ExitCode.STORAGE:
                raise
            with database.transaction_in_place():  # the disk is full, or the reason comes again
                archive_search.drop(database)
                is_purged = self._remove(keys, is_everything=is_everything)
        return database.erase() and is_purged

    def _remove(self, keys: Sequence[int], *, is_everything: bool) -> bool:
        """Inside a transaction; False: words of the texts may be left in the index."""
        database = self._database
        if is_everything:
            archive_search.mark_stale(database)
        for key in keys:
            archive_search.forget(database, "session = ?", key)
            database.run("DELETE FROM unindexed WHERE key IN (SELECT key FROM messages WHERE session = ?)", (key,))
            archive_pictures.forget(database, key)
            database.run("DELETE FROM messages WHERE session = ?", (key,))
            database.run("DELETE FROM sessions WHERE key = ?", (key,))
        return archive_search.purge(database, is_everything=is_everything)

    def import_json(self, text: str) -> str:
        """Take in what `export_json` gave; the id of the new session. The text is not trusted.

        An id that is taken is replaced by a new one. Raises `SlmError` (damaged) when it is not such an export.
        """
        conversation, times = exchange.from_json(text)
        for node in conversation.nodes():
            for picture in node.message.pictures:
                picture.purify()  # a wrong one must not stand where a right one will be looked for
        if self._key(conversation.id) is not None:
            conversation.id = new_id()
        with self._database.transaction():
            key = self._insert_session(conversation)
            self._put_all(key, conversation.nodes(), ())
            self._update_session(key, conversation, is_title_new=True)
            self._set_times(key, times)
        self.refresh_index()
        return conversation.id

    def take_in(self, conversations: Iterable[tuple[Conversation, exchange.Times]]) -> "TakenIn":
        """Write conversations that other tools had. Ids tell those that are here already: of them only what is new is
        written, and what was said here since then stays as it is."""
        taken = TakenIn()
        waiting = iter(conversations)
        while batch := list(itertools.islice(waiting, _TAKEN_AT_ONCE)):
            with self._database.transaction():
                for conversation, times in batch:
                    self._take_in(conversation, times, taken)
        self.refresh_index()
        return taken

    def _take_in(self, conversation: Conversation, times: exchange.Times, taken: "TakenIn") -> None:
        key = self._key(conversation.id)
        nodes = list(conversation.nodes())
        if key is None:
            key = self._insert_session(conversation)
            taken.new.append(conversation.id)
        else:
            rows = self._database.rows("SELECT id, text FROM messages WHERE session = ?", (key,))
            here = {archive_rows.text(id): archive_rows.text(text) for id, text in rows}
            ours = set(here) - {node.id for node in nodes}
            nodes = [node for node in nodes if here.get(node.id) != _storable(node.message.text)]
            if not nodes:
                taken.n_known += 1
                return
            taken.n_grown += 1
            if ours:  # it has gone on here: the branch in use stays
                self._put_all(key, nodes, ())
                self._database.run(
                    "UPDATE sessions SET message_count = (SELECT count(*) FROM messages WHERE session = sessions.key)"
                    " WHERE key = ?",
                    (key,),
                )
                return
        self._put_all(key, nodes, ())
        self._update_session(key, conversation, is_title_new=True)
        self._set_times(key, times)

    def _set_times(self, key: int, times: exchange.Times) -> None:
        """As an imported file says, but nothing from the future: that would be the latest for ever."""
        self._database.run(
            "UPDATE sessions SET created_at = ?, updated_at = ? WHERE key = ?",
            (min(times.created_at, _now()), min(times.updated_at, _now()), key),
        )

    # Reading

    def load(self, id: str) -> Conversation:
        """The whole tree of a session, by its full id. Raises `SlmError` (usage) when it is not there."""
        rows = self._database.rows(
            "SELECT key, title, system, summary, current, seen_from FROM sessions WHERE id = ?", (id,)
        )
        if not rows:
            raise unknown(id)
        key, title, system, summary, current, seen_from = rows[0]
        conversation = Conversation(system=archive_rows.text_or_none(system), id=id)
        conversation.title = archive_rows.text(title)
        nodes = self._attach_nodes(key, conversation)
        # NULL is a place, too: before the first message (the only exchange was undone, or nothing came of it)
        conversation.current = None if current is None else nodes.get(current) or _last_tip(conversation)
        first_seen = nodes.get(seen_from)
        if seen_from is None or first_seen in conversation.path():
            conversation.seen_from, conversation.summary = first_seen, archive_rows.text_or_none(summary)
        return conversation

    def find(self, text: str, *, is_exact: bool = False) -> SessionSummary:
        """The session that the user means: first digits of the id (at least 4), title, or the beginning of one title.

        `is_exact`: the beginning of a title is not enough (for removal). Raises `SlmError` (usage) that names the
        nearest sessions when there are none or several.
        """
        return archive_names.find(self._database, text, is_exact=is_exact)

    def latest(self) -> SessionSummary | None:
        """The session with an answer that was last written to."""
        return archive_names.latest(self._database)

    def list(self, limit: int | None = None) -> Sequence[SessionSummary]:
        """Sessions, the last one written to first; those without any answer come behind all others."""
        return archive_names.newest(self._database, limit)

    def search(self, query: str, limit: int = 50, *, may_write: bool = True) -> Sequence[Hit]:
        """Messages and titles with all these words, newest first. Any query is a good query.

        Not `may_write`: messages that the index does not have yet (of a chat that was killed) are not found.
        """
        return archive_search.search(self._database, query, limit, may_write=may_write)

    def has_index(self) -> bool:
        """False: this Python's SQLite has no FTS5; search reads every message, and finds parts of words too."""
        return self._database.has_fts5()

    def export_json(self, id: str) -> str:
        """The whole tree for other programs, and for `import_json`. Raises `SlmError` (usage)."""
        conversation = self.load(id)
        return exchange.to_json(conversation, self._times(id))

    def export_markdown(self, id: str) -> str:
        """The current path for people to read; raw model text. Raises `SlmError` (usage)."""
        conversation = self.load(id)
        return exchange.to_markdown(conversation, self._times(id))

    # How a conversation lies in the tables

    def _key(self, id: str) -> int | None:
        rows = self._database.rows("SELECT key FROM sessions WHERE id = ?", (id,))
        return int(rows[0][0]) if rows else None

    def _all_keys(self) -> Iterable[int]:
        return (key for (key,) in self._database.rows("SELECT key FROM sessions"))

    def _times(self, id: str) -> exchange.Times:
        rows = self._database.rows("SELECT created_at, updated_at FROM sessions WHERE id = ?", (id,))
        return exchange.Times(*map(archive_rows.time, rows[0]))

    def _insert_session(self, conversation: Conversation) -> int:
        created_at = conversation.roots[0].created_at if conversation.roots else _now()
        return self._database.run(
            "INSERT INTO sessions (id, title, message_count, created_at, updated_at) VALUES (?, '', 0, ?, ?)",
            (conversation.id, created_at, created_at),
        )

    def _update_session(self, key: int, conversation: Conversation, is_title_new: bool) -> None:
        path = conversation.path()
        stored = (node for node in reversed(path) if self._message_key(key, node) is not None)
        current = next(stored, None)  # an answer that is still empty is not stored: then the question before it
        model = next((node.message.model for node in reversed(path) if node.message.model), None)
        self._database.run(
            "UPDATE sessions SET current = ?, seen_from = ?, system = ?, summary = ?, model = ?,"
            # a clock that was set back must not make this one older than what was said before it
            " updated_at = max(?, (SELECT max(updated_at) FROM sessions)),"
            " title = CASE WHEN ? THEN ? ELSE title END,"
            " message_count = (SELECT count(*) FROM messages WHERE session = sessions.key) WHERE key = ?",
            (
                current and current.id,
                conversation.seen_from and conversation.seen_from.id,
                _storable(conversation.system),
                _storable(conversation.summary),
                _storable(model),
                _now(),
                is_title_new,
                _storable(conversation.title),
                key,
            ),
        )

    def _message_key(self, session: int, node: Node) -> int | None:
        rows = self._database.rows("SELECT key FROM messages WHERE session = ? AND id = ?", (session, node.id))
        return int(rows[0][0]) if rows else None

    def _put_all(self, session: int, nodes: Iterable[Node], growing: Collection[str]) -> bool:
        """Write nodes; False when one's parent is not there (another terminal removed and wrote the session anew)."""
        for node in nodes:
            message = node.message
            is_growing = node.id in growing
            if is_growing and not (message.text or message.thinking or node.children):
                continue
            parent = self._message_key(session, node.parent) if node.parent else None
            if node.parent and parent is None:
                return False
            self._put(session, node, parent, is_cut=message.is_cut or is_growing)
        return True

    def _put(self, session: int, node: Node, parent: int | None, *, is_cut: bool) -> None:
        message = node.message
        text, thinking, model = _storable(message.text), _storable(message.thinking), _storable(message.model)
        tokens = None if message.tokens is None else struct.pack(f"<{len(message.tokens)}I", *message.tokens)
        key = self._message_key(session, node)
        if key is None:
            key = self._database.run(
                "INSERT INTO messages (session, id, parent, role, created_at, is_cut, model, text, thinking, tokens)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (session, node.id, parent, message.role, node.created_at, is_cut, model, text, thinking, tokens),
            )
            archive_pictures.put(self._database, key, message.pictures)
        else:
            archive_search.forget(self._database, "key = ?", key)
            self._database.run(
                "UPDATE messages SET is_cut = ?, model = ?, text = ?, thinking = ?, tokens = ? WHERE key = ?",
                (is_cut, model, text, thinking, tokens, key),
            )
        self._database.run("INSERT OR IGNORE INTO unindexed VALUES (?)", (key,))

    def _attach_nodes(self, session: int, conversation: Conversation) -> dict[str, Node]:
        """Build the tree; keys grow with time, so a parent comes before its children, and they come in their order."""
        by_key: dict[int, Node] = {}
        pictures = archive_pictures.of_session(self._database, session)
        for key, id, parent_key, role, text, thinking, tokens, model, is_cut, created_at in self._database.rows(
            "SELECT key, id, parent, role, text, thinking, tokens, model, is_cut, created_at"
            " FROM messages WHERE session = ? ORDER BY key",
            (session,),
        ):
            if role not in list(Role):
                raise self._database.damaged(f"a message of the session {conversation.id[:SHORT_ID]} is of nobody")
            read = archive_rows
            message = Message(
                *(Role(role), read.text(text), read.tokens(tokens), bool(is_cut), read.text(thinking)),
                *(read.text_or_none(model), pictures.get(key, ())),
            )
            parent = by_key.get(parent_key)
            by_key[key] = node = Node(message, parent, read.text(id), read.time(created_at))
            conversation.siblings_below(parent).append(node)
        return {node.id: node for node in by_key.values()}


def _last_tip(conversation: Conversation) -> Node | None:
    return conversation.tip_of(conversation.roots[-1]) if conversation.roots else None


def _now() -> str:
    """To the microsecond, so that the last of two chats is the last."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _storable(text: str | None) -> str | None:
    """Without halves of surrogate pairs, which no encoding can write (arguments and pastes may have some)."""
    if text is None or text.isascii():
        return text
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
