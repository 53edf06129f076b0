"""The archive: real files, real processes that are killed, full disks, damaged files, and no traces."""

import errno
import json
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import fork_server
import pytest
from properties import HealthCheck, given
from properties import settings as hypothesis_settings
from properties import strategies as st

from slmchat import database
from slmchat.conversation import archive_schema, archive_search
from slmchat.conversation.archive import Archive
from slmchat.conversation.messages import Conversation, Message, Node, Role
from slmchat.conversation.recorder import ArchiveRecorder
from slmchat.database import Database, Schema
from slmchat.errors import ExitCode, SlmError

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parent.parent
posix_only = pytest.mark.skipif(os.name != "posix", reason="modes, signals and limits of POSIX")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "sessions.db"


@pytest.fixture
def archive(file: Path) -> Iterator[Archive]:
    archive = Archive(file)
    yield archive
    archive.close()


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def recorder(archive: Archive, warnings: list[str]) -> ArchiveRecorder:
    return ArchiveRecorder(archive, warnings.append)


def user(text: str) -> Message:
    return Message(Role.USER, text)


def answer(text: str, **more: object) -> Message:
    return Message(Role.ASSISTANT, text, **{"model": "tiny@Q4_0", **more})  # type: ignore[arg-type]


def talk_about(text: str, recorder: ArchiveRecorder) -> Conversation:
    talk = Conversation(recorder=recorder)
    talk.add(user(text))
    talk.add(answer(f"You asked: {text}"))
    recorder.flush()
    return talk


def texts(nodes: list[Node]) -> list[str]:
    return [node.message.text for node in nodes]


def all_bytes(file: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(file.parent.iterdir()))


def in_another_process(code: str, *arguments: object, below: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Python that has the archive's names at hand; `below`: the command that starts it."""
    prelude = (
        "import sys\nfrom pathlib import Path\n"
        "from slmchat.conversation.archive import Archive\n"
        "from slmchat.conversation.recorder import ArchiveRecorder\n"
        "from slmchat.conversation.messages import Conversation, Message, Role\n"
    )
    return fork_server.popen(
        [*below, sys.executable, "-c", prelude + code, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# What is kept


def test_asking_an_archive_that_is_not_there_leaves_nothing(archive: Archive, tmp_path: Path) -> None:
    assert archive.list() == archive.search("word") == []
    assert archive.latest() is None
    assert archive.remove(["0" * 32])
    with pytest.raises(SlmError, match="there is no session"):
        archive.find("word")
    assert list(tmp_path.iterdir()) == []


def test_a_chat_that_was_opened_and_left_is_not_kept(recorder: ArchiveRecorder, tmp_path: Path) -> None:
    talk = Conversation("system", recorder)
    talk.title = "nothing was said"
    talk.changed()
    talk.go_to(None)
    recorder.close()
    assert list(tmp_path.iterdir()) == []


def test_everything_about_a_conversation_comes_back(archive: Archive, recorder: ArchiveRecorder) -> None:
    talk = Conversation("Be short.", recorder)
    question = talk.add(user("Why is\nthe sky blue? \x1b[31m \x00 你好 🦊"))
    first = talk.add(answer("Because", tokens=(0, 70_000, 2**31), is_cut=True, thinking="hm"))
    talk.go_to(question)
    second = talk.add(answer("Rayleigh."))
    talk.add(user("Who?"))
    talk.see_from(second, "a question")
    talk.go_to(second)
    recorder.flush()
    loaded = Archive(archive._database.file).load(talk.id)
    assert (loaded.system, loaded.summary, loaded.title) == ("Be short.", "a question", talk.title)
    assert [node.message for node in loaded.nodes()] == [node.message for node in talk.nodes()]
    assert [node.id for node in loaded.path()] == [node.id for node in talk.path()]
    assert loaded.seen_from is not None
    assert loaded.seen_from.id == second.id
    assert [node.id for node in loaded.alternatives(loaded.path()[1])] == [first.id, second.id]
    assert [node.created_at for node in loaded.nodes()] == [node.created_at for node in talk.nodes()]


def test_the_list_knows_model_and_count_without_reading_messages(archive: Archive, recorder: ArchiveRecorder) -> None:
    older, newer = talk_about("older", recorder), talk_about("newer", recorder)
    first, second = archive.list()
    assert (first.id, first.title, first.model, first.message_count) == (newer.id, "newer", "tiny@Q4_0", 2)
    assert second.id == older.id
    assert archive.latest() == first
    assert archive.list(1) == [first]
    older.add(user("again"))
    assert archive.latest() is not None
    assert archive.latest().id == older.id  # type: ignore[union-attr]
    plan = archive._database.rows("EXPLAIN QUERY PLAN SELECT * FROM sessions ORDER BY updated_at DESC")
    assert "sessions_by_time" in plan[0][3]


def test_a_resumed_conversation_goes_on_in_the_same_session(archive: Archive, recorder: ArchiveRecorder) -> None:
    talk = talk_about("first", recorder)
    resumed = recorder.resume(talk.id)
    resumed.add(user("second"))
    assert texts(archive.load(talk.id).path()) == ["first", "You asked: first", "second"]
    assert len(archive.list()) == 1


def test_a_clock_that_goes_back_does_not_change_which_is_the_latest(
    archive: Archive, recorder: ArchiveRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk_about("yesterday", recorder)
    monkeypatch.setattr("slmchat.conversation.archive._now", lambda: "2020-01-01T00:00:00.000000+00:00")
    today = talk_about("today", recorder)
    found = archive.latest()
    assert found is not None and found.id == today.id
    assert [texts(archive.load(one.id).path())[0] for one in archive.list(2)] == ["today", "yesterday"]


def test_what_is_imported_from_the_future_is_not_the_latest_for_ever(
    archive: Archive, recorder: ArchiveRecorder
) -> None:
    other = talk_about("imported", recorder)
    exported = json.loads(archive.export_json(other.id))
    archive.remove([other.id])
    exported["updated_at"] = exported["created_at"] = "2099-01-01T00:00:00+00:00"
    archive.import_json(json.dumps(exported))
    mine = talk_about("mine", recorder)
    found = archive.latest()
    assert found is not None and found.id == mine.id


def test_half_surrogates_do_not_stop_the_chat(archive: Archive, recorder: ArchiveRecorder, warnings: list[str]) -> None:
    talk = Conversation("\udcff", recorder)
    talk.add(user("a \ud800 b"))
    assert warnings == []
    assert texts(archive.load(talk.id).path())[0].startswith("a \ufffd")
    archive.search("\ud800")


def test_a_long_chain_of_messages_can_be_kept_and_removed(archive: Archive) -> None:
    talk = Conversation()
    for number in range(3_000):  # deeper than SQLite lets actions of foreign keys nest
        talk.add(user(str(number)))
    archive.store(talk, talk.nodes())
    assert len(archive.load(talk.id).path()) == 3_000
    assert archive.remove([talk.id])


# How often


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_growing_answer_is_written_twice_a_second_and_marked_as_cut(archive: Archive) -> None:
    clock = Clock()
    recorder = ArchiveRecorder(archive, pytest.fail, clock)
    talk = Conversation(recorder=recorder)
    talk.add(user("count"))
    node = talk.add(answer(""))
    assert texts(archive.load(talk.id).path()) == ["count"]  # no empty answer is kept
    kept = []
    for number in range(1, 17):
        clock.now += 0.125
        talk.update(node, answer("x" * number))
        kept.append(len(archive.load(talk.id).path()[-1].message.text) if len(archive.load(talk.id).path()) > 1 else 0)
    assert kept == [0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12, 16]
    assert archive.load(talk.id).path()[-1].message.is_cut
    talk.update(node, answer("x" * 17))
    recorder.flush()
    assert archive.load(talk.id).path()[-1].message == answer("x" * 17)


def test_the_next_message_completes_the_answer_before_it(archive: Archive, recorder: ArchiveRecorder) -> None:
    talk = Conversation(recorder=recorder)
    talk.add(user("one"))
    node = talk.add(answer("t"))
    talk.update(node, answer("two"))
    talk.add(user("three"))
    assert [(n.message.text, n.message.is_cut) for n in archive.load(talk.id).path()] == [
        ("one", False),
        ("two", False),
        ("three", False),
    ]


STREAM = """
from slmchat.conversation import recorder as module
module.INTERVAL_S = 0.02
recorder = ArchiveRecorder(Archive(Path(sys.argv[1])), print)
talk = Conversation("system", recorder)
talk.add(Message(Role.USER, "tell me a story"))
node = talk.add(Message(Role.ASSISTANT, ""))
text, written = "", 0
while True:
    text += "word "
    before = recorder._tried_at
    talk.update(node, Message(Role.ASSISTANT, text, tokens=(7,) * (len(text) // 5)))
    if recorder._tried_at != before:
        print(talk.id, len(text), flush=True)
        written += 1
"""


@posix_only
def test_kill_9_in_the_middle_of_an_answer_keeps_all_that_was_flushed(file: Path) -> None:
    process = in_another_process(STREAM, file)
    assert process.stdout is not None
    id, length = [process.stdout.readline() for _ in range(3)][-1].split()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    archive = Archive(file)
    question, said = archive.load(id).path()
    assert question.message.text == "tell me a story"
    assert len(said.message.text) >= int(length)
    assert said.message.is_cut
    assert said.message.tokens == (7,) * (len(said.message.text) // 5)
    assert [hit.role for hit in archive.search("wor")] == ["assistant"]  # the index catches up
    archive.close()


# How long a write waits for another one is not what this is about: on a busy machine it waits for long.
WRITE_MANY = """
from slmchat import database
from slmchat.conversation import recorder as recording
recording._WAIT_S = recording._SHORT_WAIT_S = recording._PATIENCE_S = database.WAIT_S = 300
database.Database.transaction.__wrapped__.__kwdefaults__["wait_s"] = 300
recorder = ArchiveRecorder(Archive(Path(sys.argv[1])), lambda text: print("WARNED", text))
sys.stdin.readline()
for chat in range(5):
    talk = Conversation(recorder=recorder)
    for number in range(10):
        talk.add(Message(Role.USER, f"question {number} of {sys.argv[2]}"))
        node = talk.add(Message(Role.ASSISTANT, ""))
        for length in range(20):
            talk.update(node, Message(Role.ASSISTANT, "word " * length))
            recorder._tried_at = 0
    recorder.flush()
recorder.close()
print(recorder.error)
"""


def test_many_chats_at_once_do_not_harm_each_other(file: Path) -> None:
    processes = [in_another_process(WRITE_MANY, file, number) for number in range(4)]
    for process in processes:  # all create the file at the same moment
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        out, err = process.communicate()
        assert (out, err) == ("None\n", "")
    archive = Archive(file)
    assert [session.message_count for session in archive.list()] == [20] * 20
    assert archive._database.rows("PRAGMA integrity_check") == [("ok",)]
    assert archive._database.rows("PRAGMA foreign_key_check") == []
    for session in archive.list():
        assert len(archive.load(session.id).path()) == 20
    archive.close()


def test_two_terminals_in_the_same_session_keep_both_branches(
    file: Path, archive: Archive, recorder: ArchiveRecorder
) -> None:
    talk = talk_about("shared", recorder)
    other_archive = Archive(file)
    other = ArchiveRecorder(other_archive, pytest.fail).resume(talk.id)
    talk.add(user("from here"))
    other.add(user("from there"))
    loaded = archive.load(talk.id)
    assert texts(loaded.path()[1].children) == ["from here", "from there"]
    assert archive.list()[0].message_count == 4
    other_archive.close()


def test_a_title_given_in_another_terminal_stays(archive: Archive, recorder: ArchiveRecorder) -> None:
    talk = talk_about("old title", recorder)
    archive.rename(talk.id, "new title")
    talk.add(user("more"))
    talk.go_to(talk.path()[0])
    assert archive.load(talk.id).title == "new title"
    talk.title = "newest title"
    talk.changed()
    assert archive.load(talk.id).title == "newest title"


def test_a_session_removed_meanwhile_is_written_anew(archive: Archive, recorder: ArchiveRecorder) -> None:
    talk = talk_about("still talking", recorder)
    archive.remove([talk.id])
    talk.add(user("and on"))
    assert texts(archive.load(talk.id).path()) == ["still talking", "You asked: still talking", "and on"]


def test_removed_meanwhile_and_written_anew_by_the_other(
    file: Path, archive: Archive, recorder: ArchiveRecorder
) -> None:
    talk = talk_about("shared", recorder)
    other_archive = Archive(file)
    other = ArchiveRecorder(other_archive, pytest.fail).resume(talk.id)
    talk.add(user("unknown there"))
    archive.remove([talk.id])
    other.add(user("from there"))
    talk.add(answer("below what the other did not write"))
    loaded = archive.load(talk.id)
    assert len(list(loaded.nodes())) == 5
    assert texts(loaded.path())[-2:] == ["unknown there", "below what the other did not write"]
    other_archive.close()


@posix_only
def test_a_file_deleted_under_the_chat_is_made_anew(file: Path, archive: Archive, recorder: ArchiveRecorder) -> None:
    talk = talk_about("still talking", recorder)
    shutil.rmtree(file.parent)
    talk.add(user("and on"))
    assert len(Archive(file).load(talk.id).path()) == 3


def test_threads_may_share_an_archive(archive: Archive, recorder: ArchiveRecorder) -> None:
    talk = talk_about("shared", recorder)
    failed: list[Exception] = []

    def look() -> None:
        try:
            for _ in range(50):
                assert archive.load(talk.id).path()
                archive.search("shared")
        except Exception as error:  # noqa: BLE001 - any at all is a failure
            failed.append(error)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(50):
        talk.add(user(f"more {number}"))
    for thread in threads:
        thread.join()
    assert failed == []


# The file


@posix_only
@pytest.mark.parametrize("umask", [0, 0o777])
def test_the_files_are_the_owners_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    file = tmp_path / "a" / "b" / "sessions.db"
    archive = Archive(file)
    before = os.umask(umask)
    try:
        talk_about("secret", ArchiveRecorder(archive, pytest.fail))
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()}
    assert modes == {"sessions.db": 0o600, "sessions.db-wal": 0o600, "sessions.db-shm": 0o600}
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file.parent, file.parent.parent)] == [0o700, 0o700]
    archive.close()
    assert [path.name for path in file.parent.iterdir()] == ["sessions.db"]


@posix_only
def test_a_file_that_others_may_read_is_closed_to_them(file: Path, recorder: ArchiveRecorder) -> None:
    talk_about("secret", recorder)
    recorder.close()
    file.chmod(0o644)
    assert Archive(file).list()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


VERSION_1 = """
PRAGMA user_version = 1;
CREATE TABLE sessions (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, model TEXT,
    message_count INTEGER NOT NULL, created_at TEXT NOT NULL, updated_at TEXT NOT NULL, current TEXT, seen_from TEXT,
    system TEXT, summary TEXT);
CREATE INDEX sessions_by_time ON sessions (updated_at);
CREATE TABLE messages (key INTEGER PRIMARY KEY, session INTEGER NOT NULL REFERENCES sessions (key), id TEXT NOT NULL,
    parent INTEGER REFERENCES messages (key) DEFERRABLE INITIALLY DEFERRED,
    role TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant')), is_cut INTEGER NOT NULL,
    created_at TEXT NOT NULL, model TEXT, text TEXT NOT NULL, thinking TEXT NOT NULL, tokens BLOB,
    UNIQUE (session, id));
CREATE INDEX messages_by_parent ON messages (parent) WHERE parent IS NOT NULL;
CREATE TABLE unindexed (key INTEGER PRIMARY KEY);
INSERT INTO sessions VALUES (1, 'abcd0000000000000000000000000000', 'An old chat', 'tiny@Q4_0', 2,
    '2026-01-01T10:00:00+00:00', '2026-01-01T10:01:00.000+00:00', 'm2', NULL, 'Be kind.', NULL);
INSERT INTO messages VALUES (1, 1, 'm1', NULL, 'user', 0, '2026-01-01T10:00:00+00:00', NULL, 'Hello there', '', NULL);
INSERT INTO messages VALUES (2, 1, 'm2', 1, 'assistant', 1, '2026-01-01T10:01:00+00:00', 'tiny@Q4_0', 'General',
    'a greeting', X'0100000002000000');
INSERT INTO unindexed VALUES (1), (2);
"""


def hand_made(file: Path, script: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(file)
    connection.executescript(script)
    connection.close()


def check_version_1(archive: Archive) -> None:
    """What is in `VERSION_1` must be readable by every later slm."""
    loaded = archive.load("abcd0000000000000000000000000000")
    assert loaded.system == "Be kind."
    assert [node.message for node in loaded.path()] == [
        user("Hello there"),
        answer("General", tokens=(1, 2), is_cut=True, thinking="a greeting"),
    ]
    assert archive.find("an old").id == loaded.id
    assert [hit.role for hit in archive.search("hello")] == ["user"]


def test_a_file_of_version_1_is_read_and_written(file: Path, archive: Archive) -> None:
    hand_made(file, VERSION_1)
    check_version_1(archive)
    recorder = ArchiveRecorder(archive, pytest.fail)
    recorder.resume("abcd0000000000000000000000000000").add(user("Kenobi"))
    assert archive.list()[0].message_count == 3


def with_step(step: tuple[str, ...]) -> Schema:
    """The tables of the archive in a version that does not exist yet."""
    return replace(archive_schema.SCHEMA, steps=(*archive_schema.SCHEMA.steps, step))


def test_migration_brings_version_1_to_a_later_one(
    file: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_made(file, VERSION_1)
    later = ("ALTER TABLE sessions ADD COLUMN persona TEXT", "UPDATE sessions SET persona = 'pirate'")
    monkeypatch.setattr(archive._database, "_schema", with_step(later))
    check_version_1(archive)
    assert archive._database.rows("SELECT persona FROM sessions") == [("pirate",)]
    assert archive._database.rows("PRAGMA user_version") == [(archive_schema.SCHEMA.version + 1,)]


def test_a_migration_that_fails_leaves_the_file_as_it_was(
    file: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_made(file, VERSION_1)
    broken = ("ALTER TABLE sessions ADD COLUMN persona TEXT", "UPDATE nothing SET persona = 'pirate'")
    monkeypatch.setattr(archive._database, "_schema", with_step(broken))
    with pytest.raises(sqlite3.OperationalError):
        archive.list()
    monkeypatch.undo()
    check_version_1(archive)


def test_a_file_of_a_newer_slm_is_refused_and_not_touched(file: Path, archive: Archive, warnings: list[str]) -> None:
    hand_made(file, "PRAGMA user_version = 99; CREATE TABLE future (x)")
    before = file.read_bytes()
    with pytest.raises(SlmError, match="newer slm") as caught:
        archive.list()
    assert caught.value.exit_code is ExitCode.STORAGE
    talk = Conversation(recorder=ArchiveRecorder(archive, warnings.append))
    talk.add(user("hi"))
    assert len(warnings) == 1
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["sessions.db"]


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be read as one " * 100, b"short"])
def test_a_file_that_is_no_database(file: Path, archive: Archive, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(SlmError) as caught:
        archive.list()
    assert caught.value.exit_code is ExitCode.DAMAGED
    assert "mv" in (caught.value.hint or "")
    assert file.read_bytes() == content


def test_somebody_elses_database(file: Path, archive: Archive) -> None:
    hand_made(file, "CREATE TABLE recipes (name)")
    with pytest.raises(SlmError, match="not one of slm's") as caught:
        archive.list()
    assert caught.value.exit_code is ExitCode.DAMAGED


def test_a_damaged_page(file: Path, archive: Archive, recorder: ArchiveRecorder) -> None:
    for number in range(50):
        talk_about(f"chat {number} " * 50, recorder)
    archive.close()
    content = bytearray(file.read_bytes())
    content[8192:] = os.urandom(len(content) - 8192)
    file.write_bytes(content)
    with pytest.raises(SlmError) as caught:
        [archive.load(session.id) for session in archive.list()]
    assert caught.value.exit_code is ExitCode.DAMAGED


@posix_only
def test_a_place_that_cannot_be_written(tmp_path: Path, warnings: list[str]) -> None:
    (tmp_path / "data").write_text("a file where the directory should be")
    archive = Archive(tmp_path / "data" / "sessions.db")
    with pytest.raises(SlmError) as caught:
        archive.store(Conversation(), [])
    assert caught.value.exit_code is ExitCode.STORAGE


# Writes that fail

DISK_FULL = """
import resource
warned = []
archive = Archive(Path(sys.argv[1]))
recorder = ArchiveRecorder(archive, warned.append)
talk = Conversation(recorder=recorder)
talk.add(Message(Role.USER, "before"))
full = sum(path.stat().st_size for path in Path(sys.argv[1]).parent.iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))
for number in range(5):
    talk.add(Message(Role.USER, f"while it is full {number} " * 20_000))
    node = talk.add(Message(Role.ASSISTANT, "an answer " * 20_000))
    recorder.flush()
print(len(warned), int(recorder.error.exit_code), recorder.error.message)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
talk.add(Message(Role.USER, "after"))
print(len(warned), recorder.error, len(archive.load(talk.id).path()))
"""


@posix_only
def test_a_full_disk_does_not_end_the_chat_and_loses_nothing(file: Path) -> None:
    out, err = in_another_process(DISK_FULL, file).communicate()
    assert err == ""
    full, free = out.splitlines()
    assert full.startswith(f"1 {int(ExitCode.STORAGE)} {file} cannot be used: ")
    assert free == "1 None 12"


NO_ROOM = """
import os, subprocess
place = Path(sys.argv[1]).parent
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", place], check=True)
archive = Archive(Path(sys.argv[1]))
for number in range(6):
    recorder = ArchiveRecorder(archive, print)
    talk = Conversation(recorder=recorder)
    talk.add(Message(Role.USER, f"number {number} " + "many words of it " * 10_000))
    recorder.flush()
archive.close()  # so that its shared memory has to be made again
fill = os.open(place / "fill", os.O_CREAT | os.O_WRONLY)
try:
    while True:
        os.write(fill, bytes(4096))
except OSError:
    os.close(fill)
first, *others = archive.list()
archive.remove([first.id])
print(os.statvfs(place).f_bavail, len(archive.list()), len(archive.search("words")), end=" ")
archive.remove([other.id for other in others])
print(len(archive.list()), archive.search("words"), end=" ")
archive.close()
os.unlink(place / "fill")
recorder = ArchiveRecorder(archive, print)
Conversation(recorder=recorder).add(Message(Role.USER, "there is room again"))
recorder.close()
print(len(archive.list()), archive._database.rows("PRAGMA integrity_check"), archive._database.rows("PRAGMA journal_mode"))
"""


def test_a_full_disk_lets_sessions_be_removed(file: Path) -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("no small disk of our own can be made here")
    file.parent.mkdir(parents=True, exist_ok=True)
    out, err = in_another_process(NO_ROOM, file, below=unshare).communicate()
    assert err == ""
    assert out == "0 5 10 0 [] 1 [('ok',)] [('wal',)]\n"


def test_the_hint_for_a_damaged_file_names_all_its_files(file: Path) -> None:
    """A log that stays behind would be put into the file that takes its place."""
    file.parent.mkdir(parents=True, exist_ok=True)
    for end in ("", "-wal", "-shm"):
        Path(f"{file}{end}").write_bytes(b"no database" * 500)
    error = Database(file, archive_schema.SCHEMA).damaged("it is")
    assert error.hint is not None
    for end in ("", "-wal", "-shm"):
        assert f"mv {file}{end} {file}.damaged{end}" in error.hint
    assert "-journal" not in error.hint


def test_an_archive_that_stays_locked_is_tried_again(
    file: Path, archive: Archive, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slmchat.conversation.recorder._WAIT_S", 0.05)
    clock = Clock()
    recorder = ArchiveRecorder(archive, warnings.append, clock)
    talk = talk_about("before", recorder)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    talk.add(user("not saved"))
    node = talk.add(answer(""))
    for _ in range(20):
        clock.now += 1
        talk.update(node, answer(node.message.text + "word "))
    assert len(warnings) == 1
    assert "another slm" in warnings[0]
    assert recorder.error is not None
    assert recorder.resume(talk.id) is talk
    other.execute("ROLLBACK")
    other.close()
    clock.now += 5
    talk.update(node, answer(node.message.text + "word"))
    assert recorder.error is None
    assert texts(archive.load(talk.id).path())[2:] == ["not saved", "word " * 20 + "word"]


def test_ctrl_c_in_a_write_leaves_a_whole_archive(archive: Archive, recorder: ArchiveRecorder) -> None:
    talk = talk_about("before", recorder)
    put = archive._put

    def interrupted(*arguments: object, **more: object) -> None:
        put(*arguments, **more)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    archive._put = interrupted  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        talk.add(user("interrupted"))
    archive._put = put  # type: ignore[method-assign]
    assert len(archive.load(talk.id).path()) == 2
    recorder.flush()
    assert texts(archive.load(talk.id).path())[-1] == "interrupted"


# Finding


def found(archive: Archive, query: str) -> list[tuple[str | None, str]]:
    """Role and snippet, what was found in brackets."""
    return [
        (hit.role, "".join(f"[{text}]" if is_found else text for text, is_found in hit.parts))
        for hit in archive.search(query)
    ]


@pytest.fixture
def colours(archive: Archive, recorder: ArchiveRecorder) -> Conversation:
    talk = Conversation(recorder=recorder)
    talk.add(user("Why is the sky blue?"))
    talk.add(answer("Air scatters blue light. Rayleigh scattering, in short; the café's C++ code agrees: 100% sure."))
    talk.add(user("那么海呢？为什么是蓝色的"))
    talk.add(answer("Über den Wolken. Привет, МИР."))
    recorder.flush()
    return talk


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("rayleigh", ["assistant"]),
        ("RAYL", ["assistant"]),
        ("scatter light", []),
        ("light scatter", ["assistant"]),
        ("sky light", []),
        ('"blue light"', ["assistant"]),
        ('"light blue"', []),
        ("cafe", ["assistant"]),
        ("蓝色", ["user"]),
        ("100%", ["assistant"]),
        ("привет", ["assistant"]),
        ("über", ["assistant"]),
        ("blue", [None, "assistant", "user"]),
        ("AND", []),
        ("blue NOT light", []),
        ("text:blue", []),
        ("-blue", [None, "assistant", "user"][1:]),
        ("", []),
        ('"', []),
        ("%", ["assistant"]),
        ("_", []),
    ],
)
def test_search(archive: Archive, colours: Conversation, query: str, expected: list[str | None]) -> None:
    assert [role for role, _ in found(archive, query)] == expected


def test_the_words_found_are_marked_in_their_context(archive: Archive, colours: Conversation) -> None:
    assert found(archive, "sky blue") == [
        (None, "Why is the [sky] [blue]?"),
        ("user", "Why is the [sky] [blue]?"),
    ]
    ((_, snippet),) = found(archive, "海呢")
    assert snippet == "那么[海呢]？为什么是蓝色的"


def test_without_fts5_every_message_is_read(
    archive: Archive, colours: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert archive.has_index()
    monkeypatch.setattr(Database, "has_fts5", lambda self: False)
    assert not archive.has_index()
    assert found(archive, "rayleigh")[0][1].count("[Rayleigh]") == 1
    assert [role for role, _ in found(archive, "sky blue")] == [None, "user"]
    assert [role for role, _ in found(archive, "ПРИВЕТ")] == ["assistant"]
    assert found(archive, "sky light") == []


def test_the_index_follows_what_happened_without_fts5(
    archive: Archive, recorder: ArchiveRecorder, colours: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        without.setattr(Database, "has_fts5", lambda self: False)
        colours.update(colours.path()[1], answer("A completely different answer."))
        recorder.flush()
        assert found(archive, "rayleigh") == []
    assert found(archive, "rayleigh") == []
    assert [role for role, _ in found(archive, "different")] == ["assistant"]


def test_an_index_that_is_damaged_costs_time_but_no_text(
    archive: Archive, recorder: ArchiveRecorder, colours: Conversation, warnings: list[str]
) -> None:
    archive._database.run("DELETE FROM search_data WHERE id > 10")
    archive.close()
    assert found(archive, "rayleigh")
    colours.update(colours.path()[1], answer("Saved all the same."))
    recorder.flush()
    assert warnings == []
    assert found(archive, "saved")


def test_an_answer_that_goes_on_is_found_by_its_new_words_only(
    archive: Archive, recorder: ArchiveRecorder, colours: Conversation
) -> None:
    colours.update(colours.path()[1], answer("Nothing but waves."))
    recorder.flush()
    assert found(archive, "rayleigh") == []
    assert [role for role, _ in found(archive, "waves")] == ["assistant"]


def test_a_search_that_may_not_write_does_not(archive: Archive, recorder: ArchiveRecorder, file: Path) -> None:
    talk = Conversation()
    talk.add(user("unindexed words"))
    archive.store(talk, talk.nodes())
    archive.close()
    before = file.read_bytes()
    assert archive.search("words", may_write=False)
    archive.close()
    assert file.read_bytes() == before


def test_one_long_session_does_not_fill_the_whole_answer(archive: Archive, recorder: ArchiveRecorder) -> None:
    first = talk_about("the needle", recorder)
    talk = Conversation()
    for number in range(600):
        talk.add(user(f"needle {number}"))
    archive.store(talk, talk.nodes())
    hits = archive.search("needle", 10)
    assert {hit.session for hit in hits} == {first.id, talk.id}
    assert len(hits) == 7  # two titles, three of the long one, two of the short one


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    archive = Archive(tmp_path_factory.mktemp("library") / "sessions.db")
    recorder = ArchiveRecorder(archive, pytest.fail)
    for text in ("plain words", 'a "quoted" AND NOT (nested) -minus* NEAR/2 ^first', "emoji 🦊 你好", "a\x00b", "%_\\"):
        talk_about(text, recorder)
    yield archive
    archive.close()


@given(
    query=st.one_of(
        st.text(), st.text(alphabet='"*-+^(){}:,.AND OR NOT NEAR ab\\%_\x00\ud800\x02\x03'), st.binary().map(repr)
    )
)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_query_is_a_good_query(library: Archive, query: str) -> None:
    for hit in library.search(query):
        assert hit.parts
    with pytest.MonkeyPatch.context() as without:
        without.setattr(Database, "has_fts5", lambda self: False)
        library.search(query, may_write=False)


def test_a_query_without_end_is_answered(library: Archive) -> None:
    library.search("word " * 100_000)
    library.search('"' * 100_000)
    assert len(archive_search.parse("word " * 1_000)) == 32


def test_find(archive: Archive, recorder: ArchiveRecorder) -> None:
    sky, sea = talk_about("Why is the sky blue?", recorder), talk_about("Why is the sea salty?", recorder)
    assert archive.find(sky.id).id == sky.id
    assert archive.find(sky.id[:8].upper()).id == sky.id
    assert archive.find("why IS the  sky blue?").id == sky.id
    assert archive.find("why is the se").id == sea.id
    with pytest.raises(SlmError, match="more than one") as caught:
        archive.find("why is")
    assert sky.id[:8] in (caught.value.hint or "")
    assert sea.id[:8] in (caught.value.hint or "")
    with pytest.raises(SlmError, match="no session 'why is the see salt'") as caught:
        archive.find("why is the see salt")
    assert sea.id[:8] in (caught.value.hint or "")
    assert caught.value.exit_code is ExitCode.USAGE
    for text in ("", sky.id[:3], "%", "why*", "zzzz"):
        with pytest.raises(SlmError):
            archive.find(text, is_exact=True)
    with pytest.raises(SlmError):
        archive.find("why is the se", is_exact=True)


def test_an_id_that_is_not_there(archive: Archive) -> None:
    for act in (archive.load, archive.export_json, archive.export_markdown, lambda id: archive.rename(id, "x")):
        with pytest.raises(SlmError, match="no session"):
            act("f" * 32)


# Removing


@pytest.mark.parametrize("is_fts", [True, False])
def test_removed_text_is_gone_from_the_bytes_of_the_file(
    file: Path, archive: Archive, recorder: ArchiveRecorder, monkeypatch: pytest.MonkeyPatch, is_fts: bool
) -> None:
    if not is_fts:
        monkeypatch.setattr(Database, "has_fts5", lambda self: False)
    gone, kept = [], []
    for number in range(60):
        secret = f"zq{number}xj" + "".join("etaoinshr"[number * 7**place % 9] for place in range(8))
        talk = Conversation(f"system {secret}", recorder)
        talk.add(user(f"title {secret}"))
        node = talk.add(answer(""))
        for length in (5, 50, 500):
            recorder._tried_at = float("-inf")
            talk.update(node, answer(f"{secret} word{number % 7} " * length, thinking=secret * length, model=secret))
        recorder.flush()
        (kept if number % 3 else gone).append((talk.id, secret.encode()))
    archive.search("zq1")
    assert all(secret in all_bytes(file) for _, secret in gone)
    assert archive.remove([id for id, _ in gone])
    left = all_bytes(file)
    assert not any(secret in left for _, secret in gone)
    assert all(secret in left for _, secret in kept)
    assert archive.search("zq3xj") == []
    assert len(archive.search("word5", 100)) > 3
    assert archive.remove([id for id, _ in kept])
    assert not re.search(rb"zq\d", all_bytes(file))  # two letters stand by chance in the checksums of a log, too
    assert archive.list() == []


def test_a_removal_beside_another_that_reads_says_that_traces_stay(
    file: Path, archive: Archive, recorder: ArchiveRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "WAIT_S", 0.05)
    talk = talk_about("a secret", recorder)
    reader = sqlite3.connect(file, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM sessions").fetchall()
    assert not archive.remove([talk.id])
    reader.close()
    other = talk_about("another", recorder)
    assert archive.remove([other.id])
    assert b"secret" not in all_bytes(file)


# Exchange

words = st.text(max_size=40)  # without half surrogates, which no export can have
messages = st.builds(
    Message,
    role=st.sampled_from(Role),
    text=words,
    is_cut=st.booleans(),
    thinking=words,
    model=st.none() | words,
    tokens=st.none() | st.lists(st.integers(0, 2**32 - 1), max_size=3).map(tuple),
)


@st.composite
def trees(draw: Callable[..., object]) -> Conversation:
    talk = Conversation(draw(st.none() | words))  # type: ignore[arg-type]
    made: list[Node | None] = [None]
    for message in draw(st.lists(messages, min_size=1, max_size=12)):  # type: ignore[attr-defined]
        talk.current = draw(st.sampled_from(made))  # type: ignore[assignment]
        made.append(talk.add(message))
    talk.current = draw(st.sampled_from(made[1:]))  # type: ignore[assignment]
    talk.seen_from = draw(st.sampled_from([None, *talk.path()]))  # type: ignore[assignment]
    talk.summary = draw(st.none() | words)  # type: ignore[assignment]
    talk.title = draw(words)  # type: ignore[assignment]
    return talk


@given(talk=trees())
@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_export_import_export_is_equal(library: Archive, talk: Conversation) -> None:
    library.store(talk, talk.nodes())
    loaded = library.load(talk.id)
    assert [node.message for node in loaded.nodes()] == [node.message for node in talk.nodes()]
    exported = library.export_json(talk.id)
    library.export_markdown(talk.id)
    again = library.import_json(exported)
    assert again != talk.id
    assert json.loads(library.export_json(again)) == {**json.loads(exported), "id": again}
    library.remove([talk.id, again])
    assert library.import_json(exported) == talk.id
    assert library.export_json(talk.id) == exported
    library.remove([talk.id])


def test_an_export_has_no_tokens_and_nothing_that_a_terminal_obeys(archive: Archive, recorder: ArchiveRecorder) -> None:
    talk = Conversation(recorder=recorder)
    talk.add(user("a \x1b]0;t\x07 \x7f \x9b31m \u202e \u2028 b"))
    talk.add(answer("x", tokens=(1, 2, 3)))
    recorder.flush()
    exported = archive.export_json(talk.id)
    assert "tokens" not in exported
    assert all(char.isprintable() or char == "\n" for char in exported)
    assert json.loads(exported)["messages"][0]["text"] == talk.path()[0].message.text
    assert archive.load(archive.import_json(exported)).path()[1].message.tokens is None


def good() -> dict[str, object]:
    said = {"created_at": "2026-01-01T10:00:00+00:00", "is_cut": False, "thinking": "", "model": None}
    return {
        "format": "slm session",
        "version": 1,
        "id": "0123456789abcdef0123456789abcdef",
        "title": "A title",
        "created_at": "2026-01-01T12:00:00+02:00",
        "updated_at": "2026-01-01T10:00:00",
        "system": None,
        "summary": None,
        "current": 2,
        "seen_from": None,
        "messages": [
            {**said, "number": 1, "parent": None, "role": "user", "text": "hi"},
            {**said, "number": 2, "parent": 1, "role": "assistant", "text": "hello"},
        ],
    }


def test_import_of_a_file_written_by_hand(archive: Archive) -> None:
    id = archive.import_json("\ufeff" + json.dumps(good()))
    assert id == good()["id"]
    assert texts(archive.load(id).path()) == ["hi", "hello"]
    assert archive.list()[0].created_at == "2026-01-01T10:00:00+00:00"
    assert archive.list()[0].updated_at == "2026-01-01T10:00:00.000000+00:00"
    assert [hit.role for hit in archive.search("hello")] == ["assistant"]
    odd = archive.import_json(json.dumps({**good(), "id": "../../etc"}))
    assert len(odd) == 32


def message(**changes: object) -> dict[str, object]:
    first, second = good()["messages"]  # type: ignore[misc]
    return {**good(), "messages": [first, {**second, **changes}]}


BAD: dict[str, object] = {
    "no object": [1],
    "another format": {**good(), "format": "other"},
    "a newer version": {**good(), "version": 2},
    "no title": {**good(), "title": None},
    "a long title": {**good(), "title": "x" * 1001},
    "system is a list": {**good(), "system": []},
    "no messages": {**good(), "messages": []},
    "messages is a text": {**good(), "messages": "hi"},
    "a message is a text": {**good(), "messages": ["hi"]},
    "current is nowhere": {**good(), "current": 3},
    "current is a text": {**good(), "current": "2"},
    "current is true": {**good(), "current": True},
    "seen_from is not on the path": {**good(), "current": 1, "seen_from": 2},
    "no time": {**good(), "created_at": None},
    "a time out of range": {**good(), "updated_at": "0001-01-01T00:00:00+10:00"},
    "its own parent": message(parent=2),
    "a parent that comes later": message(parent=3),
    "a parent that is a number with a point": message(parent=1.0),
    "a number twice": message(number=1),
    "a role that is not one": message(role="root"),
    "a role that is a list": message(role=["user"]),
    "text is missing": message(text=None),
    "text is a number": message(text=5),
    "is_cut is a text": message(is_cut="no"),
    "model is a number": message(model=5),
}


@pytest.mark.parametrize("value", BAD.values(), ids=BAD.keys())
def test_an_import_that_is_wrong_changes_nothing(archive: Archive, tmp_path: Path, value: object) -> None:
    with pytest.raises(SlmError, match="not an exported session") as caught:
        archive.import_json(json.dumps(value))
    assert caught.value.exit_code is ExitCode.DAMAGED
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a": ' + "9" * 5_000 + "}", "\0"])
def test_an_import_that_is_no_json(archive: Archive, text: str) -> None:
    with pytest.raises(SlmError, match="not an exported session"):
        archive.import_json(text)


def test_markdown(archive: Archive, recorder: ArchiveRecorder) -> None:
    talk = Conversation("Be short.", recorder)
    talk.add(user("Show me code:\n````md\n```py\n"))
    talk.add(answer("```py\nprint(1)\n```\nand\n~~~\nopen", is_cut=True, thinking="not shown"))
    talk.add(user("``` not a fence ```"))
    recorder.flush()
    day = talk.roots[0].created_at[:16].replace("T", " ")
    assert archive.export_markdown(talk.id) == (
        f"# Show me code:\n\n{day} UTC · tiny@Q4_0 · session {talk.id[:8]}\n\n## System\n\nBe short.\n\n"
        "## You\n\nShow me code:\n````md\n```py\n````\n\n"
        "## tiny@Q4_0\n\n```py\nprint(1)\n```\nand\n~~~\nopen\n~~~\n\n*(interrupted)*\n\n"
        "## You\n\n``` not a fence ```\n"
    )


def test_an_archive_that_must_not_be_written_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "sessions.db"
    writable = Archive(file)
    talk = Conversation(recorder=ArchiveRecorder(writable, lambda _text: None))
    talk.add(Message(Role.USER, "hello"))
    talk.add(Message(Role.ASSISTANT, "yes"))
    assert talk.recorder is not None
    talk.recorder.flush()
    writable.close()

    def refuse(_file: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(database, "create_private", refuse)
    archive = Archive(file)
    assert [one.title for one in archive.list()] == ["hello"]
    assert [node.message.text for node in archive.load(talk.id).path()] == ["hello", "yes"]
    with pytest.raises(SlmError, match="readonly database"):
        archive.rename(talk.id, "other")
    archive.close()
    assert [path.name for path in tmp_path.iterdir()] == ["sessions.db"]
