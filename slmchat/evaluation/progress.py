"""How far an evaluation is: model, task, items, time left; and whether a budget of minutes has room for more.

Knows: clocks, and that an answer of 200 tokens takes longer than a choice. Refuses to know: what the answers are.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from slmchat.evaluation.records import EvalTask, TaskKind
from slmchat.reporting import Reporter
from slmchat.wording import clock_time

Clock = Callable[[], float]

# How much longer an item of a kind takes than one of choices, about, until it is known.
_WEIGHTS: Mapping[TaskKind, float] = {TaskKind.CHOICES: 1, TaskKind.SPAN: 3, TaskKind.EXACT: 3, TaskKind.TOOLS: 8}
_USUAL_WEIGHT = 15.0

_REDRAWN_EVERY_S = 0.2
_TOLD_EVERY_S = 15.0


def weight_of(task: EvalTask) -> float:
    return _WEIGHTS.get(task.kind, _USUAL_WEIGHT)


class EvalProgress:
    """Is told what is worked on. `n_models`: models that are to be measured, with all of the tasks each."""

    def __init__(self, reporter: Reporter, tasks: Sequence[EvalTask], n_models: int, clock: Clock = time.monotonic):
        self._reporter = reporter
        self._clock = clock
        self._left = n_models * sum(weight_of(task) * len(task.items) for task in tasks)
        self._done = 0.0
        self._start = self._shown = self._told = clock()
        self._label = ""
        self._task: EvalTask | None = None
        self._n = 0

    def begin(self, model: str, task: EvalTask, n_done: int) -> None:
        """A task of a model begins; `n_done` of its items were measured before."""
        self._label, self._task, self._n = f"{model} · {task.name}", task, n_done
        self._left -= weight_of(task) * n_done
        self._show(self._clock())

    def skip(self, task: EvalTask, n_items: int) -> None:
        """These items are not going to be measured."""
        self._left -= weight_of(task) * n_items

    def add(self) -> None:
        """One item more is done."""
        assert self._task is not None
        self._n += 1
        self._done += weight_of(self._task)
        self._left -= weight_of(self._task)
        now = self._clock()
        if now - self._shown >= _REDRAWN_EVERY_S:
            self._show(now)
        if now - self._told >= _TOLD_EVERY_S and not self._reporter.has_status_line:
            self._told = now
            self._reporter.detail(self.line(now))

    def line(self, now: float) -> str:
        """`smollm2:135m@Q4_1 · mathematics 12 of 46, 1:20 left`."""
        assert self._task is not None
        seconds = now - self._start
        text = f"{self._label} {self._n:,} of {len(self._task.items):,}"
        if self._done and seconds > 2:
            text += f", {clock_time(seconds * max(0.0, self._left) / self._done)} left"
        return text

    def _show(self, now: float) -> None:
        self._shown = now
        self._reporter.status(self.line(now))


class TimeBudget:
    """Minutes for all models together, shared out among them and among their tasks; None: as long as it takes.

    A group is begun when the last one's time still fits. The first of each task always is, so that each has a score.
    """

    def __init__(self, minutes: float | None, n_models: int, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._each_s = None if minutes is None else 60 * minutes / max(1, n_models)
        self._model_end = self._task_end = 0.0
        self._last_s: float | None = None

    def begin_model(self) -> None:
        if self._each_s is not None:
            self._model_end = self._clock() + self._each_s

    def begin_task(self, n_left: int) -> None:
        """A task begins; `n_left`: tasks of this model that are to do, this one included."""
        now = self._clock()
        self._task_end = now + max(0.0, self._model_end - now) / n_left
        self._last_s = None

    def note(self, seconds: float) -> None:
        """A group has taken so long."""
        self._last_s = seconds

    def has_room(self) -> bool:
        """Whether another group may begin."""
        return self._each_s is None or self._last_s is None or self._clock() + self._last_s <= self._task_end
