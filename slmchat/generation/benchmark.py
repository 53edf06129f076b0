"""How fast a model is on this device, measured through the same door as every completion.

Knows: the order of a measurement, medians, what disturbs it. Refuses to know: how a session computes, how the walk
through the context window goes (bench_walk.py), what the figures look like.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from slmchat.catalog.gguf import read_header
from slmchat.catalog.records import Installed
from slmchat.engine import native
from slmchat.engine.api import Finish, Limits, Prompt, Session
from slmchat.engine.cancellable import CancelScope
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import bench_walk, params
from slmchat.generation.bench_walk import Steps, Stop
from slmchat.hardware.bandwidth import measure_copy_bandwidth
from slmchat.hardware.power import power
from slmchat.hardware.usage import OthersWatch, peak_memory
from slmchat.models.open import OpenModel, open_installed
from slmchat.models.session_settings import gpu_layers, session_settings
from slmchat.options import GenerationOptions
from slmchat.reporting import Reporter
from slmchat.settings import Settings

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
class BenchMeasurements:
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
    """What is measured, and with what; `n_ctx`: tokens of the context window."""

    installed: Installed
    options: GenerationOptions
    settings: Settings
    n_ctx: int
    steps: Steps
    sampler: SamplerSettings
    repeat: int


def prepared(
    installed: Installed, options: GenerationOptions, settings: Settings, depths: Sequence[int], repeat: int
) -> Bench:
    """A measurement at these depths (none: the usual ones), `repeat` times. Raises `SlmError` (USAGE)."""
    n_ctx = options.ctx or settings.n_ctx or min(_N_CTX, installed.context_length or _N_CTX)
    return Bench(
        installed=installed,
        options=options,
        settings=settings,
        n_ctx=n_ctx,
        steps=bench_walk.plan(n_ctx, depths),
        sampler=params.sampler_settings(installed, settings, options).with_values({"seed": 1}),
        repeat=repeat,
    )


def measure(made: Bench, measured: BenchMeasurements, reporter: Reporter, cancellable: CancelScope) -> None:
    """Fill `measured`, pass by pass: load the model, open a session, walk to the last depth."""
    others = OthersWatch()
    try:
        for number in range(1, made.repeat + 1):
            reporter.status(f"pass {number} of {made.repeat}: loading {made.installed.key}")
            start = time.perf_counter()
            opened = open_installed(made.installed, made.options, made.settings, reporter)
            opened.loading.engine()
            measured.load_s.append(time.perf_counter() - start)
            try:
                _walk(made, opened, measured, cancellable)
            finally:
                opened.close()
        measured.is_complete = True
    finally:
        measured.others_share = others.share()


def _walk(made: Bench, opened: OpenModel, measured: BenchMeasurements, cancellable: CancelScope) -> None:
    def tell(number: int) -> None:
        at = f"pass {len(measured.passes) + (not stops)} of {made.repeat}, depth {depths[number]:,} of {depths[-1]:,}"
        opened.reporter.status(f"measuring {made.installed.key}: {at}")

    def follow(session: Session, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Finish:
        """A generation to its end; a cancel ends it early."""
        events = session.generate(prompt, sampler, limits)
        with cancellable(session):
            for event in events:
                if isinstance(event, Finish):
                    return event
        raise SlmError("the engine ended a generation without saying how.", exit_code=ExitCode.BUG)

    depths = made.steps.depths
    stops: list[Stop] = []
    session = opened.open_plain_session(made.n_ctx)
    try:
        tell(0)
        for stop in bench_walk.walk(session, opened.engine, made.steps, made.sampler, follow):
            stops.append(stop)
            if len(stops) == 1:
                measured.passes.append(stops)
            if len(stops) < len(depths):
                tell(len(stops))
    finally:
        session.close()


def _weight_bytes(installed: Installed) -> int | None:
    """Bytes of weights that one token reads: all of them; None for a mixture of experts, which reads some."""
    header = read_header(installed.path)
    if header.metadata.get(f"{header.architecture}.expert_count"):
        return None
    return header.tensor_bytes


def report_of(made: Bench, measured: BenchMeasurements) -> dict[str, Any]:
    """Everything that was measured, as `--json` prints it."""
    peak = peak_memory()  # before the bandwidth is measured: its buffers are no part of what the model needs
    session = session_settings(made.options, made.settings, made.n_ctx, model=made.installed.path)
    layers = gpu_layers(made.options, made.settings)
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
        "threads": session.threads,
        "n_ctx": session.n_ctx,
        "kv_type": session.kv_type,
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
