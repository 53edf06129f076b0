"""What is not evaluated again, for every kind of memory: the same logits as a fresh evaluation, and how much is reused."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from gguf_memories import MEMORIES, WINDOW

from slmchat.engine import llama
from slmchat.engine.context import Context
from slmchat.engine.kvstore import KvStore
from slmchat.engine.requests import Limits, Part, Prompt, SessionSettings
from slmchat.engine.results import Event, Finish, FinishReason
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.session import LlamaSession
from slmchat.errors import ExitCode, SlmError

pytestmark = pytest.mark.real

GREEDY = SamplerSettings(temperature=0)
# A turn of more tokens than a window and its spare cells hold (64 + 512, rounded up to 768), so that they are gone after
# it; and such that behind two turns the window begins at the end of the cells and goes on at their beginning.
LONG = 783


class Timeline:
    """A session, driven by tokens."""

    def __init__(self, engine: llama.LlamaEngine, **settings: object) -> None:
        values = {"n_ctx": 4096, "threads": 1, "threads_batch": 1, "flash_attention": False, **settings}
        self.engine = engine
        self.session = engine.open_session(SessionSettings(**values))  # type: ignore[arg-type]

    def ask(self, tokens: Sequence[int], cache_hints: Sequence[Sequence[int]] = ()) -> tuple[int, np.ndarray]:
        """Bring the session to these tokens; how many were known, and the logits behind the last."""
        cached = self.session._memory.reuse(tokens)
        assert list(self.session._memory.prefill(tokens, cache_hints))[-1] == len(tokens)
        return cached, self.logits()

    def answer(self, tokens: Sequence[int]) -> None:
        """Tokens one by one, as they are generated."""
        for token in tokens:
            self.session._context.evaluate_one(token)

    def logits(self) -> np.ndarray:
        row = self.session._loaded.api.llama_get_logits_ith(self.session._context.handle, -1)
        return np.ctypeslib.as_array(row, (self.engine.vocabulary.n_tokens,)).copy()


def _tokens(seed: int, length: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(300, 500, length)]


def _assert_same(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal but for the rounding of other batches; a cell too few or too many moves logits by a good part of this."""
    assert np.abs(found - wanted).max() < 0.05 * wanted.std()


@pytest.fixture(params=MEMORIES, scope="module")
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[llama.LlamaEngine]:
    made = llama.load(MEMORIES[request.param](tmp_path_factory.mktemp("tiny") / "m.gguf"))
    yield made
    made.close()


@pytest.fixture
def timeline(engine: llama.LlamaEngine) -> Iterator[Callable[..., Timeline]]:
    made: list[Timeline] = []

    def open_one(**settings: object) -> Timeline:
        made.append(Timeline(engine, **settings))
        return made[-1]

    yield open_one
    for one in made:
        one.session.close()


QUESTION, ANSWER, NEXT, OTHER = _tokens(1, LONG), _tokens(2, LONG), _tokens(3, 30), _tokens(4, 30)


def test_every_turn_evaluates_only_what_is_new(timeline: Callable[..., Timeline]) -> None:
    chat, fresh = timeline(), timeline()
    chat.ask(QUESTION)
    chat.answer(ANSWER)
    said = QUESTION + ANSWER
    cached, logits = chat.ask(said + NEXT)
    assert cached == len(said)
    _assert_same(logits, fresh.ask(said + NEXT)[1])


def test_retry_evaluates_nothing_that_was_known(timeline: Callable[..., Timeline]) -> None:
    chat = timeline()
    logits = chat.ask(QUESTION)[1]
    for _retry in range(2):
        chat.answer(ANSWER)
        cached, again = chat.ask(QUESTION)
        assert cached == len(QUESTION) - 1  # the last token's logits are needed again
        _assert_same(again, logits)


def test_undo_evaluates_nothing_that_was_known(timeline: Callable[..., Timeline]) -> None:
    chat, fresh = timeline(), timeline()
    chat.ask(QUESTION)
    chat.answer(ANSWER)
    said = QUESTION + ANSWER
    chat.ask(said + NEXT)
    chat.answer(ANSWER)
    cached, logits = chat.ask(said + OTHER)
    assert cached == len(said)
    _assert_same(logits, fresh.ask(said + OTHER)[1])


@pytest.mark.parametrize("length", [10, LONG // 2, LONG - 1, LONG + 5])
def test_going_back_anywhere_gives_what_a_fresh_evaluation_gives(
    timeline: Callable[..., Timeline], length: int
) -> None:
    chat, fresh = timeline(), timeline()
    chat.ask(QUESTION)
    chat.answer(ANSWER)
    wanted = (QUESTION + ANSWER)[:length] + OTHER
    _assert_same(chat.ask(wanted)[1], fresh.ask(wanted)[1])


@pytest.mark.parametrize("offset", [-12, -1, 0])
def test_going_back_to_where_the_window_is_just_not_lost(timeline: Callable[..., Timeline], offset: int) -> None:
    chat, fresh = timeline(is_multi_turn=False), timeline()
    chat.ask(QUESTION + ANSWER)
    context = chat.session._context
    first = chat.session._loaded.api.llama_memory_seq_pos_min(context._memory, 0)
    length = min(max(first + WINDOW - 1 + offset, 1), len(QUESTION + ANSWER))
    wanted = (QUESTION + ANSWER)[:length] + OTHER
    cached, logits = chat.ask(wanted)
    if first > 0 and chat.engine.info.architecture == "gemma3":
        assert cached == (length if offset == 0 else 0)  # one cell too few moves logits by less than rounding here
    _assert_same(logits, fresh.ask(wanted)[1])


def test_snapshots_of_what_was_said_otherwise_are_not_used(timeline: Callable[..., Timeline]) -> None:
    chat, fresh = timeline(), timeline()
    chat.ask(QUESTION)
    chat.answer(ANSWER)
    chat.ask(QUESTION + ANSWER + NEXT)
    otherwise = QUESTION + _tokens(5, 2 * LONG)
    assert chat.ask(otherwise)[0] >= len(QUESTION) - 1
    wanted = otherwise[: len(QUESTION + ANSWER + NEXT)] + OTHER  # a snapshot of this length was taken before
    _assert_same(chat.ask(wanted)[1], fresh.ask(wanted)[1])


@pytest.mark.parametrize("flash", [False, True])
def test_a_state_from_the_disk_goes_on_as_if_nothing_had_been(
    timeline: Callable[..., Timeline], tmp_path: Path, flash: bool
) -> None:
    chat = timeline(store=KvStore(tmp_path), flash_attention=flash)
    chat.ask(QUESTION)
    chat.answer(ANSWER)
    chat.session.keep("a")
    said = QUESTION + ANSWER
    # another window: the state is valid in it
    resumed = timeline(store=KvStore(tmp_path), n_ctx=len(said) + 256, flash_attention=flash)
    cached, logits = resumed.ask(said + NEXT)
    assert cached == len(said)
    assert (logits == chat.ask(said + NEXT)[1]).all()  # not only close
    assert resumed.ask(said + NEXT)[0] == len(said + NEXT) - 1


@pytest.mark.parametrize("flash", [False, True])
def test_a_shared_beginning_is_evaluated_once(timeline: Callable[..., Timeline], tmp_path: Path, flash: bool) -> None:
    first = timeline(store=KvStore(tmp_path), is_multi_turn=False, flash_attention=flash)
    cache_hints = [[*QUESTION, 7]]
    assert first.ask(QUESTION + NEXT, cache_hints)[0] == 0
    second = timeline(store=KvStore(tmp_path), is_multi_turn=False, flash_attention=flash)
    cached, logits = second.ask(QUESTION + OTHER, cache_hints)
    assert len(QUESTION) - 4 <= cached <= len(QUESTION)
    without = timeline(is_multi_turn=False, flash_attention=flash)
    assert (logits == without.ask(QUESTION + OTHER, cache_hints)[1]).all()  # no store: the same batches all the same


def test_the_same_prompt_again_from_the_disk(timeline: Callable[..., Timeline], tmp_path: Path) -> None:
    chat = timeline(store=KvStore(tmp_path))
    logits = chat.ask(QUESTION)[1]
    chat.session.keep("a")
    again = timeline(store=KvStore(tmp_path))
    cached, found = again.ask(QUESTION)
    assert cached in (0, len(QUESTION) - 1)  # 0: a recurrent state cannot go back by the one token
    _assert_same(found, logits)


def test_a_state_that_does_not_fit_the_context_is_not_used(timeline: Callable[..., Timeline], tmp_path: Path) -> None:
    chat = timeline(store=KvStore(tmp_path))
    chat.ask(QUESTION + ANSWER)
    chat.session.keep("a")
    small, fresh = timeline(store=KvStore(tmp_path), n_ctx=1024), timeline()
    cached, logits = small.ask(QUESTION + NEXT)
    assert cached == 0
    _assert_same(logits, fresh.ask(QUESTION + NEXT)[1])


def test_a_state_of_other_cells_is_not_used(timeline: Callable[..., Timeline], tmp_path: Path) -> None:
    chat = timeline(store=KvStore(tmp_path), flash_attention=True)
    chat.ask(QUESTION)
    chat.session.keep("a")
    assert timeline(store=KvStore(tmp_path), flash_attention=False).ask(QUESTION + NEXT)[0] == 0
    assert timeline(store=KvStore(tmp_path), flash_attention=True).ask(QUESTION + NEXT)[0] == len(QUESTION)


def test_what_a_state_depends_on_is_in_its_key(engine: llama.LlamaEngine) -> None:
    def folder(**settings: object) -> str:
        values = {"n_ctx": 512, "threads": 1, "threads_batch": 1, **settings}
        return engine._state_key(SessionSettings(**values)).folder  # type: ignore[arg-type]

    assert folder(n_ctx=1024, threads=2) == folder()
    assert len({folder(), folder(kv_type="q8_0"), folder(flash_attention=True), folder(flash_attention=False)}) == 4


def _last(events: Iterator[Event]) -> Finish:
    finish = list(events)[-1]
    assert isinstance(finish, Finish)
    return finish


@pytest.mark.model
@pytest.mark.parametrize("model", ["smollm2", "gemma3_base"])
def test_real_weights_resume_and_go_back_with_the_same_text(
    model: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Longer than Gemma's window of 512 tokens, over its spare cells, too: what is further back than these is lost."""
    engine = llama.load(request.getfixturevalue(model))

    def opened(store: KvStore | None) -> LlamaSession:
        # as many spare cells as a batch has tokens: with few there are fewer to read past
        settings = SessionSettings(1536, 2, 2, batch_tokens=128, store=store, speculation="off")
        return engine.open_session(settings)

    def asked(session: LlamaSession, prompt: Prompt, n: int) -> Finish:
        return _last(session.generate(prompt, GREEDY, Limits(n)))

    words = " ".join(f"item {n} is {n * n}," for n in range(30 if model == "smollm2" else 90))
    begin, back = Part(words), Part(words[: len(words) // 6])
    chat = opened(KvStore(tmp_path))
    first = asked(chat, Prompt((begin,)), 8)
    chat.keep("a")
    more = Prompt((begin, Part("", tokens=first.tokens), Part(" and then item 9 was")))
    going_on = asked(chat, more, 12)
    fresh = opened(None)
    gone_back = asked(chat, Prompt((back,)), 16)
    assert gone_back.tokens == asked(fresh, Prompt((back,)), 16).tokens
    on = asked(chat, Prompt((back, Part("", tokens=gone_back.tokens), Part(" and"))), 1)
    assert on.usage.cached_tokens > 0.9 * on.usage.prompt_tokens
    chat.close()
    fresh.close()
    resumed = opened(KvStore(tmp_path))
    finish = asked(resumed, more, 12)
    assert finish.usage.cached_tokens == first.usage.prompt_tokens + first.usage.completion_tokens - 1
    assert finish.tokens == going_on.tokens
    resumed.close()
    engine.close()


def _tokens_of(session: LlamaSession, n_tokens: int) -> Finish:
    prompt = Prompt((Part("", tokens=tuple(_tokens(7, 199))),))  # and a BOS
    *_, finish = session.generate(prompt, SamplerSettings(seed=7), Limits(n_tokens))
    assert isinstance(finish, Finish)
    return finish


def test_a_window_that_grows_gives_the_same_answer_and_evaluates_nothing_again(
    timeline: Callable[..., Timeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    large, grown = (timeline(speculation="off", **sizes).session for sizes in ({}, {"n_ctx": 256, "most_ctx": 1100}))
    evaluated: list[int] = []
    evaluate = Context._evaluated
    monkeypatch.setattr(
        Context, "_evaluated", lambda self, status, new: (evaluated.append(len(new)), evaluate(self, status, new))[1]
    )
    finish = _tokens_of(grown, 330)
    assert (grown.n_ctx, finish.usage.completion_tokens) == (1024, 330)
    assert sum(evaluated) == 200 + 329
    assert finish.tokens == _tokens_of(large, 330).tokens


def test_a_window_grows_no_further_than_it_may(timeline: Callable[..., Timeline]) -> None:
    session = timeline(n_ctx=256, most_ctx=300).session
    finish = _tokens_of(session, 600)
    assert (session.n_ctx, finish.reason, finish.usage.completion_tokens) == (300, FinishReason.CONTEXT, 101)
    session.close()


def test_a_window_that_cannot_grow_goes_on_as_it_was(
    timeline: Callable[..., Timeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = timeline(n_ctx=256, most_ctx=1024, speculation="off").session
    whole = _tokens_of(timeline(n_ctx=256).session, 600)
    make = Context._open

    def refuse(self: Context, n_ctx: int) -> None:
        if n_ctx > 256:
            raise SlmError("no memory.", exit_code=ExitCode.NO_FIT)
        make(self, n_ctx)

    monkeypatch.setattr(Context, "_open", refuse)
    finish = _tokens_of(session, 600)
    assert (session.n_ctx, finish.reason, finish.tokens) == (256, FinishReason.CONTEXT, whole.tokens)
