"""The verdict: whether a model fits, how large its context window can be, how many layers go to a GPU.

Knows: arithmetic over a shape and amounts of memory. Refuses to know: where those numbers come from.
"""

from dataclasses import replace
from enum import StrEnum

from slmchat.fit.memory import CTX_STEP, MIB, Load, MemoryNeed, memory
from slmchat.fit.shape import ModelShape
from slmchat.lazy_dataclasses import dataclass

USEFUL_CTX = 2048
"""A context window worth having, in tokens: a page of text and an answer to it."""

SMALLEST_CTX = 512
"""Below this no conversation gets anywhere; a window is not made smaller to make a model fit."""

DEFAULT_LARGEST_CTX = 8192
"""What a chat takes when nobody asks for another and memory allows it; `--ctx` goes further."""

_LARGEST_CTX = 1 << 20  # where a header states no trained length


class FitVerdict(StrEnum):
    """What becomes of a model on this device."""

    FITS = "fits"
    TIGHT = "tight"  # fits, with nothing to spare for other programs
    PAGES = "pages from disk"  # works, slowly: experts that do not fit are read again
    NO = "does not fit"


@dataclass(frozen=True, slots=True)
class Room:
    """Memory of a device in bytes. `address_space`: what RLIMIT_AS leaves, None without one; `gpu`: free there."""

    available: int
    total: int
    address_space: int | None = None
    gpu: int = 0

    @property
    def headroom(self) -> int:
        """What stays free for the system and other programs: a sixteenth of all, 128 MiB to 1 GiB."""
        return min(max(self.total // 16, 128 * MIB), 1024 * MIB)


@dataclass(frozen=True, slots=True)
class Paged:
    """What a token reads from the disk: so many pieces (matrices of single experts), each of so many bytes."""

    pieces: float
    piece_bytes: int


@dataclass(frozen=True, slots=True)
class FitPlan:
    """A verdict with its numbers."""

    verdict: FitVerdict
    load: Load
    memory: MemoryNeed
    shape: ModelShape
    room: Room

    @property
    def largest_ctx(self) -> int:
        """The largest context that fits, 0 when none does. Searched for at every call."""
        return largest_ctx(self.shape, self.load, self.room)

    @property
    def paged(self) -> "Paged":
        """What one token reads from the disk; nothing of a model that is in memory."""
        experts = [matrix for matrix in self.shape.matrices if matrix.active_bytes < matrix.bytes]
        total = sum(matrix.bytes for matrix in experts)
        used = len(experts) * self.shape.experts_used
        if self.verdict is not FitVerdict.PAGES or not used:
            return Paged(0.0, 0)
        # Every token reads all else, which stays; experts are chosen evenly, so that of those chosen as many are there
        # as of all.
        kept = self.room.available - self.memory.anonymous - (self.memory.weights - total)
        return Paged(used * (1 - min(1.0, max(0.0, kept / total))), sum(m.active_bytes for m in experts) // used)

    @property
    def is_possible(self) -> bool:
        return self.verdict is not FitVerdict.NO


def plan(shape: ModelShape, load: Load, room: Room) -> FitPlan:
    """The verdict on one load, with what makes it fit.

    Per-layer embeddings stay on the disk where they would not fit comfortably: a tenth of the speed for up to half of
    the weights. A mixture of experts that only fits by paging is planned without repacked copies.
    """
    verdict, chosen = _judged(shape, load, room)
    return FitPlan(verdict, chosen, memory(shape, chosen), shape, room)


def _judged(shape: ModelShape, load: Load, room: Room) -> tuple[FitVerdict, Load]:
    verdict = _in_memory(memory(shape, load), room)
    if verdict is not FitVerdict.FITS and shape.lazy_bytes and not load.is_lazy:
        load = replace(load, is_lazy=True)
        verdict = _in_memory(memory(shape, load), room)
    if verdict is not FitVerdict.NO or not shape.is_mixture:
        return verdict, load
    in_file = replace(load, is_repacked=False)
    paged = memory(shape, in_file)
    # what every token reads has to stay; of the weights that is at least the part of the experts it uses
    active = min(shape.active_bytes, paged.weights)
    if _is_addressable(memory(shape, load), room) and paged.anonymous + active <= room.available:
        return FitVerdict.PAGES, in_file
    return FitVerdict.NO, load


def _in_memory(need: MemoryNeed, room: Room) -> FitVerdict:
    if _is_addressable(need, room):
        if need.needed + room.headroom <= room.available:
            return FitVerdict.FITS
        if need.needed <= room.available:
            return FitVerdict.TIGHT
    return FitVerdict.NO


def _is_addressable(need: MemoryNeed, room: Room) -> bool:
    """Whether the address space and the memory of the GPU hold it."""
    return (room.address_space is None or need.address_space <= room.address_space) and need.gpu <= room.gpu


def largest_ctx(shape: ModelShape, load: Load, room: Room, *, limit: int | None = None) -> int:
    """The largest context window, in steps of 256 tokens and up to the trained length, with which it fits; 0: none."""
    top = min(limit or _LARGEST_CTX, shape.context_length or _LARGEST_CTX)
    if _is_possible(shape, replace(load, n_ctx=top), room):
        return top
    low, high = 0, -(-top // CTX_STEP)
    while high - low > 1:  # low fits (or is 0), high does not
        middle = (low + high) // 2
        if _is_possible(shape, replace(load, n_ctx=middle * CTX_STEP), room):
            low = middle
        else:
            high = middle
    return low * CTX_STEP


def _is_possible(shape: ModelShape, load: Load, room: Room) -> bool:
    return _judged(shape, load, room)[0] is not FitVerdict.NO


def choose_ctx(shape: ModelShape, load: Load, room: Room) -> int:
    """The window to take when nobody asks: as large as is comfortable, else as fits, at least `SMALLEST_CTX`."""
    top = min(DEFAULT_LARGEST_CTX, shape.context_length or DEFAULT_LARGEST_CTX)
    comfortable = replace(room, available=max(0, room.available - room.headroom))
    for space in (comfortable, room):
        found = largest_ctx(shape, load, space, limit=top)
        if found >= min(SMALLEST_CTX, top):
            return found
    return min(SMALLEST_CTX, top)


def choose_gpu_layers(shape: ModelShape, load: Load, free: int) -> int:
    """How many layers fit into `free` bytes of GPU memory; one more than there are: the output matrix too.

    The buffers of a GPU are really taken, so that the whole reserve of the compute buffer counts.
    """
    low, high = 0, len(shape.layers) + 2
    while high - low > 1:
        middle = (low + high) // 2
        if memory(shape, replace(load, gpu_layers=middle)).gpu <= free:
            low = middle
        else:
            high = middle
    return low
