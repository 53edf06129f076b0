"""`slm list`, `show`, `add`: what is here, and names for it.

Every function prints what was asked for on stdout and returns the exit code; errors leave as `SlmError`.
"""

import os
from pathlib import Path
from typing import Any

from slmchat.catalog import adapter_names, kept_headers, model_kind
from slmchat.catalog.file_facts import FileFacts
from slmchat.catalog.finding import Finder
from slmchat.catalog.gguf import read_headers
from slmchat.catalog.library import Library, from_path
from slmchat.catalog.model_specs import ModelSpec
from slmchat.catalog.registry import UserName, load, resolve_without_catalog
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.fit.shape import shape_of
from slmchat.models import adapters, device_fit, info
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.terminal.tables import Column
from slmchat.wording import in_bytes

_INSTALLED = (
    Column("NAME"),
    Column("QUANTIZATION", rank=1),
    Column("SIZE", rank=2),
    Column("PARAMETERS", rank=3),
    Column("TAGS", rank=4),
    Column("WHERE", rank=5),
)
_CATALOG = (
    Column("NAME"),
    Column("PARAMETERS", rank=4, is_prose=True),
    Column("SIZE", rank=2),
    Column("HERE", rank=1, is_prose=True),
    Column("SPEED", rank=3),
    Column("QUANTIZATIONS", rank=8),
    Column("LICENCE", rank=6),
    Column("TAGS", rank=7),
    Column("INSTALLED", rank=5),
)


def list_models(settings: Settings, console: Console, *, is_available: bool = False, is_json: bool = False) -> ExitCode:
    """What is installed, or with `is_available` the catalog."""
    library = Library(settings.paths, console.warn)
    if is_available:
        return _list_catalog(settings, library, console, is_json)
    entries = [info.listed(record) for record in library.all()]
    finder = adapters.finder(settings, library)
    entries += [_listed_name(own) for own in finder.names.values() if _path_of(own)]
    entries += [_listed_adapted(own, finder) for own in finder.names.values() if _adapted_of(own)]
    if is_json:
        console.print_json(entries)
    elif entries:
        console.table(
            _INSTALLED,
            [
                (
                    entry["name"],
                    entry["quantization"] or "",
                    _sizes(entry),
                    info.in_millions(entry["parameters"]),
                    " ".join(entry["tags"]),
                    _where(entry),
                )
                for entry in entries
            ],
        )
    else:
        console.note("no model is installed.")
        console.note("next: slm pull smollm2:135m, or slm list --available for the catalog")
    return ExitCode.DONE


def _sizes(entry: dict[str, Any]) -> str:
    """The weights, and what the model sees with."""
    parts = [entry["size"], (entry["projector"] or {}).get("size")]
    return " + ".join(in_bytes(size) for size in parts if size is not None)


def _list_catalog(settings: Settings, library: Library, console: Console, is_json: bool) -> ExitCode:
    registry = load(settings.paths.user_registry)
    here: dict[str, list[str]] = {}
    for record in library.all():
        here.setdefault(record.name, []).append(record.quantization)
    device = device_fit.ForDevice(settings, console, is_lasting=True)
    outlooks = {name: _best(spec, device) for name, spec in registry.models.items()}
    if is_json:
        console.print_json(
            [
                {**info.of_catalog(spec), "installed": here.get(name, []), "fit": _fit_json(outlooks[name])}
                for name, spec in registry.models.items()
            ]
        )
        device.measure_more()
        return ExitCode.DONE
    console.table(
        _CATALOG,
        [
            (
                name,
                spec.parameters_text or info.in_millions(spec.parameters),
                in_bytes(spec.variants[0].size) if spec.variants[0].size is not None else "",
                _mark(outlooks[name]),
                _speed(outlooks[name]),
                " ".join(variant.quantization for variant in spec.variants),
                (spec.license.id if spec.license else "") + (" (gated)" if spec.is_gated else ""),
                " ".join(spec.tags),
                " ".join(here.get(name, [])),
            )
            for name, spec in registry.models.items()
        ],
    )
    device.measure_more()
    return ExitCode.DONE


_Best = tuple[str, device_fit.FitReport] | None


def _best(spec: ModelSpec, device: device_fit.ForDevice) -> _Best:
    """The variant that `slm pull` would take, and what becomes of it here; None when no size is stated."""
    chosen = device.best_variant(spec)
    if chosen is None:
        return None
    return chosen.option.quantization, device.fit_report(chosen.option.shape, is_estimate=True)


def _mark(best: _Best) -> str:
    return f"{best[1].mark} ({best[0]})" if best else "size not stated"


def _speed(best: _Best) -> str:
    return best[1].speed_in_words if best else ""


def _fit_json(best: _Best) -> dict[str, Any] | None:
    return {"quantization": best[0], **best[1].as_json()} if best else None


def _path_of(own: UserName) -> bool:
    return own.target is not None and own.target.path is not None


def _adapted_of(own: UserName) -> bool:
    return own.target is not None and own.target.adapted is not None


def _where(entry: dict[str, Any]) -> str:
    """Where a model is, or what it is made of and what has become of that."""
    if entry["base"] is None:
        missing = "its file is gone" if _is_gone(entry["path"]) else f"not usable: slm show {entry['name']}"
        return str(entry["path"]) if entry["is_present"] else f"{entry['path']} ({missing})"
    names = ", ".join(adapter_names.labelled(Path(each["path"]).name, each["scale"]) for each in entry["adapters"])
    missing = "" if entry["is_present"] else f" (not complete: slm show {entry['name']})"
    return f"{entry['base']} with {names}{missing}"


def _is_gone(path: str) -> bool:
    """Whether nothing is there; what nobody may look at is not gone."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _listed_adapted(own: UserName, finder: Finder) -> dict[str, Any]:
    """The entry of a name for a base with adapters; what it needs may not be here, or not go together."""
    assert own.target is not None
    assert own.target.adapted is not None
    try:
        return info.listed(finder.find(own.name))
    except SlmError:
        return info.not_complete(own.name, own.target.adapted.base, own.target.adapted.lora)


def _listed_name(own: UserName) -> dict[str, Any]:
    """The entry of a name that `slm add` gave to a path; the file may have gone or changed since."""
    assert own.target is not None
    assert own.target.path is not None
    try:
        facts = info.listed(from_path(own.target.path))
    except SlmError:
        facts = dict.fromkeys(("quantization", "size", "parameters", "context_length", "license", "base"))
        facts |= {
            "tags": [],
            "projector": None,
            "adapters": [],
            "path": str(own.target.path),
            "source": str(own.target.path),
            "is_present": False,
        }
    return {**facts, "name": own.name}


def list_remote(asked: str, settings: Settings, console: Console, *, is_json: bool = False) -> ExitCode:
    """Print the models that the endpoint lists. Raises `SlmError` (network)."""
    from slmchat.models.remote_backend import open_endpoint

    place = open_endpoint(asked, settings, console)
    from slmchat.engine.remote import engine  # behind the seal

    models = engine.list_models(place.endpoint, place.key, place.route, console.note)
    if is_json:
        console.print_json(
            [
                {
                    "name": model.id,
                    "endpoint": place.endpoint.url,
                    "context_length": model.n_ctx,
                    "aliases": model.aliases,
                }
                for model in models
            ]
        )
    elif models:
        console.table(
            (Column("NAME"), Column("CONTEXT WINDOW", rank=1), Column("ALSO CALLED", rank=2)),
            [(model.id, f"{model.n_ctx:,}" if model.n_ctx else "", " ".join(model.aliases)) for model in models],
        )
    else:
        console.note(f"{place.host} has no model.")
    return ExitCode.DONE


def show(name: str, settings: Settings, console: Console, *, is_json: bool = False) -> ExitCode:
    """Everything known of one model. Raises `SlmError` behind it: NO_MODEL for one that only the catalog knows, DAMAGED
    for a file that is no model or that llama.cpp would not survive."""
    try:
        installed = adapters.finder(settings, Library(settings.paths, console.warn)).find_any(name)
    except SlmError as error:
        if error.exit_code is ExitCode.NO_MODEL:
            _show_from_catalog(name, settings, console, is_json)
        raise
    facts_of_files = FileFacts(settings.paths.file_facts, is_kept=not settings.is_private)
    headers = kept_headers.read_headers(installed.parts, facts_of_files)
    answers = model_kind.kind_of(headers).can_generate
    device = device_fit.ForDevice(settings, console)
    fit_report = device.fit_report(shape_of(headers), files=installed.parts) if answers else None
    fault = info.kept_template_fault(headers[0], installed.path, facts_of_files)
    facts = {**info.of_installed(installed, headers, fault), "fit": fit_report.as_json() if fit_report else None}
    _print_facts(facts, console, is_json, fit_report)
    model_kind.check_installable(headers, installed.key)
    if fit_report:
        device.measure_more()
    return ExitCode.DONE


def _show_from_catalog(name: str, settings: Settings, console: Console, is_json: bool) -> None:
    """What the catalog says of a model that is not here; nothing when it does not have it. Raises `SlmError`."""
    reference = load(settings.paths.user_registry).resolve(name)
    if reference.spec is None:
        return
    facts = info.not_installed(reference.spec, reference.quantization)
    shape = device_fit.expected_shape(reference.spec, facts["quantization"], facts["size"])
    device = device_fit.ForDevice(settings, console, is_lasting=True)
    fit_report = device.fit_report(shape, is_estimate=True) if shape else None
    _print_facts({**facts, "fit": fit_report.as_json() if fit_report else None}, console, is_json, fit_report)
    device.measure_more()


def _print_facts(
    facts: dict[str, Any], console: Console, is_json: bool, fit_report: device_fit.FitReport | None
) -> None:
    if is_json:
        console.print_json(facts)
        return
    for label, text in info.in_lines(facts, fit_report.rows() if fit_report else ()):
        if label:
            console.labelled(f"{label + ':':17}", text)
        else:  # a line of the template, as it is
            console.print(f"{'':17}{text}")


def add(name: str, target: str, settings: Settings, console: Console, *, is_json: bool = False) -> ExitCode:
    """Give a path or an `hf:` name a name of its own. A path must be a model now. Raises `SlmError`."""
    library = Library(settings.paths, console.warn)
    if library.matching(name.strip().lower()):
        raise usage_error(f"{name} is installed already.", f"slm rm {name}")
    reference = resolve_without_catalog(target, {})
    following = "slm pull {name}"
    if reference is not None and reference.path is not None:
        headers = read_headers(from_path(reference.path).parts)
        kind = model_kind.check_installable(headers, str(reference.path))
        following = 'slm embed -m {name} "Hello"; slm ask uses it, too' if kind.is_embedding else "slm chat {name}"
        if not kind.can_generate:
            console.note(f"{reference.path} is {kind.in_words}")
        elif fault := info.template_fault(headers[0]):
            console.warn(fault)
    from slmchat.catalog.user_file import add_target  # with what writes TOML

    added = add_target(settings.paths.user_registry, name, target)
    is_path = reference is not None and reference.path is not None
    meant = str(reference.path) if reference is not None and is_path else target
    if is_json:
        console.print_json({"name": added, "target": meant})
    console.note(f"{added} stands for {meant}.")
    console.note(f"next: {following.replace('{name}', added)}")
    return ExitCode.DONE
