"""The system calls that the sealed process may no longer make: one table, with the arguments that stay allowed.

Knows: the numbers of those calls on x86-64 and aarch64, and why each of them is refused.
Refuses to know: how a filter is put together and installed (seccomp.py).
"""

import errno

from slmchat.lazy_dataclasses import dataclass
from slmchat.privacy.steps import Step

# linux/bpf_common.h and linux/filter.h
LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS: a 32-bit word of struct seccomp_data
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K

# linux/seccomp.h
ALLOW = 0x7FFF0000  # SECCOMP_RET_ALLOW
EPERM = 0x00050000 | errno.EPERM  # SECCOMP_RET_ERRNO | EPERM

AF_UNIX, SOCK_STREAM, SOCK_TYPE_MASK = 1, 1, 0xF  # linux/socket.h, linux/net.h
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # asm-generic/ioctls.h: type into the terminal; paste on a console
_SET_FLAGS, _SET_XFLAGS = 0x40086602, 0x401C5820  # linux/fs.h: FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR (chattr)
_BINDER_WRITE_READ = 0xC0306201  # linux/android/binder.h: _IOWR('b', 1, struct binder_write_read)

Instruction = tuple[int, int, int, int]
"""struct sock_filter { __u16 code; __u8 jt; __u8 jf; __u32 k; };  (linux/filter.h)"""

# The number of a call that a machine does not have: no call has it, and to refuse it is no harm.
ABSENT = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Call:
    """One system call: its numbers (asm/unistd_64.h, asm-generic/unistd.h) and the step from which it is refused.

    `allowed` are instructions that end in a return and say which arguments are still allowed; empty: none.
    """

    name: str
    x86_64: int
    aarch64: int
    step: Step
    allowed: tuple[Instruction, ...] = ()

    def number(self, machine: str) -> int:
        """`ABSENT` where this machine does not have the call."""
        return self.x86_64 if machine == "x86_64" else self.aarch64


def low(argument: int) -> Instruction:
    """Load the low half of an argument: all that the kernel reads of an int (both machines are little-endian)."""
    # struct seccomp_data { int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]; };  (linux/seccomp.h)
    return (LOAD, 0, 0, 16 + 8 * argument)


def _high(argument: int) -> Instruction:
    return (LOAD, 0, 0, 20 + 8 * argument)


def only(argument: int, value: int, mask: int | None = None) -> tuple[Instruction, ...]:
    """Allowed when this argument (masked) is `value`."""
    masked = () if mask is None else ((AND, 0, 0, mask),)
    return (low(argument), *masked, (IF_EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, EPERM))


def _but(argument: int, *values: int) -> tuple[Instruction, ...]:
    """Allowed unless this argument is one of `values`."""
    tests = tuple(part for value in values for part in ((IF_EQUAL, 0, 1, value), (RETURN, 0, 0, EPERM)))
    return (low(argument), *tests, (RETURN, 0, 0, ALLOW))


def _null(argument: int) -> tuple[Instruction, ...]:
    """Allowed when this argument is a null pointer."""
    return _both_zero(low(argument), _high(argument))


def _zeros(first: int, second: int) -> tuple[Instruction, ...]:
    """Allowed when both of these ints are 0."""
    return _both_zero(low(first), low(second))


def _both_zero(first: Instruction, second: Instruction) -> tuple[Instruction, ...]:
    """Allowed when both of these halves are 0."""
    return (first, (IF_EQUAL, 0, 3, 0), second, (IF_EQUAL, 0, 1, 0), (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, EPERM))


# Both of socketpair's: of two rules for one call the later one counts alone.
_LOCAL_STREAMS: tuple[Instruction, ...] = (
    low(0),
    (IF_EQUAL, 1, 0, AF_UNIX),
    (RETURN, 0, 0, EPERM),
    *only(1, SOCK_STREAM, SOCK_TYPE_MASK),
)

_IOCTLS = (_TIOCSTI, _TIOCLINUX, _SET_FLAGS, _SET_XFLAGS)

# Rights, owners, attributes and times of files. The kernel asks only who owns the file: Landlock does not see these
# calls, and a descriptor that was opened for reading is enough for some. Files get their rights when they are made.
ATTRIBUTES: tuple[Call, ...] = (
    Call("chmod", 90, ABSENT, Step.LOCAL),
    Call("fchmod", 91, 52, Step.LOCAL),
    Call("fchmodat", 268, 53, Step.LOCAL),
    Call("fchmodat2", 452, 452, Step.LOCAL),
    Call("chown", 92, ABSENT, Step.LOCAL),
    Call("lchown", 94, ABSENT, Step.LOCAL),
    Call("fchown", 93, 55, Step.LOCAL),
    Call("fchownat", 260, 54, Step.LOCAL),
    Call("setxattr", 188, 5, Step.LOCAL),
    Call("lsetxattr", 189, 6, Step.LOCAL),
    Call("fsetxattr", 190, 7, Step.LOCAL),
    Call("setxattrat", 463, 463, Step.LOCAL),
    Call("removexattr", 197, 14, Step.LOCAL),
    Call("lremovexattr", 198, 15, Step.LOCAL),
    Call("fremovexattr", 199, 16, Step.LOCAL),
    Call("removexattrat", 466, 466, Step.LOCAL),
    Call("file_setattr", 469, 469, Step.LOCAL),
    Call("utime", 132, ABSENT, Step.LOCAL),
    Call("utimes", 235, ABSENT, Step.LOCAL),
    Call("futimesat", 261, ABSENT, Step.LOCAL),
    Call("utimensat", 280, 88, Step.LOCAL),
)

CALLS: tuple[Call, ...] = (
    # A new socket. The first step leaves AF_UNIX, which a GPU driver needs while it starts.
    Call("socket", 41, 198, Step.NETWORK, only(0, AF_UNIX)),
    Call("socket", 41, 198, Step.LOCAL),
    # A pair of connected sockets stays: asyncio wakes itself up with one. Only AF_UNIX (TIPC has pairs as well), and
    # only streams: a datagram socket of a pair can still be sent to, or connected to, any local address.
    Call("socketpair", 53, 199, Step.NETWORK, only(0, AF_UNIX)),
    Call("socketpair", 53, 199, Step.LOCAL, _LOCAL_STREAMS),
    # io_uring makes sockets without the system calls; an inherited ring needs io_uring_enter.
    Call("io_uring_setup", 425, 425, Step.NETWORK),
    Call("io_uring_enter", 426, 426, Step.NETWORK),
    Call("io_uring_register", 427, 427, Step.NETWORK),
    # Another process: its sockets, its memory, its registers, its limits (a file size of 0 ends it).
    Call("pidfd_getfd", 438, 438, Step.NETWORK),
    Call("ptrace", 101, 117, Step.NETWORK),
    Call("process_vm_readv", 310, 270, Step.NETWORK),
    Call("process_vm_writev", 311, 271, Step.NETWORK),
    Call("process_madvise", 440, 440, Step.NETWORK),
    Call("prlimit64", 302, 261, Step.NETWORK, only(0, 0)),
    Call("setpriority", 141, 140, Step.NETWORK, _zeros(0, 1)),
    Call("ioprio_set", 251, 30, Step.NETWORK),
    # The kernel starts a program outside the seal to look up a key (the type dns_resolver asks a name server).
    Call("add_key", 248, 217, Step.NETWORK),
    Call("request_key", 249, 218, Step.NETWORK),
    Call("keyctl", 250, 219, Step.NETWORK),
    # Mounting a network file system, other views of the file system, and opening files past the checks on their path.
    Call("mount", 165, 40, Step.NETWORK),
    Call("umount2", 166, 39, Step.NETWORK),
    Call("pivot_root", 155, 41, Step.NETWORK),
    Call("chroot", 161, 51, Step.NETWORK),
    Call("unshare", 272, 97, Step.NETWORK),
    Call("setns", 308, 268, Step.NETWORK),
    Call("fsopen", 430, 430, Step.NETWORK),
    Call("fsconfig", 431, 431, Step.NETWORK),
    Call("fsmount", 432, 432, Step.NETWORK),
    Call("fspick", 433, 433, Step.NETWORK),
    Call("move_mount", 429, 429, Step.NETWORK),
    Call("mount_setattr", 442, 442, Step.NETWORK),
    Call("open_tree", 428, 428, Step.NETWORK),
    Call("open_tree_attr", 467, 467, Step.NETWORK),
    Call("open_by_handle_at", 304, 265, Step.NETWORK),
    # Code in the kernel: what root could do in a sealed process, and a favourite of exploits.
    Call("bpf", 321, 280, Step.NETWORK),
    Call("userfaultfd", 323, 282, Step.NETWORK),
    Call("perf_event_open", 298, 241, Step.NETWORK),
    Call("init_module", 175, 105, Step.NETWORK),
    Call("finit_module", 313, 273, Step.NETWORK),
    Call("kexec_load", 246, 104, Step.NETWORK),
    Call("kexec_file_load", 320, 294, Step.NETWORK),
    # Keys typed into the terminal are run by the shell that waits behind slm. Flags of a file (immutable, append only).
    Call("ioctl", 16, 29, Step.NETWORK, _but(1, *_IOCTLS)),
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
    Call("sendto", 44, 206, Step.LOCAL, _null(4)),
    # Queues and memory that other programs of the user may share, found by a key and not by a path (System V, POSIX).
    Call("msgget", 68, 186, Step.LOCAL),
    Call("msgsnd", 69, 189, Step.LOCAL),
    Call("msgrcv", 70, 188, Step.LOCAL),
    Call("msgctl", 71, 187, Step.LOCAL),
    Call("shmget", 29, 194, Step.LOCAL),
    Call("shmat", 30, 196, Step.LOCAL),
    Call("shmctl", 31, 195, Step.LOCAL),
    Call("semget", 64, 190, Step.LOCAL),
    Call("semop", 65, 193, Step.LOCAL),
    Call("semtimedop", 220, 192, Step.LOCAL),
    Call("semctl", 66, 191, Step.LOCAL),
    Call("mq_open", 240, 180, Step.LOCAL),
    Call("mq_unlink", 241, 181, Step.LOCAL),
    *ATTRIBUTES,
    # Android: the way to every system service, the one that downloads files among them.
    Call("ioctl", 16, 29, Step.LOCAL, _but(1, *_IOCTLS, _BINDER_WRITE_READ)),
)
