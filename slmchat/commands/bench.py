"""`slm bench`: how fast a model is on this device, measured through the same door as every answer.

Knows: the order of a measurement, medians, what disturbs it, how it is told.
Refuses to know: how a session computes; how the walk through the context window goes (generation/benchmark.py).
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from slmchat.catalog.gguf import read_header
from slmchat.catalog.records import Installed
from slmchat.engine import native
from slmchat.engine.api import Engine, Finish, Limits, Prompt, Session, SessionSettings
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import benchmark
from slmchat.generation.benchmark import Interrupted, Steps, Stop
from slmchat.hardware.bandwidth import measure_copy_bandwidth
from slmchat.hardware.power import power
from slmchat.hardware.usage import OthersWatch, peak_memory
from slmchat.models import loader
from slmchat.options import BenchOptions, GenerationOptions
from slmchat.settings import Settings
from slmchat.terminal.bars import bar
from slmchat.terminal.console import Console
from slmchat.wording import in_bytes

# Other programs may use this part of all processors before the figures are called disturbed.
_BUSY_SHARE = 0.1

_BAR_WIDTH = 24
# Tokens of context that are measured when nobody asks for another window: as deep as most conversations go.
_N_CTX = 4096


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure measured several times: its median, and the smallest and largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        return cls(statistics.median(values), min(values), max(values)) if values else None


@dataclass(slots=True)
class Measured:
    """What has been measured so far. Seconds and bytes; `passes` has a list of stops for each pass."""

    load_s: list[float] = field(default_factory=list)
    passes: list[list[Stop]] = field(default_factory=list)
    others_share: float | None = None
    is_complete: bool = False

    def at(self, number: int) -> list[Stop]:
        """The stops of all passes at the depth of this number."""
        return [stops[number] for stops in self.passes if number < len(stops)]


@dataclass(frozen=True, slots=True)
class Bench:
    """What is measured, and with what."""

    installed: Installed
    options: GenerationOptions
    settings: Settings
    session: SessionSettings
    steps: Steps
    sampler: SamplerSettings
    repeat: int


def bench(name: str | None, options: BenchOptions, settings: Settings, console: Console) -> ExitCode:
    """Measure a model. Ctrl-C shows what has been measured so far. Raises `SlmError`."""
    loader.seal(settings)
    generation = GenerationOptions(
        model=name,
        ctx=options.ctx,
        threads=options.threads,
        gpu_layers=options.gpu_layers,
        device=options.device,
        kv_type=options.kv_type,
    )
    installed = loader.find(name, settings, console)
    made = _prepared(installed, generation, options, settings)
    if power()[0].value:
        console.warn("this device runs on its battery, which may slow it down.")
    measured = Measured()
    try:
        _measure(made, measured, console)
    except (Interrupted, KeyboardInterrupt):
        console.status("")
    finally:
        console.status("")
    if not measured.passes:
        return ExitCode.INTERRUPTED
    report = _report(made, measured)
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


def _prepared(installed: Installed, generation: GenerationOptions, options: BenchOptions, settings: Settings) -> Bench:
    n_ctx = options.ctx or settings.n_ctx or min(_N_CTX, installed.context_length or _N_CTX)
    return Bench(
        installed=installed,
        options=generation,
        settings=settings,
        session=replace(
            loader.session_settings(generation, settings, n_ctx, model=installed.path), adapters=installed.adapters
        ),
        steps=benchmark.plan(n_ctx, options.depths),
        sampler=loader.sampler_settings(installed, settings, generation).with_values({"seed": 1}),
        repeat=options.repeat,
    )


def _measure(made: Bench, measured: Measured, console: Console) -> None:
    """Fill `measured`, pass by pass: load the model, open a session, walk to the last depth."""
    others = OthersWatch()
    try:
        for number in range(1, made.repeat + 1):
            console.status(f"pass {number} of {made.repeat}: loading {made.installed.key}")
            start = time.perf_counter()
            loading = loader.start_loading(made.installed, made.options, made.settings)
            engine = loading.engine()
            measured.load_s.append(time.perf_counter() - start)
            loader.report(loading, console)
            try:
                _walk(made, engine, measured, lambda text: console.status(f"measuring {made.installed.key}: {text}"))
            finally:
                engine.close()
        measured.is_complete = True
    finally:
        measured.others_share = others.share()


def _walk(made: Bench, engine: Engine, measured: Measured, tell: Callable[[str], None]) -> None:
    session = engine.open_session(made.session)
    try:
        stops: list[Stop] = []
        depths = made.steps.depths
        number = len(measured.passes) + 1
        tell(f"pass {number} of {made.repeat}, depth {depths[0]:,} of {depths[-1]:,}")
        for stop in benchmark.walk(session, engine, made.steps, made.sampler, _follow):
            stops.append(stop)
            if len(stops) == 1:
                measured.passes.append(stops)
            if len(stops) < len(depths):
                tell(f"pass {number} of {made.repeat}, depth {depths[len(stops)]:,} of {depths[-1]:,}")
    finally:
        session.close()


def _follow(session: Session, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Finish:
    """A generation to its end; Ctrl-C ends it early."""
    events = session.generate(prompt, sampler, limits)
    with loader.cancelled_by_ctrl_c(session):
        for event in events:
            if isinstance(event, Finish):
                return event
    raise SlmError("the engine ended a generation without saying how.", exit_code=ExitCode.BUG)


def _weight_bytes(installed: Installed) -> int | None:
    """Bytes of weights that one token reads: all of them; None for a mixture of experts, which reads some."""
    header = read_header(installed.path)
    if header.metadata.get(f"{header.architecture}.expert_count"):
        return None
    return header.tensor_bytes


def _report(made: Bench, measured: Measured) -> dict[str, Any]:
    """Everything that was measured, as `--json` prints it."""
    peak = peak_memory()  # before the bandwidth is measured: its buffers are no part of what the model needs
    layers = loader.gpu_layers(made.options, made.settings)
    is_on_cpu = layers == 0 or not native.has_gpu_backend()
    bandwidth = measure_copy_bandwidth() if is_on_cpu else None
    weights = _weight_bytes(made.installed) if is_on_cpu else None
    depths = []
    for number in range(len(made.steps.depths)):
        stops = measured.at(number)
        if stops:
            depths.append(_at_depth(stops, weights, bandwidth))
    return {
        "model": made.installed.key,
        "size": made.installed.size,
        "threads": made.session.threads,
        "n_ctx": made.session.n_ctx,
        "kv_type": made.session.kv_type,
        "gpu_layers": "auto" if layers is None else layers,
        "repeat": made.repeat,
        "is_complete": measured.is_complete,
        "load_s": _rounded(Spread.of(measured.load_s), 4),
        "peak_memory": peak,
        "weight_bytes_per_token": weights,
        "copy_bandwidth": None if bandwidth is None else round(bandwidth),
        "others_share": None if measured.others_share is None else round(measured.others_share, 3),
        "is_on_battery": power()[0].value,
        "depths": depths,
    }


def _at_depth(stops: Sequence[Stop], weights: int | None, bandwidth: float | None) -> dict[str, Any]:
    generation = Spread.of([stop.generation_tps for stop in stops if stop.generation_tps is not None])
    share = generation.median * weights / bandwidth if generation and weights and bandwidth else None
    return {
        "depth": stops[0].depth,
        "passes": len(stops),
        "prompt_tokens": stops[0].prompt_tokens,
        "generation_tokens": stops[0].generation_tokens,
        "prompt_tps": _rounded(Spread.of([stop.prompt_tps for stop in stops]), 2),
        "generation_tps": _rounded(generation, 2),
        "ttft_s": _rounded(Spread.of([stop.ttft_s for stop in stops]), 4),
        "bandwidth_share": None if share is None else round(share, 3),
    }


def _rounded(spread: Spread | None, digits: int) -> dict[str, float] | None:
    if spread is None:
        return None
    return {name: round(getattr(spread, name), digits) for name in ("median", "low", "high")}


def _show(report: dict[str, Any], console: Console) -> None:
    """The report for people: two lines, the chart as a table, and the share of the memory bandwidth."""
    load = report["load_s"]
    peak = f"; at most {in_bytes(report['peak_memory'])} of memory" if report["peak_memory"] else ""
    console.print(
        f"{report['model']}, {in_bytes(report['size'])}; {report['threads']} threads, "
        f"context window {report['n_ctx']:,}, KV cache {report['kv_type']}"
    )
    console.print(f"loaded in {load['median']:.2f} s ({load['low']:.2f} to {load['high']:.2f}){peak}")
    depths = report["depths"]
    top = max((entry["generation_tps"]["median"] for entry in depths if entry["generation_tps"]), default=0.0)
    first = depths[0]
    gap = "" if console.has_color else "\n"  # the frame of a table in colour has empty lines of its own
    console.write(gap)
    console.table(
        ("DEPTH", "PROMPT tok/s", "FIRST TOKEN", "GENERATION tok/s", "", ""),
        [_row(entry, top, is_plain=console.is_dumb or not console.is_stdout_tty) for entry in depths],
    )
    console.write(gap)
    console.print(f"depth: tokens of the conversation before a message of {first['prompt_tokens']} tokens")
    console.print(f"medians of {first['passes']}, in brackets the lowest and the highest")
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
    console.print(
        f"every token reads {in_bytes(weights)} of weights: {in_bytes(round(weights * rate))}/s, {share:.0%} of the "
        f"memory bandwidth ({in_bytes(report['copy_bandwidth'])}/s, copying)"
    )
