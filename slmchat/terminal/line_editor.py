"""The line that a person types: keys, pastes, history, completion, the bottom toolbar, one-key questions, $EDITOR.

Knows: how keys become the text of a message or a command, on a terminal and on a dumb one.
Refuses to know: what the text means (slash_commands.py says what it stands for, the errand does it).
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmchat.errors import SlmError
from slmchat.sanitize import sanitize
from slmchat.terminal import interrupts, restore
from slmchat.terminal.completion import command_completer
from slmchat.terminal.completion import complete_path as complete_path
from slmchat.terminal.early_prompt import PROMPT, EarlyPrompt
from slmchat.terminal.external_editor import edited, editor_command
from slmchat.terminal.input_history import InputHistory
from slmchat.terminal.key_input import without_unasked
from slmchat.terminal.key_modes import KeyModes
from slmchat.terminal.key_reader import take_lines
from slmchat.terminal.markdown_layout import cut_to_width
from slmchat.terminal.pastes import Pastes, is_fold
from slmchat.terminal.plain_input import clean, pressed_key, read_plainly
from slmchat.terminal.prompt_session import open_session
from slmchat.terminal.size import terminal_size
from slmchat.terminal.slash_commands import CommandTable, as_typed, is_open_block, line_of
from slmchat.terminal.tables import paragraphs
from slmchat.terminal.typed_ahead import TypedAhead

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.buffer import Buffer

# What /help shows about typing.
KEYS: Sequence[tuple[str, str]] = (
    ("Enter", "send"),
    ("Alt-Enter, Ctrl-J", "a new line (Shift-Enter too, where the terminal tells it apart)"),
    ('"""', 'at the start: Enter makes new lines until a line ends in """'),
    ("Tab", "complete a command, its argument, a path; Enter takes the choice, Esc closes the menu"),
    ("Up, Down", "earlier messages that begin with what is typed; Page Up and Page Down skip long ones"),
    ("Esc Esc", "change the last message, on an empty line (vi: /edit)"),
    ("@PATH", "in a message: the file goes along; Tab completes it"),
    ("Ctrl-R", "search earlier messages"),
    ("Ctrl-O", "show a folded paste in full; Backspace deletes it as one"),
    ("Ctrl-G, Ctrl-X Ctrl-E", "write on in $VISUAL or $EDITOR"),
    ("Ctrl-_", "undo (vi: u)"),
    ("Ctrl-C", "stop the answer (Esc does, too); empty the line (undo brings it back)"),
    ("Ctrl-D", "leave, on an empty line"),
    ("Ctrl-Z", "suspend; fg comes back"),
)

# A text of more characters that comes into the line is folded.
_MOST_UNFOLDED = 4_000


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
        typed: TypedAhead | None = None,
        is_plain: bool = False,
        editing_mode: str = "emacs",
        early: EarlyPrompt | None = None,
    ) -> None:
        """`history_file` None: nothing is written to a disk. `state` goes to the completers of the commands.

        `typed`: keys that were pressed before `read` is called. `is_plain`: the terminal edits its lines by itself.
        `is_over` is asked at every `refresh`: when True, `read` ends as if Ctrl-D had been pressed.
        `editing_mode` is "emacs" or "vi". A terminal with TERM=dumb gets plain lines, with the same `\"\"\"` blocks.
        `early`: the prompt that may stand there already.
        """
        self._history = InputHistory(history_file)
        self._is_private = history_file is None
        self._toolbar = toolbar
        self._is_over = is_over
        self._typed_ahead = typed or TypedAhead()
        self._early = early
        self._modes = early.modes if early else KeyModes(sys.stdin)
        self._pastes = Pastes()
        self._last = ("", "")  # what was typed last, and the same as it stood in the line
        self._session: PromptSession[str] | None = None
        if not is_plain and os.environ.get("TERM", "").lower() not in ("dumb", "unknown"):
            self._session = open_session(
                is_vi=editing_mode == "vi",
                completer=command_completer(table, state),
                table=table,
                pastes=self._pastes,
                history=self._history,
                typed=self._typed,
                toolbar=self._toolbar_line,
                open_editor=self._open_editor,
            )

    @property
    def is_full(self) -> bool:
        """Whether lines are edited here; False on a dumb terminal."""
        return self._session is not None

    @property
    def history_problem(self) -> str | None:
        """Why earlier messages are missing or new ones are not kept, in a sentence; None when all is well."""
        return self._history.problem

    def read(self, *, default: str = "", prompt: str = PROMPT, sends_typed: bool = True) -> str:
        """The next line: a command, or a message for `message_of`. `default` stands in it already.

        What was typed ahead goes on behind that. Not `sends_typed`: an Enter in it does not send it.

        Raises EOFError for Ctrl-D on an empty line and KeyboardInterrupt for Ctrl-C on an empty line.
        """
        shown = sanitize(prompt, one_line=True)
        if self._session is None:
            typed = clean(read_plainly(shown, default, self._is_over))
            self._history.append(typed)
        else:
            default = self._folded(default)
            with self._keys_kept():
                self._feed(default, is_sent=sends_typed and not default)
                # prompt_toolkit keeps what is typed in the history by itself (see _kept_history)
                read = self._session.prompt([("class:prompt", shown)], default=default, pre_run=self._begin)
            typed = self._typed(read)
            self._last = (typed, read)
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

    def ask(self, question: str, choices: Sequence[tuple[str, str]]) -> str | None:
        """The key of one of the `choices` (key, what it does), or None for Esc, Ctrl-C and Ctrl-D.

        Keys pressed before the question stood there do not answer it.
        """
        keys = [key for key, _ in choices]
        lines = [question, *(f"  {key}  {sanitize(text, one_line=True)}" for key, text in choices)]
        while True:
            folded = paragraphs(sanitize("\n".join(lines)), terminal_size(sys.stdout, os.environ)[0])
            pressed = pressed_key("\n".join(folded) + f"\n[{'/'.join(keys)}, Esc] ")
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
        changed = edited(text, editor_command(), in_memory=self._is_private)
        return changed if changed != text.removesuffix("\n") and changed.strip() else None

    # Inside

    def _folded(self, text: str) -> str:
        """What comes back into the line as it stood there; anything else that is long as one paste."""
        typed, stood = self._last
        if text == typed:
            return stood
        return self._pastes.fold(text) if len(text) > _MOST_UNFOLDED else text

    @contextlib.contextmanager
    def _keys_kept(self) -> Iterator[None]:
        """Around a prompt: it takes some milliseconds to open, and a key that comes meanwhile is to be the same key."""
        self._modes.take(keeps_ctrl_z=True)
        try:
            with interrupts.left_alone(), restore.undone("prompt", restore.PROMPT):
                if self._early is not None:
                    self._early.take_over()
                yield
        finally:
            self._modes.give_back()

    def _feed(self, default: str, *, is_sent: bool) -> None:
        """Let prompt_toolkit find what was typed ahead, as if it were typed now."""
        from prompt_toolkit.input.typeahead import store_typeahead
        from prompt_toolkit.input.vt100_parser import Vt100Parser
        from prompt_toolkit.key_binding import KeyPress

        take_lines(self._modes.descriptor, self._typed_ahead)
        keys, is_entered = self._typed_ahead.take() if is_sent else (self._typed_ahead.take_all(), False)
        if not keys:
            return
        if default:
            keys = f"\n{keys}"  # a line of its own
        pressed: list[KeyPress] = []
        parser = Vt100Parser(pressed.append)
        parser.feed(keys + ("\r" if is_entered else ""))
        parser.flush()
        assert self._session is not None
        store_typeahead(self._session.app.input, without_unasked(pressed))

    def _typed(self, text: str) -> str:
        """The text with folded pastes in full, written so that typing it again would give the same message."""
        whole = clean(self._pastes.expand(text))
        return as_typed(whole) if is_fold(text[:1]) else whole

    def _toolbar_line(self) -> str:
        from prompt_toolkit.application import get_app

        assert self._session is not None
        hint = '""" at the end of a line ends the block · ' if is_open_block(self._session.default_buffer.text) else ""
        return cut_to_width(hint + sanitize(self._toolbar(), one_line=True), get_app().output.get_size().columns)

    def _begin(self) -> None:
        """What was typed ahead is pressed when the history is loaded: Up has something to show then.

        prompt_toolkit would press it before it draws for the first time, and load the history after that.
        """
        from prompt_toolkit.input.typeahead import get_typeahead

        self._end_if_over()
        assert self._session is not None
        app = self._session.app
        if app.is_done or app.loop is None:
            return
        app.loop.set_exception_handler(self._tell_failure)  # in place of prompt_toolkit's, which shows a traceback

        def press() -> None:
            app.key_processor.feed_multiple(keys)
            app.key_processor.process_keys()

        self._session.default_buffer.load_history_if_not_yet_loaded()  # in the first step of the loop
        keys = get_typeahead(app.input)
        app.loop.call_soon(press)  # in the second, before keys that come from the terminal

    def _tell_failure(self, _loop: object, context: Mapping[str, Any]) -> None:
        """A key on which prompt_toolkit fails (an operator of vi that leads out of the text, say) does nothing."""
        from prompt_toolkit.application import run_in_terminal

        error = context.get("exception")
        assert self._session is not None
        if error is None or self._session.app.context is None:
            return

        def tell() -> None:
            sys.stderr.write(f"slm: that key cannot be used here ({type(error).__name__}); the text is as it was.\n")
            if os.environ.get("SLM_DEBUG"):
                import traceback

                traceback.print_exception(error)

        self._session.app.context.run(run_in_terminal, tell)

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
                hint = f"hint: {error.hint}\n" if error.hint else ""
                sys.stderr.write(sanitize(f"slm: {error.message}\n{hint}"))
                sys.stderr.flush()
                return None

        changed = await run_in_terminal(edit)
        if changed is not None:
            buffer.save_to_undo_stack()
            buffer.document = Document(changed, len(changed))
