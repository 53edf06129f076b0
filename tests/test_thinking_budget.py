"""A thought is switched and limited: planted weights that think, on the real llama.cpp, through every door."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import run_slm
from gguf_thinking import END, NEWLINE, OPENED, PLAIN, SWITCHED, THINKS, write_planted

import slmchat
from slmchat.conversation import thinking
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.template import ChatTemplate
from slmchat.engine import llama
from slmchat.engine.requests import Constraint, ConstraintKind, Limits, Request, SessionSettings
from slmchat.engine.results import Chunk, Finish, FinishReason
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.thinking import Thinking, ThinkingMode, ThoughtMarks
from slmchat.generation import params
from slmchat.generation.prompt import begins_thought
from slmchat.generation.response import NullHandler, consume_stream

pytestmark = pytest.mark.real

GREEDY = SamplerSettings(temperature=0.0)
QUESTION = [Message(Role.USER, "word")]
ROUND = " look at the water"


class Planted:
    """A loaded model, one session and one pool of it."""

    def __init__(self, path: Path) -> None:
        self.engine = llama.load(path)
        settings = SessionSettings(n_ctx=512, threads=1, threads_batch=1)
        self.session = self.engine.open_session(settings)
        self.pool = self.engine.open_pool(settings, 2)

    def said(
        self, asked: Thinking, *, max_tokens: int = 60, constraint: Constraint | None = None, bridge: str = ""
    ) -> tuple[str, str, Finish]:
        """(thinking, answer, finish) of one question, the same from a session and from a pool."""
        info = self.engine.info
        template = ChatTemplate(info.chat_template, bos_text=info.bos_text, eos_text=info.eos_text, mode=asked.mode)
        prompt = template.render(QUESTION)
        limits = params.with_thinking(Limits(max_tokens, constraint=constraint), asked, bridge or "llama", is_raw=False)
        opened = begins_thought(prompt)
        made = consume_stream(
            self.session.generate(prompt, GREEDY, limits), NullHandler(), sanitizer=None, is_thinking=opened
        )
        assert made.finish is not None
        (done,) = self.pool.run(iter([Request(0, prompt, GREEDY, limits)]))
        assert done.finish is not None, done.error
        pooled = consume_stream((Chunk(done.text, ()), done.finish), NullHandler(), sanitizer=None, is_thinking=opened)
        assert (pooled.text, pooled.thinking) == (made.text, made.thinking)
        assert done.finish.usage.thinking_tokens == made.finish.usage.thinking_tokens
        return made.thinking, made.text, made.finish

    def close(self) -> None:
        self.session.close()
        self.pool.close()
        self.engine.close()


@pytest.fixture(scope="module", params=[SWITCHED, OPENED], ids=["the model opens", "the prompt opens"])
def planted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    made = Planted(write_planted(tmp_path_factory.mktemp("planted") / "thinks.gguf", THINKS, request.param))
    yield made
    made.close()


@pytest.mark.parametrize("budget", [1, 2, 5, 17])
def test_a_thought_has_as_many_tokens_as_its_budget(planted: Planted, budget: int) -> None:
    thought, answer, finish = planted.said(Thinking(budget=budget))
    words = (ROUND * 5).split()[:budget]
    assert thought.split() == words
    assert (answer, finish.reason) == ("no way", FinishReason.STOP)
    assert finish.usage.thinking_tokens == budget


def test_no_budget_is_no_end(planted: Planted) -> None:
    thought, answer, finish = planted.said(Thinking(), max_tokens=30)
    assert thought.startswith("look at the water look")
    assert (answer, finish.reason) == ("", FinishReason.LENGTH)


@pytest.mark.parametrize("asked", [Thinking(ThinkingMode.OFF), Thinking(ThinkingMode.OFF, 0), Thinking(budget=0)])
def test_no_thought_is_an_answer_at_once(planted: Planted, asked: Thinking) -> None:
    thought, answer, finish = planted.said(asked)
    assert (thought, answer, finish.usage.thinking_tokens) == ("", "no way", 0)


def test_a_format_holds_behind_the_thought(opened: Path) -> None:
    planted = Planted(opened)
    yes_or_no = Constraint(ConstraintKind.REGEX, "(yes|no) at")
    asked = Thinking(ThinkingMode.ON, 3)
    thought, answer, finish = planted.said(asked, constraint=yes_or_no)
    assert (thought, finish.usage.thinking_tokens) == ("look at the", 3)
    assert answer in ("yes at", "no at")
    planted.close()


def test_a_thought_is_begun_where_the_template_begins_none(planted: Planted) -> None:
    info = planted.engine.info
    template = ChatTemplate(info.chat_template, bos_text="", eos_text="", mode=ThinkingMode.ON)
    assert begins_thought(template.thinking(template.render(QUESTION)))


def test_a_maker_s_sentence_stands_before_the_end(planted: Planted) -> None:
    thought, answer, finish = planted.said(Thinking(budget=2), max_tokens=500, bridge="qwen3")
    assert thought.startswith("look at\n\nConsidering the limited time")
    assert (answer, finish.usage.thinking_tokens) == ("no way", 2)


# In one piece, nothing is a token of the vocabulary: the marks come in parts.
PARTS = {
    **{token: after for token, after in THINKS.items() if "think>" not in token},
    "<|says|>": "<th",
    "<th": "ink>",
    "ink>": "▁look",
    "▁water": "</thi",
    "</thi": "nk>",
    "nk>": NEWLINE,
}


@pytest.mark.parametrize(("budget", "n_thought"), [(None, 4), (2, 2), (4, 4), (5, 4), (9, 4)])
def test_marks_that_are_split_over_tokens(tmp_path: Path, budget: int | None, n_thought: int) -> None:
    """At 5 the end has begun (`</thi`): it is not written twice."""
    path = write_planted(
        tmp_path / "parts.gguf", PARTS, SWITCHED, user_defined=(), more=("<th", "ink>", "</thi", "nk>")
    )
    planted = Planted(path)
    thought, answer, finish = planted.said(Thinking(budget=budget))
    assert thought.split() == ROUND.split()[:n_thought]
    assert (answer, finish.usage.thinking_tokens) == ("no way", n_thought)
    planted.close()


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_a_character_is_not_cut(tmp_path: Path, budget: int) -> None:
    """A euro sign is three tokens: the thought ends behind it."""
    euro = {"<think>": "<0xE2>", "<0xE2>": "<0x82>", "<0x82>": "<0xAC>", "<0xAC>": "▁look"}
    planted = Planted(write_planted(tmp_path / "euro.gguf", {**THINKS, **euro}, SWITCHED))
    thought, answer, finish = planted.said(Thinking(budget=budget))
    assert (thought, answer, finish.usage.thinking_tokens) == ("€", "no way", 3)
    planted.close()


def test_a_call_of_a_tool_is_not_cut(tmp_path: Path) -> None:
    call = {
        "▁look": "<tool_call>",
        "<tool_call>": "▁at",
        "▁the": "▁water",
        "▁water": "</tool_call>",
        "</tool_call>": "▁look",
    }
    marks = ("<think>", "</think>", "<tool_call>", "</tool_call>")
    planted = Planted(write_planted(tmp_path / "tool.gguf", {**THINKS, **call}, SWITCHED, user_defined=marks))
    thought, answer, _ = planted.said(Thinking(budget=3))
    assert thought == "look<tool_call> at the water</tool_call>"
    assert answer == "no way"
    planted.close()


def test_a_thought_in_which_the_model_ends(tmp_path: Path) -> None:
    planted = Planted(write_planted(tmp_path / "ends.gguf", {**THINKS, "▁water": END}, SWITCHED))
    thought, answer, finish = planted.said(Thinking())
    assert (thought, answer, finish.reason) == ("look at the water", "", FinishReason.STOP)
    planted.close()


@pytest.fixture
def opened(tmp_path: Path) -> Path:
    return write_planted(tmp_path / "opened.gguf", THINKS, OPENED)


@pytest.fixture
def thinks(tmp_path: Path) -> Path:
    return write_planted(tmp_path / "thinks.gguf", THINKS, SWITCHED)


def test_the_command_line(thinks: Path, home: Path) -> None:
    def run(*more: str) -> tuple[int, str, str]:
        done = run_slm("run", "-m", thinks, "--temp", "0", "-n", "40", *more, "word", home=home)
        return done.code, done.out, done.err

    code, out, _ = run("--think-budget", "4", "--json")
    made = json.loads(out)
    assert (code, made["completion"], made["thinking"]) == (0, "no way", "look at the water")
    assert made["usage"]["thinking_tokens"] == 4
    assert run("--think", "off")[:2] == (0, "no way\n")
    code, out, err = run()
    assert (code, out) == (0, "\n")
    assert "slm: warning: there is no answer: the model thought (39 tokens) and its limit of tokens was used up." in err
    assert "hint: --think-budget N limits the thought" in err
    code, out, err = run("--think", "maybe")
    assert (code, err) == (2, "slm: --think cannot be 'maybe'.\nhint: on, off or auto\n")


def test_a_model_without_a_switch_says_so_once(tmp_path: Path, home: Path) -> None:
    says = {token: after for token, after in THINKS.items() if "think" not in token}
    path = write_planted(tmp_path / "plain.gguf", {**says, "<|says|>": "▁no"}, PLAIN, user_defined=())
    done = run_slm("run", "-m", path, "--temp", "0", "--think", "off", "word", home=home)
    assert (done.code, done.out) == (0, "no way\n")
    assert done.err == "(the chat template of this model has no switch for thinking: --think off changes nothing)\n"


def test_a_persona_and_the_config_switch_it(thinks: Path, home: Path) -> None:
    (home / "config").mkdir(parents=True)
    (home / "config" / "config.toml").write_text('think = "off"\n[personas.slow]\nthink = "on"\nthink-budget = 2\n')
    arguments = ("run", "-m", thinks, "--temp", "0", "-n", "40", "--json", "word")
    assert "thinking" not in json.loads(run_slm(*arguments, home=home).out)
    assert json.loads(run_slm(*arguments, "-p", "slow", home=home).out)["thinking"] == "look at"
    assert json.loads(run_slm(*arguments, "-p", "slow", "--think-budget", "1", home=home).out)["thinking"] == "look"


def test_a_batch_tells_of_rows_without_an_answer(thinks: Path, home: Path) -> None:
    done = run_slm("batch", "-m", thinks, "--temp", "0", "-n", "20", home=home, stdin="word\nword\n")
    assert [json.loads(line)["completion"] for line in done.out.splitlines()] == ["", ""]
    assert "2 rows came without an answer" in done.err
    done = run_slm("batch", "-m", thinks, "--temp", "0", "--think-budget", "3", home=home, stdin="word\n")
    record = json.loads(done.out)
    assert (record["completion"], record["thinking"], record["usage"]["thinking_tokens"]) == (
        "no way",
        "look at the",
        3,
    )


def test_a_python_program(opened: Path) -> None:
    with slmchat.load(opened, ctx=256) as model:
        made = model.complete("word", temperature=0.0, think_budget=2)
        assert (made.text, made.thinking, made.usage.thinking_tokens) == ("no way", "look at", 2)
        made = model.complete("word", temperature=0.0, think=False)
        assert (made.text, made.thinking) == ("no way", "")
        made = model.complete("word", temperature=0.0, think=True, think_budget=2, regex="(yes|no)")
        assert (made.value in ("yes", "no"), made.thinking) == (True, "look at")
        with model.chat(temperature=0.0, think_budget=1) as chat:
            assert chat.say("word").thinking == "look"
        with pytest.raises(slmchat.SlmError, match="think cannot be 'maybe'"):
            model.complete("word", think="maybe")  # type: ignore[arg-type]


def test_every_family_s_end_has_its_closing() -> None:
    for marks in thinking.FAMILIES:
        if marks.has_thought:
            assert marks.closings[0] in marks.end


def test_the_makers_settings_for_thinking_hold_where_a_model_thinks(opened: Path, tmp_path: Path) -> None:
    """As for Qwen3: cooler while it thinks."""
    from dataclasses import dataclass, field

    from slmchat import settings as settings_module
    from slmchat.generation.prompt import thinks
    from slmchat.options import GenerationOptions

    @dataclass
    class Qwen:
        sampler: dict[str, float] = field(default_factory=lambda: {"temperature": 0.7, "top_p": 0.8})
        sampler_thinking: dict[str, float] = field(default_factory=lambda: {"temperature": 0.6})

    settings = settings_module.load({"SLM_HOME": str(tmp_path)})
    engine = llama.load(opened)
    for mode, temperature in ((ThinkingMode.AUTO, 0.6), (ThinkingMode.ON, 0.6), (ThinkingMode.OFF, 0.7)):
        made = params.sampler_settings(
            Qwen(), settings, GenerationOptions(), lambda mode=mode: thinks(engine, Thinking(mode), is_raw=False)
        )
        assert (made.temperature, made.top_p) == (temperature, 0.8)
    engine.close()


@pytest.mark.parametrize(
    "marks", [marks for marks in thinking.FAMILIES if marks.has_thought], ids=lambda marks: marks.openings[0]
)
def test_a_thought_of_every_family_is_closed_and_the_answer_follows(marks: ThoughtMarks, tmp_path: Path) -> None:
    opening, closing = marks.openings[0], marks.closings[0]
    planted = {
        **{token: after for token, after in THINKS.items() if "think>" not in token and token != "<|says|>"},
        ("<|says|>" if not marks.is_prompted else "<|turn|>"): opening,
        opening: "▁look",
        closing: "▁no",
    }
    template = PLAIN if not marks.is_prompted else PLAIN.replace("model<|says|>", f"model<|says|>{opening}")
    path = write_planted(tmp_path / "family.gguf", planted, template, user_defined=(opening, closing))
    model = Planted(path)
    thought, answer, finish = model.said(Thinking(budget=3))
    assert (thought, answer, finish.usage.thinking_tokens) == ("look at the", "no way", 3)
    thought, answer, finish = model.said(Thinking(budget=0))
    assert (thought, answer, finish.usage.thinking_tokens) == ("", "no way", 0)
    model.close()


@pytest.mark.parametrize("budget", [23, 40])
def test_drafts_do_not_run_over_a_budget(planted: Planted, budget: int) -> None:
    """A thought that goes round is drafted in large batches."""
    settings = SessionSettings(n_ctx=512, threads=1, threads_batch=1, speculation="always")
    session, plain = planted.engine.open_session(settings), planted.session
    planted.session = session
    try:
        thought, answer, finish = planted.said(Thinking(budget=budget), max_tokens=100)
    finally:
        planted.session = plain
        session.close()
    assert thought.split() == (ROUND * 20).split()[:budget]
    assert (answer, finish.usage.thinking_tokens) == ("no way", budget)
    assert finish.usage.drafted_tokens > 0


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({}, None),
        ({"reasoning_effort": "none"}, Thinking(ThinkingMode.OFF, 0)),
        ({"chat_template_kwargs": {"enable_thinking": True}}, Thinking(ThinkingMode.ON)),
        (
            {"chat_template_kwargs": {"enable_thinking": False}, "thinking_token_budget": 9},
            Thinking(ThinkingMode.OFF, 0),
        ),
        ({"chat_template_kwargs": {"other": 1}}, None),
        ({"thinking_budget_tokens": 0}, Thinking(ThinkingMode.OFF, 0)),
        ({"thinking_token_budget": 7}, Thinking(budget=7)),
        ({"thinking_budget_tokens": -1}, None),
    ],
)
def test_a_request_to_the_server_switches_and_limits(fields: dict[str, object], asked: Thinking | None) -> None:
    from slmchat.server import openai

    made = openai.chat_request({"messages": [{"role": "user", "content": "word"}], **fields})
    assert (made.thinking, made.ignored) == (asked, ())


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_effort": "soon"},
        {"reasoning_effort": 3},
        {"chat_template_kwargs": "on"},
        {"thinking_budget_tokens": -2},
        {"thinking_budget_tokens": "many"},
    ],
)
def test_a_request_that_cannot_be_meant_is_refused(fields: dict[str, object]) -> None:
    from slmchat.server import openai

    with pytest.raises(openai.BadRequest, match=next(iter(fields))):
        openai.chat_request({"messages": [{"role": "user", "content": "word"}], **fields})
