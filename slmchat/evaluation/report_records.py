"""What was measured as `--json` has it, and how two models differ. docs/eval.md has the keys.

Knows: names and digits of the fields. Refuses to know: tables and terminals.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from slmchat.evaluation.method import EvalMethod
from slmchat.evaluation.records import ModelReport, TaskResult
from slmchat.evaluation.statistics import Difference, Interval, paired_difference


@dataclass(frozen=True, slots=True)
class TaskDifference:
    """How much better `model` is than `other` in a task, on the items that both have done."""

    task: str
    model: str
    other: str
    difference: Difference


def differences(reports: Sequence[ModelReport]) -> Iterator[TaskDifference]:
    """Every later model against the first one, task by task, where both have done the same items."""
    if len(reports) < 2:
        return
    first, *others = reports
    for other in others:
        for one, two in zip(other.tasks, first.tasks, strict=True):
            before = {item.id: item.is_right for item in two.items}
            pairs = [(item.is_right, before[item.id]) for item in one.items if item.id in before]
            if pairs:
                found = paired_difference([float(a) for a, _ in pairs], [float(b) for _, b in pairs])
                yield TaskDifference(one.task, other.model, first.model, found)


def as_json(reports: Sequence[ModelReport], method: EvalMethod) -> dict[str, Any]:
    """Everything, down to each answer."""
    return {
        "method": method.as_json(),
        "models": [model_as_json(report) for report in reports],
        "differences": [
            {
                "task": each.task,
                "model": each.model,
                "other": each.other,
                "difference": round(each.difference.value, 4),
                **_bounds(each.difference.interval),
                "items": each.difference.n,
                "is_clear": each.difference.is_clear,
            }
            for each in differences(reports)
        ],
    }


def model_as_json(report: ModelReport) -> dict[str, Any]:
    """What was measured of one model."""
    agreement = report.agreement
    return {
        "model": report.model,
        "size": report.size,
        "quantization": report.quantization,
        "mean_score": _rounded(report.mean),
        "prompt_tps": _rounded(report.prompt_tps, 2),
        "generation_tps": _rounded(report.generation_tps, 2),
        "memory": report.memory,
        "energy_j": _rounded(report.energy_j, 3),
        "energy_tokens": report.energy_tokens,
        "energy_not_readable": report.energy_why_not,
        "agreement": agreement
        and {
            "reference": agreement.reference,
            "tokens": agreement.n_tokens,
            "top_token": _rounded(agreement.top_token),
            **_bounds(agreement.top_token_interval),
            "kl_divergence": _rounded(agreement.kl_divergence, 6),
            "kl_low": _rounded(agreement.kl_interval.low, 6),
            "kl_high": _rounded(agreement.kl_interval.high, 6),
        },
        "error": report.error,
        "tasks": [_task(task) for task in report.tasks],
    }


def _task(task: TaskResult) -> dict[str, Any]:
    return {
        "task": task.task,
        "kind": task.kind.value,
        "score": _rounded(task.score),
        **_bounds(task.interval),
        "chance": round(task.chance, 4),
        "right": task.n_right,
        "done": len(task.items),
        "items": task.n_items,
        "left_out": task.left_out.n_rows,
        "seconds": round(task.seconds, 3),
        "completion_tokens": task.completion_tokens,
        "energy_j": _rounded(task.energy_j, 3),
        "answers": [
            {
                "id": item.id,
                "is_right": item.is_right,
                "answer": item.answer,
                "finish_reason": item.finish or None,
                "failed": list(item.failed),
                "logprobs": [round(score, 4) for score in item.scores] or None,
                "error": item.error,
            }
            for item in task.items
        ],
    }


def _bounds(interval: Interval) -> dict[str, float]:
    return {"low": round(interval.low, 4), "high": round(interval.high, 4)}


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)
