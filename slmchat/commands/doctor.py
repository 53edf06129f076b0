"""`slm doctor`: what is wrong with this device or with a model, why it matters, what to do.

Knows: the order of an examination and how findings are told.
Refuses to know: what is checked (diagnostics/device.py, diagnostics/storage.py, diagnostics/model.py,
diagnostics/smoke_test.py). It mends nothing.
"""

import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from slmchat import hardware
from slmchat.catalog import model_kind
from slmchat.catalog.gguf import read_headers
from slmchat.catalog.records import Installed
from slmchat.diagnostics import device as device_checks
from slmchat.diagnostics import model, smoke_test, storage
from slmchat.diagnostics.findings import Finding, Level, is_wrong, run_checks, wrong
from slmchat.engine.llama import LlamaEngine
from slmchat.errors import ExitCode, SlmError
from slmchat.fit.plan import Verdict, plan
from slmchat.fit.shape import shape_of
from slmchat.models import device_fit, loader, tuning
from slmchat.options import GenerationOptions
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.wording import counted

_INDENT = 26


def doctor(name: str | None, settings: Settings, console: Console, *, is_json: bool) -> ExitCode:
    """Examine this device, and the model `name` when one is given. Returns WRONG when something is.

    Raises `SlmError`: NO_MODEL for a model that is not here, DAMAGED for a file that is no GGUF.
    """
    loader.seal(settings)
    places = storage.Places.of(settings.paths, console.environ)  # before a mark of a crash is taken
    facts = _facts(settings)
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
        installed = loader.find(name, settings, console)
        if not is_json:
            console.print(f"\n{installed.key}" if findings else installed.key)
        for finding in _of_model(installed, settings, console):
            of_model.append(finding)
            if not is_json:
                _print(finding, console)
    console.status("")
    everything = [*findings, *of_model]
    if is_json:
        console.print_json(_as_json(facts, findings, installed, of_model))
    else:
        console.print(f"\n{_summary(everything)}")
        if not is_wrong(everything) and not places.installed:
            console.print("No model is installed yet. First: slm pull smollm2:135m (slm list --available shows more).")
    return ExitCode.WRONG if is_wrong(everything) else ExitCode.DONE


def _facts(settings: Settings) -> device_checks.Facts:
    from slmchat.engine import devices, library, native, threads, verdicts
    from slmchat.hardware.graphics import graphics
    from slmchat.privacy import seal

    used, fault, self_test, features = None, None, None, None
    compute: tuple[devices.ComputeDevice, ...] = ()
    try:
        used = native.library()
        self_test = verdicts.tried(verdicts.directory(settings.paths.cache)).verdict
        if not self_test.is_broken:  # what ends the child ends this process as well
            features, compute = devices.build_features(), devices.devices()
    except SlmError as error:  # the library's check says so
        fault = error
    return device_checks.Facts(
        device=hardware.device(settings.paths.models),
        graphics=graphics(),
        library=used,
        fault=fault,
        declared=library.declared_version(),
        wanted=library.DECLARATIONS,
        features=features,
        has_gpu_backend=native.has_gpu_backend(),
        compute=compute,
        threads=settings.threads or threads.of_this_device(),
        seal=seal.status(),
        self_test=self_test,
    )


def _of_model(installed: Installed, settings: Settings, console: Console) -> Iterator[Finding]:
    """The findings about a model, as they come: file, load, template and tokens, five tokens."""
    options = GenerationOptions()
    headers = read_headers(installed.parts)
    opened = device_fit.plan_load(
        shape_of(headers),
        settings,
        model=installed.path,
        n_ctx=settings.n_ctx,
        kv_type=None,
        gpu_layers=loader.gpu_layers(options, settings),
    )
    patient = model.ModelUnderTest(
        installed,
        headers[0],
        plan(opened.shape, opened.load, opened.room),
        loader.sampler_settings(installed, settings, options),
        tuning.kept(installed.path, settings),
    )
    kind = model_kind.kind_of(headers)
    yield from run_checks(model.FILE_CHECKS if kind.can_generate else model.OTHER_CHECKS, patient)
    if opened.verdict is Verdict.NO or not kind.can_generate:
        return
    console.status(f"loading {installed.key}")
    loading = loader.start_loading(installed, options, settings)
    try:
        engine = loading.engine()
    except SlmError as error:
        console.status("")
        found = wrong(error.message.rstrip("."), "nothing can be answered with it", error.hint or "slm verify")
        yield Finding(found.level, found.what, found.why, found.do, "load")
        return
    loader.report(loading, console)
    assert isinstance(engine, LlamaEngine)
    try:
        loaded = model.Loaded(patient, engine)
        yield from run_checks(model.LOADED_CHECKS, loaded)
        session = loader.session_settings(options, settings, opened.load.n_ctx, model=installed.path)
        with loading.on_trial():
            console.status(f"trying {installed.key}")
            yield from run_checks(smoke_test.CHECKS, smoke_test.Trial(loaded, session))
    finally:
        engine.close()
        console.status("")


def _tell(title: str, findings: list[Finding], console: Console, *, is_json: bool) -> None:
    if is_json or not findings:
        return
    console.print(title)
    for finding in findings:
        _print(finding, console)


def _print(finding: Finding, console: Console) -> None:
    console.status("")
    mark = {Level.FINE: "ok", Level.NOTE: "note", Level.WRONG: "WRONG"}[finding.level]
    width = shutil.get_terminal_size().columns - 1 if console.is_stdout_tty else 10_000
    lines = [(f"  {mark:<6}{finding.check:<{_INDENT - 8}}", finding.what), (f"{'':<{_INDENT}}why: ", finding.why)]
    for lead, text in lines:
        if text:
            wrapped = textwrap.wrap(text, max(_INDENT, width - len(lead)), break_on_hyphens=False) or [""]
            console.print(lead + f"\n{'':<{len(lead)}}".join(wrapped))
    if finding.do:  # in one piece: it may be a command to copy
        console.print(f"{'':<{_INDENT}}do:  {finding.do}")


def _summary(findings: list[Finding]) -> str:
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    if not counts[Level.WRONG]:
        notes = counts[Level.NOTE]
        return "Nothing is wrong." + (f" {counted(notes, 'note')}." if notes else "")
    return f"{counts[Level.WRONG]} wrong, {counts[Level.NOTE]} to note, {counts[Level.FINE]} fine."


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
