"""One hostile text on every surface: nothing that a terminal obeys, and nothing unseen, comes out of any of them.

A surface is a function that shows `HOSTILE` on a terminal. To attack another one, add it to `SURFACES`, or a command
line to `COMMAND_LINES`. The text begins with a word, so that a surface that shows nothing does not pass.
"""

import io
import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from fake_engine import FakeEngine, Ready

import slmchat
from slmchat import settings as settings_module
from slmchat.catalog import hub_client
from slmchat.catalog.records import Installed, InstalledFile
from slmchat.commands import doctor, sessions
from slmchat.commands.repl.app import ChatApp
from slmchat.commands.repl.slash_commands import COMMANDS
from slmchat.conversation.archive import Archive
from slmchat.conversation.messages import Conversation, Message, Role
from slmchat.conversation.recorder import ArchiveRecorder
from slmchat.conversation.template import ChatTemplate
from slmchat.diagnostics.findings import wrong
from slmchat.engine.results import Chunk, Finish, FinishReason, Timings, Usage
from slmchat.errors import ExitCode, SlmError
from slmchat.generation.response import consume_stream
from slmchat.models import loader, resolve, sandbox
from slmchat.models.backend import LocalBackend
from slmchat.options import ChatOptions, GenerationOptions
from slmchat.sanitize import Sanitizer
from slmchat.terminal import line_editor, plain_input
from slmchat.terminal.answer_progress import AnswerProgress
from slmchat.terminal.answer_screen import AnswerScreen
from slmchat.terminal.answer_view import ChatView
from slmchat.terminal.completion import command_completer, complete_path
from slmchat.terminal.console import Console
from slmchat.terminal.line_editor import LineEditor
from slmchat.terminal.plain_view import PlainView
from slmchat.terminal.slash_commands import CommandTable, SlashCommand
from slmchat.terminal.tables import Column
from slmchat.terminal.typed_ahead import TypedAhead

# The clipboard (OSC 52), the title in its 8-bit form, the screen, a colour, a string that nobody closes; letters that
# turn around, are not seen, go back; bytes in selectors and tags; half of a surrogate pair.
HOSTILE = (
    "first\x1b]52;c;T1dORUQ=\x07\x9d0;T1dORUQ=\x07\x1b[2J\x9b31m\x1bP$q\x1b\\\x1b[6n\u202etxt.exe\u2066\u200bx\ufe05\ufe0f"
    "\U000e0168\r\x08\x7f\x85\ud800\U000e0041\u2028last"
)
# What slm writes by itself: styles, links, the status line, its bars. The links are those of the Markdown of an answer.
_OWN = re.compile(r"\r?\x1b\[K|\x1b\[[0-9;]*[mHAJr]|\x1b[78D]|\x1b\[\?(?:25|2004)[hl]|\x1b\[1?A|\x1b\[2K|\r")
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_UNSEEN = re.compile("[\u200b\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\U000e0000-\U000e0fff]")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def check(shown: str, *, is_json: bool = False) -> None:
    """That `shown` has the text, and only what may be seen of it."""
    text = _OWN.sub("", shown)
    assert "first" in text, "the surface showed nothing"
    assert is_json or "T1dO" not in text, "neither does the payload of a sequence come through"
    assert not _OBEYED.search(text), ascii(text)
    assert not _UNSEEN.search(text), ascii(text)


class Desk:
    """A console on terminals, an archive with one hostile session, a model with a hostile name."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, **environ: str) -> None:
        self.home, self.monkeypatch = home, monkeypatch
        self.out, self.err = Terminal(), Terminal()
        self.console = Console(
            Terminal("n\n"), self.out, self.err, {"COLUMNS": "200", "TERM": "xterm-256color", **environ}
        )
        self.console.is_verbose = True
        self.settings = settings_module.load({"SLM_HOME": str(home)})
        self.recorder = ArchiveRecorder(Archive(self.settings.paths.sessions), pytest.fail)

    def session(self) -> str:
        """A session in which everything is hostile; its id."""
        conversation = Conversation(HOSTILE.replace("\ud800", ""), self.recorder)
        conversation.title = HOSTILE.replace("\ud800", "")
        conversation.add(Message(Role.USER, HOSTILE))
        conversation.add(Message(Role.ASSISTANT, HOSTILE, model=HOSTILE.replace("\ud800", "")))
        return conversation.id

    def chat(self, *, is_plain: bool) -> ChatApp:
        """A chat that has resumed the hostile session with a model of that name."""
        file = InstalledFile(self.home / "m.gguf", None, 1, 1)
        installed = Installed(HOSTILE, "Q4_K_M", (file,), "test", "2026-01-01T00:00:00Z")
        self.monkeypatch.setattr(loader, "start_loading", lambda *_, **__: Ready(FakeEngine()))
        self.monkeypatch.setattr(resolve, "find", lambda *_: installed)
        self.monkeypatch.setattr(
            ChatApp, "_new_editor", lambda *_given: type("Editor", (), {"refresh": lambda: None, "is_full": False})
        )
        options = ChatOptions(session=self.session(), plain=is_plain)
        return ChatApp(LocalBackend(), GenerationOptions(), options, self.settings, self.console, COMMANDS)


def _table(desk: Desk) -> None:
    desk.console.table((Column(HOSTILE), Column("B")), [(HOSTILE, "b"), ("a", HOSTILE)])


def _progress(desk: Desk) -> None:
    with desk.console.progress(HOSTILE) as move:
        move(1, 2)


def _events() -> Iterator[Any]:
    for char in HOSTILE:
        yield Chunk(char, ())
    yield Finish(FinishReason.STOP, Usage(1, 0, 3), Timings(1, 1, 1), 1, ())


def _view(desk: Desk, **options: Any) -> ChatView:
    return _chat_view(desk.console, **{"is_plain": False, **options})


def _chat_view(console: Console, **options: Any) -> ChatView:
    given = {"shows_thinking": True, "progress": AnswerProgress(), "screen": _screen(console), **options}
    return ChatView(console, **given)


def _screen(console: Console, line: str = "model") -> AnswerScreen:
    return AnswerScreen(console, TypedAhead(), lambda: line, is_redrawn=True)


def _answer(desk: Desk, **options: Any) -> None:
    """As a chat shows it: the record first, then the view."""
    consume_stream(_events(), _view(desk, **options), sanitizer=Sanitizer(show_invisible=False))


def _old_answer(desk: Desk, **options: Any) -> None:
    """A message of a session of an earlier slm, or from somewhere: nobody has looked at it."""
    view = _view(desk, **options)
    view.answer(HOSTILE)
    view.close()


def _thought(desk: Desk) -> None:
    view = _view(desk)
    view.thinking(HOSTILE)
    view.close()


def _status_line(desk: Desk) -> None:
    with mock.patch.object(desk.console, "is_interactive", False), _screen(desk.console, HOSTILE).held():
        desk.console.write("hi")


def _doubt(desk: Desk) -> None:
    view = PlainView(desk.console, shows_doubt=True)
    view.logprob(-9)
    view.answer(HOSTILE)
    view.close()
    desk.console.write("\n")


def _resumed(desk: Desk, *, is_plain: bool) -> None:
    from slmchat.commands.repl import recap
    from slmchat.commands.repl.greeting import greet

    room = desk.chat(is_plain=is_plain)
    greet(room.console, room.session.model, is_private=False, is_raw=False)
    recap.show(room)
    room.close()


def _slash_command(desk: Desk, line: str) -> None:

    room = desk.chat(is_plain=False)
    room._handle(line)
    room.close()


def _template_refuses(desk: Desk) -> None:
    template = ChatTemplate(
        "{{ raise_exception(" + repr(HOSTILE.replace("\ud800", "")) + ") }}", bos_text="", eos_text=""
    )
    with pytest.raises(SlmError) as refused:
        template.render([Message(Role.USER, "hi")])
    desk.console.error(refused.value)


def _question(desk: Desk) -> None:
    desk.monkeypatch.setattr(line_editor, "pressed_key", lambda question: _asked(desk, question))
    desk.monkeypatch.setattr(sys, "stdout", desk.out)
    LineEditor.ask(object.__new__(LineEditor), HOSTILE, [("n", HOSTILE)])


def _asked(desk: Desk, question: str) -> str:
    desk.out.write(plain_input.sanitize(question))
    return "n"


def _dumb_prompt(desk: Desk) -> None:
    desk.monkeypatch.setattr(sys, "stdout", desk.out)
    desk.monkeypatch.setattr(plain_input, "_plain_line", lambda is_over: "")
    desk.monkeypatch.setattr(plain_input, "is_waiting", lambda seconds: False)
    plain_input.read_plainly(HOSTILE, HOSTILE, lambda: False)


def _menu(desk: Desk) -> None:
    """The completion menu: names of files, and what other completers say."""
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document

    name = HOSTILE.replace("\ud800", "")
    (desk.home / "files").mkdir()
    (desk.home / "files" / name).touch()
    table = CommandTable[Any](
        [
            SlashCommand("file", "", "", lambda *_: None, lambda _, text: complete_path(text, desk.home / "files")),
            SlashCommand("model", "", "", lambda *_: None, lambda *_: [(name, HOSTILE)]),
        ]
    )
    completer = command_completer(table, None)
    for line in ("/file ", "/model "):
        for offered in completer.get_completions(Document(line), CompleteEvent()):
            desk.out.write(f"{offered.display_text} {offered.display_meta_text}\n")


def _hub_warning(desk: Desk) -> None:
    """`X-HF-Warning`, which the Hub's own client writes on stderr."""
    hub_client.hub_package()
    logger = logging.getLogger("huggingface_hub")
    (handler, *_) = [each for each in logger.handlers if isinstance(each, logging.StreamHandler)]
    desk.monkeypatch.setattr(handler, "stream", desk.err)
    logger.getChild("utils._http").warning("%s", HOSTILE.replace("\x1b]52;c;T1dORUQ=", "").replace("0;T1dORUQ=", ""))
    desk.err.seek(0)
    desk.err.write(_UNSEEN.sub("", desk.err.getvalue()))  # it is no sentence of slm's: controls are what matters
    desk.err.truncate()


SURFACES: dict[str, Callable[[Desk], object]] = {
    "write": lambda desk: desk.console.write(HOSTILE + "\n"),
    "print": lambda desk: desk.console.print(HOSTILE),
    "note": lambda desk: desk.console.note(HOSTILE),
    "log line of -v": lambda desk: desk.console.detail(HOSTILE),
    "warning": lambda desk: desk.console.warn(HOSTILE),
    "error": lambda desk: desk.console.error(SlmError(HOSTILE, exit_code=ExitCode.USAGE)),
    "hint": lambda desk: desk.console.error(SlmError("wrong", hint=HOSTILE, exit_code=ExitCode.USAGE)),
    "status": lambda desk: desk.console.status(HOSTILE),
    "thinking on stderr": lambda desk: desk.console.aside(HOSTILE + "\n"),
    "yes or no": lambda desk: desk.console.ask(HOSTILE),
    "first-run question": lambda desk: desk.console.ask_text(HOSTILE),
    "table": _table,
    "progress": _progress,
    "run": lambda desk: consume_stream(_events(), PlainView(desk.console), sanitizer=Sanitizer(show_invisible=False)),
    "run --confidence": _doubt,
    "chat": _answer,
    "chat --plain": lambda desk: _answer(desk, is_plain=True),
    "chat /confidence": lambda desk: _answer(desk, shows_doubt=True),
    "message of an old session": _old_answer,
    "message of an old session, plain": lambda desk: _old_answer(desk, is_plain=True),
    "thought": _thought,
    "status line": _status_line,
    "resume": lambda desk: _resumed(desk, is_plain=False),
    "resume --plain": lambda desk: _resumed(desk, is_plain=True),
    "toolbar": lambda desk: desk.console.status(desk.chat(is_plain=False).toolbar()),
    "/sessions": lambda desk: _slash_command(desk, "/sessions"),
    "/title": lambda desk: _slash_command(desk, f"/title {HOSTILE}"),
    "/find": lambda desk: _slash_command(desk, "/search first"),
    "/system": lambda desk: _slash_command(desk, "/system"),
    "/model": lambda desk: _slash_command(desk, "/model"),
    "unknown slash command": lambda desk: _slash_command(desk, f"/first{HOSTILE}last"),
    "/lora": lambda desk: _slash_command(desk, f"/lora {HOSTILE}"),
    "/file": lambda desk: _slash_command(desk, f"/file {HOSTILE}"),
    "sessions list": lambda desk: (desk.session(), sessions.list_sessions(desk.settings, desk.console)),
    "sessions list --json": lambda desk: (
        desk.session(),
        sessions.list_sessions(desk.settings, desk.console, is_json=True),
    ),
    "sessions show": lambda desk: sessions.show(desk.session(), desk.settings, desk.console),
    "sessions search": lambda desk: (desk.session(), sessions.search(["first"], desk.settings, desk.console)),
    "sessions export": lambda desk: sessions.export(desk.session(), desk.settings, desk.console),
    "doctor": lambda desk: doctor._print(wrong(HOSTILE, HOSTILE, HOSTILE), desk.console),
    "template": _template_refuses,
    "question of the chat": _question,
    "prompt of a dumb terminal": _dumb_prompt,
    "completion menu": _menu,
    "warning of a Hub": _hub_warning,
}

COMMAND_LINES = (
    (HOSTILE,),
    (f"--{HOSTILE}",),
    ("run", f"--{HOSTILE}", "hi"),
    ("run", "-m", HOSTILE, "hi"),
    ("run", "-p", HOSTILE, "hi"),
    ("run", "-f", HOSTILE, "hi"),
    ("run", "-n", HOSTILE, "hi"),
    ("run", "--endpoint", HOSTILE, "hi"),
    ("run", "--on-overflow", HOSTILE, "hi"),
    ("batch", HOSTILE, "--endpoint", HOSTILE),
    ("show", HOSTILE),
    ("rm", HOSTILE),
    ("pull", HOSTILE),
    ("add", HOSTILE),
    ("sessions", HOSTILE),
    ("sessions", "show", HOSTILE),
    ("sessions", "search", HOSTILE),
    ("doctor", HOSTILE),
    ("verify", HOSTILE),
)


@pytest.mark.parametrize("surface", SURFACES.values(), ids=SURFACES)
def test_a_surface_shows_hostile_text_as_text(
    surface: Callable[[Desk], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path, monkeypatch)
    surface(desk)
    desk.recorder.close()
    desk.console.print()  # whatever is held back comes out
    desk.console.note("")
    check(desk.out.getvalue() + desk.err.getvalue(), is_json=surface is SURFACES["sessions list --json"])


@pytest.mark.parametrize("arguments", COMMAND_LINES, ids=lambda given: " ".join(given).replace(HOSTILE, "TEXT"))
def test_a_command_line_is_echoed_as_text(
    arguments: tuple[str, ...], slm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "seal", lambda *_, **__: None)  # the tests go on in this process
    done = slm(*arguments)
    said = done.out + done.err
    assert said
    assert not _OBEYED.search(said), ascii(said)
    assert not _UNSEEN.search(said), ascii(said)


def test_what_is_recorded_is_what_was_said() -> None:
    """Controls go, everything else stays: in the archive, in the next prompt, in --json, in the Python API."""
    console = Console(Terminal(), Terminal(), Terminal(), {})
    said = ["Die Donau\u00ad", "dampf\u00adschiff", " می\u200c", "خواهم a\ufe0f\u202eb \x1b]52;c;x\x07", "\u200b"]
    finish = Finish(FinishReason.STOP, Usage(1, 0, 3), Timings(1, 1, 1), 1, ())
    events = [*(Chunk(piece, ()) for piece in said), finish]
    answer = consume_stream(events, PlainView(console), sanitizer=Sanitizer(show_invisible=False))
    assert answer.text == "Die Donau\u00addampf\u00adschiff می\u200cخواهم a\ufe0f\u202eb \u200b"
    console.print()
    assert isinstance(console.stdout, Terminal)
    shown = "Die Donau\u00addampf\u00adschiff می\u200cخواهم a<U+FE0F><U+202E>b <U+200B>\n"
    assert console.stdout.getvalue() == shown


@pytest.mark.parametrize("view", [PlainView, lambda *given, **options: _chat_view(*given, **options, is_plain=True)])
def test_raw_output_is_raw(view: Callable[..., PlainView | ChatView]) -> None:
    console = Console(Terminal(), Terminal(), Terminal(), {})
    shown = view(console, is_raw=True)
    shown.answer(HOSTILE)
    shown.close()
    assert isinstance(console.stdout, Terminal)
    assert console.stdout.getvalue().rstrip("\n") == HOSTILE


def test_a_pipe_gets_text_as_data() -> None:
    out = io.StringIO()
    Console(io.StringIO(), out, io.StringIO(), {}).write("a\u202eb \x1b[1m")
    assert out.getvalue() == "a\u202eb \x1b[1m"


# Who may write to a stream by itself, and who may say what a terminal obeys. Each name here has been looked at.
_WRITERS = {
    "terminal/screen.py",
    "terminal/plain_input.py",  # sanitises all it writes
    "terminal/line_editor.py",  # one error beside the editor, the key that was pressed
    "engine/self_test_child.py",  # a child, and its parent reads a pipe
    "bounded_patterns.py",  # the same
    "engine/library_comparison.py",  # the same
    "privacy/seal_check.py",  # the same
}
_COMMANDERS = {
    "terminal/screen.py",
    "terminal/console.py",
    "terminal/answer_screen.py",
    "terminal/early_prompt.py",  # what is typed, through sanitize
    "terminal/plain_view.py",  # --raw-output
    "terminal/answer_view.py",
    "commands/docs.py",  # bold heads; the rest through sanitize
    "terminal/status_bar.py",
    "terminal/markdown.py",
    "terminal/preview.py",
    "terminal/doubt.py",
    "commands/output.py",  # --raw-output
    "commands/repl/saved.py",  # /copy
    "commands/sessions.py",  # a conversation laid out as a whole, each piece sanitised
}


def test_nothing_writes_past_the_screen() -> None:
    root = Path(slmchat.__file__).parent
    writers, commanders = set(), set()
    for file in root.rglob("*.py"):
        name, text = file.relative_to(root).as_posix(), file.read_text(encoding="utf-8")
        if re.search(r"(?:stdout|stderr|_stream)\.write\(|(?<![\w.])(?<!def )print\(", text):
            writers.add(name)
        if "ControlSequences(" in text:
            commanders.add(name)
    assert {"terminal/screen.py"} <= writers <= _WRITERS
    assert {"terminal/screen.py"} <= commanders <= _COMMANDERS


def test_the_attack_is_one() -> None:
    """Or the tests above prove nothing."""
    with pytest.raises(AssertionError):
        check(HOSTILE)
    with pytest.raises(AssertionError):
        check("first last \x1b]52;c;AAAA\x07")
