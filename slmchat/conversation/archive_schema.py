"""The tables of the archive, version by version.

Knows: which tables a conversation lies in. Refuses to know: the file they are in (database.py), what a conversation is
and how it is searched.
"""

from slmchat.database import Schema

# Never change a step that was released.
# `sessions` repeats what `list` shows, so that no message is read for it. `unindexed`: keys of messages that the search
# index does not have yet; key 0: the index has texts that are gone and must be made anew (archive_search.py).
_STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE sessions (
            key INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            title TEXT NOT NULL,
            model TEXT,
            message_count INTEGER NOT NULL,
            created_at TEXT NOT NULL,
            updated_at TEXT NOT NULL,
            current TEXT,
            seen_from TEXT,
            system TEXT,
            summary TEXT
        )""",
        "CREATE INDEX sessions_by_time ON sessions (updated_at)",
        """CREATE TABLE messages (
            key INTEGER PRIMARY KEY,
            session INTEGER NOT NULL REFERENCES sessions (key),
            id TEXT NOT NULL,
            parent INTEGER REFERENCES messages (key) DEFERRABLE INITIALLY DEFERRED,
            role TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant')),
            is_cut INTEGER NOT NULL,
            created_at TEXT NOT NULL,
            model TEXT,
            text TEXT NOT NULL,
            thinking TEXT NOT NULL,
            tokens BLOB,
            UNIQUE (session, id)
        )""",
        "CREATE INDEX messages_by_parent ON messages (parent) WHERE parent IS NOT NULL",
        "CREATE TABLE unindexed (key INTEGER PRIMARY KEY)",
    ),
    (  # a picture is there once, whoever shows it (archive_pictures.py)
        """CREATE TABLE pictures (
            key INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            width INTEGER NOT NULL,
            height INTEGER NOT NULL,
            png BLOB NOT NULL
        )""",
        """CREATE TABLE message_pictures (
            message INTEGER NOT NULL REFERENCES messages (key) DEFERRABLE INITIALLY DEFERRED,
            place INTEGER NOT NULL,
            picture INTEGER NOT NULL REFERENCES pictures (key) DEFERRABLE INITIALLY DEFERRED,
            name TEXT NOT NULL,
            PRIMARY KEY (message, place)
        ) WITHOUT ROWID""",
        "CREATE INDEX message_pictures_by_picture ON message_pictures (picture)",
    ),
    (  # `list` asks of each session whether it has an answer: without this it reads a page with a long text for each
        "CREATE INDEX answers_by_session ON messages (session) WHERE role = 'assistant'",
    ),
)

SCHEMA = Schema(_STEPS, frozenset({"sessions", "messages", "unindexed"}))
