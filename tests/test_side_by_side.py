"""Models with a recurrent state: scores and texts beside others are those of one alone; what is no number is an error."""

import ctypes
import math
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from gguf import GGUFReader
from gguf_memories import STATES
from gguf_samples import WORDS, write_tiny_llama

from slmchat.engine import llama
from slmchat.engine.probabilities import LogProbabilities
from slmchat.engine.requests import Choices, Limits, Part, Prompt, Request, SessionSettings
from slmchat.engine.results import Chunk, Result
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.sequences import Sequences, TokenSpan
from slmchat.errors import SlmError

GREEDY = SamplerSettings(temperature=0)
SETTINGS = SessionSettings(512, threads=1, threads_batch=1)
TEXTS = (" the", " people said that it was not", " water and oil", " first time and there were many other words about")
# of unequal length, with a common beginning and without
PROMPTS = [Prompt((Part(" ".join(WORDS[n : n + 2 + 5 * (n % 4)])),)) for n in range(7)]
PROMPTS += [Prompt((Part("it was said that there were " * 4 + " ".join(WORDS[n : n + 1 + 6 * n])),)) for n in range(4)]


@pytest.fixture(scope="module", params=STATES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[llama.LlamaEngine]:
    engine = llama.load(STATES[request.param](tmp_path_factory.mktemp("states") / "tiny.gguf"))
    yield engine
    engine.close()


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """For each batch that was evaluated, how many tokens each sequence had in it."""
    found: list[list[int]] = []
    evaluate = Sequences.evaluate

    def recorded(self: Sequences, spans: Sequence[TokenSpan]) -> list[int] | None:
        found.append([len(span.tokens) for span in spans])
        return evaluate(self, spans)

    monkeypatch.setattr(Sequences, "evaluate", recorded)
    return found


def _scores(engine: llama.LlamaEngine, prompts: Sequence[Prompt], texts: tuple[str, ...]) -> list[Result]:
    scorer = engine.open_scorer(SETTINGS)
    requests = [Request(n, prompt, choices=Choices(texts, has_end=True)) for n, prompt in enumerate(prompts)]
    done = sorted(scorer.run(iter(requests)), key=lambda each: each.id)
    scorer.close()
    return done


@pytest.mark.real
class TestStates:
    def test_a_text_has_the_same_score_beside_others(self, engine: llama.LlamaEngine, batches: list[list[int]]) -> None:
        together = _scores(engine, PROMPTS, TEXTS)
        assert batches and all(len(sizes) == 1 or set(sizes) == {1} for sizes in batches)
        for n, prompt in enumerate(PROMPTS):
            for text, score in zip(TEXTS, together[n].scores, strict=True):
                alone = _scores(engine, [prompt], (text,))[0].scores[0]
                assert score.logprobs == pytest.approx(alone.logprobs, abs=0.05)
                assert score.end == pytest.approx(alone.end, abs=0.05)

    def test_a_completion_is_the_same_beside_others(self, engine: llama.LlamaEngine, batches: list[list[int]]) -> None:
        limits = Limits(12, top_logprobs=1)
        pool = engine.open_pool(SETTINGS, 4)
        requests = [Request(n, prompt, GREEDY, limits) for n, prompt in enumerate(PROMPTS)]
        together = sorted(pool.run(iter(requests)), key=lambda each: each.id)
        pool.close()
        assert max(map(len, batches)) > 1  # single tokens do go together
        assert all(len(sizes) == 1 or set(sizes) == {1} for sizes in batches)
        for done, prompt in zip(together, PROMPTS, strict=True):
            session = engine.open_session(SETTINGS)
            chunks = [each for each in session.generate(prompt, GREEDY, limits) if isinstance(each, Chunk)]
            session.close()
            logprobs = [chance for chunk in chunks for chance in chunk.logprobs]
            assert len(done.logprobs) == len(logprobs) > 0
            for one, other in zip(done.logprobs, logprobs, strict=True):
                assert one.logprob == pytest.approx(other.logprob, abs=0.05)
                if one.text != other.text:  # two that were nearly equally probable: what follows is another text
                    break


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[llama.LlamaEngine]:
    """A model whose output is no number, for any token."""
    path = write_tiny_llama(tmp_path_factory.mktemp("broken") / "tiny.gguf", chat_template=None, context_length=512)
    tensor = next(each for each in GGUFReader(path).tensors if each.name == "output.weight")
    with path.open("r+b") as file:
        file.seek(tensor.data_offset)
        file.write(np.full(tensor.n_elements, np.nan, dtype=np.float16).tobytes())
    engine = llama.load(path)
    yield engine
    engine.close()


@pytest.mark.real
class TestNoNumbers:
    def test_a_score(self, broken: llama.LlamaEngine) -> None:
        for done in _scores(broken, PROMPTS[:3], TEXTS):
            assert done.error is not None and "not numbers" in done.error.message
            assert not done.scores

    def test_a_row_with_logprobs(self, broken: llama.LlamaEngine) -> None:
        pool = broken.open_pool(SETTINGS, 2)
        limits = Limits(3, top_logprobs=1)
        found = list(pool.run(Request(n, prompt, GREEDY, limits) for n, prompt in enumerate(PROMPTS[:2])))
        pool.close()
        assert [done.error is not None for done in found] == [True, True]

    def test_a_completion_with_logprobs(self, broken: llama.LlamaEngine) -> None:
        session = broken.open_session(SETTINGS)
        with pytest.raises(SlmError):
            list(session.generate(PROMPTS[0], GREEDY, Limits(3, top_logprobs=1)))
        session.close()


class TestLogits:
    """Of a vocabulary of four tokens."""

    def _after(self, *logits: float) -> LogProbabilities:
        row = (ctypes.c_float * 4)(*logits)
        api = SimpleNamespace(llama_get_logits_ith=lambda context, index: ctypes.cast(row, ctypes.c_void_p))
        return LogProbabilities(api, 4)  # type: ignore[arg-type]

    @pytest.mark.parametrize("wrong", [math.nan, math.inf])
    def test_one_that_is_no_number_spoils_all(self, wrong: float) -> None:
        with pytest.raises(SlmError, match="not numbers"):
            self._after(1.0, wrong, 2.0, 3.0).after(None, 0)

    def test_none_that_can_come(self) -> None:
        with pytest.raises(SlmError):
            self._after(*[-math.inf] * 4).after(None, 0)

    def test_a_token_that_cannot_come_harms_only_those_who_ask_for_it(self) -> None:
        follows = self._after(1.0, -math.inf, 2.0, 3.0).after(None, 0)
        assert math.fsum(math.exp(follows.of(token)) for token in (0, 2, 3)) == pytest.approx(1)
        assert follows.best(4) == [3, 2, 0]
        assert follows.of_any((1, 3)) == pytest.approx(follows.of(3))
        for asked in ((1,), ()):
            with pytest.raises(SlmError):
                follows.of_any(asked)
        with pytest.raises(SlmError):
            follows.of(1)

    def test_improbable_ends_are_still_numbers(self) -> None:
        follows = self._after(-2000.0, -2000.0, 0.0, 0.0).after(None, 0)
        assert follows.of_any((0, 1)) == pytest.approx(-2000.0)
