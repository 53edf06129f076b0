"""`slm verify`: what is installed, hashed again and compared with what it was when it was checked."""

from collections.abc import Sequence
from typing import Any

from slmchat.catalog import hub_names
from slmchat.catalog.library import Library
from slmchat.catalog.records import Installed
from slmchat.catalog.registry import Reference, load
from slmchat.errors import ExitCode, SlmError
from slmchat.settings import Settings
from slmchat.terminal.console import Console


def verify(names: Sequence[str], settings: Settings, console: Console, *, is_json: bool = False) -> ExitCode:
    """Hash models again and compare. Goes on after a failure; returns the exit code of the first one."""
    library = Library(settings.paths, console.warn)
    models = _to_verify(names, settings, library)
    results = []
    first = ExitCode.DONE
    for installed in models:
        facts, error = _verify_one(installed, library, console)
        results.append(facts)
        if error is not None:
            console.error(error)
            first = first or error.exit_code
        elif not is_json:
            console.print(f"{installed.key}: {facts['verdict']}")
    if is_json:
        console.print_json(results)
    elif not models:
        console.note("no model is installed.")
    return first


def _to_verify(names: Sequence[str], settings: Settings, library: Library) -> list[Installed]:
    if not names:
        return list(library.all())
    registry = load(settings.paths.user_registry)
    models: list[Installed] = []
    for part in [part for name in names for part in _fetched_parts(registry.resolve(name), name)]:
        reference: Reference = registry.resolve(part)
        # a record whose file is gone or changed is verified too: `find` would refuse it
        models += library.matching(reference) or [library.find(reference)]
    return models


def _fetched_parts(reference: Reference, name: str) -> list[str]:
    """What a name stands for that can have a sha256: itself, or its base and the adapters that came from the Hub."""
    if reference.adapted is None:
        return [name]
    from_hub = [target for target, _scale in reference.adapted.lora if hub_names.is_hub_name(target)]
    return [reference.adapted.base, *from_hub]


def _verify_one(installed: Installed, library: Library, console: Console) -> tuple[dict[str, Any], SlmError | None]:
    facts: dict[str, Any] = {"name": installed.name, "quantization": installed.quantization, "size": installed.size}
    if installed.sha256 is None:  # read in place; its header was checked on the way here
        facts |= {"verdict": "its header is right; no sha256 is known to compare with", "is_intact": None, "files": []}
        return facts, None
    try:
        verdicts = library.verify(installed, console.progress)
    except SlmError as error:  # a file that cannot be read says nothing of the others
        facts |= {"verdict": "its file cannot be read", "is_intact": None, "files": []}
        return facts, error
    facts["files"] = [
        {"path": str(verdict.path), "sha256": verdict.found, "expected": verdict.expected} for verdict in verdicts
    ]
    wrong = next((verdict for verdict in verdicts if not verdict.is_intact), None)
    facts["is_intact"] = wrong is None
    if wrong is None:
        facts["verdict"] = "intact"
        return facts, None
    facts["verdict"] = "damaged" if wrong.found else "its file is gone"
    message = (
        f"{wrong.path} of {installed.key} is damaged: its sha256 is {wrong.found}, expected {wrong.expected}."
        if wrong.found
        else f"{installed.key} was installed, but its file {wrong.path} is gone."
    )
    code = ExitCode.DAMAGED if wrong.found else ExitCode.NO_MODEL
    return facts, SlmError(message, hint=f"slm pull {installed.key}", exit_code=code)
