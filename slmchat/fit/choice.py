"""Which quantization of a model suits this device.

Knows: how good each quantization is, with the source of that, and the rule of choice.
Refuses to know: where variants come from.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from slmchat.fit.memory import Load
from slmchat.fit.plan import USEFUL_CTX, FitPlan, FitVerdict, Room, largest_ctx, plan
from slmchat.fit.shape import ModelShape
from slmchat.fit.speed import Throughput, in_words
from slmchat.lazy_dataclasses import dataclass

READING_SPEED = 10.0
"""Tokens a second that keep up with a reader (240 words a minute are about 5); twice that for hurried ones."""

# What a quantization costs: more perplexity than the unquantized Llama 3 8B, from llama.cpp's own table
# (tools/quantize/quantize.cpp, QUANT_OPTIONS). Not in it, so set by what is published or lies beside it:
# - Q4_0-QAT: Google says that training for it takes away 54 % of what Q4_0 costs (blog post on Gemma 3 QAT, 2025);
# - UD-Q4_K_XL (Unsloth's own mixture): counts as Q4_K_M; IQ and ternary types: in the order of their bits a weight.
LOSS: Mapping[str, float] = {
    "F32": 0.0, "BF16": 0.0, "F16": 0.002, "Q8_0": 0.0026, "Q6_K": 0.0217, "Q5_K_M": 0.0569, "Q5_K": 0.0569,
    "Q5_K_S": 0.1049, "Q5_1": 0.1062, "Q5_0": 0.1316, "UD-Q4_K_XL-QAT": 0.1754, "UD-Q4_K_XL": 0.1754, "Q4_K_M": 0.1754,
    "Q4_K": 0.1754, "Q4": 0.1754, "Q4_0-QAT": 0.2155, "IQ4_NL": 0.26, "Q4_K_S": 0.2689, "IQ4_XS": 0.27,
    "MXFP4_MOE": 0.3, "MXFP4": 0.3, "NVFP4": 0.3, "Q4_1": 0.4511, "Q4_0": 0.4685, "Q3_K_L": 0.5562, "Q3_K_M": 0.6569,
    "IQ3_M": 0.7, "IQ3_S": 0.9, "IQ3_XS": 1.2, "Q3_K_S": 1.6321, "IQ3_XXS": 1.7, "Q2_K_S": 3.1836, "Q2_K": 3.5199,
    "IQ2_M": 3.6, "IQ2_S": 4.0, "IQ2_XS": 5.0, "Q2_0": 6.0, "IQ2_XXS": 6.0, "TQ2_0": 8.0, "TQ1_0": 9.0, "IQ1_M": 10.0,
    "IQ1_S": 12.0, "Q1_0": 15.0,
}  # fmt: skip
_UNKNOWN_LOSS = 0.3
# A name that is not in the table (Q6_K_L, UD-Q2_K_XL, Q3_K_P) counts as what its number of bits usually costs.
_BY_BITS = {"1": 12.0, "2": 3.5199, "3": 0.6569, "4": 0.1754, "5": 0.0569, "6": 0.0217, "8": 0.0026}

# Variants whose size or speed differs by less than this are equal: then the order in which they are given decides.
_TIE = 0.01

# Twice the bytes of Q8_0 for a difference that no one has found in an answer: only when there is nothing else.
_WASTEFUL = ("F32", "BF16", "F16")

_IN_WORDS = {FitVerdict.FITS: "fits", FitVerdict.TIGHT: "just fits", FitVerdict.PAGES: "works, reading from disk"}


@dataclass(frozen=True, slots=True)
class Option:
    """One variant that could be had."""

    quantization: str
    shape: ModelShape


@dataclass(frozen=True, slots=True)
class QuantizationChoice:
    """A variant with the plan for it and its predicted speed; `reason` says in words why this one."""

    option: Option
    plan: FitPlan
    speed: float | None
    reason: str


def loss(quantization: str) -> float:
    """What a quantization costs in perplexity; a name without a number counts as something like 4 bits."""
    name = quantization.upper()
    plain = name.removeprefix("UD-").removesuffix("-QAT")
    bits = re.search(r"\d", plain)
    return LOSS.get(name, LOSS.get(plain, _BY_BITS.get(bits[0], _UNKNOWN_LOSS) if bits else _UNKNOWN_LOSS))


def choose(options: Sequence[Option], load: Load, room: Room, throughput: Throughput | None) -> QuantizationChoice:
    """The variant with the least loss that fits with a useful context and generates at reading speed.

    Where none is that quick: the quickest with no more loss than Q4_K_M has, or the quickest. Where the speed is not
    known, as that of files which are read from the disk while they answer: the smallest with no more loss than Q4_K_M.
    Where none fits with a useful context: the one that needs the least memory. A tie goes to what comes first.
    """
    ordered = sorted(options, key=lambda option: (option.quantization in _WASTEFUL, loss(option.quantization)))
    useful = replace(load, n_ctx=USEFUL_CTX)
    tried = [_tried(option, useful, room, throughput) for option in ordered]
    for wanted in ((FitVerdict.FITS,), (FitVerdict.TIGHT,), (FitVerdict.PAGES,)):
        fitting = [choice for choice in tried if choice.plan.verdict in wanted]
        if fitting:
            return _quick_enough(fitting, is_rough=throughput is not None and throughput.is_rough)
    least = min(tried, key=lambda choice: choice.plan.memory.needed)
    has_window = largest_ctx(least.option.shape, load, room) > 0
    return replace(least, reason="only with a small context window" if has_window else "none fits; the smallest")


def _tried(option: Option, useful: Load, room: Room, throughput: Throughput | None) -> QuantizationChoice:
    window = min(USEFUL_CTX, option.shape.context_length or USEFUL_CTX)
    found = plan(option.shape, replace(useful, n_ctx=window), room)
    # how fast a file is read from the disk is known when it is there
    known = None if found.verdict is FitVerdict.PAGES else throughput
    return QuantizationChoice(option, found, known.tokens_per_second(option.shape) if known else None, "")


def _quick_enough(fitting: list[QuantizationChoice], *, is_rough: bool) -> QuantizationChoice:
    words = _IN_WORDS[fitting[0].plan.verdict]
    good = [choice for choice in fitting if loss(choice.option.quantization) <= LOSS["Q4_K_M"]] or fitting
    if any(choice.speed is None for choice in fitting):
        least = min(choice.option.shape.weight_bytes for choice in good)
        smallest = next(choice for choice in good if choice.option.shape.weight_bytes <= least * (1 + _TIE))
        return replace(smallest, reason=f"the best that {words} (speed not measured)")
    quick = [choice for choice in fitting if (choice.speed or 0.0) >= READING_SPEED]
    if quick:
        chosen = quick[0]
        better = [choice.option.quantization for choice in fitting[: fitting.index(chosen)]]
        told = f"the best quality that {words}, {_speed_in_words(chosen, is_rough=is_rough)}"
        return replace(chosen, reason=told + (f" ({', '.join(better)} would be slower)" if better else ""))
    most = max(choice.speed or 0.0 for choice in good)
    chosen = next(choice for choice in good if (choice.speed or 0.0) >= most * (1 - _TIE))
    return replace(chosen, reason=f"the quickest good one that {words}, {_speed_in_words(chosen, is_rough=is_rough)}")


def _speed_in_words(chosen: QuantizationChoice, *, is_rough: bool) -> str:
    assert chosen.speed is not None
    if is_rough:
        return "quick enough to read along" if chosen.speed >= READING_SPEED else "slower than one reads"
    return in_words(chosen.speed)
