"""The records of an evaluation: what is asked, what came of each item, what a model scored.

They pass from the task files (task_files.py) through the runner to whoever shows them (commands/eval.py, `--json`).
Knows: fields, counts, the interval of a score. Refuses to know: files, models, how an answer is graded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import field
from enum import StrEnum
from functools import cached_property
from typing import Any

from slmchat.errors import SlmError
from slmchat.evaluation.statistics import Interval, wilson
from slmchat.generation.tools import Tool
from slmchat.lazy_dataclasses import dataclass


class TaskKind(StrEnum):
    """How the items of a task are asked and graded."""

    CHOICES = "choices"  # the most probable of given texts, by their log-probabilities; nothing is generated
    NUMBER = "number"  # the last number of the answer
    EXACT = "exact"  # the answer is one of the accepted texts
    SPAN = "span"  # a short answer that holds one of the accepted texts
    INSTRUCTIONS = "instructions"  # a program verifies length, format, words
    TOOLS = "tools"  # a call of a function: its name and its arguments


class Normalization(StrEnum):
    """By what the log-probability of a choice is divided before choices are compared."""

    NONE = "none"  # raw: the probability of the whole text
    TOKENS = "tokens"  # the mean of its tokens, as llama-perplexity --multiple-choice
    BYTES = "bytes"  # the mean of its bytes of UTF-8, whatever the vocabulary


@dataclass(frozen=True, slots=True)
class EvalItem:
    """One thing to answer. `prompt`: what the model is asked, whole.

    `answers`: the accepted ones; of choices the right one. `worked`: the answer that it has as an example (few-shot),
    "" where that is the first accepted one. `checks`: what a program verifies (answer_checks.py), by name. `tools`:
    what may be called, and `call` the right call; None with tools: no call is right. `max_tokens`: of its answer, where
    that is fewer than the task allows.
    """

    id: str
    prompt: str
    choices: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    worked: str = ""
    checks: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Tool, ...] = ()
    call: "ExpectedCall | None" = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ExpectedCall:
    """A call that is right. `arguments`: for each name the accepted values; `optional` ones may be left out."""

    name: str
    arguments: Mapping[str, tuple[Any, ...]]
    optional: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Rows of a public task that cannot be asked: how many, and what is wrong with the first one, with its line."""

    n_rows: int = 0
    first: str = ""


@dataclass(frozen=True, slots=True)
class EvalTask:
    """A task: its items and how they are asked.

    `fingerprint`: SHA-256 (hexadecimal, 16 digits) of everything that can change a score: another one is another task.
    `system`: the system message, "" for none. `examples`: shown before each item, read once. `max_tokens`: of an
    answer. `uses_template`: through the model's chat template, where it has one; else as bare text. `content_free`:
    the prompt with inputs that say nothing, where what a model prefers behind them is taken away from its choice.
    `sample`: so many of its items are asked when all tasks that come with slm are, None: all.
    """

    name: str
    title: str
    kind: TaskKind
    items: tuple[EvalItem, ...]
    fingerprint: str
    system: str = ""
    examples: tuple[EvalItem, ...] = ()
    max_tokens: int = 256
    uses_template: bool = True
    normalization: Normalization = Normalization.NONE
    content_free: tuple[str, ...] = ()
    license: str = ""
    source: str = ""
    left_out: LeftOut = LeftOut()
    sample: int | None = None

    @property
    def chance(self) -> float:
        """The share that guessing gets right: 0 where there is nothing to choose from."""
        shares = [1 / len(item.choices) for item in self.items if item.choices]
        return sum(shares) / len(self.items) if shares else 0.0


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What came of one item. `answer`: the choice, or what the model said (without a thought).

    `scores`: of choices the log-probability of each, of so many `tokens`. `finish`: why the answer ended ("stop",
    "length", …). `vote`: the answer as it counts when several are compared ("7" of "So it is 7."), "" without one.
    `failed`: what a program found wrong with it. `n_answers`: of so many answers this one was picked (`--best-of`).
    """

    id: str
    is_right: bool
    answer: str = ""
    vote: str = ""
    finish: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    scores: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()
    failed: tuple[str, ...] = ()
    n_answers: int = 1
    error: str | None = None


@dataclass(frozen=True)
class TaskResult:
    """What a model scored in a task. `n_items`: how many there are to do; `items` are those that are done, in order.

    `left_out`: rows of the task that are not among them, since they cannot be asked.
    `seconds`: wall time of those items. `energy_j`: what the device used for them, None where it cannot be read.
    """

    task: str
    title: str
    kind: TaskKind
    n_items: int
    chance: float
    items: tuple[ItemResult, ...]
    seconds: float
    energy_j: float | None = None
    left_out: LeftOut = LeftOut()

    @cached_property
    def n_right(self) -> int:
        return sum(item.is_right for item in self.items)

    @property
    def is_complete(self) -> bool:
        return len(self.items) == self.n_items

    @property
    def score(self) -> float | None:
        """The share that is right, 0 to 1; None before the first item is done."""
        return self.n_right / len(self.items) if self.items else None

    @cached_property
    def interval(self) -> Interval:
        """95 % of the score (Wilson)."""
        return wilson(self.n_right, len(self.items))

    @property
    def completion_tokens(self) -> int:
        return sum(item.completion_tokens for item in self.items)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How much a quantization says the same as a larger one of the same model, over `n_tokens` places of a text.

    `top_token`: the share of places with the same most probable token. `kl_divergence`: the mean, in nats
    (agreement.py has the definition). The intervals hold 95 %.
    """

    reference: str
    n_tokens: int
    top_token: float
    top_token_interval: Interval
    kl_divergence: float
    kl_interval: Interval


@dataclass(frozen=True, slots=True)
class ModelReport:
    """Everything that was measured of one model; `label`: its name as it is shown.

    Speeds in tokens a second of one answer alone, None: not measured. `memory`: bytes of this process while the model
    was at work, the most that was seen. `energy_j`: joules, and `energy_tokens` the generated tokens that they were
    used for; None: not readable here, or too little, `energy_why_not` says why. `error`: why it could not be measured
    to the end.
    """

    model: str
    label: str
    size: int
    quantization: str | None
    tasks: tuple[TaskResult, ...]
    prompt_tps: float | None = None
    generation_tps: float | None = None
    memory: int | None = None
    energy_j: float | None = None
    energy_tokens: int = 0
    energy_why_not: str | None = None
    agreement: Agreement | None = None
    failure: SlmError | None = None

    @property
    def error(self) -> str | None:
        """Why it could not be measured to the end, in a sentence."""
        return None if self.failure is None else self.failure.message

    @property
    def mean(self) -> float | None:
        """The mean of its tasks' scores, each task with the same weight; None without one."""
        scores = [task.score for task in self.tasks if task.score is not None]
        return sum(scores) / len(scores) if scores else None


def completed(reports: Sequence[ModelReport]) -> bool:
    """Whether every model was measured in every task to the end."""
    return all(report.error is None and all(task.is_complete for task in report.tasks) for report in reports)
