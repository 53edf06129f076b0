"""The catalog: `models.toml` (and the user's own, laid over it), and the meaning of model names.

Knows: catalog names, `hf:` names, paths, near misses, how the user's file is laid over the catalog and written.
Refuses to know: which values a file may hold (schema.py), how bytes are fetched (sources.py), what is installed
(library.py), what fits (fit.py).
"""

import re
from collections.abc import Mapping
from dataclasses import field, replace
from functools import cache
from pathlib import Path
from typing import Any

from slmchat import toml_files
from slmchat.catalog import adapter_names, file_names, hub_names, schema
from slmchat.catalog.model_specs import HubFile, License, ModelSpec, sampler_of, spec_of
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.lazy_dataclasses import dataclass
from slmchat.lazy_patterns import lazy_pattern
from slmchat.toml_schema import shown
from slmchat.user_paths import user_path

_MOST_NEAR = 8  # names in one hint
_HEAD = lazy_pattern(r'^\[\[model\]\]\nname = "([^"]+)"\ntitle = "([^"]*)"$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Adapted:
    """Another model with LoRA adapters. `base` is its name as it was written; `lora` are `hf:` names or paths with
    their scales, in order."""

    base: str
    lora: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """What a name given by the user stands for.

    Exactly one of `spec`, `hub`, `path` and `adapted` is set. `name` is the canonical name without the quantization
    (`gemma3:1b`, `hf:owner/repo`, an absolute path, or the user's own name from `slm add`);
    `quantization` is what stood after `@`. `hub.file` is empty when the name leaves the file open.
    """

    name: str
    quantization: str | None = None
    spec: ModelSpec | None = None
    hub: HubFile | None = None
    path: Path | None = None
    adapted: Adapted | None = None


@dataclass(frozen=True, slots=True)
class UserName:
    """What the user's own file says about one name.

    `target` is what the name stands for; None: the entry is a model, or is laid over one of the catalog.
    `sampler` and `sampler_thinking` are empty and `draft` is None when the entry gives none.
    """

    name: str
    target: Reference | None = None
    sampler: Mapping[str, float] = field(default_factory=dict)
    sampler_thinking: Mapping[str, float] = field(default_factory=dict)
    draft: str | None = None


@dataclass(frozen=True, slots=True)
class Registry:
    """Every model that has a name: the catalog with the user's file laid over it, in the order of the files.

    `names` holds every entry of the user's file. A name that stands for a target is not in `models`.
    """

    models: Mapping[str, ModelSpec]
    licenses: Mapping[str, License]
    names: Mapping[str, UserName] = field(default_factory=dict)

    def resolve(self, text: str) -> Reference:
        """What `text` stands for: a name with optional `@QUANT`, a name on the Hub, or a path.

        Nothing is looked at on the disk or the network. Raises `SlmError`: usage when the name is malformed,
        no-model with the nearest names when there is no such model or quantization.
        """
        reference = resolve_without_catalog(text, self.names)
        if reference:
            return reference
        name, quantization = _split(text)
        spec = self.models.get(name)
        if spec is None:
            text = shown(text.strip())
            raise SlmError(f"there is no model '{text}'.", hint=self._near(text), exit_code=ExitCode.NO_MODEL)
        if quantization is None:
            return Reference(name, spec=spec)
        there_are = [variant.quantization for variant in spec.variants]
        meant = file_names.named(quantization, there_are)
        if meant is None:
            raise SlmError(
                f"{name} has no quantization '{shown(quantization)}'; there are {', '.join(there_are)}.",
                hint=f"slm pull {name}@{there_are[0]}",
                exit_code=ExitCode.NO_MODEL,
            )
        return Reference(name, meant, spec=spec)

    def _near(self, text: str) -> str:
        """A hint with the names nearest to `text`: its own family if there is one, else what is spelled alike."""
        pasted = hub_names.parse(f"hf:{text}")  # as `llama-server -hf` takes it
        if pasted is not None:
            return f"did you mean {pasted.text}?"
        name = _split(text)[0]
        names = dict.fromkeys([*self.models, *(own.name for own in self.names.values() if own.target)])
        prefix = name.partition(":")[0]
        near = [known for known in names if known.partition(":")[0] == prefix]
        near += [known for known, spec in self.models.items() if spec.family == name and known not in near]
        if not near:
            import difflib

            letters = {_letters(known): known for known in names}
            near = [letters[match] for match in difflib.get_close_matches(_letters(name)[:80], letters, 3)]
        if not near:
            return "`slm list --available` shows the catalog; hf:OWNER/REPO names any GGUF on the Hub"
        *some, last = near[:_MOST_NEAR]
        return f"did you mean {', '.join(some) + ' or ' if some else ''}{last}? `slm list --available` shows all"


def resolve_without_catalog(text: str, names: Mapping[str, UserName]) -> Reference | None:
    """What `text` stands for if the built-in catalog is not needed to say so, else None.

    That is a path, a name on the Hub, or a name of the user's own from `load_user_names` that has a target.
    Raises `SlmError` (usage) when `text` is empty or malformed.
    """
    text = text.strip()
    if not text:
        raise usage_error("the name of a model is empty.", "`slm list --available` shows the catalog")
    if hub_names.is_hub_name(text):
        return _hub_reference(text)
    if is_path(text):
        path = absolute(text)
        return Reference(str(path), path=path)
    name, quantization = _split(text)
    target = names[name].target if name in names else None
    if target is None or quantization is None:
        return target
    if target.adapted is not None:
        base = target.adapted.base
        message = f"{name} has the quantization of its base {base}, so '@' cannot pick another."
        raise usage_error(message, name)
    if target.path or (target.hub and target.hub.file):
        raise usage_error(f"{name} is one file, so '@' cannot pick a quantization.", name)
    return replace(target, quantization=quantization)


def is_path(text: str) -> bool:
    """Whether `text` is meant as a path: it ends in `.gguf`, or begins as no name does (`./`, `../`, `/`, `~`, `C:`).

    Files without that ending are sound too: the blobs of Ollama and of the Hub's cache are called by their hash.
    """
    return text.lower().endswith(".gguf") or bool(re.match(r"\.{0,2}[/\\]|~|[A-Za-z]:[/\\]", text))


def builtin_file() -> Path:
    """The catalog that comes with slm: inside the package when installed, at the project root in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "models.toml"
    return installed if installed.exists() else package.parent / "models.toml"


def load(user_file: Path | None = None) -> Registry:
    """The built-in catalog with the user's file, if there is one, laid over it.

    An entry of the user's file replaces the keys that it gives; `variant` and `sampler` are replaced as a whole, and
    a `sampler` without a `sampler_thinking` holds for both.
    Raises `SlmError`: usage for mistakes in the user's file (all of them, up to ten), storage when it cannot be read.
    """
    built_in = _built_in()
    document = toml_files.read(user_file) if user_file else {}
    tables = {table["name"]: table for table in built_in["model"]}
    if user_file and document:
        schema.check(document, user_file, licenses=built_in["licenses"], catalog=tables)
    licenses = {
        id: License(id, table["title"], table["link"], table.get("accept", False))
        for id, table in {**built_in["licenses"], **document.get("licenses", {})}.items()
    }
    for entry in document.get("model", []):
        if "target" in entry or "base" in entry:
            tables.pop(entry["name"], None)  # the user's own meaning of a name wins
            continue
        table = {**tables.get(entry["name"], {}), **entry}
        if "sampler" in entry and "sampler_thinking" not in entry:
            table.pop("sampler_thinking", None)
        if "sampler" in entry and "sampler_source" not in entry:
            table["sampler_source"] = str(user_file)
        tables[entry["name"]] = table
    models = {name: spec_of(table, licenses) for name, table in tables.items()}
    return Registry(models, licenses, _user_names(document))


def load_user_names(user_file: Path) -> dict[str, UserName]:
    """The names in the user's own file, without parsing the catalog (`slm run` has no time for it).

    With `resolve_without_catalog` this answers for every name that does not stand in the catalog. Licence ids and
    names laid over the catalog are not checked here; `load` does. Raises the same errors.
    """
    document = toml_files.read(user_file)
    schema.check(document, user_file)
    return _user_names(document)


def is_in_catalog(name: str) -> bool:
    """Whether the catalog that comes with slm has a model of this name."""
    return any(table["name"] == name for table in _built_in()["model"])


def catalog_titles() -> dict[str, str]:
    """Names and titles of the catalog that comes with slm, without parsing it: what waits for them is a key press."""
    return dict(_HEAD.findall(builtin_file().read_text(encoding="utf-8")))


@cache
def _built_in() -> dict[str, Any]:
    """The built-in catalog, read and checked once. Nobody may change it."""
    file = builtin_file()
    document = toml_files.read(file)
    schema.check(document, file, licenses=(), catalog=())
    if not document:
        raise SlmError(f"the catalog {file} is missing; install slm again.", exit_code=ExitCode.STORAGE)
    return document


def _user_names(document: Mapping[str, Any]) -> dict[str, UserName]:
    names = {}
    for entry in document.get("model", []):
        names[entry["name"]] = UserName(
            entry["name"],
            _target(entry),
            sampler_of(entry, "sampler"),
            sampler_of(entry, "sampler_thinking"),
            entry.get("draft"),
        )
    return names


def _target(entry: Mapping[str, Any]) -> Reference | None:
    if "base" in entry:
        lora = tuple(adapter_names.parse(text) for text in entry["lora"])
        return Reference(entry["name"], adapted=Adapted(entry["base"], lora))
    target = resolve_without_catalog(entry["target"], {}) if "target" in entry else None
    return replace(target, name=entry["name"]) if target else None


def _hub_reference(text: str) -> Reference:
    name = hub_names.parse(text)
    if name is None:
        raise usage_error(f"'{shown(text)}' does not name a file on the Hub.", hub_names.HINT)
    quantization = name.quantization.upper() if name.quantization else None
    hub = HubFile(name.repo, name.file or "", name.revision)
    return Reference(name.without_quantization, quantization, hub=hub)


def absolute(text: str) -> Path:
    """A path as it was typed (`~` too), made absolute; `~` of nobody is a file that is not there. Raises `SlmError`
    (usage)."""
    try:
        if "\0" in text:
            raise ValueError("a path cannot hold a null character")
        return user_path(text).absolute()
    except (OSError, ValueError) as error:  # no current directory, not encodable
        reason = isinstance(error, OSError) and "the current directory has been deleted"
        message = f"the path '{shown(text)}' cannot be used: {reason or shown(str(error))}."
        raise usage_error(message) from error


def _split(text: str) -> tuple[str, str | None]:
    """The canonical forms of name and quantization."""
    name, at, quantization = text.strip().partition("@")
    if not name or (at and not quantization):
        hint = "write NAME@QUANT, as in gemma3:1b@Q8_0"
        raise usage_error(f"'{shown(text)}' is not a name.", hint)
    return name.lower(), quantization.upper() if at else None


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name)
