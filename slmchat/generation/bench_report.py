"""What was measured of a model, beside the limits of this device: the report of `slm bench`, as `--json` has it.

A generated token reads all weights, so its speed is compared with the bandwidth of memory; tokens of a prompt are
multiplied many at once, so theirs is compared with the fastest matrix product (fit/roofline.py has the formulas).

Knows: shares, energy for each token, what is left out where it is not known. Refuses to know: how it is measured, what
the figures look like.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slmchat.catalog.gguf import read_headers
from slmchat.catalog.gguf_header import GGML_TYPES
from slmchat.engine import native
from slmchat.errors import SlmError
from slmchat.fit import roofline
from slmchat.fit.shape import ModelShape, shape_of
from slmchat.generation.bench_walk import Stop
from slmchat.generation.benchmark import Bench, BenchMeasurements, Spread
from slmchat.hardware.bandwidth import measure_copy_bandwidth
from slmchat.hardware.energy import EnergyMeter
from slmchat.hardware.power import power
from slmchat.hardware.usage import peak_memory
from slmchat.lazy_dataclasses import dataclass
from slmchat.models.session_settings import gpu_layers, session_settings
from slmchat.private_files import make_private


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """What this device can do at most, measured now. `bandwidth`: bytes a second that a copy moves; `arithmetic`:
    multiply-adds a second of matrix products with weights of `weight_type`. None: not measured, as on a GPU."""

    bandwidth: float | None = None
    arithmetic: float | None = None
    weight_type: str = ""


def report_of(made: Bench, measured: BenchMeasurements) -> dict[str, Any]:
    """Everything that was measured, as `--json` prints it. Measures the limits of the device: two seconds."""
    peak = peak_memory()  # before the limits are measured: their buffers are no part of what the model needs
    session = session_settings(made.options, made.settings, made.n_ctx, model=made.installed.path)
    layers = gpu_layers(made.options, made.settings)
    is_on_cpu = layers == 0 or not native.has_gpu_backend()
    shape = shape_of(read_headers(made.installed.parts))
    limits = _limits(shape, session.threads_batch, made.settings.paths.cache) if is_on_cpu else DeviceLimits()
    meter = measured.energy or EnergyMeter(why_not="nothing was measured")
    depths = []
    for number in range(len(made.steps.depths)):
        stops = measured.at(number)
        if stops:
            depths.append(_at_depth(stops, shape, limits, session.kv_type, meter))
    return {
        "model": made.installed.key,
        "size": made.installed.size,
        "threads": session.threads,
        "threads_batch": session.threads_batch,
        "n_ctx": session.n_ctx,
        "kv_type": session.kv_type,
        "gpu_layers": "auto" if layers is None else layers,
        "repeat": made.repeat,
        "is_complete": measured.is_complete,
        "load_s": _rounded(Spread.of(measured.load_s), 4),
        "peak_memory": peak,
        "weight_bytes_per_token": shape.active_bytes,
        "copy_bandwidth": None if limits.bandwidth is None else round(limits.bandwidth),
        "multiply_adds_per_second": None if limits.arithmetic is None else round(limits.arithmetic),
        "multiply_adds_type": limits.weight_type or None,
        "energy": _energy(measured, meter, is_on_cpu=is_on_cpu),
        "others_share": None if measured.others_share is None else round(measured.others_share, 3),
        "is_on_battery": power()[0].value,
        "depths": depths,
    }


def _limits(shape: ModelShape, threads: int, cache: Path) -> DeviceLimits:
    weight_type = roofline.main_type(shape)
    return DeviceLimits(measure_copy_bandwidth(), _arithmetic(weight_type, threads, cache), weight_type)


def _arithmetic(weight_type: str, threads: int, cache: Path) -> float | None:
    """Multiply-adds a second; None where it cannot be measured (a full disk, a library that refuses)."""
    from slmchat.engine import arithmetic_limit  # llama.cpp, which is loaded by now
    from slmchat.engine.tiny_model import WeightType

    kind = next(
        (WeightType(number, *sizes) for number, (name, *sizes) in GGML_TYPES.items() if name == weight_type), None
    )
    if kind is None:
        return None
    try:
        make_private(cache)
        return arithmetic_limit.measure(kind, threads, cache)
    except (SlmError, OSError):
        return None


def _at_depth(
    stops: Sequence[Stop], shape: ModelShape, limits: DeviceLimits, kv_type: str, meter: EnergyMeter
) -> dict[str, Any]:
    prompt = Spread.of([stop.prompt_tps for stop in stops])
    generation = Spread.of([stop.generation_tps for stop in stops if stop.generation_tps is not None])
    first = stops[0]
    n_before = first.depth + first.prompt_tokens
    n_bytes = roofline.bytes_of_token(shape, n_before + first.generation_tokens // 2, kv_type)
    n_adds = roofline.multiply_adds_of_token(shape, first.depth + first.prompt_tokens / 2)
    return {
        "depth": first.depth,
        "passes": len(stops),
        "prompt_tokens": first.prompt_tokens,
        "generation_tokens": first.generation_tokens,
        "prompt_tps": _rounded(prompt, 2),
        "generation_tps": _rounded(generation, 2),
        "ttft_s": _rounded(Spread.of([stop.ttft_s for stop in stops]), 4),
        "bytes_per_token": n_bytes,
        "multiply_adds_per_token": n_adds or None,
        "bandwidth_share": _share(generation, n_bytes, limits.bandwidth),
        "arithmetic_share": _share(prompt, n_adds, limits.arithmetic),
        "prompt_joules_per_token": _joules(stops, meter, lambda stop: (stop.prompt_j, stop.prompt_tokens)),
        "generation_joules_per_token": _joules(stops, meter, lambda stop: (stop.generation_j, stop.generation_tokens)),
    }


def _share(rate: Spread | None, each: int, limit: float | None) -> float | None:
    return round(rate.median * each / limit, 3) if rate and each and limit else None


def _energy(measured: BenchMeasurements, meter: EnergyMeter, *, is_on_cpu: bool) -> dict[str, Any]:
    """Joules a token of everything that was measured; `not_readable`: why there are none."""
    stops = [stop for stops in measured.passes for stop in stops]
    prompt = _joules(stops, meter, lambda stop: (stop.prompt_j, stop.prompt_tokens))
    generation = _joules(stops, meter, lambda stop: (stop.generation_j, stop.generation_tokens))
    reason = meter.why_not
    if reason is None and prompt is None and generation is None:
        reason = "the counter moves in steps that are too large for so short a measurement (more: --repeat N)"
    return {
        "covers": None if reason else f"{meter.covers}{'' if is_on_cpu else '; the GPU is not in it'}",
        "source": meter.source or None,
        "not_readable": reason,
        "prompt_joules_per_token": prompt,
        "generation_joules_per_token": generation,
    }


def _joules(stops: Sequence[Stop], meter: EnergyMeter, counted: Callable[[Stop], tuple[float, int]]) -> float | None:
    joules = sum(counted(stop)[0] for stop in stops)
    n_tokens = sum(counted(stop)[1] for stop in stops)
    return round(joules / n_tokens, 6) if n_tokens and meter.is_enough(joules) else None


def _rounded(spread: Spread | None, digits: int) -> dict[str, float] | None:
    if spread is None:
        return None
    return {name: round(getattr(spread, name), digits) for name in ("median", "low", "high")}
