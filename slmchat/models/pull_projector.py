"""The projector of a model that sees: found, fetched and checked like the weights, and kept in the same record.

Knows: where a projector can be had, that a model without it still chats. Refuses to know: the weights (pull.py).
"""

from collections.abc import Sequence
from dataclasses import replace

from slmchat.catalog import projectors
from slmchat.catalog.fetching import check_space, checked, locked, workspace
from slmchat.catalog.model_specs import HubFile
from slmchat.catalog.open_source import open_source
from slmchat.catalog.records import Installed, InstalledFile
from slmchat.catalog.registry import Reference
from slmchat.catalog.sources import FetchPlan, Source
from slmchat.errors import SlmError
from slmchat.models.pull_plan import Pulling, tell_whose_hash
from slmchat.private_files import storage_error
from slmchat.wording import in_bytes


def sources(reference: Reference, name: str, pulling: Pulling) -> list[Source]:
    """The places that the catalog states for the projector of a model; none for a model that does not see."""
    if reference.spec is None:
        return []
    chosen = [
        spec
        for spec in reference.spec.projector
        if pulling.options.source in (None, "hub" if isinstance(spec, HubFile) else "index")
    ]
    if reference.spec.projector and not chosen:
        pulling.reporter.note(f"the projector of {name}, which it sees with, is not on the {pulling.options.source}.")
    return [open_source(spec, pulling.settings.paths.models, f"slm pull {name}", pulling.reporter) for spec in chosen]


def of(candidate: Source, stated: Sequence[Source]) -> list[Source]:
    """The places to try: what the catalog states, else what lies beside the weights. Raises `SlmError`."""
    found = None if stated else candidate.projector()
    return [found] if found is not None else list(stated)


def planned(places: Sequence[Source], pulling: Pulling) -> FetchPlan | None:
    """What would be fetched, for `--dry-run`; None: no projector, or nobody can say (then the console is told why)."""
    for place in places:
        try:
            return place.plan()
        except SlmError as error:
            pulling.reporter.warn(f"{place.label}: {error.message}")
    return None


def add(installed: Installed, places: Sequence[Source], name: str, pulling: Pulling) -> Installed:
    """Give an installed model its projector. Raises `SlmError`; the model itself stays installed in any case."""
    failures: list[SlmError] = []
    for place in places:
        try:
            file, is_fetched = _fetch(place, installed, name, pulling)
        except SlmError as error:
            failures.append(error)
            if len(places) > 1:  # of one place the error below says it
                pulling.reporter.note(f"{place.label}: {error.message}")
            continue
        installed = replace(installed, projector=file, is_projector_fetched=is_fetched)
        pulling.library.admit(installed)
        pulling.reporter.note(f"installed its projector ({in_bytes(file.size)}): {installed.key} can be shown pictures")
        return installed
    if failures:
        raise SlmError(
            f"{installed.key} is installed, but not the projector that it sees with: {failures[0].message}",
            hint=f"text works; for pictures: slm pull {name}",
            exit_code=failures[0].exit_code,
        )
    return installed


def _fetch(place: Source, installed: Installed, name: str, pulling: Pulling) -> tuple[InstalledFile, bool]:
    """From one place, checked and put where it stays; and whether it is slm that brought it."""
    plan = place.plan()
    label = f"{name}, projector"
    try:
        with locked(plan, label, pulling.reporter):
            check_space(plan, label)
            with workspace(plan, pulling.settings.paths.models) as directory:
                fetched, headers = checked(place, plan, directory, label, pulling.reporter)
                try:
                    projectors.check(plan.files[0].name, headers[0])
                except SlmError:
                    place.discard(tuple(file for file in fetched if not file.was_there))
                    raise
                if installed.name in pulling.registry.models:
                    tell_whose_hash(plan, pulling)
                (path,) = place.keep(plan, fetched, pulling.library.projector_destination(installed.name))
                file = InstalledFile.of(path, fetched[0].planned.sha256)
    except OSError as error:
        raise storage_error(error, plan.place, "HF_HOME" if plan.is_shared else "SLM_HOME") from error
    known = (other for other in pulling.library.all() if other.projector is not None and other.projector.path == path)
    return file, not fetched[0].was_there or any(other.is_projector_fetched for other in known)
