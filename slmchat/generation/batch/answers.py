"""What is asked of the model for each row of a batch, and what of its completion goes into the record.

Knows: records of completions. Refuses to know: rows, order, files. Another kind of answer is another `Answers`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from slmchat.engine.requests import Limits, Prompt, Request
from slmchat.engine.results import Result, Score
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import SlmError
from slmchat.generation import response
from slmchat.generation.batch.prompts import Asked
from slmchat.generation.best_of import ONE, BestOf, Candidates
from slmchat.generation.classify import ClassificationTask, as_printed, usage_of_all
from slmchat.generation.response import Completion
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


class Completions:
    """Free text or a given format, as `slm run` answers; of several answers to a row the best one (best_of.py).

    `n_each`: requests for each row; those of row `number` have the ids from `number * n_each` on.
    """

    def __init__(
        self,
        sampler: SamplerSettings,
        limits: Limits,
        *,
        is_raw: bool,
        is_sanitized: bool,
        response_format: ResponseFormat | None = None,
        asked: BestOf = ONE,
    ) -> None:
        """`is_raw`: without a chat template, so that white space and thoughts are text like any other."""
        self.n_each = asked.n
        self._asked = asked
        self._format = response_format
        self._sampler = sampler
        self._limits = limits
        self._is_raw = is_raw if response_format is None else not response_format.thinks_first
        self._is_sanitized = is_sanitized
        self._under_way: dict[int, Candidates] = {}

    @property
    def nothing(self) -> dict[str, Any]:
        """The fields of a record where there is no answer."""
        return {"completion": None, **self._value(None), "finish_reason": None, "usage": None}

    def requests(self, number: int, asked: Asked) -> Sequence[Request]:
        """All answers to the row; with `--seed` every row has the same seeds."""
        made = self._under_way[number] = Candidates(
            self._asked,
            number * self.n_each,
            asked.prompt,
            self._sampler,
            self._limits,
            self._format,
            keeps_space=self._is_raw,
            is_sanitized=self._is_sanitized,
        )
        return made.requests

    def record(self, done: Result, prompt: Prompt) -> dict[str, Any] | Request | None:
        """Completion, finish reason, usage and seed of the answer that counts, with its value, its thinking and the
        vote where there are any; the request with which it is asked for once more, where it was not right; None: others
        of its requests are still on their way.

        Raises `Unsuitable` when the row failed: its fields then stand beside the error.
        """
        number = done.id // self.n_each
        candidates = self._under_way[number]
        again = candidates.take(done)
        if again is not None or not candidates.is_complete:
            return again
        del self._under_way[number]
        try:
            completion = candidates.completion()
        except SlmError as error:
            raise Unsuitable(
                error, {} if candidates.unsuitable is None else self._fields(candidates.unsuitable)
            ) from error
        return {"completion": None, **self._value(completion.value), **self._fields(completion)}

    def _value(self, value: object) -> dict[str, Any]:
        return {} if self._format is None else {"value": value}

    def _fields(self, completion: Completion) -> dict[str, Any]:
        return {
            **completion.as_json(),
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
    """One of its choices for each question about a row, with the probability of each; a single one has the name ""."""

    def __init__(self, tasks: Mapping[str, ClassificationTask]) -> None:
        self.n_each = len(tasks)
        self.tasks = tasks
        self._priors = [_Prior(None, None)] * len(tasks)
        self._done: dict[int, dict[int, Result]] = {}  # of the rows that are under way, by the number of the question

    def calibrate(self, measure_prior: PriorOf, empty: Sequence[EmptyPrompts]) -> None:
        """Find out what the model prefers without any input, with such prompts for each question, before the first row.

        Raises `SlmError` as a pool does.
        """
        pairs = zip(self.tasks.values(), empty, strict=True)
        self._priors = [_Prior.found(task, measure_prior, prompts) for task, prompts in pairs]

    def probabilities(self, question: int, scores: Sequence[Score], prompt: Prompt) -> Mapping[str, float]:
        """What the scores of the choices of this question behind this prompt mean."""
        task = list(self.tasks.values())[question]
        return task.classification(scores, self._priors[question].of(prompt)).probabilities

    def scale(self, temperatures: Sequence[float]) -> None:
        """From now on divide the logarithms of each question's probabilities by its temperature."""
        pairs = zip(self.tasks.items(), temperatures, strict=True)
        self.tasks = {name: replace(task, temperature=one) for (name, task), one in pairs}
        self._done.clear()  # of the rows that it was fitted on

    @property
    def nothing(self) -> dict[str, Any]:
        """No choices."""
        value = {} if "" in self.tasks else {"value": None}
        return {"completion": None, **value, "probabilities": None, "finish_reason": None, "usage": None}

    def requests(self, number: int, asked: Asked) -> Sequence[Request]:
        """The scores of all choices of each question; nothing is sampled."""
        self._done[number] = {}
        asking = zip(self.tasks.values(), (asked.prompt, *asked.others), strict=True)
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
        found, finishes = {}, []
        for each, (name, task) in enumerate(self.tasks.items()):
            error, finish = results[each].error, results[each].finish
            if error is not None:
                raise Unsuitable(error, {})
            assert finish is not None
            found[name] = task.classification(results[each].scores, self._priors[each].of(prompt))
            finishes.append(finish)
        probabilities = {name: as_printed(chosen.probabilities) for name, chosen in found.items()}
        reason = finishes[0].reason.value
        if "" in found:
            told = {"completion": str(found[""]), "probabilities": probabilities[""], "finish_reason": reason}
            return {**told, "usage": response.usage_fields(finishes[0].usage)}
        value = {name: chosen.label for name, chosen in found.items()}
        told = {"completion": json.dumps(value, ensure_ascii=False), "value": value, "probabilities": probabilities}
        usage = response.usage_fields(usage_of_all(finishes))
        return {**told, "finish_reason": reason, "usage": usage}


Answers = Completions | ChosenTexts
"""How the rows of a batch are answered."""
