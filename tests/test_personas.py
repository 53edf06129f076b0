"""Personas: the built-in ones, the user's own, every mistake named by file, key and reason, the docs."""

import re
import tomllib
from pathlib import Path

import pytest

from slmchat import personas
from slmchat.errors import ExitCode, SlmError
from slmchat.personas import BUILT_IN, Persona

FILE = Path("/home/me/.config/slm/config.toml")
PAGE = Path(__file__).resolve().parent.parent / "docs" / "personas.md"


def _load(toml: str) -> dict[str, Persona]:
    return personas.load(tomllib.loads(toml).get("personas", {}), FILE)


def test_five_come_with_slm() -> None:
    assert list(personas.load({}, FILE)) == ["assistant", "translator", "summarizer", "sentiment", "explainer"]
    assert all(persona.description and persona.system for persona in BUILT_IN)


@pytest.mark.parametrize("persona", BUILT_IN, ids=lambda persona: persona.name)
def test_the_built_in_ones_obey_the_rules_for_the_users_own(persona: Persona) -> None:
    table = {
        "description": persona.description,
        "system": persona.system,
        "sampler": dict(persona.sampler),
        "examples": [{"user": user, "assistant": assistant} for user, assistant in persona.examples],
    }
    assert personas.load({persona.name: table}, FILE)[persona.name] == persona


@pytest.mark.parametrize("persona", BUILT_IN, ids=lambda persona: persona.name)
def test_the_built_in_ones_are_short_enough_for_small_models(persona: Persona) -> None:
    assert len(persona.system or "") <= 120
    assert sum(len(text) for exchange in persona.examples for text in exchange) <= 500


@pytest.mark.parametrize("persona", BUILT_IN, ids=lambda persona: persona.name)
def test_the_built_in_ones_do_not_cut_a_thought_off(persona: Persona) -> None:
    assert persona.max_tokens is None
    assert persona.stop == ()


def test_a_persona_of_the_users_own() -> None:
    found = _load("""
        [personas.pirate]
        description = "a pirate"
        system = "You are a pirate."
        model = "gemma3:1b"
        sampler = { temperature = 1, top_k = 20 }
        max-tokens = 200
        stop = ["Captain:"]
        examples = [ { user = "Hello", assistant = "Ahoy" } ]
    """)["pirate"]
    assert found == Persona(
        name="pirate",
        description="a pirate",
        system="You are a pirate.",
        examples=(("Hello", "Ahoy"),),
        sampler={"temperature": 1.0, "top_k": 20.0},
        model="gemma3:1b",
        max_tokens=200,
        stop=("Captain:",),
    )


def test_examples_may_be_tables_of_their_own() -> None:
    found = _load("""
        [personas.yes]
        [[personas.yes.examples]]
        user = "a"
        assistant = "b"
        [[personas.yes.examples]]
        user = "c"
        assistant = "d"
    """)["yes"]
    assert found.examples == (("a", "b"), ("c", "d"))


def test_a_persona_of_the_same_name_replaces_a_built_in_one_as_a_whole() -> None:
    found = _load('[personas.translator]\nsystem = "Translate to Dutch."')
    assert found["translator"] == Persona("translator", system="Translate to Dutch.")
    assert len(found) == len(BUILT_IN)


@pytest.mark.parametrize(
    ("toml", "key", "reason"),
    [
        ("personas.x = 1", "personas.x", "must be a table"),
        ("[personas.Big]", "personas.Big", "lower-case letters"),
        ('[personas."a b"]', "personas.a b", "one word"),
        ('[personas.x]\nsytem = "a"', "personas.x.sytem", "did you mean system?"),
        ("[personas.x]\nmax_tokens = 1", "personas.x.max_tokens", "did you mean max-tokens?"),
        ("[personas.x]\nzzz = 1", "personas.x.zzz", "known: description, examples"),
        ("[personas.x]\nsystem = 1", "personas.x.system", "non-empty string"),
        ('[personas.x]\nsystem = " "', "personas.x.system", "non-empty string"),
        ('[personas.x]\ndescription = "a\\nb"', "personas.x.description", "one line"),
        ('[personas.x]\nmodel = ""', "personas.x.model", "one line"),
        ("[personas.x]\nmax-tokens = 0", "personas.x.max-tokens", "from 1 to"),
        ("[personas.x]\nmax-tokens = true", "personas.x.max-tokens", "whole number"),
        ('[personas.x]\nstop = "END"', "personas.x.stop", "array of strings"),
        ('[personas.x]\nstop = ["END", ""]', "personas.x.stop[2]", "non-empty string"),
        ("[personas.x]\nsampler = 0.5", "personas.x.sampler", "must be a table"),
        ("[personas.x]\nsampler = { temprature = 1 }", "personas.x.sampler.temprature", "did you mean temperature?"),
        ("[personas.x]\nsampler = { top_k = 1.5 }", "personas.x.sampler.top_k", "whole number from 0"),
        ("[personas.x]\nsampler = { top_p = nan }", "personas.x.sampler.top_p", "from 0 to 1"),
        ("[personas.x]\nsampler = { min_p = true }", "personas.x.sampler.min_p", "must be a number"),
        ("[personas.x]\nexamples = {}", "personas.x.examples", "must be an array"),
        ('[personas.x]\nexamples = ["a"]', "personas.x.examples[1]", "must be a table"),
        ('[personas.x]\nexamples = [{ user = "a" }]', "personas.x.examples[1].assistant", "is missing"),
        (
            '[personas.x]\nexamples = [{ user = "a", assistent = "b" }]',
            "personas.x.examples[1].assistent",
            "did you mean assistant?",
        ),
    ],
)
def test_a_mistake_is_named_with_file_key_and_reason(toml: str, key: str, reason: str) -> None:
    with pytest.raises(SlmError) as caught:
        _load(toml)
    assert caught.value.exit_code is ExitCode.USAGE
    assert caught.value.message.startswith(f"{FILE}: '{key}' ")
    assert reason in caught.value.message


def test_every_mistake_is_named() -> None:
    with pytest.raises(SlmError) as caught:
        _load('[personas.x]\nsystem = 1\nstop = "END"\n[personas.y]\nmodel = ""')
    assert "'personas.x.system'" in caught.value.message
    assert all(f"'personas.{key}'" in (caught.value.hint or "") for key in ("x.stop", "y.model"))


def test_control_characters_of_a_key_are_not_shown() -> None:
    with pytest.raises(SlmError) as caught:
        personas.load({"x": {"\x1b[31mred" * 50: 1}}, FILE)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300


def test_find_takes_any_case() -> None:
    assert personas.find("Summarizer", personas.load({}, FILE)).name == "summarizer"


@pytest.mark.parametrize(("name", "near"), [("sumarizer", "summarizer"), ("trans", "translator")])
def test_an_unknown_name_is_answered_with_the_nearest_and_all(name: str, near: str) -> None:
    with pytest.raises(SlmError) as caught:
        personas.find(name, personas.load({}, FILE))
    assert caught.value.exit_code is ExitCode.USAGE
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(f"did you mean {near}")
    assert all(persona.name in caught.value.hint for persona in BUILT_IN)


def test_a_name_like_no_other_is_answered_with_all() -> None:
    with pytest.raises(SlmError, match="no persona 'q'") as caught:
        personas.find("q", personas.load({}, FILE))
    assert (caught.value.hint or "").startswith("the personas are assistant, ")


def _rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of the page."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_page_has_the_built_in_personas() -> None:
    def settings(persona: Persona) -> str:
        return ", ".join(f"{key} {value:g}" for key, value in persona.sampler.items()) or "the model's own"

    assert _rows("The personas that come with slm") == [
        [f"`{each.name}`", each.description, each.system, str(len(each.examples) or "none"), settings(each)]
        for each in BUILT_IN
    ]


def test_the_page_has_every_key() -> None:
    assert [row[0].strip("`") for row in _rows("Your own")] == list(personas.KEYS)


def test_the_examples_of_the_page_are_right() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        _load(block)
