"""The first run: nothing is installed, so show what suits this device, offer to pull it, and let the chat begin.

Knows: which few models of the catalog are a good beginning.
Refuses to know: what fits (fit/), how a model is fetched (pull.py), how the chat goes on (chat.py).
"""

from dataclasses import dataclass

from slmchat import hardware
from slmchat.catalog import registry
from slmchat.catalog.model_specs import ModelSpec, Variant
from slmchat.commands.pull import pull
from slmchat.errors import ExitCode, SlmError
from slmchat.fit.plan import FitVerdict
from slmchat.models.device_fit import ForDevice
from slmchat.options import PullOptions
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.wording import in_bytes

# From large to small: good chat models for their size, each of another order of magnitude of effort.
SUGGESTED = ("gemma3:4b", "phi4-mini", "llama3.2:3b", "qwen2.5:1.5b", "gemma3:1b", "smollm2:360m", "smollm2:135m")
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A model that suits a device, in the quantization that `slm pull` would take there."""

    spec: ModelSpec
    variant: Variant


def suggestions(device: ForDevice, known: registry.Registry) -> list[Suggestion]:
    """What fits this device with a useful context, the most capable first; the smallest is always there."""
    found = [_suggested(known.models[name], device) for name in SUGGESTED if name in known.models]
    chosen = [suggestion for suggestion, verdict in found if verdict is FitVerdict.FITS][:_SHOWN]
    smallest = found[-1][0]
    return chosen if smallest in chosen else [*chosen[: _SHOWN - 1], smallest]


def _suggested(spec: ModelSpec, device: ForDevice) -> tuple[Suggestion, FitVerdict]:
    chosen = device.best_variant(spec)
    assert chosen is not None, "the catalog states the sizes of what is suggested"
    variant = next(each for each in spec.variants if each.quantization == chosen.option.quantization)
    return Suggestion(spec, variant), chosen.plan.verdict


def offer(settings: Settings, console: Console) -> str:
    """Ask which model to begin with and pull it; its name. Raises `SlmError` (NO_MODEL) when nothing is chosen."""
    known = registry.load(settings.paths.user_registry)
    memory = hardware.total_memory()
    device = ForDevice(settings, console, is_lasting=True)
    console.note(f"Nothing is installed yet. This device has {in_bytes(memory)} of memory; these models suit it:")
    if device.throughput is None:
        device.measure_more()
    suited = suggestions(device, known)
    console.note("")
    for number, suggestion in enumerate(suited, start=1):
        spec, size = suggestion.spec, suggestion.variant.size
        license = spec.license.title if spec.license else "licence: see its page"
        console.note(f"  {number}  {spec.name:14} {in_bytes(size) if size else '':>8}  {spec.title}, {license}")
    console.note("")
    chosen = _choose(suited, console)
    code = pull([chosen], PullOptions(), settings, console)
    if code is not ExitCode.DONE:
        raise SlmError(f"{chosen} was not installed.", hint=f"slm pull {chosen}", exit_code=code)
    return chosen


def _choose(suited: list[Suggestion], console: Console) -> str:
    answer = console.ask_text(f"Pull which one? [1-{len(suited)}, Enter leaves] ").strip()
    if answer.isdecimal() and 1 <= int(answer) <= len(suited):
        return suited[int(answer) - 1].spec.name
    raise SlmError(
        "no model is installed.",
        hint=f"slm pull {suited[-1].spec.name}; slm list --available shows all",
        exit_code=ExitCode.NO_MODEL,
    )
