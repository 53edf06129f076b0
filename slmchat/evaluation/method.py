"""How models are asked in one run: the same for all of them, kept with what was measured.

Knows: what of the options can change a score, which items of a task are taken, how they go in groups.
Refuses to know: models, prompts.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from slmchat.engine.thinking import Thinking, ThinkingMode
from slmchat.evaluation.records import EvalItem, EvalTask
from slmchat.lazy_dataclasses import dataclass

# Items that are asked together, of which all count or none: a group begins with an empty KV cache, so that its answers
# depend on nothing but its items. Large, since the last answers of a group leave the others' places empty.
_GROUP = 48

# The order of items where not all of them are asked. Always the same.
_SEED = 20_261_126


@dataclass(frozen=True, slots=True)
class EvalMethod:
    """`limit`: items of each task, None: all. `is_sampled`: items in a drawn order, as many as there is time for.

    `is_suite`: no task was named: where a task says how many of its items are enough then, so many are asked.
    `is_greedy`: the most probable token always; else the sampler of the model's maker. `is_raw`: no chat template.
    `n_parallel`: answers at once. `best_of`: the best of so many answers counts. `n_ctx`: tokens of the context window,
    None: as many as the items need. `kv_type`, `threads`: as they were asked for, None: as they are without asking.
    """

    limit: int | None = None
    is_sampled: bool = False
    is_suite: bool = False
    is_greedy: bool = True
    is_raw: bool = False
    think: str = "off"
    think_budget: int = 0
    n_parallel: int = 16
    n_ctx: int | None = None
    kv_type: str | None = None
    threads: int | None = None
    best_of: int = 1

    @property
    def thinking(self) -> Thinking:
        return Thinking(ThinkingMode(self.think), self.think_budget)

    @property
    def group_size(self) -> int:
        return self.n_parallel if self.is_sampled else max(_GROUP, self.n_parallel)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> "EvalMethod":
        """What `as_json` gave. Raises TypeError for other fields."""
        return cls(**told)

    def selected(self, task: EvalTask) -> EvalTask:
        """The task with the items that are asked: drawn with a fixed seed, then in their own order or `is_sampled`."""
        most = self.limit if self.limit is not None or not self.is_suite else task.sample
        items = list(task.items)
        if most is not None and most < len(items):
            chosen = set(_drawn(items, most))
            items = [item for number, item in enumerate(items) if number in chosen]
        if self.is_sampled:
            items = _shuffled(items)
        return replace(task, items=tuple(items))

    def groups(self, items: Sequence[EvalItem]) -> Iterator[Sequence[EvalItem]]:
        """The items in groups of `group_size`; the last one may be smaller."""
        for begin in range(0, len(items), self.group_size):
            yield items[begin : begin + self.group_size]


def _drawn(items: Sequence[EvalItem], n: int) -> list[int]:
    """The places of `n` items. Where all have the same choices, each of these is right as often as in all items: the
    drawn items are sorted by their answers, and every so many-th is taken."""
    places = _shuffled(range(len(items)))
    if len({item.choices for item in items}) > 1 or not items[0].choices:
        return places[:n]
    places.sort(key=lambda place: items[place].answers[0])
    return [places[(2 * k + 1) * len(places) // (2 * n)] for k in range(n)]


def _shuffled(values: Sequence[Any]) -> list[Any]:
    made = list(values)
    random.Random(_SEED).shuffle(made)
    return made
