"""Which few models of the catalog are a good beginning on this device, and which of them to recommend.

Refuses to know: who asks, and how a model is fetched.
"""

from collections.abc import Sequence

from slmchat.catalog import registry
from slmchat.catalog.model_specs import ModelSpec, Variant
from slmchat.fit.choice import READING_SPEED
from slmchat.fit.plan import FitVerdict
from slmchat.lazy_dataclasses import dataclass
from slmchat.models.device_fit import ForDevice

# From large to small: good chat models for their size, of makers that differ. None of them thinks before it answers
# unless it is asked to: on a small device that is a long wait for somebody who has only begun.
SUGGESTED = (
    *("gemma4:e4b", "gemma4:e2b", "phi4-mini", "llama3.2:3b", "qwen2.5:1.5b", "gemma3:1b"),
    *("smollm2:360m", "smollm2:135m"),
)
_SHOWN = 4

# Bytes a second that generating reads where nothing has been measured: half of what LPDDR4X-4266 with four channels of
# 16 bits delivers (34 GB/s), the memory of common phones and laptops since 2020. Each token reads all weights.
_CAUTIOUS_BANDWIDTH = 17_000_000_000


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A model that suits a device, in the quantization that `slm pull` would take there. `speed`: tokens a second."""

    spec: ModelSpec
    variant: Variant
    speed: float | None = None

    @property
    def is_fast(self) -> bool:
        """Whether it answers faster than one reads; where nothing has been measured, on a common device since 2020."""
        if self.speed is not None:
            return self.speed >= READING_SPEED
        return self.variant.size is not None and READING_SPEED * self.variant.size <= _CAUTIOUS_BANDWIDTH


def suggestions(device: ForDevice, known: registry.Registry) -> list[Suggestion]:
    """What fits this device with a useful context, the most capable first; the smallest is always there."""
    found = [_suggested(known.models[name], device) for name in SUGGESTED if name in known.models]
    fitting = [suggestion for suggestion, verdict in found if verdict is FitVerdict.FITS]
    chosen, smallest = fitting[:_SHOWN], found[-1][0]
    fast = next((one for one in fitting if one.is_fast), smallest)
    for wanted in (fast, smallest):
        if wanted not in chosen:
            chosen = [*chosen[: _SHOWN - 1 - (wanted is fast and fast is not smallest)], wanted]
    return chosen


def recommended(suited: Sequence[Suggestion]) -> tuple[int, str]:
    """The place of the one to take unless the user knows better, and why."""
    for place, one in enumerate(suited):
        if one.is_fast and one.speed is not None:
            return place, "the most capable of these that answers faster than you read"
        if one.is_fast:
            return place, "it answers fast on most devices; how fast this one is could not be measured now"
    return len(suited) - 1, "the fastest of these"


def _suggested(spec: ModelSpec, device: ForDevice) -> tuple[Suggestion, FitVerdict]:
    chosen = device.best_variant(spec)
    assert chosen is not None, "the catalog states the sizes of what is suggested"
    variant = next(each for each in spec.variants if each.quantization == chosen.option.quantization)
    return Suggestion(spec, variant, chosen.speed), chosen.plan.verdict
