"""Many completions at once: the same texts as alone, for every kind of memory; limits, a full cache, lazy requests, cancel."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from gguf_samples import WORDS, write_tiny_gemma3, write_tiny_llama, write_tiny_mamba, write_tiny_phi3

from slmchat.engine import llama
from slmchat.engine.feed import Feed
from slmchat.engine.kvstore import KvStore
from slmchat.engine.parallelism import CellPlan, Growth, plan_cells
from slmchat.engine.pool import LlamaPool
from slmchat.engine.requests import Choices, Limits, Part, Prompt, Request, SessionSettings
from slmchat.engine.results import Chunk, Finish, FinishReason, Result
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.sequences import TokenSpan
from slmchat.engine.shared_prefix import SECOND_PROMPT_S
from slmchat.errors import ExitCode, SlmError

pytestmark = pytest.mark.real

GREEDY = SamplerSettings(temperature=0)
HEAD = "the people said that it was not the first time and there were many other words about water and oil " * 3
OTHER = HEAD[: len(HEAD) // 2] + "now for something that has not been said by any other people " * 2


def _llama(path: Path) -> Path:
    return write_tiny_llama(path, chat_template=None, context_length=512)


def _phi3(path: Path) -> Path:
    return write_tiny_phi3(path, context_length=512)


KINDS = {"llama": _llama, "phi3": _phi3, "sliding window": write_tiny_gemma3, "recurrent": write_tiny_mamba}


@pytest.fixture(scope="module", params=KINDS)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[llama.LlamaEngine]:
    engine = llama.load(KINDS[request.param](tmp_path_factory.mktemp("models") / "tiny.gguf"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[llama.LlamaEngine]:
    engine = llama.load(_llama(tmp_path_factory.mktemp("models") / "tiny.gguf"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def wide_window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[llama.LlamaEngine]:
    """A sliding window that is as long as a context window of 512 tokens."""
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    engine = llama.load(write_tiny_gemma3(path, window=512))
    yield engine
    engine.close()


def _settings(n_ctx: int = 512) -> SessionSettings:
    return SessionSettings(n_ctx, threads=1, threads_batch=1)


def _plain(text: str) -> Prompt:
    return Prompt((Part(text),))


def _prompts(count: int, head: str = HEAD) -> list[Prompt]:
    return [_plain(head + " ".join(WORDS[n : n + 3 + n % 5])) for n in range(count)]


def _requests(
    prompts: Sequence[Prompt], limits: Limits | None = None, sampler: SamplerSettings = GREEDY
) -> Iterator[Request | Result]:
    return (Request(n, prompt, sampler, limits or Limits(20)) for n, prompt in enumerate(prompts))


def _alone(
    engine: llama.LlamaEngine,
    prompts: Sequence[Prompt],
    limits: Limits | None = None,
    sampler: SamplerSettings = GREEDY,
) -> list[str]:
    texts = []
    for prompt in prompts:  # a fresh session for each: nothing is shared, nothing is copied
        session = engine.open_session(_settings())
        events = session.generate(prompt, sampler, limits or Limits(20))
        texts.append("".join(event.text for event in events if isinstance(event, Chunk)))
        session.close()
    return texts


@pytest.fixture
def open_pool() -> Iterator[Callable[..., LlamaPool]]:
    opened: list[LlamaPool] = []

    def open_one(
        engine: llama.LlamaEngine, parallel: int | None = 4, n_ctx: int = 512, cells: int | None = None
    ) -> LlamaPool:
        if cells is None:
            opened.append(engine.open_pool(_settings(n_ctx), parallel))
        else:
            plan = CellPlan(cells, parallel or 1, True, "a test")
            opened.append(LlamaPool(engine.loaded, _settings(n_ctx), plan))
        return opened[-1]

    yield open_one
    for pool in opened:
        pool.close()


def _results(done: Iterator[Result]) -> dict[int, Result]:
    found = {each.id: each for each in done}
    assert all(each.error is None for each in found.values()), [each.error for each in found.values()]
    return found


def _n_equal(found: dict[int, Result], expected: Sequence[str], characters: int = 40) -> int:
    """Texts may part where two tokens are nearly equally probable: the order of sums differs. Wrong is nearly all."""
    assert set(found) == set(range(len(expected)))
    return sum(found[n].text[:characters] == text[:characters] for n, text in enumerate(expected))


Open = Callable[..., LlamaPool]


class TestEqualTexts:
    def test_as_alone(self, engine: llama.LlamaEngine, open_pool: Open) -> None:
        prompts = _prompts(16)
        expected = _alone(engine, prompts)
        assert len(set(expected)) > 12
        found = _results(open_pool(engine).run(_requests(prompts)))
        assert _n_equal(found, expected) >= 14
        n_head = engine.count(_plain(HEAD))
        cached = [found[n].finish.usage.cached_tokens for n in found]  # type: ignore[union-attr]
        assert sum(count >= n_head - 6 for count in cached) >= 15  # the first may have been alone
        for n, each in found.items():
            assert each.finish is not None
            assert each.finish.usage.prompt_tokens == engine.count(prompts[n])

    def test_prompts_of_another_kind_in_between_and_then_for_good(self, engine: llama.LlamaEngine) -> None:
        prompts = [*_prompts(5), _plain("hello world"), *_prompts(4), *_prompts(6, OTHER), *_prompts(2, "what is ")]
        expected = _alone(engine, prompts)
        pool = engine.open_pool(replace(_settings(), waits_for_requests=True), 3)  # the same batches on a busy machine
        found = _results(pool.run(_requests(prompts)))
        pool.close()
        assert _n_equal(found, expected) >= len(prompts) - 2
        again = found[15].finish
        assert again and again.usage.cached_tokens > 0.7 * engine.count(_plain(OTHER[: len(HEAD) // 2]))

    def test_rows_that_begin_more_alike_at_first_than_later(self, engine: llama.LlamaEngine) -> None:
        """Ten rows share more than the others do. Where that cannot be cut off, the head would be read twice more."""
        rows = [f"{HEAD}a {kind} {word}" for kind in ("cheap wooden", "large red") for word in WORDS[:10]]
        pool = engine.open_pool(
            SessionSettings(512, 1, 1, waits_for_requests=True)
        )  # it waits for rows, on any machine
        found = _results(pool.run(_requests([_plain(row) for row in rows], Limits(2))))
        pool.close()
        counts = [each.finish.usage for each in found.values() if each.finish is not None]
        assert sum(each.prompt_tokens - each.cached_tokens for each in counts) < len(rows) * 40
        assert min(each.cached_tokens for each in counts) >= engine.count(_plain(HEAD)) - 6

    def test_a_seed_gives_the_same_text_each_time(self, engine: llama.LlamaEngine, open_pool: Open) -> None:
        sampler = SamplerSettings(temperature=1.0, seed=11)
        prompts = _prompts(4) * 2
        expected = _alone(engine, prompts[:4], sampler=sampler) * 2
        found = _results(open_pool(engine).run(_requests(prompts, sampler=sampler)))
        # At temperature 1 every token is a chance to part, and it depends on the processor where: a few tokens count.
        assert _n_equal(found, expected, characters=10) >= 6
        assert all(each.finish and each.finish.seed == 11 for each in found.values())

    def test_those_that_are_all_there_share_their_batches_however_late_they_come(
        self, engine: llama.LlamaEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else the last bits of a seed's answer hang on how busy the machine is."""
        prompts = [_plain(HEAD)] * 3

        def late() -> Iterator[Request]:
            for request in _requests(prompts, Limits(3)):
                threading.Event().wait(3 * SECOND_PROMPT_S)  # held up by other programs
                yield request

        def batches(requests: Iterator[Request]) -> list[int]:
            pool = engine.open_pool(SessionSettings(512, 1, 1, waits_for_requests=True), 3)
            evaluate, sizes = pool._sequences.evaluate, []
            monkeypatch.setattr(
                pool._sequences, "evaluate", lambda spans: (sizes.append(len(spans)), evaluate(spans))[1]
            )
            _results(pool.run(requests))
            pool.close()
            return sizes

        assert batches(late()) == batches(_requests(prompts, Limits(3)))

    def test_a_full_cache_makes_some_wait_and_none_wrong(self, engine: llama.LlamaEngine, open_pool: Open) -> None:
        prompts = _prompts(10)
        expected = _alone(engine, prompts, Limits(60))
        n_prompt = max(engine.count(prompt) for prompt in prompts)
        pool = open_pool(engine, 6, n_ctx=n_prompt + 61, cells=256)  # one alone takes more than half of it
        assert n_prompt + 60 < 256 < n_prompt + 6 * 60
        assert _n_equal(_results(pool.run(_requests(prompts, Limits(60)))), expected) >= 8

    def test_one_after_the_other_on_one_pool(self, engine: llama.LlamaEngine, open_pool: Open) -> None:
        pool = open_pool(engine, 2)
        first = _results(pool.run(_requests(_prompts(3))))
        second = _results(pool.run(_requests(_prompts(3, OTHER))))
        assert _n_equal(first, _alone(engine, _prompts(3))) >= 2
        assert _n_equal(second, _alone(engine, _prompts(3, OTHER))) >= 2

    def test_what_comes_while_the_beginning_is_read_begins_with_the_others(
        self, plain: llama.LlamaEngine, open_pool: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pool, sizes = open_pool(plain, 8), list[int]()
        read, evaluate = pool._prefix.replace, pool._sequences.evaluate

        def slowly(tokens: list[int]) -> int:
            n_read = read(tokens)
            time.sleep(0.3)
            return n_read

        def counted(spans: Sequence[TokenSpan]) -> list[int] | None:
            sizes.append(len(spans))
            return evaluate(spans)

        monkeypatch.setattr(pool._prefix, "replace", slowly)
        monkeypatch.setattr(pool._sequences, "evaluate", counted)
        _results(pool.run(_requests(_prompts(8), Limits(3))))
        assert sizes[:2] == [1, 8]


class TestTwins:
    def test_prompts_that_come_several_times_are_read_once_each(
        self, engine: llama.LlamaEngine, open_pool: Open
    ) -> None:
        """Answers of which the best counts: rows that share a beginning, each of them three times."""
        prompts = [prompt for prompt in _prompts(4) for _ in range(3)]
        expected = _alone(engine, prompts)
        found = _results(open_pool(engine, 6).run(_requests(prompts)))
        assert _n_equal(found, expected) >= 10
        is_recurrent = engine.info.architecture == "mamba"  # its state is copied whole or not at all
        n_whole = sum(
            each.finish is not None and each.finish.usage.cached_tokens == each.finish.usage.prompt_tokens - 1
            for each in found.values()
        )
        assert n_whole >= (0 if is_recurrent else 8)

    @pytest.mark.parametrize("parallel", [2, 8])
    @pytest.mark.parametrize("kind", ["plain", "wide_window"])
    def test_a_text_that_several_questions_are_about_is_read_once(
        self, request: pytest.FixtureRequest, open_pool: Open, parallel: int, kind: str
    ) -> None:
        """Four texts behind what all prompts begin with, four questions about each, one after the other. A sliding window
        that no prompt leaves makes no difference."""
        engine: llama.LlamaEngine = request.getfixturevalue(kind)
        texts = [HEAD + " ".join(WORDS[3 * n :]) * 2 for n in range(4)]
        prompts = [_plain(text + " " + " ".join(WORDS[n : n + 4])) for text in texts for n in range(4)]
        expected = _alone(engine, prompts)
        found = _results(open_pool(engine, parallel, n_ctx=512).run(_requests(prompts)))
        assert _n_equal(found, expected) >= 14
        counts = [each.finish.usage for each in (found[n] for n in range(16)) if each.finish is not None]
        n_read = sum(usage.prompt_tokens - usage.cached_tokens for usage in counts)
        assert max(usage.prompt_tokens for usage in counts) < 480
        assert n_read < 4 * max(engine.count(_plain(text)) for text in texts) + 16 * 20


class TestEnds:
    def test_every_reason_to_end(self, plain: llama.LlamaEngine, open_pool: Open) -> None:
        (text,) = _alone(plain, [_plain(HEAD)])
        n_head = plain.count(_plain(HEAD))
        limits = [Limits(3), Limits(20, stop=(text[8:12],)), Limits(), Limits(0)]
        requests = [Request(n, _plain(HEAD), GREEDY, limit) for n, limit in enumerate(limits)]
        found = _results(open_pool(plain, n_ctx=n_head + 30).run(iter(requests)))
        reasons = [found[n].finish.reason for n in range(4)]  # type: ignore[union-attr]
        assert reasons == [FinishReason.LENGTH, FinishReason.STOP, FinishReason.CONTEXT, FinishReason.LENGTH]
        lengths = [found[n].finish.usage.completion_tokens for n in range(4)]  # type: ignore[union-attr]
        assert (lengths[0], lengths[3]) == (3, 0)
        assert lengths[2] in (30, 31)
        assert found[1].text == text[: text.index(text[8:12])]
        assert found[1].finish and found[1].finish.tokens is None

    def test_what_cannot_be_done_is_an_error_among_the_others(self, plain: llama.LlamaEngine, open_pool: Open) -> None:
        prompts = [_plain("hello world"), _plain("word " * 600), Prompt(()), _plain("the people")]
        found = {each.id: each for each in open_pool(plain).run(_requests(prompts))}
        assert found[0].error is None
        assert found[3].finish is not None
        assert found[1].error and found[1].error.exit_code is ExitCode.CONTEXT
        assert "512" in found[1].error.message
        # this vocabulary wants a beginning-of-sequence token, so that even nothing has a token
        assert found[2].finish is not None

    def test_a_completion_that_grows_beyond_the_cache(self, plain: llama.LlamaEngine, open_pool: Open) -> None:
        pool = open_pool(plain, 2, n_ctx=512, cells=256)
        done = list(pool.run(_requests(_prompts(2), Limits(400))))
        assert [each.error and each.error.exit_code for each in done] == [ExitCode.CONTEXT, ExitCode.CONTEXT]
        assert _results(pool.run(_requests(_prompts(1))))  # and it works on

    def test_failures_among_the_jobs_come_out_as_they_are(self, plain: llama.LlamaEngine, open_pool: Open) -> None:
        failure = Result(7, error=SlmError("broken", exit_code=ExitCode.USAGE))
        requests: list[Request | Result] = [Request(1, _plain("hello"), GREEDY, Limits(2)), failure]
        assert failure in list(open_pool(plain).run(iter(requests)))

    def test_an_error_of_the_iterator_is_raised(self, plain: llama.LlamaEngine, open_pool: Open) -> None:
        def requests() -> Iterator[Request | Result]:
            yield Request(1, _plain("hello"), GREEDY, Limits(2))
            raise SlmError("no more", exit_code=ExitCode.STORAGE)

        with pytest.raises(SlmError, match="no more"):
            list(open_pool(plain).run(requests()))


class TestJobsAsTheyCome:
    def test_jobs_are_not_taken_far_ahead(self, plain: llama.LlamaEngine, open_pool: Open) -> None:
        taken = done = 0

        def requests() -> Iterator[Request | Result]:
            nonlocal taken
            for job in _requests(_prompts(200), Limits(1)):
                taken += 1
                yield job

        most = 0
        for _ in open_pool(plain, 3).run(requests()):
            done += 1
            most = max(most, taken - done)
        assert done == 200
        assert most <= 3 * 3  # in work, waiting to be taken, and what became ready with them

    def test_an_iterator_that_waits_holds_nothing_up(self, plain: llama.LlamaEngine, open_pool: Open) -> None:
        more = threading.Event()

        def requests() -> Iterator[Request | Result]:
            yield Request(1, _plain("hello"), GREEDY, Limits(5))
            assert more.wait(300)
            yield Request(2, _plain("world"), GREEDY, Limits(5))

        done = open_pool(plain).run(requests())
        assert next(done).id == 1  # while the iterator waits for us
        more.set()
        assert [each.id for each in done] == [2]

    def test_nothing_is_prepared_after_the_end(self) -> None:
        """Whoever closes a pool frees the model next, and a prompt that is still being read would be one of no model."""
        happened: list[str] = []
        has_begun, is_made = threading.Event(), threading.Event()

        def prepare(request: Request) -> Result:
            has_begun.set()
            is_made.wait()
            while not feed._is_stopped:
                time.sleep(0)
            happened.append("prepared")
            return Result(request.id)

        feed = Feed(_requests(_prompts(2)), prepare, ahead=2)
        is_made.set()
        has_begun.wait()
        feed.stop()
        happened.append("stopped")
        assert happened == ["prepared", "stopped"]

    def test_cancel_ends_a_wait_for_jobs(self, plain: llama.LlamaEngine, open_pool: Open) -> None:
        never = threading.Event()

        def requests() -> Iterator[Request | Result]:
            yield Request(1, _plain("hello"), GREEDY, Limits(5))
            never.wait(300)

        pool = open_pool(plain)
        done = pool.run(requests())
        assert next(done).id == 1
        threading.Timer(0.05, pool.cancel).start()
        assert list(done) == []
        never.set()

    def test_cancel_drops_what_is_not_done(self, plain: llama.LlamaEngine, open_pool: Open) -> None:
        pool = open_pool(plain, 2)
        limits = [Limits(2), Limits(2), *[Limits(300)] * 4]
        ids = []
        for each in pool.run(Request(n, _plain("hello"), GREEDY, limit) for n, limit in enumerate(limits)):
            ids.append(each.id)
            pool.cancel()
        assert set(ids) <= {0, 1}
        assert len(_results(pool.run(_requests(_prompts(3))))) == 3  # it can be used again


@pytest.mark.model
class TestRealWeights:
    def test_smollm2(self, smollm2: Path, open_pool: Open) -> None:
        engine = llama.load(smollm2)
        head = "List the capital of each country. France: Paris. Italy: Rome. Japan: Tokyo. Egypt: Cairo. "
        prompts = [_plain(f"{head}{name}:") for name in ("Spain", "Germany", "Greece", "Portugal", "Russia", "Peru")]
        expected = _alone(engine, prompts, Limits(3))
        assert expected[0].startswith(" Madrid")
        found = _results(open_pool(engine).run(_requests(prompts, Limits(3))))
        assert _n_equal(found, expected) >= 5
        engine.close()

    def test_gemma_beyond_its_sliding_window(self, gemma3_base: Path, open_pool: Open) -> None:
        engine = llama.load(gemma3_base)
        prompts = [_plain(", ".join(str(n) for n in range(1, last + 1)) + ",") for last in (190, 194, 197)]
        assert engine.count(prompts[0]) > 600  # the window has 512
        found = _results(open_pool(engine, 3, n_ctx=1024).run(_requests(prompts, Limits(10))))
        assert [found[n].text for n in range(3)] == [" 191, 192,", " 195, 196,", " 198, 199,"]
        cached = sorted(found[n].finish.usage.cached_tokens for n in range(3))  # type: ignore[union-attr]
        assert cached[1] > 600  # copied at least for two of the three
        engine.close()


class TestHowMany:
    def test_memory_bounds_the_cache(self) -> None:
        plenty = plan_cells(4096, None, 23_000, 16 * 2**30)
        assert (plenty.most, plenty.cells) == (32, 4096 + 32 * 256)
        little = plan_cells(4096, None, 23_000, 500 * 2**20)
        assert little.cells * 23_000 <= 125 * 2**20
        assert 1 <= little.most < 32
        least = plan_cells(4096, None, 230_000, 2**20)
        assert (least.cells, least.most) == (4096, 16)  # one whole window is always there
        assert plan_cells(512, 2, 1, None) == CellPlan(1024, 2, True, "as asked for")

    @staticmethod
    def _settled(cost: Callable[[int], float], most: int = 32) -> int:
        growth = Growth(CellPlan(10_000, most, False, ""))
        for step in range(400):
            n = growth.allowed
            noise = 8 if step % 3 == 0 else 1  # another program takes the cores now and then
            growth.note(n, 0, n, cost(n) * noise)
        return growth.allowed

    def test_it_grows_while_that_pays(self) -> None:
        assert self._settled(lambda n: 1.0) == 32  # a step costs the same, however many
        assert self._settled(lambda n: float(n)) == 8  # nothing is gained
        assert self._settled(lambda n: 4 + n / 4 + max(0, n - 16)) == 16
        assert self._settled(lambda n: 1.0, most=3) == 3

    def test_steps_that_are_not_full_say_nothing(self) -> None:
        growth = Growth(CellPlan(10_000, 32, False, ""))
        for _ in range(100):
            growth.note(3, 0, 3, 1.0)
        assert growth.allowed == 8

    @pytest.mark.parametrize(("most", "n_own", "first"), [(32, 12, 16), (32, 700, 8), (12, 12, 12), (3, 12, 3)])
    def test_short_rows_begin_with_more(self, most: int, n_own: int, first: int) -> None:
        growth = Growth(CellPlan(10_000, most, False, ""))
        growth.begins(n_own)
        growth.begins(n_own)
        assert growth.allowed == first
        growth.note(0, 1, growth.allowed, 1.0)
        growth.begins(12)
        assert growth.allowed == first  # by what is measured from then on

    def test_what_was_asked_for_is_not_changed(self) -> None:
        growth = Growth(CellPlan(10_000, 3, True, ""))
        growth.begins(1)
        for _ in range(100):
            growth.note(3, 0, 3, 1.0)
        assert growth.allowed == 3


@pytest.mark.parametrize("adapts_threads", [False, True])
def test_a_pool_gives_way_to_other_programs(
    engine: llama.LlamaEngine, monkeypatch: pytest.MonkeyPatch, adapts_threads: bool
) -> None:
    """Two threads beside a busy program compute a hundredth of what one does; but what has to repeat stays as it is."""

    class Busy:
        def __init__(self, most: int, _started: object) -> None:
            assert most == 2

        def look(self) -> int:
            return 1

    monkeypatch.setattr("slmchat.engine.sequences.Watch", Busy)
    settings = SessionSettings(512, 2, 2, adapts_threads=adapts_threads)
    for opened in (engine.open_pool, engine.open_scorer):
        pool = opened(settings)
        try:
            request = _requests([_plain("one two")], Limits(2))
            if opened == engine.open_scorer:
                request = iter([replace(next(request), choices=Choices(("one", "two")))])  # type: ignore[type-var]
            _results(pool.run(request))
            assert engine.loaded.api.llama_n_threads(pool._sequences.handle) == (1 if adapts_threads else 2)
        finally:
            pool.close()


class TestStates:
    """What all prompts begin with is kept on the disk, for every later pool and session."""

    def _texts(
        self, engine: llama.LlamaEngine, settings: SessionSettings, prompts: list[Prompt]
    ) -> tuple[list[str], str]:
        pool = engine.open_pool(settings, 1)  # beside others, the last bits follow who is there when
        try:
            found = _results(pool.run(_requests(prompts)))
            return [found[number].text for number in range(len(prompts))], pool.report
        finally:
            pool.close()

    def test_the_next_pool_reads_none_of_it_and_says_the_same(self, engine: llama.LlamaEngine, tmp_path: Path) -> None:
        settings = replace(_settings(), store=KvStore(tmp_path))
        first, report = self._texts(engine, settings, _prompts(6))
        assert "evaluated once" in report and "before this" not in report
        assert list(tmp_path.glob("*/shared.*.kv"))
        again, report = self._texts(engine, settings, _prompts(6))
        assert "before this" in report
        assert again == first

    def test_a_state_of_a_longer_beginning_is_cut_back(self, plain: llama.LlamaEngine, tmp_path: Path) -> None:
        settings = replace(_settings(), store=KvStore(tmp_path))
        self._texts(plain, settings, _prompts(4, HEAD * 3))
        other = _prompts(4, HEAD * 2 + "now for something that has not been said ")
        without, _ = self._texts(plain, _settings(), other)
        found, report = self._texts(plain, settings, other)
        assert "before this" in report
        assert _n_equal(dict(enumerate(Result(n, text=text) for n, text in enumerate(found))), without) >= 3

    def test_a_session_begins_with_it(self, plain: llama.LlamaEngine, tmp_path: Path) -> None:
        settings = replace(_settings(), store=KvStore(tmp_path))
        self._texts(plain, settings, _prompts(4))
        session = plain.open_session(settings)
        finish = list(session.generate(_plain(HEAD + "another question"), GREEDY, Limits(2)))[-1]
        session.close()
        assert isinstance(finish, Finish) and finish.usage.cached_tokens > 0.7 * finish.usage.prompt_tokens

    def test_nothing_is_kept_without_a_store(self, plain: llama.LlamaEngine, tmp_path: Path) -> None:
        self._texts(plain, _settings(), _prompts(4))
        _, report = self._texts(plain, _settings(), _prompts(4))
        assert "before this" not in report and not list(tmp_path.iterdir())
