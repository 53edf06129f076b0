"""Landlock: which files the sealed process may write, and TCP denied a second time.

Knows: the versions of Landlock and what each can refuse. Of versions 8 to 10 slm uses nothing: local sockets by path
and UDP, which they can refuse, are seccomp's already.
Refuses to know: which places those are (linux.py), sockets in general (seccomp.py).

Reading and executing stay free: models lie anywhere. Landlock holds for the thread that calls it, and for the threads
and children which that thread starts afterwards; the seal is therefore closed before slm starts any thread.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from slmchat.privacy import android
from slmchat.privacy.steps import NotOffered

# asm-generic/unistd.h; the same numbers on every architecture
_NR_CREATE_RULESET, _NR_ADD_RULE, _NR_RESTRICT_SELF = 444, 445, 446

# linux/landlock.h
_CREATE_RULESET_VERSION = 1 << 0
_RULE_PATH_BENEATH, _RULE_NET_PORT = 1, 2

_FS_WRITE_FILE = 1 << 1
_FS_REMOVE_DIR = 1 << 4
_FS_REMOVE_FILE = 1 << 5
_FS_MAKE_CHAR = 1 << 6
_FS_MAKE_DIR = 1 << 7
_FS_MAKE_REG = 1 << 8
_FS_MAKE_SOCK = 1 << 9
_FS_MAKE_FIFO = 1 << 10
_FS_MAKE_BLOCK = 1 << 11
_FS_MAKE_SYM = 1 << 12
_FS_REFER = 1 << 13  # ABI 2: rename and link into another directory
_FS_TRUNCATE = 1 << 14  # ABI 3
_FS_IOCTL_DEV = 1 << 15  # ABI 5: ioctl on devices

_NET_BIND_TCP, _NET_CONNECT_TCP = 1 << 0, 1 << 1  # ABI 4
_SCOPE_ABSTRACT_UNIX_SOCKET, _SCOPE_SIGNAL = 1 << 0, 1 << 1  # ABI 6

_OF_FILES = _FS_WRITE_FILE | _FS_TRUNCATE | _FS_IOCTL_DEV
_IN_DIRECTORIES = _FS_REMOVE_DIR | _FS_REMOVE_FILE | _FS_MAKE_DIR | _FS_MAKE_REG | _FS_MAKE_SYM | _FS_REFER
# Handled and never granted: slm makes no devices, named pipes or socket files.
_NEVER = _FS_MAKE_CHAR | _FS_MAKE_SOCK | _FS_MAKE_FIFO | _FS_MAKE_BLOCK

TCP_ABI = 4
SCOPE_ABI = 6


class _RulesetAttr(ctypes.Structure):
    # struct landlock_ruleset_attr { __u64 handled_access_fs; __u64 handled_access_net; __u64 scoped; };
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneathAttr(ctypes.Structure):
    # struct landlock_path_beneath_attr { __u64 allowed_access; __s32 parent_fd; } __attribute__((packed));
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


class _NetPortAttr(ctypes.Structure):
    # struct landlock_net_port_attr { __u64 allowed_access; __u64 port; };
    _fields_ = (("allowed_access", ctypes.c_uint64), ("port", ctypes.c_uint64))


def abi() -> int:
    """The version of Landlock in this kernel. Raises `NotOffered`: before 5.13, switched off at boot, or Android."""
    if not android.is_survived(_version):
        raise NotOffered("Android does not let apps use it")
    version = _version()
    if version < 1:
        number = ctypes.get_errno()
        reason = {
            errno.ENOSYS: "this kernel does not have it",
            errno.EOPNOTSUPP: "it is switched off in this kernel (the boot option lsm= enables it)",
        }.get(number, os.strerror(number))
        raise NotOffered(reason)
    return version


def _version() -> int:
    # int landlock_create_ruleset(const struct landlock_ruleset_attr *attr, size_t size, __u32 flags);
    return _call(_NR_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)


def restrict(places: Iterable[Path], *, has_scopes: bool, port: int | None = None) -> int:
    """Deny writing outside `places` and all of TCP; with `has_scopes` also signals and abstract sockets outside.

    `port`: connections to this TCP port stay allowed, whatever the host.
    A place that does not exist is left out. Returns the version used. Raises `NotOffered`.
    """
    version = abi()
    handled = _OF_FILES | _IN_DIRECTORIES | _NEVER
    for needed, right in ((2, _FS_REFER), (3, _FS_TRUNCATE), (5, _FS_IOCTL_DEV)):
        if version < needed:
            handled &= ~right
    attr = _RulesetAttr(
        handled, _NET_BIND_TCP | _NET_CONNECT_TCP if version >= TCP_ABI else 0, _scopes(version) if has_scopes else 0
    )
    ruleset = _ruleset(attr)
    try:
        for place in places:
            _allow(ruleset, place, handled & ~_NEVER)
        if port is not None and version >= TCP_ABI:
            _allow_port(ruleset, port)
        _restrict_self(ruleset)
    finally:
        os.close(ruleset)
    return version


def restrict_scopes() -> int:
    """Deny signals and abstract sockets outside, on top of an earlier `restrict`. Raises `NotOffered`."""
    version = abi()
    if version >= SCOPE_ABI:
        ruleset = _ruleset(_RulesetAttr(0, 0, _scopes(version)))
        try:
            _restrict_self(ruleset)
        finally:
            os.close(ruleset)
    return version


def _scopes(version: int) -> int:
    return _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL if version >= SCOPE_ABI else 0


def _ruleset(attr: _RulesetAttr) -> int:
    # Fields that an older kernel does not know are 0, which it accepts.
    descriptor = _call(_NR_CREATE_RULESET, ctypes.byref(attr), ctypes.sizeof(attr), 0)
    if descriptor < 0:
        raise NotOffered(os.strerror(ctypes.get_errno()))
    return descriptor


def _allow(ruleset: int, place: Path, access: int) -> None:
    try:
        beneath = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            access &= _OF_FILES
        # int landlock_add_rule(int ruleset_fd, enum landlock_rule_type type, const void *attr, __u32 flags);
        rule = _PathBeneathAttr(access, beneath)
        if _call(_NR_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0) != 0:
            raise NotOffered(f"no rule for {place}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(beneath)


def _allow_port(ruleset: int, port: int) -> None:
    rule = _NetPortAttr(_NET_CONNECT_TCP, port)
    if _call(_NR_ADD_RULE, ruleset, _RULE_NET_PORT, ctypes.byref(rule), 0) != 0:
        raise NotOffered(f"no rule for port {port}: {os.strerror(ctypes.get_errno())}")


def _restrict_self(ruleset: int) -> None:
    # int landlock_restrict_self(int ruleset_fd, __u32 flags);  needs no_new_privs, which the filter has set
    if _call(_NR_RESTRICT_SELF, ruleset, 0) != 0:
        raise NotOffered(os.strerror(ctypes.get_errno()))


def _call(number: int, *arguments: object) -> int:
    # long syscall(long number, ...);
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    widened = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return int(libc.syscall(ctypes.c_long(number), *widened))
