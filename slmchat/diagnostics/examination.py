"""An examination: the facts about this device, and a model looked at from its file to its first tokens.

Knows: in which order a model is looked at, when it is not loaded at all.
Refuses to know: single checks (device.py, storage.py, model.py, smoke_test.py), how findings are told.
"""

from collections.abc import Iterator

from slmchat import hardware
from slmchat.catalog import model_kind
from slmchat.catalog.gguf import read_headers
from slmchat.catalog.records import Installed
from slmchat.diagnostics import device as device_checks
from slmchat.diagnostics import model as model_checks
from slmchat.diagnostics import smoke_test
from slmchat.diagnostics.findings import Finding, run_checks, wrong
from slmchat.engine import crash_guard
from slmchat.engine.llama import LlamaEngine
from slmchat.errors import SlmError
from slmchat.fit.plan import FitVerdict, plan
from slmchat.fit.shape import shape_of
from slmchat.generation import params
from slmchat.models import load_plan, tuning
from slmchat.models.open import open_installed
from slmchat.models.session_settings import gpu_layers
from slmchat.options import GenerationOptions
from slmchat.reporting import Reporter
from slmchat.settings import Settings


def device_facts(settings: Settings) -> device_checks.Facts:
    """What is known of this device, its library and its seal."""
    from slmchat.engine import devices, library, native, threads, verdict_place, verdicts
    from slmchat.hardware.graphics import graphics
    from slmchat.privacy import seal

    used, fault, self_test, features = None, None, None, None
    compute: tuple[devices.ComputeDevice, ...] = ()
    try:
        used = native.library()
        self_test = verdicts.tried(verdict_place.directory(settings.paths.cache)).verdict
        if not self_test.is_broken:  # what ends the child ends this process as well
            features, compute = devices.build_features(), devices.devices()
    except SlmError as error:  # the library's check says so
        fault = error
    return device_checks.Facts(
        device=hardware.device(),
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


def examine_model(installed: Installed, settings: Settings, reporter: Reporter) -> Iterator[Finding]:
    """The findings about a model, as they come: file, load, template and tokens, five tokens."""
    options = GenerationOptions()
    headers = read_headers(installed.parts)
    planned = load_plan.plan_load(
        shape_of(headers),
        settings,
        model=installed.path,
        n_ctx=settings.n_ctx,
        kv_type=None,
        gpu_layers=gpu_layers(options, settings),
    )
    tested = model_checks.ModelUnderTest(
        installed,
        headers[0],
        plan(planned.shape, planned.load, planned.available_memory),
        params.sampler_settings(installed, settings, options),
        tuning.kept(installed.path, settings),
    )
    kind = model_kind.kind_of(headers)
    yield from run_checks(model_checks.FILE_CHECKS if kind.can_generate else model_checks.OTHER_CHECKS, tested)
    if planned.verdict is FitVerdict.NO or not kind.can_generate:
        return
    reporter.status(f"loading {installed.key}")
    opened = open_installed(installed, options, settings, reporter)
    try:
        engine = opened.engine
    except SlmError as error:
        found = wrong(error.message.rstrip("."), "nothing can be answered with it", error.hint or "slm verify")
        yield Finding(found.level, found.what, found.why, found.do, "load")
        return
    try:
        with crash_guard.examined(engine) as examinee:
            assert isinstance(examinee, LlamaEngine)
            loaded = model_checks.Loaded(tested, examinee)
            yield from run_checks(model_checks.LOADED_CHECKS, loaded)
            reporter.status(f"trying {installed.key}")
            trial = smoke_test.Trial(loaded, opened.session_settings(planned.load.n_ctx))
            yield from run_checks(smoke_test.CHECKS, trial)
    finally:
        opened.close()
        reporter.status("")
