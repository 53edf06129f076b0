"""`slm doctor`: what is wrong with this device or with a model, why it matters, what to do.

Knows: the order of an examination and how findings are told.
Refuses to know: what is checked (diagnostics/device.py, diagnostics/storage.py, diagnostics/model.py,
diagnostics/smoke_test.py). It mends nothing.
"""

from dataclasses import asdict, replace
from typing import Any

from slmchat.catalog.records import Installed
from slmchat.diagnostics import device as device_checks
from slmchat.diagnostics import storage
from slmchat.diagnostics.examination import device_facts, examine_model
from slmchat.diagnostics.findings import Finding, Level, is_wrong, run_checks, wrong
from slmchat.errors import ExitCode, SlmError
from slmchat.models import resolve, sandbox
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.wording import counted

_INDENT = 26
# In a narrower window than this, what was found stands below the name of the check.
_WIDE = 70
_NARROW_INDENT = 8


def doctor(name: str | None, settings: Settings, console: Console, *, is_json: bool) -> ExitCode:
    """Examine this device, and the model `name` when one is given. Returns WRONG when something is.

    Raises `SlmError`: NO_MODEL for a model that is not here, DAMAGED for a file that is no GGUF. With `--json`
    that is a finding, too.
    """
    sandbox.seal(settings)
    places = storage.Places.of(settings.paths, console.environ)  # before a mark of a crash is taken
    facts = device_facts(settings)
    findings = [*run_checks(device_checks.CHECKS, facts), *run_checks(storage.CHECKS, places)]
    of_model: list[Finding] = []
    installed = None
    if name is None:
        _tell("this device", findings, console, is_json=is_json)
    else:
        _tell(
            "this device",
            [finding for finding in findings if finding.level is not Level.FINE],
            console,
            is_json=is_json,
        )
        try:
            installed = resolve.find(name, settings, console)
            if not is_json:
                console.print(f"\n{installed.key}" if findings else installed.key)
            for finding in examine_model(installed, settings, console):
                of_model.append(finding)
                if not is_json:
                    _print(finding, console)
        except SlmError as error:  # what ends the examination is a finding as well, and its exit code says more
            if is_json:
                end = wrong(error.message.rstrip("."), "the model cannot be examined", error.hint or "slm verify")
                of_model.append(replace(end, check="file"))
                console.print_json(_as_json(facts, findings, installed, of_model))
            raise
    console.status("")
    everything = [*findings, *of_model]
    if is_json:
        console.print_json(_as_json(facts, findings, installed, of_model))
    else:
        has_model = installed is not None or any(record.answers for record in places.installed)
        console.print(f"\n{_summary(everything, has_model=has_model)}")
    return ExitCode.WRONG if is_wrong(everything) else ExitCode.DONE


def _tell(title: str, findings: list[Finding], console: Console, *, is_json: bool) -> None:
    if is_json or not findings:
        return
    console.print(title)
    for finding in findings:
        _print(finding, console)


def _print(finding: Finding, console: Console) -> None:
    console.status("")
    mark = {Level.FINE: "ok", Level.NOTE: "note", Level.WRONG: "WRONG"}[finding.level]
    name = f"  {mark:<6}{finding.check}"
    indent = " " * (_INDENT if console.width is None or console.width >= _WIDE else _NARROW_INDENT)
    if len(indent) == _INDENT:
        console.labelled(f"{name:<{_INDENT}}", finding.what)
    else:
        console.print(name)
        console.labelled(indent, finding.what)
    if finding.why:
        console.labelled(f"{indent}why: ", finding.why)
    if finding.do:  # in one piece: it may be a command to copy
        console.print(f"{indent}do:  {finding.do}")


def _summary(findings: list[Finding], *, has_model: bool) -> str:
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    if counts[Level.WRONG]:
        return f"{counts[Level.WRONG]} wrong, {counts[Level.NOTE]} to note, {counts[Level.FINE]} fine."
    notes = f" {counted(counts[Level.NOTE], 'note')}." if counts[Level.NOTE] else ""
    if has_model:
        return f"Nothing is wrong.{notes}"
    return (
        "The device is ready, and no model that answers is installed.\n"
        f"First: slm pull smollm2:135m (slm list --available shows more).{notes}"
    )


def _as_json(
    facts: device_checks.Facts, findings: list[Finding], installed: Installed | None, of_model: list[Finding]
) -> dict[str, Any]:
    """`--json`: the facts about the device with their sources, and all findings."""
    return {
        "is_fine": not is_wrong([*findings, *of_model]),
        "library": facts.library.as_json() if facts.library else None,
        "features": facts.features,
        "threads": facts.threads,
        "device": asdict(facts.device),
        "gpus": [asdict(device) for device in facts.compute if device.is_gpu],
        "seal": asdict(facts.seal),
        "self_test": None if facts.self_test is None else asdict(facts.self_test),
        "findings": [asdict(finding) for finding in findings],
        "model": installed.key if installed else None,
        "model_findings": [asdict(finding) for finding in of_model],
    }
