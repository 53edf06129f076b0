"""Everything that slm does with llama.cpp, once and in small, as JSON: run with one library, then with the other.

`python tests/library_probe.py DIRECTORY`: models and stored states lie there, and come from whoever runs first.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama
from lora_samples import write_lora
from test_vision import asked, image, loaded

from slmchat.catalog import lora
from slmchat.engine import devices, llama, native
from slmchat.engine.kvstore import KvStore
from slmchat.engine.requests import Adapter, Constraint, ConstraintKind, Limits, Part, Prompt, SessionSettings
from slmchat.engine.results import Chunk, Finish
from slmchat.engine.sampler import SamplerSettings

TEXT = "the people said that they will come and see what is there, and how many of them know the way " * 4
SETTINGS = SessionSettings(512, 1, 1, flash_attention=False)


def generated(engine: llama.LlamaEngine, prompt: Prompt, limits: Limits, settings: SessionSettings) -> dict[str, Any]:
    """A greedy completion in a session of its own."""
    session = engine.open_session(settings)
    told: dict[str, Any] = {"tokens": [], "logprobs": [], "text": ""}
    for event in session.generate(prompt, SamplerSettings(temperature=0), limits):
        if isinstance(event, Chunk):
            told["text"] += event.text
            told["tokens"] += event.tokens
            told["logprobs"] += [chance.logprob for chance in event.logprobs]
        elif isinstance(event, Finish):
            told["cached"] = event.usage.cached_tokens
    session.keep("someone")
    session.close()
    return told


def probe(directory: Path) -> dict[str, Any]:
    """What this library answers."""
    tiny, adapter, seeing = directory / "tiny.gguf", directory / "adapter.gguf", directory / "seeing"
    if not tiny.exists():
        control = ("<|im_start|>", "<|im_end|>")
        write_tiny_llama(tiny, chat_template=CHATML_TEMPLATE, extra_control_tokens=control, context_length=512)
        random = np.random.default_rng(5)
        a, b = random.normal(0, 0.3, (4, 64)), random.normal(0, 0.3, (64, 4))
        write_lora(adapter, {"blk.1.ffn_down.weight": (a, b)})
    engine = llama.load(tiny)
    prompt = Prompt((Part(TEXT),))
    stored = replace(SETTINGS, store=KvStore(directory / "states", 1 << 30))
    digits = Constraint(ConstraintKind.REGEX, "[0-9]{3}-[0-9]{2}")
    found = {
        "library": native.library().as_json(),
        "build": native.build(),
        "features": devices.build_features(),
        "devices": [device.kind for device in devices.devices()],
        "tokens": engine.vocabulary.tokenize(Prompt((Part(TEXT + "naïve ☃ <|im_end|>"), Part("<|im_end|>", True)))),
        "plain": generated(engine, prompt, Limits(12, top_logprobs=3), SETTINGS),
        "grammar": generated(engine, prompt, Limits(12, constraint=digits), SETTINGS),
        "lora": generated(
            engine,
            prompt,
            Limits(12, top_logprobs=1),
            replace(SETTINGS, adapters=(Adapter(adapter, 1.0, lora.stamp_of(adapter)),)),
        ),
        "first": generated(engine, prompt, Limits(4), stored),
        "again": generated(engine, prompt, Limits(4), stored),
    }
    engine.close()
    seer = loaded(seeing)
    found["picture"] = [
        generated(seer, asked("what is this", *shown), Limits(8, top_logprobs=1), SETTINGS)
        for shown in ((image(),), (image(90),), ())
    ]
    seer.close()
    return found


if __name__ == "__main__":
    print(json.dumps(probe(Path(sys.argv[1]))))
