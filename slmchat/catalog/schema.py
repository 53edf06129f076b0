"""The schema of `models.toml`: tables of key -> check.

Knows: which keys there are, what each may hold.
Refuses to know: what a name stands for (registry.py), how files are fetched, what fits.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from slmchat import ranges
from slmchat.catalog import adapter_names, hub_names
from slmchat.catalog.hub_names import QUANTIZATION, REPO
from slmchat.catalog.untrusted import is_contained, is_hub_file
from slmchat.errors import SlmError
from slmchat.lazy_patterns import lazy_pattern
from slmchat.toml_schema import Mistakes, array, count, flag, join, pattern, shown, table, text, unknown, value, within

TAGS = ("chat", "code", "infill", "vision", "base", "reasoning", "embedding")

# `hf:` and `.gguf` are how the other two kinds of name are told apart, so no name may look like them.
NAME = lazy_pattern(r"(?!hf:)(?!.*\.gguf$)[a-z0-9][a-z0-9._-]{0,63}(:[a-z0-9][a-z0-9._-]{0,63})?")


class _Report(Mistakes):
    """The mistakes found so far, and the names that the file may refer to (None: that is not checked)."""

    def __init__(self, licenses: Collection[str] | None, catalog: Collection[str] | None) -> None:
        super().__init__()
        self.licenses = licenses
        self.catalog = catalog


def _tag(value: Any, where: str, report: _Report) -> None:
    if value not in TAGS:
        report.add(where, unknown("tag", str(value), TAGS))


def _license(value: Any, where: str, report: _Report) -> None:
    if not isinstance(value, str):
        report.add(where, "must be the id of a licence")
    elif report.licenses is not None and value not in report.licenses:
        report.add(where, unknown("licence", value, report.licenses))


def _source(value: Any, where: str, report: _Report) -> None:
    kinds = [kind for kind in _SOURCES if isinstance(value, dict) and kind in value]
    if len(kinds) == 1:
        _SOURCES[kinds[0]](value, where, report)
    else:
        report.add(where, "must be a table with either hub and file, or index")


def _model(value: Any, where: str, report: _Report) -> None:
    name = value.get("name") if isinstance(value, dict) else None
    if isinstance(name, str):
        where = f'{where} "{shown(name)}" '
    if isinstance(value, dict) and {"base", "lora"} & value.keys():
        _adapted(value, where, report)
        return
    if not isinstance(value, dict) or "target" not in value:
        _MODEL(value, where, report)
        is_new = isinstance(name, str) and report.catalog is not None and name not in report.catalog
        if is_new and "variant" not in value:
            report.add(f"{where}variant", "is missing, as is target, and no model of the catalog has this name")
        return
    misplaced = [key for key in value if key in _MODEL_KEYS and key not in _TARGET_KEYS]
    for key in misplaced:
        report.add(join(where, key), "does not go together with target")
    _TARGET({key: entry for key, entry in value.items() if key not in misplaced}, where, report)


def _adapted(value: Mapping[str, Any], where: str, report: _Report) -> None:
    """An entry that is another model with adapters."""
    misplaced = [key for key in value if key in _MODEL_KEYS | _TARGET_KEYS and key not in _ADAPTED_KEYS]
    for key in misplaced:
        report.add(join(where, key), "does not go together with base and lora")
    _ADAPTED({key: entry for key, entry in value.items() if key not in misplaced}, where, report)
    if value.get("base") == value.get("name"):
        report.add(join(where, "base"), "must be another name")


def _is_base(value: object) -> bool:
    """Whether `value` can name the model below adapters: a name with or without a quantization, or a target."""
    if not isinstance(value, str):
        return False
    name, at, quantization = value.partition("@")
    return is_target(value) or bool(NAME.fullmatch(name) and (not at or QUANTIZATION.fullmatch(quantization)))


def _is_adapter(value: object) -> bool:
    try:
        return isinstance(value, str) and is_target(adapter_names.parse(value)[0])
    except SlmError:
        return False


def is_target(value: object) -> bool:
    """Whether `value` can be the target of a name: a name on the Hub, or an absolute path (or `~`)."""
    if not isinstance(value, str) or not value.isprintable():
        return False
    if hub_names.is_hub_name(value):
        return hub_names.parse(value) is not None
    return value.startswith("~") or Path(value).is_absolute()


def _licenses(value: Any, where: str, report: _Report) -> None:
    if not isinstance(value, dict):
        report.add(where, "must be a table")
        return
    for key, entry in value.items():
        here = f"{where}.{shown(key)}"
        _LICENSE_ID(key, here, report)
        _LICENSE(entry, here, report)


_sha256 = pattern(r"[0-9a-fA-F]{64}", "must be 64 hexadecimal digits")
_repo = pattern(REPO, "must be OWNER/REPO")
_size = count("bytes")
_name = pattern(NAME, "must be family:size or one word, of lower-case letters, digits, '.', '_' and '-'")

_LICENSE_ID = pattern(r"[a-z0-9][a-z0-9.-]{0,63}", "must be an id of lower-case letters, digits, '.' and '-'")
_LICENSE = table(
    {
        "title": text(200),
        "link": pattern(r"https?://[!-~]{1,500}", "must be a link that begins with https://"),
        "accept": flag,
    },
    required=("title", "link"),
)
_MEMBER = table(
    {
        "package": pattern(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", "must be the name of a package"),
        "version": pattern(r"[0-9][A-Za-z0-9.!+_-]*", "must be a version"),
        "member": value(is_contained, "must be a relative path without '..'"),
    },
    required=("package", "version", "member"),
)
_SOURCES = {
    "hub": table(
        {
            "hub": _repo,
            "file": value(is_hub_file, "must be a path inside the repository that ends in .gguf, without '..'"),
            "revision": pattern(r"[0-9a-fA-F]{40}", "must be a commit of 40 hexadecimal digits"),
            "size": _size,
            "sha256": _sha256,
            "gated": flag,
        },
        required=("hub", "file"),
    ),
    "index": table({"index": array(_MEMBER), "size": _size, "sha256": _sha256}, required=("index", "size", "sha256")),
}
_VARIANT = table(
    {"quantization": pattern(QUANTIZATION, "must be a word such as Q4_K_M"), "source": array(_source)},
    required=("quantization", "source"),
)
_SAMPLER = table({name: within(allowed) for name, allowed in ranges.SAMPLER.items()})
_ASKED_WITH = {  # how a model is asked, whatever its name stands for
    "sampler": _SAMPLER,
    "sampler_thinking": _SAMPLER,
    "draft": value(_is_base, "must be the name of a model, hf:OWNER/REPO, or an absolute path"),
}
_TARGET_KEYS = {"name": _name, "target": value(is_target, "must be hf:OWNER/REPO, or an absolute path"), **_ASKED_WITH}
_MODEL_KEYS = {
    "name": _name,
    "title": text(200),
    "family": pattern(r"[a-z0-9][a-z0-9._-]{0,63}", "must be one word in lower case"),
    "parameters": count("parameters"),
    "parameters_text": text(80),
    "context": count("tokens"),
    "architecture": pattern(r"[a-z0-9][a-z0-9._-]{0,63}", "must be one word in lower case"),
    "license": _license,
    "gated": flag,
    "tags": array(_tag),
    **_ASKED_WITH,
    "sampler_source": text(500),
    "base_model": _repo,
    "note": text(500),
    "projector": array(_source),
    "variant": array(_VARIANT, unique="quantization"),
}
_ADAPTED_KEYS = {
    "name": _name,
    "base": value(_is_base, "must be the name of a model, hf:OWNER/REPO, or an absolute path"),
    "lora": array(value(_is_adapter, "must be an absolute path, or hf:OWNER/REPO/FILE.gguf, then =SCALE")),
    **_ASKED_WITH,
}
_ADAPTED = table(_ADAPTED_KEYS, required=("name", "base", "lora"))
_MODEL = table(_MODEL_KEYS, required=("name",), near=(*_TARGET_KEYS, *_ADAPTED_KEYS))
_TARGET = table(_TARGET_KEYS, required=("name", "target"))
_FILE = table({"licenses": _licenses, "model": array(_model, unique="name", least=0)})


def check(
    document: Mapping[str, Any],
    file: Path,
    *,
    licenses: Collection[str] | None = None,
    catalog: Collection[str] | None = None,
) -> None:
    """Raise one `SlmError` (usage) that names every mistake in `document`, up to ten, by file, key path and reason.

    Key paths count from 1: `model[2] "my:model" variant[1].source[1].sha256`. `licenses` are the ids known besides
    those in the document, `catalog` the model names that an entry without variants may be laid over; with None
    the names are not checked.
    """
    own = document.get("licenses")
    if licenses is not None and isinstance(own, dict):
        licenses = {*licenses, *own}
    report = _Report(licenses, catalog)
    _FILE(document, "", report)
    report.raise_if_any(file)
