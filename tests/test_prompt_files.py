"""Prompts from files: values, what is missing or too much, the input of `run` and the rows of `batch`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import Outcome
from endpoint_server import EndpointServer, stream
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama

from slmchat.conversation import template_budget
from slmchat.conversation.attachments import Attachment, trim
from slmchat.conversation.layouts import raw_prompt
from slmchat.conversation.messages import Message
from slmchat.engine.requests import Prompt
from slmchat.errors import ExitCode, SlmError
from slmchat.generation.batch.prompts import PromptMaker
from slmchat.generation.batch.rows import Row
from slmchat.generation.prompt import PromptRequest
from slmchat.generation.prompt_template import PromptFile, prompt_file
from slmchat.options import TemplateOptions

FILES = {"t": "Translate into {{ language }}:\n{{ input }}\n", "note": "line 1\nline 2\n"}


def _made(source: str, *variables: str) -> PromptFile:
    made = prompt_file(TemplateOptions("t", list(variables)), (), {**FILES, "t": source}.__getitem__)
    assert made is not None
    return made


def _refused(source: str, *variables: str, words: Sequence[str] = ()) -> str:
    def compose() -> None:
        made = prompt_file(TemplateOptions("t", list(variables)), words, {**FILES, "t": source}.__getitem__)
        assert made is not None
        made.compose([])

    with pytest.raises(SlmError) as caught:
        compose()
    assert caught.value.exit_code is ExitCode.USAGE
    return f"{caught.value.message} {caught.value.hint}"


def _text(prompt: Prompt) -> str:
    return "".join(part.text for part in prompt.parts)


class TestValues:
    def test_values_and_the_input_go_where_the_template_wants_them(self) -> None:
        made = _made(FILES["t"], "language=French")
        assert made.compose([Attachment("Hello.\n")]) == "Translate into French:\nHello."

    def test_a_value_is_text_whatever_is_in_it(self) -> None:
        made = _made("{{ a }}|{{ input }}", "a={{ b }}{}")
        assert made.compose([Attachment("{% raw %}{}")]) == "{{ b }}{}|{% raw %}{}"

    def test_a_template_without_a_place_for_the_input_stands_behind_it(self) -> None:
        assert _made("Sum up: {}").compose([Attachment("text")]) == '"""\ntext\n"""\n\nSum up: {}'

    def test_a_value_from_a_file_and_one_that_begins_with_an_at_sign(self) -> None:
        assert _made("{{ a }} {{ b }} {{ c }}", "a=@note", "b=@@me", "c=x=y").compose([]) == "line 1\nline 2 @me x=y"

    def test_jinja_is_there(self) -> None:
        source = "{% if tone is defined %}{{ tone }}{% endif %}{{ x | default('none') }}{% for i in range(2) %}{{ i }}{% endfor %}"
        assert _made(source).compose([]) == "none01"


class TestMistakes:
    def test_a_missing_value_is_named(self) -> None:
        said = _refused("{{ language }} {{ a }}", "a=1")
        assert "{{ language }}, which has no value (given: a)" in said and "--var language=" in said

    def test_input_that_is_not_there(self) -> None:
        assert "there is no input" in _refused("{{ input }}")

    def test_a_value_that_is_not_used(self) -> None:
        said = _refused("{{ a }} {{ b }}", "a=1", "b=2", "tone=3")
        assert "does not use tone" in said and "it uses: a, b" in said

    @pytest.mark.parametrize(
        ("variables", "words", "says"),
        [
            (["a"], (), "--var cannot be 'a'"),
            (["a b=1"], (), "--var cannot be 'a b=1'"),
            (["a=1", "a=2"], (), "--var a is given twice"),
            (["input=1"], (), "--var cannot set input"),
            (["a=1"], ("hello",), "there is another one"),
        ],
    )
    def test_values_that_cannot_be(self, variables: list[str], words: Sequence[str], says: str) -> None:
        assert says in _refused("{{ a }}", *variables, words=words)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("source", "says"),
        [
            ("a\n{{ b", "line 2:"),
            ("{% include 'x' %}", "cannot be used as a template"),
            ("{{ ''.__class__.__mro__ }}", "unsafe"),
            ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "steps"),
            ("{{ 'a' * 10**9 }}", "too large"),
            ("{{ 1 / 0 }}", "division by zero"),
            ("{{ [].x.y }}", "no attribute 'x'"),
        ],
    )
    def test_templates_that_cannot_be(self, source: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(template_budget, "MAX_STEPS", template_budget.MAX_STEPS // 50)
        assert says in _refused(source)

    def test_a_value_without_a_template(self) -> None:
        with pytest.raises(SlmError, match="--template-file FILE") as caught:
            prompt_file(TemplateOptions(None, ["a=1"]), ("hello",), FILES.__getitem__)
        assert caught.value.exit_code is ExitCode.USAGE
        assert prompt_file(TemplateOptions(), ("hello",), FILES.__getitem__) is None


class TestQuestion:
    def test_a_question_of_a_template_and_what_may_be_asked_next(self) -> None:
        question = PromptRequest("", [Attachment("Hello.")], [], (), _made(FILES["t"], "language=French"))
        prompt = question.prompt(raw_prompt)
        assert _text(prompt) == "Translate into French:\nHello."
        (hint,) = prompt.cache_hints
        assert _text(hint).startswith("Translate into French:\n") and "Hello" not in _text(hint)

    def test_a_template_that_looks_into_its_input(self) -> None:
        question = PromptRequest("", [Attachment("a b")], [], (), _made("{{ input.split()[1] }}"))
        assert _text(question.prompt(raw_prompt)) == "b"


class TestRows:
    def _maker(self, source: str, *variables: str, field: str | None = None) -> PromptMaker:
        def lay_out(messages: Sequence[Message]) -> Prompt:
            return raw_prompt(messages)

        return PromptMaker("", field, [], lay_out, None, _made(source, *variables))

    def test_fields_of_the_row_are_variables(self) -> None:
        maker = self._maker("{{ name }} ({{ tone }}): {{ input }} {{ row['First name'] }}", "tone=kind")
        row = Row(1, "", 0, fields={"name": "Ann", "text": "hi", "First name": "A", "n": 3})
        assert _text(maker.make(row).prompt) == "Ann (kind): hi A"
        assert maker.shown_input(row) == {"name": "Ann", "text": "hi", "First name": "A", "n": 3, "input": "hi"}

    def test_the_command_line_wins_over_the_row(self) -> None:
        maker = self._maker("{{ a }}{{ b }}", "a=1")
        assert _text(maker.make(Row(1, "", 0, fields={"a": "x", "b": {"c": [True]}})).prompt) == "1{'c': [True]}"
        assert maker.shown_input(Row(1, "", 0, fields={"a": "x", "b": 2})) == {"b": 2}

    def test_a_row_without_the_field_is_a_row_with_an_error(self) -> None:
        with pytest.raises(SlmError, match=r"\{\{ name \}\}, which has no value"):
            self._maker("{{ name }}").make(Row(1, "", 0, fields={"nam": "x"}))

    def test_lines_are_the_input(self) -> None:
        maker = self._maker("Mood of: {{ input }}")
        assert _text(maker.make(Row(1, "fine", 0)).prompt) == "Mood of: fine"
        assert maker.shown_input(Row(1, "fine", 0)) == "fine"
        assert _text(self._maker("Mood?").make(Row(1, "fine", 0)).prompt) == '"""\nfine\n"""\n\nMood?'


@pytest.mark.real
class TestProgram:
    def test_run_and_what_it_refuses(self, slm: Callable[..., Outcome], tmp_path: Path) -> None:
        file, word = tmp_path / "t.txt", tmp_path / "word"
        file.write_text(FILES["t"])
        word.write_text("French\n")
        with EndpointServer() as server:
            server.usual = stream("Bonjour.")
            asked = ("run", "--endpoint", server.url, "-m", "small", "--template-file", file)
            done = slm(*asked, "--var", f"language=@{word}", stdin="Hello.\n")
            assert (done.code, done.out) == (0, "Bonjour.\n"), done.err
            said = [
                request.body["messages"][-1]["content"] for request in server.requests if "messages" in request.body
            ]
            assert said == ["Translate into French:\nHello."]
            refused = slm(*asked, stdin="Hello.\n")
        assert (refused.code, refused.out) == (2, "")
        assert "t.txt uses {{ language }}, which has no value" in refused.err

    def test_batch(self, slm: Callable[..., Outcome], tmp_path: Path) -> None:
        tiny = write_tiny_llama(
            tmp_path / "tiny.gguf", chat_template=CHATML_TEMPLATE, extra_control_tokens=("<|im_start|>", "<|im_end|>")
        )
        file = tmp_path / "t.txt"
        file.write_text("{{ word }} {{ tone }}")
        asked = ("batch", "-m", tiny, "-n", "2", "--template-file", file, "--var", "tone=kind")
        done = slm(*asked, stdin='{"id": "a", "word": "hi"}\n{"id": "b"}\n')
        records = [json.loads(line) for line in done.out.splitlines()]
        assert done.code == ExitCode.ROWS_FAILED, done.err
        assert [(record["id"], record["input"], bool(record["error"])) for record in records] == [
            ("a", {"word": "hi"}, False),
            ("b", {}, True),
        ]
        lines = slm(*asked, "--format", "lines", stdin="hi\n")
        assert (lines.code, lines.out) == (2, ""), lines
        assert "{{ word }}, which has no value" in lines.err


@pytest.mark.parametrize("n_fitting", [0, 1, 4095, 4096, 4097, 20_000, 99_999])
def test_of_a_long_input_little_more_is_looked_at_than_fits(n_fitting: int) -> None:
    """Each look makes tokens of all that it sees: of a large log, a minute."""
    looked: list[int] = []

    def fits(items: Sequence[Attachment]) -> bool:
        looked.append(sum(len(item.text) for item in items))
        return looked[-1] <= n_fitting + 1

    kept = trim([Attachment("x" * 100_000), Attachment("y")], fits)
    assert kept is not None and [len(item.text) for item in kept] == [n_fitting, 1]
    assert max(looked) <= max(4096, 2 * n_fitting) + 1 and len(looked) < 40
