"""The Hugging Face Hub as a source. The only place that imports huggingface_hub.

Knows: the Hub's listings, its metadata, its cache on this disk, how to go on with a download that was cut.
Refuses to know: names of the catalog, what is installed, whether the bytes are right.

The download itself is a ranged GET into `<sha256>.slm.incomplete` beside the blobs of the Hub's cache: since
huggingface_hub 2 its own download starts again after a kill. A finished and checked file is renamed to the blob that
the Hub's client looks for, and that client then makes the snapshot, so other tools find the file as their own.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from slmchat.catalog import file_names
from slmchat.catalog.gguf import Header, read_header, read_remote_header
from slmchat.catalog.hub_cache import delete_cached, size_of
from slmchat.catalog.registry import HubFile, License
from slmchat.catalog.sources import BLOCK, FetchedFile, Move, Plan, PlannedFile, Unreachable
from slmchat.errors import ExitCode, SlmError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

WAITS = (0.2, 1.0, 3.0, 6.0)
"""Seconds before the next try after a cut connection. Each stretch of `FRESH_START` new bytes starts over."""

FRESH_START = 8 * BLOCK

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class HubSource:
    """Files of one quantization in one repository.

    `command` is the `slm pull` command that hints repeat; `quantization` is used where `spec` names no file.
    """

    def __init__(self, spec: HubFile, command: str, quantization: str | None = None) -> None:
        self._spec = spec
        self._command = command
        self._quantization = quantization
        self._listed: tuple[str, ...] = ()
        self._commit: str | None = None
        self._endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        self._host = urlsplit(self._endpoint).netloc.rpartition("@")[2] or self._endpoint
        self.label = f"{self._host} {spec.repo}" + (f" {spec.file}" if spec.file else "")

    def plan(self) -> Plan:
        if not _is_safe(self._endpoint):
            raise _not_safe(f"HF_ENDPOINT is {_without_login(self._endpoint)}", "HF_ENDPOINT=https://…, or unset it")
        spec = self._spec
        names = file_names.parts_of(spec.file) if spec.file else ()
        is_pinned = spec.revision is not None and _COMMIT.fullmatch(spec.revision)
        if is_pinned and len(names) == 1 and spec.size is not None and spec.sha256 is not None:
            return self._planned(spec.revision, (PlannedFile(spec.file, spec.size, spec.sha256),), None)
        with self._door():
            info = self._info()
        listed = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        self._listed, self._commit = tuple(listed), info.sha
        names = names or self._chosen(list(listed))
        files = []
        for name in names:
            sibling = listed.get(name)
            if sibling is None:
                raise self._no_file(name, list(listed))
            files.append(PlannedFile(name, sibling.size, sibling.lfs.sha256 if sibling.lfs else None))
        if spec.sha256 is not None and len(files) == 1:
            files = [self._agreed(files[0])]
        return self._planned(info.sha, tuple(files), _license(info))

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
        cached = self._cached(file, plan.revision)
        if cached is not None:
            return read_header(cached)
        with self._door():
            return read_remote_header(lambda start, end: self._part(plan, file, start, end), file.size, name=self.label)

    def _part(self, plan: Plan, file: PlannedFile, start: int, end: int) -> bytes:
        """Bytes of the file from `start` to before `end`; none when the server does not do ranges."""
        hub = _hub()
        import huggingface_hub.utils

        utils: Any = huggingface_hub.utils
        headers = {**utils.build_hf_headers(library_name="slm"), "Accept-Encoding": "identity"}
        headers["Range"] = f"bytes={start}-{end - 1}"
        url = hub.hf_hub_url(self._spec.repo, file.name, revision=plan.revision)
        timeout = hub.constants.HF_HUB_DOWNLOAD_TIMEOUT
        request = hub.get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=timeout)
        with request as response:
            utils.hf_raise_for_status(response)
            if response.status_code != 206 and start:
                return b""
            data = bytearray()
            for block in response.iter_bytes():
                data += block
                if len(data) >= end - start:
                    break
            return bytes(data[: end - start])

    def keep(self, plan: Plan, fetched: tuple[FetchedFile, ...], destination: Path) -> tuple[Path, ...]:
        """Publish the files in the Hub's cache; `destination` is not used, the cache has its own names."""
        hub = _hub()
        paths = []
        for file in fetched:
            if file.path.suffix == ".incomplete":
                os.replace(file.path, self._blob(file.planned))
            with self._door():
                path = hub.hf_hub_download(self._spec.repo, file.planned.name, revision=plan.revision)
            paths.append(Path(path))
        return tuple(paths)

    def discard(self, fetched: tuple[FetchedFile, ...]) -> None:
        for file in fetched:
            delete_cached(file.path)

    def _info(self) -> "ModelInfo":
        hub = _hub()
        info: ModelInfo = hub.HfApi().model_info(
            self._spec.repo,
            revision=self._spec.revision,
            files_metadata=True,
            timeout=hub.constants.HF_HUB_ETAG_TIMEOUT,
        )
        return info

    def _planned(self, commit: str | None, files: tuple[PlannedFile, ...], license: License | None) -> Plan:
        present = 0
        for file in files:
            here = self._cached(file, commit) or self._partial(file)
            present += here.stat().st_size if here.exists() else 0
        name = files[0].sha256 or f"{commit}-{files[0].name.replace('/', '-')}"
        return Plan(
            label=f"{self._host} {self._spec.repo} {files[0].name}",
            files=files,
            place=_cache(),
            lock_file=_cache() / ".locks" / _folder(self._spec.repo) / f"{name}.slm.lock",
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
        cached = self._cached(file, plan.revision)
        if cached is not None:
            return FetchedFile(cached, file, was_there=True)
        if file.sha256 is None:
            raise SlmError(
                f"the Hub states no sha256 for {file.name}, so it cannot be checked.",
                hint="fetch it by other means and use its path as the model",
                exit_code=ExitCode.DAMAGED,
            )
        partial = self._partial(file)
        partial.parent.mkdir(parents=True, exist_ok=True)
        with self._door():
            self._check_metadata(plan, file)
            self._download(plan, file, partial, lambda done: move(before + done, plan.size))
        return FetchedFile(partial, file)

    def _check_metadata(self, plan: Plan, file: PlannedFile) -> None:
        """Ask the Hub about the file at the pinned revision, before its bytes: it may have been replaced."""
        hub = _hub()
        url = hub.hf_hub_url(self._spec.repo, file.name, revision=plan.revision)
        metadata = hub.get_hf_file_metadata(url, timeout=hub.constants.HF_HUB_ETAG_TIMEOUT)
        etag = metadata.etag or ""
        if _SHA256.fullmatch(etag) and etag != file.sha256:
            raise SlmError(
                f"the Hub has another {file.name} at this revision: sha256 {etag}, expected {file.sha256}.",
                exit_code=ExitCode.DAMAGED,
            )
        if metadata.size is not None and file.size is not None and metadata.size != file.size:
            raise SlmError(
                f"the Hub's {file.name} has {metadata.size} bytes, expected {file.size}.", exit_code=ExitCode.DAMAGED
            )

    def _download(self, plan: Plan, file: PlannedFile, partial: Path, move: Any) -> None:
        """Ranged GETs until the file is whole. Raises the Hub's errors, `Unreachable` after too many cuts."""
        cuts: tuple[type[Exception], ...] = (_Cut, *_transport_errors())
        failures = 0
        start = size_of(partial)
        while True:
            try:
                self._stream(plan, file, partial, move)
                return
            except cuts as error:
                if getattr(error, "response", None) is not None:  # an answer of the Hub, not a cut
                    raise
                reached = size_of(partial)
                failures = 0 if reached - start >= FRESH_START else failures + 1
                start = reached
                if failures > len(WAITS):
                    raise Unreachable(
                        f"the connection to {self._host} was cut {failures} times, {reached} bytes came.",
                        hint=f"{self._command} (goes on where it stopped)",
                    ) from error
                time.sleep(WAITS[max(failures - 1, 0)])

    def _stream(self, plan: Plan, file: PlannedFile, partial: Path, move: Any) -> None:
        """One GET of what is missing, appended to the partial file. Raises `_Cut` when bytes are missing after it."""
        hub = _hub()
        import huggingface_hub.utils

        utils: Any = huggingface_hub.utils
        start = size_of(partial)
        if file.size is not None and start > file.size:
            partial.unlink()
            start = 0
        if start == file.size:
            return
        headers = {**utils.build_hf_headers(library_name="slm"), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        url = hub.hf_hub_url(self._spec.repo, file.name, revision=plan.revision)
        timeout = (
            hub.constants.HF_HUB_DOWNLOAD_TIMEOUT
        )  # seconds without a byte; users set it as HF_HUB_DOWNLOAD_TIMEOUT
        request = hub.get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=timeout)
        with request as response, partial.open("ab") as out:
            if response.status_code >= 500:
                raise _Cut(f"HTTP {response.status_code}")
            utils.hf_raise_for_status(response)
            if start and response.status_code == 200:  # the server does not do ranges: the whole file comes again
                out.truncate(0)
                start = 0
            for block in response.iter_bytes():  # as they come: nothing that has arrived is lost to a cut
                start += len(block)
                if file.size is not None and start > file.size:
                    raise SlmError(f"{self._host} sent more bytes than {file.name} has.", exit_code=ExitCode.DAMAGED)
                out.write(block)
                move(start)
            out.flush()
            os.fsync(out.fileno())
        if file.size is not None and start < file.size:
            raise _Cut(f"{start} of {file.size} bytes came")

    def _cached(self, file: PlannedFile, commit: str | None) -> Path | None:
        """The file in the Hub's cache, if slm or another tool has put it there before."""
        if commit is None:
            return None
        found = _hub().try_to_load_from_cache(self._spec.repo, file.name, revision=commit)
        if isinstance(found, str):
            return Path(found)
        blob = self._blob(file)
        return blob if file.sha256 is not None and blob.exists() else None

    def _blob(self, file: PlannedFile) -> Path:
        return _cache() / _folder(self._spec.repo) / "blobs" / str(file.sha256)

    def _partial(self, file: PlannedFile) -> Path:
        blob = self._blob(file)
        return blob.with_name(f"{blob.name}.slm.incomplete")

    @contextmanager
    def _door(self) -> Iterator[None]:
        """Turn every error of the Hub's client and of its transport into a sentence."""
        from slmchat.catalog.hub_errors import translated

        try:
            yield
        except (SlmError, KeyboardInterrupt):
            raise
        except Exception as error:
            sentence = translated(error, self._spec, self._host, self._command, _transport_errors())
            if sentence is None:
                raise
            raise sentence from error


class _Cut(Exception):
    """The connection ended before the file did."""


def _hub() -> Any:
    """The huggingface_hub package, imported late (0.2 s), without telemetry, and with nothing but TLS."""
    for variable in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_DISABLE_UPDATE_CHECK"):
        os.environ[variable] = "1"
    import huggingface_hub

    hooks = huggingface_hub.get_session().event_hooks
    if _refuse_plain_http not in hooks["request"]:
        huggingface_hub.get_session().event_hooks = {**hooks, "request": [*hooks["request"], _refuse_plain_http]}
    return huggingface_hub


def _refuse_plain_http(request: Any) -> None:
    """Called by the client before every request, also before each one that follows a redirect. Raises `SlmError`."""
    url = str(request.url)
    if not _is_safe(url):
        raise _not_safe(f"the Hub's answer leads to {urlsplit(url).scheme}://{urlsplit(url).hostname}")


def _is_safe(url: str) -> bool:
    """Whether nobody between here and there can read or change what is sent: TLS, or this very device."""
    try:
        scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
    except ValueError:  # brackets that hold no IPv6 address
        return False
    return bool(host) and (scheme == "https" or (scheme == "http" and _is_loopback(host or "")))


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _without_login(url: str) -> str:
    scheme, slashes, rest = url.rpartition("://")
    return scheme + slashes + rest.rpartition("@")[2]


def _not_safe(what: str, hint: str | None = None) -> SlmError:
    return SlmError(
        f"{what}, and slm fetches over TLS (https) only; plain http is for this device itself.",
        hint=hint,
        exit_code=ExitCode.NETWORK,
    )


def _cache() -> Path:
    return Path(_hub().constants.HF_HUB_CACHE).expanduser().absolute()


def _folder(repo: str) -> str:
    return "models--" + repo.replace("/", "--")


def _transport_errors() -> tuple[type[Exception], ...]:
    """The base class of the transport's errors: httpx's with huggingface_hub 1, httpx2's with 2."""
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(
        base for base in HfHubHTTPError.__mro__[1:] if base.__name__ == "HTTPError" and issubclass(base, Exception)
    )


def _license(info: "ModelInfo") -> License | None:
    card = info.card_data
    name = getattr(card, "license_name", None) or getattr(card, "license", None)
    if not isinstance(name, str):
        return None
    link = getattr(card, "license_link", None)
    url = link if isinstance(link, str) and link.startswith("https://") else f"https://huggingface.co/{info.id}"
    return License(id=name, title=name, link=url)
