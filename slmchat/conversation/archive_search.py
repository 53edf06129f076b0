"""Finding what was said: the user's words as a safe query, the index, hits with the words in their context.

Knows: FTS5, its index over the messages and how it is kept up, and what to do without it.
Refuses to know: SQLite's errors and files (database.py), how hits are shown.

The index has no copy of the texts, only their words. It lags behind: what is written goes to the table `unindexed`, and
`refresh` takes it from there, so that saving an answer never waits for the index, nor fails with it.
"""

import re

from slmchat.conversation import archive_rows
from slmchat.database import Database
from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass

_MOST_CHARACTERS = 1_000  # of a query
_MOST_TERMS = 32
_MOST_PER_SESSION = 3
_PAGE = 200  # messages looked at in one go
_PAGES = 10
_WAIT_S = 0.5  # for another slm that is writing, before the index is left as it is
_CONTEXT = 60  # characters on each side of a hit, where slm cuts it out itself
_OPEN, _CLOSE = "\x02", "\x03"  # stand around the words in a snippet of FTS5; no text to show contains them

# Scripts that put no spaces between words: the index takes a whole phrase for one word, so they are scanned for.
# Thai, Lao, Myanmar, Khmer, kana, Han with its extensions.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


@dataclass(frozen=True, slots=True)
class Hit:
    """One message (or a title: `role` is None) with the words found. `parts`: text, and whether it is a word found."""

    session: str
    title: str
    role: str | None
    created_at: str
    parts: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class Term:
    """A word or a quoted phrase of a query; a prefix finds words that begin with it."""

    text: str
    is_prefix: bool = False

    @property
    def is_indexed(self) -> bool:
        """Whether the index can find it: it has letters or digits, of a script with spaces."""
        return any(char.isalnum() for char in self.text) and not _UNSPACED.search(self.text)


def parse(query: str) -> list[Term]:
    """Words, "quoted phrases", and the last word as a prefix; nothing in a query has another meaning."""
    query = query[:_MOST_CHARACTERS].encode("utf-8", "replace").decode().replace("\0", " ")
    terms = [
        Term(" ".join(phrase.split()) or word)
        for phrase, word in re.findall(r'"([^"]*)"|([^\s"]+)', query)
        if phrase.strip() or word
    ][:_MOST_TERMS]
    if terms and not query.rstrip().endswith('"'):
        terms[-1] = Term(terms[-1].text, is_prefix=True)
    return terms


def search(database: Database, query: str, limit: int, *, may_write: bool) -> list[Hit]:
    """Titles first, then messages, newest first, at most three of a session; all words must be in the one message."""
    terms = parse(query)
    if not terms or not database.rows("SELECT 1 FROM sessions LIMIT 1"):
        return []
    hits = _titles(database, terms, limit)
    if may_write:
        refresh(database)
    if all(term.is_indexed for term in terms) and database.has_fts5() and _is_usable(database):
        try:
            return hits + _indexed(database, terms, limit - len(hits))
        except SlmError as error:
            if error.exit_code is not ExitCode.DAMAGED or not may_write:
                raise
            mark_stale(database)  # the messages are whole, or the scan says so
    return hits + _scanned(database, terms, limit - len(hits))


def refresh(database: Database) -> None:
    """Bring the index up to date, if nobody else is writing; what cannot be done now is done by a later call."""
    try:
        _refresh(database)
    except SlmError:
        return


def _refresh(database: Database) -> None:
    if not database.has_fts5() or not (_has_index(database) or database.rows("SELECT 1 FROM messages LIMIT 1")):
        return
    if _is_usable(database) and not database.rows("SELECT 1 FROM unindexed LIMIT 1"):
        return
    with database.transaction(is_synced=False, wait_s=_WAIT_S):
        if _is_usable(database):
            database.run(
                "INSERT INTO search (rowid, text)"
                " SELECT key, text FROM messages WHERE key IN (SELECT key FROM unindexed)"
            )
        else:
            database.run("DROP TABLE IF EXISTS search")
            database.run(
                "CREATE VIRTUAL TABLE search USING fts5"
                " (text, content = 'messages', content_rowid = 'key', tokenize = 'unicode61 remove_diacritics 2')"
            )
            database.run("INSERT INTO search (search) VALUES ('rebuild')")
        database.run("DELETE FROM unindexed")


def forget(database: Database, where: str, value: int) -> None:
    """Take messages out of the index, inside a transaction and before their text changes or goes.

    `where` is a condition on `messages` of ours, `value` its parameter. What the index cannot forget makes it stale.
    """
    wanted = f"FROM messages WHERE {where} AND key NOT IN (SELECT key FROM unindexed)"
    if not _is_usable(database) or not database.rows(f"SELECT 1 {wanted} LIMIT 1", (value,)):
        return
    if not database.has_fts5():
        mark_stale(database)
        return
    try:
        database.run(f"INSERT INTO search (search, rowid, text) SELECT 'delete', key, text {wanted}", (value,))
    except SlmError as error:
        if error.exit_code is not ExitCode.DAMAGED:
            raise
        mark_stale(database)


def purge(database: Database, *, is_everything: bool) -> bool:
    """After a removal, in its transaction: leave no forgotten word in the index. False: this SQLite cannot."""
    if not _has_index(database):
        return True
    if not database.has_fts5():
        return False
    if is_everything or not _is_usable(database):
        database.run("DROP TABLE search")
    else:
        database.run("INSERT INTO search (search) VALUES ('optimize')")  # words forgotten stay until segments merge
    return True


def drop(database: Database) -> None:
    """Let go of the whole index inside a transaction, so that its room can be used; the next refresh makes it anew."""
    if _has_index(database) and database.has_fts5():
        database.run("DROP TABLE search")
    mark_stale(database)


def mark_stale(database: Database) -> None:
    """The next refresh makes the index anew."""
    database.run("INSERT OR IGNORE INTO unindexed VALUES (0)")


def _has_index(database: Database) -> bool:
    return bool(database.rows("SELECT 1 FROM sqlite_master WHERE name = 'search'"))


def _is_usable(database: Database) -> bool:
    return _has_index(database) and not database.rows("SELECT 1 FROM unindexed WHERE key = 0")


def _indexed(database: Database, terms: list[Term], limit: int) -> list[Hit]:
    """Through FTS5; every term is a quoted string there, in which only the quote itself has a meaning."""
    match = " ".join(f'"{term.text}"' + ("*" if term.is_prefix else "") for term in terms)
    found = _Found(limit)
    before = 2**63 - 1
    for _ in range(_PAGES):
        rows = database.rows(
            "SELECT search.rowid, sessions.id, title, role, messages.created_at,"
            " snippet(search, 0, ?, ?, '…', 24)"
            " FROM search JOIN messages ON messages.key = search.rowid JOIN sessions ON sessions.key = messages.session"
            " WHERE search MATCH ? AND search.rowid < ? ORDER BY search.rowid DESC LIMIT ?",
            (_OPEN, _CLOSE, match, before, _PAGE),
        )
        for key, session, title, role, created_at, snippet in rows:
            found.add(_hit(session, title, role, created_at, _parts_of(archive_rows.text(snippet))))
            before = key
        if len(rows) < _PAGE or found.is_full:
            break
    return found.hits


def _scanned(database: Database, terms: list[Term], limit: int) -> list[Hit]:
    """Without the index: every text is read. 200,000 messages of 300 characters take about 100 ms on a laptop."""
    condition, parameters = _like("messages.text", terms)
    rows = database.rows(
        "SELECT sessions.id, title, role, messages.created_at, messages.text"
        " FROM messages JOIN sessions ON sessions.key = messages.session"
        f" WHERE {condition} ORDER BY messages.key DESC LIMIT ?",
        (*parameters, _PAGE * _PAGES),
    )
    found = _Found(limit)
    for session, title, role, created_at, text in rows:
        if found.is_full:
            break
        found.add(_hit(session, title, role, created_at, _cut_out(archive_rows.text(text), terms)))
    return found.hits


def _titles(database: Database, terms: list[Term], limit: int) -> list[Hit]:
    condition, parameters = _like("title", terms)
    rows = database.rows(
        f"SELECT id, title, created_at FROM sessions WHERE {condition} ORDER BY updated_at DESC LIMIT ?",
        (*parameters, limit),
    )
    return [
        _hit(id, title, None, created_at, _marked(archive_rows.text(title), terms)) for id, title, created_at in rows
    ]


def _hit(session: object, title: object, role: object, created_at: object, parts: tuple[tuple[str, bool], ...]) -> Hit:
    read = archive_rows
    return Hit(read.text(session), read.text(title), read.text_or_none(role), read.time(created_at), parts)


class _Found:
    """Hits, not too many of one session."""

    def __init__(self, limit: int) -> None:
        self.hits: list[Hit] = []
        self._limit = limit
        self._counts: dict[str, int] = {}

    @property
    def is_full(self) -> bool:
        return len(self.hits) >= self._limit

    def add(self, hit: Hit) -> None:
        self._counts[hit.session] = self._counts.get(hit.session, 0) + 1
        if not self.is_full and self._counts[hit.session] <= _MOST_PER_SESSION:
            self.hits.append(hit)


def _like(column: str, terms: list[Term]) -> tuple[str, list[str]]:
    """A condition that all terms are somewhere in the column. LIKE knows the case of ASCII only, so others are tried
    in the usual spellings."""
    conditions: list[str] = []
    parameters: list[str] = []
    for term in terms:
        text = term.text
        spellings = [text] if text.isascii() else sorted({text, text.lower(), text.upper(), text.capitalize()})
        conditions.append("(" + " OR ".join(f"{column} LIKE ? ESCAPE '\\'" for _ in spellings) + ")")
        parameters += ["%" + re.sub(r"([\\%_])", r"\\\1", spelling) + "%" for spelling in spellings]
    return " AND ".join(conditions), parameters


def _parts_of(snippet: str) -> tuple[tuple[str, bool], ...]:
    """The snippet of FTS5 cut at its marks."""
    parts = re.split(f"({_OPEN}[^{_CLOSE}]*{_CLOSE})", snippet)
    return tuple((part.strip(_OPEN + _CLOSE), part.startswith(_OPEN)) for part in parts if part)


def _cut_out(text: str, terms: list[Term]) -> tuple[tuple[str, bool], ...]:
    """The surroundings of the first word found."""
    found = _pattern(terms).search(text)
    start = max(0, found.start() - _CONTEXT) if found else 0
    end = (found.end() if found else 0) + _CONTEXT
    return _marked(("…" if start else "") + text[start:end] + ("…" if end < len(text) else ""), terms)


def _marked(text: str, terms: list[Term]) -> tuple[tuple[str, bool], ...]:
    parts = re.split(f"({_pattern(terms).pattern})", text, flags=re.IGNORECASE)
    return tuple((part, number % 2 == 1) for number, part in enumerate(parts) if part)


def _pattern(terms: list[Term]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(term.text) for term in terms), re.IGNORECASE)
