"""What the keys of the line editor do: Enter and new lines, the menu of completions, pastes, $EDITOR, Ctrl-C.

Knows: prompt_toolkit's keys; which Enter belongs to a paste that the terminal does not mark.
Refuses to know: what a line means, what stands around it on the screen (line_editor.py), what the terminal sends
(key_input.py).
"""

import select
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from slmchat.terminal.completion import named_path
from slmchat.terminal.key_input import ignore_mouse
from slmchat.terminal.markdown_layout import last_cluster
from slmchat.terminal.pastes import Pastes, is_fold
from slmchat.terminal.plain_input import MORE_S, clean, is_waiting
from slmchat.terminal.slash_commands import CommandTable, is_open_block

if TYPE_CHECKING:
    from prompt_toolkit.buffer import Buffer
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

# Between the parts in which one paste is read, in seconds.
_PASTE_S = 0.05


class Burst:
    """Tells a paste from typing where the terminal does not (no bracketed paste): its keys come all at once."""

    def __init__(self) -> None:
        self._at = 0.0  # when the last key was handled
        self._is_alone = True  # whether the key that is handled now was the first of what was read
        self._has_read = False
        self._has_lines = False
        self._is_return = False  # the key that is handled now is the end of a pasted line
        self.is_after_return = False  # the one before it was: a line feed behind it belongs to it

    def note_key(self, _processor: object) -> None:
        """Called before each key is handled."""
        import asyncio

        before, self._at = self._at, time.monotonic()
        # Keys of one read came together, however long a busy machine lets slm wait between two of them.
        is_soon = self._has_read or self._at - before <= _PASTE_S
        self.is_after_return, self._is_return = self._is_return and is_soon, False
        if not is_soon:
            self._has_lines = False
        self._is_alone = not self._has_read
        if self._is_alone:
            self._has_read = True
            asyncio.get_running_loop().call_soon(self._end_of_read)

    def goes_on(self, event: "KeyPressEvent") -> bool:
        """Whether this Enter or Tab belongs to a paste. An Enter at the very end of pasted lines does not send them."""
        if _has_keys(event) or (self._has_lines and not self._is_alone) or _more_arrives(event):
            self._has_lines = self._is_return = True
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
    if select.select([source.fileno()], [], [], MORE_S)[0]:
        event.key_processor.feed_multiple(source.read_keys())
    return _has_keys(event)


def is_command(buffer: "Buffer") -> bool:
    text = buffer.document.text_before_cursor
    return (text.startswith("/") and not text.startswith("//") and "\n" not in text) or named_path(text) is not None


def sending_keys(burst: Burst) -> "KeyBindings":
    """Enter and new lines."""
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import has_focus
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    in_message = has_focus(DEFAULT_BUFFER)

    @keys.add("enter", filter=in_message)
    def _enter(event: "KeyPressEvent") -> None:
        buffer = event.current_buffer
        if burst.goes_on(event) or is_open_block(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=in_message)
    def _new_line(event: "KeyPressEvent") -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-j", filter=in_message)
    def _line_feed(event: "KeyPressEvent") -> None:
        if not burst.is_after_return:
            event.current_buffer.insert_text("\n")

    return keys


def menu_keys(table: CommandTable[Any], burst: Burst) -> "KeyBindings":
    """Tab and the menu of completions; Esc, which closes it, and twice on an empty line the last message again."""
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import (
        Condition,
        completion_is_selected,
        has_completions,
        has_focus,
        vi_insert_mode,
        vi_mode,
    )
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.key_binding.bindings.completion import generate_completions

    keys = KeyBindings()
    in_message = has_focus(DEFAULT_BUFFER)

    @keys.add("enter", filter=in_message & completion_is_selected)
    def _take(event: "KeyPressEvent") -> None:
        buffer = event.current_buffer
        buffer.complete_state = None
        command = table.find(buffer.text[1:])
        if command is not None and command.arguments:
            buffer.insert_text(" ")  # its completer, if it has one, opens the next menu
        elif buffer.text.endswith("/"):
            buffer.start_completion()  # a directory: what is in it

    @Condition
    def is_empty() -> bool:
        from prompt_toolkit.application import get_app

        return not get_app().current_buffer.text

    @keys.add("escape", "escape", filter=in_message & ~vi_mode & is_empty)
    def _edit_last(event: "KeyPressEvent") -> None:
        event.current_buffer.text = "/edit"
        event.current_buffer.validate_and_handle()

    @keys.add("tab", filter=in_message & (~vi_mode | vi_insert_mode))
    def _complete(event: "KeyPressEvent") -> None:
        if not is_command(event.current_buffer) and burst.goes_on(event):
            event.current_buffer.insert_text("\t")  # the indentation of pasted lines
        else:
            generate_completions(event)

    @keys.add("escape", filter=in_message & has_completions & ~vi_mode)
    def _close_menu(event: "KeyPressEvent") -> None:
        event.current_buffer.cancel_completion()

    return keys


def paste_keys(pastes: Pastes) -> "KeyBindings":
    """What is pasted: one text, folded where it is long, and unfolded by Ctrl-O."""
    from prompt_toolkit.document import Document
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import Condition, has_focus
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.keys import Keys

    keys = KeyBindings()
    ignore_mouse(keys)
    in_message = has_focus(DEFAULT_BUFFER)
    pasted_at, ended_in_cr, more_waits = float("-inf"), False, False

    @keys.add(Keys.BracketedPaste, filter=in_message)
    def _paste(event: "KeyPressEvent") -> None:
        nonlocal pasted_at, ended_in_cr, more_waits
        before = event.current_buffer.document.char_before_cursor
        goes_on = (more_waits or time.monotonic() - pasted_at < _PASTE_S) and is_fold(before)
        data = event.data.removeprefix("\n") if goes_on and ended_in_cr else event.data
        ended_in_cr = event.data.endswith("\r")
        text = clean(data.replace("\r\n", "\n").replace("\r", "\n"))
        if goes_on:
            pastes.extend(before, text)
        else:
            event.current_buffer.insert_text(pastes.fold(text))
        # what waits by now belongs to it, also where slm itself is held up before it reads on
        pasted_at, more_waits = time.monotonic(), is_waiting(0, event.app.input.fileno())

    @Condition
    def has_folds() -> bool:
        from prompt_toolkit.application import get_app

        return any(map(is_fold, get_app().current_buffer.text))

    @keys.add("c-o", filter=in_message & has_folds)
    def _unfold(event: "KeyPressEvent") -> None:
        buffer = event.current_buffer
        buffer.document = Document(*pastes.expand_at(buffer.text, buffer.cursor_position))

    return keys


def text_keys(open_editor: Callable[["Buffer"], Any]) -> "KeyBindings":
    """Backspace, the external editor, Ctrl-C."""
    from prompt_toolkit.document import Document
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import has_focus, has_selection, vi_insert_mode, vi_mode
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    in_message = has_focus(DEFAULT_BUFFER)

    @keys.add("backspace", filter=in_message & ~has_selection & (~vi_mode | vi_insert_mode))
    def _delete(event: "KeyPressEvent") -> None:
        """What is seen as one character goes as one."""
        buffer = event.current_buffer
        for _ in range(event.arg):
            buffer.delete_before_cursor(len(last_cluster(buffer.document.text_before_cursor)) or 1)

    @keys.add("c-@", filter=in_message & ~vi_mode)
    def _mark(_event: "KeyPressEvent") -> None:
        """Ctrl-Space, which switches input methods, does nothing: behind a mark of Emacs no text could be typed."""

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
