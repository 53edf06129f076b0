"""Models in tasks: one model after the other, what came of them kept, and a report of each.

Knows: the order of models, cancelling, that what is wrong with one model stops no other, which of them are compared
token by token. Refuses to know: how one model is measured (model_run.py), how two are compared (quantizations.py),
terminals, files of tasks, how an answer is graded.
"""

from collections.abc import Sequence
from dataclasses import field, replace

from slmchat.catalog.records import Installed
from slmchat.engine.cancellable import CancelFlag, CancelScope
from slmchat.errors import ExitCode, SlmError
from slmchat.evaluation import quantizations
from slmchat.evaluation.model_run import ModelRun
from slmchat.evaluation.progress import EvalProgress, TimeBudget
from slmchat.evaluation.records import EvalTask, ModelReport
from slmchat.evaluation.run_records import RunRecords
from slmchat.lazy_dataclasses import dataclass
from slmchat.options import GenerationOptions
from slmchat.reporting import Reporter
from slmchat.settings import Settings


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
    interruption: CancelFlag = field(default_factory=CancelFlag)

    def run(self, models: Sequence[Installed], cancellable: CancelScope) -> list[ModelReport]:
        """A report for each model, of what was measured until the end or until it was cancelled.

        Raises `SlmError` (STORAGE) where it cannot be kept.
        """
        progress = EvalProgress(self.reporter, self.tasks, len(models))
        budget = TimeBudget(self.minutes, len(models))
        try:
            with cancellable(self.interruption):
                reports = [self._report(model, progress, budget) for model in models]
                return self._with_agreements(reports, models)
        finally:
            self.reporter.status("")

    def _with_agreements(self, reports: Sequence[ModelReport], models: Sequence[Installed]) -> list[ModelReport]:
        """The same reports; where several are quantizations of one model, with how much they say what the largest says.

        A budget of minutes is for the tasks and has no room for it.
        """
        failed = {report.model for report in reports if report.failure is not None}
        kept = self.kept.agreements
        for first, *others in quantizations.groups_of([model for model in models if model.key not in failed]):
            missing = [model for model in others if model.key not in kept or kept[model.key].reference != first.key]
            if missing and self.minutes is None and not self.interruption():
                self._compare([first, *missing])
        return [replace(report, agreement=kept.get(report.model)) for report in reports]

    def _compare(self, models: Sequence[Installed]) -> None:
        """Compare the first of these with the others, and keep it; one that cannot be compared is told of."""
        text = quantizations.text_of_suite()
        reaches = self.interruption.reaches
        try:
            for report in quantizations.compare(models, text, self.options, self.settings, self.reporter, reaches):
                if report.agreement is not None:
                    self.kept.add_agreement(report.model, report.agreement)
                elif report.failure is not None:
                    self._tell_of(report.model, report.failure)
        except SlmError as error:
            if error.exit_code is ExitCode.STORAGE:
                raise
            self._tell_of(models[0].key, error)

    def _tell_of(self, model: str, error: SlmError) -> None:
        self.reporter.warn(f"{model} could not be compared token by token: {error.message.rstrip('.')}.")

    def _report(self, model: Installed, progress: EvalProgress, budget: TimeBudget) -> ModelReport:
        budget.begin_model()
        run = ModelRun(model, self.kept, progress, budget, self.interruption)
        return run.report(self.tasks, self.options, self.settings, self.reporter)
