"""Faults planted below slm: a call of llama.cpp that crashes, aborts or never comes back, in real native code.

A small C library is compiled for it. Tests that need it are skipped where there is no C compiler.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

_SOURCE = r"""
#include <pthread.h>
#include <signal.h>
static void *fall(void *how) {
    if (*(int *)how == SIGSEGV) *(volatile int *)8 = 1;
    raise(*(int *)how);
    return 0;
}
int crash(int how) {  /* on a thread that Python does not know, as llama.cpp's own are */
    pthread_t thread;
    pthread_create(&thread, 0, fall, &how);
    pthread_join(thread, 0);
    return 0;
}
int spin(int how) { for (;;) __asm__ volatile(""); }
"""

# The real program, in which a function of llama.cpp does this instead, from its call number `after` on.
_PROGRAM = """
import ctypes, os, sys
from slmchat.engine import crash_report
install, calls = crash_report.install, 0
def planted(api):
    real = getattr(api, {name!r})
    def fault(*given):
        global calls
        calls += 1
        if calls > {after}:
            {fault}
        return real(*given)
    setattr(api, {name!r}, fault)
    install(api)
crash_report.install = planted
sys.argv = ["slm", *{arguments!r}]
from slmchat.__main__ import main
sys.exit(main())
"""


def library(directory: Path) -> Path:
    """The compiled library."""
    compiler = shutil.which("cc") or pytest.skip("no C compiler")
    source, made = directory / "faults.c", directory / "faults.so"
    source.write_text(_SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, source, "-lpthread"], check=True)
    return made


def native(made: Path, function: str, how: int = 0) -> str:
    """The statement that calls "crash" (with a signal) or "spin" of the library."""
    return f"return ctypes.CDLL({str(made)!r}).{function}({int(how)})"


def program(name: str, after: int, fault: str, arguments: Sequence[str | Path]) -> list[str]:
    """The command line of slm with a fault in the function `name` of llama.cpp, after so many sound calls."""
    script = _PROGRAM.format(name=name, after=after, fault=fault, arguments=[str(each) for each in arguments])
    return [sys.executable, "-c", script]
