"""What suits this device: its facts brought together with a model's shape, for every errand that asks.

Knows: where the facts come from (hardware, llama.cpp's devices, the kept throughput) and how a verdict is told.
Refuses to know: the arithmetic (fit/), what is done with a verdict.
"""

from collections.abc import Sequence
from dataclasses import astuple, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmchat import hardware
from slmchat.catalog.model_specs import ModelSpec, Variant
from slmchat.engine import kept_throughput
from slmchat.engine.kept_throughput import KeptThroughput
from slmchat.errors import SlmError
from slmchat.fit.estimate import guessed_shape
from slmchat.fit.memory import DEFAULT_KV_TYPE, Load
from slmchat.fit.plan import (
    FitPlan,
    FitVerdict,
    Paged,
    Room,
    choose_ctx,
    plan,
)
from slmchat.fit.shape import ModelShape
from slmchat.fit.speed import Throughput, in_words, throughput_of
from slmchat.lazy_dataclasses import dataclass
from slmchat.reporting import Reporter
from slmchat.settings import Settings
from slmchat.wording import in_bytes

if TYPE_CHECKING:  # whoever only lists models does without the engine
    from slmchat.engine.limits import EngineLimits
    from slmchat.fit.choice import Option, QuantizationChoice


def limits(settings: Settings, model: Path | None = None) -> "EngineLimits":
    """What of llama.cpp's ways is open on this device, or with this model."""
    from slmchat.engine import verdict_place, verdicts
    from slmchat.engine.limits import ALL

    place = verdict_place.directory(settings.paths.cache)
    try:
        return verdicts.expected(place) if model is None else verdicts.limits_of(model, place)
    except SlmError:  # llama.cpp is missing; whoever loads a model is told
        return ALL


def available_memory(device: str | None = None) -> Room:
    """The memory that models may use now; `device`: on these GPUs."""
    from slmchat.engine import devices
    from slmchat.hardware import memory

    available, total = memory.available().value, memory.total().value
    assert available is not None
    assert total is not None
    return Room(available, total, memory.address_space().value, devices.free_gpu_memory(device))


def within(space: Room, open_ways: "EngineLimits") -> Room:
    """The memory that counts where only these ways of llama.cpp are open."""
    return space if open_ways.has_gpu else replace(space, gpu=0)


def load(settings: Settings, n_ctx: int, kv_type: str | None = None, open_ways: "EngineLimits | None" = None) -> Load:
    """A load on this device's processor with these settings, within `open_ways` (None: those of this device)."""
    open_ways = open_ways or limits(settings)
    return Load(
        n_ctx,
        open_ways.kv_type(kv_type or settings.kv_type or DEFAULT_KV_TYPE),
        hardware.cores.instruction_sets().value or (),
        is_repacked=open_ways.has_extra_buffers,
        has_flash_attention=open_ways.has_flash_attention,
    )


def catalog_option(spec: ModelSpec, variant: Variant) -> "Option | None":
    """A variant of the catalog as the choice wants it; None when the catalog states no size."""
    from slmchat.fit.choice import Option

    shape = expected_shape(spec, variant.quantization, variant.size)
    return Option(variant.quantization, shape) if shape else None


def expected_shape(spec: ModelSpec | None, quantization: str | None, size: int | None) -> ModelShape | None:
    """The shape that a variant probably has, from its size and what the catalog states; None without a size."""
    if size is None:
        return None
    return guessed_shape(
        size=size,
        parameters=spec.parameters if spec else None,
        parameters_text=spec.parameters_text if spec else None,
        context_length=spec.context_length if spec else None,
        quantization=quantization or "Q4_K_M",
        architecture=spec.architecture if spec else None,
    )


# Verdicts


@dataclass(frozen=True, slots=True)
class FitReport:
    """What is told of a model on this device. `is_estimate`: its header has not been read."""

    plan: FitPlan
    speed: float | None
    available_memory: Room
    is_estimate: bool = False

    @property
    def mark(self) -> str:
        """A word or two for a table."""
        return str(self.plan.verdict)

    @property
    def speed_in_words(self) -> str:
        return in_words(self.speed) if self.speed is not None and self.plan.is_possible else ""

    def in_words(self) -> str:
        """One line: the verdict and its numbers."""
        need, found, largest = self.plan.memory, self.plan, self.plan.largest_ctx
        told = (
            f"{found.verdict}: {'an estimated ' if self.is_estimate else ''}{in_bytes(need.needed)} "
            f"at {found.load.n_ctx:,} tokens of context, {in_bytes(self.available_memory.available)} available"
        )
        if largest:
            told += f"; up to {largest:,} tokens fit"
        if need.on_disk and found.is_possible:
            told += f"; {in_bytes(need.on_disk)} of embeddings stay on the disk"
        return told

    def rows(self) -> list[tuple[str, str]]:
        """Lines for people: a label and its text."""
        rows = [("fit", self.in_words())]
        return [*rows, ("speed", self.speed_in_words)] if self.speed_in_words else rows

    def as_json(self) -> dict[str, Any]:
        """The keys of `fit` in JSON; sizes in bytes."""
        memory, verdict = self.plan.memory, self.plan.verdict
        return {
            "verdict": verdict.name.lower(),
            "is_estimate": self.is_estimate,
            "n_ctx": self.plan.load.n_ctx,
            "largest_ctx": self.plan.largest_ctx,
            "needed": memory.needed,
            "resident": memory.resident,
            "available": self.available_memory.available,
            "weights": memory.weights,
            "repacked": memory.repacked,
            "on_disk": memory.on_disk,
            "kv": memory.kv,
            "compute": memory.compute,
            "vocabulary": memory.vocabulary,
            "tokens_per_second": None if self.speed is None else round(self.speed, 1),
        }


def usable_memory(total: int, *, is_phone: bool | None = None) -> int:
    """What models may count on of a device's memory whatever runs now: three quarters; of a phone's half.

    Android ends apps that leave it less, beginning with those in the background, and Termux with them.
    """
    is_phone = hardware.power.is_android().value if is_phone is None else is_phone
    return total // 2 if is_phone else total * 3 // 4


class ForDevice:
    """Outlooks of many models on this device, whose facts are asked for once and only when needed."""

    def __init__(self, settings: Settings, reporter: Reporter, *, is_lasting: bool = False) -> None:
        """`is_lasting`: for what stays here. Then what other programs use now counts only up to a quarter."""
        self._settings = settings
        self._reporter = reporter
        self._is_lasting = is_lasting
        self._has_measured = False

    @cached_property
    def available_memory(self) -> Room:
        now = within(available_memory(), limits(self._settings))
        return replace(now, available=max(now.available, usable_memory(now.total))) if self._is_lasting else now

    @cached_property
    def throughput(self) -> Throughput | None:
        """What is known of this device's throughput; nothing is measured. None: too little."""
        return _throughput_in(self._kept)

    @cached_property
    def _kept(self) -> KeptThroughput:
        return kept_throughput.read(self._throughput_file, kept_throughput.key_of(self._settings.threads))

    @property
    def _throughput_file(self) -> Path:
        return self._settings.paths.data / "pace.json"

    def measure_more(self) -> None:
        """Go on measuring the throughput, for at most 0.2 s and once in a command. The person must have something to
        read.

        Not with --private: it keeps nothing, so that each command would begin again.
        """
        if self._has_measured or self._settings.is_private or not self._kept.may_go_on:
            return
        self._has_measured = True
        try:
            self._kept, told = kept_throughput.go_on(self._kept, self._throughput_file, self._settings.paths.cache)
        except SlmError as error:  # a disk that refuses: what was asked for is not in danger
            told = f"the speed of this device is not measured: {error}"
        self.throughput = _throughput_in(self._kept)
        self._reporter.detail(told)

    @cached_property
    def load(self) -> Load:
        """A load with the settings in force and no context window yet."""
        return load(self._settings, 0)

    def best_variant(self, spec: ModelSpec) -> "QuantizationChoice | None":
        """The variant of a catalog model that suits this device best; None when no size is stated."""
        from slmchat.fit.choice import choose

        options = [option for variant in spec.variants if (option := catalog_option(spec, variant)) is not None]
        return choose(options, self.load, self.available_memory, self.throughput) if options else None

    def fit_report(self, shape: ModelShape, *, is_estimate: bool = False, files: Sequence[Path] = ()) -> FitReport:
        """What becomes of a model here, with the window that a chat would take.

        `files`: the model's own, when they are here; how fast they are read is measured for one that does not fit.
        """
        base = self.load
        n_ctx = self._settings.n_ctx or choose_ctx(shape, base, self.available_memory)
        found = plan(shape, replace(base, n_ctx=n_ctx), self.available_memory)
        speed = self.throughput.tokens_per_second(shape) if self.throughput and not self.throughput.is_rough else None
        if speed and found.verdict is FitVerdict.PAGES:
            speed = self._paged_speed(speed, found.paged, files)
        return FitReport(found, speed, self.available_memory, is_estimate)

    def _paged_speed(self, in_memory: float, paged: Paged, files: Sequence[Path]) -> float | None:
        """Tokens a second of a model that is read from the disk; None where nobody knows how fast that is."""
        from slmchat.hardware.paging import seconds_per_piece

        measured = (seconds_per_piece(file, paged.piece_bytes, self._kept.threads) for file in files)
        seconds = next((each for each in measured if each is not None), None)
        return None if seconds is None else 1 / (1 / in_memory + paged.pieces * seconds)


def _throughput_in(kept: KeptThroughput) -> Throughput | None:
    return throughput_of({name: astuple(point) for name, point in kept.points.items()})
