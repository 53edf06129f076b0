"""Personas: a name for a system message with everything that goes along with it.

Knows: the personas that come with slm, and the table `personas` of `config.toml` with every mistake it may hold.
Refuses to know: conversations, engines and models. Examples are plain pairs of texts; who uses them makes messages.

The personas that come with slm are made for models of 0.1 to 4 billion parameters. Such a model follows a short
instruction in plain words, and an example better than any instruction. What was tried is in docs/personas.md.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from slmchat import ranges
from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass
from slmchat.ranges import Range
from slmchat.settings import THINK


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

    `config` is the table `personas` of `file`. Raises `SlmError` (usage) for the first mistake in it, with the file,
    the path of the key, the reason, and the nearest key that there is.
    """
    personas = {persona.name: persona for persona in BUILT_IN}
    try:
        for name, table in config.items():
            where = f"personas.{_shown(name)}"
            if not _NAME.fullmatch(name):
                raise _Wrong(where, "must be named with one word of lower-case letters, digits, '-' and '_'")
            personas[name] = Persona(name, **_fields(table, where))
    except _Wrong as wrong:
        raise SlmError(f"{file}: {wrong}.", hint="docs/personas.md has the keys", exit_code=ExitCode.USAGE) from wrong
    return personas


def find(name: str, personas: Mapping[str, Persona]) -> Persona:
    """The persona of this name, in any case; raises `SlmError` (usage) with the nearest names and all there are."""
    found = personas.get(name.lower())
    if found is not None:
        return found
    near = _nearest(name, personas)
    listed = "the personas are " + ", ".join(sorted(personas))
    raise SlmError(
        f"there is no persona '{_shown(name)}'.",
        hint=f"did you mean {' or '.join(near)}? {listed}" if near else listed,
        exit_code=ExitCode.USAGE,
    )


class _Wrong(ValueError):
    """A mistake in the user's table: where it stands, and the reason."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"'{where}' {reason}")


_Parse = Callable[[Any, str], Any]  # value, path of the key -> what the field of Persona holds


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Wrong(where, "must be a non-empty string")
    return value


def _line(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > 200:
        raise _Wrong(where, "must be one line of text, 1 to 200 characters")
    return value


def _count(allowed: Range) -> _Parse:
    def parse(value: Any, where: str) -> int:
        if not isinstance(value, int) or not allowed.holds(value):
            raise _Wrong(where, f"must be a whole number of at least {allowed.low} and at most {allowed.high}")
        return value

    return parse


def _think(value: Any, where: str) -> str:
    if value not in THINK:
        raise _Wrong(where, f"must be one of {', '.join(THINK)}")
    return str(value)


def _array(value: Any, where: str, parse: _Parse, what: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _Wrong(where, f"must be an array of {what}")
    return tuple(parse(entry, f"{where}[{number}]") for number, entry in enumerate(value, 1))


def _stop(value: Any, where: str) -> tuple[str, ...]:
    return _array(value, where, _text, "strings")


def _sampler(value: Any, where: str) -> dict[str, float]:
    table = _table(value, where, ranges.SAMPLER)
    for key, number in table.items():
        if not ranges.SAMPLER[key].holds(number):
            raise _Wrong(f"{where}.{key}", f"must be {ranges.SAMPLER[key]}")
    return {key: float(number) for key, number in table.items()}


def _examples(value: Any, where: str) -> tuple[tuple[str, str], ...]:
    return _array(value, where, _example, 'tables { user = "", assistant = "" }')


def _example(value: Any, where: str) -> tuple[str, str]:
    table = _table(value, where, ("user", "assistant"))
    for key in ("user", "assistant"):
        if key not in table:
            raise _Wrong(f"{where}.{key}", "is missing")
    return _text(table["user"], f"{where}.user"), _text(table["assistant"], f"{where}.assistant")


# key in config.toml -> field of Persona, what it may hold
KEYS: dict[str, tuple[str, _Parse]] = {
    "description": ("description", _line),
    "system": ("system", _text),
    "examples": ("examples", _examples),
    "sampler": ("sampler", _sampler),
    "model": ("model", _line),
    "max-tokens": ("max_tokens", _count(ranges.MAX_TOKENS)),
    "stop": ("stop", _stop),
    "think": ("think", _think),
    "think-budget": ("think_budget", _count(ranges.THINK_BUDGET)),
}


def _fields(table: object, where: str) -> dict[str, Any]:
    """The fields of a persona, from its table."""
    return {KEYS[key][0]: KEYS[key][1](value, f"{where}.{key}") for key, value in _table(table, where, KEYS).items()}


def _table(value: object, where: str, known: Iterable[str]) -> dict[str, Any]:
    """`value`, if it is a table that has no other keys than the known ones."""
    if not isinstance(value, dict):
        raise _Wrong(where, "must be a table")
    known = list(known)
    for key in value:
        if key not in known:
            near = _nearest(key, known)
            reason = f"did you mean {near[0]}?" if near else "known: " + ", ".join(known)
            raise _Wrong(f"{where}.{_shown(key)}", f"is not a known key ({reason})")
    return value


def _nearest(word: str, known: Iterable[str]) -> list[str]:
    """Up to three known words that look like this one, and those that begin with it."""
    word, known = word[:80].lower(), list(known)
    near = difflib.get_close_matches(word.replace("_", "-"), known, 3) or difflib.get_close_matches(word, known, 3)
    return near or [each for each in known if word and each.startswith(word)][:3]


def _shown(text: str) -> str:
    """A word of the user's as an error may show it: short, without control characters."""
    short = text if len(text) <= 80 else text[:79] + "…"
    return "".join(character if character.isprintable() else "?" for character in short)
