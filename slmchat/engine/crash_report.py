"""When llama.cpp takes the process down: one sentence that says what it was doing, then the end.

Knows: ggml's abort callback, C++'s terminate handler, the signals of a crash; which of them are a file's fault.
Refuses to know: which call runs (native_calls.py), terminals, marks on the disk, conversations. `take_over` hands in
what has to be put right first.

Three ways down, in the order of how much is known:

1. A failed check (GGML_ASSERT). ggml calls a callback before it aborts. The sentence is written there.
2. A C++ exception that nothing catches. C++ calls its terminate handler. The sentence is written there, too.
3. A signal (SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT), on any thread, with any lock held. Nothing can be said inside
   of it. So faulthandler writes its report into a pipe, which is safe in a signal, and gives the signal on to the
   handler before it: the C library's `sleep`. The thread that crashed stays there, and a thread that waits at the pipe
   says the rest in peace. When that thread cannot run (the crash came in Python code, which holds the interpreter),
   `sleep` returns after as many seconds as the signal has a number, the crash happens again, and the signal ends the
   process as if nobody had waited.

In a program that uses slm as a library only the first is there, and it only says the sentence: ggml's callback cannot
go back to the caller, so the process ends by SIGABRT in any case. Its signals stay its own.
"""

import contextlib
import faulthandler
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from slmchat import signals
from slmchat.engine import native_calls
from slmchat.engine.native_calls import NativeCall
from slmchat.errors import ExitCode, SlmError, is_debugged

# The first words of faulthandler's report, and their signals (faulthandler.c, faulthandler_handlers).
_SIGNALS = {"Bus": "SIGBUS", "Illegal": "SIGILL", "Floating": "SIGFPE", "Aborted": "SIGABRT", "Segmentation": "SIGSEGV"}
_WORDS = {
    "SIGBUS": "bus error",
    "SIGILL": "illegal instruction",
    "SIGFPE": "arithmetic error",
    "SIGABRT": "abort",
    "SIGSEGV": "segmentation fault",
}

_PAGE = 4096

# sigaction(2): SA_NODEFER | SA_RESETHAND of Linux (asm-generic/signal-defs.h)
_SA_NODEFER, _SA_RESETHAND = 0x40000000, 0x80000000


# struct sigaction of glibc and musl: the handler, a mask of 1024 bits, flags, the kernel's way back.
_SIGACTION = "@P128xIP"


# Puts right what has to be and says the error.
End = Callable[[SlmError], None]

_end: End | None = None
_begin: Callable[[], None] | None = None
_before_end: list[Callable[[bool], None]] = []
_is_watching = False
_lock = threading.Lock()
_ending = threading.Lock()  # never released: the first end is the only one
_callbacks: list[Any] = []  # referenced for as long as the library may call them


def take_over(end: End, begin: Callable[[], None]) -> None:
    """This process is slm's own: whatever llama.cpp does to it, it ends with a sentence, an exit code or its signal.

    `end(error)` gives the terminal back and says the error. `begin` is called once, before the first
    model is loaded, when the seal has been closed: threads may be started.
    """
    global _end, _begin
    _end, _begin = end, begin
    native_calls.before_the_first = watch


def before_end(settle: Callable[[bool], None]) -> None:
    """Call this before the error is said; its argument: whether a file is known to be to blame."""
    _before_end.append(settle)


def no_debugger() -> None:
    """Before the library is loaded: ggml starts gdb or lldb, whichever is on the PATH, when it aborts."""
    os.environ["GGML_NO_BACKTRACE"] = "1"


def install(api: ModuleType) -> None:
    """Let llama.cpp's last words come here, and note which call of these bindings runs.

    A library that lacks one of the functions goes without.
    """
    import ctypes  # not at the top: commands without llama.cpp do not pay for it

    # typedef void (*ggml_abort_callback_t)(const char * error_message);
    # GGML_API ggml_abort_callback_t ggml_set_abort_callback(ggml_abort_callback_t callback);  (ggml.h)
    told = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(_checked)
    set_abort_callback = _function(api, "ggml_set_abort_callback")
    if set_abort_callback is not None:
        set_abort_callback.restype, set_abort_callback.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        set_abort_callback(ctypes.cast(told, ctypes.c_void_p))
        _callbacks.append(told)
    if _end is not None and not _is_debugged():  # else C++ says by itself what was thrown
        # std::terminate_handler std::set_terminate(std::terminate_handler f) noexcept;  (<exception>)
        thrown = ctypes.CFUNCTYPE(None)(_thrown)
        set_terminate = _function(api, "_ZSt13set_terminatePFvvE")
        if set_terminate is not None:
            set_terminate.restype, set_terminate.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
            set_terminate(ctypes.cast(thrown, ctypes.c_void_p))
            _callbacks.append(thrown)
    native_calls.follow(api)


# What is said


def _checked(message: bytes | None) -> None:
    """ggml_abort: the check that failed, as "/where/it/was/built/llama-model.cpp:123: GGML_ASSERT(...) failed"."""
    place, _, check = (message or b"").decode("utf-8", "replace").partition(": ")
    said = (check.strip(), place.replace("\\", "/").rpartition("/")[2])
    _ends("a check of its own failed", ", ".join(filter(None, said)))


def _thrown() -> None:
    """std::terminate: an exception that nothing catches."""
    _ends("an internal error was not caught")


def _explained(what: str, detail: str, work: NativeCall | None) -> SlmError:
    """A file is to blame as long as nothing has been computed with it."""
    detail = f" ({detail})" if detail else ""
    if work is not None and work.file is not None and not native_calls.is_proven(work.file):
        return SlmError(
            f"llama.cpp cannot use {work.file.name}: {what} while {work.words.format('it')}{detail}.",
            hint=f"slm show {work.file} tells what its header says; slm verify finds a damaged copy",
            exit_code=ExitCode.DAMAGED,
        )
    doing = f" while {work.doing}" if work is not None else ""
    return SlmError(
        f"llama.cpp failed: {what}{doing}{detail}.",
        hint="slm doctor tests it; please report this line",
        exit_code=ExitCode.BUG,
    )


def _crashed(name: str) -> tuple[SlmError, bool]:
    """The sentence for a signal, and whether it is known that a file is to blame.

    While a file is read, it is taken to be the file. Where it is computed with, the library or the processor may be
    the reason as well: then the signal itself ends slm, for the system's own reports of crashes.
    """
    work = native_calls.now()
    cut = cut_files() if name == "SIGBUS" else []
    if cut:
        return SlmError(
            f"{cut[0].name} was cut short while slm was using it.",
            hint="do not copy over a model that is in use; pull or copy it again",
            exit_code=ExitCode.DAMAGED,
        ), True
    doing = f" while {work.doing}" if work is not None else ""
    is_reading = work is not None and work.file is not None and not work.is_computing
    if is_reading and name in ("SIGSEGV", "SIGFPE"):
        assert work is not None
        return SlmError(
            f"llama.cpp crashed ({_WORDS[name]}){doing}.",
            hint=f"the file may be damaged: slm verify {work.file}; if it is not, slm doctor tests llama.cpp",
            exit_code=ExitCode.DAMAGED,
        ), False
    hints = {
        "SIGBUS": "a disk or network drive that is gone, or a full memory file system, ends programs so",
        "SIGILL": "it may be built for another processor; build it here: "
        "pip install --force-reinstall --no-cache-dir llama-cpp-python",
    }
    subject = "llama.cpp" if work is not None else "a library below slm"
    return SlmError(
        f"{subject} crashed ({_WORDS[name]}){doing}.",
        hint=hints.get(name, "slm doctor tests it; please report this line"),
        exit_code=ExitCode.BUG,
    ), False


def cut_files() -> list[Path]:
    """Files that are mapped into this process beyond their present end: to touch a page there is SIGBUS.

    llama.cpp maps models as shared memory; what is private belongs to libraries, which end as they like.
    """
    found = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines():
            # 7f00-7f80 r--s 00001000 08:01 1234   /models/tiny.gguf
            span, access, offset, _device, _inode, *name = line.split(maxsplit=5)
            if not access.endswith("s") or not name or not name[0].startswith("/"):
                continue
            begin, _, end = span.partition("-")
            file = Path(name[0])
            with contextlib.suppress(OSError):
                last = -(-file.stat().st_size // _PAGE) * _PAGE
                if int(offset, 16) + int(end, 16) - int(begin, 16) > last and file.is_file():
                    found.append(file)
    return list(dict.fromkeys(found))


# The end


def _ends(what: str, detail: str = "") -> None:
    """The process ends here; in a program of somebody else's, the sentence is said, and ggml goes on to abort()."""
    work, file = native_calls.now(), native_calls.only_file()
    if work is None and file is not None:  # a call that is not followed, on the only model there is
        work = NativeCall("working with {}", file)
    error = _explained(what, detail, work)
    if _end is None:
        text = f"slmchat: {error.message}\n"
        os.write(2, "".join(each if each.isprintable() or each == "\n" else "\ufffd" for each in text).encode())
        return
    # computing may be the library's fault as well: then the mark of a crash stays for the next start
    is_files_fault = error.exit_code is ExitCode.DAMAGED and not (work is not None and work.is_computing)
    _leave(error, is_files_fault)


def _leave(error: SlmError, is_files_fault: bool, ending_signal: signal.Signals | None = None) -> None:
    if not _ending.acquire(blocking=False):
        threading.Event().wait()  # another thread ends the process
    assert _end is not None
    try:
        for settle in _before_end:
            settle(is_files_fault)
        _end(error)
    finally:
        if ending_signal is not None:
            signals.end_by(ending_signal)
            time.sleep(1)  # it comes at once, but on another thread perhaps
        os._exit(error.exit_code)


def _is_debugged() -> bool:
    """SLM_DEBUG: C++, faulthandler and the core dump say what they know, instead of one sentence."""
    return is_debugged(os.environ)


def watch() -> None:
    """Start what waits for a crash, once, in a process that `take_over` was called for. The seal must have been closed.

    Where the signals cannot be had, they stay as they are.
    """
    global _is_watching
    with _lock:
        if _is_watching:
            return
        _is_watching = True
        if _begin is not None:
            _begin()
        if not _has_sigaction() or faulthandler.is_enabled():  # on already: whoever runs this process asked for it
            return
        if _is_debugged():
            faulthandler.enable()
            return
        reader, writer = os.pipe()
        for name in _WORDS:
            _park_at(signal.Signals[name])
        faulthandler.enable(writer, all_threads=False)
        import atexit

        atexit.register(_unwatch)
        threading.Thread(target=_wait, args=(reader,), daemon=True, name="crash report").start()


def _has_sigaction() -> bool:
    """Whether the struct is known: bionic has another one than glibc and musl."""
    return sys.platform.startswith("linux") and not hasattr(sys, "getandroidapilevel")


def hears_signals() -> bool:
    """Whether the signals of a crash end this process through `take_over`'s end; then faulthandler is in use here."""
    return _end is not None and _has_sigaction() and not _is_debugged()


def _unwatch() -> None:
    """Python ends: nobody could say a sentence any more, and nobody should wait for one."""
    faulthandler.disable()
    for name in _WORDS:
        signals.restore_default(signal.Signals[name])


def _park_at(number: int) -> None:
    import ctypes

    # int sigaction(int signum, const struct sigaction * act, struct sigaction * oldact);
    # unsigned int sleep(unsigned int seconds);  the handler is given the signal's number: 4 to 11 seconds
    sleep = ctypes.cast(_libc().sleep, ctypes.c_void_p).value
    _libc().sigaction(number, struct.pack(_SIGACTION, sleep, _SA_NODEFER | _SA_RESETHAND, 0), None)


def _wait(reader: int) -> None:
    """The thread at the pipe. faulthandler begins with "Fatal Python error: Bus error"."""
    said = b""
    while b"\n" not in said:
        said += os.read(reader, 256)
    reason = said.decode("ascii", "replace").partition(": ")[2]
    name = next(name for start, name in _SIGNALS.items() if reason.startswith(start))
    error, is_known = _crashed(name)
    is_by_code = error.exit_code is ExitCode.DAMAGED
    _leave(error, is_known, None if is_by_code else signal.Signals[name])


def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None)


def _function(api: ModuleType, name: str) -> Any:
    """A C function of llama.cpp's library or of one that it is linked to; None where there is none.

    Windows looks into the library alone; ggml's own library lies beside it.
    """
    import ctypes

    libraries = [api._lib]
    beside = Path(api._lib._name or "").parent / "ggml-base.dll"
    if sys.platform == "win32" and beside.exists():
        libraries.append(ctypes.CDLL(str(beside)))
    for library in libraries:
        with contextlib.suppress(AttributeError):
            return library[name]
    return None
