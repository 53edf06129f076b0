"""Ways back: what would let hostile code return in a program that is not sealed, or reach into one that runs.

Knows: where Python, a shell and git look for code; what the kernel lets anybody change of files and processes of the
same user. Every attempt undoes what it did, or changes nothing: it asks for what is there already.
Refuses to know: whether there is a seal.
"""

import ctypes
import errno
import os
import struct
import sysconfig
from pathlib import Path

from slmchat.privacy.probe_context import Probe, ProbeContext, Promise, Unavailable, call, in_fork
from slmchat.user_paths import home_directory

_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602  # linux/fs.h: FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
_CLONE_NEWUSER = 0x10000000  # linux/sched.h
_IPC_PRIVATE, _IPC_RMID = 0, 0  # linux/ipc.h
_UFFD_USER_MODE_ONLY = 1  # linux/userfaultfd.h
_PERF_TYPE_SOFTWARE, _PERF_COUNT_SW_DUMMY = 1, 9  # linux/perf_event.h
_PERF_EXCLUDE_KERNEL = 1 << 5  # struct perf_event_attr: disabled, inherit, pinned, exclusive, exclude_user, ...
_BPF_MAP_CREATE, _BPF_MAP_TYPE_ARRAY = 0, 2  # linux/bpf.h


def _made(file: Path) -> str:
    """Make an empty file, and take it away."""
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    file.unlink()
    return "made a file there"


def _pth(_context: ProbeContext, name: str) -> str:
    return _made(Path(sysconfig.get_path("purelib"), f"slm-privacy-{os.getpid()}-{name}.pth"))


def _module(_context: ProbeContext, name: str) -> str:
    return _made(Path(__file__).with_name(f"slm_privacy_{os.getpid()}_{name}.py"))


def _start_up(_context: ProbeContext, _name: str) -> str:
    home = home_directory()
    if home is None:
        raise Unavailable("this user has no home directory")
    file = home / ".bashrc"
    if not file.exists():
        return _made(file)
    os.close(os.open(file, os.O_WRONLY | os.O_APPEND))
    return "opened it for writing"


def _git_hook(_context: ProbeContext, _name: str) -> str:
    return _made(Path(".git", "hooks", "post-checkout"))


def _here(_context: ProbeContext, name: str) -> str:
    return _made(Path(name))


def _temporary(context: ProbeContext, name: str) -> str:
    return _made(Path(context.temporary, f"slm-privacy-{os.getpid()}-{name}"))


def _chmod(context: ProbeContext, _name: str) -> str:
    os.chmod(context.file, 0o600)
    return "changed"


def _fchmod(context: ProbeContext, _name: str) -> str:
    """Reading stays free, and a descriptor for reading is enough."""
    descriptor = os.open(context.file, os.O_RDONLY)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    return "changed"


def _chown(context: ProbeContext, _name: str) -> str:
    os.chown(context.file, os.geteuid(), os.getegid())
    return "changed"


def _xattr(context: ProbeContext, name: str) -> str:
    try:
        os.setxattr(context.file, f"user.{name}", b"x")
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            raise Unavailable("this file system has no attributes") from error
        raise
    return "set"


def _times(context: ProbeContext, _name: str) -> str:
    os.utime(context.file, (1, 1))
    return "set"


def _flags(context: ProbeContext, _name: str) -> str:
    import fcntl

    descriptor = os.open(context.file, os.O_RDONLY)
    try:
        flags = fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8))
        fcntl.ioctl(descriptor, _SET_FLAGS, flags)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.ENOTSUP):
            raise Unavailable("this file system has no flags") from error
        raise
    finally:
        os.close(descriptor)
    return "set"


def _limits(context: ProbeContext, _name: str) -> str:
    import resource

    # int prlimit(pid_t pid, int resource, const struct rlimit *new_limit, struct rlimit *old_limit);
    limits = ctypes.create_string_buffer(16)
    call("prlimit64", context.parent, resource.RLIMIT_NOFILE, None, limits)
    call("prlimit64", context.parent, resource.RLIMIT_NOFILE, limits, None)
    return "set"


def _priority(context: ProbeContext, _name: str) -> str:
    os.setpriority(os.PRIO_PROCESS, context.parent, os.getpriority(os.PRIO_PROCESS, context.parent))
    return "set"


def _perf(_context: ProbeContext, _name: str) -> str:
    # struct perf_event_attr { __u32 type; __u32 size; __u64 config; __u64 sample_period; __u64 sample_type;
    #                          __u64 read_format; __u64 flags; ... };
    attributes = struct.pack(
        "=IIQQQQQ", _PERF_TYPE_SOFTWARE, 64, _PERF_COUNT_SW_DUMMY, 0, 0, 0, _PERF_EXCLUDE_KERNEL
    ).ljust(64, b"\0")
    # int perf_event_open(struct perf_event_attr *attr, pid_t pid, int cpu, int group_fd, unsigned long flags);
    os.close(call("perf_event_open", ctypes.c_char_p(attributes), 0, -1, -1, 0))
    return "opened"


def _userfaultfd(_context: ProbeContext, _name: str) -> str:
    try:
        descriptor = call("userfaultfd", _UFFD_USER_MODE_ONLY)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        descriptor = call("userfaultfd", 0)  # kernels before 5.11 do not know the flag
    os.close(descriptor)
    return "opened"


def _bpf(_context: ProbeContext, _name: str) -> str:
    # union bpf_attr { struct { __u32 map_type; __u32 key_size; __u32 value_size; __u32 max_entries; ... }; ... };
    attributes = struct.pack("=IIII", _BPF_MAP_TYPE_ARRAY, 4, 4, 1)
    os.close(call("bpf", _BPF_MAP_CREATE, ctypes.c_char_p(attributes), len(attributes)))
    return "opened"


def _namespace(_context: ProbeContext, _name: str) -> str:
    return in_fork(lambda: f"made {call('unshare', _CLONE_NEWUSER)}")


def _message_queue(_context: ProbeContext, _name: str) -> str:
    call("msgctl", call("msgget", _IPC_PRIVATE, 0o600), _IPC_RMID, None)
    return "made"


def _shared_memory(_context: ProbeContext, _name: str) -> str:
    call("shmctl", call("shmget", _IPC_PRIVATE, 4096, 0o600), _IPC_RMID, None)
    return "made"


def _posix_queue(_context: ProbeContext, name: str) -> str:
    # mqd_t mq_open(const char *name, int oflag, mode_t mode, struct mq_attr *attr);  here without the first slash
    queue = f"slm-privacy-{os.getpid()}-{name}".encode()
    os.close(call("mq_open", queue, os.O_RDWR | os.O_CREAT, 0o600, None))
    call("mq_unlink", queue)
    return "made"


PROBES = (
    *(
        Probe(name, title, attempt, promise=Promise.LANDLOCK_FILES)
        for name, title, attempt in (
            ("pth", "a file that Python runs when it starts (.pth in site-packages)", _pth),
            ("module", "a module of slm itself", _module),
            ("start-up", "a start-up file of the shell (~/.bashrc)", _start_up),
            ("git-hook", "a hook of a git repository", _git_hook),
            ("here", "the current directory", _here),
            ("temporary", "the system's temporary directory", _temporary),
        )
    ),
    *(
        Probe(name, title, attempt, is_linux_only=True)
        for name, title, attempt in (
            ("mode", "the rights of a file outside (chmod)", _chmod),
            ("mode-descriptor", "the same through a descriptor for reading", _fchmod),
            ("owner", "the owner of a file outside", _chown),
            ("xattr", "an attribute of a file outside", _xattr),
            ("times", "the times of a file outside", _times),
            ("flags", "the flags of a file outside (chattr)", _flags),
            ("limits", "the limits of another process (prlimit)", _limits),
            ("priority", "the priority of another process", _priority),
            ("perf", "the kernel's performance events", _perf),
            ("userfaultfd", "page faults handled by hand (userfaultfd)", _userfaultfd),
            ("bpf", "code and maps in the kernel (bpf)", _bpf),
            ("namespace", "another view of the system (unshare)", _namespace),
            ("message-queue", "a message queue of System V", _message_queue),
            ("shared-memory", "shared memory of System V", _shared_memory),
            ("posix-queue", "a message queue of POSIX", _posix_queue),
        )
    ),
)
