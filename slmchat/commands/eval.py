"""`slm eval`: how good models are in tasks, and how fast, side by side.

The story: see which tasks are meant and fetch what is missing of them, close the process in, find the models, go on
with an earlier run or begin a new one, measure, and show what was measured. Ctrl-C shows what there is until then.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from slmchat.catalog.records import Installed
from slmchat.commands import eval_report
from slmchat.errors import ExitCode, usage_error
from slmchat.evaluation import task_catalog
from slmchat.evaluation.method import EvalMethod
from slmchat.evaluation.records import EvalTask
from slmchat.evaluation.run_records import RunPlan, RunRecords, last_run
from slmchat.evaluation.runner import Evaluation
from slmchat.models import resolve, sandbox
from slmchat.options import EvalOptions, GenerationOptions
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.terminal.interrupts import cancelled_by_ctrl_c
from slmchat.user_paths import user_path

# Tokens of thinking where somebody asks for it and does not say how many.
_THINK_BUDGET = 512


def eval_models(options: EvalOptions, settings: Settings, console: Console) -> ExitCode:
    """Measure models in tasks. Raises `SlmError`; what is wrong with one model of several stops no other."""
    names = options.names or []
    if options.is_list:
        return eval_report.show_tasks(console, is_json=options.json)
    if options.quantizations:
        from slmchat.commands.eval_quantizations import eval_quantizations

        return eval_quantizations(options, settings, console)
    if options.text is not None:
        raise usage_error("--text is what --quantizations reads.")
    earlier = _earlier(names, options, settings) if options.resume else None
    targets = list(earlier.plan.tasks) if earlier else _targets(options.tasks)
    task_catalog.fetch_missing(targets, settings, console)
    sandbox.seal(settings)
    method = earlier.plan.method if earlier else _method(options)
    tasks = _with_different_names([task_catalog.load(target) for target in targets])
    wanted: Sequence[str | None] = [*earlier.plan.models] if earlier else [*names] or [None]
    found = [resolve.find(name, settings, console) for name in wanted]
    models = list({model.key: model for model in found}.values())
    plan = _plan(models, dict(zip(targets, tasks, strict=True)), method)
    records = _going_on(earlier, plan) if earlier else RunRecords.begin(plan, _directory(settings))
    asked = [method.selected(task) for task in tasks]
    generation = replace(GenerationOptions.of(options), kv_type=method.kv_type, threads=method.threads)
    work = Evaluation(asked, generation, settings, console, records, options.minutes)
    reports = work.run(models, cancelled_by_ctrl_c)
    records.close()
    eval_report.show(reports, method, options, console)
    return eval_report.ending(reports, records.file, console, is_interrupted=work.interruption())


def _directory(settings: Settings) -> Path | None:
    return None if settings.is_private else settings.paths.evaluations


def _targets(asked: Sequence[str]) -> list[str]:
    """What `--task` names, each once; files by their whole path. Raises `SlmError` (USAGE)."""
    targets = [
        str(user_path(target).absolute()) if task_catalog.is_file(target) else task_catalog.checked(target)
        for target in asked or task_catalog.SUITE
    ]
    return list(dict.fromkeys(targets))


def _with_different_names(tasks: list[EvalTask]) -> list[EvalTask]:
    """The tasks. Raises `SlmError` (USAGE) when two of them have one name: nobody could tell their scores apart."""
    twice = next((name for name, count in Counter(task.name for task in tasks).items() if count > 1), None)
    if twice is not None:
        raise usage_error(f"two tasks are called '{twice}'.", "rename one of the files")
    return tasks


def _method(options: EvalOptions) -> EvalMethod:
    """Raises `SlmError` (USAGE)."""
    if options.best_of > 1 and options.sampler == "greedy":
        raise usage_error(
            "the most probable token is the same every time, and so are the answers of --best-of.",
            "--best-of N --sampler maker",
        )
    think = options.think or ("off" if not options.think_budget else "on")
    return EvalMethod(
        limit=options.limit,
        is_sampled=options.minutes is not None,
        is_suite=not options.tasks,
        is_greedy=options.sampler == "greedy",
        is_raw=options.raw,
        think=think,
        think_budget=0 if think == "off" else options.think_budget or _THINK_BUDGET,
        n_parallel=options.parallel,
        n_ctx=options.ctx,
        kv_type=options.kv_type,
        threads=options.threads,
        best_of=options.best_of,
    )


def _plan(models: Sequence[Installed], tasks: dict[str, EvalTask], method: EvalMethod) -> RunPlan:
    stamps = {model.key: model.sha256 or f"{model.size} bytes, {model.files[0].mtime_ns}" for model in models}
    return RunPlan(stamps, {target: task.fingerprint for target, task in tasks.items()}, method)


def _earlier(names: Sequence[str], options: EvalOptions, settings: Settings) -> RunRecords:
    """The last run, which `--resume` goes on with. Raises `SlmError` (USAGE, DAMAGED)."""
    if settings.is_private:
        raise usage_error("--private keeps nothing, so there is nothing to resume.")
    method = replace(_method(options), is_sampled=False)  # more minutes may be given
    if names or options.tasks or method != _method(EvalOptions()):
        raise usage_error(
            "--resume goes on with the last run just as it was begun.",
            "slm eval --resume; or leave it out, and a new run begins",
        )
    file = last_run(settings.paths.evaluations)
    if file is None:
        raise usage_error("there is no run to go on with.", "slm eval MODEL begins one")
    return RunRecords.read(file)


def _going_on(earlier: RunRecords, plan: RunPlan) -> RunRecords:
    """The earlier run, if its models and tasks are still what they were. Raises `SlmError` (USAGE, STORAGE)."""
    for what, before, now in (
        ("model", earlier.plan.models, plan.models),
        ("task", earlier.plan.tasks, plan.tasks),
    ):
        changed = next((name for name in before if now.get(name) != before[name]), None)
        if changed is not None:
            raise usage_error(
                f"the {what} {changed} has changed since this run began.", "without --resume a new run begins"
            )
    earlier.go_on()
    return earlier
