"""Does it help a small model to be told the schema that its answer is held to?

Usage: python tests/benchmarks/bench_fields.py MODEL.gguf

Pulls name, age and city out of 40 made sentences, greedily, once with the schema behind the question and once without,
and counts the fields that are right.
"""

import itertools
import sys
from dataclasses import replace
from pathlib import Path

from slmchat.commands import shaping
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.template import ChatTemplate
from slmchat.engine import llama
from slmchat.engine.api import Chunk, Finish, FinishReason, Limits, SessionSettings
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import SlmError
from slmchat.schemas import fields

NAMES = ("Ann Miller", "Tom Baker", "Maria Lopez", "John Smith", "Li Wei", "Sara Khan", "Peter Novak", "Emma Jones")
CITIES = ("Paris", "Berlin", "Chicago", "Tokyo", "Madrid")
FORMS = (
    "{name}, who is {age}, lives in {city}.",
    "My neighbour {name} moved to {city} last year and has just turned {age}.",
    "At the age of {age}, {name} opened a shop in {city}.",
    "{city} is where {name} grew up; today she is {age} years old.",
)


def cases() -> list[tuple[str, dict[str, object]]]:
    made = []
    for number, (name, city) in enumerate(itertools.islice(itertools.product(NAMES, CITIES), 40)):
        value: dict[str, object] = {"name": name, "age": 21 + number, "city": city}
        made.append((FORMS[number % len(FORMS)].format(**value), value))
    return made


def main(path: str) -> None:
    engine = llama.load(Path(path))
    session = engine.open_session(SessionSettings(n_ctx=1024, threads=2, threads_batch=2))
    info = engine.info
    template = ChatTemplate(info.chat_template, bos_text=info.bos_text, eos_text=info.eos_text)
    told = shaping.of_schema(fields.parse("name, age int, city"))
    tellings = {
        "the names (slm's way)": told,
        "nothing": replace(told, instruction=""),
        "the schema": replace(told, instruction=f"Answer with JSON of this schema: {told.constraint.text}"),
    }
    for telling, shape in tellings.items():
        n_right = n_failed = 0
        for sentence, value in cases():
            question = f"{sentence}\n\nExtract the person's name, age and city.\n\n{shape.instruction}".strip()
            text, reason = "", FinishReason.LENGTH
            limits = Limits(max_tokens=100, constraint=shape.constraint)
            prompt = template.render([Message(Role.USER, question)])
            for event in session.generate(prompt, SamplerSettings(temperature=0), limits):
                if isinstance(event, Chunk):
                    text += event.text
                elif isinstance(event, Finish):
                    reason = event.reason
            try:
                found = shape.value(text, reason)
            except SlmError:
                n_failed += 1
                continue
            assert isinstance(found, dict)
            n_right += sum(found[key] == value[key] for key in value)
        print(f"told {telling}: {n_right} of {3 * len(cases())} fields right, {n_failed} cut off")


if __name__ == "__main__":
    main(sys.argv[1])
