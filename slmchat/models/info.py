"""What `slm list` and `slm show` say about a model: the objects of `--json`, and the lines for people.

Knows: the keys of the contract, and how numbers are written for people.
Refuses to know: where the facts are printed.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from slmchat.catalog import adapter_names, model_kind
from slmchat.catalog.file_facts import FileFacts
from slmchat.catalog.gguf_header import Header, SkippedArray
from slmchat.catalog.model_specs import License, ModelSpec, Variant
from slmchat.catalog.records import Installed, InstalledFile
from slmchat.errors import SlmError
from slmchat.wording import counted, in_bytes

_CATALOG_KINDS = (model_kind.FileKind.EMBEDDING, model_kind.FileKind.BASE, model_kind.FileKind.CHAT)
_TEMPLATE_FAULT = "chat_template_fault"

TEMPLATE_LINES = 12
"""Lines of a chat template that `slm show` prints; `--json` has all of it."""


def in_millions(count: int | None) -> str:
    """A number of parameters for people: `134.5M`, `3.8B`."""
    if count is None:
        return ""
    return f"{count / 1e9:.1f}B" if count >= 999_500_000 else f"{count / 1e6:.1f}M"


def of_license(license: License | None) -> dict[str, Any]:
    """A licence as three keys; all None when none is stated."""
    return {
        "license": license.id if license else None,
        "license_title": license.title if license else None,
        "license_link": (license.link or None) if license else None,
    }


def of_projector(file: InstalledFile | None) -> dict[str, Any] | None:
    """The projector that a model sees with, None when it has none."""
    return {"path": str(file.path), "size": file.size, "sha256": file.sha256} if file else None


def listed(installed: Installed) -> dict[str, Any]:
    """One entry of `slm list --json`."""
    return {
        "name": installed.name,
        "quantization": installed.quantization,
        "size": installed.size,
        "parameters": installed.parameters,
        "context_length": installed.context_length,
        "license": installed.license.id if installed.license else None,
        "tags": _tags(installed),
        "path": str(installed.path),
        "source": installed.source,
        "is_present": not installed.missing(),
        "projector": of_projector(installed.projector),
        **_adapted(installed),
    }


def not_complete(name: str, base: str, lora: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """The entry of `slm list --json` for a name with adapters whose base, or one of them, is not here."""
    facts: dict[str, Any] = dict.fromkeys(("quantization", "size", "parameters", "context_length", "license", "path"))
    return {
        "name": name,
        **facts,
        "tags": ["adapted"],
        "source": base,
        "is_present": False,
        "projector": None,
        "base": base,
        "adapters": [{"path": target, "scale": scale} for target, scale in lora],
    }


def _adapted(installed: Installed) -> dict[str, Any]:
    """What a model consists of: its base (None: it is no name for a base with adapters) and its adapters."""
    return {
        "base": installed.base,
        "adapters": [{"path": str(adapter.path), "scale": adapter.scale} for adapter in installed.adapters],
    }


def _tags(installed: Installed) -> list[str]:
    return [*installed.tags, *(["adapter"] if installed.is_adapter else []), *(["adapted"] if installed.base else [])]


def _kind(spec: ModelSpec) -> dict[str, Any]:
    """What a model of the catalog is, by its tags, as `of_installed` says it by the header."""
    found = next((kind for kind in _CATALOG_KINDS if kind.name.lower() in spec.tags), None)
    return {"kind": found.name.lower() if found else None, "kind_in_words": found.value if found else None}


def of_catalog(spec: ModelSpec) -> dict[str, Any]:
    """One entry of `slm list --available --json`."""
    return {
        "name": spec.name,
        "title": spec.title,
        "family": spec.family,
        **_kind(spec),
        "architecture": spec.architecture,
        "parameters": spec.parameters,
        "parameters_text": spec.parameters_text,
        "context_length": spec.context_length,
        **of_license(spec.license),
        "gated": spec.is_gated,
        "tags": list(spec.tags),
        "draft": spec.draft,
        "note": spec.note,
        "variants": [{"quantization": variant.quantization, "size": variant.size} for variant in spec.variants],
    }


def not_installed(spec: ModelSpec, quantization: str | None) -> dict[str, Any]:
    """`slm show` for a model that is only in the catalog: the keys of an installed one, without its file."""
    variant = next((variant for variant in spec.variants if variant.quantization == quantization), spec.variants[0])
    return {
        "name": spec.name,
        **_kind(spec),
        "path": None,
        "sha256": next((source.sha256 for source in variant.sources if source.sha256), None),
        "size": variant.size,
        "architecture": spec.architecture,
        "quantization": variant.quantization,
        "parameters": spec.parameters,
        "parameters_text": spec.parameters_text,
        "context_length": spec.context_length,
        **of_license(spec.license),
        "title": spec.title,
        "source": None,
        "revision": None,
        "tags": list(spec.tags),
        "gated": variant.is_gated,
        "sampler": dict(spec.sampler),
        "sampler_thinking": dict(spec.sampler_thinking),
        "sampler_source": spec.sampler_source,
        "draft": spec.draft,
        "variants": [_variant(each) for each in spec.variants],
        "projector": {"path": None, "size": spec.projector[0].size, "sha256": spec.projector[0].sha256}
        if spec.projector
        else None,
    }


def _variant(variant: Variant) -> dict[str, Any]:
    return {"quantization": variant.quantization, "size": variant.size}


def of_installed(installed: Installed, headers: Sequence[Header], fault: str | None) -> dict[str, Any]:
    """`slm show --json`, from the headers of all its files. `fault`: what is wrong with its chat template."""
    header, kind = headers[0], model_kind.kind_of(headers)
    return {
        "name": installed.name,
        "kind": kind.kind.name.lower(),
        "kind_in_words": kind.in_words,
        "path": str(installed.path),
        "sha256": installed.sha256,
        "size": installed.size,
        "architecture": header.architecture,
        "quantization": installed.quantization,
        "parameters": installed.parameters,
        "context_length": header.context_length,
        **of_license(installed.license),
        "title": installed.title,
        "source": installed.source,
        "revision": installed.revision,
        "tags": _tags(installed),
        "gated": installed.is_gated,
        "sampler": dict(installed.sampler),
        "sampler_thinking": dict(installed.sampler_thinking),
        "sampler_source": installed.sampler_source,
        "draft": installed.draft,
        "installed_at": installed.admitted_at or None,
        "files": [{"path": str(file.path), "size": file.size, "sha256": file.sha256} for file in installed.files],
        "projector": of_projector(installed.projector),
        "chat_template": header.chat_template,
        "chat_template_fault": fault,
        **_adapted(installed),
        "metadata": _metadata(header),
    }


def template_fault(header: Header) -> str | None:
    """Why a conversation cannot be laid out with this model's chat template, in a sentence; None when it has none."""
    from slmchat.conversation.template import ChatTemplate

    if not header.chat_template:
        return None
    try:
        ChatTemplate(header.chat_template, bos_text="", eos_text="")
    except SlmError as error:
        return f"{error.message} `slm run --raw` completes text without it."
    return None


def kept_template_fault(header: Header, path: Path, facts: FileFacts) -> str | None:
    """As `template_fault` of the header of this file, found out once: jinja2 alone takes 0.1 s to import."""
    kept = facts.get(path, _TEMPLATE_FAULT)
    if isinstance(kept, dict) and isinstance(kept.get("fault", ""), str | None):
        return kept.get("fault")
    fault = template_fault(header)
    facts.keep(path, _TEMPLATE_FAULT, {"fault": fault})
    return fault


def _metadata(header: Header) -> dict[str, Any]:
    """The header's own keys, without the template (it has a key of its own) and with long arrays counted."""
    return {
        key: f"[{value.length} x {value.type}]" if isinstance(value, SkippedArray) else value
        for key, value in header.metadata.items()
        if not key.startswith("tokenizer.chat_template")
    }


def in_lines(facts: dict[str, Any], fit: Iterable[tuple[str, str]] = ()) -> Iterator[tuple[str, str]]:
    """The facts of `slm show` for people: a label and its text. `fit`: the lines on this device."""
    yield "name", facts["name"]
    yield "quantization", facts["quantization"]
    if facts["title"]:
        yield "title", facts["title"]
    if facts.get("base"):
        yield "base", facts["base"]
    for adapter in facts.get("adapters", ()):
        yield "adapter", adapter_names.labelled(adapter["path"], adapter["scale"])
    if facts.get("kind"):
        yield "kind", facts["kind_in_words"]
    yield "file", facts["path"] or "not installed"
    yield (
        "size",
        in_bytes(facts["size"]) + (f" in {len(facts['files'])} files" if len(facts.get("files", ())) > 1 else ""),
    )
    yield "sha256", facts["sha256"] or "not known"
    if facts.get("projector"):
        its = facts["projector"]
        yield "projector", f"{in_bytes(its['size'])}, {its['path'] or 'pulled with the model'} (it sees pictures)"
    yield "source", " at ".join(part for part in (facts["source"], facts["revision"]) if part) or "the catalog"
    yield "architecture", facts["architecture"] or "not known"
    yield "parameters", in_millions(facts["parameters"]) or facts.get("parameters_text") or "not known"
    yield "context", f"{facts['context_length']:,} tokens" if facts["context_length"] else "not known"
    yield from fit
    title = facts["license_title"] or "not stated"
    yield "licence", f"{title} {facts['license_link'] or ''}".strip() + (" (gated)" if facts["gated"] else "")
    if facts["tags"]:
        yield "tags", " ".join(facts["tags"])
    yield from _sampler_lines(facts)
    if facts["draft"]:
        yield "draft", f"--draft {facts['draft']} (the same vocabulary)"
    for variant in facts.get("variants", ()):
        yield "can be pulled", f"{variant['quantization']} {in_bytes(variant['size'])}"
    if "metadata" in facts:
        yield from _header_lines(facts)


def _sampler_lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    told = [
        ", ".join(f"{name} {value:g}" for name, value in facts[key].items()) + when
        for key, when in (("sampler", ""), ("sampler_thinking", ", while it thinks"))
        if facts[key]
    ]
    if not told and facts["sampler_source"]:
        yield "sampler", f"slm's own settings ({facts['sampler_source']})"
    for text in told:
        is_last = text is told[-1] and facts["sampler_source"]
        yield "sampler", text + (f" (from {facts['sampler_source']})" if is_last else "")


def _header_lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in facts["metadata"].items():
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        yield "header", f"{key} = {text if len(text) <= 100 else text[:99] + '…'}"
    template = facts["chat_template"]
    if template is None:
        yield "chat template", "none: a base model, to be used with --raw"
        return
    if facts["chat_template_fault"]:
        yield "fault", facts["chat_template_fault"]
    lines = template.splitlines() or [""]
    yield "chat template", f"{counted(len(lines), 'line')}, {counted(len(template), 'character')}"
    for line in lines[:TEMPLATE_LINES]:
        yield "", line if len(line) <= 200 else line[:199] + "…"
    if len(lines) > TEMPLATE_LINES:
        yield "", f"… {len(lines) - TEMPLATE_LINES} more lines with --json"
