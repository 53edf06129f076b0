"""What a generation is made with: the sampler, the limits, what a persona adds.

Knows: the order in which defaults, the model's own advice, the config, a persona and the flags count.
Refuses to know: models and prompts.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from slmchat.conversation import thinking
from slmchat.conversation.messages import Message, Role
from slmchat.engine.requests import Limits
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.thinking import Thinking, ThinkingMode
from slmchat.options import GenerationOptions
from slmchat.personas import Persona
from slmchat.personas import find as find_persona
from slmchat.personas import load as load_personas
from slmchat.settings import Settings

if TYPE_CHECKING:
    from slmchat.catalog.records import Installed
    from slmchat.models.backend import BackendModel


def personas(settings: Settings) -> dict[str, Persona]:
    """The built-in personas and the user's own, by name."""
    return load_personas(settings.personas, settings.paths.config_file)


def with_persona(options: GenerationOptions, settings: Settings) -> GenerationOptions:
    """The options with what the persona of `-p` gives where nothing else was given."""
    if options.persona is None:
        return options
    persona = find_persona(options.persona, personas(settings))
    return replace(
        options,
        model=options.model or (None if options.endpoint else persona.model),
        system=options.system if options.system is not None else persona.system,
        max_tokens=options.max_tokens or persona.max_tokens,
        stop=options.stop or list(persona.stop),
        think=options.think or persona.think,
        think_budget=persona.think_budget if options.think_budget is None else options.think_budget,
    )


def persona_of(options: GenerationOptions, settings: Settings) -> Persona | None:
    """The persona of `-p`, if one was given."""
    return find_persona(options.persona, personas(settings)) if options.persona else None


def example_messages(persona: Persona | None) -> list[Message]:
    """The few-shot examples of a persona as messages."""
    if persona is None:
        return []
    return [
        message
        for user, assistant in persona.examples
        for message in (Message(Role.USER, user), Message(Role.ASSISTANT, assistant))
    ]


def sampler_settings(
    model: "BackendModel | Installed",
    settings: Settings,
    options: GenerationOptions,
    thinks: Callable[[], bool] = lambda: False,
) -> SamplerSettings:
    """The sampler: slm's defaults < the model's recommended ones < the config's < the persona's < the flags.

    `thinks`: whether the model will think before it answers; asked only where its makers make a difference.
    """
    persona = persona_of(options, settings)
    return (
        SamplerSettings()
        .with_values(model.sampler)
        .with_values(model.sampler_thinking if model.sampler_thinking and thinks() else {})
        .with_values(settings.sampler)
        .with_values(persona.sampler if persona else {})
        .with_values(options.sampler_values())
    )


def limits(options: GenerationOptions, top_logprobs: int | None = None) -> Limits:
    """Where a completion ends. `top_logprobs` not None: the logprobs of its tokens are told, with so many others at
    each place."""
    return Limits(options.max_tokens, tuple(options.stop), top_logprobs=top_logprobs)


def with_thinking(limits: Limits, asked: Thinking, architecture: str, *, is_raw: bool) -> Limits:
    """The limits for a model that may think: its marks are shown to whoever tells thought and answer apart.

    `is_raw`: without a chat template nothing is taken for a thought.
    """
    if is_raw:
        return limits
    return replace(
        limits,
        thinking=asked,
        shown=(*limits.shown, *thinking.TOKENS),
        marks=thinking.marks_for(architecture),
        unbroken=thinking.UNBROKEN,
    )


def thinking_of(options: GenerationOptions, settings: Settings) -> Thinking:
    """What is asked of thinking: the config's < the options'. A budget of 0 is no thought."""
    mode = ThinkingMode(options.think or settings.think or "auto")
    budget = settings.think_budget if options.think_budget is None else options.think_budget
    if budget == 0 and (options.think is None or options.think_budget == 0):
        mode = ThinkingMode.OFF
    return Thinking(mode, budget if mode is not ThinkingMode.OFF else 0)
