"""The seal on 64-bit Arm, without one: its filter is decided call by call, as an Arm kernel decides it.

qemu-user cannot show this: its system calls are those of the machine below. So the numbers are held against the kernel's
own table, and what the library is asked for is caught in a libc that only takes notes. On an Arm kernel, also that of a
whole emulated machine, tests/test_seal.py tries the real ones (docs/privacy.md has what was seen).
"""

import ctypes
import errno
import os
import signal
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slmchat.privacy import abi_probes, landlock, seal_check, seccomp
from slmchat.privacy.probe_context import ProbeOutcome
from slmchat.privacy.steps import NotOffered, Step

TABLE = Path(__file__).parent / "data" / "syscalls_aarch64.txt"
NUMBERS = {
    name: int(number)
    for number, name in (line.split() for line in TABLE.read_text().splitlines() if not line.startswith("#"))
}

# linux/elf-em.h and linux/audit.h: __AUDIT_ARCH_64BIT 0x80000000, __AUDIT_ARCH_LE 0x40000000
AARCH64 = 0x80000000 | 0x40000000 | 183
ARM_32, X86_64, I386, AARCH64_BIG_ENDIAN = 0x40000000 | 40, 0xC0000000 | 62, 0x40000000 | 3, 0x80000000 | 183

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_TIPC, AF_VSOCK = 1, 2, 10, 16, 17, 30, 40
SOCK_STREAM, SOCK_DGRAM, SOCK_CLOEXEC, SOCK_NONBLOCK = 1, 2, 0o2000000, 0o4000


def is_allowed(program: bytes, call: str | int, *arguments: int, arch: int = AARCH64) -> bool:
    """Decide one record (struct seccomp_data of linux/seccomp.h) by the rules of classic BPF; refusals are EPERM."""
    number = NUMBERS[call] if isinstance(call, str) else call
    record = struct.pack("<IIQ6Q", number, arch, 0, *arguments, *(0,) * (6 - len(arguments)))
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    while True:
        (what, if_true, if_false, k), at = code[at], at + 1
        match what:
            case 0x20:  # BPF_LD | BPF_W | BPF_ABS
                (accumulator,) = struct.unpack_from("<I", record, k)
            case 0x54:  # BPF_ALU | BPF_AND | BPF_K
                accumulator &= k
            case 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
                at += if_true if accumulator == k else if_false
            case 0x35:  # BPF_JMP | BPF_JGE | BPF_K
                at += if_true if accumulator >= k else if_false
            case 0x06:  # BPF_RET | BPF_K: SECCOMP_RET_ALLOW, or SECCOMP_RET_ERRNO with EPERM
                assert k in (0x7FFF0000, 0x00050000 | errno.EPERM)
                return k == 0x7FFF0000
            case _:
                pytest.fail(f"an instruction that the kernel's filters do not use here: {what:#x}")


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return seccomp.program(Step, "aarch64")


def test_every_call_has_the_number_that_the_kernel_gives_it() -> None:
    # A call that 64-bit Arm does not have (open, fork and other old ones) carries a number above all calls.
    wrong = {
        call.name: call.aarch64
        for call in seccomp.CALLS
        if call.aarch64 != NUMBERS.get(call.name) and (call.name in NUMBERS or call.aarch64 < 0x40000000)
    }
    assert wrong == {}


@pytest.mark.parametrize("family", [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_VSOCK])
def test_no_socket_of_any_family(sealed: bytes, family: int) -> None:
    assert not is_allowed(sealed, "socket", family, SOCK_STREAM)
    assert not is_allowed(sealed, "socket", family, SOCK_DGRAM | SOCK_CLOEXEC)


def test_only_a_pair_of_local_streams(sealed: bytes) -> None:
    assert is_allowed(sealed, "socketpair", AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK)
    assert not is_allowed(sealed, "socketpair", AF_UNIX, SOCK_DGRAM)
    for family in (AF_INET, AF_TIPC):
        assert not is_allowed(sealed, "socketpair", family, SOCK_STREAM)


@pytest.mark.parametrize(
    "call",
    [
        *("connect", "bind", "listen", "accept", "accept4", "sendmsg", "sendmmsg", "recvmsg", "recvmmsg"),
        *("io_uring_setup", "io_uring_enter", "io_uring_register", "pidfd_getfd", "ptrace", "process_vm_readv"),
        *("add_key", "request_key", "keyctl", "mount", "bpf", "init_module", "open_by_handle_at"),
    ],
)
def test_the_ways_around_are_refused(sealed: bytes, call: str) -> None:
    assert not is_allowed(sealed, call, 1, 1)


@pytest.mark.parametrize(
    "call", ["read", "write", "openat", "close", "mmap", "munmap", "futex", "clone", "execve", "ppoll", "exit_group"]
)
def test_what_generation_needs_stays(sealed: bytes, call: str) -> None:
    assert is_allowed(sealed, call, 1, 1)


def test_a_message_stays_possible_but_without_an_address(sealed: bytes) -> None:
    assert is_allowed(sealed, "sendto", 3, 0, 1)
    assert not is_allowed(sealed, "sendto", 3, 0, 1, 0, 1 << 40, 16)


@pytest.mark.parametrize("arch", [ARM_32, I386, X86_64, AARCH64_BIG_ENDIAN])
def test_a_record_of_another_architecture_is_refused_whatever_it_calls(sealed: bytes, arch: int) -> None:
    assert not any(is_allowed(sealed, number, arch=arch) for number in range(512))


def test_the_first_step_leaves_a_gpu_driver_its_local_sockets() -> None:
    program = seccomp.program({Step.NETWORK}, "aarch64")
    assert is_allowed(program, "socket", AF_UNIX, SOCK_STREAM) and is_allowed(program, "connect", 3)
    assert not any(is_allowed(program, "socket", family, SOCK_STREAM) for family in (AF_INET, AF_INET6, AF_PACKET))


# The check's own 32-bit program: no 64-bit process of Arm makes such calls by itself.


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="files in memory are Linux's")
@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (-signal.SIGILL, ProbeOutcome.REFUSED),
        (0, ProbeOutcome.OUT),
        (errno.EACCES, ProbeOutcome.REFUSED),
        (errno.EAFNOSUPPORT, ProbeOutcome.NOT_OFFERED),
        (-signal.SIGSEGV, ProbeOutcome.OUT),
        (OSError(errno.ENOEXEC, "Exec format error"), ProbeOutcome.NOT_OFFERED),
    ],
    ids=str,
)
def test_a_32_bit_program_tells_by_its_end_what_became_of_its_socket(
    monkeypatch: pytest.MonkeyPatch, end: int | OSError, outcome: ProbeOutcome
) -> None:
    import resource

    started: list[bytes] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        started.append(Path(command[0]).read_bytes())
        if isinstance(end, OSError):
            raise end
        return SimpleNamespace(returncode=end)

    _pretend(monkeypatch, "aarch64")
    monkeypatch.setattr(abi_probes.subprocess, "run", run)
    probe = next(probe for probe in abi_probes.PROBES if probe.name == "abi32-socket")
    limit = resource.getrlimit(resource.RLIMIT_CORE)
    try:
        assert seal_check._judged(probe, None)[0] is outcome  # type: ignore[arg-type]
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, limit)
    # linux/elf.h: ELFCLASS32, little-endian, EM_ARM; it is no larger than its headers say
    (program,) = started
    assert program[:6] == b"\x7fELF\1\1" and struct.unpack_from("<H", program, 18) == (40,)
    assert struct.unpack_from("<2I", program, 52 + 16) == (len(program), len(program))


# What the kernel is asked for.


class NotingLibc:
    """A libc that does nothing and notes the number and the first arguments of each system call."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []
        self.answer = 0
        self.prctl = lambda *_: 0
        self.syscall = lambda number, *arguments: self._note(number, *arguments)  # a function takes `restype`

    def _note(self, number: ctypes.c_long, *arguments: Any) -> int:
        self.calls.append((number.value, *(getattr(value, "value", value) for value in arguments[:2])))
        return self.answer


@pytest.fixture
def libc(monkeypatch: pytest.MonkeyPatch) -> NotingLibc:
    noting = NotingLibc()
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: noting)
    return noting


def _pretend(monkeypatch: pytest.MonkeyPatch, machine: str, maxsize: int = 2**63 - 1) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=machine, release="6.1.0-21-arm64"), raising=False)
    monkeypatch.setattr(sys, "maxsize", maxsize)


def test_the_filter_is_given_by_seccomps_number_on_arm(monkeypatch: pytest.MonkeyPatch, libc: NotingLibc) -> None:
    _pretend(monkeypatch, "aarch64")
    seccomp.install(Step)
    number, operation, flags = libc.calls[-1]
    assert (number, operation) == (NUMBERS["seccomp"], 1)  # SECCOMP_SET_MODE_FILTER
    assert flags & 1  # SECCOMP_FILTER_FLAG_TSYNC: every thread


@pytest.mark.parametrize(("machine", "maxsize"), [("armv7l", 2**31 - 1), ("armv8l", 2**31 - 1), ("aarch64", 2**31 - 1)])
def test_a_32_bit_arm_has_no_filter_and_is_told_so(monkeypatch: pytest.MonkeyPatch, machine: str, maxsize: int) -> None:
    _pretend(monkeypatch, machine, maxsize)
    with pytest.raises(NotOffered, match=f"64-bit x86-64 and aarch64, and this is {machine}"):
        seccomp.machine()


def test_landlock_is_asked_for_by_its_numbers(libc: NotingLibc) -> None:
    libc.answer = 7
    assert landlock.abi() == 7
    assert libc.calls[-1][0] == NUMBERS["landlock_create_ruleset"]
    libc.answer, libc.calls[:] = 0, []
    with pytest.raises(NotOffered):  # version 0: nothing to build on
        landlock.abi()
