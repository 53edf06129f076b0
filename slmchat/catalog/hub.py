"""The Hugging Face Hub as a source.

Knows: which answers of the Hub say what a fetch brings, that the Hub may ask for patience.
Refuses to know: names of the catalog, what is installed, which of several files is the right one (a `Chooser` says so),
whether the bytes are right; how bytes come (hub_transfer.py), the client (hub_client.py), the layout of its cache
(hub_cache.py), and what an answer may hold (untrusted.py).

A finished and checked file is put where the Hub's client looks for it, so other tools find the file as their own.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit

from slmchat.catalog import file_names, hub_client
from slmchat.catalog.gguf import read_header
from slmchat.catalog.gguf_header import Header
from slmchat.catalog.hub_cache import CachedRepository, delete_cached
from slmchat.catalog.hub_client import is_safe as _is_safe
from slmchat.catalog.hub_transfer import HubTransfer
from slmchat.catalog.model_specs import HubFile, License
from slmchat.catalog.partial import PartialFile
from slmchat.catalog.sources import Chooser, FetchedFile, FetchPlan, Offer
from slmchat.catalog.untrusted import HubListing, MalformedAnswer, PlannedFile, is_commit
from slmchat.errors import ExitCode, SlmError
from slmchat.reporting import ByteProgress, Reporter
from slmchat.wording import counted

Answer = TypeVar("Answer")


class HubSource:
    """The files of one model in one repository.

    `command` is the `slm pull` command that hints repeat. `choose` picks the model where `spec` names no file.
    """

    def __init__(self, spec: HubFile, command: str, reporter: Reporter, choose: Chooser | None = None) -> None:
        self._spec = spec
        self._command = command
        self._reporter = reporter
        self._choose = choose
        self._listed: list[str] = []
        self._commit: str | None = None
        self._headers: dict[str, Header | None] = {}
        self._endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
        is_address = hub_client.is_address(self._endpoint)
        self._host = urlsplit(self._endpoint).netloc.rpartition("@")[2] if is_address else self._endpoint
        self.label = f"{self._host} {spec.repo}" + (f" {spec.file}" if spec.file else "")

    def plan(self) -> FetchPlan:
        hint = "HF_ENDPOINT=https://…, or unset it"
        if not hub_client.is_address(self._endpoint):
            message = f"HF_ENDPOINT is not the address of a server: '{_without_login(self._endpoint)}'."
            raise SlmError(message, hint=hint, exit_code=ExitCode.NETWORK)
        if not _is_safe(self._endpoint):
            raise hub_client.not_safe(f"HF_ENDPOINT is {_without_login(self._endpoint)}", hint)
        spec = self._spec
        if spec.is_dataset:
            return self._planned(str(spec.revision), (PlannedFile(spec.file, spec.size, spec.sha256),), None)
        names = file_names.parts_of(spec.file) if spec.file else ()
        is_pinned = spec.revision is not None and is_commit(spec.revision)
        if is_pinned and len(names) == 1 and spec.size is not None and spec.sha256 is not None:
            return self._planned(str(spec.revision), (PlannedFile(spec.file, spec.size, spec.sha256),), None)
        listing = self._patiently(self._listing)
        self._listed, self._commit = listing.names, listing.commit
        names = names or self._chosen(listing)
        for number, name in enumerate(names, 1):
            if name not in listing.names:
                raise self._no_file(name, number, len(names), listing.names)
        with self._door():
            files = tuple(listing.file(name) for name in names)
        if spec.sha256 is not None and len(files) == 1:
            files = (self._agreed(files[0]),)
        plan = self._planned(listing.commit, files, _license(listing, spec.repo))
        has_own_hashes = spec.sha256 is None or len(files) > 1
        return replace(plan, is_gated=listing.is_gated or spec.is_gated, has_own_hashes=has_own_hashes)

    def projector(self) -> "HubSource | None":
        """The projector of the same repository, at the same commit, if the repository was listed and has one."""
        name = file_names.projector_in(self._listed)
        if name is None or name == self._spec.file:
            return None
        return HubSource(HubFile(self._spec.repo, name, self._commit), self._command, self._reporter)

    def fetch(self, plan: FetchPlan, workspace: Path, advance: ByteProgress) -> tuple[FetchedFile, ...]:
        fetched = []
        before = 0
        for file in plan.files:
            fetched.append(self._fetched(plan, file, before, advance))
            before += file.size or 0
        return tuple(fetched)

    def header(self, plan: FetchPlan) -> Header | None:
        return self._header_of(plan.files[0], _commit_of(plan))

    def keep(self, plan: FetchPlan, fetched: tuple[FetchedFile, ...], destination: Path) -> tuple[Path, ...]:
        """Publish the files in the Hub's cache; `destination` is not used, the cache has its own names."""
        here, commit = self._here, _commit_of(plan)
        kept: dict[Path, Path] = {}  # two parts may have one content, and then they came as one file
        paths = []
        for file in fetched:
            kept[file.path] = here.publish(commit, file.planned, kept.get(file.path, file.path))
            paths.append(kept[file.path])
        return tuple(paths)

    def discard(self, fetched: tuple[FetchedFile, ...]) -> None:
        for file in fetched:
            delete_cached(file.path)

    @property
    def _here(self) -> CachedRepository:
        return CachedRepository(hub_client.cache_directory(), self._spec.repo, self._spec.is_dataset)

    def _transfer(self, commit: str) -> HubTransfer:
        spec = self._spec
        return HubTransfer(self._endpoint, self._host, spec.repo, commit, self._command, spec.is_dataset)

    def _listing(self) -> HubListing:
        """What the Hub says about the repository. Raises `MalformedAnswer`, and the client's errors."""
        revision = self._spec.revision
        at = f"/revision/{quote(revision, safe='')}" if revision else ""
        answer = hub_client.read_json(f"{self._endpoint}/api/models/{self._spec.repo}{at}?blobs=true")
        listing = HubListing.of(answer)
        if is_commit(revision) and listing.commit != revision:
            raise MalformedAnswer("it answers with another revision than the one asked for")
        return listing

    def _header_of(self, file: PlannedFile, commit: str) -> Header | None:
        """The header of a file, read once; None where it cannot be had. Raises `SlmError`."""
        if file.size is None:
            return None
        if file.name not in self._headers:
            size, transfer = file.size, self._transfer(commit)
            self._headers[file.name] = self._cached_header(file, commit) or self._patiently(
                lambda: transfer.header(file, size)
            )
        return self._headers[file.name]

    def _cached_header(self, file: PlannedFile, commit: str) -> Header | None:
        """The header of the copy that is here; None without one. One that is damaged is found by its hash, later."""
        cached = self._here.find(commit, file)
        try:
            return read_header(cached) if cached is not None else None
        except SlmError:
            return None

    def _planned(self, commit: str, files: tuple[PlannedFile, ...], license: License | None) -> FetchPlan:
        here = self._here
        present = 0
        for file in files:
            found = here.find(commit, file)
            if found is not None:
                present += found.stat().st_size
            elif file.sha256 is not None:
                present += PartialFile(here.cache, here.partial(file)).size
        return FetchPlan(
            label=f"{self._host} {self._spec.repo} {files[0].name}",
            files=files,
            place=here.cache,
            lock_file=here.lock_file(commit, files[0]),
            quantization=file_names.quantization_of(files[0].name),
            revision=commit,
            license=license,
            present=present,
            is_shared=True,
            is_gated=self._spec.is_gated,
        )

    def _chosen(self, listing: HubListing) -> tuple[str, ...]:
        """The files of the model that the chooser takes. Raises `SlmError`."""
        assert self._choose is not None  # a source without a file is opened with a chooser
        repo = self._spec.repo
        # what the listing describes wrongly is offered only where there is nothing else: asking for it tells the fault
        offers = [Offer(named, _size(named.parts, listing)) for named in file_names.models_in(listing.files, repo)]
        offers = offers or [Offer(named, None) for named in file_names.models_in(listing.names, repo)]
        if not offers:
            raise SlmError(
                f"{repo} has no GGUF file.",
                hint="look for a repository of the same name that ends in -GGUF",
                exit_code=ExitCode.NO_MODEL,
            )

        def header_of(offer: Offer) -> Header | None:
            with self._door():
                file = listing.file(offer.named.name)
            return self._header_of(file, listing.commit)

        return self._choose(repo, offers, header_of).named.parts

    def _no_file(self, name: str, number: int, count: int, names: list[str]) -> SlmError:
        repo = self._spec.repo
        if count > 1:
            return SlmError(
                f"part {number} of {count} is missing: {repo} has no file {name}.", exit_code=ExitCode.NO_MODEL
            )
        labels = sorted({model.label for model in file_names.models_in(names, repo)})
        more = f" and {counted(len(labels) - 20, 'more', 'more')}" if len(labels) > 20 else ""
        there_are = f"; it has {', '.join(labels[:20])}{more}." if labels else "."
        return SlmError(f"{repo} has no file {name}{there_are}", exit_code=ExitCode.NO_MODEL)

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

    def _fetched(self, plan: FetchPlan, file: PlannedFile, before: int, advance: ByteProgress) -> FetchedFile:
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
        transfer = self._transfer(_commit_of(plan))
        self._patiently(lambda: transfer.download(plan, file, partial, lambda done: advance(before + done, plan.size)))
        return FetchedFile(partial.path, file, is_resumed=is_resumed)

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        """What the Hub answers; where it asks to wait (429), it is asked again after so long. Raises `SlmError`."""
        for _ in range(hub_client.MOST_WAITS):
            with self._door():
                try:
                    return ask()
                except Exception as error:
                    seconds = hub_client.asked_to_wait(error)
                    if seconds is None:
                        raise
            self._reporter.note(f"{self._host} asks to wait {counted(round(seconds), 'second')} (429); waiting.")
            time.sleep(seconds)
        with self._door():
            return ask()

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


def _size(parts: tuple[str, ...], listing: HubListing) -> int | None:
    """Bytes of all parts; None when one is not stated."""
    sizes = [listing.files[name].size for name in parts if name in listing.files]
    return sum(size for size in sizes if size is not None) if None not in sizes else None


def _commit_of(plan: FetchPlan) -> str:
    assert plan.revision is not None  # every plan of the Hub has one
    return plan.revision


def _without_login(url: str) -> str:
    scheme, slashes, rest = url.rpartition("://")
    return scheme + slashes + rest.rpartition("@")[2]


def _license(listing: HubListing, repo: str) -> License | None:
    name = listing.license_name
    return License(id=name, title=name, link=listing.license_link or f"https://huggingface.co/{repo}") if name else None
