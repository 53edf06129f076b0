"""A title made by the model while the chat rests: only where it is one, and never in anybody's way."""

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_engine import FakeEngine, FakeSession, Ready

from slmchat import settings as settings_module
from slmchat.catalog.records import Installed, InstalledFile
from slmchat.commands.repl import rest
from slmchat.conversation.archive import Archive
from slmchat.conversation.messages import Conversation, Message, Role
from slmchat.conversation.recorder import ArchiveRecorder
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import titles
from slmchat.generation.titles import TitleInTheMaking, title_in
from slmchat.hardware.facts import Fact
from slmchat.models import loader
from slmchat.models.backend import LocalModel
from slmchat.models.open import OpenModel
from slmchat.options import GenerationOptions
from slmchat.terminal.console import Console

BREAD = (
    Message(Role.USER, "How do I bake bread without yeast?"),
    Message(Role.ASSISTANT, "Use baking soda and buttermilk, and bake it at once."),
)


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ("Bread without yeast", "Bread without yeast"),
        ('**Title:** "Baking Bread Without Yeast."\n\nI hope this helps!', "Baking Bread Without Yeast"),
        ("# Soda bread", "Soda bread"),
        ("«Brot ohne Hefe: bread»", "Brot ohne Hefe: bread"),
        ("Bread", None),  # one word
        ("A very long and winding tale of bread without any yeast", None),
        ("This conversation is about bread without yeast.", None),
        ("I'm here to bake bread", None),
        ("Here's a short bread title:", None),
        ("The beauty of nature", None),  # no word of what was said
        ("bread " + "b" * 60, None),
        ("", None),
    ],
)
def test_what_is_a_title(answer: str, title: str | None) -> None:
    assert title_in(answer, BREAD) == title


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(replies=[("Bread ", "without ", "yeast")])


@pytest.fixture
def chat(engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """What `resting` asks of a chat, with one exchange in it, and a user who never goes on by himself."""
    monkeypatch.setattr(loader, "start_loading", lambda *_, **__: Ready(engine))
    monkeypatch.setattr(rest, "REST_S", 0.0)
    monkeypatch.setattr(rest, "power", lambda: (Fact(False, ""), Fact(None, "")))
    settings = settings_module.load({"SLM_HOME": str(tmp_path)})
    console = Console(io.StringIO(), io.StringIO(), io.StringIO(), {})
    model = LocalModel(
        Installed(
            "fake:1b", "Q4_K_M", (InstalledFile(tmp_path / "m.gguf", None, 1, 1),), "test", "2026-01-01T00:00:00Z"
        )
    )
    recorder = ArchiveRecorder(Archive(settings.paths.sessions), console.warn)
    opened = OpenModel(model, GenerationOptions(), settings, console)
    assert opened.engine  # loaded
    conversation = Conversation(None, recorder)
    conversation.title = BREAD[0].text
    for message in BREAD:
        conversation.add(message)
    recorder.flush()
    session = SimpleNamespace(conversation=conversation, opened=opened, options=GenerationOptions())
    yield SimpleNamespace(session=session, recorder=recorder, place=SimpleNamespace(host=None), titled=set())
    recorder.close()


def until_made(resting: AbstractContextManager[None], chat: SimpleNamespace) -> None:
    """Rest until the thread has ended by itself."""
    made: list[TitleInTheMaking] = []
    real = rest.TitleInTheMaking
    try:
        rest.TitleInTheMaking = lambda *args, **more: made.append(real(*args, **more)) or made[-1]  # type: ignore
        with resting:
            for one in made:
                one._thread.join()
    finally:
        rest.TitleInTheMaking = real  # type: ignore[misc]


def saved_title(chat: SimpleNamespace) -> str:
    return str(chat.recorder.archive.load(chat.session.conversation.id).title)


def test_the_title_is_in_the_list_of_sessions(chat: SimpleNamespace, engine: FakeEngine) -> None:
    until_made(rest.resting(chat), chat)
    assert saved_title(chat) == "Bread without yeast"
    assert BREAD[0].text in engine.prompts[-1] and BREAD[1].text in engine.prompts[-1]
    engine.replies.append(("Another ", "bread"))
    until_made(rest.resting(chat), chat)  # it has one now: the model is not asked again
    assert saved_title(chat) == "Bread without yeast" and len(engine.prompts) == 1


def test_what_is_no_title_leaves_the_first_line_and_is_not_asked_for_again(
    chat: SimpleNamespace, engine: FakeEngine
) -> None:
    engine.replies = [("I'm ", "a ", "model"), ("Bread ", "again")]
    for _ in range(2):
        until_made(rest.resting(chat), chat)
    assert saved_title(chat) == BREAD[0].text and len(engine.prompts) == 1


def test_somebody_who_goes_on_ends_it_and_it_is_tried_at_the_next_rest(
    chat: SimpleNamespace, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "REST_S", 3600.0)
    with rest.resting(chat):
        pass  # a message at once: nothing has begun
    assert not engine.prompts and not chat.titled

    monkeypatch.setattr(rest, "REST_S", 0.0)

    def cancelled(self: FakeSession, *rest_of: object) -> Iterator[object]:
        self.is_cancelled = True  # the user goes on in the middle of the prompt
        return self._generate(*rest_of)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(FakeSession, "generate", cancelled)
        until_made(rest.resting(chat), chat)
    assert saved_title(chat) == BREAD[0].text and not chat.titled

    engine.replies = [("Soda ", "bread")]
    until_made(rest.resting(chat), chat)
    assert saved_title(chat) == "Soda bread"


@pytest.mark.parametrize("why", ["private", "endpoint", "raw", "battery", "cut", "named", "unanswered"])
def test_where_no_title_is_made(
    chat: SimpleNamespace, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    conversation = chat.session.conversation
    if why == "private":
        chat.recorder, recorder = None, chat.recorder
    elif why == "endpoint":
        chat.place.host = "example.org"
    elif why == "raw":
        chat.session.options = GenerationOptions(raw=True)
    elif why == "battery":
        monkeypatch.setattr(rest, "power", lambda: (Fact(True, ""), Fact(50, "")))
    elif why == "cut":
        conversation.update(conversation.current, Message(Role.ASSISTANT, "Use", is_cut=True))
    elif why == "named":
        conversation.title = "Grandmother's bread"
    else:
        conversation.go_to(conversation.current.parent)
    before = conversation.title
    until_made(rest.resting(chat), chat)
    assert not engine.prompts and conversation.title == before
    if why == "private":
        chat.recorder = recorder


def test_no_memory_for_a_second_window_is_no_error(chat: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise SlmError("a context window does not fit.", exit_code=ExitCode.NO_FIT)

    monkeypatch.setattr(OpenModel, "open_plain_session", refuse)
    until_made(rest.resting(chat), chat)
    assert saved_title(chat) == BREAD[0].text and chat.titled


def test_a_long_message_is_not_read_whole(chat: SimpleNamespace, engine: FakeEngine) -> None:
    said = (Message(Role.USER, "bread " * 5_000), BREAD[1])
    making = TitleInTheMaking(chat.session.opened, said, rest_s=0.0)
    making._thread.join()
    assert making.stop() == "Bread without yeast"
    assert len(engine.prompts[-1]) < titles._SHOWN_LETTERS + 500
