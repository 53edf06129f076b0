"""The record of one installed model, and its JSON.

Knows: every field that `slm run` needs before it opens the weights, and how the record is written down.
Refuses to know: where records are kept (library.py), how files are fetched.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from slmchat.catalog.registry import License
from slmchat.engine.api import Adapter

EMBEDDING_TAG = "embedding"
"""The tag of models that turn text into numbers: they are installed, and nothing answers with them."""

FORMAT = 1
"""Version of the JSON; a reader refuses versions it does not know."""


@dataclass(frozen=True, slots=True)
class InstalledFile:
    """A file as it was when it was checked. `sha256` None: nobody has stated one (a file used in place)."""

    path: Path
    sha256: str | None
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path, sha256: str | None) -> "InstalledFile":
        """The file as it is now. Raises `OSError`."""
        stat = path.stat()
        return cls(path, sha256, stat.st_size, stat.st_mtime_ns)

    def is_unchanged(self) -> bool:
        try:
            stat = self.path.stat()
        except OSError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)


@dataclass(frozen=True, slots=True)
class Installed:
    """One quantization of one model on this device.

    `is_shared`: the files lie in the cache of the Hub's client. `is_fetched`: slm brought the files; False for files
    used in place and for those that another tool had put into the Hub's cache before. `is_one_file`: the name stands
    for one file of a repository, so that no quantization can follow it. `is_adapter`: no model, but a LoRA adapter.
    `projector`: the image encoder (mmproj) that goes with the weights; `is_projector_fetched`: slm brought it.
    `base`: the model below the `adapters` of a name that stands for both; such a record is made when it is asked for
    and never written down.
    `admitted_at` is UTC in ISO 8601, empty for a file used in place.
    """

    name: str
    quantization: str
    files: tuple[InstalledFile, ...]
    source: str
    admitted_at: str
    revision: str | None = None
    title: str | None = None
    license: License | None = None
    tags: tuple[str, ...] = ()
    is_gated: bool = False
    sampler: Mapping[str, float] = field(default_factory=dict)
    sampler_source: str | None = None
    architecture: str | None = None
    context_length: int | None = None
    parameters: int | None = None
    is_shared: bool = False
    is_fetched: bool = True
    is_one_file: bool = False
    projector: InstalledFile | None = None
    is_projector_fetched: bool = False
    is_adapter: bool = False
    base: str | None = None
    adapters: tuple[Adapter, ...] = ()

    @property
    def key(self) -> str:
        """The name that means this variant and no other: `NAME@QUANT`, or the name alone where it names one file."""
        has_variants = self.admitted_at and not self.is_one_file
        return with_quantization(self.name, self.quantization if has_variants else None)

    @property
    def path(self) -> Path:
        """The file to load; llama.cpp finds the other parts of a split one by itself."""
        return self.files[0].path

    @property
    def answers(self) -> bool:
        """Whether it can be asked something: it is neither an adapter nor an embedding model."""
        return not self.is_adapter and EMBEDDING_TAG not in self.tags

    @property
    def parts(self) -> tuple[Path, ...]:
        """The files of the weights."""
        return tuple(file.path for file in self.files)

    @property
    def size(self) -> int:
        """Bytes of all files of the weights."""
        return sum(file.size for file in self.files)

    @property
    def sha256(self) -> str | None:
        """Of the (first) file."""
        return self.files[0].sha256

    def is_intact(self) -> bool:
        """Whether every file is there as it was when it was checked, the projector too."""
        return not self.missing() and not self.changed() and (self.projector is None or self.projector.is_unchanged())

    def missing(self) -> tuple[Path, ...]:
        """Files that are no longer there."""
        return tuple(file.path for file in self.files if not file.path.is_file())

    def changed(self) -> tuple[Path, ...]:
        """Files whose size or time of change is another than when they were checked."""
        return tuple(file.path for file in self.files if not file.is_unchanged())


_OPTIONAL = {
    **dict.fromkeys(("revision", "title", "sampler_source", "architecture"), str),
    **dict.fromkeys(("context_length", "parameters", "is_gated", "is_shared", "is_fetched", "is_one_file"), int),
    "is_projector_fetched": int,
    "is_adapter": int,
}


def with_quantization(name: str, quantization: str | None) -> str:
    """`NAME@QUANT`; in an `hf:` name with a revision the quantization stands before it: `hf:OWNER/REPO@QUANT#REV`."""
    if quantization is None:
        return name
    base, mark, revision = name.partition("#")
    return f"{base}@{quantization}{mark}{revision}"


def to_json(installed: Installed) -> str:
    """The record as it is kept on the disk."""
    fields = asdict(installed)
    fields["sampler"] = dict(installed.sampler)
    del fields["base"], fields["adapters"]
    return json.dumps({"format": FORMAT, **fields}, indent=2, ensure_ascii=False, default=str) + "\n"


def from_json(text: str) -> Installed:
    """Read a record back. Raises ValueError, KeyError or TypeError when it is not one."""
    fields = json.loads(text)
    if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
        raise ValueError("not a record of this version")
    for name in ("name", "quantization", "source", "admitted_at"):
        if not isinstance(fields[name], str) or not fields[name]:
            raise ValueError(f"{name} is not a text")
    fields["files"] = tuple(_file(entry) for entry in fields["files"])
    if not fields["files"]:
        raise ValueError("no files")
    fields["projector"] = _file(fields["projector"]) if fields.get("projector") else None
    fields["license"] = License(**fields["license"]) if fields.get("license") else None
    fields["tags"] = tuple(str(tag) for tag in fields.get("tags", ()))
    fields["sampler"] = {str(name): float(value) for name, value in dict(fields.get("sampler") or {}).items()}
    for name, kind in _OPTIONAL.items():
        if not isinstance(fields.get(name), kind | None):
            raise TypeError(f"{name} is not {kind.__name__}")
    return Installed(**fields)


def _file(entry: Mapping[str, Any]) -> InstalledFile:
    sha256 = entry["sha256"]
    return InstalledFile(
        path=Path(entry["path"]),
        sha256=str(sha256) if sha256 is not None else None,
        size=int(entry["size"]),
        mtime_ns=int(entry["mtime_ns"]),
    )
