"""`--choices`: scores of the real engine for every kind of memory, calibration, thresholds, what is refused, rows."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest
from batch_desk import Desk
from conftest import Outcome, run_slm
from endpoint_server import EndpointServer, delta, stream
from fake_engine import FakeEngine
from gguf_samples import (
    CHATML_TEMPLATE,
    WORDS,
    write_tiny_gemma3,
    write_tiny_llama,
    write_tiny_mamba,
    write_tiny_phi3,
)

from slmchat.commands.structured_options import choices_in, classification_task_of
from slmchat.engine import llama
from slmchat.engine.context import Context
from slmchat.engine.probabilities import LogProbabilities
from slmchat.engine.requests import Choices, Part, Prompt, Request, SessionSettings
from slmchat.engine.results import Result, Score
from slmchat.engine.sequences import Sequences, TokenSpan
from slmchat.errors import ExitCode, SlmError
from slmchat.generation.batch.answers import ChosenTexts, EmptyPrompts
from slmchat.generation.batch.prompts import PromptMaker
from slmchat.generation.batch.rows import Row
from slmchat.generation.classify import ClassificationTask, as_printed, content_free_prior
from slmchat.options import ChoiceOptions

HEAD = "the people said that it was not the first time and there were many other words about water and oil " * 3
KINDS: dict[str, Callable[[Path], Path]] = {
    "llama": lambda path: write_tiny_llama(path, chat_template=None, context_length=512),
    "phi3": lambda path: write_tiny_phi3(path, context_length=512),
    "sliding window": write_tiny_gemma3,
    "window as long as the context": partial(write_tiny_gemma3, window=512),
    "recurrent": write_tiny_mamba,
}
SETTINGS = SessionSettings(512, 1, 1)
TEXTS = (" the", " water and oil", " people said that it was", " x")


def _prompt(text: str) -> Prompt:
    return Prompt((Part(text),))


@pytest.fixture(scope="module", params=KINDS)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[llama.LlamaEngine]:
    engine = llama.load(KINDS[request.param](tmp_path_factory.mktemp("models") / "tiny.gguf"))
    yield engine
    engine.close()


def _alone(engine: llama.LlamaEngine, prompt: Prompt, text: str) -> Score:
    """The same by evaluating one token after the other, from nothing."""
    tokens = engine.vocabulary.tokenize(prompt)
    rest = engine.vocabulary.continued(prompt, tokens, text)
    context = Context(engine.loaded.api, engine.loaded.model, SETTINGS, lambda: False)
    reading = LogProbabilities(engine.loaded.api, engine.vocabulary.n_tokens)
    context.evaluate(tokens)
    found = []
    for token in rest:
        found.append(reading.after(context.handle, -1).of(token))
        context.evaluate_one(token)
    end = reading.after(context.handle, -1).of_any(engine.vocabulary.turn_ends)
    context.close()
    return Score(tuple(found), end)


def _scores(
    engine: llama.LlamaEngine, prompts: list[Prompt], choices: Choices, settings: SessionSettings = SETTINGS
) -> dict[int, Result]:
    scorer = engine.open_scorer(settings)
    found = {done.id: done for done in scorer.run(Request(n, each, choices=choices) for n, each in enumerate(prompts))}
    scorer.close()
    assert all(done.error is None for done in found.values()), [done.error for done in found.values()]
    return found


@contextmanager
def _counted() -> Iterator[list[int]]:
    """How many tokens are evaluated meanwhile, span by span."""
    evaluated: list[int] = []
    evaluate = Sequences.evaluate

    def counting(self: Sequences, spans: Sequence[TokenSpan]) -> list[int] | None:
        evaluated.extend(len(span.tokens) for span in spans)
        return evaluate(self, spans)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sequences, "evaluate", counting)
        yield evaluated


@pytest.mark.real
class TestScores:
    def test_as_one_token_after_the_other(self, engine: llama.LlamaEngine) -> None:
        prompts = [_prompt(HEAD + " ".join(WORDS[n : n + 2 + n % 5])) for n in range(60)]
        prompts[7] = _prompt("something else")
        found = _scores(engine, prompts, Choices(TEXTS, has_end=True))
        assert sorted(found) == list(range(60))
        for n in (0, 1, 7, 30, 59):
            for text, score in zip(TEXTS, found[n].scores, strict=True):
                alone = _alone(engine, prompts[n], text)
                assert score.logprobs == pytest.approx(alone.logprobs, abs=0.1)
                assert score.end == pytest.approx(alone.end, abs=0.1)
        assert len(found[0].scores[2].logprobs) > 1
        cached = [done.finish.usage.cached_tokens for done in found.values() if done.finish]
        assert sum(count > 20 for count in cached) >= 50  # the shared beginning is evaluated once

    def test_without_an_end_nothing_else_changes(self, engine: llama.LlamaEngine) -> None:
        prompt = _prompt(HEAD)
        with_end = _scores(engine, [prompt], Choices(TEXTS, has_end=True))[0].scores
        without = _scores(engine, [prompt], Choices(TEXTS))[0].scores
        assert [score.end for score in without] == [None] * 4
        for one, other in zip(with_end, without, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=0.1)

    def test_a_text_that_several_questions_are_about_is_read_once(self, engine: llama.LlamaEngine) -> None:
        texts = [" ".join(WORDS[n % 7 : n % 7 + 9]) * 3 + f" {n}" for n in range(6)]
        asked = (" it is the first", " it is the second", " it is a third one")
        prompts = [_prompt(f"{HEAD}{text}{question}") for text in texts for question in asked]
        with _counted() as evaluated:
            found = _scores(engine, prompts, Choices(TEXTS))
        for n in (0, 1, 2, 7, 11, 17):
            for text, score in zip(TEXTS, found[n].scores, strict=True):
                assert score.logprobs == pytest.approx(_alone(engine, prompts[n], text).logprobs, abs=0.1)
        lengths = [len(engine.vocabulary.tokenize(prompt)) for prompt in prompts]
        head = len(engine.vocabulary.tokenize(_prompt(HEAD)))
        once = head + sum(length - head for length in lengths[::3]) + sum(len(question) for question in asked) * 6
        followed = 18 * sum(len(engine.vocabulary.tokenize(_prompt(text))) for text in TEXTS)
        # every text is read once, and two of them, which had to show what prompts share, perhaps once more
        assert sum(evaluated) <= once + followed + lengths[0] + lengths[3]
        usage = [done.finish.usage for done in found.values() if done.finish]
        assert sum(one.cached_tokens for one in usage) > 0.7 * sum(one.prompt_tokens for one in usage)

    def test_a_beginning_longer_than_a_batch_is_read_once(self, engine: llama.LlamaEngine) -> None:
        settings = replace(SETTINGS, batch_tokens=256, waits_for_requests=True)
        prompts = [_prompt(f"{HEAD * 6}and then {WORDS[n]} {WORDS[n + 1]}") for n in range(6)]
        length = len(engine.vocabulary.tokenize(prompts[0]))
        assert length > settings.batch_tokens, length
        with _counted() as evaluated:
            found = _scores(engine, prompts, Choices(TEXTS), settings)
        assert sum(evaluated) < 2 * length
        for n in (0, 5):
            for text, score in zip(TEXTS, found[n].scores, strict=True):
                assert score.logprobs == pytest.approx(_alone(engine, prompts[n], text).logprobs, abs=0.1)

    def test_batches_smaller_than_the_number_of_sequences(self, engine: llama.LlamaEngine) -> None:
        prompts = [_prompt(f"{HEAD}and then {word}") for word in WORDS]
        usual = _scores(engine, prompts, Choices(TEXTS))
        found = _scores(engine, prompts, Choices(TEXTS), replace(SETTINGS, batch_tokens=32))  # what tune may choose
        for n in range(len(prompts)):
            for one, other in zip(usual[n].scores, found[n].scores, strict=True):
                assert one.logprobs == pytest.approx(other.logprobs, abs=0.1)

    def test_probabilities_of_all_tokens_sum_up_to_one(self, engine: llama.LlamaEngine) -> None:
        context = Context(engine.loaded.api, engine.loaded.model, SETTINGS, lambda: False)
        context.evaluate(engine.vocabulary.tokenize(_prompt(HEAD)))
        follows = LogProbabilities(engine.loaded.api, engine.vocabulary.n_tokens).after(context.handle, -1)
        context.close()
        assert follows.of_any(range(engine.vocabulary.n_tokens)) == pytest.approx(0.0, abs=1e-6)

    def test_more_texts_than_places_and_rows_that_do_not_fit(self, engine: llama.LlamaEngine) -> None:
        texts = tuple(f" {a} {b}" for a in WORDS[:12] for b in WORDS[12:20])
        many = _scores(engine, [_prompt("hello")], Choices(texts))[0].scores
        assert len(many) == 96 and many[95].logprobs == pytest.approx(
            _alone(engine, _prompt("hello"), texts[95]).logprobs, abs=0.1
        )
        scorer = engine.open_scorer(SETTINGS)
        requests = [
            Request(n, _prompt("water " * count), choices=Choices(TEXTS)) for n, count in enumerate((5, 900, 7))
        ]
        done = {each.id: each for each in scorer.run(iter(requests))}
        scorer.close()
        error = done[1].error
        assert error is not None and error.exit_code is ExitCode.CONTEXT
        assert done[0].scores and done[2].scores

    def test_a_text_that_is_longer_than_a_batch(self, engine: llama.LlamaEngine) -> None:
        settings = replace(SETTINGS, batch_tokens=192)  # one for each sequence, at least
        texts = (" the", "".join(f" {word}" for word in WORDS[:12] * 20))
        scorer = engine.open_scorer(settings)
        (done,) = scorer.run(iter([Request(0, _prompt("hello"), choices=Choices(texts, has_end=True))]))
        scorer.close()
        assert done.error is None and len(done.scores[1].logprobs) > 192
        for text, score in zip(texts, done.scores, strict=True):
            alone = _alone(engine, _prompt("hello"), text)
            assert score.logprobs == pytest.approx(alone.logprobs, abs=0.1)
            assert score.end == pytest.approx(alone.end, abs=0.1)


@pytest.mark.real
def test_nothing_is_evaluated_once_it_is_cancelled(engine: llama.LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = engine.open_scorer(SETTINGS)
    prompts = [_prompt("the people see the water and the people " * 3 + end) for end in ("one", "two")]
    evaluate = Sequences.evaluate
    for at in (1, 2):  # in what the prompts share, in the prompts
        counts = [0]

        def cancelling(
            self: Sequences, spans: Sequence[TokenSpan], at: int = at, counts: list[int] = counts
        ) -> list[int] | None:
            counts[0] += 1
            if counts[0] == at:
                scorer.cancel()
            return evaluate(self, spans)

        monkeypatch.setattr(Sequences, "evaluate", cancelling)
        assert not list(scorer.run(Request(n, each, choices=Choices(TEXTS)) for n, each in enumerate(prompts)))
        assert counts == [at]
    scorer.close()


def _asked(text: str, **more: object) -> ClassificationTask | None:
    return classification_task_of(ChoiceOptions(choices=[text], **more))  # type: ignore[arg-type]


class TestChoosing:
    def test_what_a_list_may_be(self) -> None:
        found = _asked(r"yes\, please, no ,maybe not")
        assert found is not None and found.texts == ("yes, please", "no", "maybe not")

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("yes,,no", "a choice is empty"),
            ("yes,no,", "a choice is empty"),
            ("", "a choice is empty"),
            ("yes,no, yes", "'yes' stands there twice"),
            ("yes", "there must be 2 to 1,000 of them, not 1"),
            (",".join(map(str, range(1_001))), "not 1,001"),
            ("a," + "b" * 500, "longer than 400 characters"),
        ],
    )
    def test_what_is_refused(self, text: str, says: str) -> None:
        with pytest.raises(SlmError, match=says) as caught:
            _asked(text)
        assert caught.value.exit_code is ExitCode.USAGE

    def test_options_without_choices_are_refused(self) -> None:
        assert classification_task_of(ChoiceOptions()) is None
        for options in (ChoiceOptions(threshold=0.5), ChoiceOptions(calibrate=True)):
            with pytest.raises(SlmError, match=r"--(threshold|calibrate) needs --choices"):
                classification_task_of(options)
        with pytest.raises(SlmError, match="is what --threshold answers"):
            _asked("sure,unsure", threshold=0.5)

    def test_printed_probabilities_have_the_sum_1(self) -> None:
        for n in (3, 7, 900):
            printed = as_printed({str(k): 1 / n for k in range(n)})
            assert sum(Decimal(repr(share)) for share in printed.values()) == 1

    def test_a_backslash_escapes_commas_and_itself(self) -> None:
        assert list(choices_in(r"yes\, please, no ,C:\dir,a\\,two\nlines")) == [
            "yes, please",
            "no",
            r"C:\dir",
            "a\\",
            "two\nlines",
        ]

    def test_whole_texts_count_and_the_prior_is_taken_away(self) -> None:
        choosing = ClassificationTask(("a", "b c"), None, is_calibrated=True)
        scores = (Score((math.log(0.2),)), Score((math.log(0.5), math.log(0.8))))
        probabilities = choosing.classification(scores, None).probabilities
        assert probabilities == pytest.approx({"a": 1 / 3, "b c": 2 / 3}, abs=1e-12)
        assert as_printed(probabilities) == {"a": 0.333333, "b c": 0.666667}
        prior = (math.log(0.1), math.log(0.64))
        verdict = choosing.classification(scores, prior)
        assert verdict.label == "a"
        assert verdict.probabilities["a"] == pytest.approx(2 / (2 + 0.4 / 0.64), abs=1e-5)

    def test_choices_that_begin_one_another_count_with_their_end(self) -> None:
        """Else the shorter one could never be less probable than the longer one."""
        chat = Prompt((Part("x", is_template=True),))
        assert ClassificationTask(("yes", "no"), None, True).choices(chat) == Choices(("yes", "no"))
        choosing = ClassificationTask(("yes", "yes please"), None, True)
        assert choosing.choices(chat) == Choices(("yes", "yes please"), has_end=True)
        scores = (Score((-0.1,), end=math.log(0.1)), Score((-0.1, math.log(0.9)), end=-0.01))
        assert choosing.classification(scores, None).label == "yes please"

    def test_behind_a_bare_prompt_a_choice_is_a_word_of_its_own(self) -> None:
        choosing = ClassificationTask(("a", "b"), None, True)
        assert choosing.choices(_prompt("Mood:")).texts == (" a", " b")
        assert choosing.choices(_prompt("Mood:\n")).texts == ("a", "b")


def _desk(tmp_path: Path, **more: object) -> Desk:
    """A model that likes `good` by itself, and reads the input a little."""

    def score(prompt: str, text: str) -> Score:
        liked = {" good": -1.0, " bad": -2.0}[text]
        return Score((liked + (0.8 if text.strip() in prompt else 0.0),))

    desk = Desk(tmp_path, FakeEngine(score=score, n_held=3))
    choosing = _asked("good,bad", **more)
    assert choosing is not None
    answers = ChosenTexts({"": choosing})
    prompts = PromptMaker("", None, [], lambda messages: _prompt(messages[-1].text), None)
    pool = desk.engine.open_scorer(SETTINGS)
    empty = EmptyPrompts([prompts.without_input("")])
    answers.calibrate(lambda task, prompts: content_free_prior(task, pool, prompts), [empty])
    desk.answers = answers
    return desk


def _rows(*texts: str) -> Iterator[Row]:
    return (Row(number, text, number) for number, text in enumerate(texts, 1))


class TestRows:
    def test_the_prior_is_the_mean_over_inputs_that_say_nothing(self) -> None:
        engine = FakeEngine(score=lambda prompt, text: Score((-1.0 if prompt == text.strip() else -3.0,)))
        choosing = ClassificationTask(("a", "b"), None, is_calibrated=True)
        prior = content_free_prior(choosing, engine.open_scorer(SETTINGS), [_prompt("a"), _prompt("x")])
        assert prior == (-2.0, -3.0)
        assert (
            content_free_prior(
                ClassificationTask(("a", "b"), None, False), engine.open_scorer(SETTINGS), [_prompt("a")]
            )
            is None
        )

    def test_calibration_takes_away_what_is_liked_without_input(self, tmp_path: Path) -> None:
        desk = _desk(tmp_path)
        assert desk.run(_rows("so good", "so bad")) is ExitCode.DONE
        assert [record["completion"] for record in desk.records] == ["good", "bad"]
        assert sum(desk.records[0]["probabilities"].values()) == pytest.approx(1.0)
        (tmp_path / "out.jsonl").unlink()
        desk = _desk(tmp_path, calibrate=False)
        desk.run(_rows("so good", "so bad"))
        assert [record["completion"] for record in desk.records] == ["good", "good"]

    def test_below_the_threshold_it_is_unsure(self, tmp_path: Path) -> None:
        desk = _desk(tmp_path, threshold=0.6)
        desk.run(_rows("so good", "who knows"))
        assert [record["completion"] for record in desk.records] == ["good", "unsure"]
        assert desk.records[1]["probabilities"] == {"good": 0.5, "bad": 0.5}
        assert desk.records[1]["error"] is None

    def test_a_row_that_fails_is_a_record(self, tmp_path: Path) -> None:
        desk = _desk(tmp_path)
        desk.engine.answer = lambda prompt: SlmError("too long.", exit_code=ExitCode.CONTEXT)
        assert desk.run(_rows("a")) is ExitCode.CONTEXT
        record = desk.records[0]
        assert (record["completion"], record["probabilities"], record["error"]) == (None, None, "too long.")

    def test_without_input_the_rest_of_the_prompt_stays(self) -> None:
        def made(instruction: str) -> str:
            prompts = PromptMaker(instruction, None, [], lambda messages: _prompt(messages[-1].text), None)
            return prompts.without_input("N/A").parts[0].text

        assert made("{title}: {{x}} of {body}?") == "N/A: {x} of N/A?"
        assert made("Review: {}\nMood:") == "Review: N/A\nMood:"
        assert made("How is it?") == '"""\nN/A\n"""\n\nHow is it?'


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    control = ("<|im_start|>", "<|im_end|>")
    return write_tiny_llama(path, chat_template=CHATML_TEMPLATE, extra_control_tokens=control, context_length=512)


@pytest.mark.real
class TestProgram:
    def test_run_and_batch_say_the_same(self, slm: Callable[..., Outcome], tiny: Path) -> None:
        asked = ("-m", tiny, "--choices", "water,oil,the people", "What is it?")
        done = slm("run", *asked, "--json", stdin="hello")
        assert done.code == 0, done.err
        said = json.loads(done.out)
        assert sum(said["probabilities"].values()) == pytest.approx(1.0, abs=1e-4)
        assert said["completion"] == max(said["probabilities"], key=said["probabilities"].get)
        assert said["usage"]["completion_tokens"] == 0
        assert slm("run", *asked, stdin="hello").out == said["completion"] + "\n"
        rows = [json.loads(line) for line in slm("batch", *asked, stdin="hello\nthe water\n").out.splitlines()]
        assert rows[0]["probabilities"] == pytest.approx(said["probabilities"], abs=0.01)
        assert rows[0]["probabilities"] != rows[1]["probabilities"]

    def test_several_questions_about_one_text_are_one_object(self, slm: Callable[..., Outcome], tiny: Path) -> None:
        asked = ("-m", tiny, "--choices", "what=water,oil", "--choices", "who=people,nobody", "The {name} of it?")
        done = slm("run", *asked, stdin="the people said that " * 20)
        assert done.code == 0, done.err
        value = json.loads(done.out)
        assert value["what"] in ("water", "oil") and value["who"] in ("people", "nobody")
        said = json.loads(slm("run", *asked, "--json", stdin="the people said that " * 20).out)
        assert said["value"] == value
        assert [sum(shares.values()) for shares in said["probabilities"].values()] == pytest.approx([1, 1])
        assert said["usage"]["cached_tokens"] > 50  # the text is read once
        one = ("-m", tiny, "--choices", "water,oil", "The what of it?", "--json")
        alone = json.loads(slm("run", *one, stdin="the people said that " * 20).out)
        assert alone["probabilities"] == pytest.approx(said["probabilities"]["what"], abs=1e-3)

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--choices", "a=b,c", "--choices", "d,e"], "'d,e' has no name"),
            (["--choices", "a=b,c", "--choices", "a=d,e"], "the question a stands there twice"),
            (["--choices", "a=b,c", "--choices", "d=e"], "there must be 2 to 1,000 of them, not 1"),
            (
                ["--choices", "a=b,c", "--choices", "d=e,f", "--regex", "x"],
                "cannot be one of --choices and in another format",
            ),
        ],
    )
    def test_several_questions_need_names(
        self, slm: Callable[..., Outcome], tiny: Path, arguments: list[str], says: str
    ) -> None:
        done = slm("run", "-m", tiny, *arguments, "What?")
        assert (done.code, done.out) == (2, "")
        assert says in done.err

    def test_threshold_and_calibration(self, slm: Callable[..., Outcome], tiny: Path) -> None:
        done = slm("run", "-m", tiny, "--choices", "water,oil", "--threshold", "1", "What?")
        assert (done.code, done.out) == (0, "unsure\n")
        shares = [
            json.loads(slm("run", "-m", tiny, "--choices", "water,oil", flag, "--json", "What?").out)["probabilities"]
            for flag in ("--calibrate", "--no-calibrate")
        ]
        assert shares[0] != shares[1]

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--choices", "a,a"], "stands there twice"),
            (["--choices", "a,b", "--regex", "x"], "cannot be one of --choices and in another format"),
            (["--threshold", "0.5"], "needs --choices"),
            (["--choices", "a,b", "--threshold", "2"], "--threshold"),
        ],
    )
    @pytest.mark.parametrize("command", ["run", "batch"])
    def test_what_is_refused(
        self, slm: Callable[..., Outcome], tiny: Path, command: str, arguments: list[str], says: str
    ) -> None:
        done = slm(command, "-m", tiny, *arguments, "What?", stdin="x")
        assert (done.code, done.out) == (2, "")
        assert says in done.err

    @staticmethod
    def _told(**shares: float) -> dict[str, object]:
        """A piece of a stream: the first token, and how probable each one is at its place."""
        top = [{"token": token, "logprob": math.log(share)} for token, share in shares.items()]
        said = delta("x")
        said["choices"][0]["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}  # type: ignore[index]
        return said

    def test_an_endpoint_tells_the_first_token(self, slm: Callable[..., Outcome]) -> None:
        with EndpointServer() as server:
            server.usual = stream(self._told(pos=0.5, Pos=0.2, neg=0.1, the=0.05), reason="length")
            asked = ("--endpoint", server.url, "--choices", "positive,negative,unknown", "--no-calibrate")
            done = slm("run", *asked, "--json", "What?", stdin="x")
            assert done.code == 0, done.err
            said = json.loads(done.out)
            assert said["completion"] == "positive"
            # of the three: 0.5, 0.1, and not more than the least that is told
            assert said["probabilities"] == pytest.approx(
                {"positive": 0.5 / 0.65, "negative": 0.1 / 0.65, "unknown": 0.05 / 0.65}, abs=1e-5
            )
            body = server.posts[0].body
            assert (body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (1, True, 20)

    def test_an_endpoint_that_does_not_tell_enough(self, slm: Callable[..., Outcome]) -> None:
        with EndpointServer() as server:
            asked = ("run", "--endpoint", server.url, "--no-calibrate")
            server.usual = stream("a")
            done = slm(*asked, "--choices", "a,b", "What?", stdin="x")
            assert (done.code, done.out) == (2, "")
            assert "--choices needs the probabilities of tokens" in done.err
            server.usual = stream(self._told(po=0.5, ne=0.1), reason="length")
            done = slm(*asked, "--choices", "positive,possible", "What?", stdin="x")
            assert (done.code, done.out) == (2, "")
            assert "'po' begins positive and possible" in done.err


@pytest.mark.model
def test_reviews_with_real_weights(model_home: Path, gemma3_base: Path) -> None:
    lines = (Path(__file__).parents[1] / "slmchat/evaluation/suite/sentiment.jsonl").read_text().splitlines()[:30]
    asked = ("--raw", "--choices", "positive,negative", "--input-field", "text", "Review: {}\nSentiment:")
    done = run_slm("batch", "-m", "gemma3:270m-pt", *asked, home=model_home, stdin="\n".join(lines))
    assert done.code == 0, done.err
    said = [json.loads(line)["completion"] for line in done.out.splitlines()]
    right = sum(choice == json.loads(line)["label"] for choice, line in zip(said, lines, strict=True))
    assert right >= 25  # docs/batch.md has the figures of all 204


@pytest.mark.real
class TestKeptPriors:
    def _asked(self, slm: Callable[..., Outcome], tiny: Path, *more: object) -> dict[str, float]:
        done = slm("run", "-m", tiny, "--choices", "water,oil", "--json", *more, "What?", stdin="hello")
        assert done.code == 0, done.err
        shares: dict[str, float] = json.loads(done.out)["probabilities"]
        return shares

    def test_a_second_run_looks_it_up(self, slm: Callable[..., Outcome], tiny: Path, home: Path) -> None:
        file = home / "cache" / "choices.json"
        first = self._asked(slm, tiny)
        kept = json.loads(file.read_text())
        assert len(kept) == 1 and "What" not in file.read_text()
        (key,) = kept
        file.write_text(json.dumps({key: [kept[key][0] - 50, kept[key][1]]}))  # as if it had been so
        assert self._asked(slm, tiny)["water"] > 0.999999
        assert self._asked(slm, tiny, "--private") == pytest.approx(first, abs=1e-5)  # neither read nor written
        file.write_text("{[")
        assert self._asked(slm, tiny) == pytest.approx(first, abs=1e-5)
        assert json.loads(file.read_text())[key] == pytest.approx(kept[key], abs=0.1)

    def test_another_question_model_or_list_is_another_prior(
        self, slm: Callable[..., Outcome], tiny: Path, home: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "other.gguf"
        other.write_bytes(tiny.read_bytes())
        for asked in (
            ("-m", tiny, "--choices", "water,oil", "What?"),
            ("-m", tiny, "--choices", "oil,water", "What?"),
            ("-m", tiny, "--choices", "water,oil", "Which?"),
            ("-m", tiny, "--choices", "water,oil", "--system", "Be short.", "What?"),
            ("-m", other, "--choices", "water,oil", "What?"),
            ("-m", tiny, "--choices", "water,oil", "--raw", "What?"),
        ):
            assert slm("run", *asked, stdin="hello").code == 0
        assert len(json.loads((home / "cache" / "choices.json").read_text())) == 6
        slm("run", "-m", tiny, "--no-calibrate", "--choices", "a,b", "What?", stdin="hello")
        assert len(json.loads((home / "cache" / "choices.json").read_text())) == 6
