"""Drafts looked up in the conversation: copying a given text, and free text, against one token at a time.

Greedy, in one process, the same prompt alternately with and without. Copying is measured with drafts in any batch
(`--speculation always`, as in every sampled chat) and with `auto`, which at temperature 0 takes only batches proved to
compute what single tokens do. That no text differs is a target, too.
"""

import functools

import programs
from targets import Target, pairs

from slmchat.conversation.messages import Message, Role
from slmchat.conversation.template import ChatTemplate
from slmchat.engine import llama
from slmchat.engine.requests import Limits, Part, Prompt, SessionSettings
from slmchat.engine.results import Chunk, Finish
from slmchat.engine.sampler import SamplerSettings

N_TOKENS, N_CTX = 100, 1024
STORY = (
    "The lighthouse keeper wrote in his journal every evening. On Monday the wind came from the north and three ships "
    "passed before noon. On Tuesday the fog was so thick that he rang the bell for six hours. On Wednesday a boat brought "
    "oil, flour and two letters from his sister in Aberdeen. She wrote that the harbour was full of herring and that her "
    "youngest boy had learned to whistle. On Thursday nothing happened, and he painted the iron stairs grey."
)
# Measured on two cores: small batches cost SmolLM2 nearly as much as single tokens, Gemma much less
_COPYING = {"gemma": 1.5}
_COPYING_ELSEWHERE, _FREE = 1.05, 0.97


def measure(repeat: int) -> list[Target]:
    return [target for model in programs.MODELS for target in _of(model, repeat)]


def _of(model: str, repeat: int) -> list[Target]:
    engine = programs.load_engine(model)
    goal = next((value for name, value in _COPYING.items() if model.startswith(name)), _COPYING_ELSEWHERE)
    copying, free = _prompt(engine, is_copying=True), _prompt(engine, is_copying=False)
    targets = [
        _target(f"{model}: copying, any batch", goal, repeat, functools.partial(_generated, engine, copying), "always"),
        _target(
            f"{model}: copying, proved batches", _FREE, repeat, functools.partial(_generated, engine, copying), "auto"
        ),
        _target(f"{model}: free text", _FREE, repeat, functools.partial(_generated, engine, free), "always"),
    ]
    same = [float(_generated(engine, copying, "auto")[1] == _generated(engine, copying, "off")[1])]
    engine.close()
    return [*targets, Target(f"{model}: proved batches give the same text", 1, same, {}, is_at_least=True)]


def _target(name, goal, repeat, once, speculation):  # type: ignore[no-untyped-def]
    """`once(speculation)`: tokens a second, the text and the accepted share."""
    shares = []

    def ours() -> float:
        rate, _text, share = once(speculation)
        shares.append(share)
        return rate

    ratios, mine, others = pairs(repeat, ours, lambda: once("off")[0])
    raw = {"drafts tok/s": mine, "single tok/s": others, "accepted share": shares}
    return Target(f"{name}, rate against single tokens", goal, ratios, raw, is_at_least=True)


def _generated(engine: llama.LlamaEngine, prompt: Prompt, speculation: str) -> tuple[float, str, float]:
    settings = SessionSettings(N_CTX, programs.THREADS, programs.THREADS, speculation=speculation, is_multi_turn=False)
    session = engine.open_session(settings)
    events = list(session.generate(prompt, SamplerSettings(temperature=0), Limits(N_TOKENS)))
    session.close()
    finish = events[-1]
    assert isinstance(finish, Finish)
    usage = finish.usage
    text = "".join(event.text for event in events if isinstance(event, Chunk))
    share = usage.accepted_tokens / usage.drafted_tokens if usage.drafted_tokens else 0.0
    return usage.completion_tokens / finish.timings.generation_s, text, share


def _prompt(engine: llama.LlamaEngine, *, is_copying: bool) -> Prompt:
    info = engine.info
    if not info.chat_template:  # a base model
        text = f"Text:\n{STORY}\n\nThe same text again:\n{STORY[:25]}" if is_copying else programs.PROMPT
        return Prompt((Part(text),))
    asked = f"Repeat this text word for word:\n\n{STORY}" if is_copying else "Write a story about a fox and a river."
    template = ChatTemplate(info.chat_template, bos_text=info.bos_text, eos_text=info.eos_text)
    return template.render([Message(Role.USER, asked)])
