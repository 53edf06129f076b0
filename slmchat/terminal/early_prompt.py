"""The prompt of a chat before its line editor is there.

Importing the editor takes longer than all else that stands before the first prompt. So the prompt itself is shown
before that: keys are kept from then on and shown behind it. The editor draws itself in its place and takes them over.

Knows: how the prompt looks, who else writes meanwhile, the modes of the terminal.
Refuses to know: how a line is edited (line_editor.py), what comes before the prompt.
"""

import contextlib

from slmchat.errors import SlmError
from slmchat.sanitize import sanitize
from slmchat.terminal import interrupts, restore
from slmchat.terminal.console import Console
from slmchat.terminal.key_modes import KeyModes
from slmchat.terminal.key_reader import KeyReader, take_lines
from slmchat.terminal.markdown_layout import text_width
from slmchat.terminal.screen import ControlSequences
from slmchat.terminal.typed_ahead import TypedAhead

# What stands before the line, and its colour (the editor's style says the same in words).
PROMPT = "> "
_COLOURED = f"\x1b[0;36;1m{PROMPT}\x1b[0m"
_LINE_AWAY = "\r\x1b[K"


class EarlyPrompt:
    """Shown once, then taken over by the editor or ended. What is written meanwhile takes its place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._is_there = False  # on the screen
        self._keys: KeyReader | None = None
        self.modes = KeyModes(console.stdin)
        self.typed = TypedAhead()

    def show(self) -> None:
        """From now on keys are kept. Nothing on a terminal that edits its lines by itself."""
        console = self._console
        if not console.is_interactive or console.is_dumb or console.is_accessible:
            return
        self.modes.take(keeps_ctrl_z=True)
        if not self.modes.is_taken:
            return
        restore.begun("prompt", restore.PROMPT)
        take_lines(self.modes.descriptor, self.typed)
        console.send(ControlSequences(restore.PASTE_ON))
        self._is_there = True
        self._draw()
        self._keys = KeyReader(self.modes.descriptor, self.typed, on_key=self._show_keys)
        console.gate.before = self._make_way

    def take_over(self) -> None:
        """The editor draws its prompt now, where this one stands. The modes stay taken."""
        with interrupts.postponed():
            if self._keys is not None:
                self._keys.stop()
                self._keys = None
            self._console.gate.run(self._make_way)

    def end(self) -> None:
        """No editor comes, or it has ended: the terminal is as it was. May be called again."""
        with interrupts.postponed():
            self.take_over()
            if self.modes.is_taken:
                self._console.send(ControlSequences(restore.PROMPT))
                restore.ended("prompt")
                self.modes.give_back()

    def _draw(self) -> None:
        room = max(0, self._console.size[0] - len(PROMPT) - 1)
        typed = sanitize(self.typed.shown, one_line=True)
        shown = typed[-room:] if room else ""  # its end is what is being typed
        while text_width(shown) > room:
            shown = shown[1:]
        prompt = _COLOURED if self._console.has_color else PROMPT
        self._console.send(ControlSequences(_LINE_AWAY + prompt + shown))

    def _show_keys(self) -> None:
        def draw() -> None:
            if self._is_there:
                self._draw()

        with contextlib.suppress(OSError, SlmError):  # the main thread writes too, and is told of it
            self._console.gate.run(draw)

    def _make_way(self) -> None:
        """Before anything else is written there."""
        if self._is_there and not (self._keys is not None and self._keys.is_current):
            self._is_there = False
            self._console.gate.before = None
            self._console.send(ControlSequences(_LINE_AWAY))
