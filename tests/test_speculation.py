"""Drafts: looked up, priced, proved; and on real weights the same text, the same distribution."""

import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import run_slm
from gguf_samples import write_tiny_llama, write_tiny_phi3
from gguf_thinking import PLAIN, THINKS, write_planted
from test_engine import GREEDY, Heard, _chat, _plain

from slmchat.conversation.messages import Message, Role
from slmchat.engine import llama, verdicts
from slmchat.engine.kept_exactness import KeptExactness
from slmchat.engine.kvstore import StateKey
from slmchat.engine.requests import Limits, SessionSettings
from slmchat.engine.results import FinishReason
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.session import LlamaSession
from slmchat.engine.speculation import EXACT_SIZES, SIZES, Costs, ExactnessCheck, PromptDrafts, PromptLookup
from slmchat.errors import ExitCode, SlmError

STORY = (
    "The lighthouse keeper wrote in his journal every evening. On Monday the wind came from the north and three ships "
    "passed before noon. On Tuesday the fog was so thick that he rang the bell for six hours."
)


class TestLookup:
    def test_what_followed_before_is_expected(self) -> None:
        lookup = PromptLookup()
        lookup.start([1, 2, 3, 4, 5, 6, 9, 1, 2, 3])
        assert lookup.draft(3) == [4, 5, 6]
        lookup.add(4)
        assert (lookup.expected(), lookup.agreement) == (5, 4)

    def test_no_repetition_no_guess(self) -> None:
        lookup = PromptLookup()
        lookup.start(list(range(100)))
        assert lookup.expected() is None
        assert lookup.draft(8) == []

    def test_a_loop_goes_round(self) -> None:
        lookup = PromptLookup()
        lookup.start([7, 8, 7, 8, 7, 8])
        assert lookup.draft(5) == [7, 8, 7, 8, 7]

    def test_it_goes_on_behind_one_changed_word(self) -> None:
        lookup = PromptLookup()
        lookup.start([1, 2, 3, 4, 5, 6, 7, 99, 1, 2, 3])
        lookup.add(50)  # instead of 4
        assert (lookup.expected(), lookup.agreement) == (5, 0)
        lookup.add(51)  # two in a row: another text
        assert lookup.expected() is None

    def test_going_back_forgets_what_is_no_longer_there(self) -> None:
        lookup = PromptLookup()
        lookup.start([1, 2, 3, 4, 5])
        lookup.start([1, 2, 3, 8, 1, 2, 3])
        assert lookup.draft(2) == [8, 1]

    def test_a_token_costs_the_same_in_a_long_conversation(self) -> None:
        source = random.Random(3)
        lookup = PromptLookup()
        lookup.start([source.randrange(1000) for _ in range(60_000)])
        start = time.process_time()
        for _ in range(2000):
            lookup.add(source.randrange(1000))
            lookup.draft(16)
        assert time.process_time() - start < 2  # a search through all of it would take minutes


class TestPolicy:
    @staticmethod
    def _fed(drafts: PromptDrafts, cost_of_one_more: float) -> None:
        for _ in range(20):
            drafts.measured(1, 0.01)
            for size in SIZES:
                drafts.measured(size, 0.01 * (1 + cost_of_one_more * (size - 1)))

    def _copying(self, cost_of_one_more: float) -> list[int]:
        drafts = PromptDrafts()
        self._fed(drafts, cost_of_one_more)
        text = list(range(200))
        drafts.start([*text, 999, *text[:5]])
        for token in text[5:100]:
            drafts.add(token)
        return drafts.draft(100, SIZES)

    def test_long_drafts_while_a_text_is_copied(self) -> None:
        guesses = self._copying(0.4)
        assert len(guesses) >= 7
        assert guesses == list(range(100, 100 + len(guesses)))

    def test_off_where_a_batch_costs_what_its_tokens_cost(self) -> None:
        assert self._copying(1.0) == []

    def test_off_where_guesses_are_wrong(self) -> None:
        drafts = PromptDrafts()
        self._fed(drafts, 0.4)
        source = random.Random(5)
        drafts.start([])
        asked = 0
        for _ in range(3000):  # 8 words in random order: every n-gram was there before, and says nothing
            drafts.add(source.randrange(8))
            asked += bool(drafts.draft(20, SIZES))
        assert asked < 60

    def test_never_more_than_there_is_room_for(self) -> None:
        drafts = PromptDrafts()
        drafts.start([1, 2, 3] * 20)
        for token in [1, 2, 3] * 10:
            drafts.add(token)
        assert [len(drafts.draft(most, SIZES)) for most in (-1, 0, 1, 2, 5)] == [0, 0, 1, 2, 5]
        assert drafts.draft(0, SIZES) == drafts.draft(9, ()) == []
        assert len(drafts.draft(9, (3,))) == 2

    def test_costs_are_learned_and_one_hiccup_is_not_believed(self) -> None:
        costs = Costs()
        for _ in range(30):
            costs.measured(1, 0.01)
            costs.measured(8, 0.04)
        assert costs.of(8) == pytest.approx(4, rel=0.05)
        assert 4 < costs.of(12) < 8  # never tried: told from the others
        costs.measured(8, 3.0)
        assert costs.of(8) < 6


class Shelf:
    """`KeptExactness` in memory."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int], int] = {}
        self.n_writes = 0

    def read(self) -> dict[tuple[int, int], int]:
        return dict(self.rows)

    def write(self, rows: Mapping[tuple[int, int], int]) -> None:
        self.rows = dict(rows)
        self.n_writes += 1


class TestProof:
    def test_a_size_is_trusted_after_enough_equal_rows(self) -> None:
        exactness = ExactnessCheck(Shelf())
        assert exactness.sizes(10, 2, is_sure=True) == EXACT_SIZES
        for _ in range(4 * 3):  # whole batches may be equal by chance
            assert exactness.sizes(10, 2, is_sure=False) == ()
            exactness.observed(10, 2, 3, is_equal=True)
        assert exactness.sizes(99, 4, is_sure=False) == (3,)

    def test_one_unequal_row_is_enough_for_ever(self) -> None:
        exactness = ExactnessCheck(Shelf())
        for is_equal in [True] * 11 + [False] + [True] * 100:
            exactness.observed(10, 2, 3, is_equal=is_equal)
        assert exactness.sizes(10, 2, is_sure=True) == ()

    def test_a_long_cache_is_another_matter_for_each_number_of_threads(self) -> None:
        exactness = ExactnessCheck(Shelf())
        for _ in range(100):
            exactness.observed(10, 2, 3, is_equal=True)
            exactness.observed(1000, 2, 3, is_equal=False)
            exactness.observed(1000, 1, 3, is_equal=True)
        assert [exactness.holds(10, 2, 3), exactness.holds(1000, 2, 3), exactness.holds(1000, 1, 3)] == [
            True,
            False,
            True,
        ]

    @pytest.mark.parametrize("is_equal", [True, False])
    def test_what_was_found_out_is_not_found_out_again(self, is_equal: bool) -> None:
        shelf = Shelf()
        exactness = ExactnessCheck(shelf)
        for _ in range(30):
            exactness.observed(10, 2, 3, is_equal=is_equal)
        assert shelf.n_writes == 1
        assert ExactnessCheck(shelf).sizes(10, 2, is_sure=True) == ((3,) if is_equal else ())
        assert ExactnessCheck(shelf).sizes(10, 2, is_sure=False) == ((3,) if is_equal else ())


class TestKeptProof:
    """The file, beside the verdicts about llama.cpp."""

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(verdicts, "_directory", tmp_path)
        monkeypatch.setattr(verdicts, "_may_keep", True)
        return tmp_path

    def _of(self, name: str) -> KeptExactness:
        return KeptExactness(StateKey(Path(f"/models/{name}.gguf"), "cells"))

    def test_models_have_entries_of_their_own_and_the_oldest_go(self) -> None:
        for number in range(70):
            self._of(f"m{number}").write({(3, 0): 12, (3, 2): -1})
        assert self._of("m69").read() == {(3, 0): 12, (3, 2): -1}
        assert self._of("m6").read() == {(3, 0): 12, (3, 2): -1}
        assert self._of("m5").read() == {}

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "{",
            "[]",
            "null",
            pytest.param("[" * 100_000, id="deep"),
            '{"format": 1}',
            '{"format": 1, "key": 3, "exact": {}}',
            b"\xff\xfe",
        ],
    )
    def test_a_damaged_file_counts_as_none_and_is_replaced(self, place: Path, content: str | bytes) -> None:
        file = place / "exact-batches.json"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        assert self._of("m").read() == {}
        self._of("m").write({(3, 0): -1})
        assert self._of("m").read() == {(3, 0): -1}

    def test_a_damaged_entry_counts_as_none(self, place: Path) -> None:
        self._of("m").write({(3, 0): -1})
        file = place / "exact-batches.json"
        file.write_text(file.read_text().replace("[[3, 0, -1]]", '[[3, "x"]]'))
        assert self._of("m").read() == {}

    def test_another_library_or_processor_is_tried_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._of("m").write({(3, 0): 12})
        key = {**verdicts.library_key(), "processor": "another one"}
        monkeypatch.setattr(verdicts, "library_key", lambda: key)
        assert self._of("m").read() == {}

    def test_nothing_is_written_where_nothing_is_kept(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verdicts, "_may_keep", False)
        self._of("m").write({(3, 0): 12})
        assert not list(place.iterdir())


class EagerDrafts:
    """`Drafts` that guesses always: half from the lookup, now and then nonsense, at every length."""

    is_sure = True

    def __init__(self, n_vocab: int) -> None:
        self._lookup = PromptLookup()
        self._random = random.Random(2)
        self._n_vocab = n_vocab

    def start(self, tokens: Sequence[int]) -> None:
        self._lookup.start(tokens)

    def add(self, token: int) -> None:
        self._lookup.add(token)

    def draft(self, most: int, sizes: Sequence[int]) -> list[int]:
        length = min(most, self._random.choice(sizes) - 1 if sizes else 0)
        guesses = self._lookup.draft(length)
        if length > 0 and (not guesses or self._random.random() < 0.3):
            guesses = [self._random.randrange(self._n_vocab) for _ in range(length)]
        return guesses

    def measured(self, size: int, seconds: float) -> None: ...

    def set_threads(self, threads: int) -> None: ...

    def close(self) -> None: ...


class RememberingDrafts:
    """`Drafts` that guesses what came in an earlier generation: often right where few tokens are likely."""

    is_sure = True

    def __init__(self) -> None:
        self._random = random.Random(4)
        self._followers: dict[tuple[int, ...], list[int]] = {}
        self._held: tuple[int, ...] = ()

    def start(self, tokens: Sequence[int]) -> None:
        self._held = tuple(tokens)

    def add(self, token: int) -> None:
        self._followers.setdefault(self._held, []).append(token)
        self._held += (token,)

    def draft(self, most: int, sizes: Sequence[int]) -> list[int]:
        guesses: list[int] = []
        while len(guesses) < most and (known := self._followers.get((*self._held, *guesses))):
            guesses.append(self._random.choice(known))
        return guesses

    def measured(self, size: int, seconds: float) -> None: ...

    def set_threads(self, threads: int) -> None: ...

    def close(self) -> None: ...


def _settings(**values: object) -> SessionSettings:
    return SessionSettings(**{"n_ctx": 512, "threads": 1, "threads_batch": 1, **values})  # type: ignore[arg-type]


def _eager(engine: llama.LlamaEngine, **values: object) -> LlamaSession:
    session = engine.open_session(_settings(**values))
    session._drafts = EagerDrafts(engine.vocabulary.n_tokens)
    return session


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[llama.LlamaEngine]:
    engine = llama.load(write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf", chat_template=None))
    yield engine
    engine.close()


class TestTinyModel:
    def test_every_kind_of_end(self, tiny: llama.LlamaEngine) -> None:
        plain, eager = tiny.open_session(_settings(n_ctx=96, speculation="off")), _eager(tiny, n_ctx=96)
        for limits in (Limits(), Limits(1), Limits(2), Limits(7), Limits(40)):
            expected = Heard.of(plain.generate(_plain("abc abc abc"), GREEDY, limits))
            heard = Heard.of(eager.generate(_plain("abc abc abc"), GREEDY, limits))
            assert heard.finish and expected.finish
            assert (heard.text, heard.finish.tokens) == (expected.text, expected.finish.tokens)
            assert heard.finish.reason is expected.finish.reason
            assert eager._context.tokens == plain._context.tokens
            held = tiny.loaded.api.llama_memory_seq_pos_max(eager._context._memory, 0) + 1
            assert held == len(eager._context.tokens)
        plain.close()
        eager.close()

    def test_cancel_between_accepted_tokens(self, tiny: llama.LlamaEngine) -> None:
        eager = _eager(tiny)
        heard = None
        for number, event in enumerate(eager.generate(_plain("abc abc abc"), GREEDY, Limits(60)), start=1):
            if number == 9:
                eager.cancel()
            heard = event  # type: ignore[assignment]
        assert heard.reason is FinishReason.INTERRUPTED  # type: ignore[attr-defined]
        held = tiny.loaded.api.llama_memory_seq_pos_max(eager._context._memory, 0) + 1
        assert held == len(eager._context.tokens)
        fresh = tiny.open_session(_settings(speculation="off"))
        once = Heard.of(fresh.generate(_plain("abc abc abc"), GREEDY, Limits(20))).text
        assert Heard.of(eager.generate(_plain("abc abc abc"), GREEDY, Limits(20))).text == once
        fresh.close()
        eager.close()

    @pytest.mark.slow
    def test_the_same_distribution(self, tiny: llama.LlamaEngine) -> None:
        """Chi-square of the pairs (4th, 5th token) over 1,500 seeds: with and without drafts, in 40 classes."""
        sessions = [tiny.open_session(_settings(speculation=name)) for name in ("off", "always")]
        sessions[1]._drafts = RememberingDrafts()
        counts = [[0] * 40, [0] * 40]
        accepted = 0
        for seed in range(1500):
            for which, session in enumerate(sessions):
                # another seed for each, or the same draws would make them equal whatever the distribution
                sampler = SamplerSettings(temperature=1.0, top_k=6, top_p=1.0, min_p=0.0, seed=2 * seed + which)
                finish = Heard.of(session.generate(_plain("abc abc"), sampler, Limits(5))).finish
                assert finish
                accepted += finish.usage.accepted_tokens
                tail = (finish.tokens or ())[3:]
                counts[which][hash(tail) % 40] += 1
        statistic = sum((a - b) ** 2 / (a + b) for a, b in zip(*counts, strict=True) if a + b)
        assert accepted > 100  # else nothing was tested
        assert statistic < 73  # 39 degrees of freedom: 1 in 1,000 by chance; the seeds are fixed
        for session in sessions:
            session.close()

    def test_penalties_see_every_token_once(self, tiny: llama.LlamaEngine) -> None:
        sampler = SamplerSettings(temperature=0, repeat_penalty=1.5)
        plain, eager = tiny.open_session(_settings(speculation="off")), _eager(tiny)
        texts = [Heard.of(each.generate(_plain("abc abc"), sampler, Limits(80))).text for each in (plain, eager)]
        assert texts[0] == texts[1]
        plain.close()
        eager.close()

    def test_a_memory_that_takes_nothing_back_switches_drafts_off(
        self, tiny: llama.LlamaEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain, eager = tiny.open_session(_settings(speculation="off")), _eager(tiny)
        expected = Heard.of(plain.generate(_plain("abc abc abc"), GREEDY, Limits(40))).text
        monkeypatch.setattr(tiny.loaded.api, "llama_memory_seq_rm", lambda *_: False)  # as recurrent models answer
        assert Heard.of(eager.generate(_plain("abc abc abc"), GREEDY, Limits(40))).text == expected
        assert not eager._context.can_take_back
        plain.close()
        eager.close()

    def test_a_model_drafts_for_itself(self, tiny: llama.LlamaEngine) -> None:
        plain = tiny.open_session(_settings(speculation="off"))
        helped = tiny.open_session(_settings(draft_model=tiny.path))
        drafted = 0
        for prompt in ("abc abc abc", "hello", "abc abc abd"):
            expected = Heard.of(plain.generate(_plain(prompt), GREEDY, Limits(60)))
            heard = Heard.of(helped.generate(_plain(prompt), GREEDY, Limits(60)))
            assert heard.text == expected.text
            assert heard.finish
            usage = heard.finish.usage
            drafted += usage.drafted_tokens
            assert usage.accepted_tokens >= 0.9 * usage.drafted_tokens
        assert drafted
        plain.close()
        helped.close()

    def test_a_model_that_drafts_cheaply_does_most_of_the_work(
        self, tiny: llama.LlamaEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        helped = tiny.open_session(_settings(draft_model=tiny.path, speculation="always"))
        monkeypatch.setattr(helped._drafts, "_length", lambda most, _sizes: min(most, 5))  # as if it cost nothing
        plain = tiny.open_session(_settings(speculation="off"))
        heard = Heard.of(helped.generate(_plain("abc abc abc"), GREEDY, Limits(60)))
        assert heard.text == Heard.of(plain.generate(_plain("abc abc abc"), GREEDY, Limits(60))).text
        plain.close()
        assert heard.finish
        usage = heard.finish.usage
        assert usage.drafted_tokens >= 45
        assert usage.accepted_tokens >= 0.9 * usage.drafted_tokens
        again = Heard.of(
            helped.generate(_plain("abc abc abd"), GREEDY, Limits(60))
        ).finish  # another text: it goes back
        assert again and again.usage.accepted_tokens >= 0.9 * again.usage.drafted_tokens > 40
        helped.close()

    def test_a_long_prompt_is_read_by_the_small_model_between_tokens(self, tmp_path: Path) -> None:
        engine = llama.load(write_tiny_llama(tmp_path / "long.gguf", chat_template=None, context_length=4096))
        small = engine.open_session(_settings(n_ctx=2048, draft_model=engine.path))
        drafts = small._drafts
        assert drafts is not None
        drafts.start([300 + n % 200 for n in range(1300)])
        asked = []
        while not asked or not asked[-1]:
            asked.append(drafts.draft(8, EXACT_SIZES))
            drafts.add(301)
        assert asked[:-1] == [[], []]  # two batches of 512 tokens, and none of them waited for the next
        small.close()
        engine.close()

    def test_another_vocabulary_is_refused_with_a_sentence(self, tiny: llama.LlamaEngine, tmp_path: Path) -> None:
        other = write_tiny_phi3(tmp_path / "phi3.gguf")
        with pytest.raises(SlmError) as caught:
            tiny.open_session(_settings(draft_model=other))
        assert caught.value.exit_code is ExitCode.USAGE
        assert caught.value.message == "phi3.gguf cannot draft for tiny.gguf: their vocabularies differ."


@pytest.mark.model
class TestRealWeights:
    def test_smollm2_copies_faster_and_says_the_same(self, smollm2: Path) -> None:
        engine = llama.load(smollm2)
        prompt = _chat(engine, Message(Role.USER, f"Repeat this text:\n\n{STORY}"))
        self._compare(engine, prompt)

    def test_gemma_copies_and_says_the_same(self, gemma3_base: Path) -> None:
        engine = llama.load(gemma3_base)
        self._compare(engine, _plain(f"Text:\n{STORY}\n\nThe same text again:\n{STORY[:25]}"))

    @staticmethod
    def _compare(engine: llama.LlamaEngine, prompt: object) -> None:
        texts = {}
        for name in ("off", "auto", "always"):
            session = engine.open_session(_settings(speculation=name))
            if session._drafts is not None:
                session._drafts.costs.of = lambda size: 1 + 0.1 * size  # type: ignore[attr-defined]  # a busy machine
            heard = Heard.of(session.generate(prompt, GREEDY, Limits(28)))  # type: ignore[arg-type]
            assert heard.finish
            texts[name] = heard.text
            usage = heard.finish.usage
            if name == "always":
                assert usage.drafted_tokens > 10
                assert usage.accepted_tokens > 0.6 * usage.drafted_tokens
            session.close()
        assert texts["auto"] == texts["off"]
        engine.close()


@pytest.mark.real
class TestPairs:
    """`--draft auto`: the pair that the catalog, or the user's own file, states."""

    @pytest.fixture
    def paired(self, tmp_path: Path, home: Path) -> Path:
        write_planted(tmp_path / "big.gguf", THINKS, PLAIN, width=128, blocks=4)
        write_planted(tmp_path / "small.gguf", THINKS, PLAIN)
        write_planted(tmp_path / "other.gguf", THINKS, PLAIN, more=("another",))
        (home / "config").mkdir(parents=True)
        return tmp_path

    def _run(self, paired: Path, home: Path, pair: str, *more: str) -> tuple[dict[str, Any], str]:
        (home / "config" / "models.toml").write_text(
            f'[[model]]\nname = "big"\ntarget = "{paired / "big.gguf"}"\ndraft = "{pair}"\n'
            f'[[model]]\nname = "small"\ntarget = "{paired / "small.gguf"}"\n'
            f'[[model]]\nname = "other"\ntarget = "{paired / "other.gguf"}"\n'
        )
        done = run_slm("run", "-m", "big", "--temp", "0", "-n", "60", "--json", *more, "word", home=home)
        assert done.code == 0, done.err
        return json.loads(done.out), done.err

    def test_the_pair_drafts_and_the_text_is_the_same(self, paired: Path, home: Path) -> None:
        alone, _ = self._run(paired, home, "small", "--speculation", "off")
        helped, _ = self._run(paired, home, "small", "--draft", "auto", "--speculation", "always")
        assert helped["thinking"] == alone["thinking"]
        usage = helped["usage"]
        assert usage["accepted_tokens"] >= 0.9 * usage["drafted_tokens"] > 0

    @pytest.mark.parametrize(
        ("pair", "told"),
        [
            ("nowhere:1b", "(nowhere:1b would draft for this model, and is not installed: slm pull nowhere:1b)"),
            ("other", "(nothing drafts: other.gguf cannot draft for big.gguf: their vocabularies differ)"),
        ],
    )
    def test_a_pair_that_cannot_draft_is_told_and_the_answer_comes(
        self, paired: Path, home: Path, pair: str, told: str
    ) -> None:
        made, err = self._run(paired, home, pair, "--draft", "auto")
        assert told in err
        assert made["thinking"]

    def test_a_model_without_a_pair_says_so(self, paired: Path, home: Path) -> None:
        done = run_slm("run", "-m", paired / "big.gguf", "--temp", "0", "-n", "9", "--draft", "auto", "word", home=home)
        assert done.code == 0
        assert "the catalog states no model that drafts for this one" in done.err
