"""How many tokens a long text has at least: never more than it has, and enough to refuse 100 MB without a minute."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
from gguf_samples import write_tiny_llama
from properties import given
from properties import strategies as st

from slmchat.engine import context, llama, vocabulary
from slmchat.engine.least_tokens import LeastTokens
from slmchat.engine.requests import Limits, Part, Prompt, Request, SessionSettings
from slmchat.engine.results import AtLeast
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.wording import counted

real = pytest.mark.real

TEXTS = st.text(alphabet="abet h\u2581 \n\t.,-\u00e9\u4e2d\U0001f600\x000179<|>", max_size=60)


@pytest.fixture(scope="module", params=["spm", "bpe"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[llama.LlamaEngine]:
    kind: Literal["spm", "bpe"] = request.param
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    made = llama.load(write_tiny_llama(path, chat_template=None, tokenizer=kind, context_length=512))
    yield made
    made.close()


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """All prompts are long ones."""
    monkeypatch.setattr(vocabulary, "_LONG", 1)


def _plain(*texts: str) -> Prompt:
    return Prompt(tuple(Part(text) for text in texts))


@real
@pytest.mark.usefixtures("looked_at")
@given(st.lists(TEXTS, max_size=4))
def test_no_text_has_fewer(engine: llama.LlamaEngine, texts: list[str]) -> None:
    prompt = _plain(*texts)
    assert engine.vocabulary.least_tokens(prompt) <= len(engine.vocabulary.tokenize(prompt))


@real
@pytest.mark.model
@pytest.mark.usefixtures("looked_at")
@pytest.mark.parametrize("name", ["smollm2", "gemma3_base"])
def test_nor_has_it_in_a_real_vocabulary(name: str, request: pytest.FixtureRequest) -> None:
    engine = llama.load(request.getfixturevalue(name))
    try:
        for text in (Path(__file__).read_text(encoding="utf-8"), "\u2581" * 999, "a" * 999, "\n" * 999):
            assert engine.vocabulary.least_tokens(_plain(text)) <= engine.count(_plain(text))
        assert engine.vocabulary.least_tokens(_plain("words " * 500)) >= 2500 / 48  # the longest has 48 letters
    finally:
        engine.close()


@real
@pytest.mark.usefixtures("looked_at")
def test_what_cannot_fit_is_refused_without_being_tokenized(
    engine: llama.LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "the people said " * 2000
    least = engine.vocabulary.least_tokens(_plain(text))
    assert least > 512
    settings = SessionSettings(n_ctx=512, threads=1, threads_batch=1)
    session, pool = engine.open_session(settings), engine.open_pool(settings, 1)
    streams = engine.open_stream_pool(settings, 1)
    request = Request(1, _plain(text), SamplerSettings(), Limits(4))
    monkeypatch.setattr(vocabulary.Vocabulary, "tokenize", _not_at_all)
    try:
        with pytest.raises(AssertionError, match="tokenized"):
            engine.count(_plain(text))  # nobody says how many are too many: all of them are counted
        n_tokens = engine.count(_plain(text), 512)
        assert isinstance(n_tokens, AtLeast) and n_tokens == least
        errors = [error for done in pool.run(iter([request])) if (error := done.error)]
        for begin in (
            lambda: list(session.generate(_plain(text), SamplerSettings(), Limits(4))),
            lambda: streams.begin(request),
        ):
            with pytest.raises(SlmError) as caught:
                begin()
            errors.append(caught.value)
        for error in errors:
            assert error.message == f"the prompt is at least {least:,} tokens and the context window holds 512."
            assert error.exit_code is ExitCode.CONTEXT
        assert len(errors) == 3
    finally:
        for made in (session, pool, streams):
            made.close()


def _not_at_all(*_: object) -> list[int]:
    raise AssertionError("tokenized")


def test_a_short_prompt_is_not_looked_at() -> None:
    made = object.__new__(vocabulary.Vocabulary)
    made.tokenize = lambda prompt: [1, 2]  # type: ignore[method-assign]
    assert context.tokens_within(made, _plain("hi"), 512) == [1, 2]


@pytest.mark.parametrize("kind", [3, 4, 5, 6])
def test_a_vocabulary_with_a_token_for_any_word_tells_nothing(kind: int) -> None:
    # WordPiece has one token for a word that it does not know, however long it is.
    api = SimpleNamespace(llama_vocab_type=lambda _: kind, LLAMA_VOCAB_TYPE_SPM=1, LLAMA_VOCAB_TYPE_BPE=2)
    assert LeastTokens(api, None, 1, lambda token: b"a").of(["word " * 9]) == 0  # type: ignore[arg-type]


def test_a_byte_without_a_token_counts_for_nothing() -> None:
    api = SimpleNamespace(llama_vocab_type=lambda _: 2, LLAMA_VOCAB_TYPE_SPM=1, LLAMA_VOCAB_TYPE_BPE=2)
    pieces = [b"a", b"b", b"ab", b"--------"]
    least = LeastTokens(api, None, len(pieces), pieces.__getitem__)  # type: ignore[arg-type]
    assert [least.of([text]) for text in ("", "abab", "aba", "ccccc", "c-a-c")] == [0, 2, 2, 0, 1]
    assert least.of(["a", "b"]) == 1  # they may be one token


def test_a_sentence_says_that_it_is_not_all_of_them() -> None:
    n_tokens = AtLeast(2_000)
    assert f"{n_tokens:,} tokens" == "at least 2,000 tokens"
    assert counted(n_tokens - 500, "token") == "at least 1,500 tokens"
    assert counted(sum([1, n_tokens, 1]), "token") == "at least 2,002 tokens"
