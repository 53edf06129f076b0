"""The saved conversations as a list shows them, and which of them a person means.

Knows: ids that are abbreviated, titles, the nearest ones where nothing is meant.
Refuses to know: what was said (archive.py), words in it (archive_search.py).
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from slmchat.conversation import archive_rows
from slmchat.database import Database
from slmchat.errors import SlmError, usage_error

# The first characters of an id that are shown; an id may be abbreviated down to four.
SHORT_ID = 8

_SUMMARY = "SELECT id, title, model, message_count, created_at, updated_at FROM sessions"
_HAS_ANSWER = "EXISTS (SELECT 1 FROM messages WHERE session = sessions.key AND role = 'assistant')"
_MOST_NAMED = 5  # sessions in an error message


class SessionSummary(NamedTuple):
    """What a list shows of a session. Times are UTC in ISO 8601; `model` is the key of the last one that answered."""

    id: str
    title: str
    model: str | None
    message_count: int
    created_at: str
    updated_at: str

    @property
    def short_id(self) -> str:
        return self.id[:SHORT_ID]


def find(database: Database, text: str, *, is_exact: bool = False) -> SessionSummary:
    """The session that the user means: first digits of the id (at least 4), title, or the beginning of one title.

    `is_exact`: the beginning of a title is not enough (for removal). Raises `SlmError` (usage) that names the
    nearest sessions when there are none or several.
    """
    wanted = _folded(text)
    if re.fullmatch("[0-9a-f]{4,32}", wanted):
        found = _summaries(database, "WHERE id GLOB ? ORDER BY updated_at DESC", wanted + "*")
        if found:
            return _only(found, text)
    titles = database.rows("SELECT id, title FROM sessions ORDER BY updated_at DESC")
    folded = [(id, _folded(archive_rows.text(title))) for id, title in titles]
    ids = [id for id, title in folded if title == wanted]
    if not ids and wanted and not is_exact:
        ids = [id for id, title in folded if title.startswith(wanted)]
    if not ids:
        raise unknown(text, _nearest(wanted, folded, dict(titles)))
    return _only([one for id in ids[: _MOST_NAMED + 1] for one in _summaries(database, "WHERE id = ?", id)], text)


def latest(database: Database) -> SessionSummary | None:
    """The session with an answer that was last written to."""
    found = _summaries(database, f"WHERE {_HAS_ANSWER} ORDER BY updated_at DESC, key DESC LIMIT ?", 1)
    return next(iter(found), None)


def newest(database: Database, limit: int | None = None) -> Sequence[SessionSummary]:
    """Sessions, the last one written to first; those without any answer come behind all others."""
    order = f"ORDER BY {_HAS_ANSWER} DESC, updated_at DESC, key DESC LIMIT ?"
    return _summaries(database, order, -1 if limit is None else limit)


def _summaries(database: Database, condition: str, parameter: Any) -> Sequence[SessionSummary]:
    rows = database.rows(f"{_SUMMARY} {condition}", (parameter,))
    read = archive_rows
    return [
        SessionSummary(
            read.text(id),
            read.text(title),
            read.text_or_none(model),
            read.count(messages),
            read.time(created_at),
            read.time(updated_at),
        )
        for id, title, model, messages, created_at, updated_at in rows
    ]


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def _only(found: Sequence[SessionSummary], text: str) -> SessionSummary:
    if len(found) == 1:
        return found[0]
    named = ", ".join(f"{one.id[:12]} '{one.title}'" for one in found[:_MOST_NAMED])
    more = ", …" if len(found) > _MOST_NAMED else ""
    raise usage_error(f"'{text}' may be more than one session.", f"which one: {named}{more}")


def _nearest(wanted: str, folded: Sequence[tuple[str, str]], titles: dict[str, Any]) -> Sequence[str]:
    """The sessions with titles most like what was asked for, among the newest."""
    import difflib

    newest = {title: id for id, title in reversed(folded[:1_000])}
    near = difflib.get_close_matches(wanted, newest, n=3, cutoff=0.5)
    return [f"{newest[title][:SHORT_ID]} '{archive_rows.text(titles[newest[title]])}'" for title in near]


def unknown(text: str, nearest: Sequence[str] = ()) -> SlmError:
    """There is no such session. `nearest`: those that may have been meant."""
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else "slm sessions list"
    return usage_error(f"there is no session '{text}'.", hint)
