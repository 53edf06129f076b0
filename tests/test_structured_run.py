"""Structured answers of the real engine: whatever the weights want, what comes out is right, or it is exit code 8."""

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Outcome, run_slm
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama
from schema_samples import described, random_schema, with_references

from slmchat.conversation.thinking import closing_of
from slmchat.engine import constraint, llama
from slmchat.engine.requests import Constraint, ConstraintKind, Limits, Part, Prompt, SessionSettings
from slmchat.engine.results import Chunk, Finish, FinishReason, Timings, Usage
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.session import LlamaSession
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import attempts, structured
from slmchat.generation.response import Response
from slmchat.schemas.json_rules import SOFT_ITEMS

pytestmark = pytest.mark.real

CONTROL = ("<|im_start|>", "<|im_end|>")


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    return write_tiny_llama(path, chat_template=CHATML_TEMPLATE, extra_control_tokens=CONTROL, context_length=1024)


@pytest.fixture(scope="module")
def session(tiny_path: Path) -> Iterator[LlamaSession]:
    engine = llama.load(tiny_path)
    made = engine.open_session(SessionSettings(n_ctx=1024, threads=1, threads_batch=1))
    yield made
    made.close()
    engine.close()


def _generated(
    session: LlamaSession, wanted: Constraint, sampler: SamplerSettings, max_tokens: int = 250
) -> tuple[str, Finish]:
    events = list(session.generate(Prompt((Part("word"),)), sampler, Limits(max_tokens, constraint=wanted)))
    finish = events[-1]
    assert isinstance(finish, Finish)
    return "".join(event.text for event in events if isinstance(event, Chunk)), finish


class TestEngine:
    def test_every_finished_object_of_random_schemas_is_right(self, session: LlamaSession) -> None:
        n_right = 0
        for seed in range(18):
            rng = random.Random(seed)
            schema = with_references(rng) if seed % 7 == 0 else random_schema(rng)
            wanted = structured.of_schema(schema)
            sampler = SamplerSettings(temperature=1.0, top_k=(0, 40)[seed % 2], seed=seed)
            text, finish = _generated(session, wanted.constraint, sampler)
            if finish.reason is FinishReason.STOP:
                wanted.value(text, finish.reason)
                n_right += 1
            else:
                assert finish.reason is FinishReason.LENGTH, described(schema)
        assert n_right >= 12

    def test_few_candidates_choose_as_all_of_them_would(
        self, session: LlamaSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The grammar sees 8 candidates, then 30, then all; the text is that of a grammar which sees all at once."""
        wanted = structured.of_schema({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]})

        def texts(widths: tuple[int, ...], short: int) -> list[str]:
            monkeypatch.setattr(constraint, "_WIDTHS", widths)
            monkeypatch.setattr(constraint, "_SHORT", short)
            settings = [
                SamplerSettings(
                    temperature=temperature, top_k=top_k, top_p=1.0, min_p=min_p, repeat_penalty=1.1, seed=5
                )
                for temperature, top_k, min_p in ((0.0, 40, 0.05), (0.9, 40, 0.05), (1.5, 5, 0.0), (0.8, 20, 0.3))
            ]
            return [_generated(session, wanted.constraint, each, 60)[0] for each in settings]

        few = texts((8, 30), 8)
        assert few == texts((8, 30), 100_000) == texts((100_000, 100_001), 100_000)
        assert len(set(few)) > 1

    def test_control_tokens_and_broken_characters_are_no_text(self, session: LlamaSession) -> None:
        """To llama.cpp's grammar a control token is its spelling, and a cut character is followed by anything."""
        for seed in range(12):
            sampler = SamplerSettings(temperature=10.0, top_k=0, top_p=1.0, min_p=0.0, seed=seed)
            wanted = Constraint(ConstraintKind.REGEX, "[^x]{60}")
            text, finish = _generated(session, wanted, sampler)
            assert finish.reason is FinishReason.STOP
            assert len(text) == 60
            assert "\ufffd" not in text

    def test_what_the_model_cannot_write_is_a_sentence(self, session: LlamaSession) -> None:
        grammar = Constraint(ConstraintKind.GRAMMAR, "root ::= <[0]> | <[1]>")
        with pytest.raises(SlmError) as caught:
            _generated(session, grammar, SamplerSettings(seed=1))
        assert caught.value.exit_code is ExitCode.UNSATISFIED
        text, _ = _generated(session, Constraint(ConstraintKind.REGEX, "a{3}"), SamplerSettings(seed=1))
        assert text == "aaa"  # the session stays usable

    @pytest.mark.parametrize(
        ("gbnf", "says"),
        [
            ('root ::= "a" | other', "Undefined rule identifier 'other'"),
            ('root ::= "a"\nother ::= [a-z', "unexpected end of input"),
            ('root ::= "a"\nother : "b"', "line 2"),
            ('root ::= root "a"', "left recursion"),
            ('other ::= "a"', "does not contain a 'root' symbol"),
            ("", "it is empty"),
            ("root ::= " + "(" * 5000 + ")" * 5000, "nested too deep"),
        ],
    )
    def test_a_grammar_that_cannot_be_read(
        self, session: LlamaSession, gbnf: str, says: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SlmError) as caught:
            _generated(session, Constraint(ConstraintKind.GRAMMAR, gbnf), SamplerSettings(seed=1))
        assert caught.value.exit_code is ExitCode.USAGE
        assert says in caught.value.message
        assert capfd.readouterr().err == ""  # llama.cpp would write the whole grammar there


class TestAttempts:
    """The two attempts, without an engine."""

    SHAPE = structured.of_schema({"type": "integer"})

    def _answers(self, *answers: tuple[str, FinishReason]) -> tuple[Callable[..., Response], list[tuple[int, int]]]:
        asked: list[tuple[int, int]] = []
        left = list(answers)

        def ask(sampler: SamplerSettings, limits: Limits) -> Response:
            assert limits.constraint == self.SHAPE.constraint and not limits.stop
            asked.append((sampler.seed or 0, limits.max_tokens or 0))
            text, reason = left.pop(0)
            return Response(text, finish=Finish(reason, Usage(1, 0, 1), Timings(1, 1, 1), sampler.seed or 0, ()))

        return ask, asked

    def test_a_right_answer_is_asked_for_once(self) -> None:
        ask, asked = self._answers(("3", FinishReason.STOP))
        _, value = attempts.generate_valid(
            self.SHAPE, SamplerSettings(seed=7), Limits(50, ("a",)), ask, on_retry=pytest.fail, on_fallback=pytest.fail
        )
        assert (value, asked) == (3, [(7, 50)])

    def test_a_cut_one_is_asked_for_again_with_more_room(self) -> None:
        ask, asked = self._answers(("3", FinishReason.LENGTH), ("34", FinishReason.STOP))
        told: list[SlmError] = []
        answer, value = attempts.generate_valid(
            self.SHAPE, SamplerSettings(seed=7), Limits(50), ask, on_retry=told.append, on_fallback=pytest.fail
        )
        assert (answer.text, value, asked) == ("34", 34, [(7, 50), (8, 100)])
        assert len(told) == 1

    def test_twice_wrong_is_unsatisfied(self) -> None:
        ask, _ = self._answers(("x", FinishReason.STOP), ("3", FinishReason.CONTEXT))
        with pytest.raises(SlmError) as caught:
            attempts.generate_valid(
                self.SHAPE, SamplerSettings(), Limits(), ask, on_retry=lambda error: None, on_fallback=pytest.fail
            )
        assert caught.value.exit_code is ExitCode.UNSATISFIED

    def test_a_list_that_reaches_the_soft_limit_is_asked_for_again_without_it(self) -> None:
        """Cut off without the limit, the first answer counts after all."""
        wanted = structured.of_schema({"type": "array", "items": {"const": 1}})
        full, longer = json.dumps([1] * SOFT_ITEMS), json.dumps([1] * (SOFT_ITEMS + 9))
        for second, reason, counts in ((longer, FinishReason.STOP, longer), ("[1, 1", FinishReason.LENGTH, full)):
            answers, capped, kept = [(full, FinishReason.STOP), (second, reason)], [], []

            def ask(sampler: SamplerSettings, limits: Limits) -> Response:
                assert limits.constraint is not None
                capped.append(limits.constraint.is_capped)  # noqa: B023
                text, reason = answers.pop(0)  # noqa: B023
                return Response(text, finish=Finish(reason, Usage(1, 0, 1), Timings(1, 1, 1), 0, ()))

            answer, value = attempts.generate_valid(
                wanted, SamplerSettings(), Limits(), ask, on_retry=lambda error: None, on_fallback=kept.append
            )
            assert (answer.text, value) == (counts, json.loads(counts))
            assert capped == [True, False]
            assert bool(kept) is (counts is full)

    def test_an_interrupted_one_is_not_asked_for_again(self) -> None:
        ask, asked = self._answers(("", FinishReason.INTERRUPTED))
        _, value = attempts.generate_valid(
            self.SHAPE, SamplerSettings(), Limits(), ask, on_retry=pytest.fail, on_fallback=pytest.fail
        )
        assert value is None and len(asked) == 1

    def test_a_thought_that_the_template_opens_is_closed(self) -> None:
        assert closing_of("<|im_start|>assistant\n<think>\n") == "</think>"
        assert closing_of("<|im_start|>assistant\n") is None
        prompt = Prompt((Part("hi <think>"), Part("assistant\n<think>\n", is_template=True)))
        assert structured.thought_closed(prompt).parts[-1] == Part("\n</think>\n\n", is_template=True)
        untouched = Prompt((Part("hi <think>"),))
        assert structured.thought_closed(untouched) == untouched


class TestRun:
    @pytest.fixture
    def ask(self, tiny_path: Path, home: Path) -> Callable[..., Outcome]:
        def call(*arguments: str, **options: object) -> Outcome:
            return run_slm("run", "-m", tiny_path, "--seed", "1", *arguments, home=home, **options)  # type: ignore[arg-type]

        return call

    def test_a_value_is_beside_the_completion(self, ask: Callable[..., Outcome]) -> None:
        schema = '{"type": "object", "properties": {"n": {"type": "integer", "maximum": 9, "minimum": 0}}, "required": ["n"]}'
        done = ask("--json", "--schema", schema, "Count.")
        answer = json.loads(done.out)
        assert done.code == 0, done.err
        assert answer["value"] == json.loads(answer["completion"])
        assert answer["value"]["n"] in range(10)

    def test_the_text_alone_is_on_stdout(self, ask: Callable[..., Outcome], tmp_path: Path) -> None:
        done = ask("--regex", "(yes|no)!", "Well?")
        assert (done.code, done.err) == (0, "")
        assert done.out in ("yes!\n", "no!\n")
        file = tmp_path / "grammar.gbnf"
        file.write_text('root ::= "<" [ab]{3} ">"\n')
        assert re.fullmatch(r"<[ab]{3}>\n", ask("--grammar", str(file), "Well?").out)

    def test_a_schema_comes_from_a_file_or_from_stdin(self, ask: Callable[..., Outcome], tmp_path: Path) -> None:
        (tmp_path / "schema.json").write_text('{"enum": ["left", "right"]}')
        assert ask("--schema", str(tmp_path / "schema.json"), "Well?").out in ('"left"\n', '"right"\n')
        assert ask("--schema", "-", "Well?", stdin='{"const": [1, {}]}').out == "[1, {}]\n"

    def test_cut_off_twice_is_exit_8_with_nothing_on_stdout(self, ask: Callable[..., Outcome]) -> None:
        for more in ((), ("--json",)):
            done = ask("--regex", "[a-z]{500}", "-n", "8", *more, "Well?")
            assert (done.code, done.out) == (8, "")
            first, second, hint = done.err.splitlines()
            assert first.startswith("slm: warning: ") and "trying once more" in first
            assert second.startswith("slm: the answer is not what was asked for: it was cut off")
            assert hint.startswith("hint: ")

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--schema", '{"type": "nul"}'), '"nul" is not a type (at the top)'),
            (("--schema", '{"minimum": NaN}'), "JSON has no number NaN"),
            (("--schema", '{"minimum": 1e400}'), "the number 1e400 is too large"),
            (("--schema", '{"$ref": "file:///etc/passwd"}'), "leads outside of the schema"),
            (("--schema", "/no/such/file"), "/no/such/file cannot be read"),
            (("--regex", "a(?!b)"), "a lookahead, at position 2"),
            (("--fields", "a what"), "'what' in 'a what' is not a type"),
            (("--grammar", "/no/such/file"), "/no/such/file cannot be read"),
            (("--json-output", "--regex", "a"), "cannot be combined"),
            (("--schema", "-", "-f", "-"), "standard input cannot be the schema and the input"),
        ],
    )
    def test_a_mistake_is_one_sentence(
        self, ask: Callable[..., Outcome], arguments: tuple[str, ...], says: str
    ) -> None:
        done = ask(*arguments, "Well?", stdin="{}" if "-" in arguments else "")
        assert (done.code, done.out) == (2, "")
        assert says in done.err.splitlines()[0]

    @pytest.mark.model
    def test_a_small_model_fills_in_fields(self, model_home: Path) -> None:
        done = run_slm(
            *("run", "-m", "smollm2:135m", "--temp", "0", "--fields", "name, age int", "Who is it?"),
            home=model_home,
            stdin="Ann Miller is 34 years old.",
        )
        assert done.code == 0, done.err
        assert json.loads(done.out) == {"name": "Ann Miller", "age": 34}
