"""A thread that reads keys into what is typed ahead, while nobody else reads them.

Knows: which bytes belong to one key or one paste. Refuses to know: what the keys mean, the modes of the terminal.
"""

import os
import select
import threading
import time
from collections.abc import Callable

from slmchat.terminal.plain_input import MORE_S, REST_OF_KEY_S, is_waiting
from slmchat.terminal.typed_ahead import TypedAhead


def take_lines(descriptor: int, typed: TypedAhead) -> None:
    """What was typed before the modes of the terminal were changed: it made a line feed of Enter, which would be Ctrl-J
    in a line editor."""
    data = b""
    while is_waiting(0, descriptor) and (part := os.read(descriptor, 4096)):
        data += part
    if data:
        typed.add(data.replace(b"\n", b"\r"), time.monotonic())


class KeyReader:
    """Reads from its making until `stop`. The terminal is in the modes in which keys are kept (`KeyModes`)."""

    def __init__(
        self,
        descriptor: int,
        typed: TypedAhead,
        *,
        on_escape: Callable[[], None] | None = None,
        on_key: Callable[[], None] | None = None,
    ) -> None:
        """`on_escape`: for Esc alone, once; None: it is a key as any other. `on_key`: something was added to `typed`.
        Both are called in the thread."""
        self._descriptor = descriptor
        self._typed = typed
        self._on_escape = on_escape
        self._on_key = on_key
        self._has_escaped = False
        self._end, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True, name="keys")
        self._thread.start()

    @property
    def is_current(self) -> bool:
        """Whether this is called in the thread."""
        return threading.current_thread() is self._thread

    def stop(self) -> None:
        """Nothing is read any more once this has returned, and nothing that was typed before is left unread."""
        os.close(self._wake)
        self._thread.join()
        os.close(self._end)
        while is_waiting(0, self._descriptor):
            data = self._read()
            if not data:
                break
            self._take(data)

    def _run(self) -> None:
        while True:
            ready = select.select([self._descriptor, self._end], [], [])[0]
            if self._end in ready:
                return
            data = self._read()
            if not data:  # the terminal has gone
                return
            while is_waiting(REST_OF_KEY_S if data.endswith(b"\x1b") else MORE_S, self._descriptor):
                more = self._read()
                data += more
                if not more:
                    break
            self._take(data)
            if self._on_key is not None:
                self._on_key()

    def _take(self, data: bytes) -> None:
        if self._on_escape is None or data not in (b"\x1b", b"\x1b\x1b"):
            self._typed.add(data, time.monotonic())
        elif not self._has_escaped:
            self._has_escaped = True
            self._on_escape()

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, 65536)
        except OSError:
            return b""
