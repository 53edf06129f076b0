"""The schema of `models.toml`: tables of key -> check, and one error that names every mistake in a file.

Knows: which keys there are, what each may hold, where in the file a mistake stands.
Refuses to know: what a name stands for (registry.py), how files are fetched, what fits.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from slmchat import ranges
from slmchat.catalog import adapter_names, hub_names
from slmchat.catalog.hub_names import QUANTIZATION, REPO
from slmchat.catalog.untrusted import is_contained, is_hub_file
from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass
from slmchat.lazy_patterns import lazy_pattern

TAGS = ("chat", "code", "infill", "vision", "base", "reasoning", "embedding")
MOST_MISTAKES = 10  # more than this in one message helps nobody

# `hf:` and `.gguf` are how the other two kinds of name are told apart, so no name may look like them.
NAME = lazy_pattern(r"(?!hf:)(?!.*\.gguf$)[a-z0-9][a-z0-9._-]{0,63}(:[a-z0-9][a-z0-9._-]{0,63})?")


def shown(text: str) -> str:
    """`text` from a file or the command line as an error may show it: short, without control characters."""
    short = text if len(text) <= 80 else text[:79] + "…"
    return "".join(character if character.isprintable() else "?" for character in short)


@dataclass(frozen=True, slots=True)
class _Report:
    """The mistakes found so far, and the names that the file may refer to (None: that is not checked)."""

    licenses: Collection[str] | None
    catalog: Collection[str] | None
    mistakes: list[str] = field(default_factory=list)

    def add(self, where: str, reason: str) -> None:
        self.mistakes.append(f"{where.strip()} {reason}".strip())


_Check = Callable[[Any, str, _Report], None]  # value, key path, where mistakes go


def _value(is_right: Callable[[Any], object], reason: str) -> _Check:
    def check(value: Any, where: str, report: _Report) -> None:
        if not is_right(value):
            report.add(where, reason)

    return check


def _pattern(pattern: str | re.Pattern[str], reason: str) -> _Check:
    compiled = lazy_pattern(pattern) if isinstance(pattern, str) else pattern
    return _value(lambda value: isinstance(value, str) and compiled.fullmatch(value), reason)


def _text(longest: int) -> _Check:
    return _value(
        lambda value: isinstance(value, str) and value.strip() and value.isprintable() and len(value) <= longest,
        f"must be one line of text, 1 to {longest} characters",
    )


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _count(unit: str) -> _Check:
    return _value(lambda value: _whole(value) and 0 < value < 2**63, f"must be a whole number of {unit} above 0")


def _array(item: _Check, unique: str | None = None, least: int = 1) -> _Check:
    """An array of at least `least` entries. `unique` is a key whose text, in any case, may occur only once in it."""

    def check(value: Any, where: str, report: _Report) -> None:
        if not isinstance(value, list) or len(value) < least:
            report.add(where, "must be an array" + (" with at least one entry" if least else " of tables"))
            return
        seen: dict[str, int] = {}
        for number, entry in enumerate(value, 1):
            here = f"{where}[{number}]"
            item(entry, here, report)
            key = entry.get(unique) if unique and isinstance(entry, dict) else None
            if isinstance(key, str) and seen.setdefault(key.lower(), number) != number:
                report.add(f"{here}.{unique}", f"is the same as that of number {seen[key.lower()]}")

    return check


def _table(keys: Mapping[str, _Check], required: tuple[str, ...] = (), near: Collection[str] = ()) -> _Check:
    """A table of these keys. `near`: keys of tables beside it, which a misspelt one may have meant as well."""

    def check(value: Any, where: str, report: _Report) -> None:
        if not isinstance(value, dict):
            report.add(where, "must be a table")
            return
        for key in required:
            if key not in value:
                report.add(_join(where, key), "is missing")
        for key, entry in value.items():
            if key in keys:
                keys[key](entry, _join(where, key), report)
            else:
                report.add(_join(where, shown(key)), _unknown("key", key, keys, near))

    return check


def _join(where: str, key: str) -> str:
    return where + key if not where or where.endswith(" ") else f"{where}.{key}"


def _unknown(what: str, word: str, known: Collection[str], near_too: Collection[str] = ()) -> str:
    import difflib

    word = word[:80].lower()
    near = difflib.get_close_matches(word, [*known, *near_too], 1) or [
        each for each in known if word and each.startswith(word)
    ]
    reason = f"did you mean {near[0]}?" if near else "known: " + ", ".join(sorted(known))
    return f"is not a known {what} ({reason})"


def _tag(value: Any, where: str, report: _Report) -> None:
    if value not in TAGS:
        report.add(where, _unknown("tag", str(value), TAGS))


def _license(value: Any, where: str, report: _Report) -> None:
    if not isinstance(value, str):
        report.add(where, "must be the id of a licence")
    elif report.licenses is not None and value not in report.licenses:
        report.add(where, _unknown("licence", value, report.licenses))


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
        report.add(_join(where, key), "does not go together with target")
    _TARGET({key: entry for key, entry in value.items() if key not in misplaced}, where, report)


def _adapted(value: Mapping[str, Any], where: str, report: _Report) -> None:
    """An entry that is another model with adapters."""
    misplaced = [key for key in value if key in _MODEL_KEYS | _TARGET_KEYS and key not in _ADAPTED_KEYS]
    for key in misplaced:
        report.add(_join(where, key), "does not go together with base and lora")
    _ADAPTED({key: entry for key, entry in value.items() if key not in misplaced}, where, report)
    if value.get("base") == value.get("name"):
        report.add(_join(where, "base"), "must be another name")


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


_flag = _value(lambda value: isinstance(value, bool), "must be true or false")
_sha256 = _pattern(r"[0-9a-fA-F]{64}", "must be 64 hexadecimal digits")
_repo = _pattern(REPO, "must be OWNER/REPO")
_size = _count("bytes")
_name = _pattern(NAME, "must be family:size or one word, of lower-case letters, digits, '.', '_' and '-'")

_LICENSE_ID = _pattern(r"[a-z0-9][a-z0-9.-]{0,63}", "must be an id of lower-case letters, digits, '.' and '-'")
_LICENSE = _table(
    {
        "title": _text(200),
        "link": _pattern(r"https?://[!-~]{1,500}", "must be a link that begins with https://"),
        "accept": _flag,
    },
    required=("title", "link"),
)
_MEMBER = _table(
    {
        "package": _pattern(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", "must be the name of a package"),
        "version": _pattern(r"[0-9][A-Za-z0-9.!+_-]*", "must be a version"),
        "member": _value(is_contained, "must be a relative path without '..'"),
    },
    required=("package", "version", "member"),
)
_SOURCES = {
    "hub": _table(
        {
            "hub": _repo,
            "file": _value(is_hub_file, "must be a path inside the repository that ends in .gguf, without '..'"),
            "revision": _pattern(r"[0-9a-fA-F]{40}", "must be a commit of 40 hexadecimal digits"),
            "size": _size,
            "sha256": _sha256,
            "gated": _flag,
        },
        required=("hub", "file"),
    ),
    "index": _table({"index": _array(_MEMBER), "size": _size, "sha256": _sha256}, required=("index", "size", "sha256")),
}
_VARIANT = _table(
    {"quantization": _pattern(QUANTIZATION, "must be a word such as Q4_K_M"), "source": _array(_source)},
    required=("quantization", "source"),
)
_SAMPLER = _table({name: _value(allowed.holds, f"must be {allowed}") for name, allowed in ranges.SAMPLER.items()})
_ASKED_WITH = {  # how a model is asked, whatever its name stands for
    "sampler": _SAMPLER,
    "sampler_thinking": _SAMPLER,
    "draft": _value(_is_base, "must be the name of a model, hf:OWNER/REPO, or an absolute path"),
}
_TARGET_KEYS = {"name": _name, "target": _value(is_target, "must be hf:OWNER/REPO, or an absolute path"), **_ASKED_WITH}
_MODEL_KEYS = {
    "name": _name,
    "title": _text(200),
    "family": _pattern(r"[a-z0-9][a-z0-9._-]{0,63}", "must be one word in lower case"),
    "parameters": _count("parameters"),
    "parameters_text": _text(80),
    "context": _count("tokens"),
    "architecture": _pattern(r"[a-z0-9][a-z0-9._-]{0,63}", "must be one word in lower case"),
    "license": _license,
    "gated": _flag,
    "tags": _array(_tag),
    **_ASKED_WITH,
    "sampler_source": _text(500),
    "base_model": _repo,
    "note": _text(500),
    "projector": _array(_source),
    "variant": _array(_VARIANT, unique="quantization"),
}
_ADAPTED_KEYS = {
    "name": _name,
    "base": _value(_is_base, "must be the name of a model, hf:OWNER/REPO, or an absolute path"),
    "lora": _array(_value(_is_adapter, "must be an absolute path, or hf:OWNER/REPO/FILE.gguf, then =SCALE")),
    **_ASKED_WITH,
}
_ADAPTED = _table(_ADAPTED_KEYS, required=("name", "base", "lora"))
_MODEL = _table(_MODEL_KEYS, required=("name",), near=(*_TARGET_KEYS, *_ADAPTED_KEYS))
_TARGET = _table(_TARGET_KEYS, required=("name", "target"))
_FILE = _table({"licenses": _licenses, "model": _array(_model, unique="name", least=0)})


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
    if not report.mistakes:
        return
    first, *others = report.mistakes
    count = f" ({len(others)} more below)" if others else ""
    hint = "also: " + "; ".join(others[: MOST_MISTAKES - 1]) if others else None
    if hint and len(report.mistakes) > MOST_MISTAKES:
        hint += f"; and {len(report.mistakes) - MOST_MISTAKES} more"
    raise SlmError(f"{file}: {first}{count}.", hint=hint, exit_code=ExitCode.USAGE)
