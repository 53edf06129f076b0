"""`--choices`: one of the given texts, by the model's own probabilities.

Knows: what a list of choices may be, how log-probabilities become probabilities, calibration,
the threshold. Refuses to know: how scores are computed (the engine), rows, streams.
"""

import math
from collections.abc import Mapping, Sequence

from slmchat.engine.api import Pool
from slmchat.engine.requests import Choices, Prompt, Request
from slmchat.engine.results import Finish, Score, Usage
from slmchat.lazy_dataclasses import dataclass

# The answer when no choice is probable enough (`--threshold`).
UNSURE = "unsure"

# Inputs that say nothing: what the model prefers behind them is about no input. The mean over several is steadier than
# the empty one alone (Zhao et al. 2021, "Calibrate Before Use", section 5; docs/decisions.md has what was measured).
CONTENT_FREE = ("", "N/A", "This is a text.")

# Room that a context window has to have behind the prompt, in tokens: more than any choice takes.
_MOST_CHOICES = 1_000
_MOST_CHARACTERS = 400
ROOM = 512
# Digits of a probability that are printed.
_DIGITS = 6


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


@dataclass(frozen=True, slots=True)
class ClassificationTask:
    """What may be chosen, and how. One for a whole batch: nothing in it changes. `temperature`: by which the logarithms
    of the probabilities are divided (calibration.py).

    The model is not told the choices. A small model that reads them picks one whatever the text says: the accuracy of
    SmolLM2-135M fell from 0.70 to 0.50 (docs/decisions.md).
    """

    texts: tuple[str, ...]
    threshold: float | None
    is_calibrated: bool
    temperature: float = 1.0

    def choices(self, prompt: Prompt) -> Choices:
        """What the engine is asked for.

        Behind a bare prompt each choice is a word of its own. Where one choice begins another, both would begin the
        same answer: then it counts that the answer ends behind it.
        """
        is_bare = not prompt.parts[-1].is_template and not prompt.parts[-1].text[-1:].isspace()
        has_prefix = any(a != b and b.startswith(a) for a in self.texts for b in self.texts)
        return Choices(tuple(f" {text}" if is_bare else text for text in self.texts), has_end=has_prefix)

    def classification(self, scores: Sequence[Score], prior: Sequence[float] | None) -> Classification:
        """The answer. `prior`: log-probabilities of the choices without input, taken away from these."""
        values = [_value(score) for score in scores]
        if prior is not None:
            values = [value - before for value, before in zip(values, prior, strict=True)]
        highest = max(values)
        weights = [math.exp((value - highest) / self.temperature) for value in values]
        shares = [weight / sum(weights) for weight in weights]
        best = shares.index(max(shares))
        is_sure = self.threshold is None or shares[best] >= self.threshold
        probabilities = dict(zip(self.texts, shares, strict=True))
        return Classification(self.texts[best] if is_sure else None, probabilities)


def question(instruction: str, name: str) -> str:
    """What is asked of one of several questions: `{name}` in the instruction is its name, else that stands behind
    it."""
    if "{name}" in instruction:
        return instruction.replace("{name}", name)
    return f"{instruction}\n{name}:" if instruction.strip() else f"{name}:"


def usage_of_all(finishes: Sequence[Finish]) -> Usage:
    """The tokens that several questions took together."""
    return Usage(
        sum(finish.usage.prompt_tokens for finish in finishes),
        sum(finish.usage.cached_tokens for finish in finishes),
        0,
    )


def as_printed(probabilities: Mapping[str, float]) -> dict[str, float]:
    """Six digits of each probability; as they are printed their sum is 1 exactly.

    Those that lose most by it are rounded up (the method of the largest remainder).
    """
    unit = 10**_DIGITS
    counts = {text: math.floor(share * unit) for text, share in probabilities.items()}
    by_remainder = sorted(probabilities, key=lambda text: counts[text] - probabilities[text] * unit)
    for text in by_remainder[: max(0, unit - sum(counts.values()))]:
        counts[text] += 1
    return {text: count / unit for text, count in counts.items()}


def content_free_prior(choosing: ClassificationTask, pool: Pool, empty: Sequence[Prompt]) -> tuple[float, ...] | None:
    """The mean log-probability of each choice behind prompts whose input says nothing, once for all rows.

    None where nothing is calibrated or it was cancelled. Raises `SlmError` as the pool does.
    """
    if not choosing.is_calibrated:
        return None
    found: list[tuple[Score, ...]] = []
    # a bare text without input may be no token at all, behind which nothing can be scored
    empty = [prompt for prompt in empty if not prompt.is_empty] or empty
    for done in pool.run(Request(n, prompt, choices=choosing.choices(prompt)) for n, prompt in enumerate(empty)):
        if done.error is not None:
            raise done.error
        found.append(done.scores)
    if len(found) < len(empty):
        return None
    return tuple(sum(map(_value, scores)) / len(scores) for scores in zip(*found, strict=True))


def problem_of(texts: Sequence[str], threshold: float | None) -> str | None:
    """Why these texts cannot be choices; None when they can."""
    if not all(text.strip() for text in texts):
        return "a choice is empty"
    if len(set(texts)) < len(texts):
        return f"'{next(text for text in texts if texts.count(text) > 1)}' stands there twice"
    if not 2 <= len(texts) <= _MOST_CHOICES:
        return f"there must be 2 to {_MOST_CHOICES:,} of them, not {len(texts):,}"
    if max(map(len, texts)) > _MOST_CHARACTERS:
        return f"one of them is longer than {_MOST_CHARACTERS} characters"
    if threshold is not None and UNSURE in texts:
        return f"'{UNSURE}' is what --threshold answers"
    return None


def _value(score: Score) -> float:
    """The log-probability of the whole choice."""
    return sum(score.logprobs) + (score.end or 0.0)
