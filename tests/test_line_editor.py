"""The line editor on a real pseudo-terminal: what stands on the screen after keys were pressed.

A small program (`DRIVER`) opens an editor and shows what `read` returned. The screen is an emulated terminal (pyte)
that answers as a real one does; nothing here sleeps, every step waits for a text on the screen.
"""

import asyncio
import json
import os
import re
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slmchat.terminal.completion import complete_path, split_words
from slmchat.terminal.input_history import MAX_ENTRIES, InputHistory
from slmchat.terminal.line_editor import KEYS, cut_to_width
from slmchat.terminal.line_keys import Burst
from slmchat.terminal.pastes import Pastes

pexpect = pytest.importorskip("pexpect", reason="needs a pseudo-terminal")
pyte = pytest.importorskip("pyte")
pytestmark = [pytest.mark.real, pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")]

DRIVER = r"""
import os, sys, threading, time
from pathlib import Path
from slmchat.errors import SlmError
from slmchat.terminal.answer_screen import AnswerScreen
from slmchat.terminal.console import Console
from slmchat.terminal.line_editor import LineEditor, complete_path
from slmchat.terminal.slash_commands import CommandTable, SlashCommand, message_of
from slmchat.terminal.typed_ahead import TypedAhead

history, mode, control = sys.argv[1:4]
state = {"toolbar": "gemma3:1b · 812 of 4,096 tokens", "over": False}
models = [("gemma3:1b", "815 MB"), ("phi4:mini", "2.5 GB"), ("red\x1b[31m", "strange")]

def complete_model(chat, text):
    assert chat is state
    return [pair for pair in models if pair[0].startswith(text)]

def broken(chat, text):
    raise RuntimeError("a completer that fails")

ran = lambda chat, arguments: print("RAN", repr(arguments))
table = CommandTable([
    SlashCommand("help", "", "show the commands", ran),
    SlashCommand("model", "[NAME]", "let another model go on", ran, complete_model),
    SlashCommand("file", "PATH…", "attach text files", ran, lambda chat, text: complete_path(text)),
    SlashCommand("broken", "[X]", "has a completer that fails", ran, broken),
    SlashCommand("exit", "", "leave", ran),
])
typed = TypedAhead()
screen = AnswerScreen(Console(), typed, lambda: "", is_redrawn=False)
editor = LineEditor(typed=typed, history_file=Path(history) if history else None, table=table, state=state,
                    toolbar=lambda: state["toolbar"], is_over=lambda: state["over"], editing_mode=mode)
if editor.history_problem:
    print("PROBLEM", editor.history_problem)

answered = threading.Event()

def listen():
    for line in open(control):
        key, _, value = line.rstrip("\n").partition("=")
        state[key] = value
        if key == "answered":
            answered.set()
        editor.refresh()

if control:
    threading.Thread(target=listen, daemon=True).start()

if os.environ.get("PAUSE"):  # before each read, in seconds
    source = editor._session.app.input
    source.read_keys = lambda read=source.read_keys: (time.sleep(float(os.environ["PAUSE"])), read())[1]

if os.environ.get("FAILING"):
    from prompt_toolkit.key_binding import KeyBindings, merge_key_bindings
    failing = KeyBindings()
    failing.add(os.environ["FAILING"])(lambda event: 1 / 0)
    editor._session.key_bindings = merge_key_bindings([editor._session.key_bindings, failing])
if os.environ.get("CPR_TIMEOUT"):
    editor._session.app.renderer.CPR_TIMEOUT = float(os.environ["CPR_TIMEOUT"])

default = ""
while True:
    try:
        line = editor.read(default=default, prompt="edit> " if default else "> ")
        default = ""
    except KeyboardInterrupt:
        print("CTRL-C")
        continue
    except EOFError:
        print("EOF")
        break
    try:
        parsed = table.parse(line)
        if parsed:
            print("COMMAND", parsed[0].name, repr(parsed[1]))
            continue
        text = message_of(line)
        if text.startswith("default!"):
            default = text[8:]
        elif text == "ask!":
            print("CHOSE", repr(editor.ask("Too long: 9,000 tokens.", [("d", "drop the oldest"), ("s", "summarise")])))
        elif text == "answer!":
            with screen.held():
                print("ANSWERING")
                answered.wait()
            answered.clear()
        elif text.startswith("edit!"):
            print("EDITED", repr(editor.edit_text(text[5:])))
        else:
            print("GOT", repr(text) if len(text) < 400 else (len(text), text.count("\n"), text[:5], text[-5:]))
    except SlmError as error:
        print("ERROR", error.message, "HINT", error.hint)
"""

ENTER, ALT_ENTER, CTRL_J, TAB, ESC = "\r", "\x1b\r", "\n", "\t", "\x1b"
UP, DOWN, BACKSPACE = "\x1b[A", "\x1b[B", "\x7f"
CTRL_A, CTRL_C, CTRL_D, CTRL_G, CTRL_O, CTRL_R, CTRL_Z, UNDO = "\x01\x03\x04\x07\x0f\x12\x1a\x1f"
CTRL_X_E = "\x18\x05"


def pasted(text: str) -> str:
    """What a terminal with bracketed paste sends."""
    return f"\x1b[200~{text}\x1b[201~"


def write_history(path: Path, n_entries: int) -> None:
    line = json.dumps("a message of a usual length, " * 4 + "\nwith a second line") + "\n"
    path.write_text("".join(line.replace("usual", str(number)) for number in range(n_entries)))


class Terminal:
    """A program on a pseudo-terminal, and the screen that a person would see."""

    def __init__(self, command: list[str], env: dict[str, str], cwd: Path, columns: int = 80, lines: int = 24) -> None:
        from spawn import Spawn

        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.child = Spawn(command[0], command[1:], env=env, cwd=str(cwd), dimensions=(lines, columns))
        self.child.delaybeforesend = None
        self.screen.write_process_input = self.send  # answers "where is the cursor?"
        self.bytes = b""

    def send(self, keys: str) -> None:
        self.child.send(keys)

    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def see(self, *texts: str, gone: str = "") -> str:
        """Wait until all of `texts` (and not `gone`) are on the screen."""
        return self.until(lambda shown: all(text in shown for text in texts) and not (gone and gone in shown))

    def until(self, is_right: Callable[[str], bool]) -> str:
        deadline = time.monotonic() + 300
        while not is_right(self.text()):
            assert time.monotonic() < deadline, f"the screen stays:\n{self.text()}"
            try:
                data = self.child.read_nonblocking(65536, timeout=1)
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                assert is_right(self.text()), f"ended with:\n{self.text()}"
                break
            self.bytes += data
            self._stream.feed(data)
        return self.text()

    def see_cursor_in(self, line: int) -> None:
        self.until(lambda _: self.screen.cursor.y == line)

    def see_prompt(self) -> None:
        """Wait until the prompt is open and empty: keys sent earlier would belong to no prompt."""
        self.until(lambda _: self.screen.display[self.screen.cursor.y].rstrip() == ">")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """`start(history=..., mode=..., env=...)` opens the driver and waits for its prompt."""
    open_terminals: list[Terminal] = []
    (tmp_path / "driver.py").write_text(DRIVER)

    def call(
        history: Path | None = None,
        mode: str = "emacs",
        control: str | Path = "",
        columns: int = 80,
        shell: bool = False,
        is_answering: bool = True,
        **env: str,
    ) -> Terminal:
        kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "VISUAL", "EDITOR")}
        full = {**kept, "TERM": "xterm-256color", "TMPDIR": str(tmp_path), "PS1": "shell$ ", **env}
        command = [sys.executable, str(tmp_path / "driver.py"), str(history or ""), mode, str(control)]
        terminal = Terminal(["bash", "--norc", "--noprofile", "-i"] if shell else command, full, tmp_path, columns)
        open_terminals.append(terminal)
        if not is_answering:
            terminal.screen.write_process_input = lambda _answer: None
        if shell:
            terminal.see("shell$")
            terminal.send(" ".join(f"'{word}'" for word in command) + ENTER)
        terminal.see_prompt()
        return terminal

    (tmp_path / "driver.py").write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent.parent)!r})\n" + DRIVER
    )
    yield call
    for terminal in open_terminals:
        terminal.child.close(force=True)


class TestLines:
    def test_enter_sends_and_alt_enter_and_ctrl_j_make_new_lines(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        terminal.send("one" + ALT_ENTER + "two" + CTRL_J + "three")
        terminal.see("> one\n  two\n  three")
        terminal.send(ENTER)
        terminal.see("GOT 'one\\ntwo\\nthree'")

    def test_enter_with_shift_or_ctrl_makes_a_new_line(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        terminal.send("one\x1b[13;2utwo\x1b[27;2;13~three\x1b[27;5;13~four")
        terminal.see("> one\n  two\n  three\n  four")
        terminal.send(ENTER)
        terminal.see("GOT 'one\\ntwo\\nthree\\nfour'")

    def test_what_no_key_sends_is_not_typed(self, start: Callable[..., Terminal], tmp_path: Path) -> None:
        """The focus of the window, a late answer to another program, an unknown key: never text, never Esc."""
        unasked = ["\x1b[I", "\x1b]11;rgb:0000/1111/2222\x07", "\x1b[?62;22c", "\x1bP1$r0m\x1b\\", "\x1b[99~"]
        control = tmp_path / "control"
        os.mkfifo(control)
        terminal = start(control=control)
        terminal.send("".join(f"{number}{report}" for number, report in enumerate(unasked)) + ".")
        terminal.see("> 01234.")
        terminal.send(ENTER)
        terminal.see("GOT '01234.'")
        terminal.see_prompt()
        terminal.send("answer!" + ENTER)
        terminal.see("ANSWERING")
        terminal.send("typed" + unasked[1] + " ahead" + unasked[0])
        with control.open("w") as out:
            out.write("answered=yes\n")
        terminal.see("> typed ahead")
        terminal.send("." + ENTER)
        terminal.see("GOT 'typed ahead.'")

    def test_ctrl_space_takes_nothing_away(self, start: Callable[..., Terminal]) -> None:
        """prompt_toolkit sets the mark of Emacs, and takes no text while it is set."""
        terminal = start()
        terminal.send("hello\0 world\0!")
        terminal.see("> hello world!")
        terminal.send(ENTER)
        terminal.see("GOT 'hello world!'")

    def test_a_block_goes_on_until_its_closing_marks(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        terminal.send('"""/etc is')
        terminal.see('""" at the end of a line ends the block')
        terminal.send(ENTER)
        terminal.see_cursor_in(1)
        terminal.send("a place")
        terminal.see("  a place")
        terminal.send(ENTER)
        terminal.see_cursor_in(2)
        terminal.send('"""')
        terminal.see('\n  """', gone="ends the block")
        terminal.send(ENTER)
        terminal.see("GOT '/etc is\\na place'")

    def test_default_and_prompt(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        terminal.send("default!old question")
        terminal.see("old question")
        terminal.send(ENTER)
        terminal.see("edit> old question")
        terminal.send("?")
        terminal.see("edit> old question?")
        terminal.send(ENTER)
        terminal.see("GOT 'old question?'")

    @pytest.mark.parametrize("text", ["🎉 party 👩‍💻", "漢字かな", "Grüße, naïve café", "q", "h", "x"])
    def test_every_character_arrives(self, start: Callable[..., Terminal], text: str) -> None:
        terminal = start()
        terminal.send(text)
        terminal.see(text[0])
        terminal.send(ENTER)
        terminal.see(f"GOT {text!r}")

    def test_wide_characters_are_deleted_whole(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        terminal.send("a🎉漢" + BACKSPACE + BACKSPACE + "b")
        terminal.see("> ab")
        terminal.send(ENTER)
        terminal.see("GOT 'ab'")

    def test_bytes_that_are_no_text_do_no_harm(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        os.write(terminal.child.fileno(), b"a\xffb")
        terminal.until(lambda shown: "b" in shown)
        terminal.send(ENTER)
        terminal.see("GOT 'a\N{REPLACEMENT CHARACTER}b'")

    def test_ctrl_c_empties_the_line_first_and_undo_brings_it_back(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        terminal.send("a long thought")
        terminal.see("> a long thought")
        terminal.send(CTRL_C)
        terminal.see(gone="a long thought")
        terminal.send(UNDO)
        terminal.see("> a long thought")
        terminal.send(CTRL_C)
        terminal.see(gone="a long thought")
        terminal.send(CTRL_C)
        terminal.see("CTRL-C\n>")

    def test_ctrl_d_leaves_on_an_empty_line_only(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        terminal.send("ab" + CTRL_A + CTRL_D)
        terminal.see("> b")
        terminal.send(CTRL_D)
        terminal.see(gone="> b")
        terminal.send(CTRL_D)
        terminal.see("EOF")

    def test_a_signal_is_as_good_as_ctrl_c(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        terminal.send("text")
        terminal.see("> text")
        terminal.child.kill(signal.SIGINT)
        terminal.see(gone="text")
        terminal.child.kill(signal.SIGINT)
        terminal.see("CTRL-C")

    def test_what_is_typed_during_an_answer_appears_in_the_next_prompt(
        self, start: Callable[..., Terminal], tmp_path: Path
    ) -> None:
        control = tmp_path / "control"
        os.mkfifo(control)
        terminal = start(control=control)
        terminal.send("answer!" + ENTER)
        terminal.see("ANSWERING")
        terminal.send("next" + ENTER + "one" + ENTER)
        with control.open("w") as out:
            out.write("answered=yes\n")
        shown = terminal.see("> next\n  one")
        assert shown.count("next") == 1 and "GOT" not in shown  # neither echoed into the answer nor sent

    def test_up_during_an_answer_shows_the_last_message_in_the_next_prompt(
        self, start: Callable[..., Terminal], tmp_path: Path
    ) -> None:
        """The history is there before a key that was pressed too early is."""
        control, history = tmp_path / "control", tmp_path / "history"
        os.mkfifo(control)
        write_history(history, 3)
        terminal = start(control=control, history=history)
        terminal.send("answer!" + ENTER)
        terminal.see("ANSWERING")
        terminal.send(UP + UP)
        with control.open("w") as out:
            out.write("answered=yes\n")
        terminal.see("> a message of a 2 length", "\n  with a second line", gone="^[[A")

    def test_ctrl_z_suspends_and_fg_comes_back(self, start: Callable[..., Terminal]) -> None:
        terminal = start(shell=True)
        terminal.send("half a")
        terminal.see("> half a")
        terminal.send(CTRL_Z)
        terminal.see("Stopped")
        terminal.send("fg" + ENTER)
        terminal.until(lambda shown: shown.rfind("> half a") > shown.rfind("Stopped"))
        terminal.send(" thought")
        terminal.see("> half a thought")
        terminal.send(ENTER)
        terminal.see("GOT 'half a thought'")


def test_a_key_that_fails_is_told_and_leaves_the_text(start: Callable[..., Terminal]) -> None:
    """prompt_toolkit would show a traceback and wait for Enter (as some keys of vi do)."""
    terminal = start(FAILING="c-t")
    terminal.send("text\x14")
    terminal.see("slm: that key cannot be used here (ZeroDivisionError); the text is as it was.\n> text", gone="Enter")
    terminal.send(" goes on" + ENTER)
    terminal.see("GOT 'text goes on'")


def test_backspace_takes_what_is_seen_as_one_character(start: Callable[..., Terminal]) -> None:
    terminal = start()
    for keys in ("a\U0001f1e9\U0001f1ea", "e\u0301", "\U0001f468\u200d\U0001f469\u200d\U0001f467"):
        terminal.send(keys + BACKSPACE)
    terminal.send("b" + pasted("line\n" * 20))
    terminal.see("ab[pasted text")
    terminal.send(BACKSPACE + "!" + ENTER)
    terminal.see("GOT 'ab!'")


class TestPaste:
    def test_a_long_paste_without_marks_is_one_paste(self, start: Callable[..., Terminal]) -> None:
        """56 kB that a terminal sends as keys, no more than the driver holds: folded, each line end once."""
        terminal = start()
        terminal.send("line of text\r\n" * 4000)

        def n_lines(shown: str) -> int:
            """The first part may have come like keys: it stands there as it was typed."""
            folded = re.findall(r"\[pasted text: ([\d,]+) lines?", shown)
            return shown.count("line of text") + sum(int(number.replace(",", "")) for number in folded)

        terminal.until(lambda shown: n_lines(shown) >= 4000)
        terminal.send(ENTER)
        terminal.see("GOT (52000, 4000, 'line ', 'text\\n')")

    def test_a_paste_is_one_where_slm_is_held_up_between_its_parts(self, start: Callable[..., Terminal]) -> None:
        terminal = start(PAUSE="0.1")
        terminal.send("line of text\r\n" * 250)
        terminal.see("> [pasted text: 250 lines, 3,250 characters]")
        terminal.send(ENTER)
        terminal.see("GOT (3250, 250, 'line ', 'text\\n')")

    def test_keys_of_one_read_belong_together_on_the_slowest_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now, burst = 0.0, Burst()
        monkeypatch.setattr(time, "monotonic", lambda: now)
        more: Any = SimpleNamespace(key_processor=SimpleNamespace(input_queue=[SimpleNamespace(key="c-j")]))

        async def read() -> None:
            nonlocal now
            burst.note_key(None)
            assert burst.goes_on(more)  # the carriage return
            now = 10.0
            burst.note_key(None)
            assert burst.is_after_return  # its line feed

        asyncio.run(read())

    def test_small_paste_is_inserted_and_never_sends(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        terminal.send(pasted("one\r\ntwo\rthree\n"))
        terminal.see("> one\n  two\n  three")
        terminal.send("end")
        terminal.see("  end", gone="GOT")
        terminal.send(ENTER)
        terminal.see("GOT 'one\\ntwo\\nthree\\nend'")

    def test_large_paste_is_folded_and_sent_whole(self, start: Callable[..., Terminal], tmp_path: Path) -> None:
        text = "\n".join(f"line {number} {'x' * 33}" for number in range(120))
        terminal = start(history=tmp_path / "history")
        terminal.send("see " + pasted(text) + " ok")
        terminal.see(f"> see [pasted text: 120 lines, {len(text):,} characters] ok", gone="line 5")
        terminal.send(ENTER)
        terminal.see(f"GOT ({len(text) + 7}, 119, 'see l', 'xx ok')")
        assert json.loads((tmp_path / "history").read_text()) == f"see {text} ok"

    def test_one_long_line_is_folded_too(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        terminal.send(pasted("y" * 1000))
        terminal.see("> [pasted text: 1 line, 1,000 characters]")

    def test_folded_paste_is_deleted_as_one_and_comes_back(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        terminal.send("a" + pasted("\n" * 9) + "b")
        terminal.see("> a[pasted text: 9 lines, 9 characters]b")
        terminal.send(BACKSPACE + BACKSPACE)
        terminal.see("> a", gone="pasted")
        terminal.send(UNDO)
        terminal.see("> a[pasted text: 9 lines, 9 characters]")

    def test_folded_paste_is_shown_in_full(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        text = "\n".join(f"row {number}" for number in range(9))
        terminal.send("a" + pasted(text) + "b")
        terminal.see("characters]b")
        terminal.send(CTRL_O)
        terminal.see("> arow 0\n  row 1", "row 8b", gone="pasted")
        terminal.send(ENTER)
        terminal.see(f"GOT {'a' + text + 'b'!r}"[:70])

    @pytest.mark.parametrize("first", ["/usr/bin/log", '"""Docs."""', "//"])
    def test_pasted_text_is_a_message_whatever_it_begins_with(
        self, start: Callable[..., Terminal], tmp_path: Path, first: str
    ) -> None:
        """And it is the same message when it is sent again from the history."""
        text = first + "\n1\n2\n3\n4\n5\n6\n7"
        terminal = start(history=tmp_path / "history")
        terminal.send(pasted(text))
        terminal.see("> [pasted text: 8 lines")
        terminal.send(ENTER)
        terminal.see(f"GOT {text!r}")
        terminal.send(UP)
        terminal.see("\n  7", gone="pasted text]")
        terminal.send(ENTER)
        terminal.until(lambda shown: shown.count(f"GOT {text!r}") == 2)

    def test_small_paste_with_block_marks_is_no_block(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        terminal.send(pasted('"""x"""\ny') + ENTER)
        terminal.see("> [pasted text: 2 lines, 9 characters]", 'GOT \'"""x"""\\ny\'')

    def test_paste_of_a_megabyte(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        terminal.send(pasted("0123456789abcde\n" * 65536))
        terminal.see("> [pasted text: 65,536 lines, 1,048,576 characters]")
        terminal.send(ENTER)
        terminal.see("GOT (1048576, 65536, '01234', 'bcde\\n')")

    def test_paste_without_brackets_does_not_send_line_by_line(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        terminal.send("one\rtwo\r\tthree\r")
        terminal.see("> one\n  two\n      three", gone="GOT")
        terminal.send(ENTER)
        terminal.see("GOT 'one\\ntwo\\n\\tthree\\n'")

    def test_colours_in_a_paste_without_brackets_are_left_out(
        self, start: Callable[..., Terminal], tmp_path: Path
    ) -> None:
        """`ESC [ 31 m` reads as an event of a mouse, on which prompt_toolkit fails with a traceback."""
        control = tmp_path / "control"
        os.mkfifo(control)
        terminal = start(control=control)
        terminal.send("\x1b[31mred\x1b[0m and \x1b[1;32mgreen\x1b[0m")
        terminal.see("> red and green", gone="Exception")
        terminal.send(ENTER)
        terminal.see("GOT 'red and green'")
        terminal.see_prompt()
        terminal.send("".join(f"\x1b[3{number % 8}mline {number}\x1b[0m\r" for number in range(40)))
        terminal.see("[pasted text: 40 lines, 310 characters]", gone="Exception")
        terminal.send(CTRL_C + "answer!" + ENTER)
        terminal.see("ANSWERING")
        terminal.send("\x1b[31mred\x1b[0m")
        with control.open("w") as out:
            out.write("answered=yes\n")
        terminal.see("> red", gone="Exception")

    def test_paste_without_brackets_longer_than_a_read(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        terminal.send("".join(f"{number:03} {'z' * 59}\r" for number in range(64)) + "end")
        terminal.see("end", gone="GOT")
        terminal.send(ENTER)
        terminal.see(f"GOT ({64 * 64 + 3}, 64,")

    def test_paste_into_a_command_is_its_argument(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        terminal.send("/model " + pasted("a\n" * 8))
        terminal.see("> /model [pasted text: 8 lines")
        terminal.send(ENTER)
        terminal.see("COMMAND model 'a\\na\\n")


class TestHistory:
    def test_entries_with_several_lines_survive_the_program(
        self, start: Callable[..., Terminal], tmp_path: Path
    ) -> None:
        file = tmp_path / "new" / "history"
        first = start(history=file)
        for count, line in enumerate(("alpha" + ALT_ENTER + "+beta # \\n gamma", "🎉 two", "🎉 two"), 1):
            first.send(line + ENTER)
            first.until(lambda shown, count=count: shown.count("GOT") == count)  # type: ignore[misc]
            first.see_prompt()
        first.send(CTRL_D)
        first.see("EOF")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        second = start(history=file)
        second.send(UP)
        second.see("> 🎉 two")
        second.send(UP)
        second.see("> alpha\n  +beta # \\n gamma")
        second.send(ENTER)
        second.see("GOT 'alpha\\n+beta # \\\\n gamma'")

    def test_up_searches_for_what_is_typed(self, start: Callable[..., Terminal], tmp_path: Path) -> None:
        history = InputHistory(tmp_path / "history")
        for text in ("why is the sky blue", "what is water", "why not"):
            history.append(text)
        terminal = start(history=tmp_path / "history")
        terminal.send("why is")
        terminal.see("> why is")
        terminal.send(UP)
        terminal.see("> why is the sky blue")
        terminal.send(DOWN)
        terminal.see("> why is\n", gone="sky")

    def test_ctrl_r_finds_and_enter_takes_it_without_sending(
        self, start: Callable[..., Terminal], tmp_path: Path
    ) -> None:
        history = InputHistory(tmp_path / "history")
        for text in ("the sky is\nblue today", "water", "stone"):
            history.append(text)
        terminal = start(history=tmp_path / "history")
        terminal.send(CTRL_R)
        terminal.see("I-search backward:")
        terminal.send("lue")
        terminal.see("> the sky is\n  blue today")
        terminal.send(ENTER)
        terminal.see("  blue today", gone="I-search")
        assert "GOT" not in terminal.text()
        terminal.send(ENTER)
        terminal.see("GOT 'the sky is\\nblue today'")

    def test_without_a_file_nothing_is_written(self, start: Callable[..., Terminal], tmp_path: Path) -> None:
        editor = tmp_path / "editor.sh"
        editor.write_text("#!/bin/sh\necho changed > $1\n")
        editor.chmod(0o755)
        home = tmp_path / "home"
        home.mkdir()
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
        terminal = start(HOME=str(home), XDG_CACHE_HOME=str(home), EDITOR=str(editor), PYTHONDONTWRITEBYTECODE="1")
        terminal.send("a secret")
        terminal.see("> a secret")
        terminal.send(ENTER)
        terminal.see("GOT 'a secret'")
        terminal.send("edit!another")
        terminal.see("edit!another")
        terminal.send(ENTER)
        terminal.see("EDITED 'changed'")
        terminal.see_prompt()
        terminal.send(UP + UP)
        terminal.see("> a secret")  # kept in memory
        terminal.send(CTRL_C + CTRL_D)
        terminal.see("EOF")
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before

    def test_a_history_that_cannot_be_used_stops_nothing(self, start: Callable[..., Terminal], tmp_path: Path) -> None:
        (tmp_path / "directory").mkdir()
        terminal = start(history=tmp_path / "directory")
        terminal.see("PROBLEM the input history")
        terminal.send("hello")
        terminal.see("> hello")
        terminal.send(ENTER)
        terminal.see("GOT 'hello'")


class TestHistoryFile:
    def test_damage_costs_only_the_damaged_lines(self, tmp_path: Path) -> None:
        file = tmp_path / "history"
        lines = (
            b'"first"',
            b"\xff\xfe\x00",
            b'"cut',
            b"[" * 5000,
            b'{"a": 1}',
            b'"\\ud800"',
            b'"last"',
            b'"no line end',
        )
        file.write_bytes(b"\n".join(lines))
        history = InputHistory(file)
        assert history.entries() == ["first", "last"]
        assert history.append("new")
        assert InputHistory(file).entries() == ["first", "last", "new"]
        assert history.problem is None

    def test_open_permissions_are_closed(self, tmp_path: Path) -> None:
        file = tmp_path / "history"
        file.write_text('"a"\n')
        file.chmod(0o644)
        assert InputHistory(file).entries() == ["a"]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    def test_repeats_and_blanks_are_not_kept(self, tmp_path: Path) -> None:
        history = InputHistory(tmp_path / "history")
        assert [history.append(text) for text in ("a", "a", "b", "a", " \n", "\ud800")] == [
            True,
            False,
            True,
            True,
            False,
            False,
        ]
        assert InputHistory(tmp_path / "history").entries() == ["a", "b", "a"]

    def test_two_chats_append_without_harm(self, tmp_path: Path) -> None:
        one, two = InputHistory(tmp_path / "history"), InputHistory(tmp_path / "history")
        for number in range(50):
            one.append(f"one\n{number}")
            two.append(f"two\n{number}")
        assert sorted(InputHistory(tmp_path / "history").entries()) == sorted(
            f"{name}\n{number}" for name in ("one", "two") for number in range(50)
        )

    def test_the_file_is_bounded_and_what_another_chat_wrote_survives(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("slmchat.terminal.input_history.MAX_ENTRIES", 100)
        one, two = InputHistory(tmp_path / "history"), InputHistory(tmp_path / "history")
        one.entries()
        for number in range(500):
            (one if number % 2 else two).append(f"entry {number}")
            lines = (tmp_path / "history").read_text().count("\n")
            assert lines <= 250  # each chat counts what it wrote itself
        entries = InputHistory(tmp_path / "history").entries()
        assert entries == [f"entry {number}" for number in range(500 - len(entries), 500)]
        assert len(entries) <= 100
        assert stat.S_IMODE((tmp_path / "history").stat().st_mode) == 0o600
        assert [path.name for path in tmp_path.iterdir()] == ["history"]

    def test_a_full_disk_is_said_once_and_stops_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        history = InputHistory(tmp_path / "history")
        history.append("before")

        def full(_descriptor: int, _data: bytes) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("slmchat.terminal.input_history.os.write", full)
        assert history.append("after")
        assert history.entries() == ["before", "after"]
        assert "No space left" in str(history.problem)

    def test_a_full_history_is_loaded(self, tmp_path: Path) -> None:
        """How fast is in benchmarks/bench_parts.py."""
        write_history(tmp_path / "history", MAX_ENTRIES)
        assert len(InputHistory(tmp_path / "history").entries()) == MAX_ENTRIES


class TestCompletion:
    def test_names_appear_while_typing_with_their_help(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        terminal.send("/")
        terminal.see("/help", "show the commands", "/model [NAME]", "let another model go on")
        terminal.send("mo")
        terminal.see("/model [NAME]", gone="show the commands")
        terminal.send(TAB)
        terminal.see("> /model\n")
        terminal.send(ENTER)
        terminal.see("> /model", "gemma3:1b", "815 MB", "phi4:mini")
        terminal.send("ph")
        terminal.see("2.5 GB", gone="815 MB")
        terminal.send(TAB)
        terminal.see("> /model phi4:mini\n")
        terminal.send(ENTER)
        terminal.see("> /model phi4:mini", gone="2.5 GB")
        terminal.send(ENTER)
        terminal.see("COMMAND model 'phi4:mini'")

    def test_the_menu_hides_nothing_a_terminal_would_obey(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        terminal.send("/model re")
        terminal.see("strange")
        assert b"\x1b[31mstrange" not in terminal.bytes and b"red\x1b[31m" not in terminal.bytes

    def test_a_completer_that_fails_does_not_disturb(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        terminal.send("/broken x" + TAB + "y")
        terminal.see("> /broken xy")
        terminal.send(ENTER)
        terminal.see("COMMAND broken 'xy'")

    def test_tab_in_a_message_changes_nothing(self, start: Callable[..., Terminal], tmp_path: Path) -> None:
        control = tmp_path / "control"
        os.mkfifo(control)
        terminal = start(control=control)
        terminal.send("see /he")
        terminal.see("> see /he")
        terminal.send(TAB)
        with control.open("w") as out:
            for count in ("once", "twice"):  # the second time round, the event loop has read the Tab
                out.write(f"toolbar=drawn {count}\n")
                out.flush()
                terminal.see(f"drawn {count}")
        terminal.send("x")
        terminal.see("> see /hex", gone="show the commands")
        terminal.send(ENTER)
        terminal.see("GOT 'see /hex'")

    def test_escape_closes_the_menu(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        terminal.send("/he")
        terminal.see("show the commands")
        terminal.send(ESC)
        terminal.see("> /he", gone="show the commands")

    def test_prefixes_and_unknown_words_are_not_run_and_not_sent(self, start: Callable[..., Terminal]) -> None:
        terminal = start()
        for line in ("/hel", "/x", "/usr/bin/env is", "/helpme", " /hel"):
            terminal.send(line)
            terminal.see(f"> {line}")
            terminal.send(ENTER)
            terminal.see(f"ERROR there is no command {line.split()[0]};")
            terminal.see_prompt()
        assert "GOT" not in terminal.text() and "COMMAND" not in terminal.text()
        terminal.send("//usr is a path")
        terminal.see("> //usr is a path")
        terminal.send(ENTER)
        terminal.see("GOT '/usr is a path'")

    def test_paths_are_offered_one_directory_after_another(
        self, start: Callable[..., Terminal], tmp_path: Path
    ) -> None:
        (tmp_path / "my files").mkdir()
        (tmp_path / "my files" / "notes.md").write_text("x" * 2000)
        terminal = start()
        terminal.send("/file my")
        terminal.see("my files/ ", "directory")
        terminal.send(TAB)
        terminal.see('> /file "my files/\n')
        terminal.send(ENTER)
        terminal.see("notes.md ", "2.0 kB")
        terminal.send(TAB)
        terminal.see('> /file "my files/notes.md"\n')
        terminal.send(ENTER)
        terminal.see('> /file "my files/notes.md"', gone="2.0 kB")
        terminal.send(ENTER)
        terminal.see("COMMAND file '\"my files/notes.md\"'")


class TestPaths:
    @pytest.fixture(autouse=True)
    def _files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("a.txt", "b c.txt", ".hidden", 'quo"te', "dir/inner.txt", "Dir2/x", "it's"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("12345")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("a", ["a.txt"]),
            ("", ["a.txt", '"b c.txt"', "dir/", "Dir2/", '"it\'s"', '"quo\\"te"']),
            ("dir", ["dir/"]),
            ("DIR", ["dir/", "Dir2/"]),
            ("dir/", ["dir/inner.txt"]),
            ("a.txt b", ['a.txt "b c.txt"']),
            ('a.txt "b', ['a.txt "b c.txt"']),
            ("'b c", ['"b c.txt"']),
            ("b\\ ", ['"b c.txt"']),
            (".h", [".hidden"]),
            ("~", ["~/"]),
            ("~/di", ["~/dir/"]),
            ("nothing", []),
            ("nowhere/x", []),
            ("a\0", []),
        ],
    )
    def test_completions(self, text: str, expected: list[str]) -> None:
        assert [replacement for replacement, _ in complete_path(text)] == expected

    def test_each_completion_reads_back_as_the_name(self) -> None:
        for replacement, _ in complete_path("a.txt "):
            assert Path(split_words(replacement)[1]).exists()

    def test_descriptions(self) -> None:
        assert list(complete_path("a.t")) == [("a.txt", "5 bytes")]
        assert list(complete_path("dir")) == [("dir/", "directory")]

    def test_words(self) -> None:
        assert split_words("a  'b c' \"d \\\" e\" f\\ g 'open") == ["a", "b c", 'd " e', "f g", "open"]
        assert split_words(" ") == []


class TestVi:
    def test_keys_of_vi(self, start: Callable[..., Terminal]) -> None:
        terminal = start(mode="vi")
        terminal.send("hello world")
        terminal.see("> hello world")
        terminal.send(ESC)
        terminal.until(lambda _: b"\x1b[2 q" in terminal.bytes[terminal.bytes.rfind(b"world") :])  # the block cursor
        terminal.send("0dwx")
        terminal.see("> orld")
        terminal.send("u")
        terminal.see("> world")
        terminal.send("A!" + ALT_ENTER + "more")
        terminal.see("> world!\n  more")
        terminal.send(ENTER)
        terminal.see("GOT 'world!\\nmore'")


class TestToolbar:
    def test_it_stands_at_the_bottom_dim_and_follows_changes(
        self, start: Callable[..., Terminal], tmp_path: Path
    ) -> None:
        control = tmp_path / "control"
        os.mkfifo(control)
        terminal = start(control=control)
        terminal.see("gemma3:1b · 812 of 4,096 tokens")
        assert terminal.screen.display[-1].startswith("gemma3:1b · 812")
        assert b";2m" in terminal.bytes  # dim
        with control.open("w") as out:
            out.write("toolbar=ready \x1b[31mnow\n")
            out.flush()
            terminal.see("ready now", gone="812")
            out.write("over=yes\n")
            out.flush()
            terminal.see("EOF")

    def test_a_terminal_that_does_not_say_where_its_cursor_is(self, start: Callable[..., Terminal]) -> None:
        """A slow line or a busy phone: nothing is written about it into the conversation."""
        terminal = start(is_answering=False, CPR_TIMEOUT="0")
        for text in ("one", "two"):
            terminal.send(text + ENTER)
            terminal.see(f"GOT '{text}'\n>", gone="WARNING")

    def test_it_is_cut_to_the_width(self, start: Callable[..., Terminal]) -> None:
        terminal = start(columns=20)
        terminal.see("gemma3:1b · 812 of …")

    def test_no_color_means_no_styles(self, start: Callable[..., Terminal]) -> None:
        terminal = start(NO_COLOR="1")
        terminal.see("gemma3:1b")
        assert b";2m" not in terminal.bytes

    def test_cutting_counts_cells(self) -> None:
        assert cut_to_width("漢字漢字", 8) == "漢字漢字"
        assert cut_to_width("漢字漢字", 7) == "漢字漢…"
        assert cut_to_width("漢字漢字", 6) == "漢字…"


class TestAsk:
    def ask(self, terminal: Terminal, times: int = 1) -> None:
        terminal.send("ask!")
        terminal.see("> ask!")
        terminal.send(ENTER)
        terminal.see("Too long: 9,000 tokens.\n  d  drop the oldest\n  s  summarise\n[d/s, Esc]")

    @pytest.mark.parametrize(
        ("key", "answer"), [("d", "'d'"), ("S", "'s'"), (ESC, "None"), (CTRL_C, "None"), (CTRL_D, "None")]
    )
    def test_one_key_answers(self, start: Callable[..., Terminal], key: str, answer: str) -> None:
        terminal = start()
        self.ask(terminal)
        terminal.send(key)
        terminal.see(f"CHOSE {answer}\n>")

    @pytest.mark.parametrize("key", ["x", ENTER, UP, "漢"])
    def test_another_key_asks_again(self, start: Callable[..., Terminal], key: str) -> None:
        terminal = start()
        self.ask(terminal)
        terminal.send(key)
        terminal.until(lambda shown: shown.count("[d/s, Esc]") == 2)
        terminal.send("d")
        terminal.see("CHOSE 'd'")

    def test_on_a_dumb_terminal(self, start: Callable[..., Terminal]) -> None:
        terminal = start(TERM="dumb")
        self.ask(terminal)
        terminal.send("s\n")
        terminal.see("CHOSE 's'")


class TestEditor:
    @pytest.fixture
    def editor(self, tmp_path: Path) -> Callable[[str], str]:
        def write(script: str) -> str:
            file = tmp_path / "my editor.sh"
            file.write_text(f"#!/bin/sh\n{script}\n")
            file.chmod(0o755)
            return f"'{file}' --wait"

        return write

    def test_the_text_goes_there_and_back(
        self, start: Callable[..., Terminal], editor: Callable[[str], str], tmp_path: Path
    ) -> None:
        look = (
            f'ls -l "$2" "$(dirname "$2")/.." > {tmp_path}/seen; stat -c %a "$2" "$(dirname "$2")" >> {tmp_path}/seen'
        )
        terminal = start(
            history=tmp_path / "h", EDITOR=editor(f'{look}; test "$1" = --wait && printf "two\\nlines\\n" >> "$2"')
        )
        for keys, word in ((CTRL_G, "first"), (CTRL_X_E, "second")):
            terminal.send(word)
            terminal.see(f"> {word}")
            terminal.send(keys)
            terminal.see(f"> {word}\n  two\n  lines")
            terminal.send(ENTER)
            terminal.see(f"GOT '{word}\\ntwo\\nlines'")
            terminal.see_prompt()
        assert (tmp_path / "seen").read_text().split()[-2:] == ["600", "700"]
        assert not list(tmp_path.glob("slm-*"))

    @pytest.mark.parametrize(
        ("script", "result"), [("true", "None"), (': > "$2"', "None"), ('echo new > "$2"', "'new'")]
    )
    def test_edit_text(
        self, start: Callable[..., Terminal], editor: Callable[[str], str], script: str, result: str
    ) -> None:
        terminal = start(VISUAL=editor(script), EDITOR="never")
        terminal.send("edit!text")
        terminal.see("> edit!text")
        terminal.send(ENTER)
        terminal.see(f"EDITED {result}")

    def test_an_editor_that_fails_says_so_and_keeps_the_text(
        self, start: Callable[..., Terminal], editor: Callable[[str], str], tmp_path: Path
    ) -> None:
        terminal = start(EDITOR=editor('echo lost > "$2"; exit 3'))
        terminal.send("my words")
        terminal.see("> my words")
        terminal.send(CTRL_G)
        terminal.see("ended with code 3", "> my words")
        terminal.send(ENTER)
        terminal.see("GOT 'my words'")
        assert not list(tmp_path.glob("slm-*"))

    @pytest.mark.parametrize("value", ["no-such-editor-here", "'open quote"])
    def test_an_editor_that_is_not_there(self, start: Callable[..., Terminal], value: str) -> None:
        terminal = start(EDITOR=value, columns=160)
        terminal.send("edit!text")
        terminal.see("> edit!text")
        terminal.send(ENTER)
        terminal.see("ERROR $EDITOR names an editor that cannot be run", "HINT export EDITOR=")

    def test_no_editor_at_all(self, start: Callable[..., Terminal], tmp_path: Path) -> None:
        terminal = start(PATH=str(tmp_path), columns=160)
        terminal.send("edit!text")
        terminal.see("> edit!text")
        terminal.send(ENTER)
        terminal.see("ERROR there is no editor")


class TestDumbTerminal:
    def test_lines_blocks_and_pastes(self, start: Callable[..., Terminal], tmp_path: Path) -> None:
        terminal = start(TERM="dumb", history=tmp_path / "history")
        terminal.send("hello 🎉\n")
        terminal.see("GOT 'hello 🎉'")
        terminal.send("one\ntwo\n")
        terminal.see("GOT 'one\\ntwo'")
        terminal.send('"""a\n')
        terminal.see('"""a')
        terminal.send('b"""\n')
        terminal.see("GOT 'a\\nb'")
        terminal.send("/hel\n")
        terminal.see("ERROR there is no command /hel")
        terminal.until(lambda text: text.rstrip().endswith(">"))  # it reads again, and is not still printing
        terminal.send(CTRL_C)
        terminal.see("CTRL-C")
        terminal.send(CTRL_D)
        terminal.see("EOF")
        assert b"\x1b" not in terminal.bytes
        assert InputHistory(tmp_path / "history").entries() == ["hello 🎉", "one\ntwo", '"""a\nb"""', "/hel"]

    def test_default_and_the_end_of_the_chat(self, start: Callable[..., Terminal], tmp_path: Path) -> None:
        control = tmp_path / "control"
        os.mkfifo(control)
        terminal = start(TERM="dumb", control=control)
        terminal.send("default!old\n")
        terminal.see("old\n(Enter alone sends this text)\nedit>")
        terminal.send("\n")
        terminal.see("GOT 'old'")
        with control.open("w") as out:
            out.write("over=yes\n")
            out.flush()
            terminal.see("EOF")


class TestPastes:
    def test_bounds(self) -> None:
        pastes = Pastes()
        assert pastes.fold("\n" * 6) == "\n" * 6
        assert len(pastes.fold("\n" * 7)) == 1
        assert pastes.fold("x" * 999) == "x" * 999
        assert len(pastes.fold("x" * 1000)) == 1

    def test_expansion_is_done_once(self) -> None:
        pastes = Pastes()
        first = pastes.fold("x" * 1000)
        assert pastes.expand(f"a{first}b{first}") == "a" + "x" * 1000 + "b" + "x" * 1000

    def test_which_one_is_expanded(self) -> None:
        pastes = Pastes()
        one, two = pastes.fold("1" * 1000), pastes.fold("2" * 1000)
        assert pastes.expand_at(one + two, 1) == (one + "2" * 1000, 1)
        assert pastes.expand_at(one + "a" + two, 1) == ("1" * 1000 + "a" + two, 1000)
        assert pastes.expand_at("ab" + one, 1) == ("ab" + "1" * 1000, 1)


def test_help_names_the_keys() -> None:
    assert {"Enter", "Ctrl-R", "Ctrl-O"} <= {keys for keys, _ in KEYS}
