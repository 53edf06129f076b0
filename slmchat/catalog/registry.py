"""The catalog: `models.toml` (and the user's own, laid over it) as records, and the meaning of model names.

Knows: the schema of `models.toml`, every mistake one can make in it, catalog names, `hf:` names, paths, near misses.
Refuses to know: how bytes are fetched (sources.py), what is installed (library.py), what fits (fit.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class License:
    """A licence as the catalog states it. `needs_acceptance`: shown, and accepted once, before the first pull."""

    id: str
    title: str
    link: str
    needs_acceptance: bool = False


@dataclass(frozen=True, slots=True)
class HubFile:
    """One GGUF (or the first part of a split one) in a repository on the Hugging Face Hub.

    `revision` is the commit at which `sha256` (of the whole file, the Git-LFS object id) was recorded.
    `size` is in bytes. What is None is asked of the Hub when pulling.
    """

    repo: str
    file: str
    revision: str | None = None
    size: int | None = None
    sha256: str | None = None
    is_gated: bool = False


@dataclass(frozen=True, slots=True)
class IndexMember:
    """One file inside a wheel on a Python package index."""

    package: str
    version: str
    member: str


@dataclass(frozen=True, slots=True)
class IndexFile:
    """A GGUF carried by wheels: the members, concatenated in order, are the file."""

    members: tuple[IndexMember, ...]
    size: int
    sha256: str


SourceSpec = HubFile | IndexFile


@dataclass(frozen=True, slots=True)
class Variant:
    """One quantization of a model and the places where it can be had, in order of preference."""

    quantization: str
    sources: tuple[SourceSpec, ...]

    @property
    def size(self) -> int | None:
        """Bytes of the file, from the first source that states it."""
        return next((source.size for source in self.sources if source.size is not None), None)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model of the catalog. Variants are in order of preference: the first is what `slm pull NAME` takes."""

    name: str
    title: str
    family: str
    variants: tuple[Variant, ...]
    parameters: int | None = None
    parameters_text: str | None = None
    context_length: int | None = None
    architecture: str | None = None
    license: License | None = None
    is_gated: bool = False
    tags: tuple[str, ...] = ()
    sampler: Mapping[str, float] = field(default_factory=dict)
    sampler_source: str | None = None
    base_model: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """What a name given by the user stands for.

    Exactly one of `spec`, `hub` and `path` is set. `name` is the canonical name without the quantization
    (`gemma3:1b`, `hf:owner/repo`, an absolute path, or the user's own name from `slm add`);
    `quantization` is what stood after `@`.
    """

    name: str
    quantization: str | None = None
    spec: ModelSpec | None = None
    hub: HubFile | None = None
    path: Path | None = None
