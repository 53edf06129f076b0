"""Personas: a name for a system message with everything that goes along with it.

Knows: the personas that come with slm, and the table `personas` of `config.toml` with every mistake it may hold.
Refuses to know: conversations, engines and models. Examples are plain pairs of texts; who uses them makes messages.

The personas that come with slm are made for models of 0.1 to 4 billion parameters. Such a model follows a short
instruction in plain words, and an example better than any instruction. What was tried is in docs/personas.md.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from slmchat import ranges
from slmchat.errors import usage_error
from slmchat.lazy_dataclasses import dataclass
from slmchat.settings import THINK
from slmchat.toml_schema import Check, Mistakes, array, said, shown, table, text, value, within


@dataclass(frozen=True, slots=True)
class Persona:
    """One persona. None, or nothing in it, means: not set, what applies without a persona applies.

    `examples` are exchanges (user, assistant) that stand before the first message. `sampler` has the names of
    `config.toml` and lies over the user's own sampler settings; `max_tokens` counts a model's thinking as well.
    """

    name: str
    description: str = ""
    system: str | None = None
    examples: tuple[tuple[str, str], ...] = ()
    sampler: Mapping[str, float] = field(default_factory=dict)
    model: str | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    think: str | None = None
    think_budget: int | None = None


# No `max_tokens` and no `stop` here: both would cut a reasoning model off in the middle of its thought.
BUILT_IN = (
    Persona(
        "assistant",
        "short answers to questions",
        system="You are a helpful assistant. Answer in one or two short sentences.",
    ),
    Persona(
        "translator",
        "translates text to English",
        system="Translate the text to English. Write only the translation.",
        examples=(
            ("Guten Morgen, wie geht es dir?", "Good morning, how are you?"),
            ("¿Dónde está la estación de tren?", "Where is the train station?"),
            ("Je ne parle pas encore très bien anglais.", "I do not speak English very well yet."),
        ),
        sampler={"temperature": 0.1},
    ),
    Persona(
        "summarizer",
        "says in two sentences what a text says",
        system="Summarize the text in two short sentences. Use only facts from the text.",
        sampler={"temperature": 0.1},
    ),
    Persona(
        "sentiment",
        "answers positive, negative or neutral",
        system="Is the text positive, negative or neutral? Answer with one word.",
        # the order matters to very small models: with a neutral one first, they call everything positive
        examples=(
            ("The room was dirty and the staff were rude.", "negative"),
            ("The food was delicious and the staff were friendly.", "positive"),
            ("The meeting starts at ten.", "neutral"),
            ("I hate it. I want my money back.", "negative"),
            ("I am so happy with this, thank you!", "positive"),
        ),
        sampler={"temperature": 0.0},
    ),
    Persona(
        "explainer",
        "explains code in plain words",
        system="You explain code. Say in plain words what the code does, in two to four short sentences.",
        sampler={"temperature": 0.1},
    ),
)

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


def load(config: Mapping[str, object], file: Path) -> dict[str, Persona]:
    """The personas by name: those that come with slm, and the user's own, which replace others of the same name.

    `config` is the table `personas` of `file`. Raises `SlmError` (usage) for the mistakes in it, with the file,
    the path of each key, the reason, and the nearest key that there is.
    """
    mistakes = Mistakes()
    for name, told in config.items():
        where = f"personas.{shown(name)}"
        if not _NAME.fullmatch(name):
            mistakes.add(where, "must be named with one word of lower-case letters, digits, '-' and '_'")
        table(KEYS)(told, where, mistakes)
    mistakes.raise_if_any(file, "docs/personas.md has the keys", form="'{where}' {reason}")
    own = {name: _persona(name, told) for name, told in config.items() if isinstance(told, dict)}
    return {persona.name: persona for persona in BUILT_IN} | own


def _persona(name: str, told: Mapping[str, Any]) -> Persona:
    """The persona of a checked table."""
    fields = {key.replace("-", "_"): value for key, value in told.items()}
    fields["examples"] = tuple((each["user"], each["assistant"]) for each in told.get("examples", ()))
    fields["sampler"] = {key: float(number) for key, number in told.get("sampler", {}).items()}
    return Persona(name, **{**fields, "stop": tuple(told.get("stop", ()))})


def find(name: str, personas: Mapping[str, Persona]) -> Persona:
    """The persona of this name, in any case; raises `SlmError` (usage) with the nearest names and all there are."""
    found = personas.get(name.lower())
    if found is not None:
        return found
    near = _nearest(name, personas)
    listed = "the personas are " + ", ".join(sorted(personas))
    raise usage_error(
        f"there is no persona '{shown(name)}'.", f"did you mean {' or '.join(near)}? {listed}" if near else listed
    )


KEYS: Mapping[str, Check] = {
    "description": text(200),
    "system": said,
    "examples": array(
        table({"user": said, "assistant": said}, required=("user", "assistant")),
        least=0,
        of='tables { user = "", assistant = "" }',
    ),
    "sampler": table({name: within(allowed) for name, allowed in ranges.SAMPLER.items()}),
    "model": text(200),
    "max-tokens": within(ranges.MAX_TOKENS),
    "stop": array(said, least=0, of="strings"),
    "think": value(lambda given: given in THINK, f"must be one of {', '.join(THINK)}"),
    "think-budget": within(ranges.THINK_BUDGET),
}


def _nearest(word: str, known: Iterable[str]) -> list[str]:
    """Up to three known words that look like this one, and those that begin with it."""
    word, known = word[:80].lower(), list(known)
    near = difflib.get_close_matches(word.replace("_", "-"), known, 3) or difflib.get_close_matches(word, known, 3)
    return near or [each for each in known if word and each.startswith(word)][:3]
