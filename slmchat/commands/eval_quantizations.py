"""`slm eval MODEL --quantizations`: how much the installed quantizations of a model say the same as the largest one.

The story: see which text is read, close the process in, find the files, compare each with the largest, show the table.
"""

from collections.abc import Sequence

from slmchat import text_files
from slmchat.commands import eval_report
from slmchat.errors import ExitCode, usage_error
from slmchat.evaluation import quantizations
from slmchat.evaluation.records import ModelReport
from slmchat.evaluation.report_records import model_as_json
from slmchat.models import resolve, sandbox
from slmchat.options import EvalOptions, GenerationOptions
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.terminal.interrupts import cancelled_by_ctrl_c
from slmchat.terminal.tables import Column
from slmchat.wording import in_bytes


def eval_quantizations(options: EvalOptions, settings: Settings, console: Console) -> ExitCode:
    """Compare quantizations over a text. Raises `SlmError`."""
    if options.tasks or options.resume or options.minutes or options.limit:
        raise usage_error(
            "--quantizations reads a text; tasks are measured without it.",
            "slm eval NAME@Q4_K_M NAME@Q8_0 --task mathematics compares their scores",
        )
    text = text_files.read(options.text) if options.text else quantizations.text_of_suite()
    sandbox.seal(settings)
    wanted: Sequence[str | None] = options.names or [None]
    found = [resolve.find(name, settings, console) for name in wanted]
    models = quantizations.quantizations_of(found, settings)
    work = quantizations.compare(models, text, GenerationOptions.of(options), settings, console, cancelled_by_ctrl_c)
    reports: list[ModelReport] = []
    try:
        reports.extend(work)
    except KeyboardInterrupt:
        console.status("")
    is_interrupted = len(reports) < len(models)
    if options.json:
        console.print_json({"reference": models[0].key, "models": [model_as_json(report) for report in reports]})
    elif any(report.agreement for report in reports):
        _show(reports, console, is_plain=options.plain or console.is_accessible)
    for report in reports:
        if report.error is not None:
            console.warn(f"{report.model} could not be compared: {report.error.rstrip('.')}.")
    if is_interrupted:
        console.warn("interrupted; this is what was measured until then.")
        return ExitCode.INTERRUPTED
    return eval_report.code_of(reports)


def _show(reports: Sequence[ModelReport], console: Console, *, is_plain: bool) -> None:
    first, *others = reports
    done = [report for report in others if report.agreement is not None]
    if is_plain:
        for report in done:
            console.tell(_sentence(report))
    else:
        columns = (
            Column("MODEL"),
            Column("SIZE", rank=2),
            Column("SAME TOKEN"),
            Column("", rank=1),
            Column("KL, nats"),
        )
        largest = (first.model, in_bytes(first.size), "the largest", "", "", "")
        console.table((*columns, Column("", rank=1)), [largest, *map(_row, done)])
    agreement = done[0].agreement
    assert agreement is not None
    console.tell(f"over {agreement.n_tokens:,} places of the text; in brackets what holds 95 of 100 times")
    console.tell("KL, nats: how far what it expects is from what the largest expects (0: the same)")


def _row(report: ModelReport) -> tuple[str, ...]:
    agreement = report.agreement
    assert agreement is not None
    top, kl = agreement.top_token_interval, agreement.kl_interval
    return (
        report.model,
        in_bytes(report.size),
        f"{100 * agreement.top_token:.1f} %",
        f"({100 * top.low:.1f}-{100 * top.high:.1f})",
        f"{agreement.kl_divergence:.4f}",
        f"({kl.low:.4f}-{kl.high:.4f})",
    )


def _sentence(report: ModelReport) -> str:
    agreement = report.agreement
    assert agreement is not None
    return (
        f"{report.model}, {in_bytes(report.size)}: at {100 * agreement.top_token:.1f} percent of the places its most "
        f"probable token is that of {agreement.reference}, and the divergence is {agreement.kl_divergence:.4f} nats."
    )
