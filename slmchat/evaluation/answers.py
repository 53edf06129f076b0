"""The items of a task as requests to a pool, and what a pool makes of them as results: generated or chosen answers.

Knows: which request an item becomes, how what came of it is graded. Refuses to know: pools at work, groups, files.
"""

from collections.abc import Sequence

from slmchat.catalog.records import BASE_TAG
from slmchat.engine.api import Engine, Pool
from slmchat.engine.requests import Part, Prompt, Request
from slmchat.engine.results import Result, Score
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.thinking import Thinking
from slmchat.errors import SlmError
from slmchat.evaluation import grading, prompts
from slmchat.evaluation.records import EvalItem, EvalTask, ItemResult, TaskKind
from slmchat.generation.classify import ClassificationTask, content_free_prior
from slmchat.generation.prompt import Layout, layout
from slmchat.generation.response import response_of

# A choice may have a few tokens more behind a prompt than alone.
_MARGIN = 8


def is_raw(task: EvalTask, engine: Engine, tags: Sequence[str], *, is_asked: bool) -> bool:
    """Whether the model gets bare text: it was asked for, the task wants it, or the model was never taught to chat."""
    return is_asked or not task.uses_template or BASE_TAG in tags or not engine.info.chat_template


class ChosenAnswers:
    """The most probable of an item's choices."""

    is_raw = True  # there is no thought before it

    def __init__(self, task: EvalTask, lay_out: Layout) -> None:
        self._task = task
        self._lay_out = lay_out
        self._prior: tuple[float, ...] | None = None

    def prepare(self, pool: Pool) -> None:
        """Before the first item: what the model prefers without any input, where the task takes that away."""
        if self._task.content_free:
            item = self._task.items[0]
            empty = [prompts.prompt_of(self._task, item, self._lay_out, text) for text in self._task.content_free]
            self._prior = content_free_prior(self._choosing(item), pool, empty)

    def prompt(self, item: EvalItem) -> Prompt:
        """Raises `SlmError` where the model's template refuses it."""
        return prompts.prompt_of(self._task, item, self._lay_out)

    def room(self, engine: Engine) -> int:
        """Tokens that may come behind a prompt."""
        longest = max((choice for item in self._task.items for choice in item.choices), key=len)
        return engine.count(Prompt((Part(longest),))) + _MARGIN

    def request(self, number: int, item: EvalItem) -> Request:
        prompt = self.prompt(item)
        return Request(number, prompt, choices=self._choosing(item).choices(prompt))

    def result(self, item: EvalItem, prompt: Prompt, done: Result) -> ItemResult:
        sums = tuple(map(_sum, done.scores))
        tokens = tuple(len(score.logprobs) for score in done.scores)
        compared = sums if self._prior is None else [a - b for a, b in zip(sums, self._prior, strict=True)]
        chosen = item.choices[grading.best_choice(self._task, item, compared, tokens)]
        assert done.finish is not None
        return ItemResult(
            item.id,
            chosen in item.answers,
            chosen,
            chosen,
            prompt_tokens=done.finish.usage.prompt_tokens,
            scores=tuple(compared),
            tokens=tokens,
        )

    def _choosing(self, item: EvalItem) -> ClassificationTask:
        return ClassificationTask(item.choices, None, is_calibrated=bool(self._task.content_free))


class GeneratedAnswers:
    """What a model says, graded by the kind of the task."""

    def __init__(
        self,
        task: EvalTask,
        lay_out: Layout,
        engine: Engine,
        sampler: SamplerSettings,
        thinking: Thinking,
        *,
        is_raw: bool,
    ) -> None:
        self._task = task
        self._lay_out = lay_out
        self._info = engine.info
        self._sampler = sampler
        self._thinking = thinking
        self.is_raw = is_raw

    def prepare(self, pool: Pool) -> None:
        """Nothing has to be known."""

    def prompt(self, item: EvalItem) -> Prompt:
        return prompts.prompt_of(self._task, item, self._lay_out)

    def room(self, engine: Engine) -> int:
        return prompts.room_of(self._task.max_tokens, self._thinking, is_raw=self.is_raw)

    def request(self, number: int, item: EvalItem) -> Request:
        limits = prompts.limits_of(self._task, item, self._info, self._thinking, is_raw=self.is_raw)
        return Request(number, self.prompt(item), self._sampler, limits)

    def result(self, item: EvalItem, prompt: Prompt, done: Result) -> ItemResult:
        response = response_of(done, prompt, keeps_space=self.is_raw)
        finish = done.finish
        assert finish is not None
        grade = grading.grade(self._task.kind, item, response.text)
        is_cut = finish.reason.is_cut
        return ItemResult(
            item.id,
            grade.is_right,
            response.text.strip(),
            grade.vote,
            finish.reason.value,
            finish.usage.prompt_tokens,
            finish.usage.completion_tokens,
            failed=(*grade.failed, *(("cut off",) if is_cut and not grade.is_right else ())),
        )


Asking = ChosenAnswers | GeneratedAnswers
"""How the items of one task are asked and graded."""


def asking_of(task: EvalTask, engine: Engine, sampler: SamplerSettings, thinking: Thinking, *, is_raw: bool) -> Asking:
    """How this task is put to a model. Raises `SlmError` for a chat template that cannot be read."""
    is_choice = task.kind is TaskKind.CHOICES
    lay_out = prompts.bare if is_raw else layout(engine, is_raw=False, closes_thought=is_choice, thinking=thinking)
    if is_choice:
        return ChosenAnswers(task, lay_out)
    return GeneratedAnswers(task, lay_out, engine, sampler, thinking, is_raw=is_raw)


def failed_result(item: EvalItem, error: SlmError) -> ItemResult:
    """An item that could not be asked: it counts as wrong."""
    return ItemResult(item.id, False, error=error.message)


def _sum(score: Score) -> float:
    return sum(score.logprobs) + (score.end or 0.0)
