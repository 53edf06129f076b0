"""The words that the seal and its mechanisms share.

Refuses to know: how any system does it.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol


class Step(Enum):
    """The seal closes in steps where a GPU driver needs more to start than a model does, else in one."""

    NETWORK = "network"  # every family of sockets but AF_UNIX, and the ways around sockets
    FILES = "files"  # writing anywhere but in slm's own places
    LOCAL = "local"  # AF_UNIX as well, and the rest of what a driver may need


@dataclass(frozen=True, slots=True)
class KeptSockets:
    """Descriptors of sockets that stay what they are behind the seal.

    `listening`: a server's, which may accept connections and nothing else may. `connected`: streams to a program of
    this user on this device, opened before.
    """

    listening: tuple[int, ...] = ()
    connected: tuple[int, ...] = ()

    @property
    def all(self) -> tuple[int, ...]:
        return (*self.listening, *self.connected)


class NotOffered(Exception):
    """The system does not have this mechanism, or does not let this process use it; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Closed:
    """What a mechanism has done. `writable` None: files can be written anywhere.

    `gaps`: ways out that it cannot close in this process or on this system, in words.
    """

    name: str
    details: tuple[str, ...]
    landlock_abi: int | None = None
    writable: tuple[Path, ...] | None = None
    gaps: tuple[str, ...] = ()


class Mechanism(Protocol):
    """One way of closing the network on one system."""

    @property
    def is_enforced_by_kernel(self) -> bool: ...

    def close(self, steps: AbstractSet[Step], writable: Sequence[Path]) -> Closed:
        """Close these steps for the whole process. Raises `NotOffered`."""
        ...
