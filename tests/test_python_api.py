"""`from slmchat import load`: what a Python program gets, sees and may do. The fake engine first, real weights last."""

import gc
import json
import logging
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from conftest import SMOLLM2, environment, run_slm
from fake_engine import FakeEngine, Ready
from gguf_samples import write_tiny_llama

import slmchat
from slmchat import Model, SlmError
from slmchat.catalog.records import Installed, InstalledFile
from slmchat.engine.api import Score
from slmchat.errors import ExitCode
from slmchat.models import loader, resolve

HEAVY = {"llama_cpp", "numpy", "jinja2", "huggingface_hub", "prompt_toolkit", "rich", "psutil", "typer", "PIL"}

Loader = Callable[..., Model]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def load(engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """`slmchat.load` with one model installed: the fake engine."""
    file = InstalledFile(tmp_path / "m.gguf", None, 1, 1)
    found = Installed("fake:1b", "Q4_K_M", (file,), "test", "2026-01-01T00:00:00Z", sampler={"temperature": 0.3})
    monkeypatch.setattr(resolve, "find", lambda *_: found)
    monkeypatch.setattr(loader, "start_loading", lambda *_: Ready(engine))
    monkeypatch.setenv("SLM_HOME", str(tmp_path / "home"))

    def call(**options: object) -> Model:
        return slmchat.load("fake:1b", **{"ctx": 400, **options})  # type: ignore[arg-type]

    return call


@pytest.fixture
def model(load: Loader) -> Iterator[Model]:
    with load() as made:
        yield made


def _refused(call: Callable[[], object]) -> SlmError:
    with pytest.raises(SlmError) as caught:
        call()
    return caught.value


class _Gate:
    """A reply whose second piece comes when the test says so."""

    def __init__(self, *pieces: str) -> None:
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()
        self._pieces = pieces

    def __iter__(self) -> Iterator[str]:
        yield self._pieces[0]
        self.has_begun.set()
        assert self.may_go_on.wait(20)
        yield from self._pieces[1:]


class TestComplete:
    def test_a_completion_says_everything_about_itself(self, model: Model, engine: FakeEngine) -> None:
        done = model.complete("Hi", system="Be brief.", seed=7)
        assert (str(done), done.text, done.value, done.thinking) == ("Hello.", "Hello.", None, "")
        assert (done.finish_reason, done.seed, done.usage.completion_tokens) == ("stop", 7, 2)
        assert done.timings.ttft_s == 0.1
        assert engine.prompts == [
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        ]

    def test_raw_is_the_bare_prompt_and_keeps_white_space(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [(" world",)]
        assert model.complete("Hello", raw=True).text == " world"
        assert engine.prompts == ["Hello"]

    def test_one_completion_knows_nothing_of_another(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [("One",), ("Two",)]
        model.complete("first")
        model.complete("second")
        assert "first" not in engine.prompts[1]

    def test_control_sequences_do_not_reach_the_program(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [("a\x1b[31m", "b\x07")]
        assert model.complete("Hi").text == "ab"

    def test_a_thought_stands_apart(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [("<think>", "hm", "</think>", "Yes")]
        done = model.complete("Hi")
        assert (done.text, done.thinking.strip()) == ("Yes", "hm")

    def test_limits_end_it(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [("a", "b", "c")]
        done = model.complete("Hi", max_tokens=2)
        assert (done.text, done.finish_reason) == ("ab", slmchat.FinishReason.LENGTH)

    def test_one_stop_sequence_or_several(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [("a",), ("b",)]
        model.complete("Hi", stop="END")
        model.complete("Hi", stop=("a", "b"))
        assert [limits.stop for limits in engine.limits] == [("END",), ("a", "b")]

    def test_the_sampler_is_the_makers_then_that_of_load_then_that_of_the_call(
        self, load: Loader, engine: FakeEngine
    ) -> None:
        engine.replies = [("a",), ("b",)]
        with load(seed=5) as model:
            model.complete("Hi")
            model.complete("Hi", temperature=0, top_k=3, seed=9)
        assert [(one.temperature, one.top_k, one.seed) for one in engine.samplers] == [(0.3, 40, 5), (0.0, 3, 9)]

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"max_tokens": 0}, "max_tokens must be a whole number from 1 to 10,000,000."),
            ({"temperature": "warm"}, "temperature must be a number from 0 to 10."),
            ({"seed": 2**32}, "seed must be a whole number from 0 to 4,294,967,294."),
            ({"regex": "a", "json": True}, "regex and json cannot be combined: an answer has one shape."),
            ({"schema": {"type": {1}}}, "the schema is not valid JSON"),
            ({"schema": "{"}, "the schema is not valid JSON"),
            ({"fields": ""}, ""),
        ],
    )
    def test_what_cannot_be_is_refused_before_the_model_is_asked(
        self, model: Model, engine: FakeEngine, options: dict[str, object], said: str
    ) -> None:
        error = _refused(lambda: model.complete("Hi", **options))  # type: ignore[arg-type]
        assert (error.exit_code, engine.prompts) == (ExitCode.USAGE, [])
        assert error.message.startswith(said)
        assert model.complete("Hi").text == "Hello."  # and it goes on

    def test_an_unknown_keyword_is_a_type_error(self, model: Model) -> None:
        with pytest.raises(TypeError, match=r"complete\(\) got an unexpected keyword argument 'temprature'"):
            model.complete("Hi", temprature=0)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match=r"stream\(\) got an unexpected keyword argument 'schema'"):
            model.stream("Hi", schema={})  # type: ignore[call-arg]

    @pytest.mark.parametrize("prompt", ["", " \n"])
    def test_an_empty_prompt_is_none(self, model: Model, prompt: str) -> None:
        assert _refused(lambda: model.complete(prompt)).exit_code is ExitCode.USAGE

    def test_a_prompt_that_does_not_fit_names_the_keyword(self, model: Model) -> None:
        error = _refused(lambda: model.complete("x" * 500))
        assert error.exit_code is ExitCode.CONTEXT
        assert error.hint is not None and "load(..., ctx=N)" in error.hint

    def test_a_traceback_has_the_hint(self, model: Model) -> None:
        error = _refused(lambda: model.complete("x" * 500))
        assert f"hint: {error.hint}" in "".join(traceback.format_exception(error))

    def test_images_need_a_model_that_sees(self, model: Model, tmp_path: Path) -> None:
        import io

        from PIL import Image

        data = io.BytesIO()
        Image.new("RGB", (4, 4)).save(data, "PNG")
        assert not model.sees
        assert "does not see pictures" in _refused(lambda: model.complete("What?", images=[data.getvalue()])).message
        assert _refused(lambda: model.complete("What?", images=[tmp_path / "no.png"])).exit_code is ExitCode.USAGE
        assert _refused(lambda: model.complete("What?", images=[b"no picture"])).exit_code is ExitCode.DAMAGED


class TestShapes:
    def test_the_value_comes_parsed(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [('{"name":', ' "Ann", "age": 3}'), ("yes",), ("[1]",)]
        assert model.complete("Who?", fields="name, age int").value == {"name": "Ann", "age": 3}
        assert model.complete("Well?", regex="yes|no").value == "yes"
        assert model.complete("Numbers?", json=True).value == [1]

    def test_a_wrong_answer_is_asked_for_once_more_then_an_error(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [("maybe",), ("no",), ("maybe",), ("perhaps",)]
        assert model.complete("Well?", regex="yes|no").value == "no"
        assert _refused(lambda: model.complete("Well?", regex="yes|no")).exit_code is ExitCode.UNSATISFIED

    def test_a_schema_is_a_mapping_or_text(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [("3",), ("4",)]
        assert model.complete("How many?", schema={"type": "integer"}).value == 3
        assert model.complete("How many?", schema='{"type": "integer"}').value == 4


class TestStream:
    def test_pieces_then_the_whole(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [("a", "b", "c")]
        stream = model.stream("Hi")
        assert next(stream) == "a"
        assert stream.completion is None
        assert list(stream) == ["b", "c"]
        assert stream.completion is not None and stream.completion.text == "abc"
        assert list(stream) == []

    def test_a_stream_that_is_left_frees_the_model(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [["x"] * 1000, ("next",)]
        for piece in model.stream("Hi"):
            assert piece == "x"
            break
        assert model.complete("Hi").text == "next"

    def test_never_far_ahead_of_its_reader(self, model: Model, engine: FakeEngine) -> None:
        made: list[int] = []

        def pieces() -> Iterator[str]:
            for number in range(1000):
                made.append(number)
                yield "x"

        engine.replies = [pieces()]  # type: ignore[list-item]
        with model.stream("Hi") as stream:
            next(stream)
            assert len(made) < 50
        assert len(made) < 50
        assert stream.completion is None

    def test_a_thread_does_not_wait_for_itself(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [("a", "b"), ("next",)]
        stream = model.stream("Hi")  # generated at once, and still open
        error = _refused(lambda: model.complete("Hi"))
        assert (error.exit_code, error.hint is not None and "close()" in error.hint) == (ExitCode.USAGE, True)
        assert "".join(stream) == "ab"
        assert model.complete("Hi").text == "next"

    def test_what_is_wrong_at_once_is_raised_at_once(self, model: Model) -> None:
        assert _refused(lambda: model.stream("x" * 500)).exit_code is ExitCode.CONTEXT
        assert model.complete("Hi").text == "Hello."

    def test_what_goes_wrong_later_is_raised_where_it_is_read(self, model: Model, engine: FakeEngine) -> None:
        def pieces() -> Iterator[str]:
            yield "a"
            raise SlmError("the engine failed.", exit_code=ExitCode.BUG)

        engine.replies = [pieces(), ("next",)]  # type: ignore[list-item]
        stream = model.stream("Hi")
        assert next(stream) == "a"
        assert _refused(lambda: next(stream)).message == "the engine failed."
        assert model.complete("Hi").text == "next"


class TestThreads:
    def test_calls_wait_for_one_another(self, model: Model, engine: FakeEngine) -> None:
        gate = _Gate("slow", "!")
        engine.replies = [gate, ("quick",)]  # type: ignore[list-item]
        done: list[str] = []
        first = threading.Thread(target=lambda: done.append(model.complete("1").text))
        second = threading.Thread(target=lambda: done.append(model.complete("2").text))
        first.start()
        assert gate.has_begun.wait(20)
        second.start()
        second.join(0.2)  # long enough to overtake, if it could
        assert (second.is_alive(), len(engine.prompts)) == (True, 1)
        gate.may_go_on.set()
        first.join(20)
        second.join(20)
        assert done == ["slow!", "quick"]

    def test_cancel_from_another_thread(self, model: Model, engine: FakeEngine) -> None:
        gate = _Gate("begun", " never", " said")
        engine.replies = [gate]  # type: ignore[list-item]
        done: list[slmchat.Completion] = []
        thread = threading.Thread(target=lambda: done.append(model.complete("1")))
        thread.start()
        assert gate.has_begun.wait(20)
        model.cancel()
        gate.may_go_on.set()
        thread.join(20)
        assert (done[0].text, done[0].finish_reason) == ("begun", "interrupted")
        model.cancel()  # nothing runs: nothing happens

    def test_a_keyboard_interrupt_leaves_the_model_usable(self, model: Model, engine: FakeEngine) -> None:
        def pieces() -> Iterator[str]:
            yield "a"
            raise KeyboardInterrupt

        engine.replies = [pieces(), ("next",)]  # type: ignore[list-item]
        with pytest.raises(KeyboardInterrupt):
            model.complete("Hi")
        assert model.complete("Hi").text == "next"


class TestChat:
    def test_it_remembers(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [("I am", " Bob."), ("Bob.",)]
        chat = model.chat(system="Be brief.")
        assert chat.say("Who are you?").text == "I am Bob."
        assert "".join(chat.stream("Again?")) == "Bob."
        assert "I am Bob." in engine.prompts[1] and "Be brief." in engine.prompts[1]
        assert [(message.role, message.text) for message in chat.messages] == [
            ("user", "Who are you?"),
            ("assistant", "I am Bob."),
            ("user", "Again?"),
            ("assistant", "Bob."),
        ]

    def test_undo_takes_the_last_exchange_back(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [("One",), ("Two",), ("Three",)]
        chat = model.chat()
        chat.say("1")
        chat.say("second")
        assert chat.undo().text == "second"
        chat.say("3")
        assert [message.text for message in chat.messages] == ["1", "One", "3", "Three"]
        assert "second" not in engine.prompts[2]
        chat.undo()
        chat.undo()
        assert "nothing to undo" in _refused(chat.undo).message

    def test_it_may_begin_with_what_was_said_before(self, model: Model, engine: FakeEngine) -> None:
        chat = model.chat(messages=[("user", "I am Ann."), ("assistant", "Hello Ann.")])
        chat.say("And now?")
        assert "I am Ann." in engine.prompts[0] and "Hello Ann." in engine.prompts[0]
        wrong: Sequence[tuple[str, str]] = [("system", "x")]
        assert _refused(lambda: model.chat(messages=wrong)).exit_code is ExitCode.USAGE  # type: ignore[arg-type]

    def test_two_chats_do_not_hear_each_other(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [("a",), ("b",)]
        first, second = model.chat(), model.chat()
        first.say("secret")
        second.say("What?")
        assert "secret" not in engine.prompts[1]

    def test_a_full_window_is_an_error_and_the_message_was_not_said(self, model: Model, engine: FakeEngine) -> None:
        chat = model.chat()
        chat.say("x" * 250)
        error = _refused(lambda: chat.say("y" * 200))
        assert error.exit_code is ExitCode.CONTEXT
        assert error.hint is not None and 'on_overflow="drop"' in error.hint
        assert len(chat.messages) == 2

    def test_or_the_oldest_exchanges_are_dropped(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [("One",), ("Two",)]
        chat = model.chat(on_overflow="drop")
        chat.say("x" * 250)
        assert chat.say("y" * 100).text == "Two"
        assert "x" * 250 not in engine.prompts[1]
        assert len(chat.messages) == 4

    def test_or_summarised_and_the_summary_is_no_part_of_the_answer(self, load: Loader, engine: FakeEngine) -> None:
        engine.replies = [("One",), ("They said x.",), ("Two",)]
        with load(ctx=900) as model:
            chat = model.chat(on_overflow="summarise")
            chat.say("x" * 350)
            assert list(chat.stream("y" * 480)) == ["Two"]
        assert "They said x." in engine.prompts[2]

    def test_an_unknown_overflow_is_refused(self, model: Model) -> None:
        assert "on_overflow" in _refused(lambda: model.chat(on_overflow="burn")).message  # type: ignore[arg-type]

    def test_what_was_read_of_an_answer_is_kept(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [["x"] * 1000, ("next",)]
        chat = model.chat()
        with chat.stream("Hi") as stream:
            next(stream)
        answer = chat.messages[-1]
        assert answer.is_cut and set(answer.text) == {"x"}
        assert chat.say("Go on").text == "next"

    def test_an_empty_message_is_none(self, model: Model) -> None:
        assert _refused(lambda: model.chat().say(" ")).exit_code is ExitCode.USAGE


class TestClassify:
    @pytest.fixture(autouse=True)
    def scores(self, engine: FakeEngine) -> None:
        """The model likes "bad" whatever it reads, and texts with a heart are good."""

        def score(prompt: str, text: str) -> Score:
            return Score((-1.0 + (3 if text == "good" and "♥" in prompt else 0) + (1 if text == "bad" else 0),))

        engine.score = score

    def test_the_label_and_the_probabilities(self, model: Model) -> None:
        found = model.classify("♥ it", ["good", "bad"], instruction="How is it?")
        assert (found.label, str(found)) == ("good", "good")
        assert found.probabilities == {"good": pytest.approx(0.9526, abs=1e-3), "bad": pytest.approx(0.0474, abs=1e-3)}

    def test_what_the_model_likes_anyway_is_taken_away_unless_asked_not_to(self, model: Model) -> None:
        calibrated = model.classify("fine", ["good", "bad"])
        assert calibrated.probabilities == {"good": 0.5, "bad": 0.5}
        assert model.classify("fine", ["good", "bad"], calibrate=False).label == "bad"

    def test_below_the_threshold_there_is_no_label(self, model: Model) -> None:
        found = model.classify("fine", ["good", "bad"], threshold=0.9)
        assert (found.label, str(found)) == (None, "unsure")

    def test_the_text_goes_where_the_instruction_says(self, model: Model, engine: FakeEngine) -> None:
        model.classify("my text", ["a", "b"], instruction="<{}> is?", raw=True)
        assert "".join(part.text for part in engine.requests[-1].prompt.parts) == "<my text> is?"

    def test_the_prior_is_found_once_for_a_question(self, model: Model, engine: FakeEngine) -> None:
        model.classify("one", ["a", "b"], instruction="Which?")
        n_requests = len(engine.requests)
        model.classify("two", ["a", "b"], instruction="Which?")
        assert len(engine.requests) == n_requests + 1
        model.classify("two", ["a", "c"], instruction="Which?")
        assert len(engine.requests) == 2 * n_requests + 1

    @pytest.mark.parametrize(
        ("choices", "options", "said"),
        [
            (["a"], {}, "there must be 2 to 100 of them, not 1"),
            ("ab", {}, "there must be 2 to 100 of them, not 0"),
            (["a", "a"], {}, "'a' stands there twice"),
            (["a", " "], {}, "a choice is empty"),
            (["a", "b"], {"threshold": 2}, "threshold must be a number from 0 to 1"),
        ],
    )
    def test_what_cannot_be_chosen_from(
        self, model: Model, choices: list[str], options: dict[str, float], said: str
    ) -> None:
        error = _refused(lambda: model.classify("x", choices, **options))  # type: ignore[arg-type]
        assert (error.exit_code, said in error.message) == (ExitCode.USAGE, True)

    def test_a_text_that_does_not_fit_or_is_none(self, model: Model) -> None:
        assert _refused(lambda: model.classify("x" * 500, ["a", "b"])).exit_code is ExitCode.CONTEXT
        assert _refused(lambda: model.classify(" ", ["a", "b"])).exit_code is ExitCode.USAGE

    def test_a_generator_of_choices(self, model: Model) -> None:
        assert model.classify("♥", (text for text in ("good", "bad"))).label == "good"  # type: ignore[arg-type]


class TestClosing:
    def test_everything_is_freed(self, load: Loader, engine: FakeEngine) -> None:
        model = load()
        chat = model.chat()
        chat.say("Hi")
        assert engine.n_sessions == 2
        model.close()
        model.close()
        assert (engine.n_sessions, engine.is_closed) == (0, True)
        assert "has been closed" in _refused(lambda: model.complete("Hi")).message
        assert "has been closed" in _refused(lambda: chat.say("Hi")).message
        assert "has been closed" in _refused(model.chat).message
        assert len(chat.messages) == 2

    def test_a_chat_frees_its_own_window(self, model: Model, engine: FakeEngine) -> None:
        with model.chat() as chat:
            chat.say("Hi")
            assert engine.n_sessions == 2
        assert engine.n_sessions == 1
        assert "has been closed" in _refused(lambda: chat.say("Hi")).message

    def test_a_model_that_nobody_holds_is_freed_but_not_under_a_chat(self, load: Loader, engine: FakeEngine) -> None:
        chat = load().chat()
        gc.collect()
        assert not engine.is_closed
        assert chat.say("Hi").text == "Hello."
        del chat
        gc.collect()
        assert (engine.n_sessions, engine.is_closed) == (0, True)

    def test_closing_ends_an_open_stream(self, load: Loader, engine: FakeEngine) -> None:
        engine.replies = [["x"] * 1000]
        model = load()
        stream = model.stream("Hi")
        next(stream)
        model.close()
        assert engine.is_closed and list(stream) == []


class TestWorld:
    def test_nothing_is_written_without_the_config(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        home, text = tmp_path / "home", "word " * 300
        monkeypatch.setenv("SLM_HOME", str(home))
        file = write_tiny_llama(tmp_path / "tiny.gguf", context_length=1024, chat_template=None)
        with slmchat.load(file, threads=1) as model:
            model.complete(text, raw=True, max_tokens=2)
        assert not home.exists()
        with slmchat.load(file, threads=1, reads_config=True) as model:
            model.complete(text, raw=True, max_tokens=2)
        assert home.exists()

    def test_the_config_counts_only_when_it_is_asked_for(
        self, load: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = tmp_path / "home" / "config" / "config.toml"
        config.parent.mkdir(parents=True)
        config.write_text("ctx = 333\n")
        monkeypatch.setenv("SLM_THREADS", "nonsense")
        with load(ctx=None) as model:
            assert model.n_ctx == 100_000  # nothing is known of the fake: what it was trained for
        assert "SLM_THREADS" in _refused(lambda: load(ctx=None, reads_config=True)).message
        monkeypatch.delenv("SLM_THREADS")
        with load(ctx=None, reads_config=True) as model:
            assert model.n_ctx == 333

    def test_what_slm_has_to_say_goes_to_a_logger(
        self, load: Loader, engine: FakeEngine, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
    ) -> None:
        engine.replies = [("maybe",), ("no",)]
        with caplog.at_level(logging.INFO, logger="slmchat"), load() as model:
            model.complete("Well?", regex="yes|no")
        assert "trying once more" in caplog.text
        assert capsys.readouterr() == ("", "")

    def test_the_names_are_there_and_no_others(self) -> None:
        for name in slmchat.__all__:
            assert getattr(slmchat, name).__doc__
            assert name in dir(slmchat)
        with pytest.raises(AttributeError):
            slmchat.lod  # noqa: B018


@pytest.mark.real
class TestCost:
    def _loaded(self, code: str, home: Path) -> set[str]:
        code = f"import sys; before = set(sys.modules); {code}; print(*(set(sys.modules) - before))"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment(home), check=True
        )
        return set(done.stdout.split())

    def test_the_package_imports_nothing(self, home: Path) -> None:
        assert self._loaded("import slmchat; slmchat.__version__", home) == {"slmchat"}

    def test_nothing_heavy_comes_before_a_model_is_loaded(self, home: Path) -> None:
        names = {name.partition(".")[0] for name in self._loaded("from slmchat import load, Model", home)}
        assert not names & HEAVY


@pytest.mark.real
@pytest.mark.model
class TestRealWeights:
    @pytest.fixture(scope="class")
    @staticmethod
    def real(model_home: Path) -> Iterator[Model]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLM_HOME", str(model_home))
            with slmchat.load("smollm2:135m", ctx=1024, threads=1) as made:
                yield made

    def test_it_says_what_slm_run_says(self, real: Model) -> None:
        done = real.complete("Name three primary colors.", temperature=0)
        assert done.text == "The primary colors are:\n\nRed (R)\nBlue (B)\nYellow (Y)"
        assert (done.finish_reason, done.usage.prompt_tokens, done.usage.completion_tokens) == ("stop", 35, 21)
        assert (real.name, real.n_ctx, real.count_tokens("hello world")) == (SMOLLM2, 1024, 2)

    def test_what_prompts_share_is_read_once(self, real: Model) -> None:
        system = "You answer questions about the history of the town of Springfield. " * 5
        real.complete("Who founded it?", system=system, max_tokens=1)
        again = real.complete("When was that?", system=system, max_tokens=1)
        assert again.usage.cached_tokens > 50

    def test_a_seed_repeats_the_answer_and_a_stream_is_the_same(self, real: Model) -> None:
        first = real.complete("Tell me a story.", seed=11, max_tokens=12)
        assert real.complete("Tell me a story.", seed=first.seed, max_tokens=12).text == first.text
        assert "".join(real.stream("Tell me a story.", seed=11, max_tokens=12)) == first.text

    def test_fields_and_a_left_stream_and_a_chat_on_one_model(self, real: Model) -> None:
        text = "Anna is 31 years old and lives in Rome."
        assert real.complete(text, fields="name, age int", temperature=0).value == {"name": "Anna", "age": 31}
        for _ in real.stream("Tell me a long story."):
            break
        with real.chat(system="You are a helpful assistant.", temperature=0, max_tokens=20) as chat:
            chat.say("My dog is called Rex.")
            assert chat.say("What is my dog called?").usage.cached_tokens > 20
            assert len(chat.messages) == 4

    def test_a_label_is_what_slm_run_answers(self, real: Model, model_home: Path) -> None:
        question, text = "What is the sentiment of this text? {}", "I love this film, it is wonderful."
        found = real.classify(text, ["positive", "negative"], instruction=question)
        done = run_slm(
            "run", "-m", SMOLLM2, "--choices", "positive,negative", "--json", question, home=model_home, stdin=text
        )
        record = json.loads(done.out)
        assert (found.label, found.probabilities) == (record["completion"], pytest.approx(record["probabilities"]))
        assert found.label == "positive"
        assert real.complete("Hi", max_tokens=1).finish_reason == "length"

    def test_two_threads_get_what_they_asked_for(self, real: Model) -> None:
        wanted = {word: real.complete(f"Write the word {word}.", temperature=0, max_tokens=8).text for word in "ABCD"}
        got: dict[str, str] = {}

        def ask(word: str) -> None:
            got[word] = real.complete(f"Write the word {word}.", temperature=0, max_tokens=8).text

        threads = [threading.Thread(target=ask, args=(word,)) for word in wanted]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert got == wanted

    def test_a_model_that_is_not_there(self, real: Model) -> None:
        error = _refused(lambda: slmchat.load("gemma3:1b"))
        assert (error.exit_code, error.hint) == (ExitCode.NO_MODEL, "slm pull gemma3:1b")

    def test_a_sealed_program_still_answers_and_reaches_nothing(self, model_home: Path, tmp_path: Path) -> None:
        code = (
            "import slmchat, socket\n"
            "status = slmchat.seal(is_private=True)\n"
            "assert status.is_enforced_by_kernel\n"
            "try: socket.socket()\n"
            "except OSError: print('closed')\n"
            "with slmchat.load('smollm2:135m', ctx=256, threads=1) as model:\n"
            "    print(model.complete('Hi', max_tokens=3).finish_reason)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=environment(model_home),
            cwd=tmp_path,
            check=False,
        )
        assert (done.stdout, done.stderr) == ("closed\nlength\n", "")
