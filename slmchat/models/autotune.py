"""The settings with which a model is fastest on this device, measured in about a minute.

Knows: which settings are compared, what may not change with them, how much work a comparison needs, when a difference
is more than noise.
Refuses to know: how a measurement is made (engine/throughput.py), where the result is kept (tuning.py), how it is told.

One group of settings after another; what won is used in the next. Within a group the usual setting and the others are
measured in turn, three times, so that a slow moment of the machine meets them all. Another setting wins only if it was
faster in every turn, and by more than the usual one differs from itself.
"""

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field, replace
from typing import Any

from slmchat import hardware
from slmchat.catalog.library import now
from slmchat.catalog.records import Installed
from slmchat.engine import throughput
from slmchat.engine.cancellable import CancelFlag, CancelScope
from slmchat.engine.limits import EngineLimits
from slmchat.engine.llama import LlamaEngine
from slmchat.engine.requests import Part, Prompt, SessionSettings
from slmchat.engine.throughput import Workload, WorkloadTimes
from slmchat.errors import SlmError
from slmchat.lazy_dataclasses import dataclass
from slmchat.models import own_build
from slmchat.models.own_build import OwnBuild
from slmchat.models.session_settings import session_settings
from slmchat.models.tuning import Tuning
from slmchat.options import GenerationOptions
from slmchat.reporting import Reporter
from slmchat.settings import Settings

_TURNS = 3
_LEAST_GAIN = 0.03  # below this nobody notices, and the next version of anything undoes it
_SECONDS = 0.8  # of work in one measurement, if the limits below allow it
_PROMPT_LIMITS = (64, 768)
_GENERATION_LIMITS = (12, 64)
_DEPTH = 512  # tokens before those that are generated, where attention and the KV cache are compared
_BATCHES = (128, 256)  # beside the usual 512; larger ones need more memory than `fit` counts
_LIMIT_S = 110.0  # after this no further group is begun
# Of the tokens of a text, each behind 128 others at least, for so many the most probable one must stay what it is with
# another KV type. SmolLM2 135M: q8_0 0.98, q4_0 0.88; Gemma 3 270M: 0.91, 0.76 (docs/decisions.md).
LEAST_AGREEMENT = 0.97
_AGREEMENT_TOKENS, _AGREEMENT_FROM = 384, 128

_TEXT = (
    "The old mill stood by the river where the road turned north. In spring the water rose to its lowest window, and "
    "the miller moved his sacks of flour to the upper floor, counting them twice, once for himself and once for the "
    "tax. His daughter kept the ledger. She wrote down every cart that came, whose grain it was, what it weighed, and "
    "in the margin, very small, what the driver had told her of the world beyond the hills. "
)

# Read once, for the agreement: nothing of it repeats.
_STORY = (
    "When the ferry stopped for the winter, Mr. Abel kept the keys of the small museum at the pier. It had four "
    "rooms. In the first there were nets, cork floats and a brass compass that pointed a little west of north; "
    "the second held letters of sailors, written in pencil because ink froze. Visitors asked mostly about the "
    "third, where a whale's jaw hung over the door like an arch of bone. Nobody knew who had brought it. The "
    "priest said 1804, the baker said a Norwegian captain lost it at cards, and the schoolteacher measured it "
    "with a ruler: six metres and twenty. Mr. Abel himself liked the last room best. Two windows looked over the "
    "sea, and on a table between them stood a barometer, a lamp without oil, and the logbook of the lighthouse. "
    'Each evening he opened it at another page. "Wind from the south-east, fog until noon, one schooner passed '
    'without answering," it said for the ninth of March. He wondered what the schooner had carried, oranges '
    "perhaps, or timber, and whether its captain had been asleep. In April the first tourists would come with "
    "cameras and questions about opening hours. Until then there was time to paint the shutters green, to mend "
    "the roof where the gulls had pulled at the tiles, and to write to the county for money, which never came. "
    "Snow fell again on Thursday. A boy from the village brought bread, milk and a newspaper four days old, and "
    "stayed to hear how ships find their way at night without any stars."
)

# What one setting is measured for: (settings, work) -> seconds.
Measure = Callable[[SessionSettings, Workload], WorkloadTimes]
# How often the most probable token stays the same with a change of settings, 0 to 1.
Agree = Callable[[dict[str, Any]], float]


@dataclass(frozen=True, slots=True)
class TuneGroup:
    """Settings of one kind: the name, the alternatives to what is usual, the work and which seconds of it count."""

    name: str
    others: tuple[dict[str, Any], ...]
    work: Workload
    seconds: Callable[[WorkloadTimes], float]


@dataclass(slots=True)
class TuneOutcome:
    """What was found in a group. `gain` 1: the usual setting stays. `noise`: how much it differed from itself."""

    name: str
    chosen: dict[str, Any]
    gain: float = 1.0
    noise: float = 0.0
    agreement: dict[str, float] = field(default_factory=dict)  # of what was faster and may change answers
    seconds: dict[str, list[float]] = field(default_factory=dict)


def measure_groups(
    engine: LlamaEngine, installed: Installed, settings: Settings, reporter: Reporter, cancellable: CancelScope
) -> Iterator[TuneOutcome]:
    """Every group's outcome. Raises `Cancelled`."""
    tokens = _tokens(engine)
    # the usual settings, whatever was measured before
    usual = session_settings(GenerationOptions(), replace(settings, kv_type=None), _DEPTH)
    usual = engine.limits.session(replace(usual, adapts_threads=False, speculation="off"))
    done, total, label = 0, 2, "the usual settings"
    is_cancelled = CancelFlag()
    with cancellable(is_cancelled):

        def measure(made: SessionSettings, work: Workload) -> WorkloadTimes:
            nonlocal done
            done += 1
            reporter.status(f"{label}: measurement {done}" + (f" of {total}" if total > 2 else ""))
            return throughput.measure(engine, made, tokens, work, is_cancelled)

        start = time.perf_counter()
        planned = [
            allowed(group, usual, engine.limits)
            for group in groups(_speed(measure, usual), usual, has_images=installed.projector is not None)
        ]
        total += sum(_TURNS * (1 + len(group.others)) for group in planned if group.others)
        for group in planned:
            if time.perf_counter() - start > _LIMIT_S:
                reporter.detail(f"no time was left for: {group.name}")
                continue
            label = group.name
            outcome = compare(group, usual, measure, _agreement(engine, usual))
            usual = replace(usual, **outcome.chosen)
            yield outcome


def measure_own_build(
    engine: LlamaEngine, installed: Installed, settings: Settings, reporter: Reporter, cancellable: CancelScope
) -> OwnBuild:
    """What a build of one's own gains with this model. Raises `Cancelled`."""
    usual = session_settings(GenerationOptions(), settings, _DEPTH)
    work = Workload(_DEPTH // 2, _GENERATION_LIMITS[1] // 2)
    reporter.status("the libraries")
    is_cancelled = CancelFlag()
    with cancellable(is_cancelled):
        threads = (usual.threads, usual.threads_batch)
        return own_build.look(installed.path, threads, _tokens(engine), work, is_cancelled)


def _tokens(engine: LlamaEngine) -> list[int]:
    some = engine.vocabulary.tokenize(Prompt((Part(_TEXT),)))
    wanted = max(_PROMPT_LIMITS[1], _DEPTH) + _GENERATION_LIMITS[1] + 2
    return (some * (wanted // len(some) + 1))[:wanted]


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second with the usual settings: reading a prompt, generating."""

    prompt: float
    generation: float


def _speed(measure: Measure, usual: SessionSettings) -> Speed:
    """A first look; the first measurement of all reads the weights from the disk and does not count."""
    work = Workload(_PROMPT_LIMITS[0], _GENERATION_LIMITS[0])
    measure(usual, work)
    found = measure(usual, work)
    return Speed(work.n_prompt / found.prompt_s, work.n_generated / found.generation_s)


def groups(speed: Speed, usual: SessionSettings, *, has_images: bool) -> Iterator[TuneGroup]:
    """What is compared, in this order, with as much work as takes about `_SECONDS`."""
    n_prompt = _within(speed.prompt * _SECONDS, _PROMPT_LIMITS)
    n_generated = _within(speed.generation * _SECONDS, _GENERATION_LIMITS)
    counts = thread_counts(usual.threads)
    generation = tuple({"threads": count} for count in counts if count <= hardware.physical_cores())
    yield TuneGroup("generation", generation, Workload(2, n_generated), lambda found: found.generation_s)
    yield TuneGroup("prompt", tuple({"threads_batch": count} for count in counts), Workload(n_prompt, 0), _prompt_s)
    is_deep = speed.prompt >= _DEPTH / 4  # else a look at it takes more than four seconds
    if is_deep and not has_images:  # images are read in batches of 512
        batches = tuple({"batch_tokens": size} for size in _BATCHES)
        yield TuneGroup("batch", batches, Workload(_PROMPT_LIMITS[1], 0), _prompt_s)
    depth = _DEPTH if is_deep else _PROMPT_LIMITS[0]
    deep = Workload(depth, n_generated)
    flash = tuple({"flash_attention": is_on} for is_on in (True, False))
    yield TuneGroup("flash attention", flash, deep, lambda found: found.prompt_s + found.generation_s)
    # V in another type than f16 needs flash attention
    types = tuple({"kv_type": kv_type} for kv_type in ("q8_0", "q4_0"))
    yield TuneGroup("KV type", types, deep, lambda found: found.prompt_s + found.generation_s)


def allowed(group: TuneGroup, usual: SessionSettings, limits: EngineLimits) -> TuneGroup:
    """The group without settings that llama.cpp cannot be trusted with on this machine."""
    made = [(change, replace(usual, **change)) for change in group.others]
    return replace(group, others=tuple(change for change, settings in made if limits.session(settings) == settings))


def _prompt_s(found: WorkloadTimes) -> float:
    return found.prompt_s


def _within(wanted: float, limits: tuple[int, int]) -> int:
    return max(limits[0], min(limits[1], round(wanted)))


def thread_counts(usual: int) -> list[int]:
    """Numbers of threads worth a look besides the usual one: half and three quarters, all cores, all processors."""
    physical, logical = hardware.physical_cores(), len(hardware.usable_cpus()) or hardware.physical_cores()
    quota = hardware.cpu_quota()
    most = logical if quota is None else max(1, min(logical, int(quota)))
    wanted = {physical // 2, physical * 3 // 4, physical - 1, physical, logical}
    return sorted(count for count in wanted if 1 <= count <= most and count != usual)


def _agreement(engine: LlamaEngine, usual: SessionSettings) -> Agree:
    """Tells the share of tokens of a text for which the same token is the most probable one with a change."""
    tokens = engine.vocabulary.tokenize(Prompt((Part(_STORY),)))[:_AGREEMENT_TOKENS]

    def best(settings: SessionSettings) -> list[int]:
        logits = engine.open_text_logits(replace(settings, n_ctx=_AGREEMENT_TOKENS, adapts_threads=False))
        try:
            return [int(token) for rows in logits.read(tokens) for token in rows.argmax(axis=1)]
        finally:
            logits.close()

    best_as_usual = functools.cache(lambda: best(usual))  # once, however many changes are compared with it

    def agree(change: dict[str, Any]) -> float:
        every = list(zip(best_as_usual(), best(replace(usual, **change)), strict=True))
        pairs = every[_AGREEMENT_FROM:] or every
        return sum(one == other for one, other in pairs) / len(pairs)

    return agree


def compare(
    group: TuneGroup, usual: SessionSettings, measure: Measure, agree: Agree = lambda _change: 1.0
) -> TuneOutcome:
    """The best of the group: the usual setting, unless another one was faster in every turn and beyond the noise.

    What changes the numbers (another KV type) must besides leave the most probable token as it is, as `agree` tells.
    """
    if not group.others:
        return TuneOutcome(group.name, {})
    seconds: list[list[float]] = [[] for _ in range(len(group.others) + 1)]
    refused: set[int] = set()
    for turn in range(_TURNS):
        for number, change in enumerate(({}, *group.others)):
            if number in refused:
                continue
            try:
                seconds[number].append(group.seconds(measure(replace(usual, **change), group.work)))
            except SlmError:  # a kind that this model or backend does not know
                if turn or not number:
                    raise
                refused.add(number)
    names = ("usual", *(named(change) for change in group.others))
    outcome = TuneOutcome(group.name, {}, seconds=dict(zip(names, seconds, strict=True)))
    outcome.noise = max(seconds[0]) / min(seconds[0]) - 1
    for change, found in zip(group.others, seconds[1:], strict=True):
        ratios = [before / after for before, after in zip(seconds[0], found, strict=False)]
        gain = statistics.median(ratios) if ratios else 0.0
        if not ratios or min(ratios) <= 1 or gain <= max(outcome.gain, 1 + max(_LEAST_GAIN, outcome.noise)):
            continue
        if "kv_type" in change:
            outcome.agreement[named(change)] = agreement = agree(change)
            if agreement < LEAST_AGREEMENT:
                continue
        outcome.chosen, outcome.gain = change, gain
    return outcome


def tuning_of(outcomes: Sequence[TuneOutcome], *, is_disturbed: bool) -> Tuning:
    chosen = {key: value for outcome in outcomes for key, value in outcome.chosen.items()}
    gains = {outcome.name: round(outcome.gain, 3) for outcome in outcomes if outcome.chosen}
    return Tuning(**chosen, gains=gains, is_disturbed=is_disturbed, measured_at=now())


def named(change: dict[str, Any]) -> str:
    """Settings in one line for people."""

    def shown(value: object) -> object:
        return value if not isinstance(value, bool) else "on" if value else "off"

    return ", ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in change.items())
