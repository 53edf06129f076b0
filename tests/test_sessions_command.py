"""`slm sessions`: the command functions on a real archive, with streams of their own."""

import io
import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from slmchat import settings as settings_module
from slmchat.commands import sessions
from slmchat.conversation.archive import Archive
from slmchat.conversation.messages import Conversation, Message, Role
from slmchat.conversation.recorder import ArchiveRecorder
from slmchat.errors import ExitCode, SlmError
from slmchat.settings import Settings
from slmchat.terminal.console import Console

pytestmark = pytest.mark.real

NASTY = "title \x1b]0;owned\x07\x1b[2J end"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@dataclass
class World:
    """A console over strings; what it was told to write."""

    console: Console
    stdout: io.StringIO
    stderr: io.StringIO

    def out(self) -> str:
        return self.stdout.getvalue()

    def err(self) -> str:
        return self.stderr.getvalue()


def world(stdin: str = "", *, is_tty: bool = False, **environ: str) -> World:
    stream = Terminal if is_tty else io.StringIO
    out, err = stream(), stream()
    return World(Console(stream(stdin), out, err, environ={"COLUMNS": "100", **environ}), out, err)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_module.load({"SLM_HOME": str(tmp_path / "home")})


@pytest.fixture
def recorder(settings: Settings) -> ArchiveRecorder:
    return ArchiveRecorder(Archive(settings.paths.sessions), pytest.fail)


@pytest.fixture
def talk(recorder: ArchiveRecorder) -> Conversation:
    """Two answers to the first question, the second one cut; a later question from which on the model sees."""
    talk = Conversation("Be short.", recorder)
    question = talk.add(Message(Role.USER, "Why is the sky blue?"))
    talk.add(Message(Role.ASSISTANT, "Because.", model="tiny@Q4_0"))
    talk.go_to(question)
    talk.add(Message(Role.ASSISTANT, "Rayleigh scat\x1b[31mtering", is_cut=True, model="tiny@Q4_0"))
    talk.see_from(talk.add(Message(Role.USER, "And the sea?")), "the sky was explained")
    recorder.close()
    return talk


def everything(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_an_empty_archive(settings: Settings, tmp_path: Path) -> None:
    told = world()
    assert sessions.list_sessions(settings, told.console) == ExitCode.DONE
    assert sessions.search(["word"], settings, told.console) == ExitCode.DONE
    assert told.out() == ""
    assert told.err() == "no session is saved.\nnext: slm chat\nnothing is saved with word.\n"
    told = world()
    sessions.list_sessions(settings, told.console, is_json=True)
    sessions.search(["word"], settings, told.console, is_json=True)
    assert told.out() == "[]\n[]\n"
    assert list(tmp_path.iterdir()) == []


def test_list_in_a_pipe(settings: Settings, recorder: ArchiveRecorder, talk: Conversation) -> None:
    nasty = Conversation(recorder=recorder)
    nasty.title = NASTY + "\nsecond\tline"
    nasty.add(Message(Role.USER, "hi"))
    nasty.add(Message(Role.ASSISTANT, "hi"))
    told = world()
    assert sessions.list_sessions(settings, told.console) == ExitCode.DONE
    first, second = [line.split("\t") for line in told.out().splitlines()]
    assert first[:4] == [nasty.id[:8], "title  end second line", "", "2"]
    assert second[:4] == [talk.id[:8], "Why is the sky blue?", "tiny@Q4_0", "4"]
    assert datetime.fromisoformat(second[4]).tzinfo is not None
    told = world()
    sessions.list_sessions(settings, told.console, limit=1, is_json=True)
    (entry,) = json.loads(told.out())
    assert (entry["id"], entry["messages"], entry["title"]) == (nasty.id, 2, nasty.title)


def test_list_on_a_terminal(settings: Settings, recorder: ArchiveRecorder, talk: Conversation) -> None:
    told = world(is_tty=True)
    sessions.list_sessions(settings, told.console)
    assert "just now" in told.out()
    for number in range(60):
        said = Conversation(recorder=recorder)
        said.add(Message(Role.USER, f"chat {number}"))
        said.add(Message(Role.ASSISTANT, "yes"))
    told = world(is_tty=True)
    sessions.list_sessions(settings, told.console)
    assert "chat 59" in told.out()
    assert "Why is the sky" not in told.out()
    assert "11 sessions more: slm sessions list --limit N" in told.err()


def test_show(settings: Settings, talk: Conversation) -> None:
    told = world()
    assert sessions.show("why is", settings, told.console) == ExitCode.DONE
    title, facts, *rest = told.out().splitlines()
    assert title == "Why is the sky blue?"
    assert facts.startswith(f"{talk.id} · 4 messages · tiny@Q4_0 · 20")
    assert rest == [
        "",
        "System",
        "Be short.",
        "",
        "You",
        "Why is the sky blue?",
        "",
        "tiny@Q4_0 (2 of 2, cut off)",
        "Rayleigh scattering",
        "",
        "--- the model no longer sees what stands above ---",
        "",
        "It sees this summary of it",
        "the sky was explained",
        "",
        "You",
        "And the sea?",
    ]
    told = world(is_tty=True)
    sessions.show(talk.id, settings, told.console)
    assert "\x1b[1mYou\x1b[22m\nWhy is" in told.out()
    told = world(is_tty=True, NO_COLOR="1")
    sessions.show(talk.id, settings, told.console)
    assert "\x1b" not in told.out()
    told = world()
    sessions.show(talk.id[:4], settings, told.console, is_json=True)
    assert len(json.loads(told.out())["messages"]) == 4


def test_search(settings: Settings, talk: Conversation) -> None:
    told = world()
    assert sessions.search(["blue", "sky"], settings, told.console) == ExitCode.DONE
    first, second = told.out().splitlines()
    assert first.startswith(f"{talk.id[:8]}  Why is the sky blue?  (20")
    assert second == "    user: Why is the sky blue?"
    told = world(is_tty=True)
    sessions.search(["rayleigh"], settings, told.console)
    assert "    assistant: \x1b[1mRayleigh\x1b[22m scattering\n" in told.out()
    assert "(just now)" in told.out()
    told = world()
    sessions.search(["rayleigh"], settings, told.console, is_json=True)
    (hit,) = json.loads(told.out())
    assert (hit["id"], hit["role"], hit["found"]) == (talk.id, "assistant", ["Rayleigh"])
    with pytest.raises(SlmError, match="search for what"):
        sessions.search([" "], settings, told.console)


def test_a_search_that_finds_more_than_it_shows_says_so(settings: Settings, recorder: ArchiveRecorder) -> None:
    told = world()
    for number in range(26):  # each is found by its title and by its message
        talk = Conversation(None, recorder)
        talk.add(Message(Role.USER, f"about kites, {number}"))
        if number == 24:
            recorder.flush()
            sessions.search(["about"], settings, told.console)
            assert "first" not in told.err()
    recorder.flush()
    sessions.search(["about"], settings, told.console, is_json=True)
    assert told.err() == "these are the first 50 places; one more word finds fewer.\n"
    assert len(json.loads(told.out()[told.out().index("[") :])) == 50


def test_search_without_fts5_says_so(settings: Settings, talk: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slmchat.database.Database.has_fts5", lambda self: False)
    told = world()
    sessions.search(["rayleigh"], settings, told.console)
    assert "FTS5" in told.err()
    assert "Rayleigh" in told.out()


def test_looking_writes_nothing(settings: Settings, talk: Conversation, tmp_path: Path) -> None:
    private = settings_module.load({"SLM_HOME": str(tmp_path / "home")}, is_private=True)
    archive = Archive(settings.paths.sessions)
    unindexed = Conversation()
    unindexed.add(Message(Role.USER, "of a chat that was killed"))
    archive.store(unindexed, unindexed.nodes())
    archive.close()
    before = everything(tmp_path)
    told = world()
    sessions.list_sessions(private, told.console)
    sessions.search(["sky"], private, told.console)
    sessions.show("why is", private, told.console)
    sessions.export("why is", private, told.console)
    assert everything(tmp_path) == before


def test_export_to_stdout(settings: Settings, talk: Conversation) -> None:
    told = world()
    assert sessions.export(talk.id[:8], settings, told.console) == ExitCode.DONE
    assert told.out().startswith("# Why is the sky blue?\n\n20")
    assert "## tiny@Q4_0\n\nRayleigh scattering\n\n*(interrupted)*\n\n## You\n\nAnd the sea?\n" in told.out()
    told = world()
    sessions.export(talk.id[:8], settings, told.console, format="json")
    assert json.loads(told.out())["messages"][2]["text"] == "Rayleigh scat\x1b[31mtering"
    assert "\x1b" not in told.out()


def test_export_to_a_file(settings: Settings, talk: Conversation, tmp_path: Path) -> None:
    told, file = world(), tmp_path / "talk.md"
    sessions.export("why is", settings, told.console, file=file)
    assert (told.out(), told.err()) == ("", f"written to {file}.\n")
    assert "\x1b" not in file.read_text()
    if os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text("mine")
    with pytest.raises(SlmError, match="exists") as caught:
        sessions.export("why is", settings, told.console, file=file)
    assert caught.value.exit_code is ExitCode.USAGE
    assert file.read_text() == "mine"
    sessions.export("why is", settings, told.console, format="json", file=file, is_forced=True)
    assert json.loads(file.read_text())["id"] == talk.id
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["talk.md"]
    with pytest.raises(SlmError, match="no directory"):
        sessions.export("why is", settings, told.console, file=tmp_path / "nowhere" / "talk.md")
    with pytest.raises(SlmError, match="is a directory"):
        sessions.export("why is", settings, told.console, file=tmp_path, is_forced=True)


def test_import(settings: Settings, talk: Conversation, tmp_path: Path) -> None:
    told, file = world(), tmp_path / "talk.json"
    sessions.export("why is", settings, told.console, format="json", file=file)
    told = world()
    assert sessions.import_(str(file), settings, told.console) == ExitCode.DONE
    first = told.out().strip()
    assert first != talk.id
    told = world(file.read_text())
    sessions.import_("-", settings, told.console)
    assert told.err() == f"imported. next: slm chat --session {told.out()[:8]}\n"
    told = world()
    sessions.list_sessions(settings, told.console, is_json=True)
    assert len(json.loads(told.out())) == 3
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "text").write_text("hello")
    for name, code in (("gone", ExitCode.USAGE), ("binary", ExitCode.DAMAGED), ("text", ExitCode.DAMAGED)):
        with pytest.raises(SlmError) as caught:
            sessions.import_(str(tmp_path / name), settings, told.console)
        assert caught.value.exit_code is code


def test_rename(settings: Settings, talk: Conversation) -> None:
    told = world()
    assert sessions.rename("why is", "  Sky \n and sea ", settings, told.console) == ExitCode.DONE
    assert told.err() == f"{talk.id[:8]} is now 'Sky and sea'.\n"
    told = world()
    sessions.list_sessions(settings, told.console)
    assert "\tSky and sea\t" in told.out()
    with pytest.raises(SlmError, match="empty"):
        sessions.rename("sky", " \n", settings, told.console)


@pytest.fixture
def three(recorder: ArchiveRecorder) -> list[str]:
    ids = []
    for text in ("one", "two", "three"):
        talk = Conversation(recorder=recorder)
        talk.add(Message(Role.USER, f"secret {text}"))
        ids.append(talk.id)
    recorder.close()
    return ids


def left(settings: Settings) -> list[str]:
    archive = Archive(settings.paths.sessions)
    titles = [session.title for session in archive.list()]
    archive.close()
    return titles


def test_rm(settings: Settings, three: list[str]) -> None:
    told = world()
    assert sessions.rm([three[0][:8], "Secret two", three[0]], settings, told.console) == ExitCode.DONE
    assert told.err() == f"removed {three[0][:8]} 'secret one'.\nremoved {three[1][:8]} 'secret two'.\n"
    assert left(settings) == ["secret three"]
    assert b"secret two" not in (settings.paths.sessions).read_bytes()


def test_rm_of_one_that_is_not_there_removes_none(settings: Settings, three: list[str]) -> None:
    for names in ([three[0], "nothing"], [three[0], "secret t"]):
        with pytest.raises(SlmError) as caught:
            sessions.rm(names, settings, world().console)
        assert caught.value.exit_code is ExitCode.USAGE
    for names, is_all in (([], False), ([three[0]], True)):
        with pytest.raises(SlmError, match="which sessions"):
            sessions.rm(names, settings, world().console, is_all=is_all, is_yes=True)
    assert len(left(settings)) == 3


@pytest.mark.parametrize(
    ("make", "is_yes", "is_removed"),
    [
        (lambda: world("y\n", is_tty=True), False, True),
        (lambda: world("n\n", is_tty=True), False, False),
        (lambda: world("y\n"), False, False),
        (lambda: world(), True, True),
    ],
)
def test_rm_all_asks(
    settings: Settings, three: list[str], make: Callable[[], World], is_yes: bool, is_removed: bool
) -> None:
    told = make()
    if is_removed:
        assert sessions.rm([], settings, told.console, is_all=True, is_yes=is_yes) == ExitCode.DONE
        assert "removed 3 sessions." in told.err()
        assert left(settings) == []
        assert b"secret" not in (settings.paths.sessions).read_bytes()
    else:
        with pytest.raises(SlmError, match="nothing was removed"):
            sessions.rm([], settings, told.console, is_all=True, is_yes=is_yes)
        assert len(left(settings)) == 3


def test_rm_while_another_is_reading_says_that_traces_may_stay(
    settings: Settings, three: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slmchat.database.Database.erase", lambda self: False)
    told = world()
    sessions.rm([three[0]], settings, told.console)
    assert "traces may stay" in told.err()


@pytest.mark.parametrize(
    ("passed", "said"),
    [
        (timedelta(seconds=-5), "just now"),
        (timedelta(seconds=59), "just now"),
        (timedelta(minutes=5), "5 min ago"),
        (timedelta(hours=23), "23 h ago"),
        (timedelta(hours=25), "yesterday"),
        (timedelta(days=29), "29 days ago"),
        (timedelta(days=60), "2026-01-10"),
    ],
)
def test_how_long_ago(passed: timedelta, said: str) -> None:
    now = datetime(2026, 3, 11, 12, tzinfo=UTC)
    assert sessions.ago((now - passed).isoformat(), now) == said


def test_json_holds_nothing_that_a_terminal_obeys(settings: Settings, recorder: ArchiveRecorder) -> None:
    text = f"word {NASTY} \x9b2J \x7f \u202e \u200b \U000e0041 é 東"
    nasty = Conversation(recorder=recorder)
    nasty.title = text
    nasty.add(Message(Role.USER, text))
    recorder.close()
    for show in (
        lambda console: sessions.list_sessions(settings, console, is_json=True),
        lambda console: sessions.search(["word"], settings, console, is_json=True),
        lambda console: sessions.show(nasty.id, settings, console, is_json=True),
        lambda console: sessions.export(nasty.id, settings, console, format="json"),
    ):
        told = world()
        show(told.console)
        assert told.out().replace("\n", "").isprintable()
        assert "é 東" in told.out()
    told = world()
    sessions.list_sessions(settings, told.console, is_json=True)
    assert json.loads(told.out())[0]["title"] == text
