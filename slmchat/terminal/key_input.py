"""What a terminal sends, as keys for the line editor: pastes that it does not mark, Enter with Shift, what no key is.

Knows: how prompt_toolkit reads control sequences, and where a chat needs another reading.
Refuses to know: what a key does (line_keys.py).
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyBindings, KeyPress

# So many characters at once are pasted.
_PASTED_KEYS = 64
# What a terminal sends and no key is: an answer to what another program has asked it, the focus of its window, a key
# that nobody knows. Each key is one character here: "\0" stands for all that are neither text nor part of the form.
_UNASKED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[]P^_][^\x00\x07\x1b]*(?:\x07|\x1b\\))")
# Enter with Shift or Ctrl, where the terminal tells it apart. prompt_toolkit takes some of them for Enter alone.
_NEW_LINES = [form % modifier for form in ("\x1b[27;%d;13~", "\x1b[13;%du") for modifier in (2, 5, 6)]


def know_new_lines() -> None:
    """Shift-Enter and Ctrl-Enter are Alt-Enter: what somebody means who holds a key down with it."""
    from prompt_toolkit.input.ansi_escape_sequences import ANSI_SEQUENCES
    from prompt_toolkit.keys import Keys

    ANSI_SEQUENCES.update(dict.fromkeys(_NEW_LINES, (Keys.Escape, Keys.ControlM)))


def without_unasked(keys: "list[KeyPress]") -> "list[KeyPress]":
    """What was read at once, without what is not typed. prompt_toolkit would take it for Esc and text."""
    from prompt_toolkit.keys import Keys

    forms: dict[str, str] = {Keys.Escape: "\x1b", Keys.ControlG: "\x07"}
    text = "".join(key.key if len(key.key) == 1 else forms.get(key.key, "\0") for key in keys)
    for found in reversed(list(_UNASKED.finditer(text))):
        del keys[found.start() : found.end()]
    return keys


def read_pastes_whole(source: "Input") -> None:
    """Keys that nobody types so fast come as a paste, where the terminal marks none: one key instead of thousands."""
    from prompt_toolkit.key_binding import KeyPress
    from prompt_toolkit.keys import Keys

    read_keys = source.read_keys
    plain: dict[str, str] = {Keys.ControlM: "\r", Keys.ControlJ: "\n", Keys.ControlI: "\t"}

    def merged() -> list[KeyPress]:
        keys: list[KeyPress] = []
        run: list[KeyPress] = []
        for key in [*without_unasked(read_keys()), None]:
            if key is not None and key.key is Keys.Vt100MouseEvent:
                continue  # a colour in what is pasted
            if key is not None and (key.key in plain or len(key.key) == 1):
                run.append(key)
                continue
            if len(run) >= _PASTED_KEYS:
                text = "".join(plain.get(each.key, each.key) for each in run)
                is_sent = text.find("\r") == len(text) - 1 and "\n" not in text  # one line, and Enter behind it
                pasted = KeyPress(Keys.BracketedPaste, text[:-1] if is_sent else text)
                run = [pasted, run[-1]] if is_sent else [pasted]
            keys += run
            run = []
            if key is not None:
                keys.append(key)
        return keys

    source.read_keys = merged  # type: ignore[method-assign]


def ignore_mouse(keys: "KeyBindings") -> None:
    """What reads as a mouse event is the colour of a pasted text: slm asks no terminal for its mouse.

    prompt_toolkit's own binding counts the numbers in it, and fails.
    """
    from prompt_toolkit.keys import Keys

    keys.add(Keys.Vt100MouseEvent)(lambda _event: None)
