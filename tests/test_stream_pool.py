"""Completions side by side that are read while they come: texts, sequences that stay, a full cache, who waits how long."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from gguf_samples import WORDS, write_tiny_gemma3, write_tiny_llama, write_tiny_mamba

from slmchat.engine import kept_sequences, llama, stream_pool
from slmchat.engine.kvstore import KvStore
from slmchat.engine.parallelism import CellPlan, plan_streams
from slmchat.engine.requests import Limits, Part, Prompt, Request, SessionSettings
from slmchat.engine.results import Chunk, Event, Finish, FinishReason, Prefill
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.stream_pool import LlamaStreamPool
from slmchat.errors import ExitCode, SlmError

pytestmark = pytest.mark.real

GREEDY = SamplerSettings(temperature=0)
HEAD = "the people said that it was not the first time and there were many other words about water and oil " * 3

KINDS: dict[str, Callable[[Path], Path]] = {
    "llama": lambda path: write_tiny_llama(path, chat_template=None, context_length=512),
    "sliding window": write_tiny_gemma3,
    "recurrent": write_tiny_mamba,
}


@pytest.fixture(scope="module", params=KINDS)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[llama.LlamaEngine]:
    engine = llama.load(KINDS[request.param](tmp_path_factory.mktemp("models") / "tiny.gguf"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[llama.LlamaEngine]:
    engine = llama.load(KINDS["llama"](tmp_path_factory.mktemp("models") / "tiny.gguf"))
    yield engine
    engine.close()


Open = Callable[..., LlamaStreamPool]


@pytest.fixture
def open_pool() -> Iterator[Open]:
    opened: list[LlamaStreamPool] = []

    def open_one(
        engine: llama.LlamaEngine, parallel: int = 3, store: KvStore | None = None, cells: int | None = None
    ) -> LlamaStreamPool:
        settings = SessionSettings(512, threads=1, threads_batch=1, store=store)
        if cells is None:
            opened.append(engine.open_stream_pool(settings, parallel))
        else:
            plan = CellPlan(cells, parallel, True, "a test")
            settings = engine._settled(settings, cells)
            key = engine._state_key(settings)
            opened.append(LlamaStreamPool(engine.loaded, settings, plan, key))
        return opened[-1]

    yield open_one
    for pool in opened:
        pool.close()


def _plain(text: str, *hints: str) -> Prompt:
    return Prompt((Part(text),), cache_hints=tuple(_plain(hint) for hint in hints))


def _prompts(count: int) -> list[Prompt]:
    return [_plain(HEAD + " ".join(WORDS[n : n + 3 + n % 5])) for n in range(count)]


def _events(
    pool: LlamaStreamPool, prompts: Sequence[Prompt], limits: Limits | None = None
) -> dict[int, list[Event | SlmError]]:
    """Everything that comes of these prompts, all asked at once."""
    waiting = [Request(n, prompt, GREEDY, limits or Limits(20)) for n, prompt in enumerate(prompts)]
    found: dict[int, list[Event | SlmError]] = {request.id: [] for request in waiting}
    while waiting or not pool.is_idle:
        while waiting and pool.has_room:
            request = waiting.pop(0)
            try:
                found[request.id].append(pool.begin(request))
            except SlmError as error:
                found[request.id].append(error)
        for number, event in pool.step():
            found[number].append(event)
    return found


def _text(events: Sequence[Event | SlmError]) -> str:
    return "".join(event.text for event in events if isinstance(event, Chunk))


def _finish(events: Sequence[Event | SlmError]) -> Finish:
    assert isinstance(events[-1], Finish), events
    return events[-1]


def _alone(engine: llama.LlamaEngine, prompts: Sequence[Prompt]) -> list[str]:
    texts = []
    for prompt in prompts:
        session = engine.open_session(SessionSettings(512, threads=1, threads_batch=1))
        texts.append(_text(list(session.generate(prompt, GREEDY, Limits(20)))))
        session.close()
    return texts


def test_as_alone_and_while_it_comes(engine: llama.LlamaEngine, open_pool: Open) -> None:
    prompts = _prompts(8)
    expected = _alone(engine, prompts)
    found = _events(open_pool(engine), prompts)
    # texts may part where two tokens are nearly equally probable: the order of sums differs
    assert sum(_text(found[n])[:40] == text[:40] for n, text in enumerate(expected)) >= 7
    for n, events in found.items():
        assert isinstance(events[0], Prefill)
        assert sum(isinstance(event, Chunk) for event in events) > 5
        usage = _finish(events).usage
        assert usage.prompt_tokens == engine.count(prompts[n])
        assert usage.completion_tokens == 20
        assert usage.cached_tokens == events[0].cached


def test_a_conversation_goes_on_without_being_read_again(engine: llama.LlamaEngine, open_pool: Open) -> None:
    pool = open_pool(engine)
    said = HEAD.strip()
    first = _finish(_events(pool, [_plain(said)])[0])
    assert first.usage.cached_tokens == 0
    _events(pool, _prompts(2))  # somebody else's
    assert first.tokens is not None
    whole = Prompt((Part(said), Part("", tokens=first.tokens), Part(" and so on")))
    again = _finish(_events(pool, [whole])[0])
    assert again.usage.cached_tokens >= first.usage.prompt_tokens + first.usage.completion_tokens - 1


def test_the_same_again_is_not_read_where_the_window_has_moved_on(tmp_path: Path) -> None:
    engine = llama.load(write_tiny_gemma3(tmp_path / "tiny.gguf"))
    pool = engine.open_stream_pool(SessionSettings(512, 1, 1, batch_tokens=32), 1)
    prompt = _plain(HEAD)
    first = _finish(_events(pool, [prompt], Limits(400))[0])
    again = _finish(_events(pool, [prompt], Limits(400))[0])
    assert first.usage.cached_tokens == 0
    assert again.usage.cached_tokens == engine.count(prompt) - 1
    assert (again.tokens or ())[:40] == (first.tokens or ())[:40]
    pool.close()
    engine.close()


def test_another_last_message_comes_back_to_where_it_left(engine: llama.LlamaEngine, open_pool: Open) -> None:
    pool, ends = open_pool(engine), ["about water", "about oil", "of the first time"]
    hints = [HEAD + "zzz"]
    found = [_finish(_events(pool, [_plain(HEAD + end, *hints)])[0]).usage for end in ends]
    n_head = engine.count(_plain(HEAD))
    assert found[0].cached_tokens == 0
    assert all(usage.cached_tokens >= n_head - 6 for usage in found[1:])


def test_what_was_read_is_known_after_a_restart(engine: llama.LlamaEngine, open_pool: Open, tmp_path: Path) -> None:
    store = KvStore(tmp_path / "states")
    pool = open_pool(engine, store=store)
    first = _events(pool, [_plain(HEAD)])[0]
    assert pool.keep_one() and not pool.keep_one()
    pool.close()
    again = _events(open_pool(engine, store=store), [_plain(HEAD)])[0]
    assert _finish(again).usage.cached_tokens >= engine.count(_plain(HEAD)) - 1
    assert _text(again)[:40] == _text(first)[:40]


def _places(pool: LlamaStreamPool) -> list[int]:
    return sorted(work.kept.number for work in pool._busy)


def test_those_that_go_on_stand_side_by_side(plain: llama.LlamaEngine, open_pool: Open) -> None:
    engine, pool = plain, open_pool(plain, parallel=4)
    assert pool._sequences.is_split
    lengths = [30, 6, 30, 6]
    prompts = _prompts(4)
    for number, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        pool.begin(Request(number, prompt, GREEDY, Limits(length)))
    found: dict[int, list[Event | SlmError]] = {number: [] for number in range(4)}
    while not pool.is_idle:
        for number, event in pool.step():
            found[number].append(event)
        list_of = _places(pool)
        if len(list_of) == 2 and len(pool._busy[0].slot.held) > engine.count(prompts[0]) + 8:
            assert list_of[1] - list_of[0] == 1
    expected = _alone(engine, prompts)
    for number, events in found.items():
        assert _finish(events).usage.completion_tokens == lengths[number]
    assert sum(_text(found[n])[:15] == text[:15] for n, text in enumerate(expected)) >= 3
    # what has ended is known where it is now
    again = pool.begin(Request(9, prompts[1], GREEDY, Limits(1)))
    assert again.cached >= engine.count(prompts[1]) - 1


def test_a_conversation_comes_to_the_others(plain: llama.LlamaEngine, open_pool: Open) -> None:
    pool = open_pool(plain, parallel=3)
    texts = [" ".join(WORDS[n : n + 30]) for n in (0, 8, 16, 24)]
    for number, text in enumerate(texts):
        _events(pool, [_plain(text)], Limits(1))
        assert sum(bool(each.tokens) for each in pool._kept._all) == number + 1  # each in a sequence of its own
    far = pool.begin(Request(0, _plain(texts[0] + " and"), GREEDY, Limits(8)))
    near = pool.begin(Request(1, _plain(texts[3] + " and"), GREEDY, Limits(8)))
    low, high = _places(pool)
    assert high == low + 1
    assert far.cached >= plain.count(_plain(texts[0])) - 2
    assert near.cached >= plain.count(_plain(texts[3])) - 2
    while not pool.is_idle:
        list(pool.step())
    for text in texts[1:3]:  # those that had to go elsewhere are whole
        assert pool.begin(Request(5, _plain(text + " and"), GREEDY, Limits(1))).cached >= plain.count(_plain(text)) - 2
        while not pool.is_idle:
            list(pool.step())


def test_a_long_one_is_written_before_it_is_given_away(
    plain: llama.LlamaEngine, open_pool: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_sequences, "_LONG", 100)
    pool = open_pool(plain, parallel=1, store=KvStore(tmp_path / "states"))
    texts = [" ".join(WORDS[n:] + WORDS[:n]) for n in (0, 8, 16, 24)]
    for text in texts:
        _events(pool, [_plain(text)], Limits(1))
    assert _finish(_events(pool, [_plain(texts[0] + " and")], Limits(1))[0]).usage.cached_tokens > 100


@pytest.mark.parametrize("parallel", [1, 4])
def test_states_are_those_of_every_other_cache(
    plain: llama.LlamaEngine, open_pool: Open, tmp_path: Path, parallel: int
) -> None:
    store = KvStore(tmp_path / "states")
    prompt = _plain(HEAD)
    n_head = plain.count(prompt)
    servers: list[Callable[[], LlamaStreamPool]] = [
        lambda: open_pool(plain, parallel=parallel, store=store),
        lambda: open_pool(plain, parallel=2, store=store, cells=1024),  # one that all share
        lambda: open_pool(plain, parallel=3, store=store),
    ]
    _events(open_pool(plain, parallel=2), [prompt])
    first = servers[0]()
    _events(first, [_plain("other words"), prompt])
    while first.keep_one():
        pass
    assert [open_one()._sequences.is_split for open_one in servers] == [True, False, True]
    for open_one in servers[1:]:
        pool = open_one()
        _events(pool, [_plain("yet others of them")])
        assert _finish(_events(pool, [_plain(HEAD + " and so on")])[0]).usage.cached_tokens >= n_head - 1
    settings = SessionSettings(512, 1, 1, store=store)
    session = plain.open_session(settings)
    finish = list(session.generate(_plain(HEAD + " and so on"), GREEDY, Limits(4)))[-1]
    assert isinstance(finish, Finish) and finish.usage.cached_tokens >= n_head - 1
    session.keep("", is_resting=True)
    session.close()


def test_private_leaves_nothing(plain: llama.LlamaEngine, open_pool: Open) -> None:
    pool = open_pool(plain)
    _events(pool, [_plain(HEAD)])
    assert not pool.keep_one()


def test_a_full_cache_lets_some_wait_and_none_is_wrong(plain: llama.LlamaEngine, open_pool: Open) -> None:
    prompts = [_plain(" ".join(WORDS[n : n + 8]) + " " + HEAD) for n in range(6)]
    expected = _alone(plain, prompts)
    n_each = plain.count(prompts[0]) + 20
    found = _events(open_pool(plain, parallel=3, cells=max(512, 2 * n_each)), prompts)
    assert sum(_text(found[n])[:40] == text[:40] for n, text in enumerate(expected)) >= 5
    assert all(_finish(events).usage.completion_tokens == 20 for events in found.values())


def test_the_end_of_the_window(plain: llama.LlamaEngine, open_pool: Open) -> None:
    (events,) = _events(open_pool(plain), [_plain(HEAD)], Limits()).values()
    finish = _finish(events)
    assert finish.reason in (FinishReason.CONTEXT, FinishReason.STOP)
    if finish.reason is FinishReason.CONTEXT:
        assert finish.usage.prompt_tokens + finish.usage.completion_tokens == 513


def test_a_prompt_that_does_not_fit_is_an_error_of_its_own(plain: llama.LlamaEngine, open_pool: Open) -> None:
    found = _events(open_pool(plain), [_plain(HEAD * 9), _plain(HEAD), Prompt((Part(""),))])
    assert isinstance(found[0][-1], SlmError) and found[0][-1].exit_code is ExitCode.CONTEXT
    assert _finish(found[1]).usage.completion_tokens == 20


def test_cancelled_ends_and_the_others_go_on(plain: llama.LlamaEngine, open_pool: Open) -> None:
    pool = open_pool(plain)
    for number in (0, 1):
        pool.begin(Request(number, _plain(HEAD + WORDS[number]), GREEDY, Limits(20)))
    seen: dict[int, list[Event | SlmError]] = {0: [], 1: []}
    finish: Finish | None = None
    while not pool.is_idle:
        for number, event in pool.step():
            seen[number].append(event)
        if finish is None and sum(isinstance(event, Chunk) for event in seen[0]) >= 3:
            finish = pool.cancel(0)
            assert finish is not None and finish.reason is FinishReason.INTERRUPTED
    assert _finish(seen[1]).usage.completion_tokens == 20
    assert not any(isinstance(event, Finish) for event in seen[0])
    assert pool.cancel(0) is None
    again = pool.begin(Request(2, _plain(HEAD + WORDS[0]), GREEDY, Limits(1)))
    assert again.cached == again.total - 1  # what it had read is kept


def test_a_long_prompt_is_read_in_pieces_beside_an_answer(
    plain: llama.LlamaEngine, open_pool: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_pool, "_FIRST_SPEED", 100.0)
    monkeypatch.setattr(
        stream_pool.LlamaStreamPool, "_measure", lambda *_: None
    )  # that of this machine does not matter
    pool = open_pool(plain)
    pool.begin(Request(0, _plain("hello"), GREEDY, Limits(60)))
    list(pool.step())
    long = pool.begin(Request(1, _plain(HEAD * 3), GREEDY, Limits(1)))
    done, n_between = [long.done], []
    while done[-1] < long.total:
        events = list(pool.step())
        n_between.append(sum(number == 0 and isinstance(event, Chunk) for number, event in events))
        done += [event.done for number, event in events if number == 1 and isinstance(event, Prefill)]
    steps = [after - before for before, after in itertools.pairwise(done)]
    assert max(steps) == 20  # 0.2 s of it
    assert sum(n_between) > len(steps) / 2


def test_a_slower_piece_counts_at_once(plain: llama.LlamaEngine, open_pool: Open) -> None:
    pool = open_pool(plain)

    def after(*sizes: int, seconds: float) -> float:
        spans = [(stream_pool.TokenSpan(0, 0, [1] * size), None) for size in sizes]
        pool._measure(spans, seconds)  # type: ignore[arg-type]
        return pool._speed

    assert after(512, seconds=0.5) == 200  # alone: no more than the first guess
    assert after(512, seconds=5.0) == pytest.approx(51.2)  # a slow device
    assert after(40, 1, seconds=0.2) == pytest.approx(51.2 + 0.3 * (205 - 51.2))
    assert after(19, 1, seconds=1.0) == pytest.approx(20)  # what has become slow, is
    assert after(512, seconds=0.1) == pytest.approx(20)  # a large batch tells nothing of a piece any more
    assert after(1, 1, seconds=0.1) == pytest.approx(20)


@pytest.mark.parametrize(
    ("parallel", "memory", "cells", "most"), [(None, None, 2048, 4), (1, None, 1024, 1), (None, 1, 1024, 4)]
)
def test_how_many_cells(parallel: int | None, memory: int | None, cells: int, most: int) -> None:
    plan = plan_streams(1024, parallel, 1000.0, memory)
    assert (plan.cells, plan.most, plan.n_split) == (cells, most, 0)


@pytest.mark.parametrize(
    ("n_ctx", "parallel", "memory", "n_split"),
    [
        (1000, None, None, 5),
        (1000, None, 20_480_000, 5),  # a quarter of it is five windows of 1,024
        (1000, None, 20_479_000, 0),
        (1000, 16, None, 17),
        (100_000, None, None, 0),  # nobody asked for so much
        (100_000, 4, None, 5),
        (100_000, 4, 10**9, 0),
    ],
)
def test_when_each_has_cells_of_its_own(n_ctx: int, parallel: int | None, memory: int | None, n_split: int) -> None:
    plan = plan_streams(n_ctx, parallel, 1000.0, memory, can_split=True)
    assert plan.n_split == n_split
    assert plan.cells >= max(1, n_split) * n_ctx
