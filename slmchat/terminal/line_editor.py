"""Line editing with history: the only place that imports prompt_toolkit.

Knows: keys, the history file, completion of command names, the bottom toolbar.
Refuses to know: what a line means.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slmchat.errors import ExitCode, SlmError

if TYPE_CHECKING:
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent


class LineEditor:
    """Reads messages: Enter sends, Alt-Enter or Ctrl-J makes a new line, pasted lines never send by themselves."""

    def __init__(
        self,
        history_file: Path | None,
        commands: Sequence[tuple[str, str]],
        toolbar: Callable[[], str],
        is_over: Callable[[], bool],
    ) -> None:
        """`history_file` None keeps the history in memory only. `commands`: names with their help, for completion.

        `is_over` is asked at every `refresh`: when True, `read` ends as if Ctrl-D had been pressed.
        Raises `SlmError` (STORAGE) when the history file cannot be made.
        """
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory, InMemoryHistory
        from prompt_toolkit.styles import Style

        if history_file is not None:
            _make_private(history_file)
        self._is_over = is_over
        self._session: PromptSession[str] = PromptSession(
            history=FileHistory(str(history_file)) if history_file is not None else InMemoryHistory(),
            key_bindings=_keys(),
            completer=_completer(commands),
            complete_while_typing=False,
            multiline=True,
            prompt_continuation="  ",
            bottom_toolbar=toolbar,
            style=Style.from_dict({"bottom-toolbar": "noreverse dim"}),
            enable_history_search=True,
        )

    def read(self) -> str:
        """The next message, as typed. Raises EOFError for Ctrl-D and KeyboardInterrupt for Ctrl-C."""
        return self._session.prompt("> ", pre_run=self._end_if_over)

    def refresh(self) -> None:
        """Draw the toolbar again, and end `read` when the chat is over; from any thread."""
        app = self._session.app
        if app.loop is not None:
            app.loop.call_soon_threadsafe(self._end_if_over)
        app.invalidate()

    def _end_if_over(self) -> None:
        app = self._session.app
        if self._is_over() and app.is_running and not app.is_done:
            app.exit(exception=EOFError)

    @contextlib.contextmanager
    def echo_off(self) -> Iterator[None]:
        """While an answer streams: keys are not echoed into it; what was typed ahead appears in the next prompt."""
        try:
            import termios
        except ImportError:  # Windows: the console echoes nothing unless asked to
            yield
            return
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
        quiet = [*before]
        quiet[3] &= ~termios.ECHO
        termios.tcsetattr(descriptor, termios.TCSADRAIN, quiet)
        try:
            yield
        finally:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _make_private(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError as error:
        raise SlmError(
            f"the input history {file} cannot be written: {error.strerror}.",
            hint="set SLM_HOME to a directory of yours, or chat without a trace: slm chat --private",
            exit_code=ExitCode.STORAGE,
        ) from error


def _keys() -> "KeyBindings":
    from prompt_toolkit.filters import completion_is_selected
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter", filter=~completion_is_selected)
    def _send(event: "KeyPressEvent") -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def _new_line(event: "KeyPressEvent") -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _completer(commands: Sequence[tuple[str, str]]) -> "Completer":
    from prompt_toolkit.completion import Completer, Completion

    class Commands(Completer):
        def get_completions(self, document: "Document", _event: "CompleteEvent") -> "Iterable[Completion]":
            text = document.text_before_cursor
            if text.startswith("/") and " " not in text and "\n" not in text:
                for name, help in commands:
                    if name.startswith(text[1:]):
                        yield Completion(f"/{name}", start_position=-len(text), display_meta=help)

    return Commands()
