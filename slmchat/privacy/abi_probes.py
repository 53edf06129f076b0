"""Ways around the filter by another ABI: a kernel of 64 bits also takes system calls under other numbers.

Knows: how each processor makes such a call. On x86 any process can (`int 0x80`, the bit of x32), on Arm a program of
32 bits alone.
Refuses to know: whether there is a seal.
"""

import ctypes
import errno
import mmap
import os
import signal
import socket
import struct
import subprocess

from slmchat.privacy.probe_context import Probe, ProbeContext, Unavailable, call_number, in_fork

_X32_BIT = 0x40000000  # asm/unistd.h: __X32_SYSCALL_BIT
_SOCKET_X86_64 = 41
_SOCKET_I386, _SOCKETCALL_I386, _SYS_SOCKET = 359, 102, 1  # asm/unistd_32.h, linux/net.h
_MAP_32BIT = 0x40  # asm/mman.h: below 4 GiB

# int32_t call32(int32_t eax, int32_t ebx, int32_t ecx, int32_t edx), called as System V wants it (edi, esi, edx, ecx):
#   push rbx; mov eax, edi; mov ebx, esi; xchg edx, ecx; int 0x80; pop rbx; ret
_CALL32 = bytes.fromhex("53 89f8 89f3 87d1 cd80 5b c3")

# socket(AF_INET, SOCK_STREAM, 0), number 281; -EPERM: an undefined instruction, since exit() would be refused as well;
# else exit(its error, or 0), number 1
#   mov r0, #2; mov r1, #1; mov r2, #0; mov r7, #255; add r7, r7, #26; svc #0; cmn r0, #1; bne 1f; udf #0;
#   1: rsbs r0, r0, #0; movlt r0, #0; mov r7, #1; svc #0
_CODE_ARM = bytes.fromhex(
    "0200a0e3 0110a0e3 0020a0e3 ff70a0e3 1a7087e2 000000ef 010070e3 0000001a f000f0e7"
    "000070e2 0000a0b3 0170a0e3 000000ef"
)
_AT, _HEADERS = 0x20000, 52 + 2 * 32  # where the program is mapped; Elf32_Ehdr and two Elf32_Phdr (linux/elf.h)
_PT_LOAD, _PT_GNU_STACK, _READ_RUN, _READ_WRITE = 1, 0x6474E551, 5, 6  # linux/elf.h


def _program_arm() -> bytes:
    """A whole program: ELF of 32 bits for EM_ARM (40) with EF_ARM_EABI_VER5, and a stack that is not run."""
    size = _HEADERS + len(_CODE_ARM)
    identity = b"\x7fELF\1\1\1".ljust(16, b"\0")
    file = struct.pack("<16s2H5I6H", identity, 2, 40, 1, _AT + _HEADERS, 52, 0, 5 << 24, 52, 32, 2, 0, 0, 0)
    code = struct.pack("<8I", _PT_LOAD, 0, _AT, _AT, size, size, _READ_RUN, 0x10000)
    return file + code + struct.pack("<8I", _PT_GNU_STACK, 0, 0, 0, 0, 0, _READ_WRITE, 16) + _CODE_ARM


def _socket_arm() -> str:
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # its end is meant
        program = os.memfd_create("slm-privacy")
        try:
            os.write(program, _program_arm())
            done = subprocess.run([f"/proc/self/fd/{program}"], pass_fds=(program,), check=False)
        finally:
            os.close(program)
    except (OSError, AttributeError) as error:  # a processor or a kernel of 64 bits alone, or no files in memory
        raise Unavailable("no program of 32 bits can be started here") from error
    if done.returncode == -signal.SIGILL:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    if done.returncode:
        raise OSError(done.returncode, f"the program ended with {done.returncode}")
    return "opened"


def _call32(*arguments: int, data: bytes = b"") -> int:
    """A system call of 32-bit x86 by `int 0x80`. The first argument 0 in `data` stands for its address, below 4 GiB."""
    if os.uname().machine != "x86_64":
        raise Unavailable("only x86-64 has it")
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
    if os.uname().machine == "aarch64":
        return _socket_arm()
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


PROBES = (
    Probe("abi32-socket", "the 32-bit ABI: socket", _abi32_socket, is_linux_only=True),
    Probe("abi32-socketcall", "the 32-bit ABI: socketcall", _abi32_socketcall, is_linux_only=True),
    Probe("x32", "the x32 ABI", _x32, is_linux_only=True),
)
