"""Ways around the sockets: what was open before, other interfaces of the kernel, other processes, files.

Knows: how to try each of them against the parent of this process alone.
Refuses to know: whether there is a seal.
"""

import ctypes
import errno
import os
import socket
from pathlib import Path

from slmchat.privacy import abi_probes
from slmchat.privacy.probe_context import Probe, ProbeContext, Promise, Refused, Unavailable, call, in_fork

_PTRACE_SEIZE = 0x4206  # linux/ptrace.h
_TIOCSTI = 0x5412  # asm-generic/ioctls.h
_KEY_SPEC_THREAD_KEYRING = -1  # linux/keyctl.h


def _inherited_stream(context: ProbeContext, name: str) -> str:
    with socket.socket(fileno=os.dup(context.inherited_stream)) as out:
        out.sendall(f"{name};".encode())
    return "sent"


def _inherited_datagram(context: ProbeContext, name: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, fileno=os.dup(context.inherited_datagram)) as out:
        out.sendto(f"{name};".encode(), ("127.0.0.1", context.udp4))
    return "sent"


def _io_uring(_context: ProbeContext, _name: str) -> str:
    # int io_uring_setup(u32 entries, struct io_uring_params *p);  the struct has 120 bytes (linux/io_uring.h)
    os.close(call("io_uring_setup", 4, ctypes.create_string_buffer(120)))
    return "opened"


def _io_uring_inherited(context: ProbeContext, _name: str) -> str:
    if context.ring is None:
        raise Unavailable("no io_uring")
    # int io_uring_enter(unsigned int fd, unsigned int to_submit, unsigned int min_complete, unsigned int flags, ...);
    call("io_uring_enter", context.ring, 0, 0, 0, None, 0)
    return "entered"


def _ptrace(context: ProbeContext, _name: str) -> str:
    # long ptrace(enum __ptrace_request op, pid_t pid, void *addr, void *data);  the tracer's end lets the parent go
    in_fork(lambda: f"seized {call('ptrace', _PTRACE_SEIZE, context.parent, None, None)}")
    return "seized the parent"


def _process_vm(context: ProbeContext, name: str) -> str:
    data = f"{name};".encode()
    # struct iovec { void *iov_base; size_t iov_len; };
    pair = ctypes.c_size_t * 2
    local = pair(ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0, len(data))
    remote = pair(context.cells[0], len(data))
    # ssize_t process_vm_writev(pid_t pid, const struct iovec *local, unsigned long liovcnt,
    #                           const struct iovec *remote, unsigned long riovcnt, unsigned long flags);
    call("process_vm_writev", context.parent, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    return "written"


def _proc_of(context: ProbeContext, name: str) -> str:
    """A file of the process before in /proc. Raises `Unavailable` where that is not mounted: nobody refuses then."""
    if not os.path.exists("/proc/self"):
        raise Unavailable("/proc is not mounted")
    return f"/proc/{context.parent}/{name}"


def _proc_mem(context: ProbeContext, name: str) -> str:
    descriptor = os.open(_proc_of(context, "mem"), os.O_RDWR)
    try:
        os.pwrite(descriptor, f"{name};".encode(), context.cells[1])
    finally:
        os.close(descriptor)
    return "written"


def _pidfd_getfd(context: ProbeContext, _name: str) -> str:
    # int pidfd_open(pid_t pid, unsigned int flags);  int pidfd_getfd(int pidfd, int targetfd, unsigned int flags);
    process = call("pidfd_open", context.parent, 0)
    try:
        os.close(call("pidfd_getfd", process, context.listener, 0))
    finally:
        os.close(process)
    return "taken"


def _keys(_context: ProbeContext, _name: str) -> str:
    # key_serial_t add_key(const char *type, const char *description, const void *payload, size_t plen, key_serial_t);
    call("add_key", b"user", b"slm-privacy", b"x", 1, _KEY_SPEC_THREAD_KEYRING)
    return "the key service answered"


def _typing(context: ProbeContext, _name: str) -> str:
    import fcntl

    if context.terminal is None:
        raise Unavailable("no terminal")
    try:
        fcntl.ioctl(context.terminal, _TIOCSTI, b"x")
    except OSError as error:
        if error.errno == errno.EIO:  # kernel 6.2 and newer, where dev.tty.legacy_tiocsti is 0: root alone may
            raise Refused("EIO") from error
        raise
    return "typed"


def _mounting(_context: ProbeContext, _name: str) -> str:
    # int fsopen(const char *fs_name, unsigned int flags);  memory only, and never attached to a directory
    os.close(call("fsopen", b"tmpfs", 0))
    return "opened a file system"


def _file(context: ProbeContext, name: str) -> str:
    Path(context.outside, name).write_text("x", encoding="utf-8")
    return "written"


def _link(context: ProbeContext, name: str) -> str:
    link = Path(context.allowed, name)
    link.symlink_to(Path(context.outside, name))
    link.write_text("x", encoding="utf-8")
    return "written"


def _moved(context: ProbeContext, name: str) -> str:
    made = Path(context.allowed, name)
    made.write_text("x", encoding="utf-8")
    try:
        os.rename(made, Path(context.outside, name))
    except OSError as error:
        if error.errno == errno.EXDEV:  # Landlock's word for a directory with other rights
            raise PermissionError(errno.EACCES, "refused") from error
        raise
    return "moved"


def _fifo(context: ProbeContext, name: str) -> str:
    if context.fifo is None:
        raise Unavailable("no named pipes")
    return _written_to(context.fifo, name)


def _pipe_of_another(context: ProbeContext, name: str) -> str:
    return _written_to(_proc_of(context, f"fd/{context.pipe}"), name)


def _written_to(pipe: str, name: str) -> str:
    descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.write(descriptor, f"{name};".encode())
    finally:
        os.close(descriptor)
    return "sent"


def _signal(context: ProbeContext, _name: str) -> str:
    os.kill(context.parent, 0)
    return "the parent can be signalled"


PROBES = (
    Probe("inherited-stream", "a connected TCP socket that was open before", _inherited_stream),
    Probe("inherited-datagram", "a UDP socket that was open before", _inherited_datagram),
    Probe("io-uring", "io_uring", _io_uring, is_linux_only=True),
    Probe("io-uring-inherited", "an io_uring that was open before", _io_uring_inherited, is_linux_only=True),
    *abi_probes.PROBES,
    Probe("ptrace", "tracing another process", _ptrace, is_linux_only=True),
    Probe("process-vm", "writing into another process (process_vm_writev)", _process_vm, is_linux_only=True),
    Probe("proc-mem", "writing into another process (/proc/PID/mem)", _proc_mem, is_linux_only=True),
    Probe("pidfd-getfd", "taking a socket from another process", _pidfd_getfd, is_linux_only=True),
    Probe("keys", "the kernel's key service, which asks other programs", _keys, is_linux_only=True),
    Probe("typing", "typing into the terminal", _typing, is_linux_only=True),
    Probe("mounting", "a file system made for mounting", _mounting, is_linux_only=True),
    Probe("file", "a file outside the allowed places", _file, promise=Promise.LANDLOCK_FILES),
    Probe("link", "a file outside, through a link", _link, promise=Promise.LANDLOCK_FILES),
    Probe("moved", "a file moved outside", _moved, promise=Promise.LANDLOCK_FILES),
    Probe("fifo", "a named pipe that another program reads", _fifo, promise=Promise.LANDLOCK_FILES),
    Probe(
        "proc-fd",
        "a pipe of another process (/proc/PID/fd)",
        _pipe_of_another,
        is_linux_only=True,
        promise=Promise.LANDLOCK_FILES,
    ),
    Probe("signal", "a signal to another process", _signal, promise=Promise.LANDLOCK_SCOPES),
)
