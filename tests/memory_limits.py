"""Memory limits that the kernel enforces, for whole processes: control groups of versions 1 and 2, and RLIMIT_AS."""

import contextlib
import os
import resource
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Outcome, environment

MB = 1_000_000
_GROUPS = ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max"))


@dataclass(frozen=True)
class Group:
    """A control group with a limit, which a program enters before it starts."""

    directory: Path

    def enter(self) -> None:
        (self.directory / "cgroup.procs").write_text(str(os.getpid()))

    @property
    def kills(self) -> int:
        """Processes that the kernel has killed in here because memory ran out."""
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError):
                lines = (self.directory / name).read_text().splitlines()
                return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
        return 0


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[Group]:
    """A control group of this many bytes, swap included where it can be; the test is skipped where none can be made."""
    reasons = []
    for mounted, name in _GROUPS:
        directory = mounted / f"slm-test-{secrets.token_hex(4)}"
        try:
            directory.mkdir()
        except OSError as error:
            reasons.append(f"{directory.parent}: {error.strerror}")
            continue
        try:
            (directory / name).write_text(str(limit))
            for swap in ("memory.memsw.limit_in_bytes", "memory.swap.max"):
                with contextlib.suppress(OSError):
                    (directory / swap).write_text(str(limit if "memsw" in swap else 0))
            subprocess.run(["true"], preexec_fn=Group(directory).enter, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            directory.rmdir()
            reasons.append(f"{directory.parent}: {error}")
            continue
        yield Group(directory)
        with contextlib.suppress(OSError):  # the kernel may take a moment to notice that it is empty
            directory.rmdir()
        return
    pytest.skip("no control group for memory can be made here: " + "; ".join(reasons))


def address_space(limit: int) -> Callable[[], None]:
    """What a program does before it starts to have at most this much address space."""
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def limited_slm(home: Path, before: Callable[[], None], *arguments: str | Path, stdin: str = "") -> Outcome:
    """Run `slm` under a limit, to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "slmchat", *map(str, arguments)],
        input=stdin,
        env=environment(home),
        preexec_fn=before,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def uncached_copy(source: Path, target: Path) -> Path:
    """A copy that no cache holds, so that its pages count where it is read."""
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return target
