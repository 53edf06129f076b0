"""Ctrl-C and the signals that end slm, also while native code does not come back.

Knows: what Ctrl-C ends, how many times it was pressed without effect, that a terminal is given back before slm ends.
Refuses to know: what is computed.

Python runs a signal's handler between two steps of its own. As long as the main thread is inside a call of a library,
Ctrl-C does nothing. But Python's part in C writes each signal's number into a pipe at once (`signal.set_wakeup_fd`).
A thread waits there and keeps the promise that two Ctrl-C always end slm:

- The first one cancels, as ever. When it has had no effect for `GRACE_S` seconds, a terminal is told so.
- The second one ends slm when the first has had no effect for `GRACE_S` seconds: at once if it comes later, at that
  moment if it came sooner. So who presses twice to stop an answer keeps the chat when the answer stops in time.

What has been said so far is in the archive (an answer up to the last half second), as it is with `kill -9`.

SIGTERM, SIGHUP and SIGQUIT end slm at once, as ever; only the terminal gets its modes back before. The same thread sees
to it while the main thread is inside a library.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType

from slmchat import signals
from slmchat.engine.cancellable import Cancellable
from slmchat.errors import ExitCode
from slmchat.terminal import restore

# A cancelled computation ends with the node of the graph that it is at: milliseconds, on a slow phone a second.
GRACE_S = 2.0

# What ends slm from outside. SIGHUP: its terminal is gone. Those that are ignored stay so (nohup).
_ENDING = tuple(
    number
    for name in ("SIGTERM", "SIGHUP", "SIGQUIT")
    if sys.platform != "win32" and (number := getattr(signal, name, None)) is not None
)

_lock = threading.Lock()
_reader: int | None = None
_presses = 0  # without effect so far
_first_at = 0.0
_has_told = False

# A second KeyboardInterrupt so soon would hit what the first one puts in order; seconds.
_ONE_INTERRUPT_S = 1.0
_raised_at = float("-inf")


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """Python's handler: a KeyboardInterrupt, but not a second one while the first is on its way."""
    global _raised_at
    now = time.monotonic()
    if signals.is_repeated() or now - _raised_at >= _ONE_INTERRUPT_S:
        _raised_at = now
        raise KeyboardInterrupt


def listen() -> None:
    """Hear Ctrl-C, from the main thread: as `interrupt`, and in a pipe of which `watch` makes use (not on Windows)."""
    global _reader
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # in the background of a script it is ignored
        signal.signal(signal.SIGINT, interrupt)
    for number in _ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end_by)
    if _reader is not None or sys.platform == "win32":
        return
    _reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)


def end_by(number: int, _frame: FrameType | None) -> None:
    """Give the terminal back and end by this signal, as if nobody had heard it. From any thread."""
    restore.give_back()
    signals.end_by(number)


def watch() -> None:
    """Start to count what `listen` hears. From any thread."""
    if _reader is not None:
        threading.Thread(target=_wait, args=(_reader,), daemon=True, name="Ctrl-C").start()


def settled() -> None:
    """Ctrl-C has had its effect: the next one is a first one again."""
    global _presses, _has_told
    with _lock:
        _presses, _has_told = 0, False


@contextlib.contextmanager
def cancelling(cancel: Callable[[], None]) -> Iterator[None]:
    """While this lasts, Ctrl-C calls `cancel`; a second one is a KeyboardInterrupt. In the main thread."""

    def first(_number: int, _frame: FrameType | None) -> None:
        cancel()
        signal.signal(signal.SIGINT, interrupt)

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        signals.forget_interrupt()
        settled()


def cancelled_by_ctrl_c(work: Cancellable) -> AbstractContextManager[None]:
    """While this lasts, Ctrl-C ends the work and keeps what came of it. A `CancelScope`."""
    return cancelling(work.cancel)


@contextlib.contextmanager
def left_alone() -> Iterator[None]:
    """While this lasts, Ctrl-C is somebody else's: a line editor's, another program's on the same terminal."""
    if _reader is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.set_wakeup_fd(-1)
    settled()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)  # asyncio, which the line editor uses, leaves none


def _wait(reader: int) -> None:
    global _presses, _first_at
    n_repeated = 0
    while True:
        with _lock:
            left = None if not _presses or _has_told else max(0.0, _first_at + GRACE_S - time.monotonic())
        heard = os.read(reader, 64) if select.select([reader], [], [], left)[0] else b""
        for number in _ENDING:
            if number in heard and signal.getsignal(number) is end_by:
                end_by(number, None)
        with _lock:
            count = heard.count(signal.SIGINT)
            repeated = min(count, signals.n_repeated() - n_repeated)
            count, n_repeated = count - repeated, n_repeated + repeated
            if count and not _presses:
                _first_at = time.monotonic()
            _presses += count
            is_overdue = bool(_presses) and time.monotonic() >= _first_at + GRACE_S
            if is_overdue and _presses > 1:
                break
            if is_overdue:
                _tell()
    restore.give_back()
    os._exit(ExitCode.INTERRUPTED)


def _tell() -> None:
    global _has_told
    if not _has_told and os.isatty(2):
        os.write(2, b"\n(it has not stopped yet; Ctrl-C again ends slm at once)\n")
    _has_told = True
