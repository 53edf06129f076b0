"""`slm tune`: the settings with which a model is fastest on this device, measured in about a minute and kept.

The story: load the model, measure group by group, keep what won, tell it. Ctrl-C leaves what was kept as it was.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict

from slmchat.catalog.records import Installed
from slmchat.engine import crash_guard
from slmchat.engine.llama import LlamaEngine
from slmchat.engine.throughput import GivenUp
from slmchat.errors import ExitCode, SlmError
from slmchat.hardware.power import power
from slmchat.hardware.usage import OthersWatch
from slmchat.models import resolve, sandbox, tuning
from slmchat.models.autotune import LEAST_AGREEMENT, TuneOutcome, measure_groups, measure_own_build, named, tuning_of
from slmchat.models.open import open_installed
from slmchat.models.own_build import OwnBuild
from slmchat.models.tuning import Tuning
from slmchat.options import GenerationOptions
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.terminal.interrupts import cancelled_by_ctrl_c
from slmchat.wording import counted

# Other programs may use this part of all processors before the figures are called disturbed.
_BUSY_SHARE = 0.1


def tune(name: str | None, settings: Settings, console: Console, *, is_reset: bool, is_json: bool) -> ExitCode:
    """Measure a model and keep what is fastest; `is_reset`: forget what was kept. Raises `SlmError`.

    Ctrl-C leaves what was kept before as it was.
    """
    sandbox.seal(settings)
    if is_reset:
        return _reset(name, settings, console, is_json=is_json)
    installed = resolve.find(name, settings, console)
    if power()[0].value:
        console.warn("this device runs on its battery, which may slow it down.")
    others = OthersWatch()
    opened = open_installed(installed, GenerationOptions(), settings, console)
    engine = crash_guard.unguarded(opened.engine)
    assert isinstance(engine, LlamaEngine)
    try:
        outcomes = list(measure_groups(engine, installed, settings, console, cancelled_by_ctrl_c))
        own = measure_own_build(engine, installed, settings, console, cancelled_by_ctrl_c)
    except GivenUp:
        console.status("")
        console.note("interrupted; nothing was changed.")
        return ExitCode.INTERRUPTED
    finally:
        console.status("")
        opened.close()
    share = others.share()
    found = tuning_of(outcomes, is_disturbed=share is not None and share > _BUSY_SHARE)
    refused = _keep(installed, found, settings)
    why_not = "--private" if settings.is_private else refused and "the disk refuses it"
    _tell(installed, outcomes, found, own, share, console, is_json=is_json, why_not_kept=why_not or "")
    if refused is not None:  # said last: what was measured for a minute is not lost with it
        raise refused
    return ExitCode.DONE


def _keep(installed: Installed, found: Tuning, settings: Settings) -> SlmError | None:
    """Keep what won, where anything is kept; why that cannot be done."""
    if settings.is_private:
        return None
    try:
        tuning.keep(installed.path, found, settings)
    except SlmError as error:
        return error
    return None


def _reset(name: str | None, settings: Settings, console: Console, *, is_json: bool) -> ExitCode:
    path = resolve.find(name, settings, console).path if name is not None else None
    count = tuning.forget(settings, path)
    if is_json:
        console.print_json({"forgotten": count})
    else:
        console.print(f"forgot what was measured for {counted(count, 'model')}.")
    return ExitCode.DONE


def _tell(
    installed: Installed,
    outcomes: Sequence[TuneOutcome],
    found: Tuning,
    own: OwnBuild,
    share: float | None,
    console: Console,
    *,
    is_json: bool,
    why_not_kept: str,
) -> None:
    """`why_not_kept`: "" where it is."""
    if is_json:
        told = [asdict(outcome) for outcome in outcomes]
        console.print_json(
            {
                "model": installed.key,
                "tuning": asdict(found),
                "measured": told,
                "library": own.used.as_json(),
                "own_build": {"gain": own.gain and asdict(own.gain), "missing": own.missing},
                "others_share": share,
                "is_kept": not why_not_kept,
            }
        )
    else:
        for outcome in outcomes:
            console.labelled(f"{outcome.name:<18}", _in_words(outcome))
        console.labelled(f"{'own build':<18}", own.in_words())
        kept = "kept for this model on this device; slm tune --reset forgets it"
        kept = f"not kept ({why_not_kept})" if why_not_kept else kept
        console.print(f"\n{found.in_words() or 'the usual settings are the fastest'}: {kept}")
    if found.is_disturbed:
        console.warn(f"other programs used {share:.0%} of the processors meanwhile: tune again when they are done.")


def _in_words(outcome: TuneOutcome) -> str:
    if not outcome.seconds:
        return "nothing to choose from"
    (_usual, first), *others = outcome.seconds.items()
    base = statistics.median(first)
    told = [
        f"{name} {base / statistics.median(found) - 1:+.1%}" if found else f"{name} not possible"
        for name, found in others
    ]
    told += [
        f"{name}: the most probable token is the same for {share:.1%}, and {LEAST_AGREEMENT:.0%} count"
        for name, share in outcome.agreement.items()
    ]
    return f"{named(outcome.chosen) or 'as usual'} ({'; '.join(told)}; noise {outcome.noise:.1%})"
