"""The record of one installed model, and its JSON.

Knows: every field that `slm run` needs before it opens the weights, and how the record is written down.
Refuses to know: where records are kept (library.py), how files are fetched.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmchat import ranges
from slmchat.catalog import untrusted
from slmchat.catalog.model_specs import License
from slmchat.catalog.untrusted import MOST_BYTES, parsed_json
from slmchat.lazy_dataclasses import dataclass

if TYPE_CHECKING:  # `slm list` and `slm show` have no time for the records of an engine
    from slmchat.engine.requests import Adapter

EMBEDDING_TAG = "embedding"
"""The tag of models that turn text into numbers: they are installed, and nothing answers with them."""

FORMAT = 1
"""Version of the JSON; a reader refuses versions it does not know."""


BASE_TAG = "base"
"""The tag of models that complete text and were never taught to chat."""


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
    `draft`: the name of a small model with the same vocabulary, as the catalog or the user's own file states it.
    `sampler_thinking`: the settings while it thinks, where they differ from `sampler`; empty: those hold for both.
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
    sampler_thinking: Mapping[str, float] = field(default_factory=dict)
    sampler_source: str | None = None
    draft: str | None = None
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
    adapters: "tuple[Adapter, ...]" = ()

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
        return tuple(file.path for file in self.files if not os.path.isfile(file.path))

    def changed(self) -> tuple[Path, ...]:
        """Files whose size or time of change is another than when they were checked."""
        return tuple(file.path for file in self.files if not file.is_unchanged())


_TEXTS = ("name", "quantization", "source", "admitted_at")
_OPTIONAL_TEXTS = ("revision", "title", "sampler_source", "draft", "architecture")
_SAMPLERS = ("sampler", "sampler_thinking")
_OPTIONAL_COUNTS = ("context_length", "parameters")
_FLAGS = ("is_gated", "is_shared", "is_fetched", "is_one_file", "is_projector_fetched", "is_adapter")
_LICENSE_TEXTS = ("id", "title", "link")
# Tokens or parameters, of any header: it may claim 64-bit numbers, and a sum of them.
_MOST_COUNT = 1 << 80
# What a time of change can be, in nanoseconds: a 64-bit number.
_MOST_NS = 1 << 63


def with_quantization(name: str, quantization: str | None) -> str:
    """`NAME@QUANT`; in an `hf:` name with a revision the quantization stands before it: `hf:OWNER/REPO@QUANT#REV`."""
    if quantization is None:
        return name
    base, mark, revision = name.partition("#")
    return f"{base}@{quantization}{mark}{revision}"


def without_quantization(text: str) -> tuple[str, str]:
    """A name and the quantization that stands in it, "" without one: the opposite of `with_quantization`."""
    base, mark, revision = text.partition("#")
    name, _, quantization = base.partition("@")
    return f"{name}{mark}{revision}", quantization


def to_json(installed: Installed) -> str:
    """The record as it is kept on the disk."""
    fields = asdict(installed)
    for name in _SAMPLERS:
        fields[name] = dict(fields[name])
    del fields["base"], fields["adapters"]
    return json.dumps({"format": FORMAT, **fields}, indent=2, ensure_ascii=False, default=str) + "\n"


def from_json(text: str) -> Installed:
    """Read a record back. Raises ValueError, KeyError or TypeError when it is not one.

    Anything on this device may have written the file, so every value is looked at: `slm rm` deletes what it names.
    """
    fields = parsed_json(text)
    if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
        raise ValueError("not a record of this version")
    checked: dict[str, Any] = {name: _text(fields.pop(name), name) for name in _TEXTS}
    checked["files"] = tuple(_file(entry) for entry in _list(fields.pop("files"), "files"))
    if not checked["files"]:
        raise ValueError("no files")
    projector, license = fields.pop("projector", None), fields.pop("license", None)
    checked["projector"] = _file(projector) if projector is not None else None
    checked["license"] = _license(license) if license is not None else None
    checked["tags"] = tuple(_text(tag, "a tag") for tag in _list(fields.pop("tags", []), "tags"))
    for name in _SAMPLERS:
        checked[name] = _sampler(fields.pop(name, None) or {})
    for name in _OPTIONAL_TEXTS:
        value = fields.pop(name, None)
        checked[name] = None if value is None else _text(value, name, may_be_empty=True)
    for name in _OPTIONAL_COUNTS:
        value = fields.pop(name, None)
        checked[name] = None if value is None else _number(value, name, _MOST_COUNT)
    for name in set(_FLAGS) & fields.keys():
        checked[name] = _flag(fields.pop(name), name)
    if fields:
        raise ValueError("it has keys that a record does not have")
    return Installed(**checked)


def _file(entry: object) -> InstalledFile:
    if not isinstance(entry, dict):
        raise TypeError("a file is not described")
    path, sha256 = Path(_text(entry["path"], "path")), entry["sha256"]
    if not path.is_absolute() or ".." in path.parts or "\0" in entry["path"]:
        raise ValueError("the path of a file is not absolute")
    return InstalledFile(
        path=path,
        sha256=None if sha256 is None else untrusted.sha256(sha256, "a hash"),
        size=_number(entry["size"], "size", MOST_BYTES),
        mtime_ns=_number(entry["mtime_ns"], "mtime_ns", _MOST_NS, least=-_MOST_NS),
    )


def _license(value: object) -> License:
    if not isinstance(value, dict) or set(value) - {*_LICENSE_TEXTS, "needs_acceptance"}:
        raise TypeError("license is not one")
    id, title, link = (_text(value[name], name, may_be_empty=True) for name in _LICENSE_TEXTS)
    return License(id, title, link, _flag(value.get("needs_acceptance", False), "needs_acceptance"))


def _sampler(value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        raise TypeError("sampler is not a table")
    for name, number in value.items():
        if name not in ranges.SAMPLER or not ranges.SAMPLER[name].holds(number):
            raise ValueError("sampler has a setting that cannot be")
    return {name: float(number) for name, number in value.items()}


def _text(value: object, name: str, *, may_be_empty: bool = False) -> str:
    if not isinstance(value, str) or not (value or may_be_empty):
        raise TypeError(f"{name} is not a text")
    return value


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{name} is not a list")
    return value


def _number(value: object, name: str, most: int, *, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= most:
        raise TypeError(f"{name} is not a number that it can be")
    return value


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} is not true or false")
    return value
