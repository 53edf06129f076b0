"""What was there before the seal and goes on: it is closed, or the process is not called sealed."""

import pytest
from sealed_process import in_python, needs_landlock, needs_seccomp, told

pytestmark = pytest.mark.real

# Seals twice: as everybody does, and as --offline does; prints whether it is called sealed, the gaps, the exit code.
_SEALED = """
from slmchat.errors import SlmError
from slmchat.privacy.seal import seal, status
said = seal(is_required=False)
try:
    seal(is_required=True)
    code = 0
except SlmError as error:
    code = int(error.exit_code)
print(said.is_enforced_by_kernel, code, *said.gaps, flush=True)
import os
os._exit(0)
"""

_THREAD = """
import ctypes, socket, threading, time
from pathlib import Path
def in_call(number):
    return any((task / "syscall").read_text().split()[0] == str(number) for task in Path("/proc/self/task").iterdir())
def start(target):
    threading.Thread(target=target, daemon=True).start()
"""

_ACCEPT = """
import platform
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
start(listener.accept)
while not in_call({"x86_64": 288, "aarch64": 242}[platform.machine()]):
    time.sleep(0.001)
"""

_RECVMSG = """
import platform
one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
one.bind("\\0slm-test-" + str(time.time_ns()))
start(lambda: socket.recv_fds(one, 64, 4))
while not in_call({"x86_64": 47, "aarch64": 212}[platform.machine()]):
    time.sleep(0.001)
"""

_OWN_TABLE = """
CLONE_FILES = 0x400
ready = threading.Event()
kept = socket.socket()
def own():
    assert ctypes.CDLL(None).unshare(CLONE_FILES) == 0
    ready.set()
    time.sleep(60)
start(own)
ready.wait()
"""

_RING = """
import ctypes, mmap, os
libc = ctypes.CDLL(None, use_errno=True)
ring = libc.syscall(425, 4, ctypes.create_string_buffer(120))
if ring < 0:
    print("none")
    os._exit(0)
memory = mmap.mmap(ring, 4096, mmap.MAP_SHARED | 0x8000, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
"""


@needs_seccomp
@pytest.mark.parametrize(
    ("before", "gap"),
    [
        (_THREAD + _ACCEPT, "a thread waits in accept4()"),
        (_THREAD + _RECVMSG, "a thread waits in recvmsg()"),
        (_THREAD + _OWN_TABLE, "a thread has a socket among descriptors of its own"),
        (_RING, "an io_uring is mapped into memory"),
    ],
    ids=["accept", "recvmsg", "own-table", "io_uring"],
)
def test_what_goes_on_behind_the_seal_is_told_and_offline_does_not(before: str, gap: str) -> None:
    said = told(in_python(before + _SEALED))
    if said == "none":
        pytest.skip("no io_uring here")
    assert said.startswith(f"False 9 {gap}"), said


@needs_seccomp
def test_threads_that_do_something_else_are_no_gap() -> None:
    before = _THREAD + "start(lambda: time.sleep(60))\nstart(threading.Event().wait)\n"
    assert told(in_python(before + _SEALED)) == "True 0"


@needs_seccomp
@needs_landlock
@pytest.mark.parametrize("scope", [None, "0", "1", "3"])
@pytest.mark.parametrize("is_root", [False, True])
def test_without_landlock_it_is_yama_that_keeps_the_memory_of_others(
    scope: str | None, is_root: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What decides is what `slm privacy --check` would find: writing into /proc/PID/mem."""
    from pathlib import Path

    from slmchat.privacy import linux

    def read(self: Path) -> str:
        if str(self) == "/proc/sys/kernel/yama/ptrace_scope":
            if scope is None:
                raise FileNotFoundError
            return f"{scope}\n"
        assert str(self) == "/proc/self/status"
        return f"Name:\tx\nCapEff:\t{'000001ffffffffff' if is_root else '0000000000000000'}\n"

    monkeypatch.setattr(Path, "read_text", read)
    is_closed = scope == "3" or (scope == "1" and not is_root)
    assert bool(linux.open_memory()) is not is_closed
