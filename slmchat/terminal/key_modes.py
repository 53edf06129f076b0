"""The modes of a terminal in which keys wait, as they were pressed, for whoever reads them next.

Without them the terminal shows keys where nobody reads them, keeps them until Enter, and makes a line feed of Enter,
which is another key (Ctrl-J) for a line editor.

Knows: termios. Refuses to know: what reads the keys, what is on the screen.
"""

import contextlib
import os
from typing import Any, TextIO


class KeyModes:
    """The modes of the terminal that `stream` is: taken, and given back as they were found.

    Nothing happens where there is no such terminal (a pipe, Windows).
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._found: list[Any] | None = None

    @property
    def is_taken(self) -> bool:
        return self._found is not None

    @property
    def descriptor(self) -> int:
        """Where keys are read."""
        return self._stream.fileno()

    def take(self, *, keeps_keys: bool = True, keeps_ctrl_z: bool = False) -> None:
        """Change the modes; once more where somebody else has changed them since.

        Not `keeps_keys`: lines stay the terminal's own, unseen. `keeps_ctrl_z`: it is a key for the reader as well.
        Stopped in these modes, slm would leave a shell a terminal that shows no keys.
        """
        try:
            import termios
        except ImportError:  # Windows: the console echoes nothing unless asked to
            return
        if self._found is None:
            with contextlib.suppress(termios.error, OSError, ValueError):  # no terminal, closed
                self._found = termios.tcgetattr(self.descriptor)
        if self._found is None:
            return
        quiet = [*self._found]
        quiet[3] = (quiet[3] & ~termios.ECHO) | termios.NOFLSH  # Ctrl-C takes no keys away
        if keeps_keys:
            quiet[0] &= ~termios.ICRNL  # Enter stays a carriage return: a line feed is Ctrl-J
            quiet[3] &= ~(termios.ICANON | termios.IEXTEN)
            quiet[6] = [*quiet[6]]
            quiet[6][termios.VMIN], quiet[6][termios.VTIME] = 1, 0
            if keeps_ctrl_z:
                quiet[6][termios.VSUSP] = bytes([os.fpathconf(self.descriptor, "PC_VDISABLE") & 0xFF])
        termios.tcsetattr(self.descriptor, termios.TCSADRAIN, quiet)

    def give_back(self) -> None:
        """The modes as they were found."""
        if self._found is not None:
            import termios

            with contextlib.suppress(termios.error, OSError, ValueError):  # the terminal has gone
                termios.tcsetattr(self.descriptor, termios.TCSADRAIN, self._found)
            self._found = None
