"""Calls of functions as families write them: found in a chat template, held by a grammar, read again."""

import ctypes
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fake_engine import CHATML, FakeEngine
from gguf_samples import write_tiny_llama
from serving import NAME, random_weights

from slmchat.conversation.template import ChatTemplate
from slmchat.engine import llama, native
from slmchat.engine.constraint import ConstrainedSampler, compiled
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.vocabulary import Vocabulary
from slmchat.generation.call_notation import HERMES, CallNotation, notation_of
from slmchat.generation.tools import CallMode, CallSplitter, Tool, Toolbox, ToolCall, split

if TYPE_CHECKING:
    import openai


def template(calls: str, *, end: str = "<|im_end|>", content: str = "message.content") -> str:
    """One in ChatML whose answers are content, or `calls` where there are any."""
    return (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n"
        "{% if message.tool_calls %}" + calls + "{% else %}{{ " + content + " }}{% endif %}" + end + "\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


EACH = "{% for call in message.tool_calls %}{% set f = call.function %}"
# How the templates of these families write calls (llama.cpp, models/templates, and the repositories of their makers).
TEMPLATES = {
    "Hermes": template(
        EACH + '{% if not loop.first %}{{ "\n" }}{% endif %}<tool_call>\n{"name": "{{ f.name }}", '
        '"arguments": {{ f.arguments | tojson }}}\n</tool_call>{% endfor %}'
    ),
    "Llama 3": template(
        "{% if message.tool_calls | length != 1 %}{{ raise_exception('one call') }}{% endif %}"
        "{% set f = message.tool_calls[0].function %}"
        '{{ \'{"name": "\' + f.name + \'", "parameters": \' }}{{ f.arguments | tojson }}{{ "}" }}'
    ),
    "Mistral, a list": template(
        '{{ "[TOOL_CALLS][" }}' + EACH + "{% set out = f | tojson %}{{ out[:-1] }}"
        "{% if call.id | length != 9 %}{{ raise_exception('ids of 9 characters') }}{% endif %}"
        '{{ \', "id": "\' + call.id + \'"}\' }}{{ ", " if not loop.last else "]" }}{% endfor %}'
    ),
    "Mistral, names": template(
        EACH + '{{ "[TOOL_CALLS]" + f.name + "[CALL_ID]" + call.id + "[ARGS]" }}{{ f.arguments | tojson }}{% endfor %}'
    ),
    "GLM": template(
        EACH + '{{ "\n<tool_call>" + f.name }}\n{% for k, v in f.arguments.items() %}<arg_key>{{ k }}</arg_key>\n'
        "<arg_value>{{ v if v is string else v | tojson }}</arg_value>\n{% endfor %}</tool_call>{% endfor %}"
    ),
    "Qwen Coder": template(
        EACH + '{{ "\n<tool_call>\n<function=" + f.name + ">\n" }}{% for k, v in f.arguments.items() %}'
        '{{ "<parameter=" + k + ">\n" }}{{ v if v is string else v | tojson }}{{ "\n</parameter>\n" }}{% endfor %}'
        '{{ "</function>\n</tool_call>" }}{% endfor %}'
    ),
    "Gemma 4": template(
        EACH + '{{ "<|tool_call>call:" + f.name + "{" }}{% for k, v in f.arguments | dictsort %}'
        '{{ k + ":" }}{% if v is string %}{{ \'<|"|>\' + v + \'<|"|>\' }}{% elif v is mapping %}{{ "{...}" }}'
        '{% elif v is iterable %}{{ "[...]" }}{% else %}{{ v | tojson }}{% endif %}{{ "," if not loop.last }}{% endfor %}'
        '{{ "}<tool_call|>" }}{% endfor %}{{ "<|tool_response>" }}'
    ),
    "DeepSeek": template(
        "{{ '<｜tool▁calls▁begin｜>' }}"
        + EACH
        + "{{ '<｜tool▁call▁begin｜>function<｜tool▁sep｜>' + f.name + '\n```json\n'"
        " + f.arguments + '\n```<｜tool▁call▁end｜>' }}{% endfor %}{{ '<｜tool▁calls▁end｜>' }}"
    ),
}

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Oslo", "New York"]},
        "note": {"type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = Tool("weather", "Forecast", PARAMETERS)
CLOCK = Tool("clock")
GIVEN: list[tuple[str, Any]] = [("weather", {"city": "New York", "note": "a < b {x}", "days": 3}), ("clock", {})]


def notation(name: str) -> CallNotation:
    found = notation_of(ChatTemplate(TEMPLATES[name], bos_text="", eos_text="</s>").calls_written)
    assert found is not None
    return found


def toolbox(name: str, mode: CallMode = CallMode.AUTO) -> Toolbox:
    made = Toolbox((WEATHER, CLOCK), mode).in_notation(notation(name))
    assert made.notation == notation(name)
    return made


WRITTEN = {
    "Hermes": '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>',
    "Llama 3": '{"name": "weather", "parameters": {"city": "Oslo", "days": 2}}',
    "Mistral, a list": '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}]',
    "Mistral, names": '[TOOL_CALLS]weather[ARGS]{"city": "Oslo", "days": 2}',
    "GLM": "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n<arg_key>days</arg_key>\n"
    "<arg_value>2</arg_value>\n</tool_call>",
    "Qwen Coder": "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n2\n"
    "</parameter>\n</function>\n</tool_call>",
    "Gemma 4": '<|tool_call>call:weather{city:<|"|>Oslo<|"|>,days:2}<tool_call|>',
    "DeepSeek": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
    '{"city": "Oslo", "days": 2}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
}


@pytest.mark.parametrize("name", TEMPLATES)
class TestFamilies:
    def test_is_found_in_the_template(self, name: str) -> None:
        assert notation(name).written([("weather", {"city": "Oslo", "days": 2})]) == WRITTEN[name]
        assert (notation(name).between is None) == (name == "Llama 3")

    @pytest.mark.parametrize("size", [1, 2, 5, 1000])
    def test_is_read_however_the_text_is_cut(self, name: str, size: int) -> None:
        box = toolbox(name)
        given = GIVEN[: 1 if name == "Llama 3" else 2]
        before = "" if name == "Llama 3" else "Let me see. a < b [TOOL {\n"
        said = before + box.notation.written(given)
        splitter = box.splitter()
        parts: list[str | ToolCall] = []
        for place in range(0, len(said), size):
            parts += splitter.feed(said[place : place + size])
        parts += splitter.flush()
        assert "".join(part for part in parts if isinstance(part, str)) == before.rstrip()
        calls = [(part.name, json.loads(part.arguments)) for part in parts if isinstance(part, ToolCall)]
        assert calls == given

    def test_a_call_without_arguments_first(self, name: str) -> None:
        given = GIVEN[1:] if name == "Llama 3" else GIVEN[::-1]
        _, calls = split(toolbox(name).notation.written(given), toolbox(name))
        assert [(call.name, json.loads(call.arguments)) for call in calls] == given

    def test_one_that_is_cut_off_is_left_out(self, name: str) -> None:
        whole = notation(name).written([("weather", {"city": "Oslo", "days": 2})])
        cut = whole[: whole.index("Oslo") + 2]
        assert split(cut, toolbox(name)) == ("", [])

    def test_text_without_a_call_stays(self, name: str) -> None:
        assert split("It is 3 < 4 [x] {y}\n", toolbox(name)) == ("It is 3 < 4 [x] {y}\n", [])

    def test_the_model_is_shown_how(self, name: str) -> None:
        instruction = toolbox(name).instruction()
        assert "weather" in instruction and (notation(name).mark or '"parameters": ') in instruction
        if name not in ("Hermes", "Llama 3"):
            assert '"arguments": {...}' not in instruction

    def test_earlier_answers_are_written_so(self, name: str) -> None:
        earlier = f"Wait.\n{HERMES.written([('weather', {'city': 'Oslo', 'days': 2})])}"
        assert toolbox(name).rewritten(earlier) == f"Wait.\n{WRITTEN[name]}"
        assert toolbox(name).rewritten("Just words.") == "Just words."


def test_llama_may_write_its_tag_first() -> None:
    box = toolbox("Llama 3")
    text, (call,) = split('Hm. <|python_tag|>{"name": "clock", "parameters": {}}', box)
    assert (text, call.name, call.arguments) == ("Hm.", "clock", "{}")
    assert "<|python_tag|>" in box.notation.marks


def test_a_template_without_calls_has_none() -> None:
    assert notation_of(ChatTemplate(CHATML, bos_text="", eos_text="").calls_written) is None


@pytest.mark.parametrize(
    "schema",
    [
        {"type": ["string", "integer"]},  # 3 could be both
        {"type": "string", "pattern": "a+"},
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
        {"$ref": "#/$defs/x"},
        {"type": "string", "enum": ["</arg_value>\n<"]},
    ],
)
def test_what_cannot_be_told_apart_is_called_as_json(schema: dict[str, Any]) -> None:
    tool = Tool("f", "", {"type": "object", "properties": {"x": schema}, "$defs": {"x": {"type": "string"}}})
    assert Toolbox((tool,)).in_notation(notation("GLM")).notation == HERMES
    assert Toolbox((tool,)).in_notation(notation("Mistral, names")).notation == notation("Mistral, names")


def test_lists_where_the_family_writes_them_as_json() -> None:
    tool = Tool("f", "", {"type": "object", "properties": {"x": {"type": "array", "items": {"type": "integer"}}}})
    box = Toolbox((tool,)).in_notation(notation("GLM"))
    (call,) = split(box.notation.written([("f", {"x": [1, 2]})]), box)[1]
    assert json.loads(call.arguments) == {"x": [1, 2]}
    assert Toolbox((tool,)).in_notation(notation("Gemma 4")).notation == HERMES


def test_the_splitter_of_hermes_is_the_usual_one() -> None:
    parts = list(CallSplitter().feed('<tool_call>{"name":"f","arguments":{"x":1}}</tool_call>'))
    assert [part.name for part in parts if isinstance(part, ToolCall)] == ["f"]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocabulary]:
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    made = llama.load(write_tiny_llama(path, chat_template=None, extra_control_tokens=("[TOOL_CALLS]",)))
    yield made.vocabulary
    made.close()


def admits(vocabulary: Vocabulary, gbnf: str, text: str) -> bool:
    """Whether llama.cpp's grammar lets a model write this text and end there."""
    api = native.bindings()
    grammar = api.llama_sampler_init_grammar(vocabulary.handle, gbnf.encode(), b"root")
    try:
        tokens = [vocabulary.pieces[bytes([each])] for each in text.encode()]
        for token in [*tokens, vocabulary.eos]:
            data = (api.llama_token_data * 1)(api.llama_token_data(id=token, logit=1.0, p=0.0))
            array = api.llama_token_data_array(data=data, size=1, selected=-1, sorted=False)
            api.llama_sampler_apply(grammar, ctypes.byref(array))
            if data[0].logit < 0:
                return False
            if token != vocabulary.eos:
                api.llama_sampler_accept(grammar, token)
        return True
    finally:
        api.llama_sampler_free(grammar)


@pytest.mark.real
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_grammar_lets_such_calls_through_and_no_others(name: str, vocabulary: Vocabulary) -> None:
    box, must = toolbox(name), toolbox(name, CallMode.REQUIRED)
    free, held = box.constraint().text, must.constraint().text
    given = GIVEN[: 1 if name == "Llama 3" else 2]
    whole = box.notation.written(given)
    assert admits(vocabulary, held, whole) and admits(vocabulary, free, whole)
    assert admits(vocabulary, free, "It is 3 < 4 [x] {y}") and not admits(vocabulary, held, "It is 3 < 4 [x] {y}")
    if name != "Llama 3":
        assert admits(vocabulary, free, f"Wait.\n{whole}")
    for arguments in ({"city": "Oslo", "days": 9}, {"city": "Rome", "days": 1}, {"days": 1}, {"city": "Oslo"}):
        assert not admits(vocabulary, free, box.notation.written([("weather", arguments)]))
    assert not admits(vocabulary, free, box.notation.written([("other", {})]))


@pytest.mark.real
def test_a_mark_that_is_a_control_token_may_be_written_where_it_is_shown(vocabulary: Vocabulary) -> None:
    (mark,) = vocabulary.tokens_of(("[TOOL_CALLS]",))
    assert not vocabulary.is_plain_text(mark)
    for shown, is_text in ((frozenset[int](), False), (frozenset((mark,)), True)):
        api = native.bindings()
        grammar = compiled(api, vocabulary, 'root ::= "[TOOL_CALLS]"')
        made = ConstrainedSampler(api, vocabulary, SamplerSettings(seed=1), grammar, shown)
        assert made._is_text(mark) is is_text
        made.close()


FUNCTIONS: list[Any] = [WEATHER.described(), CLOCK.described()]
# Random weights hardly ever come to the end of a text that anything may stand in.
HELD_FUNCTIONS: list[Any] = [
    Tool("weather", "", {**PARAMETERS, "properties": {key: PARAMETERS["properties"][key] for key in ("city", "days")}}),
    CLOCK,
]
SAID: list[Any] = [{"role": "user", "content": "Weather in Oslo?"}]


@pytest.mark.real
class TestServed:
    @pytest.mark.parametrize("name", TEMPLATES)
    def test_a_model_that_knows_nothing_calls_right(self, name: str, tmp_path: Path) -> None:
        with random_weights(tmp_path, TEMPLATES[name]) as (client, key):
            for seed in range(4):
                done = client.chat.completions.create(
                    model=key, messages=SAID, tools=[tool.described() for tool in HELD_FUNCTIONS],
                    tool_choice="required", seed=seed, temperature=2,
                    parallel_tool_calls=False, max_tokens=600,
                )  # fmt: skip
                choice = done.choices[0]
                assert choice.finish_reason == "tool_calls", choice
                (call,) = choice.message.tool_calls or ()
                check(call.function.name, json.loads(call.function.arguments))

    def test_in_a_stream_and_in_the_next_turn(self, client: "openai.OpenAI", engine: FakeEngine) -> None:
        engine.template = TEMPLATES["Mistral, names"]
        engine.replies = [
            ["Wait.\n[TOOL", '_CALLS]clock[ARGS]{}[TOOL_CALLS]weather[ARGS]{"city": "Oslo", "days', '": 2}']
        ]
        with client.chat.completions.stream(model=NAME, messages=SAID, tools=FUNCTIONS) as stream:
            for _ in stream:
                pass
            choice = stream.get_final_completion().choices[0]
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Wait.")
        assert [call.function.name for call in choice.message.tool_calls or []] == ["clock", "weather"]
        assert "[TOOL_CALLS]" in engine.limits[0].shown and "[ARGS]" in engine.limits[0].shown
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": "x"} for call in choice.message.tool_calls or ()
        ]
        engine.replies = [["Sunny."]]
        messages: list[Any] = [*SAID, choice.message.model_dump(exclude_none=True), *results]
        client.chat.completions.create(model=NAME, messages=messages, tools=FUNCTIONS)
        assert "Wait.\n[TOOL_CALLS]clock[ARGS]{}[TOOL_CALLS]weather[ARGS]" in engine.prompts[1]


def check(name: str, arguments: dict[str, Any]) -> None:
    if name == "clock":
        assert arguments == {}
        return
    assert name == "weather" and arguments["city"] in ("Oslo", "New York") and 1 <= arguments["days"] <= 7
    assert set(arguments) <= {"city", "days", "note"} and isinstance(arguments.get("note", ""), str)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()
