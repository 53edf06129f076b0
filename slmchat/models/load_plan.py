"""How a model is to be opened on this device: its window, its layers on a GPU, what is loaded beside it, and why not.

Knows: what a loading needs, and what would fit instead of what does not.
Refuses to know: where the facts about the device come from (device_fit.py), the arithmetic (fit/), loading (loader.py).
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from slmchat.errors import ExitCode, SlmError
from slmchat.fit.memory import Load
from slmchat.fit.plan import (
    DEFAULT_LARGEST_CTX,
    FitVerdict,
    Room,
    choose_ctx,
    choose_gpu_layers,
    largest_ctx,
    plan,
)
from slmchat.fit.shape import ModelShape
from slmchat.lazy_dataclasses import dataclass
from slmchat.models import device_fit
from slmchat.settings import Settings
from slmchat.wording import in_bytes


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """How a model is to be opened. `gpu_layers` None: there is no GPU to decide about. `beside`: bytes of the available
    memory that what is loaded with it takes; `available_memory` is what they leave."""

    shape: ModelShape
    available_memory: Room
    verdict: FitVerdict
    load: Load
    gpu_layers: int | None
    beside: int = 0

    @property
    def largest_ctx(self) -> int:
        return plan(self.shape, self.load, self.available_memory).largest_ctx

    @property
    def growable_ctx(self) -> int:
        """The largest window into which a smaller one can grow; 0: the trained length is not known, or nothing fits.

        While the state moves it is there twice (`Context.grow`), so that twice the window has to fit.
        """
        trained = self.shape.context_length or 0
        return (
            largest_ctx(replace(self.shape, context_length=2 * trained), self.load, self.available_memory) // 2
            if trained
            else 0
        )

    def with_window(self, n_ctx: int) -> "LoadPlan":
        """The same with another context window, judged again."""
        found = plan(self.shape, replace(self.load, n_ctx=n_ctx), self.available_memory)
        return replace(self, load=found.load, verdict=found.verdict)


def plan_load(
    shape: ModelShape,
    settings: Settings,
    *,
    model: Path,
    n_ctx: int | None,
    kv_type: str | None,
    gpu_layers: int | None,
    device: str | None = None,
    beside: int = 0,
) -> LoadPlan:
    """How a model is to be opened on this device: GPU layers, repacking, and the verdict on the window.

    `model`: its file, by which it is known what does not work with it here. `n_ctx` None: the one that is chosen.
    `beside`: bytes that what is loaded with it takes (`needed_beside`).
    """
    open_ways = device_fit.limits(settings, model)
    space = device_fit.within(device_fit.available_memory(device), open_ways)
    space = replace(space, available=max(0, space.available - beside))
    base = device_fit.load(settings, n_ctx or 0, kv_type, open_ways)
    if n_ctx is None:
        base = replace(base, n_ctx=choose_ctx(shape, base, space))
    layers = gpu_layers
    if layers is None and space.gpu:
        layers = choose_gpu_layers(shape, base, max(0, space.gpu - space.headroom))
    base = replace(base, gpu_layers=layers if layers is not None and space.gpu else 0)
    found = plan(shape, base, space)
    layers = layers if space.gpu or gpu_layers is not None else None
    return LoadPlan(shape, space, found.verdict, found.load, layers, beside)


def needed_beside(
    settings: Settings, *, adapters: Sequence[Path], projector: Path | None, draft: Path | None, n_ctx: int | None
) -> int:
    """Bytes that what is loaded beside a model takes: LoRA adapters as large as their files, a projector with what it
    computes in, a draft model with a KV cache for as many tokens (None: those of the usual window). What cannot be read
    counts as large as it is, a draft nothing: who opens it says so.
    """
    needed = sum(map(_size, adapters))
    if projector is not None or draft is not None:
        from slmchat.catalog.gguf import read_header
        from slmchat.fit.memory import memory, projector_memory
        from slmchat.fit.shape import shape_of
    if projector is not None:
        try:
            needed += projector_memory(read_header(projector))
        except (OSError, SlmError):
            needed += _size(projector)
    if draft is not None:
        with suppress(OSError, SlmError):
            shape = shape_of([read_header(draft)])
            window = n_ctx or min(DEFAULT_LARGEST_CTX, shape.context_length or 0)
            needed += memory(shape, device_fit.load(settings, window)).needed
    return needed


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def refusal(name: str, found: LoadPlan) -> SlmError:
    """NO_FIT with the numbers, and what would fit instead: a smaller window."""
    told = plan(found.shape, found.load, found.available_memory)
    instead, largest = [], told.largest_ctx
    limit, mapped = found.available_memory.address_space, told.memory.address_space
    if told.memory.gpu > found.available_memory.gpu:
        numbers = (
            f"{in_bytes(told.memory.gpu)} of the GPU's memory for {found.gpu_layers} layers, and "
            f"{in_bytes(found.available_memory.gpu)} are free there"
        )
        instead.append("--gpu-layers auto takes as many as fit")
    elif limit is not None and mapped > limit:
        numbers = f"{in_bytes(mapped)} of address space, and ulimit -v leaves {in_bytes(limit)}"
    else:
        numbers = (
            f"{in_bytes(told.memory.needed)} of memory, and {in_bytes(found.available_memory.available)} are available"
        )
    if found.beside:
        numbers += f" beside {in_bytes(found.beside)} for what is loaded with it"
    if largest:
        instead.append(f"--ctx {largest} fits")
    instead.append("--force goes on all the same")
    return SlmError(
        f"{name} with a context window of {found.load.n_ctx:,} tokens needs {numbers}.",
        hint="; ".join(instead),
        exit_code=ExitCode.NO_FIT,
    )
