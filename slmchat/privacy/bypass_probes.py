"""Ways around the sockets: what was open before, other interfaces of the kernel, other processes, files.

Knows: how to try each of them against the parent of this process alone.
Refuses to know: whether there is a seal.
"""

import ctypes
import errno
import mmap
import os
import socket
from pathlib import Path

from slmchat.privacy.probe_context import Probe, ProbeContext, Promise, Unavailable, call, call_number, in_fork

_X32_BIT = 0x40000000  # asm/unistd.h: __X32_SYSCALL_BIT
_SOCKET_X86_64 = 41
_SOCKET_I386, _SOCKETCALL_I386, _SYS_SOCKET = 359, 102, 1  # asm/unistd_32.h, linux/net.h
_MAP_32BIT = 0x40  # asm/mman.h: below 4 GiB
_PTRACE_SEIZE = 0x4206  # linux/ptrace.h
_TIOCSTI = 0x5412  # asm-generic/ioctls.h
_KEY_SPEC_THREAD_KEYRING = -1  # linux/keyctl.h

# int32_t call32(int32_t eax, int32_t ebx, int32_t ecx, int32_t edx), called as System V wants it (edi, esi, edx, ecx):
#   push rbx; mov eax, edi; mov ebx, esi; xchg edx, ecx; int 0x80; pop rbx; ret
_CALL32 = bytes.fromhex("53 89f8 89f3 87d1 cd80 5b c3")


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


def _call32(*arguments: int, data: bytes = b"") -> int:
    """A system call of 32-bit x86 by `int 0x80`. The first argument 0 in `data` stands for its address, below 4 GiB."""
    if os.uname().machine != "x86_64":
        raise Unavailable("a 64-bit process of this architecture cannot make 32-bit calls")
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_32BIT
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError as error:
        raise Unavailable("memory cannot be made executable here") from error
    page.write(_CALL32.ljust(64, b"\x90") + data)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    function = ctypes.CFUNCTYPE(ctypes.c_int32, *(ctypes.c_uint32,) * 4)(address)
    given = [address + 64 if value < 0 else value for value in arguments]
    result = int(function(*given, *(0,) * (4 - len(given))))
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def _abi32_socket(_context: ProbeContext, _name: str) -> str:
    # int socket(int domain, int type, int protocol);
    return in_fork(lambda: f"opened {_call32(_SOCKET_I386, socket.AF_INET, socket.SOCK_STREAM, 0)}")


def _abi32_socketcall(_context: ProbeContext, _name: str) -> str:
    # int socketcall(int call, unsigned long *args);
    numbers = (socket.AF_INET, socket.SOCK_STREAM, 0)
    data = b"".join(number.to_bytes(4, "little") for number in numbers)
    return in_fork(lambda: f"opened {_call32(_SOCKETCALL_I386, _SYS_SOCKET, -1, data=data)}")


def _x32(_context: ProbeContext, _name: str) -> str:
    if os.uname().machine != "x86_64":
        raise Unavailable("only x86-64 has it")
    os.close(call_number(_X32_BIT | _SOCKET_X86_64, socket.AF_INET, socket.SOCK_STREAM, 0))
    return "opened"


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
    fcntl.ioctl(context.terminal, _TIOCSTI, b"x")
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
    Probe("abi32-socket", "the 32-bit ABI: socket by int 0x80", _abi32_socket, is_linux_only=True),
    Probe("abi32-socketcall", "the 32-bit ABI: socketcall by int 0x80", _abi32_socketcall, is_linux_only=True),
    Probe("x32", "the x32 ABI", _x32, is_linux_only=True),
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
