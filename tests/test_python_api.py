"""`from slmchat import load`: what a Python program gets, sees and may do. The fake engine first, real weights last."""

import asyncio
import copy
import dataclasses
import enum
import gc
import itertools
import json
import logging
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NotRequired, TypedDict

import pytest
from conftest import SMOLLM2, environment, run_slm
from endpoint_server import EndpointServer, stream
from fake_engine import FakeEngine, FakeSession, Ready
from gguf_samples import write_tiny_llama

import slmchat
from slmchat import Model, SlmError
from slmchat.api.options import CompletionOptions, LoadOptions, SamplingOptions
from slmchat.api.schema_types import schema_of_class
from slmchat.catalog.records import Installed, InstalledFile
from slmchat.catalog.sources import Unreachable
from slmchat.engine.results import Event, Prefill, Score
from slmchat.errors import ExitCode
from slmchat.generation.response import NullHandler, consume_stream
from slmchat.models import loader, resolve

HEAVY = {"llama_cpp", "numpy", "jinja2", "huggingface_hub", "prompt_toolkit", "rich", "psutil", "typer", "PIL"}

Loader = Callable[..., Model]


@dataclasses.dataclass
class _Pet:
    legs: int


@dataclasses.dataclass
class _Owner:
    name: str
    mood: Literal["good", "bad"]
    pets: list[_Pet]
    age: int | None = None


class _Kind(enum.Enum):
    A = "a"


@dataclasses.dataclass
class _Made:
    kind: Literal[_Kind.A, 1]
    n_seen: int = dataclasses.field(init=False, default=0)


class _Table(list[str]):
    """What tables of pandas and Polars have in common: going through them gives the names of their columns."""

    columns = ("name", "text")


@dataclasses.dataclass
class _Nothing:
    pass


class _Row(TypedDict):
    legs: Annotated[int, "how many"]
    name: "NotRequired[str]"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def load(engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """`slmchat.load` with one model installed: the fake engine."""
    file = InstalledFile(tmp_path / "m.gguf", None, 1, 1)
    found = Installed("fake:1b", "Q4_K_M", (file,), "test", "2026-01-01T00:00:00Z", sampler={"temperature": 0.3})
    monkeypatch.setattr(resolve, "find", lambda *_: found)
    monkeypatch.setattr(loader, "start_loading", lambda *_, **__: Ready(engine))
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
        assert self.may_go_on.wait(300)
        yield from self._pieces[1:]


class TestAsk:
    TEXT = "The filter is cleaned every six weeks. The pump must not run dry."

    @pytest.fixture
    def manual(self, tmp_path: Path) -> Path:
        path = tmp_path / "manual.md"
        path.write_text(self.TEXT)
        return path

    @pytest.fixture
    def large(self, load: Loader) -> Iterator[Model]:
        with load(ctx=4000) as made:
            yield made

    def test_an_answer_has_quotations_with_their_places(
        self, large: Model, engine: FakeEngine, manual: Path, tmp_path: Path
    ) -> None:
        engine.replies = [['[1] "The filter is cleaned every six weeks."'], ["Every six weeks [1] [5]."]]
        answer = large.ask("How often is the filter cleaned?", manual, seed=3)
        assert (str(answer), answer.refusal, answer.finish_reason) == ("Every six weeks [1].", "", "stop")
        (quotation,) = answer.quotations
        assert quotation.text in self.TEXT and quotation.file == manual.resolve()
        assert (quotation.page, quotation.first_line, quotation.last_line) == (None, 1, 1)
        assert [sampler.temperature for sampler in engine.samplers] == [0, 0]
        assert not list(tmp_path.rglob("*.sqlite*"))  # the index is in memory

    def test_what_is_not_there_is_refused_without_the_model(
        self, large: Model, engine: FakeEngine, manual: Path
    ) -> None:
        answer = large.ask("What is the capital of Mongolia?", [str(manual)])
        assert answer.text == "" and answer.refusal and not answer.quotations and not engine.prompts

    def test_what_cannot_be_asked(self, large: Model, manual: Path, tmp_path: Path) -> None:
        assert "is empty" in _refused(lambda: large.ask(" ", manual)).message
        assert "documents is empty" in _refused(lambda: large.ask("What?", [])).message
        assert "top must be" in _refused(lambda: large.ask("What?", manual, top=0)).message
        assert _refused(lambda: large.ask("What?", tmp_path / "nowhere")).exit_code is ExitCode.USAGE
        (tmp_path / "empty").mkdir()
        assert "can be read" in _refused(lambda: large.ask("What?", tmp_path / "empty")).message
        assert "documents must be" in _refused(lambda: large.ask("What?", 7)).message  # type: ignore[arg-type]


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
            ({"regex": "a", "json": True}, "regex and json cannot be combined: an answer has one format."),
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
        with pytest.raises(TypeError, match=r"stream\(\) got an unexpected keyword argument 'scheme'"):
            model.stream("Hi", scheme={})  # type: ignore[call-arg]

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


class TestResponseFormats:
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

    def test_a_schema_is_a_class_that_has_one_and_the_value_stays_a_dict(
        self, model: Model, engine: FakeEngine
    ) -> None:
        class Person:  # as pydantic's BaseModel has it
            @staticmethod
            def model_json_schema() -> dict[str, object]:
                return {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}

        engine.replies = [('{"age": 3}',)]
        assert model.complete("Who?", schema=Person).value == {"age": 3}
        constraint = engine.limits[0].constraint
        assert constraint is not None and json.loads(constraint.text) == Person.model_json_schema()

    def test_a_schema_is_a_dataclass(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [('{"name": "Ann", "mood": "good", "pets": [{"legs": 4}]}',)]
        value = model.complete("Who?", schema=_Owner).value
        assert _Owner(**value).name == "Ann" and value["pets"] == [{"legs": 4}]
        constraint = engine.limits[0].constraint
        assert constraint is not None
        assert json.loads(constraint.text) == {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "mood": {"enum": ["good", "bad"]},
                "pets": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"legs": {"type": "integer"}},
                        "required": ["legs"],
                        "additionalProperties": False,
                    },
                },
                "age": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            },
            "required": ["name", "mood", "pets"],
            "additionalProperties": False,
        }

    @pytest.mark.parametrize(
        ("schema", "said"),
        [
            (3, "schema must be a mapping, JSON text, a pydantic class, a dataclass or a TypedDict, not 3."),
            (str, "schema must be"),
            (dataclasses.make_dataclass("Blob", [("data", bytes)]), "schema: the type of Blob.data cannot be said"),
        ],
    )
    def test_what_is_no_schema(self, model: Model, schema: object, said: str) -> None:
        error = _refused(lambda: model.complete("Hi", schema=schema))  # type: ignore[arg-type]
        assert (error.exit_code, error.message.startswith(said)) == (ExitCode.USAGE, True), error.message

    @pytest.mark.parametrize(
        ("cls", "properties", "required"),
        [
            (_Made, {"kind": {"enum": ["a", 1]}}, ["kind"]),  # what `_Made(**value)` takes, and no more
            (_Nothing, {}, []),
            (_Row, {"legs": {"type": "integer"}, "name": {"type": "string"}}, ["legs"]),
        ],
    )
    def test_what_a_class_takes_is_what_the_schema_has(
        self, cls: type, properties: dict[str, object], required: list[str]
    ) -> None:
        schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
        assert schema_of_class(cls) == schema

    def test_a_dataclass_of_pydantic_has_its_own_schema(self) -> None:
        import pydantic.dataclasses

        @pydantic.dataclasses.dataclass
        class Bounded:
            a: int = pydantic.Field(ge=3, le=4)

        made = schema_of_class(Bounded)
        assert made is not None and made["required"] == ["a"]
        assert made["properties"]["a"] == {"maximum": 4, "minimum": 3, "title": "A", "type": "integer"}

    def test_a_format_can_be_streamed_and_is_tried_once(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [('{"a":', " 1}"), ("may", "be"), ("next",)]
        stream = model.stream("Hi", json=True)
        assert list(stream) == ['{"a":', " 1}"]
        assert stream.completion is not None and stream.completion.value == {"a": 1}
        stream = model.stream("Well?", regex="yes|no")
        assert [next(stream), next(stream)] == ["may", "be"]
        assert _refused(lambda: next(stream)).exit_code is ExitCode.UNSATISFIED
        assert model.complete("Hi").text == "next"


class TestMessages:
    def test_they_are_a_prompt_with_what_was_said_before(self, model: Model, engine: FakeEngine) -> None:
        said = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "I am Ann."},
            {"role": "assistant", "content": "Hello Ann."},
            {"role": "user", "content": "Who am I?"},
        ]
        model.complete(messages=said)
        assert engine.prompts[0] == (
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nI am Ann.<|im_end|>\n"
            "<|im_start|>assistant\nHello Ann.<|im_end|>\n<|im_start|>user\nWho am I?<|im_end|>\n"
            "<|im_start|>assistant\n"
        )

    def test_a_cut_answer_goes_on(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [("One, two",), (", three",)]
        cut = model.complete("Count.", max_tokens=1).text
        said = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": cut}]
        assert model.complete(messages=said).text == ", three"
        assert engine.prompts[1].endswith("<|im_start|>assistant\nOne, two")
        assert "cannot go on" in _refused(lambda: model.complete(messages=said, json=True)).message

    def test_a_cut_answer_of_a_chat_goes_on(self, load: Loader, engine: FakeEngine) -> None:
        engine.replies = [("One,", " two"), (" two",)]
        with load() as model:
            chat = model.chat(max_tokens=1)
            assert "no answer" in _refused(chat.go_on).message
            assert chat.say("Count.").finish_reason == "length"
            assert chat.go_on().text == " two"
            assert [message.text for message in chat.messages] == ["Count.", "One, two"]

    @pytest.mark.parametrize(
        ("messages", "said"),
        [
            ([], "messages must end with a message of the user"),
            ("Hi", "messages must be a list of"),
            ({"role": "user", "content": "Hi"}, "messages must be a list of"),
            ([("user", "Hi")], 'messages[0] must be {"role": ..., "content": ...}, not a value of type tuple'),
            ([{"role": "user"}], 'messages[0]["content"] must be a text (str), not None.'),
            ([{"role": "user", "content": [{"type": "text"}]}], 'messages[0]["content"] must be a text'),
            ([{"role": "tool", "content": "x"}], 'messages[0]["role"] must be "system", "user" or "assistant"'),
            ([{"role": "user", "content": "Hi", "name": "x"}], "messages[0] has a key 'name'"),
            ([{"role": "user", "content": "Hi"}, {"role": "system", "content": "x"}], "a system message must be"),
            ([{"role": "assistant", "content": "Hi"}], "messages must end with"),
            ([{"role": "user", "content": " "}], "messages[0] is empty."),
        ],
    )
    def test_what_are_no_messages(self, model: Model, engine: FakeEngine, messages: object, said: str) -> None:
        error = _refused(lambda: model.complete(messages=messages))  # type: ignore[arg-type]
        assert (error.exit_code, engine.prompts) == (ExitCode.USAGE, [])
        assert error.message.startswith(said)

    def test_one_of_both(self, model: Model) -> None:
        assert "cannot be combined" in _refused(lambda: model.complete("Hi", messages=[])).message
        said = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
        assert "cannot be combined" in _refused(lambda: model.complete(messages=said, system="c")).message


class TestLogprobs:
    @pytest.mark.parametrize(("asked", "told"), [(False, None), (True, 0), (5, 5)])
    def test_how_many_alternatives(self, model: Model, engine: FakeEngine, asked: int, told: int | None) -> None:
        model.complete("Hi", logprobs=asked)
        assert engine.limits[0].top_logprobs == told

    @pytest.mark.parametrize("asked", [-1, 21, 1.5, "yes"])
    def test_what_is_no_number_of_them(self, model: Model, asked: object) -> None:
        error = _refused(lambda: model.complete("Hi", logprobs=asked))  # type: ignore[arg-type]
        assert error.message == "logprobs must be True, False or a whole number from 0 to 20."


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

    def test_one_that_nobody_reads_does_not_keep_the_model(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [["x"] * 1000, ("next",)]
        stream = model.stream("Hi")
        assert next(stream) == "x"
        assert model.complete("Hi").text == "next"  # the same thread, and nothing is lost
        assert len(list(stream)) == 999
        assert stream.completion is not None and stream.completion.finish_reason == "stop"

    def test_cancel_ends_it_and_what_came_can_be_read(self, model: Model, engine: FakeEngine) -> None:
        gate = _Gate("begun", " never", " said")
        engine.replies = [gate]  # type: ignore[list-item]
        stream = model.stream("Hi")
        assert gate.has_begun.wait(300)
        stream.cancel()
        gate.may_go_on.set()
        assert list(stream) == ["begun"]
        assert stream.completion is not None and stream.completion.finish_reason == "interrupted"

    def test_closing_it_keeps_what_had_come(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [itertools.repeat("x")]  # type: ignore[list-item]
        with model.stream("Hi") as stream:
            next(stream)
        assert list(stream) == []
        assert stream.completion is not None and stream.completion.finish_reason == "interrupted"

    def test_a_generator_that_is_closed_frees_the_model(self, model: Model, engine: FakeEngine) -> None:
        def served() -> Iterator[str]:  # as a web framework drops it, whose client has gone
            for piece in model.stream("Hi"):
                yield f"data: {piece}"

        engine.replies = [itertools.repeat("x"), ("next",)]  # type: ignore[list-item]
        response = served()
        assert next(response) == "data: x"
        response.close()  # type: ignore[attr-defined]
        assert model.complete("Hi").text == "next"

    def test_ctrl_c_while_it_is_waited_for_frees_the_model(
        self, model: Model, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Interrupted(queue.SimpleQueue):  # type: ignore[type-arg]
            def get(self, *_: object) -> object:  # type: ignore[override]
                raise KeyboardInterrupt

        monkeypatch.setattr("slmchat.api.stream.SimpleQueue", Interrupted)
        engine.replies = [itertools.repeat("x"), ("next",)]  # type: ignore[list-item]
        stream = model.stream("Hi")
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        assert model.complete("Hi").text == "next"

    def test_thoughts_are_events_of_their_own(self, model: Model, engine: FakeEngine) -> None:
        engine.replies = [("<think>", "hm", "</think>", "Yes"), ("<think>", "hm", "</think>", "Yes")]
        events = list(model.stream("Hi").events())
        assert "".join(event.text for event in events if event.kind == "thinking").strip() == "hm"
        assert [event for event in events if event.kind == "answer"] == [("answer", "Yes")]
        assert list(model.stream("Hi")) == ["Yes"]

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
        assert gate.has_begun.wait(300)
        second.start()
        second.join(0.2)  # long enough to overtake, if it could
        assert (second.is_alive(), len(engine.prompts)) == (True, 1)
        gate.may_go_on.set()
        first.join(300)
        second.join(300)
        assert done == ["slow!", "quick"]

    def test_who_asks_again_at_once_stands_behind_those_who_wait(self, model: Model, engine: FakeEngine) -> None:
        gate = _Gate("slow", "!")
        engine.replies = [gate, ("b",), ("c",)]  # type: ignore[list-item]
        done: list[str] = []

        def ask(*texts: str) -> None:
            done.extend(model.complete(text).text for text in texts)

        greedy, patient = threading.Thread(target=ask, args=("1", "3")), threading.Thread(target=ask, args=("2",))
        greedy.start()
        assert gate.has_begun.wait(300)
        patient.start()
        while not model._shared.turns._line:  # it asks before the first answer is there
            time.sleep(0.001)
        gate.may_go_on.set()
        greedy.join(300)
        patient.join(300)
        assert ["2\n" in prompt or "2<" in prompt for prompt in engine.prompts] == [False, True, False]

    def test_cancel_from_another_thread(self, model: Model, engine: FakeEngine) -> None:
        gate = _Gate("begun", " never", " said")
        engine.replies = [gate]  # type: ignore[list-item]
        done: list[slmchat.Completion] = []
        thread = threading.Thread(target=lambda: done.append(model.complete("1")))
        thread.start()
        assert gate.has_begun.wait(300)
        model.cancel()
        gate.may_go_on.set()
        thread.join(300)
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

    def test_an_interrupted_generation_does_not_stay_behind(self) -> None:
        """A traceback that a notebook keeps holds the generation; it must not end later, over the next one."""
        ended: list[bool] = []

        def events() -> Iterator[Event]:
            try:
                yield Prefill(0, 1, 0)
            finally:
                ended.append(True)

        class Interrupting(NullHandler):
            def prefill(self, event: Prefill) -> None:
                raise KeyboardInterrupt

        held = events()
        with pytest.raises(KeyboardInterrupt):
            consume_stream(held, Interrupting(), sanitizer=None)
        assert ended == [True]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_a_forked_child_is_told_and_does_not_wait(self, model: Model, engine: FakeEngine) -> None:
        gate = _Gate("a", "b")
        engine.replies = [gate, ("next",)]  # type: ignore[list-item]
        stream = model.stream("Hi")  # its turn is taken in the child, too, by a thread that is not there
        assert gate.has_begun.wait(300)
        child = os.fork()
        if not child:
            said = _refused(lambda: model.complete("Hi"))
            model.close()
            os._exit(0 if said.exit_code is ExitCode.USAGE and "forked" in said.message else 1)
        gate.may_go_on.set()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert "".join(stream) == "ab"
        assert model.complete("Hi").text == "next"


NAN = float("nan")


class _Array:
    """As NumPy has them: a method of a number, which is not one, and no truth value of a comparison."""

    def __index__(self) -> int:
        raise TypeError("only integer scalar arrays can be converted to a scalar index")

    def __iter__(self) -> Iterator[object]:
        raise TypeError("iteration over a 0-d array")

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    __hash__ = None  # type: ignore[assignment]


ARRAY = SCALAR = _Array()


class TestWrongTypes:
    @pytest.mark.parametrize(
        ("call", "said"),
        [
            (lambda model: model.complete(None), "prompt must be a text (str), not None."),
            (lambda model: model.complete(3), "prompt must be a text (str), not 3."),
            (lambda model: model.complete(b"Hi"), "prompt must be a text (str), not a value of type bytes."),
            (lambda model: model.complete(NAN), "prompt must be a text (str), not nan."),
            (lambda model: model.stream({"role": "user"}), "prompt must be a text (str), not a value of type dict."),
            (lambda model: model.complete("Hi", system=3), "system must be a text (str), not 3."),
            (lambda model: model.complete("Hi", raw=None), "raw must be True or False, not None."),
            (lambda model: model.complete("Hi", temperature=NAN), "temperature must be a number from 0 to 10."),
            (lambda model: model.complete("Hi", max_tokens=2.5), "max_tokens must be a whole number"),
            (lambda model: model.complete("Hi", stop=3), "stop must be a text (str) or a list of texts, not 3."),
            (lambda model: model.complete("Hi", stop=["a", None]), "stop[1] must be a text (str), not None."),
            (lambda model: model.complete("Hi", json="yes"), "json must be True or False"),
            (lambda model: model.complete("Hi", regex=3), "regex must be a text (str), not 3."),
            (lambda model: model.complete("Hi", fields=["name"]), "fields must be a text (str)"),
            (lambda model: model.complete("Hi", schema=[1]), "schema must be a mapping"),
            (lambda model: model.complete("Hi", images=3), "images must be a list of files, not 3."),
            (lambda model: model.complete("Hi", images=[None]), "images[0] must be a text (str) or a path, not None."),
            (lambda model: model.count_tokens(None), "text must be a text (str), not None."),
            (lambda model: model.classify(None, ["a", "b"]), "text must be a text (str), not None."),
            (lambda model: model.classify("x", None), "choices must be a list of texts, not None."),
            (lambda model: model.classify("x", "a,b"), "choices must be a list of texts, not a value of type str."),
            (lambda model: model.classify("x", ["a", 1]), "choices[1] must be a text (str), not 1."),
            (lambda model: model.classify("x", ["a", "b"], threshold="much"), "threshold must be a number"),
            (lambda model: model.classify("x", ["a", "b"], instruction=3), "instruction must be a text (str), not 3."),
            (lambda model: model.chat(system=3), "system must be a text (str), not 3."),
            (lambda model: model.chat(messages=3), "messages must be a list of"),
            (lambda model: model.chat(messages=["user"]), "messages[0] must be"),
            (lambda model: model.chat().say(None), "text must be a text (str), not None."),
            (lambda model: model.chat().stream(3), "text must be a text (str), not 3."),
            (lambda model: model.complete("Hi", temperature=ARRAY), "temperature must be a number"),
            (lambda model: model.complete("Hi", think=ARRAY), "think cannot be"),
            (lambda model: model.complete("Hi", logprobs=ARRAY), "logprobs must be True, False or a whole number"),
            (lambda model: model.complete("Hi", stop=SCALAR), "stop must be a text (str) or a list of texts"),
            (lambda model: model.complete(messages=SCALAR), "messages must be a list of"),
            (lambda model: model.complete(messages=[{"role": ARRAY, "content": "x"}]), 'messages[0]["role"] must be'),
            (lambda model: model.complete_many(["Hi"], parallel=ARRAY), "parallel must be a whole number"),
            (lambda model: model.classify("x", SCALAR), "choices must be a list of texts"),
            (lambda model: model.chat(on_overflow=ARRAY), "on_overflow cannot be"),
        ],
    )
    def test_the_argument_is_named(self, model: Model, call: Callable[[object], object], said: str) -> None:
        error = _refused(lambda: call(model))
        assert (error.exit_code, error.message.startswith(said)) == (ExitCode.USAGE, True), error.message
        assert model.complete("Hi").text == "Hello."

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"ctx": "big"}, "ctx must be a whole number"),
            ({"ctx": NAN}, "ctx must be a whole number"),
            ({"kv_type": 8}, "kv_type must be a text (str), not 8."),
            ({"kv_type": "q3"}, "kv_type cannot be 'q3'."),
            ({"gpu_layers": NAN}, "gpu_layers must be a whole number from 0 to 10,000, or"),
            ({"lora": 3}, "lora must be a text (str) or a list of texts, not 3."),
            ({"mmproj": 3}, "mmproj must be a text (str) or a path, not 3."),
            ({"force": "yes"}, "force must be True or False"),
            ({"reads_config": 1}, "reads_config must be True or False, not 1."),
        ],
    )
    def test_of_load_too(self, load: Loader, options: dict[str, object], said: str) -> None:
        error = _refused(lambda: load(**options))
        assert (error.exit_code, error.message.startswith(said)) == (ExitCode.USAGE, True), error.message

    @pytest.mark.parametrize("name", [3, b"fake:1b", ["fake:1b"]])
    def test_and_its_name(self, name: object) -> None:
        error = _refused(lambda: slmchat.load(name))  # type: ignore[arg-type]
        assert error.message.startswith("name must be a text (str) or a path, not ")

    def test_numbers_of_another_library_are_numbers(self, model: Model, engine: FakeEngine) -> None:
        import numpy

        model.complete("Hi", max_tokens=numpy.int64(1), seed=numpy.uint32(3), temperature=numpy.float32(0.5))  # type: ignore[typeddict-item]
        model.complete_many(numpy.array(["a", "b"]), parallel=numpy.int64(2), temperature=numpy.float16(0))  # type: ignore[typeddict-item]
        model.classify("x", numpy.array(["a", "b"]), threshold=numpy.float32(0.5))  # type: ignore[arg-type]
        sampler = engine.samplers[0]
        assert (engine.limits[0].max_tokens, sampler.seed, sampler.temperature) == (1, 3, 0.5)

    def test_a_type_of_another_library_is_named_with_it(self, model: Model) -> None:
        import numpy

        error = _refused(lambda: model.complete("Hi", raw=numpy.bool_(True)))  # type: ignore[arg-type]
        assert error.message.startswith("raw must be True or False, not a value of type numpy.bool")

    def test_hints_name_parameters_and_leave_commands_alone(self, model: Model, engine: FakeEngine) -> None:
        def failing(hint: str) -> Iterator[str]:
            yield "a"
            raise SlmError("--ctx is small.", hint=hint, exit_code=ExitCode.CONTEXT)

        hint = "try --ctx 2048, or --kv-type q8_0; more room: -n N; --force goes on; slm run --raw; --choices A"
        told = (
            'try ctx=2048, or kv_type="q8_0"; more room: max_tokens=N; force=True goes on; slm run --raw; --choices A'
        )
        engine.replies = [failing(hint), failing(hint)]  # type: ignore[list-item]
        for call in (lambda: model.complete("Hi"), lambda: list(model.stream("Hi"))):
            error = _refused(call)
            assert (error.message, str(error), error.hint) == ("ctx is small.", "ctx is small.", told)
            assert error.__notes__ == [f"hint: {told}"]

    def test_a_model_says_that_it_cannot_be_pickled(self, model: Model) -> None:
        """So do its chats and streams: a copy that is deleted would end them."""
        with model.chat() as chat, model.stream("Hi") as stream:
            for thing in (model, chat, stream):
                for way in (pickle.dumps, copy.copy):
                    error = _refused(partial(way, thing))
                    assert error.message.startswith(f"a {type(thing).__name__} cannot be pickled or copied: ")

    @pytest.mark.parametrize(
        ("function", "options"),
        [(Model.complete, CompletionOptions), (Model.chat, SamplingOptions), (slmchat.load, LoadOptions)],
    )
    def test_help_names_every_keyword(self, function: Callable[..., object], options: type) -> None:
        """`help()` and a notebook show the signature, where they all are one `**options`."""
        told = function.__doc__ or ""
        assert [name for name in options.__annotations__ if f"`{name}`" not in told] == []

    def test_chats_and_streams_say_what_they_are(self, model: Model) -> None:
        with model.chat(messages=[("user", "Hi"), ("assistant", "Hello")]) as chat:
            assert repr(chat) == "<slmchat.Chat fake:1b@Q4_K_M, messages: 2>"
        assert repr(chat).endswith(", closed>")
        with model.stream("Hi") as stream:
            list(stream)
        assert repr(stream) == "<slmchat.Stream over>"

    def test_errors_go_to_another_process_whole(self) -> None:
        """A pool of multiprocessing waits for ever for a result that it cannot read."""
        made = (
            SlmError("a.", hint="b", exit_code=ExitCode.CONTEXT),
            SlmError("a.", exit_code=ExitCode.BUG),
            Unreachable("a.", hint="b"),
        )
        for error in made:
            for back in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
                assert type(back) is type(error)
                assert (str(back), vars(back)) == (str(error), vars(error))


class TestMany:
    def test_order_is_kept_and_a_failure_stays_in_its_place(self, model: Model, engine: FakeEngine) -> None:
        def answer(prompt: str) -> str | SlmError:
            if "bad" in prompt:
                return SlmError("the engine cannot.", exit_code=ExitCode.BUG)
            return "<think>hm</think>one" if "1" in prompt else "two"

        engine.answer, engine.n_held, engine.pick = answer, 3, lambda n_held: n_held - 1
        wrong: list[object] = ["1", "bad", "2", "", "x" * 500, None, [{"role": "user", "content": "1"}]]
        done = model.complete_many(wrong, system="Be brief.")  # type: ignore[arg-type]
        assert [str(one) for one in done] == [
            "one",
            "the engine cannot.",
            "two",
            "the prompt is empty.",
            str(_refused(lambda: model.complete("x" * 500, system="Be brief."))),
            "prompts[5] must be a text (str) or a list of messages, not None.",
            "one",
        ]
        assert isinstance(done[0], slmchat.Completion) and done[0].thinking == "hm"
        assert model.complete("Hi").text == "Hello."

    def test_a_format_has_a_second_attempt(self, model: Model, engine: FakeEngine) -> None:
        said = iter(["no number", "3", "none", "none"])
        engine.answer = lambda prompt: next(said)
        first, second = model.complete_many(["1", "2"], regex="[0-9]")
        assert isinstance(first, slmchat.Completion) and first.value == "3"
        assert isinstance(second, SlmError) and second.exit_code is ExitCode.UNSATISFIED

    def test_cancel_ends_those_that_are_not_done(self, model: Model, engine: FakeEngine) -> None:
        def answer(prompt: str) -> str:
            if "2" in prompt:
                model.cancel()
            return "yes"

        engine.answer = answer
        done = model.complete_many(["1", "2", "3"])
        assert [one.exit_code if isinstance(one, SlmError) else one.text for one in done][::2] == [
            "yes",
            ExitCode.INTERRUPTED,
        ]

    def test_the_options_are_those_of_all(self, model: Model, engine: FakeEngine) -> None:
        model.complete_many(["1", "2"], seed=7, max_tokens=3, logprobs=True)
        assert [(one.sampler.seed, one.limits.max_tokens, one.limits.top_logprobs) for one in engine.requests] == [
            (7, 3, 0),
            (7, 3, 0),
        ]
        assert model.complete_many([]) == []

    @pytest.mark.parametrize(
        ("prompts", "options", "said"),
        [
            ("one text", {}, "prompts must be a list of texts"),
            (None, {}, "prompts must be a list of texts, not None."),
            (_Table(), {}, "prompts must be a list of texts, not a value of type test_python_api._Table."),
            (["1"], {"parallel": 0}, "parallel must be a whole number from 1 to 255, or None."),
            (["1"], {"max_tokens": 0}, "max_tokens must be"),
        ],
    )
    def test_what_cannot_be_is_refused_as_a_whole(
        self, model: Model, engine: FakeEngine, prompts: object, options: dict[str, int], said: str
    ) -> None:
        error = _refused(lambda: model.complete_many(prompts, **options))  # type: ignore[arg-type]
        assert (error.exit_code, error.message.startswith(said)) == (ExitCode.USAGE, True)


class TestAsync:
    def test_it_says_what_the_others_say(self, model: Model, engine: FakeEngine) -> None:
        async def both() -> tuple[str, list[str]]:
            done = await model.acomplete("Hi", system="Be brief.", max_tokens=5)
            return done.text, [piece async for piece in model.astream("Hi")]

        engine.replies = [("a", "b"), ("c", "d")]
        assert asyncio.run(both()) == ("ab", ["c", "d"])
        assert "Be brief." in engine.prompts[0]

    def test_many_tasks_wait_for_one_another(self, model: Model, engine: FakeEngine) -> None:
        async def all_of_them() -> list[slmchat.Completion]:
            return await asyncio.gather(*(model.acomplete(str(number)) for number in range(20)))

        engine.replies = [("x",)] * 20
        assert [done.text for done in asyncio.run(all_of_them())] == ["x"] * 20

    def test_those_who_wait_leave_the_threads_of_the_program_alone(self, model: Model, engine: FakeEngine) -> None:
        """`asyncio.to_thread` has some six of them on two cores: for names, for files, for whatever else there is."""
        gate = _Gate("a", "b")

        async def program() -> list[slmchat.Completion]:
            tasks = [asyncio.create_task(model.acomplete(str(number))) for number in range(64)]
            try:
                await asyncio.wait_for(asyncio.to_thread(lambda: None), 60)
            finally:
                gate.may_go_on.set()
            return await asyncio.gather(*tasks)

        engine.replies = [gate, *[("x",)] * 63]  # type: ignore[list-item]
        assert len(asyncio.run(program())) == 64

    def test_those_who_wait_have_no_threads(self, model: Model, engine: FakeEngine) -> None:
        gate = _Gate("a", "b")
        n_threads: list[int] = []

        def counted() -> Iterator[str]:
            n_threads.append(threading.active_count())
            yield "x"

        async def program() -> tuple[str, list[slmchat.Completion]]:
            tasks = [asyncio.create_task(model.acomplete(str(number))) for number in range(300)]
            await asyncio.to_thread(gate.has_begun.wait, 20)
            beside = asyncio.create_task(asyncio.to_thread(model.complete, "in a thread"))
            given_up = asyncio.create_task(model.acomplete("given up"))
            await asyncio.sleep(0)
            given_up.cancel()
            n_threads.append(threading.active_count())
            gate.may_go_on.set()
            return (await beside).text, await asyncio.gather(*tasks)

        engine.replies = [gate, *[counted() for _ in range(300)]]  # type: ignore[list-item]
        n_before = threading.active_count()
        text, done = asyncio.run(program())
        assert text == "x" and [each.text for each in done] == ["ab", *["x"] * 299]
        assert engine.prompts[:-1] == [prompt for prompt in engine.prompts if "in a thread" not in prompt]
        assert "299" in engine.prompts[-2] and not any("given up" in prompt for prompt in engine.prompts)
        assert max(n_threads) <= n_before + 5

    def test_without_another_thread_only_that_question_fails(
        self, model: Model, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def none_left(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        engine.replies = [("next",)]
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", none_left)
            with pytest.raises(RuntimeError, match="can't start"):
                asyncio.run(model.acomplete("Hi"))
        assert model.complete("Hi").text == "next"

    def test_to_cancel_the_task_ends_the_generation(self, model: Model, engine: FakeEngine) -> None:
        gate = _Gate("begun", "x")

        async def begun_and_cancelled() -> None:
            task = asyncio.create_task(model.acomplete("Hi"))
            waiting = asyncio.create_task(model.acomplete("not asked any more"))
            await asyncio.to_thread(gate.has_begun.wait, 20)
            waiting.cancel()
            task.cancel()
            for cancelled in (waiting, task):
                with pytest.raises(asyncio.CancelledError):
                    await cancelled
            gate.may_go_on.set()

        def endless() -> Iterator[str]:
            yield from gate
            yield from itertools.repeat("x")

        engine.replies = [endless(), ("next",)]  # type: ignore[list-item]
        asyncio.run(begun_and_cancelled())
        assert model.complete("Hi").text == "next"
        assert len(engine.prompts) == 2

    def test_to_close_a_stream_ends_the_generation(self, model: Model, engine: FakeEngine) -> None:
        async def first_piece() -> str:
            pieces = model.astream("Hi")
            try:
                return await anext(pieces)
            finally:
                await pieces.aclose()

        engine.replies = [itertools.repeat("x"), ("next",)]  # type: ignore[list-item]
        assert asyncio.run(first_piece()) == "x"
        assert model.complete("Hi").text == "next"

    def test_errors_come_as_they_do_elsewhere(self, model: Model) -> None:
        with pytest.raises(SlmError, match="the prompt is empty"):
            asyncio.run(model.acomplete(" "))
        with pytest.raises(TypeError, match=r"acomplete\(\) got an unexpected keyword argument 'sytem'"):
            asyncio.run(model.acomplete("Hi", sytem="x"))  # type: ignore[call-arg]


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

    def test_what_was_read_of_an_answer_is_kept(
        self, model: Model, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = _Gate("x", *["x"] * 999)  # it goes on when it is cancelled, not before: nothing waits for the reader
        cancel = FakeSession.cancel

        def cancel_and_go_on(session: FakeSession) -> None:
            cancel(session)
            gate.may_go_on.set()

        monkeypatch.setattr(FakeSession, "cancel", cancel_and_go_on)
        engine.replies = [gate, ("next",)]
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

    def test_a_bare_text_alone_has_no_empty_prompt_to_be_scored(self, model: Model, engine: FakeEngine) -> None:
        model.classify("my text", ["a", "b"], raw=True)
        prompts = ["".join(part.text for part in request.prompt.parts) for request in engine.requests]
        assert prompts == ["N/A", "This is a text.", "my text"]

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
            (["a"], {}, "there must be 2 to 1,000 of them, not 1"),
            ("ab", {}, "choices must be a list of texts"),
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
        assert [name for name in dir(slmchat) if not name.startswith("_")] == sorted(slmchat.__all__)
        with pytest.raises(AttributeError):
            slmchat.lod  # noqa: B018


@pytest.mark.real
class TestEndpoint:
    def test_a_model_of_a_server_is_asked_as_any_other(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SLM_HOME", str(tmp_path / "home"))
        with EndpointServer() as server, slmchat.load(endpoint=server.url) as model:
            server.script.append(stream("Hel", "lo"))
            assert model.complete("Hi", system="Be brief.").text == "Hello"
            server.script.append(stream("a", "b"))
            assert "".join(model.stream(messages=[{"role": "user", "content": "Hi"}])) == "ab"
            server.script += [stream("x"), stream("x")]
            assert [str(done) for done in model.complete_many(["1", "2"])] == ["x", "x"]
            server.script.append(stream("Yes."))
            assert model.chat().say("Well?").text == "Yes."
            said = server.posts[0].body["messages"]
            assert [one["role"] for one in said] == ["system", "user"]
        assert not (tmp_path / "home").exists()
        with EndpointServer() as server:  # nothing in this program was closed
            assert slmchat.load(endpoint=server.url).name.endswith("small")

    def test_what_only_a_local_model_has_is_refused(self) -> None:
        error = _refused(lambda: slmchat.load(endpoint="http://127.0.0.1:9/v1", ctx=512))
        assert error.message == "ctx cannot be given together with endpoint: the endpoint decides that."
        assert _refused(lambda: slmchat.load(endpoint=3)).message.startswith("endpoint must be")  # type: ignore[arg-type]
        error = _refused(lambda: slmchat.load(endpoint="http://127.0.0.1:9/v1"))
        assert error.exit_code is ExitCode.NETWORK


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
        assert (found.label, found.probabilities) == (
            record["completion"],
            pytest.approx(record["probabilities"], abs=1e-6),
        )
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
            thread.join(300)
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
