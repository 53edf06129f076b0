"""The system calls that the sealed process may no longer make, as one seccomp filter.

Knows: the numbers of those calls on x86-64 and aarch64, how a filter is put together and given to every thread.
Refuses to know: files (landlock.py), sockets that are open already (inherited.py), when it is installed (linux.py).

A call that is refused returns EPERM. Filters stack: the kernel asks all of them and takes the strictest answer, so a
second step can only refuse more. No root, no shell, no other program.
"""

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from slmchat.privacy import android
from slmchat.privacy.steps import NotOffered, Step

# linux/audit.h: EM_X86_64 62 and EM_AARCH64 183 | __AUDIT_ARCH_64BIT | __AUDIT_ARCH_LE
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# asm/unistd.h: __X32_SYSCALL_BIT. The x32 calls carry the architecture of x86-64 and this bit in their number.
_X32_BIT = 0x40000000

# linux/bpf_common.h and linux/filter.h
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS: a 32-bit word of struct seccomp_data
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

# linux/seccomp.h
_SET_MODE_FILTER = 1
_FLAG_TSYNC = 1 << 0
# Without it, kernels before 5.16 slow a filtered process down with a mitigation against Spectre v4. That mitigation
# guards secrets from code in the same process; the seal guards the network, and generation has to stay fast.
_FLAG_SPEC_ALLOW = 1 << 2
_ALLOW = 0x7FFF0000  # SECCOMP_RET_ALLOW
_EPERM = 0x00050000 | errno.EPERM  # SECCOMP_RET_ERRNO | EPERM

_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
_SECCOMP_NUMBER = {"x86_64": 317, "aarch64": 277}  # asm/unistd.h: __NR_seccomp

# struct seccomp_data { int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]; };  (linux/seccomp.h)
_NUMBER, _ARCH = 0, 4

_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE_MASK = 1, 1, 0xF  # linux/socket.h, linux/net.h
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # asm-generic/ioctls.h: type into the terminal; paste on a console
_BINDER_WRITE_READ = 0xC0306201  # linux/android/binder.h: _IOWR('b', 1, struct binder_write_read)

_Instruction = tuple[int, int, int, int]
"""struct sock_filter { __u16 code; __u8 jt; __u8 jf; __u32 k; };  (linux/filter.h)"""


@dataclass(frozen=True, slots=True)
class Call:
    """One system call: its numbers (asm/unistd_64.h, asm-generic/unistd.h) and the step from which it is refused.

    `allowed` are instructions that end in a return and say which arguments are still allowed; empty: none.
    """

    name: str
    x86_64: int
    aarch64: int
    step: Step
    allowed: tuple[_Instruction, ...] = ()

    def number(self, machine: str) -> int:
        return self.x86_64 if machine == "x86_64" else self.aarch64


def _low(argument: int) -> _Instruction:
    """Load the low half of an argument: all that the kernel reads of an int (both machines are little-endian)."""
    return (_LOAD, 0, 0, 16 + 8 * argument)


def _high(argument: int) -> _Instruction:
    return (_LOAD, 0, 0, 20 + 8 * argument)


def _only(argument: int, value: int, mask: int | None = None) -> tuple[_Instruction, ...]:
    """Allowed when this argument (masked) is `value`."""
    masked = () if mask is None else ((_AND, 0, 0, mask),)
    return (_low(argument), *masked, (_IF_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _EPERM))


def _but(argument: int, *values: int) -> tuple[_Instruction, ...]:
    """Allowed unless this argument is one of `values`."""
    tests = tuple(part for value in values for part in ((_IF_EQUAL, 0, 1, value), (_RETURN, 0, 0, _EPERM)))
    return (_low(argument), *tests, (_RETURN, 0, 0, _ALLOW))


# A null pointer in argument 4 (the address of sendto): both halves are 0.
_WITHOUT_ADDRESS = (
    _low(4),
    (_IF_EQUAL, 0, 3, 0),
    _high(4),
    (_IF_EQUAL, 0, 1, 0),
    (_RETURN, 0, 0, _ALLOW),
    (_RETURN, 0, 0, _EPERM),
)

# A pair of local streams. The family is asked again: of two rules for one call only the later is in a filter of both.
_LOCAL_STREAMS = (
    _low(0),
    (_IF_EQUAL, 1, 0, _AF_UNIX),
    (_RETURN, 0, 0, _EPERM),
    *_only(1, _SOCK_STREAM, _SOCK_TYPE_MASK),
)

CALLS: tuple[Call, ...] = (
    # A new socket. The first step leaves AF_UNIX, which a GPU driver needs while it starts.
    Call("socket", 41, 198, Step.NETWORK, _only(0, _AF_UNIX)),
    Call("socket", 41, 198, Step.LOCAL),
    # A pair of connected sockets stays: asyncio wakes itself up with one. Only AF_UNIX (TIPC has pairs as well), and
    # only streams: a datagram socket of a pair can still be sent to, or connected to, any local address.
    Call("socketpair", 53, 199, Step.NETWORK, _only(0, _AF_UNIX)),
    Call("socketpair", 53, 199, Step.LOCAL, _LOCAL_STREAMS),
    # io_uring makes sockets without the system calls; an inherited ring needs io_uring_enter.
    Call("io_uring_setup", 425, 425, Step.NETWORK),
    Call("io_uring_enter", 426, 426, Step.NETWORK),
    Call("io_uring_register", 427, 427, Step.NETWORK),
    # Another process: its sockets, its memory, its registers.
    Call("pidfd_getfd", 438, 438, Step.NETWORK),
    Call("ptrace", 101, 117, Step.NETWORK),
    Call("process_vm_readv", 310, 270, Step.NETWORK),
    Call("process_vm_writev", 311, 271, Step.NETWORK),
    # The kernel starts a program outside the seal to look up a key (the type dns_resolver asks a name server).
    Call("add_key", 248, 217, Step.NETWORK),
    Call("request_key", 249, 218, Step.NETWORK),
    Call("keyctl", 250, 219, Step.NETWORK),
    # Mounting a network file system, and opening files past the checks on their path.
    Call("mount", 165, 40, Step.NETWORK),
    Call("fsopen", 430, 430, Step.NETWORK),
    Call("fsconfig", 431, 431, Step.NETWORK),
    Call("fsmount", 432, 432, Step.NETWORK),
    Call("fspick", 433, 433, Step.NETWORK),
    Call("move_mount", 429, 429, Step.NETWORK),
    Call("open_tree", 428, 428, Step.NETWORK),
    Call("open_tree_attr", 467, 467, Step.NETWORK),
    Call("open_by_handle_at", 304, 265, Step.NETWORK),
    # Code in the kernel: what root could do in a sealed process, and a favourite of exploits.
    Call("bpf", 321, 280, Step.NETWORK),
    Call("userfaultfd", 323, 282, Step.NETWORK),
    Call("init_module", 175, 105, Step.NETWORK),
    Call("finit_module", 313, 273, Step.NETWORK),
    Call("kexec_load", 246, 104, Step.NETWORK),
    Call("kexec_file_load", 320, 294, Step.NETWORK),
    # Keys typed into the terminal are run by the shell that waits behind slm.
    Call("ioctl", 16, 29, Step.NETWORK, _but(1, _TIOCSTI, _TIOCLINUX)),
    # Sockets that are there already (standard streams, pairs) go on as streams: read, write, send and recv. They
    # cannot be turned to another address, and no descriptor can be handed in or out.
    Call("connect", 42, 203, Step.LOCAL),
    Call("bind", 49, 200, Step.LOCAL),
    Call("listen", 50, 201, Step.LOCAL),
    Call("accept", 43, 202, Step.LOCAL),
    Call("accept4", 288, 242, Step.LOCAL),
    Call("sendmsg", 46, 211, Step.LOCAL),
    Call("sendmmsg", 307, 269, Step.LOCAL),
    Call("recvmsg", 47, 212, Step.LOCAL),
    Call("recvmmsg", 299, 243, Step.LOCAL),
    Call("sendto", 44, 206, Step.LOCAL, _WITHOUT_ADDRESS),
    # Android: the way to every system service, the one that downloads files among them.
    Call("ioctl", 16, 29, Step.LOCAL, _but(1, _TIOCSTI, _TIOCLINUX, _BINDER_WRITE_READ)),
)


def machine() -> str:
    """The ABI of this process by its name in `CALLS`. Raises `NotOffered` where the numbers are not known."""
    name = os.uname().machine
    if name not in _AUDIT_ARCH or sys.maxsize < 2**32:
        raise NotOffered(f"the filter knows 64-bit x86-64 and aarch64, and this is {name}")
    return name


# What a connection over IP needs (socket families of linux/socket.h): AF_INET, AF_INET6; to look a name up, also
# AF_UNIX (a resolver of the system) and AF_NETLINK (which addresses this device has).
_FAMILIES_IP, _FAMILIES_OF_NAMES = (2, 10), (1, 16)


def _outlet_sockets(is_loopback: bool) -> tuple[_Instruction, ...]:
    """The sockets of a process that may ask an endpoint: on this device, TCP and nothing else."""
    families = _FAMILIES_IP if is_loopback else (*_FAMILIES_IP, *_FAMILIES_OF_NAMES)
    only_streams = ((_low(1)), (_AND, 0, 0, _SOCK_TYPE_MASK), (_IF_EQUAL, 1, 0, _SOCK_STREAM), (_RETURN, 0, 0, _EPERM))
    tests = tuple(part for family in families for part in ((_IF_EQUAL, 0, 1, family), (_RETURN, 0, 0, _ALLOW)))
    return (*(only_streams if is_loopback else ()), _low(0), *tests, (_RETURN, 0, 0, _EPERM))


def install_outlet(*, is_loopback: bool) -> None:
    """Refuse what the seal's first step refuses, but leave sockets for one connection (outlet.py).

    Seccomp sees the kind of a socket, never the address that it is connected to. Raises `NotOffered`.
    """
    _install(program({Step.NETWORK}, machine(), {"socket": _outlet_sockets(is_loopback)}))


def program(
    steps: Iterable[Step], machine: str, instead: Mapping[str, tuple[_Instruction, ...]] | None = None
) -> bytes:
    """The filter of these steps, as an array of `struct sock_filter`; `instead` has other rules for some calls.

    A call of another ABI (32-bit x86 or ARM by the architecture, x32 by its bit) is refused whatever it is: slm and
    its children have no use for it, and a second table of numbers would be a second place for mistakes. A 32-bit
    program started by slm therefore ends at once.
    """
    refusal: _Instruction = (_RETURN, 0, 0, _EPERM)
    code: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_IF_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        refusal,
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        code += [(_IF_AT_LEAST, 0, 1, _X32_BIT), refusal]
    wanted = set(steps)
    # Of two rules for one call the later is the stricter one.
    rules = {call.name: call for call in CALLS if call.step in wanted}
    for call in rules.values():
        body = (instead or {}).get(call.name) or call.allowed or (refusal,)
        code += [(_IF_EQUAL, 0, len(body), call.number(machine)), *body]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


class _SockFprog(ctypes.Structure):
    # struct sock_fprog { unsigned short len; struct sock_filter *filter; };  (linux/filter.h)
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install(steps: Iterable[Step]) -> None:
    """Give the filter to every thread of this process; children inherit it. It cannot be taken off again.

    Raises `NotOffered` when the kernel does not take it; then nothing has changed but that no program started from
    here on gains privileges.
    """
    _install(program(steps, machine()))


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
