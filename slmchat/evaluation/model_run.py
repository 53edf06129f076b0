"""One model in all tasks: opened once, its speed measured, its items asked in groups, what came of them kept.

A group is one run of a pool. It begins with an empty KV cache, and its requests are computed in the same batches every
time: with the most probable token always taken, each score repeats to the last bit, also when a run went on later. A
task has a window of its own, so that the tasks beside it change nothing.

Knows: the order of a measurement, which groups are there already, what counts when it ends early.
Refuses to know: other models, the files of a run, how an answer is graded.
"""

import time
from collections.abc import Iterator, Sequence

from slmchat.catalog.records import Installed
from slmchat.engine.api import Pool
from slmchat.engine.cancellable import CancelFlag
from slmchat.engine.requests import Request
from slmchat.engine.results import Result
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.evaluation import answers, prompts
from slmchat.evaluation.answers import Asking
from slmchat.evaluation.progress import EvalProgress, TimeBudget
from slmchat.evaluation.records import EvalItem, EvalTask, ItemResult, ModelReport, TaskKind, TaskResult
from slmchat.evaluation.run_records import GroupRecord, RunRecords, same_ids
from slmchat.evaluation.speed import measure_speed
from slmchat.evaluation.votes import ItemVotes, requests_of
from slmchat.generation import params
from slmchat.hardware.energy import energy_meter
from slmchat.hardware.usage import resident_memory
from slmchat.models.backend import LocalModel
from slmchat.models.open import OpenModel, open_installed
from slmchat.options import GenerationOptions
from slmchat.reporting import Reporter
from slmchat.settings import Settings

# Items whose prompts are counted to find the longest one: those with the most characters.
_COUNTED = 8
# A window is a multiple of this, as llama.cpp makes it.
_CTX_STEP = 256


class ModelRun:
    """One model at work."""

    def __init__(
        self,
        installed: Installed,
        kept: RunRecords,
        progress: EvalProgress,
        budget: TimeBudget,
        interruption: CancelFlag,
    ) -> None:
        self._installed = installed
        self._key = installed.key
        self._label = LocalModel(installed).label
        self._kept = kept
        self._method = kept.plan.method
        self._progress = progress
        self._budget = budget
        self._interruption = interruption
        self._memory: int | None = None
        self._energy = energy_meter()
        self._pool: Pool | None = None

    def report(
        self, tasks: Sequence[EvalTask], options: GenerationOptions, settings: Settings, reporter: Reporter
    ) -> ModelReport:
        """Measure what is missing, as far as it goes. Raises `SlmError` (STORAGE) where it cannot be kept."""
        results: list[TaskResult] = []
        error: SlmError | None = None
        opened: OpenModel | None = None
        try:
            if self._has_work(tasks):
                reporter.status(f"loading {self._label}")
                opened = open_installed(self._installed, options, settings, reporter)
                self._begin(opened)
        except SlmError as problem:
            error = problem
        for number, task in enumerate(tasks):
            self._budget.begin_task(len(tasks) - number)
            partial: Sequence[ItemResult] = ()
            try:
                if opened is not None and error is None:
                    partial = self._ask_missing(task, opened)
                else:
                    self._progress.skip(task, len(task.items))
            except SlmError as problem:
                if problem.exit_code is ExitCode.STORAGE:
                    raise
                error = problem
            results.append(_result(task, self._groups(task), partial))
        self._close(opened)
        return self._told(results, tasks, error)

    # What is there, and what is missing

    def _groups(self, task: EvalTask) -> list[GroupRecord]:
        return self._kept.groups.get((self._key, task.name), [])

    def _has_work(self, tasks: Sequence[EvalTask]) -> bool:
        if self._interruption():
            return False
        is_all = all(sum(len(group.items) for group in self._groups(task)) == len(task.items) for task in tasks)
        return not is_all or self._key not in self._kept.speeds

    def _told(self, results: Sequence[TaskResult], tasks: Sequence[EvalTask], error: SlmError | None) -> ModelReport:
        speed = self._kept.speeds.get(self._key)
        joules, n_tokens = _energy_of(results)
        memories = [group.memory for task in tasks for group in self._groups(task)]
        return ModelReport(
            model=self._key,
            label=self._label,
            size=self._installed.size,
            quantization=self._installed.quantization or None,
            tasks=tuple(results),
            prompt_tps=speed.prompt_tps if speed else None,
            generation_tps=speed.generation_tps if speed else None,
            memory=max((each for each in (*memories, self._memory) if each is not None), default=None),
            energy_j=joules,
            energy_tokens=n_tokens,
            energy_why_not=self._energy.why_not,
            failure=error,
        )

    # The model

    def _begin(self, opened: OpenModel) -> None:
        """Wait for the weights, measure the speed. Raises `SlmError`."""
        _ = opened.engine
        if self._key not in self._kept.speeds and not self._interruption():
            opened.reporter.status(f"measuring the speed of {self._label}")
            speed = measure_speed(opened, self._interruption.reaches)
            self._note_memory()
            if speed is not None:
                self._kept.add_speed(self._key, speed)
        known = self._kept.speeds.get(self._key)
        self._progress.expect(known.prompt_tps if known is not None else None)

    def _window(self, task: EvalTask, asking: Asking, opened: OpenModel) -> int:
        """Tokens that the longest prompt of a task needs with its answer, as far as characters tell which one it is.

        Raises `SlmError` (NO_FIT).
        """
        if self._method.n_ctx is not None:
            return opened.window(self._method.n_ctx)
        longest = sorted(task.items, key=lambda item: len(item.prompt), reverse=True)[:_COUNTED]
        most = opened.trained_context_length or None
        counted = (opened.engine.count(asking.prompt(item), most) for item in longest)
        needed = max(counted) + asking.room(opened.engine) + 1
        wanted = -(-needed // _CTX_STEP) * _CTX_STEP
        return opened.window(min(wanted, opened.trained_context_length or wanted))

    def _asking(self, task: EvalTask, opened: OpenModel) -> Asking:
        is_raw = answers.is_raw(task, opened.engine, self._installed.tags, is_asked=self._method.is_raw)
        return answers.asking_of(task, opened.engine, self._sampler(opened), self._method.thinking, is_raw=is_raw)

    def _sampler(self, opened: OpenModel) -> SamplerSettings:
        if self._method.is_greedy:
            return prompts.greedy()
        return params.sampler_settings(opened.model, opened.settings, opened.options).with_values({"seed": 1})

    def _open_pool(self, task: EvalTask, asking: Asking, opened: OpenModel) -> Pool:
        """The pool of a task; that of the task before is closed. Raises `SlmError` (NO_FIT)."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        n_ctx = self._window(task, asking, opened)
        if task.kind is TaskKind.CHOICES:
            self._pool = opened.open_scorer(n_ctx, is_repeatable=True)
        else:
            self._pool = opened.open_pool(n_ctx, self._method.n_parallel, is_repeatable=True)
        asking.prepare(self._pool)
        return self._pool

    def _close(self, opened: OpenModel | None) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        if opened is not None:
            opened.close()

    def _note_memory(self) -> None:
        now = resident_memory()
        self._memory = max(now, self._memory or 0) if now is not None else self._memory

    # The items

    def _ask_missing(self, task: EvalTask, opened: OpenModel) -> Sequence[ItemResult]:
        """Ask and keep the groups that are missing; the results of one that was cancelled. Raises `SlmError`."""
        kept = self._groups(task)
        asking: Asking | None = None
        pool: Pool | None = None
        self._progress.begin(self._label, task, sum(len(group.items) for group in kept))
        for number, items in enumerate(self._method.groups(task.items)):
            if number < len(kept) and same_ids(kept[number], [item.id for item in items]):
                continue
            if self._interruption() or not self._budget.has_room():
                break
            start = time.perf_counter()
            if asking is None or pool is None:
                asking = self._asking(task, opened)
                pool = self._open_pool(task, asking, opened)
            before_j = self._energy.read()
            made = self._ask(pool, asking, items)
            seconds, joules = time.perf_counter() - start, self._energy.read() - before_j
            self._budget.note(seconds)
            self._note_memory()
            if len(made) < len(items):  # what is there counts now, and is asked again next time
                return made
            energy = joules if self._energy.is_enough(joules) else None
            self._kept.add_group(self._key, task.name, GroupRecord(tuple(made), seconds, self._memory, energy))
        self._progress.skip(task, len(task.items) - sum(len(group.items) for group in self._groups(task)))
        if pool is not None:
            opened.reporter.detail(f"{self._label} · {task.name}: {pool.report}")
        return ()

    def _ask(self, pool: Pool, asking: Asking, items: Sequence[EvalItem]) -> list[ItemResult]:
        """The results of a group, in the order of its items; fewer when it was cancelled. Raises `SlmError`."""
        n = self._method.best_of
        asked: dict[int, Request] = {}
        votes: dict[int, ItemVotes] = {}
        made: dict[int, ItemResult] = {}

        def requests() -> Iterator[Request | Result]:
            for number, item in enumerate(items):
                try:
                    several = list(requests_of(asking.request(number, item), n))
                except SlmError as error:
                    yield Result(n * number, error=error)
                    continue
                votes[number] = ItemVotes(len(several))
                for request in several:
                    asked[request.id] = request
                    yield request

        results = pool.run(requests())
        with self._interruption.reaches(pool):
            for done in results:
                self._energy.read()  # often enough for any counter
                number = done.id // n
                if done.error is not None:
                    made[number] = answers.failed_result(items[number], done.error)
                elif number not in made:
                    request = asked[done.id]
                    result = asking.result(items[number], request.prompt, done)
                    votes[number].add(request, result, done, is_raw=asking.is_raw)
                    if not votes[number].is_complete:
                        continue
                    made[number] = votes[number].elected()
                else:
                    continue
                self._progress.add()
        return [made[number] for number in sorted(made)]


def _energy_of(results: Sequence[TaskResult]) -> tuple[float | None, int]:
    """Joules of the tasks whose answers are generated, prompts included, and how many tokens these are."""
    told = [task for task in results if task.energy_j is not None and task.completion_tokens]
    joules = sum(task.energy_j or 0.0 for task in told)
    return joules if told else None, sum(task.completion_tokens for task in told)


def _result(task: EvalTask, groups: Sequence[GroupRecord], partial: Sequence[ItemResult]) -> TaskResult:
    energies = [group.energy_j for group in groups]
    known = [energy for energy in energies if energy is not None]
    return TaskResult(
        task=task.name,
        title=task.title,
        kind=task.kind,
        n_items=len(task.items),
        chance=task.chance,
        items=(*(item for group in groups for item in group.items), *partial),
        seconds=sum(group.seconds for group in groups),
        energy_j=sum(known) if known and len(known) == len(energies) else None,
        left_out=task.left_out,
    )
