"""How far an evaluation is: model, task, items, time left; and whether a budget of minutes has room for more.

Work is counted in tokens of prompts that a pool reads in the same time. How many of them it reads in a second is known
before the first item, from the speed that was measured; what the items really take counts more with each of them.

Knows: clocks, about how many tokens an item takes. Refuses to know: what the answers are.
"""

import time
from collections.abc import Callable, Sequence

from slmchat.engine.kvstore import shared_length
from slmchat.evaluation.prompts import instruction_of, shown_answer
from slmchat.evaluation.records import EvalItem, EvalTask
from slmchat.reporting import Reporter
from slmchat.wording import clock_time

Clock = Callable[[], float]

# Characters of a token, in English; tokens that a chat template has around a message; the share of its limit that an
# answer takes; tokens of a prompt that are read while one of an answer is generated beside others (docs/eval.md).
_CHARACTERS = 4.5
_AROUND = 10
_ANSWER_SHARE = 0.4
_GENERATED = 1.9

# Work after which what was measured here counts as much as the speed that was measured before.
_TRUSTED = 500.0

_REDRAWN_EVERY_S = 0.2
_TOLD_EVERY_S = 15.0


def weight_of(task: EvalTask) -> float:
    """The work of one item, about: the mean over the task, with what all prompts begin with, which is read once."""
    first = task.items[0]
    begin = sum(len(each.prompt) + len(shown_answer(each)) for each in task.examples) + len(instruction_of(task, first))
    before = ["", *(item.prompt for item in task.items)]
    own = sum(_weight(task, item, last) for item, last in zip(task.items, before, strict=False))
    return begin / _CHARACTERS / len(task.items) + own / len(task.items)


def _weight(task: EvalTask, item: EvalItem, last: str) -> float:
    """What an item has beside others. `last`: the prompt before it, of which the same beginning is not read again."""
    n_read = len(item.prompt) - shared_length(item.prompt, last) + sum(map(len, item.choices))
    tokens = n_read / _CHARACTERS + (_AROUND if task.uses_template else 0)
    if item.choices:
        return tokens
    return tokens + _GENERATED * _ANSWER_SHARE * (item.max_tokens or task.max_tokens)


class EvalProgress:
    """Is told what is worked on. `n_models`: models that are to be measured, with all of the tasks each."""

    def __init__(self, reporter: Reporter, tasks: Sequence[EvalTask], n_models: int, clock: Clock = time.monotonic):
        self._reporter = reporter
        self._clock = clock
        self._weights = {task.name: weight_of(task) for task in tasks}
        self._left = n_models * sum(self._weights[task.name] * len(task.items) for task in tasks)
        self._done = 0.0
        self._expected: float | None = None  # work in a second
        self._start: float | None = None
        self._shown = self._told = clock()
        self._label = ""
        self._task: EvalTask | None = None
        self._n = 0

    def expect(self, prompt_tps: float | None) -> None:
        """Another model is at work from now on, which reads so many tokens a second; None: nobody knows."""
        self._expected, self._done, self._start = prompt_tps, 0.0, None

    def begin(self, model: str, task: EvalTask, n_done: int) -> None:
        """A task of a model begins; `n_done` of its items were measured before."""
        self._label, self._task, self._n = f"{model} · {task.name}", task, n_done
        self._left -= self._weights[task.name] * n_done
        now = self._clock()
        self._start = now if self._start is None else self._start
        self._show(now)

    def skip(self, task: EvalTask, n_items: int) -> None:
        """These items are not going to be measured."""
        self._left -= self._weights[task.name] * n_items

    def add(self) -> None:
        """One item more is done."""
        assert self._task is not None
        self._n += 1
        self._done += self._weights[self._task.name]
        self._left -= self._weights[self._task.name]
        now = self._clock()
        if now - self._shown >= _REDRAWN_EVERY_S:
            self._show(now)
        if now - self._told >= _TOLD_EVERY_S and not self._reporter.has_status_line:
            self._told = now
            self._reporter.detail(self.line(now))

    def line(self, now: float) -> str:
        """`smollm2:135m@Q4_1 · mathematics 12 of 46, 1:20 left`."""
        assert self._task is not None
        assert self._start is not None
        text = f"{self._label} {self._n:,} of {len(self._task.items):,}"
        left_s = self._seconds_left(now - self._start)
        return text if left_s is None else f"{text}, {clock_time(left_s)} left"

    def _seconds_left(self, seconds: float) -> float | None:
        """None: nobody knows yet."""
        if self._expected:
            cost = (seconds + _TRUSTED / self._expected) / (self._done + _TRUSTED)
        elif self._done and seconds > 2:
            cost = seconds / self._done
        else:
            return None
        return cost * max(0.0, self._left)

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
