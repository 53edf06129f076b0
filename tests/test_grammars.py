"""Grammars that are read once and copied for each answer: each copy begins at the beginning, whatever others wrote."""

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest
from gguf_samples import write_tiny_llama

from slmchat.engine import constraint, llama
from slmchat.engine.llama import LlamaEngine
from slmchat.errors import SlmError

pytestmark = pytest.mark.real

DATE = 'root ::= year "-" year | "never"\nyear ::= [0-9]{4}\n'


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    made = llama.load(write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf", chat_template=None))
    yield made
    made.close()


def copied(engine: LlamaEngine, gbnf: str) -> Any:
    loaded = engine.loaded
    return loaded.grammars.copy(gbnf, lambda: constraint.compiled(loaded.api, loaded.vocabulary, gbnf))


def allows(engine: LlamaEngine, grammar: Any, token: int) -> bool:
    api = engine.loaded.api
    data = (api.llama_token_data * 1)(api.llama_token_data(id=token, logit=1.0, p=0.0))
    api.llama_sampler_apply(
        grammar, ctypes.byref(api.llama_token_data_array(data=data, size=1, selected=-1, sorted=False))
    )
    return bool(data[0].logit > 0)


def takes(engine: LlamaEngine, grammar: Any, text: str) -> bool:
    """Write the text by the grammar, as far as it lets itself be written; whether all of it."""
    for byte in text.encode():
        token = engine.vocabulary.pieces[bytes([byte])]
        if not allows(engine, grammar, token):
            return False
        engine.loaded.api.llama_sampler_accept(grammar, token)
    return True


def test_copies_write_apart_from_one_another(engine: LlamaEngine) -> None:
    first = copied(engine, DATE)
    assert takes(engine, first, "2024-")
    second, third = copied(engine, DATE), copied(engine, DATE)
    assert takes(engine, second, "never") and allows(engine, second, engine.vocabulary.eos)
    assert takes(engine, first, "2025") and allows(engine, first, engine.vocabulary.eos)
    assert not takes(engine, third, "-")
    assert takes(engine, third, "1999-2000") and not takes(engine, third, "1")
    for made in (first, second, third):
        engine.loaded.api.llama_sampler_free(made)


def test_more_grammars_than_are_kept(engine: LlamaEngine) -> None:
    words = [f"word{number}" for number in range(9)]
    for word in [*words, *words, *reversed(words)]:
        made = copied(engine, f'root ::= "{word}"')
        assert takes(engine, made, word) and allows(engine, made, engine.vocabulary.eos)
        engine.loaded.api.llama_sampler_free(made)


def test_a_copy_outlives_what_it_was_copied_from(engine: LlamaEngine) -> None:
    made = copied(engine, DATE)
    engine.loaded.grammars.close()
    assert takes(engine, made, "2024-2025")
    engine.loaded.api.llama_sampler_free(made)


def test_half_of_a_character_is_not_text_of_a_grammar(engine: LlamaEngine) -> None:
    with pytest.raises(SlmError, match="grammar"):
        copied(engine, 'root ::= "a" \ud800')
