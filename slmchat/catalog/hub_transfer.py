"""The bytes of files of one commit on the Hub: a header alone, or a whole file, also after the connection was cut.

The download is a ranged GET into `<sha256>.slm.incomplete` beside the blobs of the Hub's cache: since huggingface_hub 2
its own download starts again after a kill. Every GET begins at the Hub, which answers with an address at its storage
that is valid for an hour: a download that goes on after a cut never uses an old address.

Knows: how to go on with a download that was cut, what may go wrong at the storage, and that this is not the Hub's word.
Refuses to know: which files a repository has (hub.py), where a finished file goes (hub_cache.py), whether the bytes are
right (fetching.py).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

from slmchat.catalog import hub_client
from slmchat.catalog.fetching import space_free
from slmchat.catalog.gguf import read_remote_header
from slmchat.catalog.gguf_header import Header
from slmchat.catalog.hub_client import hub_package as _hub
from slmchat.catalog.partial import PartialFile, StepBack, TooLong
from slmchat.catalog.sources import BLOCK, FetchPlan, Unreachable
from slmchat.catalog.untrusted import MOST_BYTES, HubHeaders, MalformedAnswer, PlannedFile, content_range
from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass
from slmchat.wording import in_bytes

WAITS = (0.2, 1.0, 3.0, 6.0)
"""Seconds before the next try after a cut connection. Each stretch of `FRESH_START` new bytes starts over."""

FRESH_START = 8 * BLOCK

# What a storage answers for an address that is no longer valid (S3 and CloudFront: 403; others 400, 401, 404, 410).
_EXPIRED = (400, 401, 403, 404, 410)

# Bytes of the disk that a file of unknown size leaves free.
_RESERVE = 64 << 20


class _Cut(Exception):
    """The connection ended before the file did."""


class _Refused(_Cut):
    """The storage did not send the file; the text is the sentence for it."""


@dataclass(frozen=True, slots=True)
class HubTransfer:
    """Files of `repo` at `commit`. `command`: what hints repeat. `is_dataset`: the repository is one of data.

    Errors are the client's own, besides `SlmError`.
    """

    endpoint: str
    host: str
    repo: str
    commit: str
    command: str
    is_dataset: bool = False

    def header(self, file: PlannedFile, most_bytes: int) -> Header | None:
        """The header of a file of `most_bytes` bytes at most; None when the server does not send parts of a file."""
        name = f"{self.host} {self.repo} {file.name}"
        return read_remote_header(lambda start, end: self._part(file, start, end), most_bytes, name=name)

    def download(self, plan: FetchPlan, file: PlannedFile, partial: PartialFile, moved: Callable[[int], None]) -> None:
        """Bring what is missing of a file; `moved` is told how many bytes of it are here.

        Raises `SlmError` (damaged, storage), `Unreachable` after too many cuts, and the client's errors.
        """
        size = most = self._stated_size(file)
        if size is None:
            partial.restart()  # nobody can say whether it is whole
            most = self._most_bytes(plan, file)
        elif file.size is None and size - partial.size > _room(plan):  # with a size of the listing it was checked
            raise _no_room(file, plan)
        cuts: tuple[type[Exception], ...] = (_Cut, *hub_client.transport_errors())
        failures = 0
        start = partial.size
        while True:
            try:
                self._stream(plan, file, partial, size, most or 0, moved)
                return
            except StepBack:
                continue
            except cuts as error:
                if getattr(error, "response", None) is not None:  # an answer of the Hub, not a cut
                    raise
                reached = partial.size
                failures = 0 if reached - start >= FRESH_START else failures + 1
                start = reached
                if failures > len(WAITS):
                    raise self._given_up(error, failures, reached) from error
                time.sleep(WAITS[max(failures - 1, 0)])

    def _given_up(self, error: Exception, failures: int, reached: int) -> Unreachable:
        message = f"the connection to {self.host} was cut {failures} times, {reached} bytes came."
        return Unreachable(
            str(error) if isinstance(error, _Refused) else message, hint=f"{self.command} (goes on where it stopped)"
        )

    def _part(self, file: PlannedFile, start: int, end: int) -> bytes:
        """Bytes of the file from `start` to before `end`; none when the server does not do ranges."""
        with self._opened(file, f"bytes={start}-{end - 1}") as response:
            hub_client.check_status(response, (200, 206))
            if _start_of(response, file.size) != start:
                return b""
            data = bytearray()
            for block in hub_client.blocks(response):
                data += block
                if len(data) >= end - start:
                    break
            return bytes(data[: end - start])

    def _url(self, file: PlannedFile) -> str:
        place = f"datasets/{self.repo}" if self.is_dataset else self.repo
        return f"{self.endpoint}/{place}/resolve/{self.commit}/{quote(file.name)}"

    @contextmanager
    def _opened(self, file: PlannedFile, range: str | None) -> Iterator[Any]:
        """A GET of the file. Seconds without a byte: users set them as HF_HUB_DOWNLOAD_TIMEOUT."""
        timeout = _hub().constants.HF_HUB_DOWNLOAD_TIMEOUT
        headers = {"Range": range} if range else {}
        with hub_client.opened(self._url(file), headers, timeout_s=timeout) as response:
            yield response

    def _stated_size(self, file: PlannedFile) -> int | None:
        """Ask the Hub about the file at the pinned revision, before its bytes: it may have been replaced.

        Bytes of the file; None when nobody states them.
        """
        hub = _hub()
        metadata = hub.get_hf_file_metadata(self._url(file), timeout=hub.constants.HF_HUB_ETAG_TIMEOUT)
        stated = HubHeaders.of(metadata.size, metadata.etag)
        if stated.sha256 not in (None, file.sha256):
            raise SlmError(
                f"the Hub has another {file.name} at this revision: sha256 {stated.sha256}, expected {file.sha256}.",
                exit_code=ExitCode.DAMAGED,
            )
        if stated.size is not None and file.size is not None and stated.size != file.size:
            raise SlmError(
                f"the Hub's {file.name} has {stated.size} bytes, expected {file.size}.", exit_code=ExitCode.DAMAGED
            )
        return file.size if file.size is not None else stated.size

    def _most_bytes(self, plan: FetchPlan, file: PlannedFile) -> int:
        """The bound of a file whose size nobody states: what its header adds up to, and what the disk has room for.

        Raises `SlmError` (storage) when it cannot fit.
        """
        room = _room(plan)
        header = self.header(file, MOST_BYTES)
        if header is None or not header.is_whole or header.unknown_types:
            return room
        needed = _end_of(header)
        if needed > room:
            raise _no_room(file, plan)
        return needed

    def _stream(
        self,
        plan: FetchPlan,
        file: PlannedFile,
        partial: PartialFile,
        size: int | None,
        most: int,
        moved: Callable[[int], None],
    ) -> None:
        """One GET of what is missing. Raises `_Cut` when bytes are missing after it, `StepBack`."""
        if size is not None and partial.size > size:
            partial.restart()
        if partial.size == size:  # its hash will tell
            return
        start = partial.next_start
        with self._opened(file, f"bytes={start}-" if start else None) as response:
            self._check_storage(response)
            hub_client.check_status(response, (200, 206))
            begins = _start_of(response, size)
            if begins not in (0, start):  # 0: the server does not do ranges, the whole file comes again
                raise MalformedAnswer("it sends another part of the file than the one asked for")
            try:
                partial.receive(begins, hub_client.blocks(response), most, moved)
            except TooLong as error:
                if size is None and most >= _room(plan):
                    raise _no_room(file, plan) from error
                raise SlmError(
                    f"{self.host} sent more bytes than {file.name} has.", exit_code=ExitCode.DAMAGED
                ) from error
        if size is not None and partial.size < size:
            raise _Cut(f"{partial.size} of {size} bytes came")

    def _check_storage(self, response: Any) -> None:
        """Raises `_Refused` for an answer that another try may mend: trouble, or an address that is no longer valid."""
        status = response.status_code
        storage = urlsplit(str(response.url)).netloc.rpartition("@")[2]
        is_elsewhere = storage != self.host
        where = f"the Hub's storage ({storage})" if is_elsewhere else self.host
        if status >= 500:
            raise _Refused(f"{where} answers with an error ({status}).")
        if is_elsewhere and status in _EXPIRED:
            raise _Refused(f"{where} refuses the download ({status}); each new address for it was refused as well.")


def _start_of(response: Any, size: int | None) -> int:
    """At which byte of the file an answer begins. Raises `MalformedAnswer` when the file has not `size` bytes."""
    start, whole = content_range(response.headers.get("Content-Range")) if response.status_code == 206 else (0, None)
    length = response.headers.get("Content-Length", "")
    if whole is None and response.status_code == 200 and length.isdecimal():
        whole = int(length[:20])
    if size is not None and whole not in (None, size):
        raise MalformedAnswer(f"it sends a file of {whole} bytes for one of {size}")
    return start


def _end_of(header: Header) -> int:
    """Bytes of the whole file, by its header: where the last tensor ends, with the padding behind it."""
    alignment = header.metadata.get("general.alignment", 32)
    assert isinstance(alignment, int)  # the header was refused otherwise
    last = max((tensor.offset + (tensor.size or 0) for tensor in header.tensors), default=0)
    return header.data_offset + last + alignment


def _room(plan: FetchPlan) -> int:
    """Bytes that a file whose size the listing does not state may take."""
    return max(space_free(plan) - _RESERVE, 0)


def _no_room(file: PlannedFile, plan: FetchPlan) -> SlmError:
    return SlmError(
        f"{file.name} has no room on the disk of {plan.place}, where {in_bytes(space_free(plan))} are free.",
        hint="slm rm NAME frees the space of a model",
        exit_code=ExitCode.STORAGE,
    )
