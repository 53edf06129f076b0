"""How fast a model is on this device, measured through the same door as every completion.

Knows: the order of a measurement, medians, what disturbs it. Refuses to know: how a session computes, how the walk
through the context window goes (bench_walk.py), what the figures are compared with (bench_report.py).
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import field

from slmchat.catalog.records import Installed
from slmchat.engine.api import Session
from slmchat.engine.cancellable import CancelScope
from slmchat.engine.requests import Limits, Prompt
from slmchat.engine.results import Finish, Prefill
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import bench_walk, params
from slmchat.generation.bench_walk import Followed, Steps, Stop
from slmchat.hardware.energy import EnergyMeter, energy_meter
from slmchat.hardware.usage import OthersWatch
from slmchat.lazy_dataclasses import dataclass
from slmchat.models.open import OpenModel, open_installed
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
    """What has been measured so far. Seconds and bytes; `passes` has a list of stops for each pass.

    `energy`: the meter that counted meanwhile, None before the first pass.
    """

    load_s: list[float] = field(default_factory=list)
    passes: list[list[Stop]] = field(default_factory=list)
    others_share: float | None = None
    is_complete: bool = False
    energy: EnergyMeter | None = None

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
    installed: Installed,
    options: GenerationOptions,
    settings: Settings,
    depths: Sequence[int],
    repeat: int,
    *,
    is_plotted: bool = False,
) -> Bench:
    """A measurement at these depths (none: the usual ones, or as many as a plot needs), `repeat` times.

    Raises `SlmError` (USAGE)."""
    n_ctx = options.ctx or settings.n_ctx or min(_N_CTX, installed.context_length or _N_CTX)
    return Bench(
        installed=installed,
        options=options,
        settings=settings,
        n_ctx=n_ctx,
        steps=bench_walk.plan(n_ctx, depths or (bench_walk.evenly(n_ctx) if is_plotted else ())),
        sampler=params.sampler_settings(installed, settings, options).with_values({"seed": 1}),
        repeat=repeat,
    )


def measure(made: Bench, measured: BenchMeasurements, reporter: Reporter, cancellable: CancelScope) -> None:
    """Fill `measured`, pass by pass: load the model, open a session, walk to the last depth."""
    others = OthersWatch()
    measured.energy = energy_meter()
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

    def follow(session: Session, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Followed:
        """A generation to its end; a cancel ends it early."""
        begun = read_at = energy.read()
        events = session.generate(prompt, sampler, limits)
        with cancellable(session):
            for event in events:
                if isinstance(event, Prefill):
                    read_at = energy.read()
                elif isinstance(event, Finish):
                    return Followed(event, read_at - begun, energy.read() - read_at)
        raise SlmError("the engine ended a generation without saying how.", exit_code=ExitCode.BUG)

    depths = made.steps.depths
    energy = measured.energy or EnergyMeter()
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
