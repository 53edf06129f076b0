"""`slm bench`: how fast a model is on this device.

The story: measure pass by pass, then tell the medians; Ctrl-C tells what has been measured until then.
"""

from slmchat.commands import bench_view
from slmchat.errors import ExitCode
from slmchat.generation.bench_report import report_of
from slmchat.generation.bench_walk import Interrupted
from slmchat.generation.benchmark import BenchMeasurements, measure, prepared
from slmchat.hardware.power import power
from slmchat.models import resolve, sandbox
from slmchat.options import BenchOptions, GenerationOptions
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.terminal.interrupts import cancelled_by_ctrl_c

# Other programs may use this part of all processors before the figures are called disturbed.
_BUSY_SHARE = 0.1


def bench(name: str | None, options: BenchOptions, settings: Settings, console: Console) -> ExitCode:
    """Measure a model. Ctrl-C shows what has been measured so far. Raises `SlmError`."""
    sandbox.seal(settings)
    generation = GenerationOptions.of(options, model=name)
    installed = resolve.find(name, settings, console)
    made = prepared(installed, generation, settings, options.depths, options.repeat, is_plotted=options.plot)
    if power()[0].value:
        console.warn("this device runs on its battery, which may slow it down.")
    measured = BenchMeasurements()
    try:
        measure(made, measured, console, cancelled_by_ctrl_c)
    except (Interrupted, KeyboardInterrupt):
        console.status("")
    finally:
        console.status("")
    if not measured.passes:
        console.note("interrupted; nothing was measured.")
        return ExitCode.INTERRUPTED
    report = report_of(made, measured)
    if options.json:
        console.print_json(report)
    else:
        bench_view.show(report, console, is_plotted=options.plot, is_plain=options.plain or console.is_accessible)
    if not measured.is_complete:
        console.warn("interrupted; this is what was measured until then.")
    elif measured.others_share is not None and measured.others_share > _BUSY_SHARE:
        console.warn(
            f"other programs used {measured.others_share:.0%} of the processors meanwhile: an idle machine is faster."
        )
    return ExitCode.DONE if measured.is_complete else ExitCode.INTERRUPTED
