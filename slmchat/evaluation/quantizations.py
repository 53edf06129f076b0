"""The quantizations of one model beside the largest of them, over one text.

Knows: which files belong together, the order, two models in memory at a time.
Refuses to know: how two are compared (agreement.py), tables and terminals.
"""

from collections.abc import Iterator, Sequence

from slmchat.catalog.library import Library
from slmchat.catalog.records import Installed
from slmchat.engine.api import TextLogits
from slmchat.engine.cancellable import CancelScope
from slmchat.errors import SlmError, usage_error
from slmchat.evaluation import task_catalog
from slmchat.evaluation.agreement import WINDOW, measure_agreement
from slmchat.evaluation.records import Agreement, ModelReport
from slmchat.models.backend import LocalModel
from slmchat.models.open import OpenModel, open_installed
from slmchat.options import GenerationOptions
from slmchat.reporting import Reporter
from slmchat.settings import Settings

# The tasks of the suite whose prompts are a text to read when nobody gives one, the most prose first.
_PROSE = ("reading", "reasoning", "knowledge")


def quantizations_of(found: Sequence[Installed], settings: Settings) -> list[Installed]:
    """The files to compare, the largest first: of one model all that are installed of its name, else those given.

    Raises `SlmError` (USAGE) when there is only one.
    """
    models = {model.key: model for model in found}
    if len(models) == 1:
        (only,) = models.values()
        installed = (record for record in Library(settings.paths).all() if record.answers)
        models |= {record.key: record for record in installed if record.name == only.name}
    if len(models) < 2:
        raise usage_error(
            f"there is one quantization of {next(iter(models))}, and nothing to compare it with.",
            "slm pull NAME@QUANT fetches another one; or name two files",
        )
    return sorted(models.values(), key=lambda model: model.size, reverse=True)


def groups_of(found: Sequence[Installed]) -> list[list[Installed]]:
    """Which of these are quantizations of one model, by their names: groups of two and more, the largest first."""
    groups: dict[str, list[Installed]] = {}
    for model in found:
        groups.setdefault(model.name, []).append(model)
    return [sorted(group, key=lambda model: model.size, reverse=True) for group in groups.values() if len(group) > 1]


def text_of_suite() -> str:
    """The prompts of the suite's tasks in prose, one after the other: some 9,000 tokens of plain English."""
    return "\n\n".join(item.prompt for name in _PROSE for item in task_catalog.load(name).items)


def compare(
    models: Sequence[Installed],
    text: str,
    options: GenerationOptions,
    settings: Settings,
    reporter: Reporter,
    cancellable: CancelScope,
) -> Iterator[ModelReport]:
    """A report for each of these, the first of which is the reference; it ends early when it is cancelled.

    What is wrong with one stands in its report. Raises `SlmError` when the reference cannot be opened.
    """
    first, *others = models
    with _Reader(first, options, settings, reporter) as reference:
        yield _report(first, None)
        for model in others:

            def tell(done: int, total: int, model: Installed = model) -> None:
                reporter.status(f"reading with {model.key} and {first.key}: window {done + 1} of {total}")

            try:
                with _Reader(model, options, settings, reporter) as other:
                    found = measure_agreement(first.key, reference, other, text, cancellable, tell)
            except SlmError as error:
                yield _report(model, None, error)
                continue
            finally:
                reporter.status("")
            if found is None:
                return
            yield _report(model, found)


class _Reader:
    """A model that is open for as long as the context lasts."""

    def __init__(self, model: Installed, options: GenerationOptions, settings: Settings, reporter: Reporter) -> None:
        self._model = model
        self._given = (options, settings, reporter)
        self._opened: OpenModel | None = None
        self._logits: TextLogits | None = None

    def __enter__(self) -> TextLogits:
        options, settings, reporter = self._given
        reporter.status(f"loading {self._model.key}")
        self._opened = open_installed(self._model, options, settings, reporter)
        try:
            self._logits = self._opened.open_text_logits(self._opened.window(WINDOW))
        except BaseException:
            self._opened.close()
            raise
        return self._logits

    def __exit__(self, *_: object) -> None:
        if self._logits is not None:
            self._logits.close()
        if self._opened is not None:
            self._opened.close()


def _report(model: Installed, agreement: Agreement | None, error: SlmError | None = None) -> ModelReport:
    return ModelReport(
        model=model.key,
        label=LocalModel(model).label,
        size=model.size,
        quantization=model.quantization or None,
        tasks=(),
        agreement=agreement,
        failure=error,
    )
