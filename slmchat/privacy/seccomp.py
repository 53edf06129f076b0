"""The seccomp filter: how the table of refused calls becomes a program, and every thread gets it.

Knows: the architectures, how a filter is put together, the variants for a process with one task of its own.
Refuses to know: the calls (calls.py), files (landlock.py), sockets that are open already (inherited.py), when it is
installed (linux.py, egress.py).

A call that is refused returns EPERM. Filters stack: the kernel asks all of them and takes the strictest answer, so a
second step can only refuse more. No root, no shell, no other program.
"""

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence

from slmchat.privacy import android
from slmchat.privacy.calls import (
    AF_UNIX,
    ALLOW,
    AND,
    ATTRIBUTES,
    EPERM,
    IF_AT_LEAST,
    IF_EQUAL,
    LOAD,
    RETURN,
    SOCK_STREAM,
    SOCK_TYPE_MASK,
    Instruction,
    low,
)
from slmchat.privacy.calls import CALLS as CALLS
from slmchat.privacy.steps import NotOffered, Step

# linux/audit.h: EM_X86_64 62 and EM_AARCH64 183 | __AUDIT_ARCH_64BIT | __AUDIT_ARCH_LE
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# asm/unistd.h: __X32_SYSCALL_BIT. The x32 calls carry the architecture of x86-64 and this bit in their number.
_X32_BIT = 0x40000000

# linux/seccomp.h
_SET_MODE_FILTER = 1
_FLAG_TSYNC = 1 << 0
# Without it, kernels before 5.16 slow a filtered process down with a mitigation against Spectre v4. That mitigation
# guards secrets from code in the same process; the seal guards the network, and generation has to stay fast.
_FLAG_SPEC_ALLOW = 1 << 2

_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
_SECCOMP_NUMBER = {"x86_64": 317, "aarch64": 277}  # asm/unistd.h: __NR_seccomp

# struct seccomp_data { int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]; };  (linux/seccomp.h)
_NUMBER, _ARCH = 0, 4


def machine() -> str:
    """The ABI of this process by its name in `CALLS`. Raises `NotOffered` where the numbers are not known."""
    name = os.uname().machine
    if name not in _AUDIT_ARCH or sys.maxsize < 2**32:
        raise NotOffered(f"the filter knows 64-bit x86-64 and aarch64, and this is {name}")
    return name


# What a connection over IP needs (socket families of linux/socket.h): AF_INET, AF_INET6; to look a name up, also
# AF_UNIX (a resolver of the system) and AF_NETLINK (which addresses this device has).
_FAMILIES_IP, _FAMILIES_OF_NAMES = (2, 10), (AF_UNIX, 16)

_IPPROTO_TCP = 6  # linux/in.h

_FREE: tuple[Instruction, ...] = ((RETURN, 0, 0, ALLOW),)


def _sockets(families: Iterable[int], *, only_streams: bool) -> tuple[Instruction, ...]:
    """New sockets of these families alone; with `only_streams` only TCP.

    Streams of another protocol (MPTCP, SCTP) would pass Landlock, which knows TCP.
    """
    streams: tuple[Instruction, ...] = (
        (low(1)),
        (AND, 0, 0, SOCK_TYPE_MASK),
        (IF_EQUAL, 1, 0, SOCK_STREAM),
        (RETURN, 0, 0, EPERM),
        (low(2)),
        (IF_EQUAL, 2, 0, 0),
        (IF_EQUAL, 1, 0, _IPPROTO_TCP),
        (RETURN, 0, 0, EPERM),
    )
    tests = tuple(part for family in families for part in ((IF_EQUAL, 0, 1, family), (RETURN, 0, 0, ALLOW)))
    return (*(streams if only_streams else ()), low(0), *tests, (RETURN, 0, 0, EPERM))


def install_handed() -> None:
    """Refuse what the whole seal refuses, but take in the connections that another process hands over (dialer.py).

    Raises `NotOffered`.
    """
    _install(program(Step, machine(), {"recvmsg": _FREE}))


def install_tcp() -> None:
    """Refuse what the whole seal refuses, but let this process connect by TCP (egress.py), to whatever host.

    Seccomp sees the kind of a socket, never the address that it is connected to. Raises `NotOffered`.
    """
    _install(program(Step, machine(), {"socket": _sockets(_FAMILIES_IP, only_streams=True), "connect": _FREE}))


def install_dialer(*, is_loopback: bool) -> None:
    """What is left to the process that makes the connections: TCP, and what the lookup of a name needs.

    `is_loopback`: no names are looked up. Raises `NotOffered`.
    """
    families = _FAMILIES_IP if is_loopback else (*_FAMILIES_IP, *_FAMILIES_OF_NAMES)
    _install(program({Step.NETWORK}, machine(), {"socket": _sockets(families, only_streams=is_loopback)}))


def install_writer() -> None:
    """What is left to the process that writes one file (writer.py): a file keeps its mode and its owner. As above."""
    _install(program(Step, machine(), {call.name: _FREE for call in ATTRIBUTES}))


def program(steps: Iterable[Step], machine: str, instead: Mapping[str, tuple[Instruction, ...]] | None = None) -> bytes:
    """The filter of these steps, as an array of `struct sock_filter`; `instead` has other rules for some calls.

    A call of another ABI (32-bit x86 or ARM by the architecture, x32 by its bit) is refused whatever it is: slm and
    its children have no use for it, and a second table of numbers would be a second place for mistakes. A 32-bit
    program started by slm therefore ends at once.
    """
    refusal: Instruction = (RETURN, 0, 0, EPERM)
    code: list[Instruction] = [
        (LOAD, 0, 0, _ARCH),
        (IF_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        refusal,
        (LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        code += [(IF_AT_LEAST, 0, 1, _X32_BIT), refusal]
    wanted = set(steps)
    # Of two rules for one call the later is the stricter one, and counts alone.
    rules = {call.name: call for call in CALLS if call.step in wanted}
    for call in rules.values():
        body = (instead or {}).get(call.name) or call.allowed or (refusal,)
        code += [(IF_EQUAL, 0, len(body), call.number(machine)), *body]
    code.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


class _SockFprog(ctypes.Structure):
    # struct sock_fprog { unsigned short len; struct sock_filter *filter; };  (linux/filter.h)
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install(steps: Iterable[Step], listening: Sequence[int] = ()) -> None:
    """Give the filter to every thread of this process; children inherit it. It cannot be taken off again.

    `listening`: descriptors of sockets that may accept connections (a server's), and no other.

    Raises `NotOffered` when the kernel does not take it; then nothing has changed but that no program started from
    here on gains privileges.
    """
    accepting = dict.fromkeys(("accept", "accept4"), _one_of(listening)) if listening else {}
    _install(program(steps, machine(), accepting))


def _one_of(descriptors: Sequence[int]) -> tuple[Instruction, ...]:
    """The call on one of these descriptors alone, its first argument."""
    tests = tuple(part for each in descriptors for part in ((IF_EQUAL, 0, 1, each), (RETURN, 0, 0, ALLOW)))
    return (low(0), *tests, (RETURN, 0, 0, EPERM))


def _install(code: bytes) -> None:
    name = machine()
    buffer = ctypes.create_string_buffer(code, len(code))
    fprog = _SockFprog(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    # long syscall(long number, ...);  asked with an operation that does not exist, it is answered with EINVAL
    if not android.is_survived(lambda: libc.syscall(ctypes.c_long(_SECCOMP_NUMBER[name]), ctypes.c_ulong(99), 0, 0)):
        raise NotOffered("Android does not let apps use seccomp(2)")
    # int prctl(int op, unsigned long arg2, unsigned long arg3, unsigned long arg4, unsigned long arg5);
    libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise NotOffered(f"prctl(PR_SET_NO_NEW_PRIVS) failed: {os.strerror(ctypes.get_errno())}")
    for flags in (_FLAG_TSYNC | _FLAG_SPEC_ALLOW, _FLAG_TSYNC):
        # long syscall(long number, ...);
        # int seccomp(unsigned int operation, unsigned int flags, void *args);
        result = libc.syscall(
            ctypes.c_long(_SECCOMP_NUMBER[name]),
            ctypes.c_ulong(_SET_MODE_FILTER),
            ctypes.c_ulong(flags),
            ctypes.byref(fprog),
        )
        if result == 0:
            return
        if result > 0:
            raise NotOffered(f"the thread {result} has a filter of its own and cannot take this one")
        if ctypes.get_errno() != errno.EINVAL:  # EINVAL: a kernel before 4.17 does not know SPEC_ALLOW
            break
    raise NotOffered(f"seccomp is not available: {os.strerror(ctypes.get_errno())}")
