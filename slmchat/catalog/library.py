"""What is installed on this device: one small JSON record for each variant, beside slm's own weights.

Knows: the records, where the files are, whether they are still there and unchanged, how to free their space.
Refuses to know: the network, how the files were fetched, what the catalog offers. It never parses `models.toml`,
because `slm run` reads it before every completion.
"""

import json
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from slmchat import kept_json
from slmchat.catalog import file_names
from slmchat.catalog.file_facts import FileFacts
from slmchat.catalog.model_specs import License
from slmchat.catalog.records import (
    Installed,
    InstalledFile,
    from_json,
    to_json,
    with_quantization,
    without_quantization,
)
from slmchat.catalog.registry import Reference
from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass
from slmchat.lazy_patterns import lazy_pattern
from slmchat.private_files import check_readable, is_below, remove_below, storage_error, write_private
from slmchat.reporting import ByteProgress
from slmchat.settings import Paths
from slmchat.user_paths import user_path

if TYPE_CHECKING:  # whoever only lists models does without headers
    from slmchat.catalog.gguf_header import Header

# Bytes of a record: one of a model in a thousand parts has 300,000.
_MOST_RECORD = 4 << 20

# Bytes of the name of the model used last: a path.
_MOST_NAME = 64 << 10

# What Windows takes for a device, whatever follows the first dot.
_DEVICE = lazy_pattern(r"(?:con|prn|aux|nul|conin\$|conout\$|com[0-9]|lpt[0-9])[ ]*(?:\.|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Removed:
    """What `Library.remove` did: bytes freed, and the files that were left because they are not slm's alone."""

    freed: int
    kept: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class HashCheck:
    """A file hashed again: the sha256 it was installed with, and the one it has now (None: the file is gone)."""

    path: Path
    expected: str | None
    found: str | None

    @property
    def is_intact(self) -> bool:
        return self.found is not None and self.found == self.expected


class Library:
    """The installed models below `paths.models`. `warn` hears about records that cannot be read."""

    def __init__(self, paths: Paths, warn: Callable[[str], None] = lambda text: None) -> None:
        self._paths = paths
        self._warn = warn
        self._told: set[str] = set()
        self._facts = FileFacts(paths.file_facts, is_kept=False)

    def all(self) -> tuple[Installed, ...]:
        """Every installed variant, by name. A damaged record is skipped with a warning. Raises `SlmError` (storage)."""
        return self._read(self._record_names())

    def _record_names(self) -> list[str]:
        """File names of all records. Raises `SlmError` (storage)."""
        try:
            return sorted(name for name in os.listdir(self._paths.models) if name.endswith(".json"))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise storage_error(error, self._paths.models) from error

    def _read(self, names: Iterable[str]) -> tuple[Installed, ...]:
        records = []
        for file_name in names:
            file = self._paths.models / file_name
            try:
                check_readable(file, _MOST_RECORD)
                records.append(self._at_home(from_json(file.read_text(encoding="utf-8"))))
            except OSError as error:
                self._warn_once(f"{file} cannot be read: {error.strerror}.")
            except (ValueError, KeyError, TypeError):
                self._warn_once(f"{file} is damaged and left out; `slm pull` writes it again.")
        return tuple(sorted(records, key=lambda record: (record.name, record.quantization)))

    def _warn_once(self, text: str) -> None:
        """A command reads the records more than once."""
        if text not in self._told:
            self._told.add(text)
            self._warn(text)

    def find(self, reference: Reference) -> Installed:
        """The installed model that a name stands for, with its files in place.

        Without a quantization: the one installed last. A path (also one named by `slm add`) is read in place.
        Raises `SlmError`: not installed, its file is gone (both exit 3), or not a GGUF (exit 6).
        """
        if reference.path is not None:
            return replace(from_path(reference.path, self._facts), name=reference.name)
        named = [record for record in self.all() if record.name == reference.name]
        asked = _wanted(named, reference.quantization)
        if asked is None:
            wanted = with_quantization(reference.name, reference.quantization)
            others = ", ".join(record.quantization for record in named)
            raise SlmError(
                f"{wanted} is not installed" + (f"; {reference.name} is here as {others}." if others else "."),
                hint=f"slm pull {wanted}",
                exit_code=ExitCode.NO_MODEL,
            )
        return self._current(asked)

    def lookup(self, text: str) -> Installed | None:
        """What `text` names among the installed models, without the catalog; None: ask the registry what it means."""
        asked = _wanted(self.matching(text), None)
        return self._current(asked) if asked is not None else None

    def matching(self, asked: Reference | str) -> list[Installed]:
        """The records that a name (with or without `@QUANT`) covers, whatever has become of their files."""
        text = with_quantization(asked.name, asked.quantization) if isinstance(asked, Reference) else asked.strip()
        beginning = _beginning(text)
        names = self._record_names()
        near = [name for name in names if name.casefold().startswith(beginning)]
        return self._named(text, near) or self._named(text, names)

    def _named(self, text: str, names: Iterable[str]) -> list[Installed]:
        records = self._read(names)
        found = [record for record in records if text.casefold() in (record.name.casefold(), record.key.casefold())]
        if found or "@" not in text:
            return found
        name, quantization = without_quantization(text)
        named = [record for record in records if record.name.casefold() == name.casefold()]
        return _of_quantization(named, quantization)

    def installed_as(self, name: str, quantization: str | None) -> Installed | None:
        """The intact record of this name (and quantization), or None: nothing here, or its files are not as pulled."""
        named = [record for record in self.all() if record.name == name]
        if quantization is not None:
            named = [record for record in named if file_names.same_file(quantization, record.quantization)]
        record = _wanted(named, None)
        return record if record is not None and record.is_intact() else None

    def admit(self, installed: Installed) -> None:
        """Write the record: from here on the model is installed. Raises `SlmError` (storage)."""
        write_private(self._record_file(installed), to_json(installed).encode())

    def destination(self, name: str, quantization: str) -> Path:
        """Where slm's own copy of the weights of this variant lies."""
        return self._paths.models / f"{_slug(name, quantization)}.gguf"

    def projector_destination(self, name: str) -> Path:
        """Where slm's own copy of the projector lies that all variants of a model share."""
        return self._paths.models / f"{_slug(name, 'mmproj')}.gguf"

    def remove(self, installed: Installed) -> Removed:
        """Forget the model and delete its weights, unless another record or another tool uses them.

        A record may say anything: what does not lie below slm's own directory of weights, or the cache of the Hub's
        client, stays in any case. Raises `SlmError` (storage).
        """
        others = [record for record in self.all() if record.key != installed.key]
        used = {file.path for record in others for file in (*record.files, record.projector) if file}
        files = [(file.path, installed.is_fetched) for file in installed.files]
        if installed.projector is not None:
            files.append((installed.projector.path, installed.is_projector_fetched))
        freed = 0
        kept = []
        try:
            remove_below(self._paths.models, self._record_file(installed))
            for path, is_fetched in files:
                is_ours = is_fetched and path not in used
                if is_ours and path.parent == self._paths.models and path.suffix == ".gguf":
                    freed += remove_below(self._paths.models, path)
                elif is_ours and _is_in_hub_cache(path):
                    from slmchat.catalog.hub_cache import delete_cached

                    freed += delete_cached(path)
                else:
                    kept.append(path)
        except OSError as error:
            raise storage_error(error, self._paths.models) from error
        return Removed(freed, tuple(kept))

    def verify(
        self, installed: Installed, progress: Callable[[str], AbstractContextManager[ByteProgress]]
    ) -> tuple[HashCheck, ...]:
        """Hash every file again. The record learns the result: a damaged file is fetched again by the next pull.

        Files that are gone have `found` None. Raises `SlmError` (storage).
        """
        from slmchat.catalog.gguf import unreadable
        from slmchat.catalog.sources import sha256_of

        verdicts = []
        stamped = []
        projector = (installed.projector,) if installed.projector else ()
        for file in (*installed.files, *projector):
            found = None
            try:
                if os.path.isfile(file.path):
                    with progress(file.path.name) as advance:
                        found = sha256_of(file.path, advance)
                    stamped.append(InstalledFile.of(file.path, file.sha256))
            except OSError as error:
                raise unreadable(file.path, error) from error
            verdicts.append(HashCheck(file.path, file.sha256, found))
        try:
            self._note_hashes(installed, verdicts, stamped)
        except SlmError as error:  # a disk that is read-only: what was found out is said all the same
            self._warn(error.message)
        return tuple(verdicts)

    def _note_hashes(
        self, installed: Installed, verdicts: Sequence[HashCheck], stamped: Sequence[InstalledFile]
    ) -> None:
        """Let the record learn what hashing found. Raises `SlmError` (storage)."""
        if all(verdict.is_intact for verdict in verdicts) and not installed.is_intact():
            n_files = len(installed.files)
            self.admit(
                replace(installed, files=tuple(stamped[:n_files]), projector=next(iter(stamped[n_files:]), None))
            )
        elif any(verdict.found and not verdict.is_intact for verdict in verdicts):
            self.admit(replace(installed, files=tuple(replace(file, mtime_ns=0) for file in installed.files)))

    def accepted_licenses(self) -> set[str]:
        """Ids of the licences that the user has accepted. A damaged file counts as none: slm asks again."""
        accepted = kept_json.read(self._accepted_file)
        return set(accepted) if isinstance(accepted, dict) else set()

    def accept_license(self, license: License) -> None:
        """Remember that the user has accepted a licence, and when. Raises `SlmError` (storage)."""
        accepted = {id: now() for id in self.accepted_licenses() | {license.id}}
        write_private(self._accepted_file, json.dumps(accepted, indent=2).encode() + b"\n")

    @property
    def _accepted_file(self) -> Path:
        return self._paths.data / "accepted-licenses.json"

    def default_model(self, names: Collection[str] = ()) -> str | None:
        """The model used last, else the only one installed, as `NAME@QUANT` or a path; None: the user has to say.

        `names`: those in the user's own file.
        """
        last = last_model(self._paths)
        known = [record for record in self.matching(last) if record.answers] if last else []
        if last and (
            last in names or os.path.isfile(last) or any(last in (record.key, record.name) for record in known)
        ):
            return last
        records = [record for record in self.all() if record.answers]
        return records[0].key if len(records) == 1 else None

    def remember(self, name: str) -> None:
        """Note the model used last. A disk that refuses does not make a command fail: the next command just asks."""
        if last_model(self._paths) == name:
            return
        try:
            write_private(self._paths.last_model, name.encode("utf-8", "surrogateescape") + b"\n")
        except SlmError as error:
            self._warn(error.message)

    def _at_home(self, record: Installed) -> Installed:
        """The record with the files that slm fetched where they are now: the home may have been moved or restored."""
        if record.is_shared or not record.is_fetched:
            return record
        return replace(
            record,
            files=tuple(map(self._found_here, record.files)),
            projector=self._found_here(record.projector) if record.projector is not None else None,
        )

    def _found_here(self, file: InstalledFile) -> InstalledFile:
        here = self._paths.models / file.path.name
        return replace(file, path=here) if file.path.parent != self._paths.models and os.path.isfile(here) else file

    def _current(self, record: Installed) -> Installed:
        """The record, checked against the disk: its files are there; when one has changed, the header is read again."""
        gone = record.missing()
        if gone:
            raise SlmError(
                f"{record.key} was installed, but its file {gone[0]} is gone.",
                hint=f"slm pull {record.key}",
                exit_code=ExitCode.NO_MODEL,
            )
        if record.changed():
            self._warn(f"{record.path} has changed since it was installed; `slm verify {record.key}` checks it.")
            if record.is_adapter:
                return record
            found = from_path(record.path, self._facts)
            record = replace(
                record,
                architecture=found.architecture,
                context_length=found.context_length,
                parameters=found.parameters,
            )
        return record

    def _record_file(self, installed: Installed) -> Path:
        return self._paths.models / f"{_slug(installed.name, installed.quantization)}.json"


def _is_in_hub_cache(path: Path) -> bool:
    from slmchat.catalog.hub_client import cache_directory  # with the Hub's client, which only `slm rm` waits for

    return is_below(cache_directory(), path)


def last_model(paths: Paths) -> str:
    """The model used last, as `remember` noted it; "" when there is none. A path may have any bytes."""
    try:
        check_readable(paths.last_model, _MOST_NAME)
        return paths.last_model.read_bytes().decode("utf-8", "surrogateescape").strip()
    except OSError:
        return ""


def from_path(path: Path, facts: FileFacts | None = None) -> Installed:
    """A GGUF used in place, as if it were installed; its name is its path. `facts`: what is known of files already.

    Raises `SlmError`: there is no such file (exit 3), it cannot be read (10), it is not a GGUF or no model (6).
    """
    from slmchat.catalog import kept_headers, lora, model_kind
    from slmchat.catalog.gguf import read_headers, split_parts, unreadable
    from slmchat.catalog.projectors import beside

    path = user_path(path).absolute()
    try:
        _check_is_file(path)
        parts = split_parts(path)
        _check_parts(parts)
        headers = read_headers(parts) if facts is None else kept_headers.read_headers(parts, facts)
        header = headers[0]
        _check_count(path, header, len(parts))
        if lora.is_adapter(header):
            raise lora.not_a_model(path, header)
        files = tuple(InstalledFile.of(part, None) for part in parts)
        projector = beside(path, header)
    except OSError as error:
        raise unreadable(path, error) from error
    return Installed(
        name=str(path),
        quantization=header.quantization or "unknown",
        files=files,
        source=str(path),
        title=header.name,
        license=License(header.license, header.license, "") if header.license else None,
        architecture=header.architecture,
        context_length=header.context_length,
        parameters=sum(part.parameters for part in headers),
        admitted_at="",
        tags=model_kind.kind_of([header]).tags,
        is_fetched=False,
        projector=projector,
    )


def _check_is_file(path: Path) -> None:
    """Raises `SlmError` (NO_MODEL) for what is not there or is not a file, `OSError` where nobody may look."""
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # also: a null character in the name
        raise SlmError(f"{path} does not exist.", exit_code=ExitCode.NO_MODEL) from error
    if not is_file:
        raise SlmError(f"{path} is not a file.", exit_code=ExitCode.NO_MODEL)


def _check_parts(parts: Sequence[Path]) -> None:
    """Raises `SlmError` (NO_MODEL) when a part of a split model is missing."""
    for number, part in enumerate(parts, 1):
        if not os.path.isfile(part):
            raise SlmError(
                f"part {number} of {len(parts)} is missing: there is no file {part}.",
                hint="all parts lie in one directory, under the names that they came with",
                exit_code=ExitCode.NO_MODEL,
            )


def _check_count(path: Path, header: "Header", count: int) -> None:
    """Raises `SlmError` (NO_MODEL) for the first part of a split model whose name does not lead to the others."""
    if (header.split_count or 1) > count and not header.split_no:
        raise SlmError(
            f"{path} is part 1 of {header.split_count}, and its name does not say where the others are.",
            hint=f"name them NAME-00001-of-{header.split_count:05}.gguf and so on, in one directory",
            exit_code=ExitCode.NO_MODEL,
        )


def now() -> str:
    """The current time as records carry it: UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _wanted(named: list[Installed], quantization: str | None) -> Installed | None:
    """The record of a quantization, or without one the record admitted last."""
    if quantization is not None:
        named = _of_quantization(named, quantization)
    return max(named, key=lambda record: record.admitted_at, default=None)


def _of_quantization(named: list[Installed], quantization: str) -> list[Installed]:
    """The records that a quantization means. In a repository a short name will do (`Q4_0` for `Q4_0-QAT`); the catalog
    has such names for different files."""
    exact = [record for record in named if file_names.same_file(quantization, record.quantization)]
    if exact or not any(record.name.startswith("hf:") for record in named):
        return exact
    return [record for record in named if file_names.same_quantization(quantization, record.quantization)]


def _slug(name: str, quantization: str) -> str:
    """A file name for a variant on any file system; the hash keeps names apart that look the same without case."""
    import hashlib  # OpenSSL, for a new model alone

    key = with_quantization(name, quantization)
    return f"{_readable(key)}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def _readable(text: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9._@-]+", "-", text)[:80].strip(".-")
    return f"_{readable}" if _DEVICE.match(readable) else readable


def _beginning(text: str) -> str:
    """How the file names of the records begin that `text` can name, whatever quantization or revision follows.

    With it one record is read instead of a thousand. A name that folds to other letters is not found by it; then all
    records are read.
    """
    return _readable(re.split("[@#]", text)[0]).casefold()
