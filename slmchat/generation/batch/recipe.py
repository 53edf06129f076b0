"""What the records of a batch were made with: written into the first one, compared when a batch goes on.

Records of which one half answers another prompt are worse than none, and nobody sees it. The field `made_with` stands
in the first record that a run writes; a run that goes on with the same does not repeat it.

Knows: what decides an answer (model, prompt, sampler, limits, what it has to be), and what does not (threads).
Refuses to know: rows, records, files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from slmchat.conversation.messages import Message
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import usage_error
from slmchat.generation.batch.records import fingerprint
from slmchat.generation.prompt_template import PromptFile
from slmchat.generation.structured import ResponseFormat
from slmchat.lazy_dataclasses import dataclass
from slmchat.options import BestOfOptions, ChoiceOptions, GenerationOptions


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides the answers of a batch. `prompt`: a fingerprint, which tells nothing; `options`: those that are not
    slm's defaults, by name."""

    model: str
    prompt: str
    options: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The value of `made_with`."""
        return asdict(self)

    def with_option(self, name: str, value: Any) -> "Recipe":
        """The recipe with one more option that decides the answers; None: it was not given."""
        return self if value is None else replace(self, options={**self.options, name: value})

    def differences(self, before: Mapping[str, Any]) -> list[str]:
        """What is another in this recipe than in `before`, in words."""
        found = []
        if before.get("prompt") != self.prompt:
            found.append("another prompt")
        if before.get("model") != self.model:
            found.append(f"another model ({before.get('model')})")
        old = before.get("options")
        old = old if isinstance(old, dict) else {}
        names = [name for name in {**old, **self.options} if old.get(name) != self.options.get(name)]
        if names:
            found.append(f"other options ({', '.join(_option(name, old.get(name)) for name in names)})")
        return found


def recipe_of(
    model: str,
    instruction: str,
    field: str | None,
    head: Sequence[Message],
    template: PromptFile | None,
    sampler: SamplerSettings,
    options: GenerationOptions,
    response_format: ResponseFormat | None,
    answer: tuple[ChoiceOptions, BestOfOptions],
) -> Recipe:
    """The recipe of a batch, from what was given and what it became."""
    prompt = [instruction, field, [[message.role.value, message.text] for message in head]]
    if template is not None:
        prompt.append(template.identity)
    constraint = response_format and response_format.constraint
    usual = asdict(SamplerSettings())
    choice, several = answer
    given: dict[str, Any] = {name: value for name, value in asdict(sampler).items() if value != usual[name]}
    given |= {
        "max_tokens": options.max_tokens,
        "think": options.think,
        "think_budget": options.think_budget,
        "stop": options.stop,
        "ctx": options.ctx,
        "on_overflow": options.on_overflow,
        "lora": [Path(name).name for name in options.lora],
        "raw": options.raw,
        "raw_output": options.raw_output,
        "response_format": constraint and fingerprint([constraint.kind.value, constraint.text]),
        **{name: value for name, value in asdict(choice).items() if name != "choices"},
        **asdict(several),
        "choices": choice.choices[0] if len(choice.choices) == 1 else choice.choices,
    }
    told = {name: value for name, value in given.items() if value not in (None, [], "") and value is not False}
    return Recipe(model, fingerprint(prompt), told)


def check_same(recipe: Recipe, before: Mapping[str, Any], file: Path) -> None:
    """Raises `SlmError` (USAGE) when the records in `file` were made with something else."""
    found = recipe.differences(before)
    if found:
        raise usage_error(
            f"the records in {file} were made with {' and '.join(found)}.",
            "the same command goes on with it; --allow-changes mixes both in FILE; or begin another FILE",
        )


def _option(name: str, before: object) -> str:
    if name == "response_format":
        return "another schema, grammar or pattern"
    return f"{name.replace('_', ' ')} {'not given' if before is None else before}"
