"""Fetch, verify, install.

The story of one name: what it stands for -> is it here already -> its licence -> the places where it can be had, one
after the other: plan, disk space, fetch, sha256, header, into its place, into the library.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from slmchat.catalog import hub_names, lora, model_kind
from slmchat.catalog.fetching import check_space, checked, locked, space_free, space_needed, workspace
from slmchat.catalog.gguf import read_headers
from slmchat.catalog.gguf_header import Header
from slmchat.catalog.library import from_path, now
from slmchat.catalog.model_specs import License
from slmchat.catalog.records import Installed, InstalledFile, with_quantization
from slmchat.catalog.registry import Adapted, Reference, Registry
from slmchat.catalog.sources import FetchPlan, Source, Unreachable
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.models import adapters, pull_projector
from slmchat.models.info import of_license, of_projector, template_fault
from slmchat.models.pull_plan import (
    Candidate,
    Pulling,
    candidates_for,
    check_fit,
    first_plan,
    fit_report_of,
    header_of,
    quantization_asked,
    tell_whose_hash,
    weight_of,
    with_best_first,
)
from slmchat.private_files import make_private, storage_error
from slmchat.wording import counted, in_bytes


def pull_name(name: str, pulling: Pulling) -> dict[str, Any]:
    """One name, from its meaning to its record. Raises `SlmError`."""
    options, reporter, library = pulling.options, pulling.reporter, pulling.library
    reference = pulling.registry.resolve(name)
    if reference.adapted is not None:
        return _pull_adapted(reference, reference.adapted, pulling)
    if reference.path is not None:
        return _in_place(reference, pulling)
    quantization = quantization_asked(reference, options)
    here = library.installed_as(reference.name, quantization)
    stated = pull_projector.sources(reference, name, pulling)
    if here is not None and not options.dry_run and (here.projector is not None or not stated):
        reporter.note(f"{here.key} is already installed ({in_bytes(here.size)} at {here.path}).")
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
        reference = with_best_first(reference, reference.spec, pulling)
    candidates = candidates_for(reference, quantization, name, pulling)
    if options.dry_run:
        return _dry_run(name, reference, candidates, here, pulling)
    if reference.spec is not None and reference.spec.license is not None:
        _agree(reference.spec.license, name, pulling)
    installed, is_new, source = _from_first_that_works(name, reference, candidates, pulling)
    if not is_new:
        reporter.note(f"{installed.key} is already installed ({in_bytes(installed.size)} at {installed.path}).")
        return _as_json(installed, status="already-installed")
    reporter.note(f"installed {installed.key} ({in_bytes(installed.size)}) from {installed.source}")
    installed = pull_projector.add(installed, pull_projector.of(source, stated), name, pulling)
    if pulling.tells_next:
        reporter.note(_next(installed))
    return _as_json(installed, status="installed")


def _check_kind(header: Header | None, name: str) -> None:
    """Refuse, before the bytes come, what slm can do nothing with, as far as its header is known. Raises `SlmError`."""
    if header is not None:
        model_kind.check_installable([header], name)


def _next(installed: Installed) -> str:
    if not installed.answers and not installed.is_adapter:
        return f"{installed.key} is {model_kind.FileKind.EMBEDDING.value}: slm list --available shows those that do"
    if installed.is_adapter:
        return f"next: slm chat -m MODEL --lora {installed.name}, with the model that it was made for"
    return f"next: slm chat {installed.name}"


def _pull_adapted(reference: Reference, adapted: Adapted, pulling: Pulling) -> dict[str, Any]:
    """A base and its adapters: what is missing is fetched, then they are put together. Raises `SlmError`."""
    if pulling.options.quantization:
        raise usage_error(
            f"{reference.name} names its base itself, so --quant cannot pick another.", f"slm pull {reference.name}"
        )
    finder = adapters.finder(pulling.settings, pulling.library)
    finder.check_base(reference.name, adapted)
    parts = [pull_name(adapted.base, pulling)]
    for target, _scale in adapted.lora:
        if hub_names.is_hub_name(target):
            parts.append(pull_name(target, pulling))
    facts: dict[str, Any] = {"name": reference.name, "base": parts[0], "adapters": parts[1:]}
    if pulling.options.dry_run:
        return facts
    found = finder.find(reference.name)
    pulling.reporter.note(f"{found.title} is complete.")
    if pulling.tells_next:
        pulling.reporter.note(f"next: slm chat {found.name}")
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
    pulling.reporter.note(f"{installed.path} is used in place; there is nothing to fetch.")
    pulling.reporter.note(_next(replace(installed, name=reference.name)))
    return _as_json(installed, status="in-place")


def _agree(license: License, name: str, pulling: Pulling) -> None:
    """Show the licence, and have it accepted once where it asks for that. Raises `SlmError` (usage) when it is not."""
    reporter, library = pulling.reporter, pulling.library
    reporter.note(f"licence of {name}: {license.title}" + (f" ({license.link})" if license.link else ""))
    if not license.needs_acceptance or license.id in library.accepted_licenses():
        return
    if pulling.options.accept_license or reporter.ask(f"Do you accept the {license.title}?"):
        library.accept_license(license)
        return
    raise usage_error(
        f"{name} is only for those who accept the {license.title} ({license.link}).",
        f"if you do: slm pull {name} --accept-license",
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
            pulling.reporter.note(f"{_instead(failures[-1])} {what}{candidate.source.label}")
        try:
            return *_install(name, reference, candidate, pulling), candidate.source
        except SlmError as error:
            if error.exit_code in (ExitCode.STORAGE, ExitCode.USAGE, ExitCode.NO_FIT):
                raise
            pulling.is_hub_down = pulling.is_hub_down or (candidate.is_hub and isinstance(error, Unreachable))
            failures.append(error)
            is_last = all(later.is_hub and pulling.is_hub_down for later in candidates[number + 1 :])
            if not is_last and not isinstance(error, Unreachable):
                pulling.reporter.warn(error.message)
    if not failures:
        raise Unreachable(
            "the Hub could not be reached a moment ago.", hint=f"when the network is back: slm pull {name}"
        )
    raise min(failures, key=weight_of)


def _instead(error: SlmError) -> str:
    """What stands before the next place: a Hub that is not there is no error where another place has the file."""
    if not isinstance(error, Unreachable):
        return "trying"
    return f"{error.message.partition(': ')[0].rstrip('.')}; taking"


def _quantization(reference: Reference, candidate: Candidate, plan: FetchPlan) -> str | None:
    """What is pulled, as its file calls it in a repository (`UD-Q4_K_XL` for `@Q4_K_XL`), as the catalog does else."""
    first, other = plan.quantization, candidate.quantization
    return first or other if reference.hub is not None else other or first


def _install(name: str, reference: Reference, candidate: Candidate, pulling: Pulling) -> tuple[Installed, bool]:
    """Fetch from one place, check, put into place, admit. False: another pull had it installed meanwhile."""
    library, models = pulling.library, pulling.settings.paths.models
    plan = candidate.source.plan()
    if reference.hub is not None and plan.license is not None:
        _agree(pulling.registry.licenses.get(plan.license.id, plan.license), name, pulling)
    quantization = _quantization(reference, candidate, plan)
    is_known = reference.hub is None  # by the catalog, or where it lies on this device
    header = None if is_known else header_of(candidate, plan, pulling)
    _check_kind(header, candidate.source.label)
    check_fit(name, reference, quantization, plan, header, pulling)
    make_private(models)
    try:
        with locked(plan, name, pulling.reporter):
            here = library.installed_as(reference.name, quantization) if quantization else None
            if here is not None:
                return here, False
            check_space(plan, name)
            with workspace(plan, models) as directory:
                fetched, headers = checked(candidate.source, plan, directory, name, pulling.reporter)
                try:
                    kind = model_kind.check_installable(headers, plan.files[0].name)
                except SlmError:
                    candidate.source.discard(tuple(file for file in fetched if not file.was_there))
                    raise
                if reference.spec is not None:
                    tell_whose_hash(plan, pulling)
                quantization = quantization or headers[0].quantization or "unknown"
                paths = candidate.source.keep(plan, fetched, library.destination(reference.name, quantization))
                files = tuple(
                    InstalledFile.of(path, file.planned.sha256) for path, file in zip(paths, fetched, strict=True)
                )
                installed = _record(reference, quantization, plan, files, headers, kind, pulling.registry)
                is_known = any(installed.path == other.path and other.is_fetched for other in library.all())
                installed = replace(installed, is_fetched=is_known or not all(file.was_there for file in fetched))
                library.admit(installed)
                if fault := template_fault(headers[0]):
                    pulling.reporter.warn(fault)
    except OSError as error:
        raise storage_error(error, plan.place, "HF_HOME" if plan.is_shared else "SLM_HOME") from error
    return installed, True


def _record(
    reference: Reference,
    quantization: str,
    plan: FetchPlan,
    files: tuple[InstalledFile, ...],
    headers: Sequence[Header],
    kind: model_kind.ModelKind,
    registry: Registry,
) -> Installed:
    """What the library keeps: the catalog's word first, then the Hub's, then the file's own."""
    header = headers[0]
    spec = reference.spec
    stated_by = spec or registry.names.get(reference.name)
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
        tags=tuple(dict.fromkeys((*(spec.tags if spec else ()), *kind.tags))),
        is_gated=plan.is_gated,
        sampler=dict(stated_by.sampler if stated_by else {}),
        sampler_thinking=dict(stated_by.sampler_thinking if stated_by else {}),
        sampler_source=spec.sampler_source if spec else None,
        draft=stated_by.draft if stated_by else None,
        architecture=header.architecture,
        context_length=header.context_length,
        parameters=(spec.parameters if spec else None) or sum(part.parameters for part in headers),
        is_shared=plan.is_shared,
        is_one_file=bool(reference.hub and reference.hub.file),
        is_adapter=lora.is_adapter(header),
    )


def _dry_run(
    name: str, reference: Reference, candidates: list[Candidate], here: Installed | None, pulling: Pulling
) -> dict[str, Any]:
    """What a pull would do. The network is asked only for what the catalog does not state."""
    reporter, library = pulling.reporter, pulling.library
    plan, candidate = first_plan(candidates, pulling)
    places = pull_projector.of(candidate.source, pull_projector.sources(reference, name, pulling))
    projector = pull_projector.planned(places, pulling)
    license = reference.spec.license if reference.spec else plan.license
    license = pulling.registry.licenses.get(license.id, license) if license else None
    header = header_of(candidate, plan, pulling)
    _check_kind(header, candidate.source.label)
    quantization = _quantization(reference, candidate, plan)
    fit_report = fit_report_of(reference, quantization, plan, header, pulling)
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
        pulling.show(f"{label + ':':10}{text}")
    if here is not None and not is_here:
        reporter.note(f"{here.key} is installed, and slm pull {name} keeps it. This one: slm pull {variant}")
    if not facts["is_license_accepted"]:
        reporter.note(f"the licence has to be accepted: slm pull {name} --accept-license")
    return facts


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
