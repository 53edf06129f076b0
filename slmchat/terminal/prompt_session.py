"""The prompt as prompt_toolkit has it: its keys, its history, its look.

Knows: how prompt_toolkit is set up, and where its own defaults do not suit a chat.
Refuses to know: when a line is read, and what is made of it (line_editor.py); what the keys do (line_keys.py).
"""

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from slmchat.terminal.input_history import InputHistory
from slmchat.terminal.key_input import know_new_lines, read_pastes_whole
from slmchat.terminal.line_keys import (
    Burst,
    is_command,
    menu_keys,
    paste_keys,
    sending_keys,
    text_keys,
)
from slmchat.terminal.pastes import Pastes, processor
from slmchat.terminal.plain_input import REST_OF_KEY_S
from slmchat.terminal.slash_commands import CommandTable

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.buffer import Buffer
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.history import History


def open_session(
    *,
    is_vi: bool,
    completer: "Completer",
    table: CommandTable[Any],
    pastes: Pastes,
    history: InputHistory,
    typed: Callable[[str], str],
    toolbar: Callable[[], str],
    open_editor: Callable[["Buffer"], Any],
) -> "PromptSession[str]":
    """`typed`: what goes into the history for a line; `toolbar`: the line at the bottom; `open_editor`: for Ctrl-G."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.cursor_shapes import ModalCursorShapeConfig
    from prompt_toolkit.enums import EditingMode
    from prompt_toolkit.filters import Condition
    from prompt_toolkit.key_binding import merge_key_bindings
    from prompt_toolkit.styles import Style

    know_new_lines()
    burst = Burst()
    session: PromptSession[str] = PromptSession(
        history=_kept_history(history, typed),
        key_bindings=merge_key_bindings(
            [
                sending_keys(burst),
                menu_keys(table, burst),
                paste_keys(pastes),
                text_keys(open_editor),
            ]
        ),
        completer=completer,
        editing_mode=EditingMode.VI if is_vi else EditingMode.EMACS,
        cursor=ModalCursorShapeConfig() if is_vi else None,
        multiline=True,
        prompt_continuation=lambda width, _line, _wraps: " " * width,
        bottom_toolbar=toolbar,
        style=Style.from_dict(_style()),
        input_processors=[processor(pastes)],
        enable_history_search=True,
        enable_suspend=True,
    )
    read_pastes_whole(session.app.input)
    # A terminal that is asked where its cursor is and does not answer within two seconds (a slow line, a busy
    # phone) loses the toolbar's place at the bottom, and nothing that the user has to know.
    session.app.renderer.cpr_not_supported_callback = None
    # PromptSession turns this off when Up searches the history; both work, because this is for commands only.
    session.default_buffer.complete_while_typing = Condition(lambda: is_command(session.default_buffer))
    session.app.key_processor.before_key_press += burst.note_key
    # Esc is a key of its own sooner than by default (half a second and a whole one). In vi mode it is so common,
    # and so often followed by Enter, that Alt-Enter has to be pressed as one key there.
    session.app.ttimeoutlen = REST_OF_KEY_S / 2 if is_vi else REST_OF_KEY_S
    session.app.timeoutlen = REST_OF_KEY_S / 2 if is_vi else 0.5
    return session


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
