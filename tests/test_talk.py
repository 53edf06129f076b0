"""One chat without a terminal: the fake engine behind the real talk, tree and recorder."""

import io
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fake_engine import FakeEngine, FakeSession, Ready

from slmchat import settings as settings_module
from slmchat.catalog.records import Installed, InstalledFile
from slmchat.conversation import window
from slmchat.conversation.archive import Archive
from slmchat.conversation.messages import Conversation, Message, Role
from slmchat.conversation.recorder import ArchiveRecorder
from slmchat.engine.api import Session
from slmchat.engine.requests import Adapter, Limits, Prompt
from slmchat.engine.results import AtLeast, Chunk, Event, Prefill
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.thinking import Thinking, ThinkingMode
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import params
from slmchat.generation.chat_session import ChatSession, Overflow
from slmchat.models import loader, resolve
from slmchat.models.backend import LocalBackend, LocalModel
from slmchat.models.open import OpenModel
from slmchat.options import GenerationOptions
from slmchat.terminal.console import Console


@dataclass
class Heard:
    """The host: keeps what is shown, answers what is asked."""

    choice: str = "cancel"
    summary_choice: str = "keep"
    summaries: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    overflows: list[Overflow] = field(default_factory=list)
    unsaved: set[str] = field(default_factory=set)

    def handler(self, _behind: str = "") -> "Heard":
        return self

    def logprob(self, logprob: float) -> None:
        pass

    def prefill(self, event: Prefill) -> None:
        pass

    def thinking(self, text: str) -> None:
        self.thoughts.append(text)

    def answer(self, text: str) -> None:
        self.answers.append(text)

    def close(self) -> None:
        pass

    def on_overflow(self, overflow: Overflow) -> str:
        self.overflows.append(overflow)
        return self.choice

    def on_summary(self, summary: str) -> str:
        self.summaries.append(summary)
        return self.summary_choice

    def cancellable(self, session: Session) -> AbstractContextManager[None]:
        return nullcontext()

    def is_saved(self, id: str) -> bool:
        return id not in self.unsaved


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def host() -> Heard:
    return Heard()


@pytest.fixture
def talk(engine: FakeEngine, host: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatSession]:
    monkeypatch.setattr(loader, "start_loading", lambda *_, **__: Ready(engine))
    settings = settings_module.load({"SLM_HOME": str(tmp_path)})
    console = Console(io.StringIO(), io.StringIO(), io.StringIO(), {})
    file = InstalledFile(tmp_path / "m.gguf", None, 1, 1)
    model = LocalModel(Installed("fake:1b", "Q4_K_M", (file,), "test", "2026-01-01T00:00:00Z"))
    recorder = ArchiveRecorder(Archive(settings.paths.sessions), console.warn)
    options = GenerationOptions(ctx=400)
    opened = OpenModel(model, options, settings, console)
    made = ChatSession(opened, Conversation("Be brief.", recorder), options, host)
    yield made
    made.close()
    recorder.close()


def _said(talk: ChatSession) -> list[tuple[str, str]]:
    return [(node.message.role.value, node.message.text) for node in talk.conversation.path()]


def test_a_message_is_in_the_archive_while_the_model_still_loads(
    engine: FakeEngine, talk: ChatSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kill -9` while the weights are read must not take along what was typed meanwhile."""
    saved: list[str] = []

    def wait_for_the_model(_: Ready) -> FakeEngine:
        archive = Archive(tmp_path / "data" / "sessions.db")
        saved.extend(node.message.text for node in archive.load(talk.conversation.id).path())
        archive.close()
        return engine

    monkeypatch.setattr(Ready, "engine", wait_for_the_model)
    assert talk.send("Hi")
    assert saved == ["Hi"]


def test_a_model_that_cannot_be_loaded_leaves_the_message_in_the_tree(
    talk: ChatSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Ready) -> FakeEngine:
        raise SlmError("the model cannot be loaded.", exit_code=ExitCode.DAMAGED)

    monkeypatch.setattr(Ready, "engine", fail)
    with pytest.raises(SlmError, match="cannot be loaded"):
        talk.send("Hi")
    assert [node.message.text for node in talk.conversation.nodes()] == ["Hi"]
    assert talk.conversation.current is None


def test_an_exchange_is_in_the_tree_and_in_the_archive(talk: ChatSession, tmp_path: Path) -> None:
    answer = talk.send("Hi")
    assert answer and answer.text == "Hello."
    assert _said(talk) == [("user", "Hi"), ("assistant", "Hello.")]
    saved = Archive(tmp_path / "data" / "sessions.db").load(talk.conversation.id)
    assert [node.message.text for node in saved.path()] == ["Hi", "Hello."]
    assert saved.path()[1].message.tokens == (1, 2)
    assert talk.tokens_used > 0


def test_only_the_model_that_said_it_gets_its_tokens(talk: ChatSession, engine: FakeEngine) -> None:
    talk.send("Hi")
    assert talk.messages()[-1].tokens == (1, 2)
    assert talk.conversation.as_messages("other:1b@Q8_0")[-1].tokens is None


def test_a_thought_is_kept_apart_and_out_of_later_prompts(talk: ChatSession, engine: FakeEngine, host: Heard) -> None:
    engine.replies = [("<thi", "nk>deep ", "thought</th", "ink>\n\nFour."), ("Five.",)]
    answer = talk.send("2+2?")
    assert answer and (answer.text, answer.thinking.strip()) == ("Four.", "deep thought")
    assert "".join(host.answers) == "Four."
    talk.send("And 2+3?")
    assert "deep thought" not in engine.prompts[1]
    assert "Four." in engine.prompts[1]
    assert talk.conversation.path()[1].message.tokens is None  # they hold the thought


def test_cancelled_before_anything_came_leaves_no_question_on_the_path(talk: ChatSession, engine: FakeEngine) -> None:
    class Cancelled(FakeSession):
        def generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
            events = super().generate(prompt, sampler, limits)
            self.cancel()
            return events

    engine.open_session = lambda settings: Cancelled(engine, settings)  # type: ignore[method-assign]
    assert talk.send("Hi") is None
    assert _said(talk) == []
    assert [node.message.text for node in talk.conversation.nodes()] == ["Hi"]  # kept in the tree
    del engine.open_session
    engine.replies = [("Hello",)] * 2
    talk.close()
    assert talk.send("Hello") and talk.conversation.title == "Hello"  # not that of the one that came to nothing
    assert talk.conversation.has_first_line_as_title
    talk.conversation.title = "Greetings"
    talk.conversation.go_to(None)
    assert talk.send("Hi") is not None and talk.conversation.title == "Greetings"  # somebody has given it


def test_an_error_in_the_middle_keeps_what_was_said(talk: ChatSession, engine: FakeEngine) -> None:
    class Broken(FakeSession):
        def _generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
            yield Prefill(1, 1, 0)
            yield Chunk("Once upon", (1,))
            raise SlmError("llama.cpp failed while computing.", exit_code=ExitCode.BUG)

    engine.open_session = lambda settings: Broken(engine, settings)  # type: ignore[method-assign]
    with pytest.raises(SlmError):
        talk.send("Hi")
    assert _said(talk) == [("user", "Hi"), ("assistant", "Once upon")]
    assert talk.conversation.path()[1].message.is_cut


def test_continue_joins_text_and_tokens(talk: ChatSession, engine: FakeEngine) -> None:
    engine.replies = [("One", " two"), (" three", ".")]
    talk.send("Count")
    talk.go_on()
    last = talk.conversation.path()[-1].message
    assert (last.text, last.tokens) == ("One two three.", (1, 2, 1, 2))
    assert engine.prompts[1].endswith("assistant\nOne two")


def test_a_retry_is_a_sibling_and_another_seed(talk: ChatSession, engine: FakeEngine) -> None:
    seeds: list[int | None] = []

    class Seeds(FakeSession):
        def generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
            seeds.append(sampler.seed)
            return super().generate(prompt, sampler, limits)

    engine.open_session = lambda settings: Seeds(engine, settings)  # type: ignore[method-assign]
    engine.replies = [("One",), ("Two",)]
    talk.sampler_changes["seed"] = 5
    talk.send("Say a number")
    question = talk.conversation.last(Role.USER)
    assert question is not None
    talk.conversation.go_to(question)
    talk.answer()
    assert [node.message.text for node in question.children] == ["One", "Two"]
    assert seeds == [5, 6]


class TestFullWindow:
    """400 characters are 400 tokens of the fake engine."""

    @pytest.fixture
    def full(self, talk: ChatSession, engine: FakeEngine) -> ChatSession:
        engine.replies = [("a" * 20,) for _ in range(20)]
        for number in range(3):
            talk.send(f"question {number} " + "x" * 20)
        return talk

    def test_cancel_changes_nothing(self, full: ChatSession, host: Heard) -> None:
        before = _said(full)
        assert full.send("y" * 120) is None
        assert _said(full) == before
        (overflow,) = host.overflows
        assert overflow.n_ctx == 400 < overflow.n_prompt

    def test_drop_goes_down_to_half_and_is_marked(self, full: ChatSession, host: Heard, engine: FakeEngine) -> None:
        host.choice = "drop"
        answer = full.send("y" * 60)
        assert answer
        assert len(engine.prompts[-1]) <= 400 * 0.5 + 20
        assert "question 0" not in engine.prompts[-1]
        assert "Be brief." in engine.prompts[-1]
        assert len(full.conversation.visible()) < len(full.conversation.path())
        assert any("question 0" in text for _, text in _said(full))  # the user still has it

    def test_summarise_puts_a_summary_into_the_system_message(
        self, full: ChatSession, host: Heard, engine: FakeEngine
    ) -> None:
        host.choice = "summarise"
        full.asked_ctx = 900
        full.reopen()
        for _ in range(3):
            full.send("z" * 60)
        engine.replies = [("they spoke of x",), ("fine",)]
        assert full.send("w" * 250)
        assert full.conversation.summary == "they spoke of x"
        assert "they spoke of x" in engine.prompts[-1]

    def test_fresh_moves_the_question_to_a_new_conversation(self, full: ChatSession, host: Heard) -> None:
        host.choice = "fresh"
        old = full.conversation
        before = _said(full)
        assert full.send("y" * 120)
        assert full.conversation is not old
        assert [role for role, _ in _said(full)] == ["user", "assistant"]
        assert [(n.message.role.value, n.message.text) for n in old.path()] == before

    def test_fresh_that_is_cancelled_leaves_the_old_conversation(self, full: ChatSession, host: Heard) -> None:
        host.choice = "fresh"
        old, before = full.conversation, _said(full)

        def cancel(_event: Prefill) -> None:
            full.ready().cancel()

        host.prefill = cancel  # type: ignore[method-assign]
        assert full.send("y" * 120) is None
        assert full.conversation is old
        assert _said(full) == before

    def test_a_message_that_is_too_long_by_itself_is_an_error_with_numbers(
        self, full: ChatSession, host: Heard
    ) -> None:
        host.choice = "drop"
        before = _said(full)
        with pytest.raises(SlmError, match=r"this message has 900 tokens, .* window of 400 has room for 295") as caught:
            full.send("y" * 900)
        assert caught.value.exit_code is ExitCode.CONTEXT
        assert caught.value.hint is not None and caught.value.hint.startswith("shorten it")
        assert host.overflows == []  # nothing that could be chosen would help
        assert _said(full) == before

    def test_a_message_that_nobody_counts_to_its_end_has_at_least_so_many(
        self, full: ChatSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        count = FakeEngine.count

        def counted(engine: FakeEngine, prompt: Prompt, most: int | None = None) -> int:
            n_tokens = count(engine, prompt)
            return AtLeast(n_tokens - 100) if most is not None and n_tokens - 100 > most else n_tokens

        monkeypatch.setattr(FakeEngine, "count", counted)
        with pytest.raises(SlmError, match=r"this message has at least 800 tokens, .* has room for 295"):
            full.send("y" * 900)

    def test_only_what_helps_is_offered(self, full: ChatSession, host: Heard, engine: FakeEngine) -> None:
        full.send("y" * 120)
        assert host.overflows[-1].can_summarise
        full.send("y" * 250)
        assert not host.overflows[-1].can_summarise  # 100 tokens of a summary would leave no room
        assert host.overflows[-1].can_begin_afresh
        answer = full.conversation.current
        assert answer is not None
        full.conversation.update(answer, Message(Role.ASSISTANT, "b" * 200))
        full.go_on()
        assert not host.overflows[-1].can_begin_afresh  # the rest of an answer belongs to its beginning
        full.conversation.update(answer, Message(Role.ASSISTANT, "b" * 400))
        with pytest.raises(SlmError, match="the answer with its question has"):
            full.go_on()

    @pytest.mark.parametrize("choice", ["drop", "cancel"])
    def test_a_summary_can_be_refused(self, full: ChatSession, host: Heard, engine: FakeEngine, choice: str) -> None:
        host.choice, host.summary_choice = "summarise", choice
        full.asked_ctx = 900
        full.reopen()
        for _ in range(3):
            full.send("z" * 60)
        engine.replies = [("nonsense",), ("fine",)]
        assert bool(full.send("w" * 250)) is (choice == "drop")
        assert host.summaries == ["nonsense"]
        assert full.conversation.summary is None
        assert (full.conversation.seen_from is not None) is (choice == "drop")

    def test_a_summary_on_demand_and_back(self, full: ChatSession, host: Heard, engine: FakeEngine) -> None:
        engine.replies = [("they spoke of x",), ("fine",)]
        assert full.compact()
        assert [node.message.text[:10] for node in full.conversation.visible()] == ["question 2", "a" * 10]
        full.conversation.see_from(None)
        assert full.conversation.visible() == full.conversation.path()
        assert "they spoke of x" not in full.conversation.system_text()


def test_a_summary_needs_something_to_sum_up(talk: ChatSession) -> None:
    talk.send("Hi")
    with pytest.raises(SlmError, match="nothing to summarise"):
        talk.compact()


def test_before_the_first_message_is_a_place(talk: ChatSession, tmp_path: Path) -> None:
    """The only exchange is undone: it does not come back, and its question is not sent before the next one."""
    talk.send("Hi")
    talk.conversation.undo()
    archive = Archive(tmp_path / "data" / "sessions.db")
    again = archive.load(talk.conversation.id)
    assert (again.current, len(list(again.nodes()))) == (None, 2)
    assert archive.find(talk.conversation.id).message_count == 2


def test_the_meter_follows_the_conversation(talk: ChatSession) -> None:
    only_system = talk.tokens_used
    assert only_system == talk.count(talk.messages())
    talk.send("Hi")
    assert talk.tokens_used == talk.count(talk.messages()) > only_system
    talk.conversation.undo()
    assert talk.tokens_used == only_system
    talk.conversation.system = None
    assert talk.tokens_used == 0
    assert talk.window_size == 400


def test_a_question_that_was_never_answered_is_not_sent_with_the_next_one(
    talk: ChatSession, engine: FakeEngine
) -> None:
    """As it is found after a `kill -9` before the first token."""
    talk.conversation.add(Message(Role.USER, "lost"))
    assert talk.send("Hi")
    assert "lost" not in engine.prompts[-1]
    assert _said(talk) == [("user", "Hi"), ("assistant", "Hello.")]


def test_a_conversation_without_an_answer_is_not_the_last_one(talk: ChatSession, tmp_path: Path) -> None:
    talk.send("Hi")
    archive = Archive(tmp_path / "data" / "sessions.db")
    unanswered = Conversation(None, talk.conversation.recorder)
    unanswered.add(Message(Role.USER, "later"))
    latest = archive.latest()
    assert latest is not None and latest.id == talk.conversation.id
    assert [one.title for one in archive.list()] == ["Hi", "later"]
    assert [one.title for one in archive.list(1)] == ["Hi"]


def test_examples_of_a_persona_stand_before_the_conversation(talk: ChatSession, engine: FakeEngine) -> None:
    from slmchat.personas import BUILT_IN

    talk.examples = params.example_messages(next(it for it in BUILT_IN if it.name == "sentiment"))[:2]
    talk.send("Great!")
    first = talk.examples[0].text
    assert engine.prompts[0].index("Be brief.") < engine.prompts[0].index(first) < engine.prompts[0].index("Great!")


def test_counts_are_those_of_the_prompt(talk: ChatSession, engine: FakeEngine) -> None:
    talk.send("Hi")
    assert talk.count(talk.messages()) == len("".join(part.text for part in talk.prompt(talk.messages()).parts))


def test_ctrl_c_while_the_model_loads_gives_the_message_back(
    talk: ChatSession, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slmchat.commands.repl.app import ChatApp
    from slmchat.commands.repl.slash_commands import COMMANDS
    from slmchat.options import ChatOptions

    class Interrupted(Ready):
        def engine(self) -> FakeEngine:
            raise KeyboardInterrupt

    monkeypatch.setattr(loader, "start_loading", lambda *_, **__: Interrupted(engine, is_done=False))
    assert isinstance(talk.model, LocalModel)
    monkeypatch.setattr(resolve, "find", lambda *_: talk.model.installed)
    monkeypatch.setattr(ChatApp, "_new_editor", lambda *_given: type("Editor", (), {"refresh": lambda: None}))
    room = ChatApp(LocalBackend(), GenerationOptions(), ChatOptions(), talk.opened.settings, talk.reporter, COMMANDS)
    room._handle("my question")
    assert room.next_text == "my question"
    assert isinstance(talk.reporter.stderr, io.StringIO)
    assert "(cancelled)" in talk.reporter.stderr.getvalue()


def test_private_in_the_middle_of_a_chat_reaches_the_loading(
    talk: ChatSession, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slmchat.commands.repl.app import ChatApp
    from slmchat.commands.repl.slash_commands import COMMANDS
    from slmchat.options import ChatOptions
    from slmchat.privacy import dumps

    ready = Ready(engine)
    monkeypatch.setattr(loader, "start_loading", lambda *_, **__: ready)
    monkeypatch.setattr(resolve, "find", lambda *_: talk.model.installed)
    monkeypatch.setattr(ChatApp, "_new_editor", lambda *_given: type("Editor", (), {"refresh": lambda: None}))
    monkeypatch.setattr(dumps, "switch_off", lambda: None)
    room = ChatApp(LocalBackend(), GenerationOptions(), ChatOptions(), talk.opened.settings, talk.reporter, COMMANDS)
    assert not ready.is_private
    room.go_private()
    assert ready.is_private


def test_adapters_count_before_and_after_the_model_is_loaded(
    talk: ChatSession, engine: FakeEngine, tmp_path: Path
) -> None:
    first = Adapter(tmp_path / "first.gguf", 0.5, (1, 1))
    talk.set_adapters([first])
    session = talk.ready()
    assert isinstance(session, FakeSession)
    assert session.settings.adapters == (first,)
    talk.send("Hi")
    kept = len(engine.kept)
    second = Adapter(tmp_path / "second.gguf", 1.0, (1, 1))
    talk.set_adapters([first, second])
    assert session.adapters == (first, second)
    assert engine.kept[kept:] == [talk.conversation.id]  # what was computed with the others is stored before it goes
    talk.reopen()  # /set ctx
    again = talk.ready()
    assert isinstance(again, FakeSession)
    assert again.settings.adapters == (first, second)
    talk.switch_model(lambda: OpenModel(talk.model, GenerationOptions(), talk.opened.settings, talk.reporter))
    assert talk.adapters == ()


def test_an_adapter_that_is_refused_leaves_the_others(talk: ChatSession, engine: FakeEngine, tmp_path: Path) -> None:
    class Refusing(FakeSession):
        def set_adapters(self, adapters: Sequence[Adapter]) -> None:
            if len(adapters) > 1:
                raise SlmError("not for this model.", exit_code=ExitCode.DAMAGED)
            super().set_adapters(adapters)

    engine.open_session = lambda settings: Refusing(engine, settings)  # type: ignore[method-assign]
    first = Adapter(tmp_path / "first.gguf", 0.5, (1, 1))
    talk.ready()
    talk.set_adapters([first])
    with pytest.raises(SlmError, match="not for this model"):
        talk.set_adapters([first, Adapter(tmp_path / "second.gguf", 1.0, (1, 1))])
    assert talk.adapters == (first,)


# A chat never gets stuck on its template

ALTERNATES = (  # as Mistral's and Gemma 2's, and as Ministral 3's: no two questions in a row, no empty answer
    "{% for m in messages if m.role != 'system' %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% if not m.content %}"
    "{{ raise_exception('no empty messages') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)


@pytest.fixture
def strict(engine: FakeEngine, talk: ChatSession) -> ChatSession:
    engine.template = ALTERNATES
    engine.replies = [("Hello.",)] * 3
    talk.conversation.system = None
    return talk


def test_a_question_that_was_never_answered_leaves_its_place_to_the_next(
    strict: ChatSession, engine: FakeEngine
) -> None:
    """As after `kill -9`: the archive has the question, and no answer."""
    strict.conversation.add(Message(Role.USER, "first"))
    assert strict.send("second")
    assert engine.prompts[-1] == "[user]second"
    assert [node.message.text for node in strict.conversation.nodes()] == ["first", "second", "Hello."]


def test_two_questions_in_a_row_are_one(strict: ChatSession, engine: FakeEngine) -> None:
    """As in a session that was taken in from elsewhere."""
    for text in ("first", "second"):
        strict.conversation.add(Message(Role.USER, text))
    strict.conversation.add(Message(Role.ASSISTANT, "yes"))
    assert strict.send("third")
    assert engine.prompts[-1] == "[user]first\n\nsecond[assistant]yes[user]third"
    assert [text for _, text in _said(strict)] == ["first", "second", "yes", "third", "Hello."]
    assert strict.send("fourth")
    told = strict.reporter.stderr.getvalue()  # type: ignore[attr-defined]
    assert told.count("a question here has no answer") == 1


def test_an_answer_that_was_stopped_in_its_thought_is_left_out(strict: ChatSession, engine: FakeEngine) -> None:
    strict.conversation.add(Message(Role.USER, "first"))
    strict.conversation.add(Message(Role.ASSISTANT, "", is_cut=True, thinking="hm"))
    assert strict.send("second")
    assert engine.prompts[-1] == "[user]first\n\nsecond"
    assert [text for _, text in _said(strict)] == ["first", "", "second", "Hello."]


@pytest.mark.slow
def test_five_thousand_messages_go_on(talk: ChatSession, engine: FakeEngine) -> None:
    talk.conversation.recorder = None  # five thousand transactions are another story
    for number in range(2500):
        talk.conversation.add(Message(Role.USER, f"q{number}"))
        talk.conversation.add(Message(Role.ASSISTANT, f"a{number}"))
    talk.asked_ctx = engine.trained = 1_000_000
    assert talk.send("more")
    assert engine.prompts[-1].count("<|im_start|>") == 5003


def test_a_full_window_counts_only_what_may_stay(engine: FakeEngine) -> None:
    said = [Message(Role.ASSISTANT if i % 2 else Role.USER, "x" * 10) for i in range(5001)]
    counted: list[int] = []

    def count(messages: Sequence[Message]) -> int:
        counted.append(len(messages))
        return 10 * len(messages)

    place = window.drop_oldest(said, 0, count, 1000)
    assert 10 * len(said[place:]) <= 500 < 10 * len(said[place - 2 :])
    assert said[place].role is Role.USER
    assert sum(counted[1:]) < 1000


# Thinking


def test_thinking_is_switched_in_a_chat(talk: ChatSession, engine: FakeEngine) -> None:
    closes = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    engine.template = (engine.template or "") + closes
    engine.replies = [("Hello.",)] * 3
    talk.send("one")
    assert not engine.prompts[-1].endswith("</think>")
    talk.set_thinking(Thinking(ThinkingMode.OFF, 0))
    talk.send("two")
    assert engine.prompts[-1].endswith("<think></think>")
    talk.set_thinking(Thinking(ThinkingMode.ON, 7))
    talk.send("three")
    assert not engine.prompts[-1].endswith("</think>")
    assert engine.limits[-1].thinking == Thinking(ThinkingMode.ON, 7)


def test_a_model_without_a_switch_says_so_once(talk: ChatSession, engine: FakeEngine) -> None:
    engine.replies = [("Hello.",)] * 3
    talk.set_thinking(Thinking(ThinkingMode.OFF, 0))
    talk.send("one")
    talk.send("two")
    told = talk.reporter.stderr.getvalue()  # type: ignore[attr-defined]
    assert told.count("has no switch for thinking: /think off changes nothing") == 1


def test_a_summary_is_made_without_a_thought(talk: ChatSession, engine: FakeEngine) -> None:
    """A thought would take the room of the summary."""
    closes = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    engine.template = (engine.template or "") + closes
    engine.replies = [("Hello.",)] * 3
    talk.asked_ctx = 4000
    talk.send("one")
    talk.send("two")
    talk.compact()
    assert [prompt.endswith("<think></think>") for prompt in engine.prompts] == [False, False, True]
