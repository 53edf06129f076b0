"""Whether an answer is right, by the kind of its task.

Knows: the rules, each of which docs/eval.md states in a sentence. Refuses to know: how the answer was made.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slmchat.evaluation import answer_checks
from slmchat.evaluation.records import EvalItem, EvalTask, Normalization, TaskKind
from slmchat.generation import tools
from slmchat.generation.numbers import last_number
from slmchat.lazy_dataclasses import dataclass
from slmchat.schemas.check import SchemaCheck

# A span is part of an answer that is not longer than this: who repeats the whole text has not found it.
_MOST_SPAN_WORDS = 25

_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True, slots=True)
class Grade:
    """`vote`: the answer as it counts when several are compared, "" where it has none. `failed`: what is wrong."""

    is_right: bool
    vote: str = ""
    failed: tuple[str, ...] = ()


def grade(kind: TaskKind, item: EvalItem, text: str) -> Grade:
    """The grade of an answer that was generated; `text` is without a thought."""
    return _BY_KIND[kind](item, text.strip())


def best_choice(task: EvalTask, item: EvalItem, sums: Sequence[float], tokens: Sequence[int]) -> int:
    """The number of the choice that a model prefers: `sums` are log-probabilities of whole choices of `tokens` each."""
    lengths: Sequence[int] = [1] * len(sums)
    if task.normalization is Normalization.TOKENS:
        lengths = tokens
    elif task.normalization is Normalization.BYTES:
        lengths = [len(choice.encode()) for choice in item.choices]
    values = [value / max(1, length) for value, length in zip(sums, lengths, strict=True)]
    return values.index(max(values))


def normalized(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces: how SQuAD compares answers (Rajpurkar 2016)."""
    return " ".join(_ARTICLES.sub(" ", _without_punctuation(text)).split())


def _without_punctuation(text: str) -> str:
    text = re.sub(r"[-/–—]", " ", text.casefold())
    return " ".join(re.sub(r"[^\w\s]", "", text).split())


def _bare(text: str) -> str:
    return " ".join(text.casefold().split())


_FORMS = (normalized, _without_punctuation, _bare)


def _alike(wanted: str, said: str) -> tuple[str, str]:
    """Both in the first form that leaves something of what is wanted: that may be the letter A, or a sign."""
    form = next((form for form in _FORMS if form(wanted)), _bare)
    return form(wanted), form(said)


def _as_compared(text: str) -> str:
    return next(filter(None, (form(text) for form in _FORMS)), "")


def _number(item: EvalItem, text: str) -> Grade:
    found = last_number(text)
    return Grade(found is not None and found in item.answers, found or "")


def _exact(item: EvalItem, text: str) -> Grade:
    pairs = [_alike(wanted, text) for wanted in item.answers]
    return Grade(any(wanted == said for wanted, said in pairs), _as_compared(text))


def _span(item: EvalItem, text: str) -> Grade:
    """The first paragraph counts; an accepted answer stands in it as whole words."""
    text = re.split(r"\n\s*\n", text)[0]
    is_short = len(normalized(text).split()) <= _MOST_SPAN_WORDS
    pairs = [_alike(wanted, text) for wanted in item.answers]
    holds = any(f" {wanted} " in f" {said} " for wanted, said in pairs)
    return Grade(is_short and holds, _as_compared(text), () if is_short else ("too long",))


def _instructions(item: EvalItem, text: str) -> Grade:
    failed = answer_checks.failed(text, item.checks)
    return Grade(not failed, failed=failed)


def _call(item: EvalItem, text: str) -> Grade:
    """No call where none is right; else one call, of the right function, with accepted arguments."""
    calls = tools.split(text)[1]
    vote = json.dumps([[call.name, _plain(json.loads(call.arguments))] for call in calls], sort_keys=True)
    if item.call is None:
        return Grade(not calls, vote, ("a call",) if calls else ())
    if len(calls) != 1:
        return Grade(False, vote, ("no call" if not calls else "several calls",))
    wanted, call = item.call, calls[0]
    if call.name != wanted.name:
        return Grade(False, vote, ("name",))
    arguments = json.loads(call.arguments)
    wrong = _wrong_arguments(item, call.name, arguments)
    return Grade(not wrong, vote, wrong)


def _wrong_arguments(item: EvalItem, name: str, arguments: Any) -> tuple[str, ...]:
    assert item.call is not None
    accepted, optional = item.call.arguments, item.call.optional
    schema = next(tool.parameters for tool in item.tools if tool.name == name)
    if not isinstance(arguments, Mapping) or (schema is not None and SchemaCheck(schema).problem(arguments)):
        return ("schema",)
    missing = [each for each in accepted if each not in arguments and each not in optional]
    others = [each for each in arguments if each not in accepted]
    unequal = [
        each
        for each, value in arguments.items()
        if each in accepted and _plain(value) not in map(_plain, accepted[each])
    ]
    return tuple([*missing, *others, *unequal])


def _plain(value: Any) -> Any:
    """A value as it is compared: texts without case and punctuation, numbers by what they are, true apart from 1."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int | float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _as_compared(value)
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value]


_BY_KIND: Mapping[TaskKind, Callable[[EvalItem, str], Grade]] = {
    TaskKind.NUMBER: _number,
    TaskKind.EXACT: _exact,
    TaskKind.SPAN: _span,
    TaskKind.INSTRUCTIONS: _instructions,
    TaskKind.TOOLS: _call,
}
