"""The seal, on the kernel that runs these tests: real filters in real processes, and the same attempts without it.

A seal cannot be taken off, so whatever is sealed here is a process of its own.
"""

import errno
import json
import os
import platform
import shutil
import signal
import socket
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
from sealed_process import REPOSITORY, in_python, landlock_abi, needs_landlock, needs_seccomp, told

from slmchat.privacy import seal as seal_module
from slmchat.privacy import seccomp
from slmchat.privacy.probe_context import ProbeOutcome, Promise
from slmchat.privacy.seal_check import SealCheck, check_seal
from slmchat.privacy.steps import Step

pytestmark = pytest.mark.real

# The proof: every attempt refused in a sealed child, and allowed in one that is not.

ATTEMPTS = (
    *("tcp4", "tcp6", "udp4", "udp6", "tcp4-calls", "tcp6-calls", "udp4-calls", "udp6-calls", "dns"),
    *("unix", "unix-abstract", "unix-pair", "netlink", "raw-ip", "packet", "vsock", "every-family"),
    *("child", "thread", "inherited-stream", "inherited-datagram", "io-uring", "io-uring-inherited"),
    *("abi32-socket", "abi32-socketcall", "x32", "ptrace", "process-vm", "proc-mem", "pidfd-getfd", "keys"),
    *("typing", "mounting", "file", "link", "moved", "fifo", "proc-fd", "signal"),
    *("pth", "module", "start-up", "git-hook", "here", "temporary"),
    *("mode", "mode-descriptor", "owner", "xattr", "times", "flags", "limits", "priority", "perf", "userfaultfd"),
    *("bpf", "namespace", "message-queue", "shared-memory", "posix-queue"),
)
LANDLOCKED = ("file", "link", "moved", "fifo", "proc-fd", "signal")
LANDLOCKED += ("pth", "module", "start-up", "git-hook", "here", "temporary")
# What a kernel or a container may not have, and what it may keep for root, whether there is a seal or not.
SOMETIMES_ABSENT = ("tcp6", "udp6", "tcp6-calls", "udp6-calls", "vsock", "io-uring", "io-uring-inherited", "x32")
SOMETIMES_ABSENT += (
    "xattr",
    "flags",
    "perf",
    "userfaultfd",
    "namespace",
    "message-queue",
    "shared-memory",
    "posix-queue",
)
SOMETIMES_ABSENT_32 = ("abi32-socket", "abi32-socketcall")
ROOT_ONLY = ("raw-ip", "packet", "typing", "mounting", "ptrace", "process-vm", "proc-mem", "pidfd-getfd", "keys", "dns")
ROOT_ONLY += ("pth", "module", "perf", "userfaultfd", "bpf", "namespace")
# These send something that the parent must have received; the others only open what should be closed.
SENDING = (
    *("tcp4", "udp4", "tcp4-calls", "udp4-calls", "unix", "unix-abstract", "unix-pair", "child", "thread"),
    *("inherited-stream", "inherited-datagram", "fifo", "proc-fd"),
)


@pytest.fixture(scope="module")
def sealed() -> SealCheck:
    return check_seal()


@pytest.fixture(scope="module")
def unsealed() -> SealCheck:
    return check_seal(is_sealed=False)


@needs_seccomp
@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_sealed_process_cannot_get_out(sealed: SealCheck, name: str) -> None:
    result = next(result for result in sealed.results if result.name == name)
    if name in LANDLOCKED and not landlock_abi():
        pytest.skip("files and signals are Landlock's")
    assert not result.is_witnessed, result
    assert result.outcome in (ProbeOutcome.REFUSED, ProbeOutcome.NOT_OFFERED), result
    if name not in (*SOMETIMES_ABSENT, *SOMETIMES_ABSENT_32):
        assert result.outcome is ProbeOutcome.REFUSED, result


@needs_seccomp
@pytest.mark.parametrize("name", ATTEMPTS)
def test_the_same_attempt_succeeds_without_the_seal(unsealed: SealCheck, name: str) -> None:
    result = next(result for result in unsealed.results if result.name == name)
    if result.outcome is ProbeOutcome.NOT_OFFERED and name in (*SOMETIMES_ABSENT, *SOMETIMES_ABSENT_32):
        pytest.skip(f"{name}: {result.how}")
    if result.outcome is ProbeOutcome.REFUSED and name in ROOT_ONLY and not _is_free_root():
        pytest.skip(f"{name} is kept for root here: {result.how}")
    assert result.outcome is ProbeOutcome.OUT, result
    assert "the attempt failed by itself" not in result.how
    assert "not refused" not in result.how
    if name in SENDING:
        assert result.is_witnessed, "it says that it has sent, and nothing arrived"


def _is_free_root() -> bool:
    """Root with every capability, as on a virtual machine and not in a container."""
    status = Path("/proc/self/status").read_text()
    granted = int(next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1], 16)
    return os.geteuid() == 0 and granted >> 21 & 1 == 1  # CAP_SYS_ADMIN  (linux/capability.h)


def test_a_kernel_that_takes_no_typing_has_refused_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    from slmchat.privacy import bypass_probes, seal_check

    def answer(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")  # dev.tty.legacy_tiocsti=0

    monkeypatch.setattr(fcntl, "ioctl", answer)
    monkeypatch.setattr(seal_check, "_IS_LINUX", True)
    probe = next(probe for probe in bypass_probes.PROBES if probe.name == "typing")
    assert seal_check._judged(probe, SimpleNamespace(terminal=0)) == (ProbeOutcome.REFUSED, "EIO")  # type: ignore[arg-type]


@needs_seccomp
def test_the_list_of_attempts_is_whole(sealed: SealCheck, unsealed: SealCheck) -> None:
    assert [result.name for result in sealed.results] == list(ATTEMPTS)
    assert sealed.is_tight
    assert not unsealed.is_tight
    assert unsealed.status.mechanism == ""


SERVERS = ("turned", "listening-connects", "accept-by-copy")


@needs_seccomp
def test_a_sealed_server_is_reached_and_reaches_nothing() -> None:
    found = check_seal(is_server=True)
    assert found.is_tight
    outcomes = {result.name: result.outcome for result in found.results}
    assert outcomes.pop("accept") is ProbeOutcome.WORKS
    assert list(outcomes) == [*SERVERS, *ATTEMPTS]
    assert all(outcomes[name] is ProbeOutcome.REFUSED for name in SERVERS)


@needs_seccomp
def test_without_the_seal_a_server_reaches_out() -> None:
    found = check_seal(is_sealed=False, is_server=True)
    outcomes = {result.name: result for result in found.results}
    assert outcomes["accept"].outcome is ProbeOutcome.WORKS
    assert all(outcomes[name].outcome is ProbeOutcome.OUT for name in SERVERS)
    assert outcomes["accept-by-copy"].how == "a connection was taken in by another descriptor"


def test_every_attempt_on_files_is_marked_as_landlocks() -> None:
    from slmchat.privacy import bypass_probes, persistence_probes

    probes = (*bypass_probes.PROBES, *persistence_probes.PROBES)
    assert {probe.name for probe in probes if probe.promise is not Promise.SEAL} == set(LANDLOCKED)


# The filter, decided by the rules of classic BPF as the kernel runs them.


def _decides(program: bytes, number: int, arch: int, *arguments: int) -> str:
    """Run a filter on one call: "allow" or the name of the errno."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *arguments, *(0,) * (6 - len(arguments)))
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    while True:
        what, if_true, if_false, k = code[at]
        at += 1
        if what == 0x20:
            accumulator = struct.unpack_from("=I", data, k)[0]
        elif what == 0x54:
            accumulator &= k
        elif what in (0x15, 0x35):
            at += if_true if (accumulator == k if what == 0x15 else accumulator >= k) else if_false
        else:
            assert what == 0x06
            return "allow" if k == 0x7FFF0000 else f"errno {k & 0xFFFF}"


ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
EPERM = "errno 1"


@pytest.mark.parametrize("machine", ARCHES)
def test_every_listed_call_is_refused_on_both_machines(machine: str) -> None:
    program = seccomp.program(Step, machine)
    worst = {
        "socketpair": (1, 2 | 0o2000000),  # AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC
        "sendto": (3, 0, 0, 0, 1 << 40, 16),  # an address whose low half is 0
        "ioctl": (0, 0x5412 | 1 << 40),  # TIOCSTI, with bits above those that the kernel reads
    }
    decided = {
        entry.name: _decides(program, entry.number(machine), ARCHES[machine], *worst.get(entry.name, (1, 1)))
        for entry in reversed(seccomp.CALLS)
    }
    assert len(decided) > 50 and {name for name, said in decided.items() if said != EPERM} == set()


@pytest.mark.parametrize("machine", ARCHES)
def test_what_asyncio_and_pipes_need_stays(machine: str) -> None:
    program = seccomp.program(Step, machine)
    numbers = {entry.name: entry.number(machine) for entry in seccomp.CALLS}
    read = {"x86_64": 0, "aarch64": 63}[machine]
    pair = (1, 1 | 0o2000000 | 0o4000)  # AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK
    assert _decides(program, read, ARCHES[machine]) == "allow"
    assert _decides(program, numbers["socketpair"], ARCHES[machine], *pair) == "allow"
    for family in (2, 10, 30):  # IPv4, IPv6, TIPC
        assert _decides(program, numbers["socketpair"], ARCHES[machine], family, 1) == EPERM
    assert _decides(program, numbers["sendto"], ARCHES[machine], 3, 0, 1) == "allow"  # send()
    assert _decides(program, numbers["ioctl"], ARCHES[machine], 0, 0x5401) == "allow"  # TCGETS
    assert _decides(program, numbers["prlimit64"], ARCHES[machine], 0, 4) == "allow"  # a limit of its own
    assert _decides(program, numbers["prlimit64"], ARCHES[machine], 1, 4) == EPERM
    assert _decides(program, numbers["setpriority"], ARCHES[machine], 0, 0, 10) == "allow"  # nice()
    assert _decides(program, numbers["setpriority"], ARCHES[machine], 2, 0, 10) == EPERM  # all of the user's


@pytest.mark.parametrize("machine", ARCHES)
def test_another_abi_is_refused_whatever_it_calls(machine: str) -> None:
    program = seccomp.program({Step.NETWORK}, machine)
    for arch in (0x40000003, 0x40000028, *(set(ARCHES.values()) - {ARCHES[machine]})):  # i386, 32-bit ARM
        assert all(_decides(program, number, arch) == EPERM for number in range(500))
    if machine == "x86_64":
        assert _decides(program, 0x40000000, ARCHES[machine]) == EPERM


@pytest.mark.parametrize("machine", ARCHES)
def test_the_first_step_leaves_local_sockets(machine: str) -> None:
    program = seccomp.program({Step.NETWORK}, machine)
    numbers = {entry.name: entry.number(machine) for entry in seccomp.CALLS}
    assert _decides(program, numbers["socket"], ARCHES[machine], socket.AF_UNIX, 1) == "allow"
    assert _decides(program, numbers["connect"], ARCHES[machine], 3) == "allow"
    for family in (0, 2, 10, 16, 17, 30, 40):  # unspecified, IPv4, IPv6, netlink, packet, TIPC, vsock
        assert _decides(program, numbers["socket"], ARCHES[machine], family, 1) == EPERM
        assert _decides(program, numbers["socketpair"], ARCHES[machine], family, 1) == EPERM


# What the seal does to a process.


@needs_seccomp
def test_every_thread_has_the_filter() -> None:
    code = """
    import socket, threading
    from pathlib import Path
    from slmchat.privacy.seal import seal
    go, refused = threading.Event(), []
    def work():
        go.wait()
        try:
            socket.socket()
        except PermissionError:
            refused.append(1)
    threads = [threading.Thread(target=work) for _ in range(8)]
    [thread.start() for thread in threads]
    status = seal(is_required=True)
    modes = {
        line.split()[1] for task in Path("/proc/self/task").iterdir()
        for line in (task / "status").read_text().splitlines() if line.startswith("Seccomp:")
    }
    go.set()
    [thread.join() for thread in threads]
    print(modes, len(refused), any("8 threads" in line for line in status.details) or not status.landlock_abi)
    """
    assert told(in_python(code)) == "{'2'} 8 True"


@needs_seccomp
def test_a_child_inherits_the_seal_and_can_be_sealed_again() -> None:
    inner = "from slmchat.privacy.seal import seal; print(seal(is_required=True).is_enforced_by_kernel)"
    code = f"""
    import os, socket, subprocess
    from slmchat.privacy.seal import seal
    seal(is_required=True)
    if os.fork() == 0:
        try:
            socket.socket()
        except PermissionError:
            print("fork refused", flush=True)
        os._exit(0)
    os.wait()
    code = "import sys; sys.path[:0] = {[str(REPOSITORY)]!r}; {inner}"
    print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip())
    """
    assert told(in_python(code)).splitlines() == ["fork refused", "True"]


@needs_seccomp
def test_inherited_sockets_become_null_devices_and_keep_their_numbers() -> None:
    code = """
    import os, socket
    from slmchat.privacy.seal import seal
    before = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    local, _other = socket.socketpair()
    number = before.fileno()
    status = seal(is_required=True)
    print(os.path.realpath(f"/proc/self/fd/{number}"), os.path.realpath(f"/proc/self/fd/{local.fileno()}"))
    print(any("3 sockets" in line for line in status.details), os.get_inheritable(number))
    before.close()
    """
    assert told(in_python(code)).splitlines() == ["/dev/null /dev/null", "True False"]


@needs_seccomp
def test_an_inherited_io_uring_is_replaced() -> None:
    code = """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    ring = libc.syscall(425, 4, ctypes.create_string_buffer(120))
    if ring < 0:
        sys.exit(77)
    from slmchat.privacy.seal import seal
    seal(is_required=True)
    print(os.path.realpath(f"/proc/self/fd/{ring}"))
    """
    done = in_python(code)
    if done.returncode == 77:
        pytest.skip("no io_uring here")
    assert told(done) == "/dev/null"


@needs_seccomp
def test_standard_streams_that_are_sockets_stay_streams_and_nothing_more() -> None:
    code = """
    import os, socket
    from slmchat.privacy.seal import seal
    status = seal(is_required=True)
    line = sys.stdin.readline()
    own = socket.socket(fileno=os.dup(0))
    results = [line.strip()]
    for attempt in (
        lambda: own.connect("/run/anything"),
        lambda: own.sendto(b"x", "/run/anything"),
        lambda: own.sendmsg([b"x"]),
        lambda: own.recvmsg(1, 64),
    ):
        try:
            attempt()
            results.append("allowed")
        except PermissionError:
            results.append("refused")
    own.send(b"by send; ")
    print(*results, *(line for line in status.details if "standard input" in line), flush=True)
    """
    here, there = socket.socketpair()
    prelude = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
    child = subprocess.Popen([sys.executable, "-c", prelude + textwrap.dedent(code)], stdin=there, stdout=there)
    there.close()
    here.settimeout(300)
    here.sendall(b"hello\n")
    answer = b""
    while piece := here.recv(4096):
        answer += piece
    assert child.wait(300) == 0
    here.close()
    assert answer.startswith(
        b"by send; hello refused refused refused refused standard input, standard output was given"
    )


@needs_seccomp
def test_the_seal_closes_in_three_steps_for_a_gpu(tmp_path: Path) -> None:
    code = """
    import socket, threading
    from slmchat.privacy.seal import Seal, status
    def tried(family):
        try:
            socket.socket(family, socket.SOCK_STREAM).close()
        except PermissionError:
            return "refused"
        return "open"
    def written(file):
        try:
            open(file, "w").close()
        except PermissionError:
            return "refused"
        return "open"
    seal = Seal(is_required=True)
    steps = (seal.close_network, seal.close_files, seal.close_local)
    for close in (*steps[:1], *steps[:2], *steps[:2], *steps, *steps):
        close()
        told = any("local sockets" in line for line in status().details)
        files = written(sys.argv[1]) if status().writable else "open"
        print(tried(socket.AF_UNIX), tried(socket.AF_INET), files, status().is_local_closed, told)
    """
    first, second, third = (
        "open refused open False True",
        "open refused refused False True",
        "refused refused refused True False",
    )
    steps = [*[first] * 2, *[second] * 5, *[third] * 4]
    landlock = {
        second: second if landlock_abi() else first,
        third: third if landlock_abi() else third.replace("refused True", "open True"),
    }
    assert told(in_python(code, tmp_path / "file")).splitlines() == [landlock.get(step, step) for step in steps]


@needs_landlock
def test_the_driver_of_a_gpu_may_name_its_threads_and_keep_a_local_socket(tmp_path: Path) -> None:
    """NVIDIA's finds no GPU where it may not write below /proc/self/task; the socket that it opens leads nowhere."""
    code = """
    import os, socket, threading
    from pathlib import Path
    from slmchat.privacy.seal import Seal, status
    ready, end = threading.Event(), threading.Event()
    def name():
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("driver")
        ready.set()
        end.wait()
    seal = Seal(is_required=True)
    seal.close_files()
    thread = threading.Thread(target=name)
    thread.start()
    ready.wait(300)
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    held = socket.socket(socket.AF_UNIX)
    seal.close_local()
    print("driver" in names, status().is_enforced_by_kernel, [line for line in status().details if "driver" in line])
    for place in ("/proc/sys/kernel/core_pattern", f"/proc/{os.getppid()}/comm"):
        try:
            Path(place).write_text("x")
        except PermissionError:
            print("refused")
    try:
        held.connect(sys.argv[1])
    except PermissionError:
        print("refused")
    end.set()
    """
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "service"))
        listener.listen()
        told_lines = told(in_python(code, tmp_path / "service")).splitlines()
    kept = "the driver of the GPU keeps 1 local socket, to nobody or to its own services"
    assert told_lines == [f"True True ['{kept}']", "refused", "refused", "refused"]


@needs_seccomp
def test_a_second_seal_changes_nothing() -> None:
    code = """
    from slmchat.privacy.seal import seal, status
    print(status().is_closed, seal(is_required=True) is seal(is_required=False), status().is_closed)
    """
    assert told(in_python(code)) == "False True True"


# Without a mechanism of the kernel.


def test_offline_without_a_mechanism_is_exit_nine() -> None:
    code = """
    from slmchat.errors import SlmError
    from slmchat.privacy.seal import seal, status
    try:
        seal(is_required=True, mechanisms=())
    except SlmError as error:
        print(int(error.exit_code), status().is_closed)
    """
    assert told(in_python(code)) == "9 False"


def test_a_mechanism_that_fails_says_why() -> None:
    code = """
    from slmchat.errors import SlmError
    from slmchat.privacy.seal import seal
    from slmchat.privacy.steps import NotOffered
    class Broken:
        is_enforced_by_kernel = True
        def close(self, steps, writable):
            raise NotOffered("the kernel is too old")
    for is_required in (False, True):
        try:
            status = seal(is_required=is_required, mechanisms=(Broken(),))
            print(status.mechanism, status.is_enforced_by_kernel, status.details[0])
        except SlmError as error:
            print(int(error.exit_code), error.message)
    """
    first, second = told(in_python(code)).splitlines()
    assert first == "in-process guard False the kernel does not enforce the seal (the kernel is too old)"
    assert second.startswith("9 ")
    assert "the kernel is too old" in second


# An older kernel, made of this one: a filter that answers "no such call" to one system call.
OLDER_KERNEL = """
import ctypes, errno, platform, struct
def without(call):
    number = {"seccomp": {"x86_64": 317, "aarch64": 277}[platform.machine()], "landlock": 444}[call]
    code = ((0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | errno.ENOSYS), (0x06, 0, 0, 0x7FFF0000))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
    program = ctypes.create_string_buffer(struct.pack("@HP", 4, ctypes.addressof(code)))
    libc = ctypes.CDLL(None)
    libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong)
    assert libc.prctl(38, 1, None, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, ctypes.addressof(program), 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
"""


@needs_seccomp
def test_without_landlock_the_seal_holds_and_says_what_is_missing(tmp_path: Path) -> None:
    code = (
        OLDER_KERNEL
        + """
without("landlock")
import socket
from pathlib import Path
from slmchat.privacy.seal import seal
status = seal(is_required=False)
Path(sys.argv[1]).write_text("x")
is_told = any("Landlock is not in force" in line for line in status.details)
print(status.mechanism, status.landlock_abi, status.writable, is_told)
try:
    socket.socket()
except PermissionError:
    print("refused")
"""
    )
    done = in_python(code, tmp_path / "file", cwd=REPOSITORY, env={**os.environ, "TMPDIR": "/dev/shm"})
    assert told(done).splitlines() == ["seccomp None None True", "refused"]


@needs_seccomp
def test_without_landlock_the_check_says_as_much_as_the_seal() -> None:
    """What Landlock would refuse is not covered, also where something arrived (a pipe); nothing else gets out."""
    code = (
        OLDER_KERNEL
        + """
without("landlock")
from slmchat.privacy.seal_check import check_seal
check = check_seal()
print(check.is_tight, check.status.is_enforced_by_kernel)
for result in check.results:
    print(result.name, result.outcome.value, sep="|")
"""
    )
    first, *lines = told(in_python(code)).splitlines()
    assert first in ("True True", "False False")  # the second: neither Landlock nor Yama guards /proc/PID/mem
    outcomes = dict(line.split("|") for line in lines)
    got_out = {name for name, outcome in outcomes.items() if outcome == ProbeOutcome.OUT.value}
    assert got_out == (set() if first == "True True" else {"proc-mem"})
    assert {outcomes[name] for name in LANDLOCKED} <= {ProbeOutcome.NOT_PROMISED.value, ProbeOutcome.REFUSED.value}
    assert outcomes["fifo"] == outcomes["proc-fd"] == ProbeOutcome.NOT_PROMISED.value


# Android's filter for apps, made of this kernel: calls that are not on its list end the process with SIGSYS.
ANDROID = (
    OLDER_KERNEL.replace("0x50000 | errno.ENOSYS", "0x30000").replace(
        '"landlock": 444', '"landlock": 444, "io_uring": 425'
    )
    + """
import os
os.environ["ANDROID_ROOT"] = "/system"
"""
)


@needs_seccomp
def test_android_ends_nobody_for_asking(tmp_path: Path) -> None:
    """As in Termux: Landlock is not on Android's list, and asking for it would be the end of every `slm run`."""
    asked = ANDROID + 'without("landlock")\nfrom slmchat.privacy import landlock\nlandlock._version()'
    assert in_python(asked).returncode == -signal.SIGSYS
    code = (
        ANDROID
        + """
without("landlock")
import socket
from slmchat.privacy.seal import seal
status = seal(is_required=False)
print(status.mechanism, status.landlock_abi, any("Android does not let" in line for line in status.details))
try:
    socket.socket()
except PermissionError:
    print("refused")
"""
    )
    assert told(in_python(code)).splitlines() == ["seccomp None True", "refused"]
    code = (
        ANDROID + 'without("seccomp")\nfrom slmchat.privacy.seal import seal\nprint(seal(is_required=False).mechanism)'
    )
    assert told(in_python(code)) == "in-process guard"


@needs_seccomp
def test_the_check_survives_android() -> None:
    code = (
        ANDROID
        + """
without("io_uring")
from slmchat.privacy.seal_check import check_seal
for result in check_seal().results:
    print(result.name, result.outcome.value, result.how, sep="|")
"""
    )
    results = [line.split("|") for line in told(in_python(code)).splitlines()]
    assert [name for name, *_ in results] == list(ATTEMPTS)
    assert [how for *_, how in results if how.startswith("no answer")] == []
    assert ["io-uring", "refused", "EPERM"] in results


@needs_seccomp
def test_without_seccomp_the_guard_steps_in_and_offline_is_exit_nine() -> None:
    code = (
        OLDER_KERNEL
        + """
without("seccomp")
from slmchat.errors import SlmError
from slmchat.privacy.seal import seal
print(seal(is_required=False).mechanism)
try:
    seal(is_required=True)
except SlmError as error:
    print(int(error.exit_code), error.message)
"""
    )
    guard, refused = told(in_python(code)).splitlines()
    assert guard == "in-process guard"
    assert refused.startswith("9 ")
    assert "seccomp is not available" in refused


def test_the_guard_refuses_python_code_and_says_that_it_is_no_more() -> None:
    code = """
    import asyncio, socket
    from slmchat.privacy.seal import seal
    status = seal(is_required=False, mechanisms=())
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for attempt in (
        lambda: socket.create_connection(("127.0.0.1", 9), timeout=1),
        lambda: socket.socket().connect(("127.0.0.1", 9)),
        lambda: socket.socket().bind(("127.0.0.1", 0)),
        lambda: udp.sendto(b"x", ("127.0.0.1", 9)),
        lambda: socket.getaddrinfo("localhost", 80),
        lambda: socket.gethostbyname("localhost"),
    ):
        try:
            attempt()
            print("allowed")
        except PermissionError as error:
            print("refused", error.errno)
    asyncio.run(asyncio.sleep(0))
    print(status.is_enforced_by_kernel, status.writable, "native code" in status.details[-1])
    """
    assert told(in_python(code)).splitlines() == ["refused 1"] * 6 + ["False None True"]


def test_the_guard_lets_python_build_its_socket_pairs_where_the_system_has_none() -> None:
    from slmchat.privacy.guard import _is_to_itself

    assert _is_to_itself("socket.connect", (object(), ("127.0.0.1", 5)))
    assert not _is_to_itself("socket.connect", (object(), ("192.0.2.1", 5)))
    assert not _is_to_itself("socket.sendto", (object(), ("127.0.0.1", 5)))


# Files.


@needs_landlock
@needs_seccomp
def test_writing_is_kept_to_the_places_that_were_named(tmp_path: Path) -> None:
    for folder in ("own", "cwd", "tmp", "elsewhere", "named"):
        (tmp_path / folder).mkdir()
    (tmp_path / "elsewhere" / "named.txt").write_text("old")
    code = """
    import os
    from pathlib import Path
    from slmchat.errors import SlmError
    from slmchat.privacy.seal import explain, seal
    root = Path(sys.argv[1])
    seal(is_required=True, writable=(root / "own", root / "elsewhere" / "named.txt", root / "named" / "new.json"))
    for name in ("own/a", "cwd/a", "tmp/a", "named/new.json", "elsewhere/named.txt", "elsewhere/b", "b"):
        try:
            (root / name).write_text("new")
            print(name, "written")
        except OSError as error:
            failure = explain(error, root / name)
            print(name, int(failure.exit_code), "sealed" in failure.message)
    (root / "own" / "deep").mkdir()
    os.replace(root / "own" / "a", root / "own" / "deep" / "a")
    print((root / "elsewhere" / "named.txt").read_text(), open("/dev/null", "w").write("x"))
    """
    tmp = str(tmp_path / "tmp")
    done = in_python(code, tmp_path, cwd=tmp_path / "cwd", env={**os.environ, "TMPDIR": tmp})
    assert told(done).splitlines() == [
        "own/a written",
        "cwd/a 10 True",
        "tmp/a 10 True",
        "named/new.json 10 True",
        "elsewhere/named.txt written",
        "elsewhere/b 10 True",
        "b 10 True",
        "new 1",
    ]


@needs_landlock
@needs_seccomp
def test_a_start_in_the_root_directory_does_not_open_everything(tmp_path: Path) -> None:
    code = """
    from slmchat.privacy.seal import seal
    print("/" in map(str, seal(is_required=True).writable))
    """
    assert told(in_python(code, cwd=Path("/"))) == "False"


def test_the_seal_is_not_blamed_for_other_failures(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "missing" / "file").write_text("x")
    error = seal_module.explain(caught.value, tmp_path / "missing" / "file")
    assert "sealed" not in error.message
    assert int(error.exit_code) == 10


def test_own_directories_are_made_for_the_owner_alone(tmp_path: Path) -> None:
    from slmchat.settings import load

    made = seal_module.own_directories(load({"SLM_HOME": str(tmp_path / "home")}).paths, configures=True)
    assert [path.stat().st_mode & 0o777 for path in made] == [0o700] * 3


@needs_landlock
@needs_seccomp
def test_what_talks_to_a_model_cannot_change_the_configuration(tmp_path: Path) -> None:
    """Whoever takes a sealed chat over must not be able to name an endpoint for the next one."""
    code = """
    import os
    from slmchat.models.sandbox import seal
    from slmchat.settings import load
    settings = load(os.environ)
    settings.paths.config.mkdir(parents=True)
    seal(settings, configures=sys.argv[1] == "add")
    for place in (settings.paths.config, settings.paths.data):
        try:
            (place / "config.toml").write_text("")
            print("written")
        except OSError:
            print("refused")
    """
    (tmp_path / "cwd").mkdir()
    (tmp_path / "tmp").mkdir()
    for command, expected in (("chat", ["refused", "written"]), ("add", ["written", "written"])):
        env = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "SLM_HOME": str(tmp_path / command)}
        assert told(in_python(code, command, cwd=tmp_path / "cwd", env=env)).split() == expected


# What has to go on working.


@needs_seccomp
def test_event_loops_children_and_semaphores_work_sealed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import asyncio, multiprocessing, sys
            sys.path.insert(0, {str(REPOSITORY)!r})
            from slmchat.privacy.seal import seal

            def work(queue):
                queue.put("from a child")

            async def piped():
                child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
                print((await child.communicate(b"piped"))[0].decode())
                print(await asyncio.to_thread(lambda: "threaded"))

            if __name__ == "__main__":
                seal(is_required=True)
                asyncio.run(piped())
                for method in ("fork", "spawn"):
                    context = multiprocessing.get_context(method)
                    queue = context.Queue()
                    child = context.Process(target=work, args=(queue,))
                    child.start()
                    print(queue.get(timeout=300))
                    child.join()
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, check=False)
    assert told(done).splitlines() == ["piped", "threaded", "from a child", "from a child"]


@needs_seccomp
def test_the_line_editor_works_sealed() -> None:
    code = """
    from slmchat.privacy.seal import seal
    seal(is_required=True)
    from prompt_toolkit import PromptSession
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput
    with create_pipe_input() as keys:
        keys.send_text("typed\\r")
        print(PromptSession(input=keys, output=DummyOutput()).prompt("> "))
    """
    assert told(in_python(code)) == "typed"


@needs_seccomp
@pytest.mark.model
def test_the_engine_loads_and_answers_sealed(smollm2: Path) -> None:
    code = """
    from pathlib import Path
    from slmchat.privacy.seal import seal
    seal(is_required=True)
    from slmchat.engine import llama
    from slmchat.engine.requests import Limits, Part, Prompt, SessionSettings
    from slmchat.engine.results import Chunk
    from slmchat.engine.sampler import SamplerSettings
    engine = llama.load(Path(sys.argv[1]))
    session = engine.open_session(SessionSettings(n_ctx=256, threads=1, threads_batch=1))
    events = session.generate(Prompt((Part("The capital of France is"),)), SamplerSettings(temperature=0), Limits(4))
    print("".join(event.text for event in events if isinstance(event, Chunk)))
    """
    assert "Paris" in told(in_python(code, smollm2))


@needs_seccomp
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_strace_sees_no_socket_made_after_the_seal(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = f"""
import sys; sys.path.insert(0, {str(REPOSITORY)!r})
from slmchat.privacy.seal import seal
seal(is_required=True)
import socket, subprocess
for name in ("localhost", "slm.invalid"):
    try:
        socket.getaddrinfo(name, 80)
    except OSError:
        pass
subprocess.run([sys.executable, "-c", "import socket; socket.socket()"], stderr=subprocess.DEVNULL)
"""
    traced = ["strace", "-f", "-e", "trace=socket,connect,sendto,sendmsg,bind", "-o", log, sys.executable, "-c", code]
    done = subprocess.run(traced, capture_output=True, text=True, timeout=300, check=False)
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    calls = [line for line in log.read_text().splitlines() if "socket(" in line or "connect(" in line]
    assert calls
    assert all("EPERM" in line for line in calls), calls


# The command.


def slm_privacy(
    home: Path,
    *,
    is_check: bool = False,
    is_json: bool = False,
    is_sealed: bool = True,
    before: str = "",
    **extra: str,
) -> subprocess.CompletedProcess[str]:
    code = f"""
import os
from slmchat import settings
from slmchat.commands.privacy import privacy
from slmchat.errors import SlmError
from slmchat.terminal.console import Console
{before}
try:
    code = privacy(settings.load(os.environ), Console(), is_check={is_check}, is_json={is_json}, is_sealed={is_sealed})
except SlmError as error:
    Console().error(error)
    code = error.exit_code
sys.exit(int(code))
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLM_", "HF_"))}
    return in_python(code, env={**kept, "SLM_HOME": str(home), "HF_HOME": str(home / "hf"), **extra})


@needs_seccomp
def test_the_report_says_what_is_in_force_and_where_slm_writes(tmp_path: Path) -> None:
    (tmp_path / "data" / "models").mkdir(parents=True)
    (tmp_path / "data" / "models" / "one.gguf").write_bytes(bytes(1500))
    (tmp_path / "data" / "something-new").write_bytes(bytes(20))
    (tmp_path / "hf" / "hub").mkdir(parents=True)
    (tmp_path / "hf" / "hub" / "blob").write_bytes(bytes(2500))
    facts = json.loads(told(slm_privacy(tmp_path, is_json=True)))
    assert facts["seal"]["is_enforced_by_kernel"] is True
    sizes = {place["path"]: place["size"] for place in facts["places"]}
    assert sizes[str(tmp_path / "data" / "models")] == 1500
    assert sizes[str(tmp_path / "data")] == 20
    assert sizes[str(tmp_path / "hf" / "hub")] == 2500
    text = told(slm_privacy(tmp_path))
    assert "enforced by the kernel" in text
    assert "1.5 kB" in text
    assert "slm pull" in text


@needs_seccomp
def test_the_report_is_sealed_itself_and_offline_needs_the_kernel(tmp_path: Path) -> None:
    done = slm_privacy(tmp_path, SLM_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    guarded = "from slmchat.privacy.seal import seal; seal(is_required=False, mechanisms=())"
    done = slm_privacy(tmp_path, SLM_OFFLINE="1", before=guarded)
    assert done.returncode == 9
    done = slm_privacy(tmp_path, before=guarded)
    assert done.returncode == 0
    assert "NOT enforced by the kernel" in done.stdout


@needs_seccomp
def test_the_check_is_exit_zero_only_when_nothing_got_out(tmp_path: Path) -> None:
    done = slm_privacy(tmp_path, is_check=True, is_json=True)
    assert done.returncode == 0, done.stderr
    proof = json.loads(done.stdout)
    assert proof["is_tight"] is True
    assert {attempt["outcome"] for attempt in proof["attempts"]} <= {"refused", "not_offered", "not_promised"}
    assert proof["server"]["is_tight"] is True and proof["server"]["attempts"][0]["outcome"] == "works"
    text = slm_privacy(tmp_path, is_check=True)
    assert text.returncode == 0
    assert "EPERM" in text.stdout


def test_the_check_is_exit_nine_when_something_gets_out(tmp_path: Path) -> None:
    done = slm_privacy(tmp_path, is_check=True, is_sealed=False)
    assert done.returncode == 9
    assert "got out" in done.stdout
    assert done.stderr.startswith("slm: ")


@needs_seccomp
def test_the_check_says_so_when_it_cannot_be_made(tmp_path: Path) -> None:
    before = "from slmchat.privacy.seal import seal; seal(is_required=True)"
    done = slm_privacy(tmp_path, is_check=True, before=before)
    assert done.returncode == 9
    assert "the check cannot be made" in done.stderr


def test_the_report_names_every_command() -> None:
    from slmchat import cli
    from slmchat.commands.privacy import COMMANDS

    here = {name.split()[0] for name in cli.COMMANDS}
    assert here <= {reach.command for reach in COMMANDS}


@pytest.mark.skipif(platform.system() != "Darwin", reason="needs macOS")
def test_macos_denies_the_network() -> None:
    code = """
    import socket
    from slmchat.privacy.seal import seal
    seal(is_required=True)
    try:
        socket.create_connection(("127.0.0.1", 9), timeout=1)
    except PermissionError:
        print("refused")
    """
    assert told(in_python(code)) == "refused"
