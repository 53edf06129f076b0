"""The seal on macOS: the kernel's sandbox with the network denied.

Knows: one profile and the call that applies it to this process and its children.
Refuses to know: files; reading and writing them stays free.

Written after Apple's manual page and not run on a machine of ours. Apple has marked `sandbox_init` as deprecated
since 10.8 and still ships it; where it is gone, slm falls back on the in-process guard and says so.
A sandboxed process can still ask system services through Mach messages; the profile leaves them, for the GPU needs
some of them.
"""

import ctypes
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from slmchat.privacy import inherited
from slmchat.privacy.steps import Closed, KeptSockets, NotOffered, Step

# network* is every family, AF_UNIX by path included. A GPU is reached through IOKit, not sockets: no second step.
PROFILE = b"(version 1)(allow default)(deny network*)"
# A server's: what listens already may take connections in. Nothing can be bound or connected.
_PROFILE_OF_A_SERVER = b"(version 1)(allow default)(deny network-outbound)(deny network-bind)"


class MacOS:
    """`sandbox_init`; both steps are closed by the first call."""

    is_enforced_by_kernel = True

    def __init__(self, kept: KeptSockets | None = None) -> None:
        """`kept`: sockets that stay open."""
        self._kept = kept or KeptSockets()

    def close(self, steps: AbstractSet[Step], writable: Sequence[Path]) -> Closed:
        """Deny the network to this process and its children. Raises `NotOffered`."""
        details = [
            "the macOS sandbox denies the network; files can be written anywhere",
            "system services can still be asked through Mach messages",
        ]
        if Step.NETWORK in steps:
            _sandbox_init(_PROFILE_OF_A_SERVER if self._kept.listening else PROFILE)
            replaced = inherited.replace_sockets(self._kept.all)
            if replaced:
                details.append(f"sockets that were open before, now closed: {replaced}")
        return Closed("macOS sandbox", tuple(details))


def _sandbox_init(profile: bytes) -> None:
    try:
        library = ctypes.CDLL("/usr/lib/libSystem.dylib", use_errno=True)
        sandbox_init, sandbox_free_error = library.sandbox_init, library.sandbox_free_error
    except (OSError, AttributeError) as error:
        raise NotOffered("this macOS has no sandbox_init") from error
    # int sandbox_init(const char *profile, uint64_t flags, char **errorbuf);  (sandbox.h)
    sandbox_init.argtypes = (ctypes.c_char_p, ctypes.c_uint64, ctypes.POINTER(ctypes.c_char_p))
    sandbox_init.restype = ctypes.c_int
    # void sandbox_free_error(char *errorbuf);
    sandbox_free_error.argtypes = (ctypes.c_char_p,)
    sandbox_free_error.restype = None
    message = ctypes.c_char_p()
    if sandbox_init(profile, 0, ctypes.byref(message)) != 0:
        reason = (message.value or b"no reason given").decode("utf-8", "replace")
        sandbox_free_error(message)
        raise NotOffered(f"sandbox_init failed: {reason}")
