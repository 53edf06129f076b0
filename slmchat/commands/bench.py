"""`slm bench`: how fast a model is on this device.

The story: measure pass by pass, then tell the medians; Ctrl-C tells what has been measured until then.
"""

from typing import Any

from slmchat.errors import ExitCode
from slmchat.generation.bench_walk import Interrupted
from slmchat.generation.benchmark import BenchMeasurements, measure, prepared, report_of
from slmchat.hardware.power import power
from slmchat.models import resolve, sandbox
from slmchat.options import BenchOptions, GenerationOptions
from slmchat.settings import Settings
from slmchat.terminal.bars import bar
from slmchat.terminal.console import Console
from slmchat.terminal.interrupts import cancelled_by_ctrl_c
from slmchat.terminal.tables import Column
from slmchat.wording import in_bytes

# Other programs may use this part of all processors before the figures are called disturbed.
_BUSY_SHARE = 0.1

_BAR_WIDTH = 24


def bench(name: str | None, options: BenchOptions, settings: Settings, console: Console) -> ExitCode:
    """Measure a model. Ctrl-C shows what has been measured so far. Raises `SlmError`."""
    sandbox.seal(settings)
    generation = GenerationOptions.of(options, model=name)
    installed = resolve.find(name, settings, console)
    made = prepared(installed, generation, settings, options.depths, options.repeat)
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
        return ExitCode.INTERRUPTED
    report = report_of(made, measured)
    if options.json:
        console.print_json(report)
    else:
        _show(report, console)
    if not measured.is_complete:
        console.warn("interrupted; this is what was measured until then.")
    elif measured.others_share is not None and measured.others_share > _BUSY_SHARE:
        console.warn(
            f"other programs used {measured.others_share:.0%} of the processors meanwhile: an idle machine is faster."
        )
    return ExitCode.DONE if measured.is_complete else ExitCode.INTERRUPTED


# The speeds with how much they differed, which goes first, and a bar for each.
_STOPS = (
    Column("DEPTH"),
    Column("PROMPT tok/s", rank=1),
    Column("FIRST TOKEN", rank=2),
    Column("GENERATION tok/s"),
    Column("", rank=4),
    Column("", rank=3),
)


def _show(report: dict[str, Any], console: Console) -> None:
    """The report for people: two lines, the chart as a table, and the share of the memory bandwidth."""
    load = report["load_s"]
    peak = f"; at most {in_bytes(report['peak_memory'])} of memory" if report["peak_memory"] else ""
    console.tell(
        f"{report['model']}, {in_bytes(report['size'])}; {report['threads']} threads, "
        f"context window {report['n_ctx']:,}, KV cache {report['kv_type']}"
    )
    console.tell(f"loaded in {load['median']:.2f} s ({load['low']:.2f} to {load['high']:.2f}){peak}")
    depths = report["depths"]
    top = max((entry["generation_tps"]["median"] for entry in depths if entry["generation_tps"]), default=0.0)
    first = depths[0]
    console.print()
    console.table(
        _STOPS,
        [_row(entry, top, is_plain=console.is_dumb or not console.is_stdout_tty) for entry in depths],
    )
    console.print()
    console.tell(f"depth: tokens of the conversation before a message of {first['prompt_tokens']} tokens")
    console.tell(f"medians of {first['passes']}, in brackets the lowest and the highest")
    _show_share(report, console)


def _row(entry: dict[str, Any], top: float, *, is_plain: bool) -> tuple[str, ...]:
    prompt, ttft, generation = entry["prompt_tps"], entry["ttft_s"], entry["generation_tps"]
    return (
        f"{entry['depth']:,}",
        f"{prompt['median']:.0f} ({prompt['low']:.0f}-{prompt['high']:.0f})",
        f"{ttft['median']:.2f} s",
        f"{generation['median']:.1f}" if generation else "-",
        f"({generation['low']:.1f}-{generation['high']:.1f})" if generation else "",
        bar(generation["median"], top, _BAR_WIDTH, is_plain=is_plain) if generation else "",
    )


def _show_share(report: dict[str, Any], console: Console) -> None:
    first = report["depths"][0]
    share, weights = first["bandwidth_share"], report["weight_bytes_per_token"]
    if share is None:
        return
    rate = first["generation_tps"]["median"]
    console.tell(
        f"every token reads {in_bytes(weights)} of weights: {in_bytes(round(weights * rate))}/s, {share:.0%} of the "
        f"memory bandwidth ({in_bytes(report['copy_bandwidth'])}/s, copying)"
    )
