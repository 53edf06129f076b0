"""Tokens are picked from a short list of candidates where NumPy is there, and they are those of llama.cpp's whole chain."""

from collections.abc import Iterator

import pytest
from gguf_samples import write_tiny_llama

from slmchat.engine import llama, shortlist
from slmchat.engine.llama import LlamaEngine
from slmchat.engine.requests import Limits, Part, Prompt, Request, SessionSettings
from slmchat.engine.sampler import SamplerSettings

pytestmark = pytest.mark.real

SETTINGS = {
    "greedy": SamplerSettings(temperature=0),
    "usual": SamplerSettings(seed=1),
    "hot": SamplerSettings(temperature=2.0, top_k=100, top_p=1.0, min_p=0.0, seed=2),
    "top_k 1": SamplerSettings(top_k=1, seed=3),
    "no top_k": SamplerSettings(top_k=0, seed=4),
    "penalties": SamplerSettings(temperature=0, repeat_penalty=1.3),
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    made = llama.load(write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf", chat_template=None))
    yield made
    made.close()


def answers(engine: LlamaEngine, sampler: SamplerSettings) -> list[str]:
    """What the model writes behind four prompts, with one thread and one at a time, so that the logits are the same."""
    pool = engine.open_pool(SessionSettings(256, 1, 1), 1)
    prompts = [Prompt((Part(f"{word} and {word}"),)) for word in ("salt", "tea", "ink", "rope")]
    requests = (Request(number, prompt, sampler, Limits(24)) for number, prompt in enumerate(prompts))
    done = sorted(pool.run(requests), key=lambda result: result.id)
    pool.close()
    assert all(result.error is None for result in done)
    return [result.text for result in done]


@pytest.mark.parametrize("name", SETTINGS)
def test_the_text_is_that_of_the_whole_chain(name: str, engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy

    monkeypatch.setattr(shortlist, "_numpy", numpy)  # as a pool does for a large vocabulary, or after many tokens
    short = answers(engine, SETTINGS[name])
    monkeypatch.setattr(shortlist, "_numpy", None)
    assert short == answers(engine, SETTINGS[name])


def test_a_pool_that_has_picked_many_tokens_goes_on_with_numpy(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortlist, "_numpy", None)
    expected = answers(engine, SETTINGS["usual"])
    assert shortlist.numpy_in_use() is None
    monkeypatch.setattr(shortlist, "_EARNED", 36 * engine.vocabulary.n_tokens)  # in the middle of the second answer
    assert answers(engine, SETTINGS["usual"]) == expected
    assert shortlist.numpy_in_use() is not None
