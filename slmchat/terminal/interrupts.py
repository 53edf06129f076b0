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

The same thread sees to it that Ctrl-C is heard at all. A signal that comes in the moment before the main thread begins
to wait for a lock or a queue does not end that wait, nor does one that another thread takes: Python's handler would run
when the wait is over, which may be never. So the main thread gets SIGURG until it has run its handlers: that ends the
wait, Python runs what is due, SIGINT's handler first, and the wait goes on if nothing was raised.

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
from typing import cast

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
_is_watching = False
_presses = 0  # without effect so far
_first_at = 0.0
_has_told = False

# How long a handler may take to run before the main thread is woken (again); in seconds. A person does not notice.
_WAKE_S = 0.05
_is_due = False  # Ctrl-C has been pressed, and no handler has run since, as far as is known

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
    signal.signal(signal.SIGURG, _woken)
    _reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)


def end_by(number: int, _frame: FrameType | None) -> None:
    """Give the terminal back and end by this signal, as if nobody had heard it. From any thread."""
    restore.give_back()
    signals.end_by(number)


def _woken(_number: int, _frame: FrameType | None) -> None:
    """The handler of SIGURG, which runs after that of SIGINT (Python goes by the number)."""
    global _is_due
    _is_due = False


def watch() -> None:
    """Start to count what `listen` hears, once. From any thread, after the process is sealed."""
    global _is_watching
    with _lock:
        is_first, _is_watching = not _is_watching, True
    if _reader is not None and is_first:
        threading.Thread(target=_wait, args=(_reader,), daemon=True, name="Ctrl-C").start()


def settled() -> None:
    """Ctrl-C has had its effect: the next one is a first one again."""
    global _presses, _has_told
    with _lock:
        _presses, _has_told = 0, False


@contextlib.contextmanager
def cancelling(cancel: Callable[[], None]) -> Iterator[None]:
    """While this lasts, Ctrl-C calls `cancel`; a second one is a KeyboardInterrupt. In the main thread."""
    watch()  # work that loads no library has not begun it: that of an endpoint

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
def postponed() -> Iterator[None]:
    """While this lasts, Ctrl-C waits for its end: what is put in order now must not be left half done."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    pressed: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda _number, frame: pressed.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        before(signal.SIGINT, pressed[-1])


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


@contextlib.contextmanager
def left_to_a_child() -> Iterator[None]:
    """While this lasts, Ctrl-C is for a program that slm has started. It goes to every program on the terminal.

    Here it does nothing: `subprocess` would end the child, and the terminal would stay as the child has set it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A handler, not SIG_IGN: the child would inherit that.
    before = signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        with left_alone():
            yield
    finally:
        signal.signal(signal.SIGINT, before)


def _wait(reader: int) -> None:
    global _presses, _first_at, _is_due
    n_repeated, main = 0, cast(int, threading.main_thread().ident)
    while True:
        with _lock:
            left = None if not _presses or _has_told else max(0.0, _first_at + GRACE_S - time.monotonic())
        if _is_due:
            left = _WAKE_S if left is None else min(left, _WAKE_S)
        heard = os.read(reader, 64) if select.select([reader], [], [], left)[0] else b""
        if not heard and _is_due:
            signal.pthread_kill(main, signal.SIGURG)
        _is_due = _is_due or signal.SIGINT in heard
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
