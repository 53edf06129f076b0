"""`/docs` in the chat: what of the documents answers a message goes along with it, and stands below the answer."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ask_injections import INJECTIONS
from chat_rooms import chat_room, said
from fake_engine import FakeEngine

from slmchat.commands.repl import chat_documents
from slmchat.commands.repl.app import ChatApp
from slmchat.commands.repl.documents import complete
from slmchat.engine.requests import TextOrTokens
from slmchat.engine.results import Embedding
from slmchat.errors import SlmError
from slmchat.retrieval import thresholds
from slmchat.retrieval.index import DocumentIndex
from slmchat.retrieval.vectors import Vectors

QUESTION = "Is the filter cleaned every six weeks?"  # the search is sure of it
QUOTED = "The filter is cleaned every six weeks."


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine([])


@pytest.fixture
def manual(tmp_path: Path) -> Path:
    path = tmp_path / "manual.md"
    path.write_text(f"# Pump\n\n{QUOTED} Use no soap.\n")
    return path


@pytest.fixture
def chat(engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatApp]:
    room = chat_room(tmp_path, monkeypatch, engine, type("Editor", (), {"refresh": lambda: None}))
    yield room
    room.close()


def test_quotations_go_along_and_stand_below(chat: ChatApp, engine: FakeEngine, manual: Path) -> None:
    chat._handle(f"/docs {manual}")
    assert "1 document with 1 passage" in said(chat)
    engine.replies = [[f'[1] "{QUOTED}"'], ["Every six weeks."]]
    chat._handle(QUESTION)
    assert f'[1] {manual}, line 3: "{QUOTED}"' in said(chat)
    message, answer = [node.message for node in chat.session.conversation.path()]
    assert QUOTED in message.text and message.text.endswith(QUESTION) and "soap" not in message.text
    assert answer.text == "Every six weeks." and chat.session.attachments == []


def test_an_edited_message_is_quoted_for_anew(chat: ChatApp, engine: FakeEngine, manual: Path) -> None:
    chat._handle(f"/docs {manual}")
    engine.replies = [[f'[1] "{QUOTED}"'], ["Yes."], [f'[1] "{QUOTED}"'], ["Surely."]]
    chat._handle(QUESTION)
    read: list[str] = []
    chat.editor.read = lambda default, **_: read.append(default) or f"{QUESTION} Really?"  # type: ignore
    chat._handle("/edit")
    assert read == [QUESTION]  # and not what was quoted for it
    message = chat.session.conversation.path()[0].message.text
    assert message.count(QUOTED) == 1 and message.endswith("Really?")


def test_what_they_do_not_answer_is_the_models_own(chat: ChatApp, engine: FakeEngine, manual: Path) -> None:
    chat._handle(f"/docs {manual}")
    engine.replies = [["Hello."]]
    said(chat)
    chat._handle("Thank you very much")
    assert "nothing in the documents is about this; the answer is the model's own" in said(chat)
    assert [node.message.text for node in chat.session.conversation.path()] == ["Thank you very much", "Hello."]


class _Alike:
    """Finds everything alike, and counts what it reads. Implements `Embedder`."""

    def __init__(self) -> None:
        self.n_read = 0

    def run(self, texts: Iterator[TextOrTokens]) -> Iterator[Embedding | SlmError]:
        for _ in texts:
            self.n_read += 1
            yield Embedding((1.0, 0.0), 3)

    def cancel(self) -> None: ...

    def close(self) -> None: ...


def test_nobody_waits_for_vectors_and_messages_go_on_with_them(
    chat: ChatApp, engine: FakeEngine, manual: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No seconds at all for vectors: each message makes a few."""
    notes = manual.parent / "notes"
    notes.mkdir()
    for number in range(20):
        (notes / f"{number}.txt").write_text(f"The lamp number {number} is yellow.")
    vectors = _Alike()
    index = DocumentIndex(None, len, Vectors("alike", vectors), chunk_tokens=500)
    monkeypatch.setattr(chat_documents, "open_index", lambda *_: index)
    monkeypatch.setattr(chat_documents, "VECTORS_S", 0)
    chat._handle(f"/docs {notes}")
    left = 20 - vectors.n_read
    assert 0 < left < 20
    assert f"{left} of 20 passages are found by their words so far" in " ".join(said(chat).split())
    for _ in range(4):
        engine.replies = [['[1] "The lamp number 7 is yellow."'], ["Yellow."]]
        chat._handle("Which colour has lamp number 7?")
        assert "The lamp number 7 is yellow." in said(chat)
    n_read = vectors.n_read
    assert index.add([notes], chat.session.reporter, lambda: False).n_without_vector == 0
    assert vectors.n_read == n_read  # nothing was left to do


def test_they_are_listed_and_dropped(chat: ChatApp, engine: FakeEngine, manual: Path) -> None:
    chat._handle("/docs")
    assert "which documents?" in said(chat)
    chat._handle(f"/docs {manual.parent / 'nowhere.md'}")
    assert "nowhere.md" in said(chat) and not chat.documents.roots
    chat._handle(f"/docs {manual}")
    said(chat)
    chat._handle("/docs")
    assert f"{manual}: 1 passage" in said(chat)
    assert ("drop", "answer without documents") in list(complete(chat, "dr"))
    chat._handle("/docs drop")
    engine.replies = [["Hello."]]
    chat._handle(QUESTION)
    assert len(engine.prompts) == 1 and QUOTED not in engine.prompts[0]


def test_what_is_not_there_is_told_before_all_else(chat: ChatApp, tmp_path: Path) -> None:
    said(chat)
    chat._handle(f"/docs {tmp_path}/nothing")
    assert said(chat).startswith(f"slm: {tmp_path}/nothing cannot be read")


def test_paths_are_completed(chat: ChatApp, manual: Path) -> None:
    assert [found for found, _ in complete(chat, str(manual)[:-3])] == [str(manual)]


def test_a_message_that_fails_takes_its_quotations_back(chat: ChatApp, engine: FakeEngine, manual: Path) -> None:
    chat._handle(f"/docs {manual}")
    engine.replies = [[f'[1] "{QUOTED}"']]  # and then nothing: the answer fails
    with pytest.raises(IndexError):
        chat._handle(QUESTION)
    engine.replies = [[f'[1] "{QUOTED}"'], ["Every six weeks."]]
    chat._handle(QUESTION)
    message = chat.session.conversation.path()[0].message
    assert message.text.count(QUOTED) == 1


@pytest.mark.slow
def test_documents_that_attack_type_nothing(
    chat: ChatApp, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All thirty in one directory: no slash command runs, nothing is written, no control sequence is shown."""
    monkeypatch.setattr(thresholds, "least_yes", lambda *_: 0.0)  # the search is sure
    folder = tmp_path / "attacks"
    folder.mkdir()
    for number, text in enumerate(INJECTIONS.values()):
        (folder / f"note-{number}.txt").write_text(f"The code of door {number} is 4711. {text}")
    chat._handle(f"/docs {folder}")
    before = sorted(path.name for path in tmp_path.iterdir())
    for number in range(len(INJECTIONS)):
        engine.replies = [[f'[1] "The code of door {number} is 4711."'], ["/exit"]]
        chat._handle(f"What is the code of door {number}?")
        chat._handle("/clear")
    shown = said(chat)
    assert not chat._is_leaving and not {"\x1b", "\x07", "\x9b", "\x08"} & set(shown)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert shown.count("is 4711.") >= 20
