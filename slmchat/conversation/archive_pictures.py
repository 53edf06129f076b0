"""The pictures of saved conversations: each kept once, by the hash of its pixels, for as long as a message shows it.

Knows: two tables of the archive. Refuses to know: formats and decoding (pictures.py), when something is written.
All functions run inside a transaction of the caller.
"""

from collections.abc import Sequence

from slmchat.conversation import archive_rows
from slmchat.conversation.pictures import Picture
from slmchat.database import Database


def put(database: Database, message: int, pictures: Sequence[Picture]) -> None:
    """Keep the pictures of a message that has just been inserted."""
    for place, picture in enumerate(pictures):
        known = database.rows("SELECT key FROM pictures WHERE id = ?", (picture.id,))
        key = known[0][0] if known else None
        if key is None:
            key = database.run(
                "INSERT INTO pictures (id, width, height, png) VALUES (?, ?, ?, ?)",
                (picture.id, picture.width, picture.height, picture.png()),
            )
        name = picture.name.encode("utf-8", "replace").decode()  # a file's name may hold halves of surrogate pairs
        database.run("INSERT INTO message_pictures VALUES (?, ?, ?, ?)", (message, place, key, name))


def of_session(database: Database, session: int) -> dict[int, tuple[Picture, ...]]:
    """The pictures of a session by the keys of their messages, in their order."""
    found: dict[int, tuple[Picture, ...]] = {}
    for message, name, *kept in database.rows(
        "SELECT shown.message, shown.name, width, height, pictures.id, png FROM messages"
        " JOIN message_pictures AS shown ON shown.message = messages.key"
        " JOIN pictures ON pictures.key = shown.picture"
        " WHERE session = ? ORDER BY shown.message, shown.place",
        (session,),
    ):
        width, height, id, png = kept
        read = archive_rows
        size = (max(read.count(width), 1), max(read.count(height), 1))
        png = png if isinstance(png, bytes) else b""  # found to be no picture when it is decoded
        found[message] = (*found.get(message, ()), Picture.kept(read.text(name), *size, read.text(id), png))
    return found


def forget(database: Database, session: int) -> None:
    """Let go of the pictures of a session whose messages are about to be deleted, and of those that nobody shows."""
    database.run(
        "DELETE FROM message_pictures WHERE message IN (SELECT key FROM messages WHERE session = ?)", (session,)
    )
    database.run("DELETE FROM pictures WHERE key NOT IN (SELECT picture FROM message_pictures)")
