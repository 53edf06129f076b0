"""The line that a person types: keys, pastes, history, completion, the bottom toolbar, one-key questions, $EDITOR.

Knows: how keys become the text of a message or a command, on a terminal and on a dumb one.
Refuses to know: what the text means (slash_commands.py says what it stands for, the errand does it).

A large paste is one character of the text while it is edited: a high surrogate, which no terminal can send, shown as
`[pasted text: 120 lines, 4,800 characters]`. So it is moved over, deleted and undone as one, and sent in full.
"""

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmchat.errors import ExitCode, SlmError
from slmchat.terminal.completion import command_completer
from slmchat.terminal.completion import complete_path as complete_path
from slmchat.terminal.input_history import InputHistory
from slmchat.terminal.sanitize import sanitize
from slmchat.terminal.slash_commands import CommandTable, as_typed, is_open_block, line_of

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.buffer import Buffer
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.layout.processors import Processor

# What /help shows about typing.
KEYS: Sequence[tuple[str, str]] = (
    ("Enter", "send"),
    ("Alt-Enter, Ctrl-J", "a new line"),
    ('"""', 'at the start: Enter makes new lines until a line ends in """'),
    ("Tab", "complete a command, its argument, a path; Enter takes the choice, Esc closes the menu"),
    ("Up, Down", "earlier messages that begin with what is typed; Page Up and Page Down skip long ones"),
    ("Ctrl-R", "search earlier messages"),
    ("Ctrl-O", "show a folded paste in full; Backspace deletes it as one"),
    ("Ctrl-G, Ctrl-X Ctrl-E", "write on in $VISUAL or $EDITOR"),
    ("Ctrl-_", "undo (vi: u)"),
    ("Ctrl-C", "stop the answer; empty the line (undo brings it back)"),
    ("Ctrl-D", "leave, on an empty line"),
    ("Ctrl-Z", "suspend; fg comes back"),
)

# A paste from this size on is folded in the display (the whole text is sent).
FOLD_LINES, FOLD_CHARACTERS = 8, 1000
_FIRST_FOLD, _FOLDS = 0xD800, 0x400  # high surrogates
# How long more of a paste is waited for after Enter, in seconds: nobody types that fast, and nobody notices the pause.
_MORE_S = 0.015
# How long the rest of a key that begins with Esc may take, in seconds.
_REST_OF_KEY_S = 0.05
# Between the parts in which one paste is read, in seconds.
_PASTE_S = 0.05
# How often a dumb terminal's prompt looks whether the chat is over, in seconds.
_LOOK_S = 0.2


class LineEditor:
    """Reads messages and commands: Enter sends, Alt-Enter or Ctrl-J makes a new line, pastes never send themselves."""

    def __init__(
        self,
        *,
        history_file: Path | None,
        table: CommandTable[Any],
        state: Any,
        toolbar: Callable[[], str],
        is_over: Callable[[], bool],
        editing_mode: str = "emacs",
    ) -> None:
        """`history_file` None: nothing is written to a disk. `state` goes to the completers of the commands.

        `is_over` is asked at every `refresh`: when True, `read` ends as if Ctrl-D had been pressed.
        `editing_mode` is "emacs" or "vi". A terminal with TERM=dumb gets plain lines, with the same `\"\"\"` blocks.
        """
        self._history = InputHistory(history_file)
        self._is_private = history_file is None
        self._toolbar = toolbar
        self._is_over = is_over
        self._pastes = Pastes()
        self._session: PromptSession[str] | None = None
        if os.environ.get("TERM", "").lower() not in ("dumb", "unknown"):
            self._session = self._open_session(table, state, editing_mode)

    @property
    def history_problem(self) -> str | None:
        """Why earlier messages are missing or new ones are not kept, in a sentence; None when all is well."""
        return self._history.problem

    def read(self, *, default: str = "", prompt: str = "> ") -> str:
        """The next line: a command, or a message for `message_of`. `default` stands in it already.

        Raises EOFError for Ctrl-D on an empty line and KeyboardInterrupt for Ctrl-C on an empty line.
        """
        shown = sanitize(prompt, one_line=True)
        if self._session is None:
            typed = _clean(_read_plainly(shown, default, self._is_over))
            self._history.append(typed)
        else:
            # prompt_toolkit keeps what is typed in the history by itself (see _kept_history)
            typed = self._typed(
                self._session.prompt([("class:prompt", shown)], default=default, pre_run=self._end_if_over)
            )
        return line_of(typed)

    def refresh(self) -> None:
        """Draw the toolbar again, and end `read` when the chat is over; from any thread."""
        if self._session is None:
            return  # a dumb terminal has no toolbar, and its prompt looks by itself
        app = self._session.app
        loop = app.loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the prompt has just ended
                loop.call_soon_threadsafe(self._end_if_over)
        app.invalidate()

    @contextlib.contextmanager
    def echo_off(self) -> Iterator[None]:
        """While an answer streams: keys are not echoed into it; what was typed ahead appears in the next prompt.

        Enter stays a carriage return (ICRNL off): the terminal would make it the line feed that Ctrl-J is.
        """
        try:
            import termios
        except ImportError:  # Windows: the console echoes nothing unless asked to
            yield
            return
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
        quiet = [*before]
        quiet[0] &= ~termios.ICRNL
        quiet[3] &= ~termios.ECHO
        termios.tcsetattr(descriptor, termios.TCSADRAIN, quiet)
        try:
            yield
        finally:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

    def ask(self, question: str, choices: Sequence[tuple[str, str]]) -> str | None:
        """The key of one of the `choices` (key, what it does), or None for Esc, Ctrl-C and Ctrl-D.

        Keys pressed before the question stood there do not answer it.
        """
        keys = [key for key, _ in choices]
        lines = [sanitize(question), *(f"  {key}  {sanitize(text, one_line=True)}" for key, text in choices)]
        while True:
            pressed = _pressed_key("\n".join(lines) + f"\n[{'/'.join(keys)}, Esc] ")
            chosen = next((key for key in keys if pressed in (key, key.upper())), None) if pressed else None
            sys.stdout.write(f"{chosen or ''}\n")
            sys.stdout.flush()
            if chosen is not None or pressed is None:
                return chosen

    def edit_text(self, text: str) -> str | None:
        """`text` as changed in $VISUAL or $EDITOR; None when it comes back unchanged or empty.

        Raises `SlmError` when there is no editor or it fails. The temporary file is 0600 in a directory of its own,
        which is removed; without a history file it lies in memory where the system offers that.
        """
        changed = _edited(text, _editor_command(), in_memory=self._is_private)
        return changed if changed != text.removesuffix("\n") and changed.strip() else None

    # Inside

    def _open_session(self, table: CommandTable[Any], state: Any, editing_mode: str) -> "PromptSession[str]":
        from prompt_toolkit import PromptSession
        from prompt_toolkit.cursor_shapes import ModalCursorShapeConfig
        from prompt_toolkit.enums import EditingMode
        from prompt_toolkit.filters import Condition
        from prompt_toolkit.key_binding import merge_key_bindings
        from prompt_toolkit.styles import Style

        is_vi = editing_mode == "vi"
        burst = _Burst()
        session: PromptSession[str] = PromptSession(
            history=_kept_history(self._history, self._typed),
            key_bindings=merge_key_bindings([_sending_keys(table, burst), _text_keys(self._pastes, self._open_editor)]),
            completer=command_completer(table, state),
            editing_mode=EditingMode.VI if is_vi else EditingMode.EMACS,
            cursor=ModalCursorShapeConfig() if is_vi else None,
            multiline=True,
            prompt_continuation=lambda width, _line, _wraps: " " * width,
            bottom_toolbar=self._toolbar_line,
            style=Style.from_dict(_style()),
            input_processors=[_processor(self._pastes)],
            enable_history_search=True,
            enable_suspend=True,
        )
        # PromptSession turns this off when Up searches the history; both work, because this is for commands only.
        session.default_buffer.complete_while_typing = Condition(lambda: _is_command(session.default_buffer))
        session.app.key_processor.before_key_press += burst.note_key
        # Esc is a key of its own sooner than by default (half a second and a whole one). In vi mode it is so common,
        # and so often followed by Enter, that Alt-Enter has to be pressed as one key there.
        session.app.ttimeoutlen = _REST_OF_KEY_S / 2 if is_vi else _REST_OF_KEY_S
        session.app.timeoutlen = _REST_OF_KEY_S / 2 if is_vi else 0.5
        return session

    def _typed(self, text: str) -> str:
        """The text with folded pastes in full, written so that typing it again would give the same message."""
        whole = _clean(self._pastes.expand(text))
        return as_typed(whole) if is_fold(text[:1]) else whole

    def _toolbar_line(self) -> str:
        from prompt_toolkit.application import get_app

        assert self._session is not None
        hint = '""" at the end of a line ends the block · ' if is_open_block(self._session.default_buffer.text) else ""
        return cut_to_width(hint + sanitize(self._toolbar(), one_line=True), get_app().output.get_size().columns)

    def _end_if_over(self) -> None:
        assert self._session is not None
        app = self._session.app
        if self._is_over() and app.is_running and not app.is_done:
            app.exit(exception=EOFError)

    async def _open_editor(self, buffer: "Buffer") -> None:
        from prompt_toolkit.application import run_in_terminal
        from prompt_toolkit.document import Document

        def edit() -> str | None:
            try:
                return self.edit_text(self._pastes.expand(buffer.text))
            except SlmError as error:
                sys.stderr.write(f"slm: {sanitize(error.message)}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
                sys.stderr.flush()
                return None

        changed = await run_in_terminal(edit)
        if changed is not None:
            buffer.save_to_undo_stack()
            buffer.document = Document(changed, len(changed))


class Pastes:
    """Pasted texts that are folded: one character each in the text that is edited."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._count = 0

    def fold(self, text: str) -> str:
        """What goes into the edited text for a paste: itself when it is small, else one character.

        A paste with block marks is folded too: they are part of what was pasted, not of what was typed.
        """
        is_small = text.count("\n") + 1 < FOLD_LINES and len(text) < FOLD_CHARACTERS
        if is_small and '"""' not in text:
            return text
        char = chr(_FIRST_FOLD + self._count % _FOLDS)
        self._count += 1
        self._texts[char] = text
        return char

    def expand(self, text: str) -> str:
        """The text with every folded paste in full."""
        return "".join(map(self._whole, text)) if any(map(is_fold, text)) else text

    def expand_at(self, text: str, cursor: int) -> tuple[str, int]:
        """The text and the cursor with the paste at the cursor in full, or the one before it, or else all of them."""
        before, after = text[:cursor], text[cursor:]
        if is_fold(after[:1]):
            after = self._whole(after[0]) + after[1:]
        elif is_fold(before[-1:]):
            before = before[:-1] + self._whole(before[-1])
        else:
            before, after = self.expand(before), self.expand(after)
        return before + after, len(before)

    def label(self, char: str) -> str:
        """What the display shows for one character of the edited text."""
        if not is_fold(char):
            return char if char != "\t" else "    "
        text = self._whole(char)
        lines = text.removesuffix("\n").count("\n") + 1
        return f"[pasted text: {lines:,} line{'s' if lines != 1 else ''}, {len(text):,} characters]"

    def _whole(self, char: str) -> str:
        return self._texts.get(char, char)


def is_fold(char: str) -> bool:
    """Whether this character stands for a folded paste."""
    return len(char) == 1 and _FIRST_FOLD <= ord(char) < _FIRST_FOLD + _FOLDS


def cut_to_width(text: str, columns: int) -> str:
    """The text in at most `columns` cells, "…" at its end when it was longer."""
    from prompt_toolkit.utils import get_cwidth

    if get_cwidth(text) <= columns:
        return text
    while text and get_cwidth(text) > columns - 1:
        text = text[:-1]
    return text + "…"


class _Burst:
    """Tells a paste from typing where the terminal does not (no bracketed paste): its keys come all at once."""

    def __init__(self) -> None:
        self._at = 0.0  # when the last key was handled
        self._is_alone = True  # whether the key that is handled now was the first of what was read
        self._has_read = False
        self._has_lines = False

    def note_key(self, _processor: object) -> None:
        """Called before each key is handled."""
        import asyncio

        before, self._at = self._at, time.monotonic()
        if self._at - before > _PASTE_S:
            self._has_lines = False
        self._is_alone = not self._has_read
        if self._is_alone:
            self._has_read = True
            asyncio.get_running_loop().call_soon(self._end_of_read)

    def goes_on(self, event: "KeyPressEvent") -> bool:
        """Whether this Enter or Tab belongs to a paste. An Enter at the very end of pasted lines does not send them."""
        if _has_keys(event) or (self._has_lines and not self._is_alone) or _more_arrives(event):
            self._has_lines = True
            return True
        return False

    def _end_of_read(self) -> None:
        self._has_read = False


def _has_keys(event: "KeyPressEvent") -> bool:
    from prompt_toolkit.keys import Keys

    # The terminal's answer to "where is the cursor?" comes the same way as keys.
    return any(key.key != Keys.CPRResponse for key in event.key_processor.input_queue)


def _more_arrives(event: "KeyPressEvent") -> bool:
    """Wait a moment for keys, since a read of the terminal may end in the middle of a paste."""
    if sys.platform == "win32":
        return False
    source = event.app.input
    if select.select([source.fileno()], [], [], _MORE_S)[0]:
        event.key_processor.feed_multiple(source.read_keys())
    return _has_keys(event)


def _is_command(buffer: "Buffer") -> bool:
    text = buffer.document.text_before_cursor
    return text.startswith("/") and not text.startswith("//") and "\n" not in text


def _sending_keys(table: CommandTable[Any], burst: _Burst) -> "KeyBindings":
    """Enter, new lines, Tab and the completion menu."""
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import completion_is_selected, has_completions, has_focus, vi_insert_mode, vi_mode
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.key_binding.bindings.completion import generate_completions

    keys = KeyBindings()
    in_message = has_focus(DEFAULT_BUFFER)

    @keys.add("enter", filter=in_message)
    def _enter(event: "KeyPressEvent") -> None:
        buffer = event.current_buffer
        if burst.goes_on(event) or is_open_block(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("enter", filter=in_message & completion_is_selected)
    def _take(event: "KeyPressEvent") -> None:
        buffer = event.current_buffer
        buffer.complete_state = None
        command = table.find(buffer.text[1:])
        if command is not None and command.arguments:
            buffer.insert_text(" ")  # its completer, if it has one, opens the next menu
        elif buffer.text.endswith("/"):
            buffer.start_completion()  # a directory: what is in it

    @keys.add("escape", "enter", filter=in_message)
    @keys.add("c-j", filter=in_message)
    def _new_line(event: "KeyPressEvent") -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("tab", filter=in_message & (~vi_mode | vi_insert_mode))
    def _complete(event: "KeyPressEvent") -> None:
        if not _is_command(event.current_buffer) and burst.goes_on(event):
            event.current_buffer.insert_text("\t")  # the indentation of pasted lines
        else:
            generate_completions(event)

    @keys.add("escape", filter=in_message & has_completions & ~vi_mode)
    def _close_menu(event: "KeyPressEvent") -> None:
        event.current_buffer.cancel_completion()

    return keys


def _text_keys(pastes: Pastes, open_editor: Callable[["Buffer"], Any]) -> "KeyBindings":
    """Pastes, the external editor, Ctrl-C."""
    from prompt_toolkit.document import Document
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import Condition, has_focus, has_selection
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.keys import Keys

    keys = KeyBindings()
    in_message = has_focus(DEFAULT_BUFFER)

    @keys.add(Keys.BracketedPaste, filter=in_message)
    def _paste(event: "KeyPressEvent") -> None:
        text = event.data.replace("\r\n", "\n").replace("\r", "\n")
        event.current_buffer.insert_text(pastes.fold(_clean(text)))

    @Condition
    def has_folds() -> bool:
        from prompt_toolkit.application import get_app

        return any(map(is_fold, get_app().current_buffer.text))

    @keys.add("c-o", filter=in_message & has_folds)
    def _unfold(event: "KeyPressEvent") -> None:
        buffer = event.current_buffer
        buffer.document = Document(*pastes.expand_at(buffer.text, buffer.cursor_position))

    @keys.add("c-g", filter=in_message & ~has_selection)
    @keys.add("c-x", "c-e", filter=in_message & ~has_selection)
    def _edit(event: "KeyPressEvent") -> None:
        event.app.create_background_task(open_editor(event.current_buffer))

    @keys.add("c-c", filter=in_message)
    @keys.add("<sigint>")
    def _clear(event: "KeyPressEvent") -> None:
        buffer = event.app.layout.get_buffer_by_name(DEFAULT_BUFFER)
        if buffer is None or not buffer.text:
            event.app.exit(exception=KeyboardInterrupt(), style="class:aborting")
            return
        text = buffer.text
        buffer.reset()  # away from the place in the history; the text goes where undo finds it
        buffer.document = Document(text)
        buffer.save_to_undo_stack()
        buffer.document = Document()

    return keys


def _processor(pastes: Pastes) -> "Processor":
    """Shows folded pastes by their label and tabs as spaces."""
    from bisect import bisect_right
    from itertools import accumulate

    from prompt_toolkit.formatted_text.utils import fragment_list_to_text
    from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
    from prompt_toolkit.layout.utils import explode_text_fragments

    class Folds(Processor):
        def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
            fragments = transformation_input.fragments
            if not any(char == "\t" or is_fold(char) for char in fragment_list_to_text(fragments)):
                return Transformation(fragments)
            shown = [(style, pastes.label(char)) for style, char, *_ in explode_text_fragments(fragments)]
            starts = list(accumulate((len(text) for _, text in shown), initial=0))
            return Transformation(
                [*shown],
                source_to_display=lambda position: starts[min(position, len(starts) - 1)],
                display_to_source=lambda position: bisect_right(starts, position) - 1,
            )

    return Folds()


def _kept_history(kept: InputHistory, typed: Callable[[str], str]) -> "History":
    """The history in the form in which prompt_toolkit asks for it: newest first."""
    from prompt_toolkit.history import History

    class Kept(History):
        def load_history_strings(self) -> Iterable[str]:
            return reversed(kept.entries())

        def append_string(self, string: str) -> None:
            text = typed(string)
            if kept.append(text):
                self._loaded_strings.insert(0, text)

        def store_string(self, string: str) -> None:
            raise AssertionError("append_string stores")

    return Kept()


def _style() -> dict[str, str]:
    """Attributes instead of colours: right on light and dark terminals. NO_COLOR (no-color.org) leaves dim out too."""
    dim = "" if os.environ.get("NO_COLOR") else "dim"
    return {
        "prompt": "" if os.environ.get("NO_COLOR") else "ansicyan bold",
        "bottom-toolbar": f"noreverse {dim}",
        "completion-menu": "bg:default fg:default",
        "completion-menu.completion.current": "bg:default fg:default reverse",
        "completion-menu.meta.completion": f"bg:default fg:default {dim}",
        "completion-menu.meta.completion.current": "bg:default fg:default reverse",
    }


def _clean(text: str) -> str:
    """Bytes that are not UTF-8 arrive as lone surrogates; nothing behind the editor can use those."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _read_plainly(prompt: str, default: str, is_over: Callable[[], bool]) -> str:
    """A line on a dumb terminal, which edits by itself. Pasted lines and `\"\"\"` blocks are read as one text."""
    if default:
        sys.stdout.write(f"{sanitize(default)}\n(Enter alone sends this text)\n")
    sys.stdout.write(prompt)
    sys.stdout.flush()
    lines = [_plain_line(is_over)]
    while is_open_block("\n".join(lines)) or _is_waiting(_MORE_S):
        lines.append(_plain_line(is_over))
    return "\n".join(lines) or default


def _plain_line(is_over: Callable[[], bool]) -> str:
    if sys.platform == "win32":
        return input()
    data = b""
    while not data.endswith(b"\n"):
        while not _is_waiting(_LOOK_S):
            if is_over():
                raise EOFError
        part = os.read(sys.stdin.fileno(), 4096)
        if not part and not data:
            raise EOFError
        data += part
    return data[:-1].decode("utf-8", "replace")


def _is_waiting(seconds: float) -> bool:
    """Whether something can be read from the terminal."""
    return sys.platform != "win32" and bool(select.select([sys.stdin.fileno()], [], [], seconds)[0])


def _pressed_key(question: str) -> str | None:
    """One key, not shown; "" for one that is no character. None for Esc, Ctrl-C, Ctrl-D and the end of input."""
    try:
        import termios
    except ImportError:  # Windows
        with contextlib.suppress(EOFError, KeyboardInterrupt):
            return input(question).strip()[:1]
        return None
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    raw = [*before]
    raw[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
    raw[6] = [*before[6]]
    raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
    # FLUSH: what was typed before the question is dropped. So this comes before the question, not after.
    termios.tcsetattr(descriptor, termios.TCSAFLUSH, raw)
    try:
        sys.stdout.write(question)
        sys.stdout.flush()
        data = os.read(descriptor, 64)
        if data == b"\x1b" and _is_waiting(_REST_OF_KEY_S):  # an arrow key begins with Esc
            data += os.read(descriptor, 64)
    except KeyboardInterrupt:  # a signal from outside
        return None
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
    if data in (b"", b"\x1b", b"\x03", b"\x04"):
        return None
    text = data.decode("utf-8", "replace").rstrip("\r\n")  # a dumb terminal sends whole lines
    return text if len(text) == 1 and text.isprintable() else ""


def _editor_command() -> list[str]:
    """The words of the command that edits a file. Raises `SlmError` when there is none."""
    import shlex
    import shutil

    for variable in ("VISUAL", "EDITOR"):
        value = os.environ.get(variable, "").strip()
        if not value:
            continue
        with contextlib.suppress(ValueError):  # an open quote
            command = shlex.split(value, posix=os.name == "posix")
            if shutil.which(command[0]):
                return [*command, *_without_traces(command[0])]
        raise SlmError(
            f"${variable} names an editor that cannot be run: {value}",
            hint=f"export {variable}=nano (or another editor that is installed)",
            exit_code=ExitCode.USAGE,
        )
    for name in ("nano", "vim", "vi") if os.name == "posix" else ("notepad",):
        if shutil.which(name):
            return [name, *_without_traces(name)]
    raise SlmError(
        "there is no editor: $VISUAL and $EDITOR are not set, and none of nano, vim and vi is installed.",
        hint="export EDITOR=NAME; Alt-Enter makes new lines without an editor",
        exit_code=ExitCode.USAGE,
    )


def _without_traces(program: str) -> list[str]:
    """Options that keep Vim from copying the text into its own files (swap file, viminfo or shada)."""
    import shutil

    name = os.path.basename(os.path.realpath(shutil.which(program) or program))
    return ["-n", "-i", "NONE"] if name.startswith(("vim", "nvim")) else []


def _edited(text: str, command: Sequence[str], *, in_memory: bool) -> str:
    """What the editor leaves of `text`, without the line end that editors add."""
    import shutil
    import subprocess
    import tempfile

    memory = "/dev/shm" if in_memory and os.access("/dev/shm", os.W_OK) else None
    folder = None
    try:
        folder = tempfile.mkdtemp(prefix="slm-", dir=memory)  # 0700
        file = os.path.join(folder, "message.md")
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
            out.write(text if not text or text.endswith("\n") else text + "\n")
        with _ctrl_c_is_the_editors():
            code = subprocess.call([*command, file])
        if code != 0:
            raise SlmError(
                f"the editor {command[0]} ended with code {code}; the text is as it was.", exit_code=ExitCode.USAGE
            )
        with open(file, encoding="utf-8", errors="replace") as back:
            return back.read().removesuffix("\n")
    except OSError as error:
        raise SlmError(
            f"the text could not be edited: {error.strerror or error}.",
            hint="TMPDIR chooses another directory for the file",
            exit_code=ExitCode.STORAGE,
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _ctrl_c_is_the_editors() -> Iterator[None]:
    """Ctrl-C goes to every program on the terminal; while the editor has it, slm does nothing."""
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A handler, not SIG_IGN: the editor would inherit that.
    before = signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
