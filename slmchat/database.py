"""A database of slm's own in one SQLite file: opened, made, migrated, erased; SQLite's errors become sentences.

Knows: versions of tables, WAL, file modes, which SQLite error means what to the user.
Refuses to know: what is in the tables (conversation/archive_schema.py, retrieval/index_schema.py).

What is guaranteed: a transaction that has returned survives the death of this process (kill -9), always. It also
survives a power cut if it was `is_synced` and the disk keeps what it says it has kept; after a power cut the others
may be missing, newest first, but the file is whole. Nothing but this file and its `-wal` and `-shm` is written: SQLite
keeps its temporary tables in memory, and all three files are the owner's alone.
"""

import contextlib
import errno
import functools
import os
import shlex
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass
from slmchat.private_files import create_private

if TYPE_CHECKING:  # sqlite3 takes 5 to 10 ms to import: only when a database is really used
    import sqlite3

# How long a transaction waits for another slm that is writing, in seconds.
WAIT_S = 5.0

_SETUP = (
    "PRAGMA foreign_keys = ON",
    "PRAGMA secure_delete = ON",  # what is deleted is overwritten with zeros
    "PRAGMA temp_store = MEMORY",  # no text in the system's temporary directory
    "PRAGMA trusted_schema = OFF",
    "PRAGMA journal_size_limit = 4194304",
)
_ALONE = "PRAGMA locking_mode = EXCLUSIVE"  # no shared memory beside the file, which takes 32 KiB
# Primary result codes, sqlite.org/rescode.html
_READONLY = 8
_BUSY, _LOCKED, _IOERR, _CORRUPT, _FULL, _CANTOPEN, _NOTADB = 5, 6, 10, 11, 13, 14, 26
# What a full disk makes of a write, of the shared memory beside the file, of a new file.
_NO_ROOM = (_IOERR, _FULL, _CANTOPEN)
_BUGS = (1, 19, 20, 21, 25)  # ERROR, CONSTRAINT, MISMATCH, MISUSE, RANGE: wrong SQL of ours


@dataclass(frozen=True, slots=True)
class Schema:
    """The tables of a file. `steps`: one tuple of statements for each version; a file of version N gets all from N on.

    `tables`: some that every version has; a file without them is not slm's.
    """

    steps: tuple[tuple[str, ...], ...]
    tables: frozenset[str]

    @property
    def version(self) -> int:
        """The newest."""
        return len(self.steps)


class Database:
    """One connection to one file: opened when first used, created when first written.

    May be used from several threads, one after the other. All methods raise `SlmError` (storage or damaged).
    """

    def __init__(self, file: Path, schema: Schema) -> None:
        self.file = file.absolute()
        self._schema = schema
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._lock = threading.RLock()

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> "list[tuple[Any, ...]]":
        """All rows of a query; none when there is no file yet."""
        with self._lock, self._telling():
            connection = self._connected(creates=False)
            return connection.execute(sql, parameters).fetchall() if connection else []

    def check(self) -> None:
        """Let SQLite look through the whole file, if there is one, whatever its schema. Raises `SlmError` (damaged)."""
        import sqlite3

        if not os.path.exists(self.file):
            return
        address = f"{self.file.as_uri()}?mode=rw"  # what only reads would leave the files of the log behind
        with self._telling(), contextlib.closing(sqlite3.connect(address, uri=True, timeout=WAIT_S)) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise self.damaged(found)

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """One statement that writes; the key of the row it inserted, if it did."""
        with self._lock, self._telling():
            return self._connected(creates=True).execute(sql, parameters).lastrowid or 0

    @contextmanager
    def transaction(self, *, is_synced: bool = True, wait_s: float = WAIT_S) -> Iterator[None]:
        """All that is run inside, or nothing of it. `is_synced`: on the disk itself when this returns."""
        with self._lock, self._telling():
            connection = self._connected(creates=True)
            connection.execute(f"PRAGMA busy_timeout = {round(wait_s * 1000)}")
            connection.execute(f"PRAGMA synchronous = {'FULL' if is_synced else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # after a full disk SQLite itself has rolled back
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def transaction_in_place(self) -> Iterator[None]:
        """A transaction that takes no room on the disk, for removing something from a full one.

        What it changes is overwritten in the file itself, and what was there before is kept in memory alone: a
        `kill -9` in these milliseconds would damage the file. No other slm may have it open.
        """
        with self._lock, self._telling():
            self.close()
            self._connection = self._prepared(_ALONE, "PRAGMA journal_mode = MEMORY")
            self._identity = _identity(self.file)
            try:
                with self.transaction():
                    yield
            finally:
                self.close()

    @staticmethod
    @functools.cache
    def has_fts5() -> bool:
        """Whether this Python's SQLite can keep a search index."""
        import sqlite3

        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            return ("fts5",) in connection.execute("PRAGMA module_list").fetchall()

    def erase(self) -> bool:
        """Write the file anew without what was deleted; False when another slm is in the way, or the disk is full.

        secure_delete alone is not enough: SQLite moves rows between pages and leaves copies in their gaps.
        """
        with self._lock:
            if self.rows("SELECT 1") == []:
                return True
            try:
                self.run(f"PRAGMA busy_timeout = {round(WAIT_S * 1000)}")
                self.run("VACUUM")
                (is_busy, *_), *_ = self.rows("PRAGMA wal_checkpoint(TRUNCATE)")
                return bool(is_busy == 0)
            except SlmError:
                return False

    def damaged(self, reason: str) -> SlmError:
        """The error for a file that holds what slm never writes."""
        return _damaged(self.file, reason)

    def _is_sound(self) -> bool:
        """Whether the file is as slm makes it, so that a statement which fails on it is a mistake of slm's own."""
        import sqlite3

        connection = self._connection
        if connection is None:
            return True
        try:
            with contextlib.closing(sqlite3.connect(":memory:")) as made:
                _migrate(made, self._schema)
                is_ours = set(_columns(made)) <= set(_columns(connection))
            return is_ours and not connection.execute("PRAGMA foreign_key_check").fetchall()
        except sqlite3.Error:
            return False

    def close(self) -> None:
        """Close the file; the last slm to do so folds `-wal` into it. The next use opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _connected(self, *, creates: bool) -> Any:
        """The connection; None when there is no file and nothing is to be created."""
        connection = self._connection
        if connection is not None and not connection.in_transaction and _identity(self.file) != self._identity:
            self.close()  # the file was deleted or replaced: what went into it now would be lost
        if self._connection is None and (creates or self.file.exists()):
            _check_regular(self.file)
            self._connection = self._open() if creates else self._open_to_read()
            self._identity = _identity(self.file)
        return self._connection

    def _open_to_read(self) -> "sqlite3.Connection":
        """The file, opened; where it must not be written (a backup, a disk that is read-only), for reading alone."""
        import sqlite3

        try:
            return self._open()
        except (OSError, sqlite3.OperationalError) as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code is not None and code & 0xFF not in (_READONLY, _CANTOPEN, _IOERR):
                raise
            # immutable: a log beside it could not be used, for that needs shared memory, which is a file
            found = sqlite3.connect(
                f"{self.file.as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None, check_same_thread=False
            )
            try:
                found.text_factory = _decoded
                _refuse_foreign(found, self._schema, self.file)
                if _version(found) < self._schema.version:
                    raise _cannot(self.file, "an earlier slm has written it, and it must not be changed") from error
            except BaseException:
                found.close()
                raise
            return found

    def _open(self) -> "sqlite3.Connection":
        """The file, opened; with a full disk without the log and the shared memory beside it, for one slm alone."""
        import sqlite3

        create_private(self.file)
        try:
            return self._prepared()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _NO_ROOM:
                raise
            return self._prepared(_ALONE)

    def _prepared(self, *first: str) -> "sqlite3.Connection":
        """A connection on which `first` is executed before anything else, and then nothing that takes room."""
        import sqlite3

        connection = sqlite3.connect(
            f"{self.file.as_uri()}?mode=rw", uri=True, timeout=WAIT_S, isolation_level=None, check_same_thread=False
        )
        try:
            connection.text_factory = _decoded
            for statement in first:
                connection.execute(statement)
            _refuse_foreign(connection, self._schema, self.file)
            for statement in _SETUP:
                connection.execute(statement)
            if not first:
                _use_wal(connection)
            _migrate(connection, self._schema)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Errors of SQLite and of the file system as sentences; mistakes of our own stay what they are."""
        import sqlite3

        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code is None or (code & 0xFF in _BUGS and self._is_sound()):
                raise
            raise _sentence(self.file, code & 0xFF, str(error)) from error
        except OSError as error:
            raise _cannot(self.file, error.strerror or str(error)) from error


class MemoryDatabase(Database):
    """A database that is gone when it is closed, and of which nothing reaches the disk."""

    def __init__(self, name: str, schema: Schema) -> None:
        """`name` stands in messages where the name of a file would."""
        super().__init__(Path(name), schema)
        self.file = Path(name)

    def erase(self) -> bool:
        return True

    def _connected(self, *, creates: bool) -> Any:
        import sqlite3

        if self._connection is None and creates:
            self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            self._connection.text_factory = _decoded
            _migrate(self._connection, self._schema)
        return self._connection


def _check_regular(file: Path) -> None:
    """Raises `OSError` for what SQLite would wait for for ever (a pipe), or not name (a directory)."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(file.stat().st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(file))


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _refuse_foreign(connection: "sqlite3.Connection", schema: Schema, file: Path) -> None:
    """A database that is not slm's, or of a newer slm, is refused before anything in it is touched."""
    connection.execute("BEGIN")  # one view of both: another slm may be creating the tables
    version = _version(connection)
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    connection.execute("ROLLBACK")
    if version > schema.version:
        raise SlmError(
            f"{file} was written by a newer slm (schema {version}; this slm knows {schema.version}).",
            hint="update slm, or use another SLM_HOME",
            exit_code=ExitCode.STORAGE,
        )
    if (version == 0 and tables) or (version > 0 and not schema.tables <= tables):
        raise _damaged(file, "it is a database, but not one of slm's")


def _use_wal(connection: "sqlite3.Connection") -> None:
    """Write-ahead log. A file system that cannot do it leaves the rollback journal: slower, as safe."""
    import sqlite3

    try:
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        # busy: another slm is creating the file and does this itself; full: the next slm will
        if error.sqlite_errorcode & 0xFF not in (_BUSY, _LOCKED, _FULL):
            raise


def _migrate(connection: "sqlite3.Connection", schema: Schema) -> None:
    """Bring the tables to the newest version, all or nothing; another slm may be doing the same."""
    if _version(connection) >= schema.version:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in schema.steps[_version(connection) :]:
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {schema.version}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _columns(connection: "sqlite3.Connection") -> "list[tuple[str, str]]":
    """All columns of all tables, by their names."""
    return connection.execute(
        "SELECT tables.name, columns.name FROM sqlite_master AS tables JOIN pragma_table_info(tables.name) AS columns"
        " WHERE tables.type = 'table'"
    ).fetchall()


def _decoded(text: bytes) -> str:
    """A text of the file; one that is not UTF-8 as far as it can be read."""
    return text.decode("utf-8", "replace")


def _version(connection: "sqlite3.Connection") -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _sentence(file: Path, code: int, reason: str) -> SlmError:
    if code in (_CORRUPT, _NOTADB) or code in _BUGS:
        return _damaged(file, reason)
    if code in (_BUSY, _LOCKED):
        return _cannot(file, "another slm has been writing into it for too long", "try again when it is done")
    if code == _FULL:
        return _cannot(file, "the disk is full", "free some space (slm rm NAME) and try again")
    return _cannot(file, _refused_write(file) or reason)


def _refused_write(file: Path) -> str | None:
    """Why the system lets nobody write there, where that is why: SQLite says "disk I/O error"."""
    with contextlib.suppress(OSError, AttributeError):  # Windows has no statvfs
        if os.statvfs(file.parent).f_flag & os.ST_RDONLY:
            return "its file system is read-only"
    if any(os.path.exists(place) and not os.access(place, os.W_OK) for place in (file, file.parent)):
        return "permission denied"
    return None


def _cannot(file: Path, reason: str, hint: str | None = None) -> SlmError:
    hint = hint or "SLM_HOME chooses another directory for everything that slm writes"
    return SlmError(f"{file} cannot be used: {reason}.", hint=hint, exit_code=ExitCode.STORAGE)


def _damaged(file: Path, reason: str) -> SlmError:
    # SQLite finds a log only beside the file of its name, and would put one that is left behind into the new file
    moves = [
        f"mv {shlex.quote(f'{file}{end}')} {shlex.quote(f'{file}.damaged{end}')}"
        for end in ("", "-wal", "-shm", "-journal")
        if not end or Path(f"{file}{end}").exists()
    ]
    return SlmError(
        f"{file} is damaged: {reason}.",
        hint=f"set it aside and slm begins a new one: {' && '.join(moves)}",
        exit_code=ExitCode.DAMAGED,
    )
