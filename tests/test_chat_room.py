"""What a chat does with a line, in this process: the loop, files, settings, what is said of what is kept."""

import errno
import io
import os
import signal
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chat_rooms import chat_room, said
from fake_engine import FakeEngine

from slmchat.catalog.library import Library
from slmchat.commands.repl import files, models, saved
from slmchat.commands.repl.app import ChatApp, MessageHooks
from slmchat.commands.repl.documents import HOOKS
from slmchat.conversation.exchange import Times
from slmchat.conversation.messages import Conversation, Message, Role
from slmchat.engine.thinking import ThinkingMode
from slmchat.errors import ExitCode, SlmError
from slmchat.models.backend import LocalModel
from slmchat.terminal.answer_progress import AnswerProgress
from slmchat.terminal.console import Console

Open = Callable[..., ChatApp]


class Typist:
    """A line editor whose lines are given: a text, or what `read` raises."""

    history_problem = None
    is_full = False

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self.defaults: list[str] = []

    def refresh(self) -> None: ...

    def read(self, *, default: str = "", **_options: object) -> str:
        self.defaults.append(default)
        line = self.lines.pop(0) if self.lines else EOFError()
        if isinstance(line, BaseException):
            raise line
        return str(line)


@pytest.fixture
def typist() -> Typist:
    return Typist()


@pytest.fixture
def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typist: Typist) -> Iterator[Open]:
    opened: list[ChatApp] = []
    engine = FakeEngine([("an ", "answer")] * 3)

    def call(hooks: MessageHooks = HOOKS) -> ChatApp:
        opened.append(chat_room(tmp_path, monkeypatch, engine, typist, hooks))
        opened[0].exports.mkdir(parents=True)
        return opened[0]

    yield call
    for room in opened:
        room.close()


def answer_of(chat: ChatApp, line: str) -> str:
    """What a line is answered with."""
    said(chat)
    chat._handle(line)
    return said(chat)


# Ctrl-C


def _stay(room: ChatApp) -> None:
    try:
        room.loop()
    except KeyboardInterrupt:
        pytest.fail("Ctrl-C has ended the chat")


def test_a_ctrl_c_while_the_one_before_is_told_leaves_nobody_out(
    chat: Open, typist: Typist, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is held down: the first is a key of the editor, the next a signal that hits what is done about it."""
    room = chat()
    typist.lines = [KeyboardInterrupt(), "/title still here"]
    note, pressed = room.console.note, []

    def noted(text: str) -> None:
        note(text)
        if not pressed:
            pressed.append(text)
            raise KeyboardInterrupt

    monkeypatch.setattr(room.console, "note", noted)
    _stay(room)
    assert pressed == ["(Ctrl-D or /exit leaves)"]
    assert "The title is now: still here" in said(room)


def test_a_ctrl_c_behind_an_error_leaves_nobody_out(
    chat: Open, typist: Typist, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = chat()
    typist.lines = ["/nonsense", "/title still here"]

    def interrupted(_error: SlmError) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(room.console, "error", interrupted)
    _stay(room)
    assert "The title is now: still here" in said(room)


@pytest.mark.parametrize("command", ["/retry", "/continue"])
def test_what_is_cancelled_before_it_begins_is_told(chat: Open, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    room = chat()
    room._handle("a question")
    monkeypatch.setattr(room.session, "_follow", lambda *_, **__: None)
    assert "(cancelled; nothing has changed)" in answer_of(room, command)
    assert [node.message.text for node in room.session.conversation.path()] == ["a question", "an answer"]


def test_an_answer_goes_on_behind_what_is_there(chat: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    room, behind = chat(), list[str]()
    handler = room.answers.handler
    monkeypatch.setattr(room.answers, "handler", lambda text="": (behind.append(text), handler(text))[1])
    room._handle("a question")
    room._handle("/continue")
    assert behind == ["", "an answer"]
    room.session.opened.loading.engine().replies[:] = [()]  # type: ignore[attr-defined]
    told = answer_of(room, "/continue")
    assert "(nothing more came: the model ended the answer here)" in told
    assert "empty" not in told


def test_a_line_that_is_entered_stays_where_ctrl_c_ends_the_rest(chat: Open, typist: Typist) -> None:
    """While the model stops to make a title, a Ctrl-C must not take the message along."""
    ended = threading.Event()

    @contextmanager
    def resting(_chat: ChatApp) -> Iterator[None]:
        yield
        if not ended.is_set():
            ended.set()
            raise KeyboardInterrupt

    room = chat(MessageHooks(resting=resting))
    typist.lines = ["a long question"]
    _stay(room)
    assert typist.defaults == ["", "a long question"]
    assert "your message is back in the line" in said(room)


# Files


@pytest.mark.parametrize("message", ["@~nobody-here look at this", 'see @"~nobody-here/a b" please', "@~a\0b"])
def test_a_tilde_that_is_nobodys_home_is_text(chat: Open, message: str) -> None:
    room = chat()
    room._handle(message)
    assert room.session.conversation.path()[0].message.text == message


@pytest.mark.parametrize("command", ["/file", "/docs", "/image", "/lora", "/save", "/export"])
def test_a_tilde_that_is_nobodys_home_names_no_file(chat: Open, command: str) -> None:
    room = chat()
    room._handle("hi")
    assert "slm: " in answer_of(room, f"{command} ~nobody-here/x.gguf")


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_a_null_character_in_a_pattern_names_no_file(chat: Open) -> None:
    assert "cannot be read: embedded null byte" in answer_of(chat(), "/file a\0b/*.txt")


def test_a_pipe_in_a_directory_is_left_out(chat: Open, tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.txt").write_text("x")
    os.mkfifo(folder / "pipe")
    ended = threading.Timer(60, os.kill, (os.getpid(), signal.SIGINT))  # instead of for ever
    ended.start()
    told = answer_of(chat(), f"/file {folder}")
    ended.cancel()
    assert "1 file left out: not text, too large or not readable." in told
    assert "a.txt: 1 character, 1 token\n" in told
    assert "1 token goes along with your next message" in told


@pytest.mark.parametrize("name", ['""', ".", "..", "sub/", "sub"])
def test_what_names_no_file_is_not_saved_beside_the_exports(chat: Open, name: str) -> None:
    room = chat()
    (room.exports / "sub").mkdir()
    room._handle("hi")
    before = sorted(room.exports.parent.rglob("*"))
    told = answer_of(room, f"/save {name}")
    assert "is not the name of a file" in told
    assert f"names are those of files in {room.exports}\n" in told
    if name != '""':  # the title names it
        assert "is not the name of a file" in answer_of(room, f"/export {name}")
    assert sorted(room.exports.parent.rglob("*")) == before


def test_a_full_disk_leaves_no_part_of_a_file(chat: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    room = chat()
    room._handle("hi")

    class Full(io.StringIO):
        def __init__(self, descriptor: int, *_: object, **__: object) -> None:
            super().__init__()
            os.write(descriptor, b"part")
            os.close(descriptor)

        def write(self, _text: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "open", Full, raising=False)
    for command in ("/export talk.md", "/save talk.md"):
        told = answer_of(room, command)
        assert "the disk is full" in told
        assert "hint: free some space" in told
    assert list(room.exports.iterdir()) == []


def test_all_that_goes_along_is_counted(chat: Open, tmp_path: Path) -> None:
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text("a" * 100)
    room = chat()
    room._handle(f"/file {tmp_path}/one.txt")
    assert "\n200 tokens go along with your next message" in answer_of(room, f"/file {tmp_path}/two.txt")


def test_a_branch_without_an_answer_says_so(chat: Open) -> None:
    room = chat()
    room._handle("first")
    room.session.conversation.go_to(None)
    room.session.conversation.add(Message(Role.USER, "second"))
    assert "* 2  1 message, last: second (no answer)\n" in answer_of(room, "/branch")


def test_an_empty_directory_is_said_to_have_no_text(chat: Open, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert answer_of(chat(), f"/file {tmp_path}/empty") == "slm: there is no text file in that directory.\n"


def test_a_message_is_edited_without_what_went_along(chat: Open, typist: Typist, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("some notes\n")
    (tmp_path / "named.txt").write_text("old\n")
    room = chat()
    room._handle(f"/file {tmp_path}/notes.txt")
    room._handle(f"compare it with @{tmp_path}/named.txt")
    (tmp_path / "named.txt").write_text("new\n")
    typist.lines = [f"tell @{tmp_path}/named.txt from it"]
    assert "(with it: notes.txt)" in answer_of(room, "/edit")
    assert typist.defaults == [f"compare it with @{tmp_path}/named.txt"]
    fences = 'notes.txt:\n"""\nsome notes\n"""\n\nnamed.txt:\n"""\nnew\n"""'
    edited = room.session.conversation.path()[0].message.text
    assert edited == f"{fences}\n\ntell @{tmp_path}/named.txt from it"
    assert room.session.attachments == []


def test_an_edited_message_that_fails_keeps_what_goes_along(
    chat: Open, typist: Typist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_text: str) -> None:
        raise SlmError("it cannot be.", exit_code=ExitCode.USAGE)

    (tmp_path / "notes.txt").write_text("some notes\n")
    room = chat()
    room._handle(f"/file {tmp_path}/notes.txt")
    room._handle("what is it?")
    before = room.session.conversation.path()
    monkeypatch.setattr(room.session, "send", fails)
    typist.lines = ["what was it?"]
    room._handle("/edit")
    assert room.next_text == "what was it?" and room.session.conversation.path() == before
    assert [item.name for item in room.session.attachments] == ["notes.txt"]


def test_a_message_is_named_by_its_own_words_and_not_by_what_goes_along(chat: Open, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text('a """ fence\n\nand more')
    (tmp_path / "empty.txt").write_text("")
    room = chat()
    room._handle(f"/file {tmp_path}/notes.txt {tmp_path}/empty.txt")
    room._handle("what is it about?")
    question = room.session.conversation.path()[0].message.text
    assert question.startswith('notes.txt:\n""""\na """ fence')
    assert "last: what is it about? →" in answer_of(room, "/branch")
    assert "user       what is it about?" in answer_of(room, "/context")
    assert "Undone: what is it about? (it is kept" in answer_of(room, "/undo")


def test_what_an_editor_leaves_is_a_message_whatever_it_begins_with(chat: Open, typist: Typist) -> None:
    room = chat()
    typist.edit_text = lambda _text: "/usr/bin is a directory"  # type: ignore[attr-defined]
    room._handle("/editor")
    assert room.next_text == "//usr/bin is a directory"


def test_a_narrow_line_leaves_out_the_name_of_the_model(chat: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not written, or how to stop, must not be cut away for it."""
    room = chat()
    room.go_private()
    monkeypatch.setattr(Console, "size", (80, 24))
    whole = "fake:1b@Q4_K_M · 0/4,000 (0 %) · private: nothing is written"
    assert room.toolbar() == whole
    progress = AnswerProgress()
    assert room._line_while_answering(progress) == "fake:1b@Q4_K_M · reading · Ctrl-C cancels"
    monkeypatch.setattr(Console, "size", (len(whole), 24))
    assert room.toolbar() == "0/4,000 (0 %) · private: nothing is written"
    monkeypatch.setattr(Console, "size", (30, 24))
    assert room._line_while_answering(progress) == "reading · Ctrl-C cancels"


# Settings


@pytest.mark.parametrize("text", ['""', "''"])
def test_no_answer_ends_at_nothing(chat: Open, text: str) -> None:
    room = chat()
    assert "slm: which stop sequence?" in answer_of(room, f"/set stop {text}")
    assert room.session.limits.stop == ()


@pytest.mark.parametrize("typed", ["temp 0.5", "temp=0.5", "temperature = 0.5", "parameter temperature 0.5"])
def test_a_setting_may_be_written_as_elsewhere(chat: Open, typed: str) -> None:
    room = chat()
    assert answer_of(room, f"/set {typed}") == "temperature is now 0.5.\n"
    told = "temperature     0.5\n/set temperature VALUE changes it, /set temperature none resets it.\n"
    assert answer_of(room, "/set temp") == told


@pytest.mark.parametrize(
    ("typed", "told"), [("seed 4294967294", "seed is now 4294967294"), ("temp 0.70", "temperature is now 0.7")]
)
def test_a_setting_is_told_in_all_its_digits(chat: Open, typed: str, told: str) -> None:
    assert answer_of(chat(), f"/set {typed}") == f"{told}.\n"


def test_what_is_set_elsewhere_is_named(chat: Open) -> None:
    assert answer_of(chat(), "/set system Be kind.") == "slm: there is no setting 'system'.\nhint: /system TEXT\n"


PERSONAS = """
[personas.one]
max-tokens = 7
stop = ["END"]
[personas.one.sampler]
top_k = 3
[personas.two]
stop = ["STOP"]
system = "Be two."
[personas.far]
system = "Be far."
model = "nosuch:1b"
"""


def test_a_persona_takes_the_place_of_the_one_before(chat: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    room = chat()
    session = room.session
    room.settings = session.opened.settings = replace(room.settings, personas=tomllib.loads(PERSONAS)["personas"])
    room._handle("/set stop MINE")
    room._handle("/set temp 0.4")
    room._handle("/persona one")
    assert (session.limits.max_tokens, session.limits.stop, session.sampler.top_k) == (7, ("MINE", "END"), 3)
    room._handle("/persona two")
    assert (session.limits.max_tokens, session.limits.stop, session.sampler.top_k) == (None, ("MINE", "STOP"), 40)
    monkeypatch.setattr(room, "place", SimpleNamespace(host=None, find=lambda *_: _no_model()))
    assert "there is no such model" in answer_of(room, "/persona far")
    assert session.conversation.system == "Be two." and session.limits.stop == ("MINE", "STOP")
    assert session.sampler.temperature == 0.4


def test_a_persona_that_says_nothing_of_thinking_leaves_it_as_it_was_set(chat: Open) -> None:
    room = chat()
    session = room.session
    table = "[quick]\nthink = 'off'\n[plain]\nsystem = 'Be plain.'\n"
    room.settings = session.opened.settings = replace(room.settings, personas=tomllib.loads(table))
    room._handle("/think 50")
    room._handle("/persona plain")
    assert session.thinking.budget == 50
    room._handle("/persona quick")
    assert session.thinking.mode is ThinkingMode.OFF
    room._handle("/persona plain")
    assert session.thinking.mode is ThinkingMode.AUTO
    session.options = replace(session.options, think="on")  # as `--think on`
    for name, mode in (("quick", ThinkingMode.OFF), ("plain", ThinkingMode.ON)):
        room._handle(f"/persona {name}")
        assert session.thinking.mode is mode


def _no_model() -> None:
    raise SlmError("there is no such model.", exit_code=ExitCode.NO_MODEL)


def test_the_models_to_go_on_with_are_listed(chat: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    room = chat()
    other = replace(room.session.model.installed, name="other:2b", title="Other", tags=("chat",))  # type: ignore
    monkeypatch.setattr(Library, "all", lambda _self: (room.session.model.installed, other))  # type: ignore
    told = answer_of(room, "/model").splitlines()
    assert told[1:] == ["other:2b@Q4_K_M: Other", "/model NAME lets one of them go on."]
    monkeypatch.setattr(ChatApp, "can_redraw", True)
    monkeypatch.setattr(models, "pick", lambda _question, choices, _preview: len(choices) - 1)
    asked: list[str] = []
    monkeypatch.setattr(models, "switch", lambda _chat, name: asked.append(name))
    room._handle("/model")
    assert asked == ["other:2b@Q4_K_M"]


def test_a_base_model_that_goes_on_is_told(chat: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    room = chat()
    base = LocalModel(replace(room.session.model.installed, tags=("base",)))  # type: ignore
    monkeypatch.setattr(type(room.place), "find", lambda *_: base)
    monkeypatch.setattr(LocalModel, "check", lambda _self: None)
    assert "is a base model" in answer_of(room, "/model other:2b")


def test_what_could_not_be_kept_is_not_said_to_be(chat: Open) -> None:
    room = chat()
    room.settings.paths.chat_settings.mkdir(parents=True)
    told = answer_of(room, "/set temp 0.5 --save")
    assert told.startswith("temperature is now 0.5.\nslm: ")
    assert room.session.sampler.temperature == 0.5
    room.settings.paths.chat_settings.rmdir()
    assert answer_of(room, "/set temp 0.5 --save") == "temperature is now 0.5 and stays so in later chats.\n"
    room.is_private = True
    told = answer_of(room, "/set temp 0.7 --save")
    assert told == "temperature is now 0.7.\nslm: a private chat writes nothing, so nothing was saved.\n"


# What is kept


def _fill(room: ChatApp, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_given: object, **_options: object) -> None:
        raise SlmError("the disk is full.", exit_code=ExitCode.STORAGE)

    monkeypatch.setattr(room.archive, "store", full)


def test_what_is_not_saved_is_not_said_to_be(chat: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    room = chat()
    _fill(room, monkeypatch)
    room._handle("first question")
    id = room.session.conversation.id[:8]
    told = answer_of(room, "/clear")
    assert f"The old one could not be saved yet; slm keeps trying: /sessions {id}" in told
    assert "> first question" in answer_of(room, f"/sessions {id}")
    told = answer_of(room, "/private")
    assert "What was said before could not be saved either." in told
    assert "is saved" not in told


def test_what_is_lost_at_the_end_is_told(chat: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    room = chat()
    _fill(room, monkeypatch)
    room._handle("first question")
    said(room)
    room.close()
    assert said(room) == "slm: warning: what was said last is not saved: the disk is full.\n"


def test_a_conversation_that_goes_while_it_is_listed_has_no_preview(chat: Open) -> None:
    room = chat()
    room._handle("hi")
    id = room.session.conversation.id
    assert saved._preview(room, id) == "> hi\nan answer"
    room.archive.remove([id])
    assert saved._preview(room, id) == ""


def test_the_oldest_of_many_conversations_is_found(chat: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> Iterator[tuple[Conversation, Times]]:
        for number in range(600):
            conversation = Conversation()
            conversation.add(Message(Role.USER, f"question {number}"))
            yield conversation, Times(*(f"2026-01-01T{number // 60:02}:{number % 60:02}:00+00:00",) * 2)

    room = chat()
    room.archive.take_in(made())
    asked: list[str] = []
    monkeypatch.setattr(saved, "pick", lambda _question, choices, _preview: asked.extend(it.name for it in choices))
    assert saved.choose(room) is None
    assert len(asked) == 600
    assert asked[-1] == "question 0"
    assert [title for title, _ in saved.complete_session(room, "question 0")] == ["question 0"]


def test_a_search_that_finds_more_than_it_shows_says_so(chat: Open) -> None:
    room = chat()
    for number in range(6):
        room.session.conversation = Conversation(None, room.recorder)
        for _ in range(3):
            room.session.conversation.add(Message(Role.USER, f"a kite, {number}"))
        if number == 2:
            assert room.recorder is not None
            room.recorder.flush()
            assert "12 found." in answer_of(room, "/search kite")
    assert room.recorder is not None
    room.recorder.flush()
    told = answer_of(room, "/search kite")
    assert "These are the first 15 places; one more word finds fewer." in told
    assert "found." not in told


def test_one_is_not_several(chat: Open) -> None:
    room = chat()
    room._handle("hi")
    assert "there is 1 answer." in answer_of(room, "/copy 2")
    assert "there is no branch 2; there is 1." in answer_of(room, "/branch 2")


def test_a_switch_that_the_model_does_not_have_is_named_as_in_a_chat(chat: Open) -> None:
    room = chat()
    room._handle("/think on")
    assert "/think on changes nothing" in answer_of(room, "hi")
