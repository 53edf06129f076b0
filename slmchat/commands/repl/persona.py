"""`/persona` in the chat: take on what `-p` begins a chat with, in place of the persona before.

Knows: what of a persona counts in a chat that goes on. Refuses to know: what personas there are (slmchat/personas.py).
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from slmchat import personas
from slmchat.commands.repl import models
from slmchat.commands.repl.app import ChatApp
from slmchat.generation import params
from slmchat.options import GenerationOptions
from slmchat.personas import Persona


def command(chat: ChatApp, arguments: str) -> None:
    """`/persona`, `/persona NAME`. Raises `SlmError`; then all is as it was."""
    known = params.personas(chat.settings)
    if not arguments:
        for name, persona in known.items():
            chat.console.note(f"{name:14} {persona.description}")
        return
    persona = personas.find(arguments, known)
    if persona.model and chat.place.host is None and not chat.session.model.is_called(persona.model):
        models.switch(chat, persona.model)  # first: where that fails, nothing else has changed
    _take_on(chat, persona)
    chat.console.note(f"From here on: {persona.name}, {persona.description}")


def _take_on(chat: ChatApp, persona: Persona) -> None:
    session = chat.session
    before = params.persona_of(session.options, chat.settings) or Persona("")
    # What the persona before has set goes; what was set by hand stays, unless this one says otherwise.
    limits = session.limits
    if persona.max_tokens or limits.max_tokens == before.max_tokens:
        limits = replace(limits, max_tokens=persona.max_tokens)
    stop = [sequence for sequence in limits.stop if sequence not in before.stop]
    session.limits = replace(limits, stop=(*stop, *(sequence for sequence in persona.stop if sequence not in stop)))
    kept = {key: value for key, value in session.sampler_changes.items() if before.sampler.get(key) != value}
    session.sampler_changes = {**kept, **persona.sampler}
    session.examples = params.example_messages(persona)
    own = replace(session.options, persona=persona.name, **_without(before, session.options))
    session.options = own
    if any(asked is not None for each in (before, persona) for asked in (each.think, each.think_budget)):
        budget = own.think_budget if persona.think_budget is None else persona.think_budget
        asked = replace(own, think=persona.think or own.think, think_budget=budget)
        session.set_thinking(params.thinking_of(asked, chat.settings))
    session.conversation.system = persona.system
    session.conversation.changed()


def _without(persona: Persona, options: GenerationOptions) -> dict[str, Any]:
    """What is asked of thinking by options, where it is not what this persona has brought into them."""
    return {
        name: None if getattr(options, name) == getattr(persona, name) else getattr(options, name)
        for name in ("think", "think_budget")
    }


def complete(chat: ChatApp, text: str) -> Iterable[tuple[str, str]]:
    """The personas."""
    return ((name, it.description) for name, it in params.personas(chat.settings).items() if name.startswith(text))
