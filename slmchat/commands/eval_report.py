"""What `slm eval` shows: the tasks, the table of scores beside speed and memory, what differs, the plot.

Knows: which figure stands where, what fits a narrow window. Refuses to know: how something was measured.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from string import ascii_uppercase

from slmchat.errors import ExitCode
from slmchat.evaluation import task_catalog
from slmchat.evaluation.method import EvalMethod
from slmchat.evaluation.records import EvalTask, ModelReport, TaskResult, completed
from slmchat.evaluation.report_records import as_json, differences
from slmchat.options import EvalOptions
from slmchat.terminal.console import Console
from slmchat.terminal.scatter import PlotPoint, scatter
from slmchat.terminal.tables import Column
from slmchat.wording import counted, in_bytes

# The plot: rows of points, and at most so many columns.
_HEIGHT, _MOST_WIDTH = 10, 72
# Names of models that stand above their columns; longer ones get a letter.
_MOST_NAME = 18


def show_tasks(console: Console, *, is_json: bool) -> ExitCode:
    """Every task with a name: those that come with slm, and those whose items are fetched from the Hub."""
    own = [task_catalog.load(name) for name in task_catalog.SUITE]
    public = [(name, task_catalog.table(name)) for name in task_catalog.PUBLIC]
    if is_json:
        told: list[dict[str, object]] = [
            {
                "task": task.name,
                "kind": task.kind.value,
                "items": len(task.items),
                "sample": task.sample,
                "title": task.title,
                "hub": None,
            }
            for task in own
        ]
        told += [
            {
                "task": name,
                "kind": found.get("kind", ""),
                "items": None,
                "sample": None,
                "title": found.get("title", ""),
                "hub": hub,
            }
            for name, found in public
            for hub in [{**found.values["hub"], "license": found.get("license", "")}]
        ]
        console.print_json(told)
        return ExitCode.DONE
    rows = [(task.name, _n_items(task), task.kind.value, task.title, "") for task in own]
    rows += [
        (name, "", found.get("kind", ""), found.get("title", ""), found.get("license", "")) for name, found in public
    ]
    columns = (Column("TASK"), Column("ITEMS", rank=2), Column("KIND", rank=3), Column("WHAT", is_prose=True))
    console.table((*columns, Column("FROM THE HUB", rank=1)), rows)
    return ExitCode.DONE


def _n_items(task: EvalTask) -> str:
    """`48 of 204` where not all of them are asked when no task is named."""
    return f"{task.sample} of {len(task.items):,}" if task.sample else f"{len(task.items):,}"


def show(reports: Sequence[ModelReport], method: EvalMethod, options: EvalOptions, console: Console) -> None:
    """The answer on stdout: JSON, sentences for a screen reader, or table and plot."""
    if options.json:
        console.print_json(as_json(reports, method))
        return
    if not any(task.items for report in reports for task in report.tasks):
        return
    if options.plain or console.is_accessible:
        for line in _sentences(reports):
            console.tell(line)
        return
    _show_table(reports, console)
    for line in _remarks(reports, _marks(reports)):
        console.tell(line)
    _show_plot(reports, console)


def ending(reports: Sequence[ModelReport], file: Path | None, console: Console, *, is_interrupted: bool) -> ExitCode:
    """What has to be said at the end, and the exit code."""
    for report in reports:
        if report.error is not None:
            hint = report.failure.hint if report.failure else None
            console.warn(f"{report.label} could not be measured to the end: {report.error.rstrip('.')}.", hint)
        failed = sum(item.error is not None for task in report.tasks for item in task.items)
        if failed:
            console.warn(f"{report.label}: {counted(failed, 'item')} could not be asked and count as wrong (--json).")
    if is_interrupted:
        console.warn("interrupted; this is what was measured until then.")
    if file is not None and (is_interrupted or not completed(reports)):
        console.note("hint: slm eval --resume goes on with what is missing")
    if is_interrupted:
        return ExitCode.INTERRUPTED
    return code_of(reports)


def code_of(reports: Sequence[ModelReport]) -> ExitCode:
    """The exit code: that of the failure where all models failed with it, as a batch has it."""
    codes = {report.failure.exit_code if report.failure else ExitCode.DONE for report in reports}
    return codes.pop() if len(codes) == 1 else ExitCode.ROWS_FAILED


def _marks(reports: Sequence[ModelReport]) -> list[str]:
    """What stands for each model: its name where all are short, else a letter."""
    if len(reports) == 1 or (all(len(report.label) <= _MOST_NAME for report in reports) and len(reports) < 4):
        return [report.label for report in reports]
    return [ascii_uppercase[number % 26] * (1 + number // 26) for number in range(len(reports))]


def _show_table(reports: Sequence[ModelReport], console: Console) -> None:
    """Tasks and figures downwards, models side by side."""
    marks = _marks(reports)
    for mark, report in zip(marks, reports, strict=True):
        if mark != report.label:
            console.tell(f"{mark}  {report.label}")
    first = reports[0].tasks
    rows = [
        (
            task.task,
            *(_score(report.tasks[number]) for report in reports),
            f"{task.chance:.0%}" if task.chance else "",
            f"{task.n_items:,}",
        )
        for number, task in enumerate(first)
    ]
    if len(first) > 1:
        rows.append(("mean of tasks", *(_percent(report.mean) for report in reports), "", ""))
    rows += [(label, *cells, "", "") for label, cells in _figures(reports)]
    columns = (Column("RIGHT, in %"), *map(Column, marks), Column("GUESSING", rank=1), Column("ITEMS", rank=2))
    console.table(columns, rows)


def _figures(reports: Sequence[ModelReport]) -> Iterator[tuple[str, list[str]]]:
    yield "generation tok/s", [_speed(report.generation_tps) for report in reports]
    yield "prompt tok/s", [_speed(report.prompt_tps) for report in reports]
    yield "memory", ["-" if report.memory is None else in_bytes(report.memory) for report in reports]
    yield "file", [in_bytes(report.size) for report in reports]
    if any(report.agreement for report in reports):
        yield "same token, %", [_same_token(report, reports) for report in reports]
        yield "KL, nats", [_divergence(report) for report in reports]
    if any(report.energy_j is not None for report in reports):
        yield "joules a token", [_energy(report) for report in reports]


def _same_token(report: ModelReport, reports: Sequence[ModelReport]) -> str:
    told = report.agreement
    if told is None:
        references = {each.agreement.reference for each in reports if each.agreement is not None}
        return "the largest" if report.model in references else "-"
    low, high = 100 * told.top_token_interval.low, 100 * told.top_token_interval.high
    return f"{100 * told.top_token:.0f} ({low:.0f}-{high:.0f})"


def _divergence(report: ModelReport) -> str:
    return "-" if report.agreement is None else f"{report.agreement.kl_divergence:.4f}"


def _score(task: TaskResult) -> str:
    """`63 (52-73)`, and how many items it stands for where some are missing."""
    if task.score is None:
        return "-"
    low, high = 100 * task.interval.low, 100 * task.interval.high
    part = "" if task.is_complete else f" of {len(task.items)}"
    return f"{100 * task.score:.0f} ({low:.0f}-{high:.0f}){part}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}"


def _speed(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}"


def _energy(report: ModelReport) -> str:
    if report.energy_j is None or not report.energy_tokens:
        return "not readable"
    return f"{report.energy_j / report.energy_tokens:.2f}"


def _remarks(reports: Sequence[ModelReport], marks: Sequence[str]) -> Iterator[str]:
    """What the figures mean: the intervals, guessing, and which differences are clear."""
    yield "in brackets: 95 of 100 times the true value is between these two (Wilson)"
    if reports[0].energy_why_not is not None:
        yield f"energy: not readable here ({reports[0].energy_why_not})"
    for mark, report in zip(marks, reports, strict=True):
        guessing = [
            task.task for task in report.tasks if task.items and task.chance and task.interval.low <= task.chance
        ]
        if guessing:
            yield f"{mark} does not do better than guessing in: {', '.join(guessing)}"
    for task in reports[0].tasks:
        if left_out := task.left_out.n_rows:
            are = "is" if left_out == 1 else "are"
            yield f"{task.task}: {counted(left_out, 'row')} cannot be asked and {are} left out ({task.left_out.first})"
    names = {report.model: mark for mark, report in zip(marks, reports, strict=True)}
    clear = [each for each in differences(reports) if each.difference.is_clear]
    for each in clear:
        value, interval = each.difference.value, each.difference.interval
        word = "better" if value > 0 else "worse"
        low, high = sorted((abs(100 * interval.low), abs(100 * interval.high)))
        yield (
            f"{names[each.model]} is {word} than {names[each.other]} in {each.task}: "
            f"{abs(100 * value):.0f} points ({low:.0f} to {high:.0f})"
        )
    if agreement := next((report.agreement for report in reports if report.agreement is not None), None):
        yield (
            "same token, KL: how much a quantization expects what the largest one of its model expects, over "
            f"{agreement.n_tokens:,} places of a text (0 nats: the same)"
        )
    if len(reports) > 1 and not clear:
        yield "no difference between them is clear (paired bootstrap, 95 %): more items would tell more"


def _show_plot(reports: Sequence[ModelReport], console: Console) -> None:
    """Score against speed, where there is something to compare and somebody to look at it."""
    if not console.is_stdout_tty or console.width is None:
        return
    letters = [mark if len(mark) == 1 else ascii_uppercase[n % 26] for n, mark in enumerate(_marks(reports))]
    points = [
        PlotPoint(letter, report.generation_tps, 100 * report.mean)
        for letter, report in zip(letters, reports, strict=True)
        if report.generation_tps is not None and report.mean is not None
    ]
    if len(points) < 2:
        return
    width = min(console.width, _MOST_WIDTH)
    lines = scatter(points, width, _HEIGHT, x_label="generation tok/s", y_label="mean of tasks, %")
    if lines:
        console.print()
        for line in lines:
            console.print(line)
        if letters != _marks(reports):
            console.tell(", ".join(f"{letter} {report.label}" for letter, report in zip(letters, reports, strict=True)))


def _sentences(reports: Sequence[ModelReport]) -> Iterator[str]:
    """The same for a screen reader: nothing has to be found by its place."""
    for report in reports:
        yield f"{report.label}:"
        for task in report.tasks:
            if task.score is None:
                yield f"{task.task}: not measured."
                continue
            low, high = 100 * task.interval.low, 100 * task.interval.high
            yield (
                f"{task.task}: {100 * task.score:.0f} percent right, {low:.0f} to {high:.0f}; "
                f"{task.n_right} of {counted(len(task.items), 'item')}"
                + (f"; guessing gives {task.chance:.0%}." if task.chance else ".")
            )
        if report.mean is not None and len(report.tasks) > 1:
            yield f"Mean of the tasks: {_percent(report.mean)} percent."
        yield f"Speed: {_speed(report.generation_tps)} tokens a second, prompts {_speed(report.prompt_tps)}."
        if report.memory is not None:
            yield f"Memory: {in_bytes(report.memory)}."
        if (told := report.agreement) is not None:
            yield (
                f"At {100 * told.top_token:.0f} percent of the places of a text its most probable token is that of "
                f"{told.reference}; the divergence is {told.kl_divergence:.4f} nats."
            )
    for line in list(_remarks(reports, [report.label for report in reports]))[1:]:
        yield f"{line}."
