"""A download that was cut: the bytes that are here, and how far they are known to be the server's.

A power cut leaves a file whose end may be zeros, or something else. Found only by the hash at the end, it would cost
the whole download. So going on begins a little before the end: what the server sends again must be what is here, and
where it is not, the damage is cut off and the server's bytes take its place.

Knows: the file, what of it is proven, how to step back when not even the beginning of the second look fits.
Refuses to know: HTTP (hub.py), whether the whole is right (fetching.py hashes it).
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from slmchat.private_files import open_below, remove_below

# Bytes that are asked for again at first. A second look at 256 KiB costs a slow line (1 MB/s) a quarter of a second.
OVERLAP = 256 << 10
# How much longer the next look back is. A disk loses up to half a minute of writing: 4 MiB, 64 MiB, 1 GiB.
_LONGER = 16
# So many equal bytes tell that what stands before them is right, and the damage begins behind them.
_PROOF = 64 << 10


class StepBack(Exception):
    """The damage begins before what was looked at again: ask for the bytes from `PartialFile.next_start` on."""


class TooLong(Exception):
    """More bytes came than the file has."""


class PartialFile:
    """The file at `path` below `root`, the Hub's cache; it is made when the first byte comes."""

    def __init__(self, root: Path, path: Path) -> None:
        self.path = path
        self._root = root
        self._overlap = OVERLAP
        self._first = self._checked = max(0, self.size - OVERLAP)

    @property
    def size(self) -> int:
        """Bytes that are here; 0 when it does not exist."""
        try:
            return self.path.lstat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return 0

    @property
    def next_start(self) -> int:
        """From which byte on to ask: behind what is here and has been seen to be the server's."""
        return self._checked

    def restart(self) -> None:
        """Forget what is here. Raises `OSError`, `SlmError`."""
        remove_below(self._root, self.path)
        self._first = self._checked = 0

    def receive(self, start: int, blocks: Iterable[bytes], most: int, moved: Callable[[int], None]) -> None:
        """Take the server's bytes from `start` on; `moved` is told how many are here. As they come: a cut loses none.

        Raises `TooLong` when the file would get more than `most` bytes, `StepBack`, `OSError`, `SlmError`.
        """
        if start != self._checked:  # the server sends the whole file again
            self._first = self._checked = start
        with open_below(self._root, self.path) as file:
            here = os.fstat(file.fileno()).st_size
            for block in blocks:
                if self._checked + len(block) > most:
                    raise TooLong
                if self._checked < here:
                    block, here = self._compared(file, block, here)
                if block:
                    file.seek(self._checked)
                    file.write(block)
                    self._checked += len(block)
                moved(max(self._checked, here))
            file.flush()
            os.fsync(file.fileno())

    def _compared(self, file: IO[bytes], block: bytes, here: int) -> tuple[bytes, int]:
        """What of the block goes behind the bytes that are here, and how many those are now. Raises `StepBack`."""
        file.seek(self._checked)
        known = file.read(min(len(block), here - self._checked))
        same = len(known)
        if not block.startswith(known):
            same = next(place for place, (one, other) in enumerate(zip(known, block, strict=False)) if one != other)
        self._checked += same
        if same == len(known):
            return block[same:], here
        if self._first > 0 and self._checked - self._first < _PROOF:
            file.truncate(self._first)
            self._overlap *= _LONGER
            self._first = self._checked = max(0, self._first - self._overlap)
            raise StepBack
        file.truncate(self._checked)
        return block[same:], self._checked
