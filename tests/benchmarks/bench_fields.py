"""Does it help a small model to be told the schema that its answer is held to?

Pulls name, age and city out of 40 made sentences, greedily: told the names of the fields, as slm does it, told nothing
and told the schema. The fields that are right count; the answers are the same every time, so nothing is repeated.
"""

import itertools
from dataclasses import replace

import programs
from targets import Target

from slmchat.conversation.messages import Message, Role
from slmchat.conversation.template import ChatTemplate
from slmchat.engine import llama
from slmchat.engine.requests import Limits, SessionSettings
from slmchat.engine.results import Chunk, Finish
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import SlmError
from slmchat.generation import structured
from slmchat.schemas import fields

N_CASES = 40
NAMES = ("Ann Miller", "Tom Baker", "Maria Lopez", "John Smith", "Li Wei", "Sara Khan", "Peter Novak", "Emma Jones")
CITIES = ("Paris", "Berlin", "Chicago", "Tokyo", "Madrid")
FORMS = (
    "{name}, who is {age}, lives in {city}.",
    "My neighbour {name} moved to {city} last year and has just turned {age}.",
    "At the age of {age}, {name} opened a shop in {city}.",
    "{city} is where {name} grew up; today she is {age} years old.",
)


def measure(_repeat: int) -> list[Target]:
    engine = programs.load_engine(programs.MODELS[0])
    if not engine.info.chat_template:
        engine.close()
        raise RuntimeError(f"{programs.MODELS[0]} is a base model: it cannot be asked")
    told = structured.of_schema(fields.parse("name, age int, city"))
    names = _n_right(engine, told)
    others = {
        "nothing": replace(told, instruction=""),
        "the schema": replace(told, instruction=f"Answer with JSON of this schema: {told.constraint.text}"),
    }
    found = []
    for telling, wanted in others.items():
        n_right = _n_right(engine, wanted)
        raw = {f"told the names, of {3 * N_CASES}": [names], f"told {telling}": [n_right]}
        name = f"{programs.MODELS[0]}: fields right, told their names against told {telling}"
        found.append(Target(name, 1, [names / n_right], raw, is_at_least=True))
    engine.close()
    return found


def _cases() -> list[tuple[str, dict[str, object]]]:
    made = []
    for number, (name, city) in enumerate(itertools.islice(itertools.product(NAMES, CITIES), N_CASES)):
        value: dict[str, object] = {"name": name, "age": 21 + number, "city": city}
        made.append((FORMS[number % len(FORMS)].format(**value), value))
    return made


def _n_right(engine: llama.LlamaEngine, wanted: structured.ResponseFormat) -> int:
    """Fields that are right; an answer that was cut off has none."""
    session = engine.open_session(SessionSettings(1024, programs.THREADS, programs.THREADS))
    info = engine.info
    template = ChatTemplate(info.chat_template, bos_text=info.bos_text, eos_text=info.eos_text)
    limits = Limits(max_tokens=100, constraint=wanted.constraint)
    n_right = 0
    for sentence, value in _cases():
        question = f"{sentence}\n\nExtract the person's name, age and city.\n\n{wanted.instruction}".strip()
        prompt = template.render([Message(Role.USER, question)])
        events = list(session.generate(prompt, SamplerSettings(temperature=0), limits))
        finish = events[-1]
        assert isinstance(finish, Finish)
        text = "".join(event.text for event in events if isinstance(event, Chunk))
        try:
            found = wanted.value(text, finish.reason)
        except SlmError:
            continue
        assert isinstance(found, dict)
        n_right += sum(found[key] == value[key] for key in value)
    session.close()
    return n_right
