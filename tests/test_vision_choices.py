"""`--choices` about pictures: the same scores as one token after the other, each picture seen once."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome
from endpoint_server import EndpointServer, delta, stream
from PIL import Image as Pillow
from test_vision import IMAGE_TOKENS, asked, counting, encodings, image, loaded, seeing

import slmchat
from slmchat.engine import llama
from slmchat.engine.context import Context
from slmchat.engine.probabilities import LogProbabilities
from slmchat.engine.requests import Choices, Part, Prompt, Request, SessionSettings
from slmchat.engine.results import Result, Score

pytestmark = pytest.mark.real
__all__ = ["counting", "seeing"]

SETTINGS = SessionSettings(512, 1, 1)
TEXTS = (" the", " water and oil", " people said that it was")
QUESTIONS = ("what is this", "what can you see there", "who are these people and how many of them are there")


@pytest.fixture(scope="module", params=["gemma", "smolvlm", "qwen"])
def engine(request: pytest.FixtureRequest, seeing: Path) -> Iterator[llama.LlamaEngine]:
    engine = loaded(seeing / request.param)
    yield engine
    engine.close()


def _alone(engine: llama.LlamaEngine, prompt: Prompt, text: str) -> Score:
    """By evaluating one token after the other behind the prompt, as a session does."""
    tokens = engine.vocabulary.tokenize(prompt)
    rest = engine.vocabulary.continued(prompt, tokens, text)
    context = Context(engine.loaded.api, engine.loaded.model, SETTINGS, lambda: False, engine.vocabulary.vision)
    reading = LogProbabilities(engine.loaded.api, engine.vocabulary.n_tokens)
    list(context.prefill(tokens))
    found = []
    for token in rest:
        found.append(reading.after(context.handle, -1).of(token))
        context.evaluate_one(token)
    context.close()
    return Score(tuple(found))


def _scores(engine: llama.LlamaEngine, prompts: list[Prompt]) -> list[Result]:
    scorer = engine.open_scorer(replace(SETTINGS, waits_for_requests=True))  # on a busy machine, too
    requests = (Request(n, prompt, choices=Choices(TEXTS)) for n, prompt in enumerate(prompts))
    done = sorted(scorer.run(requests), key=lambda each: each.id)
    scorer.close()
    assert [each.error for each in done] == [None] * len(prompts)
    return done


def _check(engine: llama.LlamaEngine, prompts: list[Prompt], done: list[Result]) -> None:
    for prompt, each in zip(prompts, done, strict=True):
        for text, score in zip(TEXTS, each.scores, strict=True):
            assert score.logprobs == pytest.approx(_alone(engine, prompt, text).logprobs, abs=0.1)


def test_several_questions_about_one_picture(engine: llama.LlamaEngine) -> None:
    prompts = [asked(question, image(5)) for question in QUESTIONS]
    before = encodings()
    done = _scores(engine, prompts)
    assert encodings() - before == sum(token % 2 == 0 and token >= 1 << 30 for token in _tokens(engine, prompts[0]))
    cached = [each.finish.usage.cached_tokens for each in done if each.finish]
    assert min(cached) > IMAGE_TOKENS  # no question but the first reads it
    _check(engine, prompts, done)


def _tokens(engine: llama.LlamaEngine, prompt: Prompt) -> list[int]:
    return engine.vocabulary.tokenize(prompt)


def test_many_pictures_and_texts_in_one_run(engine: llama.LlamaEngine) -> None:
    prompts = [asked(question, image(shift)) for shift in (0, 40, 90, 130) for question in QUESTIONS[:2]]
    prompts[5:5] = [asked(QUESTIONS[2]), asked(QUESTIONS[1], image(40), image(90))]
    before = encodings()
    done = _scores(engine, prompts)
    n_slices = sum(token % 2 == 0 and token >= 1 << 30 for token in _tokens(engine, prompts[0]))
    assert encodings() - before <= 4 * n_slices  # each picture once, wherever it stands
    _check(engine, prompts, done)
    assert done[0].scores != done[2].scores  # it looks at the picture


def test_a_prompt_that_ends_in_a_picture(engine: llama.LlamaEngine) -> None:
    prompts = [Prompt((Part(QUESTIONS[2]), Part("", image=image(shift)))) for shift in (3, 60)]
    _check(engine, prompts, _scores(engine, prompts))


def test_it_can_be_cancelled_while_a_picture_is_seen(
    engine: llama.LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = engine.open_scorer(SETTINGS)
    vision = engine.vocabulary.vision
    assert vision is not None
    see = vision.see

    def cancelling(*arguments: Any) -> Any:
        scorer.cancel()
        return see(*arguments)

    monkeypatch.setattr(vision, "see", cancelling)
    prompts = [asked(question, image(201)) for question in QUESTIONS]
    assert not list(scorer.run(Request(n, each, choices=Choices(TEXTS)) for n, each in enumerate(prompts)))
    monkeypatch.undo()
    done = sorted(
        scorer.run(Request(n, each, choices=Choices(TEXTS)) for n, each in enumerate(prompts)), key=lambda each: each.id
    )
    scorer.close()
    _check(engine, prompts, done)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("photos")
    made = []
    for name, shift in (("a.png", 0), ("b.png", 90)):
        one = image(shift)
        Pillow.frombytes("RGB", (one.width, one.height), one.rgb).save(root / name)
        made.append(root / name)
    return made


class TestProgram:
    def test_run_batch_and_python_say_the_same(
        self, slm: Callable[..., Outcome], seeing: Path, photos: list[Path]
    ) -> None:
        model = seeing / "smolvlm" / "model.gguf"
        given = ("-m", model, "--choices", "water,oil,the people", "What is it?")
        said = []
        for photo in photos:
            done = slm("run", *given, "-f", photo, "--json")
            assert done.code == 0, done.err
            assert photo.name in done.err  # its size and its tokens
            said.append(json.loads(done.out))
        assert said[0]["probabilities"] != said[1]["probabilities"]
        assert sum(said[0]["probabilities"].values()) == pytest.approx(1)
        assert said[0]["usage"]["prompt_tokens"] > 5 * IMAGE_TOKENS
        rows = slm("batch", *given, "-f", photos[0], "-f", photos[1])
        assert rows.code == 0, rows.err
        for one, line in zip(said, rows.out.splitlines(), strict=True):
            record = json.loads(line)
            assert record["completion"] == one["completion"]
            assert record["probabilities"] == pytest.approx(one["probabilities"], abs=0.001)
        with slmchat.load(str(model)) as loaded_model:
            for text, more in (("What is it?", {}), ("", {"instruction": "What is it?"})):
                found = loaded_model.classify(text, ["water", "oil", "the people"], images=[photos[0]], **more)
                assert found.probabilities == pytest.approx(said[0]["probabilities"], abs=0.001)

    def test_several_questions_about_one_picture(
        self, slm: Callable[..., Outcome], seeing: Path, photos: list[Path]
    ) -> None:
        model = seeing / "gemma" / "model.gguf"
        asked = ("-m", model, "--choices", "what=water,oil", "--choices", "who=people,nobody", "The {name} in it?")
        done = slm("run", *asked, "-f", photos[0], "--json")
        assert done.code == 0, done.err
        said = json.loads(done.out)
        assert said["value"]["what"] in ("water", "oil") and said["value"]["who"] in ("people", "nobody")
        assert said["usage"]["cached_tokens"] > 2 * IMAGE_TOKENS
        done = slm("batch", *asked, "-f", photos[0], "-f", photos[1])
        assert done.code == 0, done.err
        first, second = map(json.loads, done.out.splitlines())
        for name, shares in said["probabilities"].items():
            assert first["probabilities"][name] == pytest.approx(shares, abs=0.001)
        assert first["probabilities"] != second["probabilities"]

    def test_without_its_picture_a_question_is_what_calibrates(self, seeing: Path, photos: list[Path]) -> None:
        choices = ["water", "oil", "the people"]
        with slmchat.load(str(seeing / "qwen" / "model.gguf")) as model:
            plain = model.classify("What is it?", choices, images=[photos[0]], calibrate=False).probabilities
            without = model.classify("What is it?", choices, calibrate=False).probabilities
            found = model.classify("What is it?", choices, images=[photos[0]]).probabilities
        quotients = {text: plain[text] / without[text] for text in plain}
        expected = {text: share / sum(quotients.values()) for text, share in quotients.items()}
        assert found == pytest.approx(expected, abs=0.001)

    def test_an_endpoint_is_shown_the_picture(self, slm: Callable[..., Outcome], photos: list[Path]) -> None:
        with EndpointServer() as server:
            top = [{"token": token, "logprob": math.log(share)} for token, share in (("cat", 0.6), ("dog", 0.2))]
            said = delta("x")
            said["choices"][0]["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}  # type: ignore[index]
            server.usual = stream(said, reason="length")
            done = slm(
                "run", "--endpoint", server.url, "--choices", "cat,dog", "What is it?", "-f", photos[0], "--json"
            )
            assert done.code == 0, done.err
            assert json.loads(done.out)["probabilities"] == {"cat": 0.5, "dog": 0.5}  # as it is without the picture
            bodies = [json.dumps(post.body) for post in server.posts]
            assert sorted("image_url" in body for body in bodies) == [False, True]

    def test_a_model_that_does_not_see_says_so(
        self, slm: Callable[..., Outcome], seeing: Path, photos: list[Path], tmp_path: Path
    ) -> None:
        blind = tmp_path / "model.gguf"
        blind.write_bytes((seeing / "smolvlm" / "model.gguf").read_bytes())
        for given in (("--choices", "a,b"), ("--choices", "x=a,b", "--choices", "y=c,d")):
            for command in ("run", "batch"):
                done = slm(command, "-m", blind, *given, "What?", "-f", photos[0])
                assert (done.code, done.out) == (2, "")
                assert "does not see pictures" in done.err
