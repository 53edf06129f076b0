"""The Hugging Face Hub as a source.

Knows: which answers of the Hub say what a fetch brings, how to go on with a download that was cut.
Refuses to know: names of the catalog, what is installed, whether the bytes are right; the client (hub_client.py), the
layout of its cache (hub_cache.py), and what an answer may hold (untrusted.py).

The download itself is a ranged GET into `<sha256>.slm.incomplete` beside the blobs of the Hub's cache: since
huggingface_hub 2 its own download starts again after a kill. A finished and checked file is put where the Hub's client
looks for it, so other tools find the file as their own.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from slmchat.catalog import file_names, hub_client
from slmchat.catalog.fetching import space_free
from slmchat.catalog.gguf import Header, read_header, read_remote_header
from slmchat.catalog.hub_cache import CachedRepository, delete_cached
from slmchat.catalog.hub_client import hub_package as _hub
from slmchat.catalog.hub_client import is_safe as _is_safe
from slmchat.catalog.partial import PartialFile, StepBack, TooLong
from slmchat.catalog.registry import HubFile, License
from slmchat.catalog.sources import BLOCK, FetchedFile, Move, Plan, Unreachable
from slmchat.catalog.untrusted import (
    MOST_BYTES,
    HubHeaders,
    HubListing,
    Malformed,
    PlannedFile,
    content_range,
    is_commit,
)
from slmchat.errors import ExitCode, SlmError
from slmchat.wording import in_bytes

WAITS = (0.2, 1.0, 3.0, 6.0)
"""Seconds before the next try after a cut connection. Each stretch of `FRESH_START` new bytes starts over."""

FRESH_START = 8 * BLOCK

# Bytes of the disk that a file of unknown size leaves free.
_RESERVE = 64 << 20


class HubSource:
    """Files of one quantization in one repository.

    `command` is the `slm pull` command that hints repeat; `quantization` is used where `spec` names no file.
    """

    def __init__(self, spec: HubFile, command: str, quantization: str | None = None) -> None:
        self._spec = spec
        self._command = command
        self._quantization = quantization
        self._listed: list[str] = []
        self._commit: str | None = None
        self._endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
        self._host = urlsplit(self._endpoint).netloc.rpartition("@")[2] or self._endpoint
        self.label = f"{self._host} {spec.repo}" + (f" {spec.file}" if spec.file else "")

    def plan(self) -> Plan:
        if not _is_safe(self._endpoint):
            raise hub_client.not_safe(
                f"HF_ENDPOINT is {_without_login(self._endpoint)}", "HF_ENDPOINT=https://…, or unset it"
            )
        spec = self._spec
        names = file_names.parts_of(spec.file) if spec.file else ()
        is_pinned = spec.revision is not None and is_commit(spec.revision)
        if is_pinned and len(names) == 1 and spec.size is not None and spec.sha256 is not None:
            return self._planned(str(spec.revision), (PlannedFile(spec.file, spec.size, spec.sha256),), None)
        with self._door():
            listing = self._listing()
        self._listed, self._commit = listing.names, listing.commit
        names = names or self._chosen(listing.names)
        for name in names:
            if name not in listing.names:
                raise self._no_file(name, listing.names)
        with self._door():
            files = tuple(listing.file(name) for name in names)
        if spec.sha256 is not None and len(files) == 1:
            files = (self._agreed(files[0]),)
        return self._planned(listing.commit, files, _license(listing, spec.repo))

    def projector(self) -> "HubSource | None":
        """The projector of the same repository, at the same commit, if the repository was listed and has one."""
        name = file_names.projector_in(self._listed)
        if name is None or name == self._spec.file:
            return None
        return HubSource(HubFile(self._spec.repo, name, self._commit), self._command)

    def fetch(self, plan: Plan, workspace: Path, move: Move) -> tuple[FetchedFile, ...]:
        fetched = []
        before = 0
        for file in plan.files:
            fetched.append(self._fetched(plan, file, before, move))
            before += file.size or 0
        return tuple(fetched)

    def header(self, plan: Plan) -> Header | None:
        (file, *others) = plan.files
        if others or file.size is None:  # the tensors of the other parts stand in the other parts
            return None
        cached = self._here.find(_commit_of(plan), file)
        if cached is not None:
            return read_header(cached)
        with self._door():
            return self._remote_header(plan, file, file.size)

    def keep(self, plan: Plan, fetched: tuple[FetchedFile, ...], destination: Path) -> tuple[Path, ...]:
        """Publish the files in the Hub's cache; `destination` is not used, the cache has its own names."""
        return tuple(self._here.publish(_commit_of(plan), file.planned, file.path) for file in fetched)

    def discard(self, fetched: tuple[FetchedFile, ...]) -> None:
        for file in fetched:
            delete_cached(file.path)

    @property
    def _here(self) -> CachedRepository:
        return CachedRepository(hub_client.cache_directory(), self._spec.repo)

    def _listing(self) -> HubListing:
        """What the Hub says about the repository. Raises `Malformed`, and the client's errors."""
        revision = self._spec.revision
        at = f"/revision/{quote(revision, safe='')}" if revision else ""
        answer = hub_client.read_json(f"{self._endpoint}/api/models/{self._spec.repo}{at}?blobs=true")
        listing = HubListing.of(answer)
        if is_commit(revision) and listing.commit != revision:
            raise Malformed("it answers with another revision than the one asked for")
        return listing

    def _remote_header(self, plan: Plan, file: PlannedFile, size: int) -> Header | None:
        return read_remote_header(lambda start, end: self._part(plan, file, start, end), size, name=self.label)

    def _part(self, plan: Plan, file: PlannedFile, start: int, end: int) -> bytes:
        """Bytes of the file from `start` to before `end`; none when the server does not do ranges."""
        with self._opened(plan, file, f"bytes={start}-{end - 1}") as response:
            hub_client.check_status(response, (200, 206))
            if _start_of(response, None) != start:
                return b""
            data = bytearray()
            for block in hub_client.blocks(response):
                data += block
                if len(data) >= end - start:
                    break
            return bytes(data[: end - start])

    def _url(self, plan: Plan, file: PlannedFile) -> str:
        return f"{self._endpoint}/{self._spec.repo}/resolve/{_commit_of(plan)}/{quote(file.name)}"

    @contextmanager
    def _opened(self, plan: Plan, file: PlannedFile, range: str | None) -> Iterator[Any]:
        """A GET of the file. Seconds without a byte: users set them as HF_HUB_DOWNLOAD_TIMEOUT."""
        timeout = _hub().constants.HF_HUB_DOWNLOAD_TIMEOUT
        headers = {"Range": range} if range else {}
        with hub_client.opened(self._url(plan, file), headers, timeout_s=timeout) as response:
            yield response

    def _planned(self, commit: str, files: tuple[PlannedFile, ...], license: License | None) -> Plan:
        here = self._here
        present = 0
        for file in files:
            found = here.find(commit, file)
            if found is not None:
                present += found.stat().st_size
            elif file.sha256 is not None:
                present += PartialFile(here.cache, here.partial(file)).size
        return Plan(
            label=f"{self._host} {self._spec.repo} {files[0].name}",
            files=files,
            place=here.cache,
            lock_file=here.lock_file(commit, files[0]),
            quantization=file_names.quantization_of(files[0].name),
            revision=commit,
            license=license,
            present=present,
            is_shared=True,
        )

    def _chosen(self, names: list[str]) -> tuple[str, ...]:
        """The files of the quantization asked for, or of the preferred one. Raises `SlmError`."""
        models = file_names.models_in(names)
        chosen = file_names.choose(models, self._quantization)
        if chosen is not None:
            return file_names.parts_of(models[chosen])
        repo = self._spec.repo
        if not models:
            raise SlmError(
                f"{repo} has no GGUF file of a language model.",
                hint="look for a repository of the same name that ends in -GGUF",
                exit_code=ExitCode.NO_MODEL,
            )
        raise SlmError(
            f"{repo} has no {self._quantization}; it has {', '.join(sorted(models))}.",
            hint=f"slm pull hf:{repo}@{file_names.choose(models, None)}",
            exit_code=ExitCode.NO_MODEL,
        )

    def _no_file(self, name: str, names: list[str]) -> SlmError:
        models = file_names.models_in(names)
        return SlmError(
            f"{self._spec.repo} has no file {name}" + (f"; it has {', '.join(sorted(models))}." if models else "."),
            exit_code=ExitCode.NO_MODEL,
        )

    def _agreed(self, file: PlannedFile) -> PlannedFile:
        """The file with the hash of the catalog, which the Hub's own must not contradict."""
        expected = self._spec.sha256
        if file.sha256 is not None and file.sha256 != expected:
            raise SlmError(
                f"{self._spec.repo} now has another {file.name}: sha256 {file.sha256}, the catalog expects {expected}.",
                hint=f"if you trust the new file: slm pull hf:{self._spec.repo}/{file.name}",
                exit_code=ExitCode.DAMAGED,
            )
        return PlannedFile(file.name, file.size if file.size is not None else self._spec.size, expected)

    def _fetched(self, plan: Plan, file: PlannedFile, before: int, move: Move) -> FetchedFile:
        here = self._here
        cached = here.find(_commit_of(plan), file)
        if cached is not None:
            return FetchedFile(cached, file, was_there=True)
        if file.sha256 is None:
            raise SlmError(
                f"the Hub states no sha256 for {file.name}, so it cannot be checked.",
                hint="fetch it by other means and use its path as the model",
                exit_code=ExitCode.DAMAGED,
            )
        partial = PartialFile(here.cache, here.partial(file))
        is_resumed = partial.size > 0
        with self._door():
            size = most = self._stated_size(plan, file)
            if size is None:
                partial.restart()  # nobody can say whether it is whole
                most = self._most_bytes(plan, file)
            elif file.size is None and size - partial.size > _room(plan):  # with a size of the listing it was checked
                raise _no_room(file, plan)
            self._download(plan, file, partial, size, most or 0, lambda done: move(before + done, plan.size))
        return FetchedFile(partial.path, file, is_resumed=is_resumed)

    def _stated_size(self, plan: Plan, file: PlannedFile) -> int | None:
        """Ask the Hub about the file at the pinned revision, before its bytes: it may have been replaced.

        Bytes of the file; None when nobody states them.
        """
        hub = _hub()
        timeout = hub.constants.HF_HUB_ETAG_TIMEOUT
        metadata = hub.get_hf_file_metadata(self._url(plan, file), timeout=timeout)
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

    def _most_bytes(self, plan: Plan, file: PlannedFile) -> int:
        """The bound of a file whose size nobody states: what its header adds up to, and what the disk has room for.

        Raises `SlmError` (storage) when it cannot fit.
        """
        room = _room(plan)
        header = self._remote_header(plan, file, MOST_BYTES)
        if header is None or header.unknown_types:
            return room
        needed = _end_of(header)
        if needed > room:
            raise _no_room(file, plan)
        return needed

    def _download(
        self,
        plan: Plan,
        file: PlannedFile,
        partial: PartialFile,
        size: int | None,
        most: int,
        moved: Callable[[int], None],
    ) -> None:
        """Ranged GETs until the file is whole. Raises the Hub's errors, `Unreachable` after too many cuts."""
        cuts: tuple[type[Exception], ...] = (_Cut, *hub_client.transport_errors())
        failures = 0
        start = partial.size
        while True:
            try:
                self._stream(plan, file, partial, size, most, moved)
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
                    raise Unreachable(
                        f"the connection to {self._host} was cut {failures} times, {reached} bytes came.",
                        hint=f"{self._command} (goes on where it stopped)",
                    ) from error
                time.sleep(WAITS[max(failures - 1, 0)])

    def _stream(
        self,
        plan: Plan,
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
        with self._opened(plan, file, f"bytes={start}-" if start else None) as response:
            if response.status_code >= 500:
                raise _Cut(f"HTTP {response.status_code}")
            hub_client.check_status(response, (200, 206))
            begins = _start_of(response, size)
            if begins not in (0, start):  # 0: the server does not do ranges, the whole file comes again
                raise Malformed("it sends another part of the file than the one asked for")
            try:
                partial.receive(begins, hub_client.blocks(response), most, moved)
            except TooLong as error:
                if size is None and most >= _room(plan):
                    raise _no_room(file, plan) from error
                raise SlmError(
                    f"{self._host} sent more bytes than {file.name} has.", exit_code=ExitCode.DAMAGED
                ) from error
        if size is not None and partial.size < size:
            raise _Cut(f"{partial.size} of {size} bytes came")

    @contextmanager
    def _door(self) -> Iterator[None]:
        """Turn every error of the Hub's client and of its transport into a sentence."""
        from slmchat.catalog.hub_errors import translated

        try:
            yield
        except (SlmError, KeyboardInterrupt):
            raise
        except Exception as error:
            sentence = translated(error, self._spec, self._host, self._command, hub_client.transport_errors())
            if sentence is None:
                raise
            raise sentence from error


class _Cut(Exception):
    """The connection ended before the file did."""


def _commit_of(plan: Plan) -> str:
    assert plan.revision is not None  # every plan of the Hub has one
    return plan.revision


def _start_of(response: Any, size: int | None) -> int:
    """At which byte of the file an answer begins. Raises `Malformed` when it is not about a file of `size` bytes."""
    start, whole = content_range(response.headers.get("Content-Range")) if response.status_code == 206 else (0, None)
    length = response.headers.get("Content-Length", "")
    if whole is None and response.status_code == 200 and length.isdecimal():
        whole = int(length[:20])
    if size is not None and whole not in (None, size):
        raise Malformed(f"it sends a file of {whole} bytes for one of {size}")
    return start


def _end_of(header: Header) -> int:
    """Bytes of the whole file, by its header: where the last tensor ends, with the padding behind it."""
    alignment = header.metadata.get("general.alignment", 32)
    assert isinstance(alignment, int)  # the header was refused otherwise
    last = max((tensor.offset + (tensor.size or 0) for tensor in header.tensors), default=0)
    return header.data_offset + last + alignment


def _room(plan: Plan) -> int:
    """Bytes that a file whose size the listing does not state may take."""
    return max(space_free(plan) - _RESERVE, 0)


def _no_room(file: PlannedFile, plan: Plan) -> SlmError:
    return SlmError(
        f"{file.name} has no room on the disk of {plan.place}, where {in_bytes(space_free(plan))} are free.",
        hint="slm rm NAME frees the space of a model",
        exit_code=ExitCode.STORAGE,
    )


def _without_login(url: str) -> str:
    scheme, slashes, rest = url.rpartition("://")
    return scheme + slashes + rest.rpartition("@")[2]


def _license(listing: HubListing, repo: str) -> License | None:
    name = listing.license_name
    return License(id=name, title=name, link=listing.license_link or f"https://huggingface.co/{repo}") if name else None
