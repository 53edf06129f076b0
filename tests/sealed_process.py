"""Processes of their own for what cannot be taken off again: the seal, filters, a narrowed network."""

import subprocess
import sys
import textwrap
from pathlib import Path

import fork_server
import pytest

from slmchat.privacy import seccomp
from slmchat.privacy.steps import NotOffered

REPOSITORY = Path(__file__).parents[1]


def has_seccomp() -> bool:
    try:
        seccomp.machine()
    except NotOffered:
        return False
    return sys.platform.startswith("linux") and "Seccomp:" in Path("/proc/self/status").read_text()


def landlock_abi() -> int:
    if not sys.platform.startswith("linux"):
        return 0
    from slmchat.privacy import landlock

    try:
        return landlock.abi()
    except NotOffered:
        return 0


def is_whole() -> bool:
    """Whether the seal can be whole here: without Landlock it takes Yama (`kernel.yama.ptrace_scope`, 1 or more)."""
    from slmchat.privacy import linux

    return has_seccomp() and bool(landlock_abi() or not linux.open_memory())


needs_seccomp = pytest.mark.skipif(
    not is_whole(), reason="needs Linux with seccomp, on x86-64 or aarch64, and Landlock or Yama"
)
needs_landlock = pytest.mark.skipif(not landlock_abi(), reason="needs a kernel with Landlock")


def in_python(
    code: str, *arguments: str | Path, cwd: Path | None = None, **options: object
) -> subprocess.CompletedProcess[str]:
    """Run code in a Python of its own."""
    prelude = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
    given: dict[str, object] = {"capture_output": True, "text": True, "timeout": 300, "check": False, **options}
    return fork_server.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code), *map(str, arguments)], cwd=cwd, **given
    )


def told(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
