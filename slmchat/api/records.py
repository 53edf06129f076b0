"""What a program gets back. Knows: the fields of a completion. Refuses to know: how they came about."""

from dataclasses import dataclass
from typing import Any

from slmchat.engine.api import Finish, FinishReason, Timings, Usage
from slmchat.generation.classify import UNSURE
from slmchat.generation.response import Response


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer; `str()` gives its text.

    `text`: without control sequences of terminals, as `slm run` writes it to a pipe, and without a thought.
    `value`: what the answer says where it was asked for with `schema`, `fields` or `json` (a dict, list, ...), the text
    itself where it was asked for with `regex` or `grammar`, else None.
    `thinking`: what a reasoning model said before its answer, "" where there was nothing.
    `finish_reason`: "stop" (the model's own end or a stop sequence), "length" (`max_tokens`), "context" (the context
    window is full) or "interrupted" (`cancel()`).
    `usage` in tokens, `timings` in seconds; `seed` repeats the answer with the same settings.
    """

    text: str
    value: Any
    thinking: str
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    seed: int

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Classification:
    """Which of the choices a text is; `str()` gives the label.

    `label`: the most probable one, None when it is not as probable as the threshold. `probabilities`: of each choice,
    given that it is one of them (they sum up to 1).
    """

    label: str | None
    probabilities: dict[str, float]

    def __str__(self) -> str:
        return self.label or UNSURE


def completion_of(answer: Response, value: object, finish: Finish) -> Completion:
    """The record for an answer that has ended so."""
    return Completion(answer.text, value, answer.thinking, finish.reason, finish.usage, finish.timings, finish.seed)
