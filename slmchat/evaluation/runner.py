"""Models in tasks: one model after the other, what came of them kept, and a report of each.

Knows: the order of models, cancelling, that what is wrong with one model stops no other. Refuses to know: how one model
is measured (model_run.py), terminals, files of tasks, how an answer is graded.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field

from slmchat.catalog.records import Installed
from slmchat.engine.cancellable import Cancellable, CancelScope
from slmchat.evaluation.model_run import ModelRun
from slmchat.evaluation.progress import EvalProgress, TimeBudget
from slmchat.evaluation.records import EvalTask, ModelReport
from slmchat.evaluation.run_records import RunRecords
from slmchat.lazy_dataclasses import dataclass
from slmchat.options import GenerationOptions
from slmchat.reporting import Reporter
from slmchat.settings import Settings


class Interruption:
    """What Ctrl-C reaches: the work that goes on, and that nothing more is begun. Implements `Cancellable`."""

    def __init__(self) -> None:
        self.is_set = False
        self._work: Cancellable | None = None

    def cancel(self) -> None:
        self.is_set = True
        if self._work is not None:
            self._work.cancel()

    @contextmanager
    def reaches(self, work: Cancellable) -> Iterator[None]:
        """While this lasts, a cancel ends this work, which has begun. A `CancelScope`."""
        self._work = work
        try:
            if self.is_set:  # in the moment before it began
                work.cancel()
            yield
        finally:
            self._work = None


@dataclass(slots=True)
class Evaluation:
    """Tasks (with the items that are asked) and how they are put to models. `kept`: what is measured already.

    `minutes`: about so long for all of it, None: until it is done.
    """

    tasks: Sequence[EvalTask]
    options: GenerationOptions
    settings: Settings
    reporter: Reporter
    kept: RunRecords
    minutes: float | None = None
    interruption: Interruption = field(default_factory=Interruption)

    def run(self, models: Sequence[Installed], cancellable: CancelScope) -> list[ModelReport]:
        """A report for each model, of what was measured until the end or until it was cancelled.

        Raises `SlmError` (STORAGE) where it cannot be kept.
        """
        progress = EvalProgress(self.reporter, self.tasks, len(models))
        budget = TimeBudget(self.minutes, len(models))
        try:
            with cancellable(self.interruption):
                return [self._report(model, progress, budget) for model in models]
        finally:
            self.reporter.status("")

    def _report(self, model: Installed, progress: EvalProgress, budget: TimeBudget) -> ModelReport:
        budget.begin_model()
        run = ModelRun(model, self.kept, progress, budget, self.interruption)
        return run.report(self.tasks, self.options, self.settings, self.reporter)
