"""What is asked of the model for each row of a batch, and what of its completion goes into the record.

Knows: records of completions. Refuses to know: rows, order, files. Another kind of answer is another `Answers`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from slmchat.engine.api import FinishReason, Limits, Prompt, Request, Result, Score
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import SlmError
from slmchat.generation import response
from slmchat.generation.attempts import Attempts, TryAgain
from slmchat.generation.batch.prompts import Asked
from slmchat.generation.best_of import BestOf, Candidates
from slmchat.generation.classify import ClassificationTask, as_printed, usage_of_all
from slmchat.generation.structured import ResponseFormat
from slmchat.lazy_dataclasses import dataclass

# What a model prefers behind prompts that say nothing (`Priors.of`); None: nothing is taken away.
PriorOf = Callable[[ClassificationTask, Sequence[Prompt]], tuple[float, ...] | None]


class Unsuitable(Exception):
    """A completion came, and it is not what was asked for. `fields` stand in the record all the same."""

    def __init__(self, error: SlmError, fields: dict[str, Any]) -> None:
        super().__init__(error.message)
        self.error = error
        self.fields = fields


class Answers(Protocol):
    """How the rows of a batch are answered."""

    @property
    def nothing(self) -> dict[str, Any]:
        """The fields of a record where there is no answer."""
        ...

    @property
    def n_each(self) -> int:
        """Requests for each row: those of row `number` have the ids from `number * n_each` on."""
        ...

    def requests(self, number: int, asked: Asked) -> Sequence[Request]:
        """What the engine is asked for row `number`."""
        ...

    def record(self, done: Result, prompt: Prompt) -> dict[str, Any] | Request | None:
        """The fields of a record for a request that the engine has done, or the request with which the row is asked
        again; None: others of its requests are still on their way.

        Raises `Unsuitable` when the row failed: its fields then stand beside the error.
        """
        ...


class Completions:
    """Free text, as `slm run` answers."""

    n_each = 1

    def __init__(self, sampler: SamplerSettings, limits: Limits, *, is_raw: bool, is_sanitized: bool) -> None:
        """`is_raw`: without a chat template, so that white space and thoughts are text like any other."""
        self._sampler = sampler
        self._limits = limits
        self._is_raw = is_raw
        self._is_sanitized = is_sanitized

    @property
    def nothing(self) -> dict[str, Any]:
        """No completion."""
        return {"completion": None, "finish_reason": None, "usage": None}

    def requests(self, number: int, asked: Asked) -> Sequence[Request]:
        """The row's own completion; with `--seed` every row has the same seed."""
        return (Request(number, asked.prompt, self._sampler, self._limits),)

    def record(self, done: Result, prompt: Prompt) -> dict[str, Any]:
        """Completion, finish reason, usage and seed; the thinking of a reasoning model where there was one."""
        if done.error is not None:
            raise Unsuitable(done.error, {})
        made = response.response_of(done, prompt, keeps_space=self._is_raw, is_sanitized=self._is_sanitized)
        completion = response.completion_of(made)
        return {
            **completion.as_json(),
            **({} if self._limits.top_logprobs is None else {"logprobs": response.logprob_fields(completion.logprobs)}),
            "seed": completion.seed,
        }


class StructuredCompletions:
    """Completions in a given format, checked; one that is cut off or not right is asked for once more."""

    n_each = 1

    def __init__(
        self, response_format: ResponseFormat, sampler: SamplerSettings, limits: Limits, *, is_sanitized: bool
    ) -> None:
        self._format = response_format
        self._sampler = sampler
        self._limits = limits
        self._completions = Completions(
            sampler, response_format.limits(limits), is_raw=not response_format.thinks_first, is_sanitized=is_sanitized
        )
        self._attempts: dict[int, Attempts[dict[str, Any]]] = {}  # of the rows that are under way

    @property
    def nothing(self) -> dict[str, Any]:
        """No completion, no value."""
        return {"completion": None, "value": None} | self._completions.nothing

    def requests(self, number: int, asked: Asked) -> Sequence[Request]:
        """The first attempt."""
        attempts = self._attempts[number] = Attempts(self._format, self._sampler, self._limits)
        return (Request(number, asked.prompt, attempts.sampler, attempts.limits),)

    def record(self, done: Result, prompt: Prompt) -> dict[str, Any] | Request:
        """As for free text, with the `value`; the second attempt when the first was not right."""
        attempts = self._attempts[done.id]
        fields: dict[str, Any] = {}
        try:
            if done.error is not None:
                raise done.error
            fields = self._completions.record(done, prompt)
            fields, value = attempts.judged(fields, fields["completion"], FinishReason(fields["finish_reason"]))
        except TryAgain:
            return Request(done.id, prompt, attempts.sampler, attempts.limits)
        except SlmError as error:
            del self._attempts[done.id]
            raise Unsuitable(error, fields) from error
        del self._attempts[done.id]
        return {"completion": None, "value": value} | fields


class ElectedCompletions:
    """The best of several answers to each row (best_of.py), free text or of a given response_format."""

    def __init__(
        self,
        asked: BestOf,
        response_format: ResponseFormat | None,
        sampler: SamplerSettings,
        limits: Limits,
        *,
        is_raw: bool,
        is_sanitized: bool,
    ) -> None:
        self.n_each = asked.n
        self._asked = asked
        self._shape = response_format
        self._sampler = sampler
        self._limits = limits
        self._is_raw = is_raw if response_format is None else not response_format.thinks_first
        self._is_sanitized = is_sanitized
        self._under_way: dict[int, Candidates] = {}

    @property
    def nothing(self) -> dict[str, Any]:
        """No completion, and no value where there would be one."""
        value = {} if self._shape is None else {"value": None}
        return {"completion": None} | value | {"finish_reason": None, "usage": None}

    def requests(self, number: int, asked: Asked) -> Sequence[Request]:
        """All answers to the row; with `--seed` every row has the same seeds."""
        made = self._under_way[number] = Candidates(
            self._asked,
            number * self.n_each,
            asked.prompt,
            self._sampler,
            self._limits,
            self._shape,
            keeps_space=self._is_raw,
            is_sanitized=self._is_sanitized,
        )
        return made.requests

    def record(self, done: Result, prompt: Prompt) -> dict[str, Any] | Request | None:
        """The fields of the answer that counts, with the vote (`best_of`), when all of them have come."""
        number = done.id // self.n_each
        candidates = self._under_way[number]
        again = candidates.take(done)
        if again is not None or not candidates.is_complete:
            return again
        del self._under_way[number]
        try:
            completion = candidates.completion()
        except SlmError as error:
            raise Unsuitable(error, {}) from error
        return {
            **completion.as_json(),
            **({} if self._shape is None else {"value": completion.value}),
            **({} if self._limits.top_logprobs is None else {"logprobs": response.logprob_fields(completion.logprobs)}),
            "seed": completion.seed,
        }


@dataclass(frozen=True, slots=True)
class EmptyPrompts:
    """The prompts of rows that say nothing: of texts, and of pictures. Empty: there are no such rows."""

    texts: Sequence[Prompt] = ()
    pictures: Sequence[Prompt] = ()


@dataclass(frozen=True, slots=True)
class _Prior:
    """What the model prefers without any input: of texts, and of pictures."""

    of_texts: tuple[float, ...] | None
    of_pictures: tuple[float, ...] | None

    @classmethod
    def found(cls, task: ClassificationTask, measure_prior: PriorOf, empty: EmptyPrompts) -> "_Prior":
        return cls(*(measure_prior(task, prompts) if prompts else None for prompts in (empty.texts, empty.pictures)))

    def of(self, prompt: Prompt) -> tuple[float, ...] | None:
        shows = any(part.image for part in prompt.parts) or any(turn.images for turn in prompt.turns)
        return self.of_pictures if shows else self.of_texts


class ChosenTexts:
    """One of some choices, with the probability of each."""

    n_each = 1

    def __init__(self, task: ClassificationTask) -> None:
        self._task = task
        self._prior = _Prior(None, None)

    def calibrate(self, measure_prior: PriorOf, empty: EmptyPrompts) -> None:
        """Find out what the model prefers without any input, before the first row. Raises `SlmError` as a pool does."""
        self._prior = _Prior.found(self._task, measure_prior, empty)

    @property
    def tasks(self) -> Mapping[str, ClassificationTask]:
        """The question, which has no name."""
        return {"": self._task}

    def probabilities(self, question: int, scores: Sequence[Score], prompt: Prompt) -> Mapping[str, float]:
        """What the scores of the choices behind this prompt mean."""
        return self._task.classification(scores, self._prior.of(prompt)).probabilities

    def scale(self, temperatures: Sequence[float]) -> None:
        """From now on divide the logarithms of the probabilities by the one temperature."""
        self._task = replace(self._task, temperature=temperatures[0])

    @property
    def nothing(self) -> dict[str, Any]:
        """No choice."""
        return {"completion": None, "probabilities": None, "finish_reason": None, "usage": None}

    def requests(self, number: int, asked: Asked) -> Sequence[Request]:
        """The scores of all choices; nothing is sampled."""
        return (Request(number, asked.prompt, choices=self._task.choices(asked.prompt)),)

    def record(self, done: Result, prompt: Prompt) -> dict[str, Any]:
        """The choice and all probabilities."""
        if done.error is not None:
            raise Unsuitable(done.error, {})
        assert done.finish is not None
        found = self._task.classification(done.scores, self._prior.of(prompt))
        return {
            "completion": str(found),
            "probabilities": as_printed(found.probabilities),
            "finish_reason": done.finish.reason.value,
            "usage": response.usage_fields(done.finish.usage),
        }


class ChosenValues:
    """One of its choices for each of several questions about a row."""

    def __init__(self, tasks: Mapping[str, ClassificationTask]) -> None:
        self.n_each = len(tasks)
        self._tasks = tasks
        self._priors = [_Prior(None, None)] * len(tasks)
        self._done: dict[int, dict[int, Result]] = {}  # of the rows that are under way, by the number of the question

    def calibrate(self, measure_prior: PriorOf, empty: Sequence[EmptyPrompts]) -> None:
        """As `ChosenTexts.calibrate`, with such prompts for each question."""
        pairs = zip(self._tasks.values(), empty, strict=True)
        self._priors = [_Prior.found(task, measure_prior, prompts) for task, prompts in pairs]

    @property
    def tasks(self) -> Mapping[str, ClassificationTask]:
        """The questions by their names."""
        return self._tasks

    def probabilities(self, question: int, scores: Sequence[Score], prompt: Prompt) -> Mapping[str, float]:
        """What the scores of the choices of this question behind this prompt mean."""
        task = list(self._tasks.values())[question]
        return task.classification(scores, self._priors[question].of(prompt)).probabilities

    def scale(self, temperatures: Sequence[float]) -> None:
        """From now on divide the logarithms of each question's probabilities by its temperature."""
        pairs = zip(self._tasks.items(), temperatures, strict=True)
        self._tasks = {name: replace(task, temperature=one) for (name, task), one in pairs}
        self._done.clear()  # of the rows that it was fitted on

    @property
    def nothing(self) -> dict[str, Any]:
        """No choices."""
        return {"completion": None, "value": None, "probabilities": None, "finish_reason": None, "usage": None}

    def requests(self, number: int, asked: Asked) -> Sequence[Request]:
        """The scores of all choices of each question."""
        self._done[number] = {}
        asking = zip(self._tasks.values(), (asked.prompt, *asked.others), strict=True)
        return [
            Request(number * self.n_each + question, prompt, choices=task.choices(prompt))
            for question, (task, prompt) in enumerate(asking)
        ]

    def record(self, done: Result, prompt: Prompt) -> dict[str, Any] | None:
        """All choices and their probabilities, by the names of the questions, when all of them have come."""
        number, question = divmod(done.id, self.n_each)
        results = self._done[number]
        results[question] = done
        if len(results) < self.n_each:
            return None
        del self._done[number]
        value, probabilities, finishes = {}, {}, []
        for each, (name, task) in enumerate(self._tasks.items()):
            error, finish = results[each].error, results[each].finish
            if error is not None:
                raise Unsuitable(error, {})
            assert finish is not None
            found = task.classification(results[each].scores, self._priors[each].of(prompt))
            value[name], probabilities[name] = found.label, as_printed(found.probabilities)
            finishes.append(finish)
        return {
            "completion": json.dumps(value, ensure_ascii=False),
            "value": value,
            "probabilities": probabilities,
            "finish_reason": finishes[0].reason.value,
            "usage": response.usage_fields(usage_of_all(finishes)),
        }
