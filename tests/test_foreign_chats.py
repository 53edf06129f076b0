"""Chats of other tools: nothing that was said is lost, and a second import knows what is here."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import foreign_samples as samples
import pytest
from conftest import call_slm
from foreign_samples import ANSWER, LAST, MORE, QUESTION

from slmchat.conversation.archive import Archive
from slmchat.conversation.messages import Message, Role

SAMPLES: dict[str, Callable[[Path], Path]] = {}


def _sample(name: str, file: str) -> Callable[[Callable[[Path], None]], None]:
    def register(write: Callable[[Path], None]) -> None:
        def made(folder: Path) -> Path:
            write(folder / file)
            return folder / file

        SAMPLES[name] = made

    return register


_sample("chatgpt", "conversations.json")(lambda file: file.write_text(samples.chatgpt()) and None)  # type: ignore[func-returns-value]
_sample("claude", "conversations.json")(lambda file: file.write_text(samples.claude()) and None)  # type: ignore[func-returns-value]
_sample("open-webui", "chats.json")(lambda file: file.write_text(samples.open_webui()) and None)  # type: ignore[func-returns-value]
_sample("llm", "logs.db")(samples.llm)
_sample("aichat", "Fjords.yaml")(lambda file: file.write_text(samples.AICHAT) and None)  # type: ignore[func-returns-value]


def _archive(home: Path) -> Archive:
    return Archive(home / "data" / "sessions.db")


@pytest.mark.parametrize("tool", SAMPLES)
def test_a_chat_comes_with_all_that_was_said_and_is_known_again(tool: str, home: Path, tmp_path: Path) -> None:
    file = SAMPLES[tool](tmp_path)
    done = call_slm("sessions", "import", str(file), home=home)
    assert done.code == 0, done.err
    assert "1 conversation imported." in done.err
    archive = _archive(home)
    (summary,) = archive.list()
    assert (summary.title, done.out) == ("Fjords", f"{summary.id}\n")
    path = archive.load(summary.id).path()
    assert [node.message.role for node in path] == [Role.USER, Role.ASSISTANT] * 2
    for node, text in zip(path, (QUESTION, ANSWER, MORE, LAST), strict=True):
        assert text in node.message.text
    assert archive.search("fjord")
    archive.close()
    again = call_slm("sessions", "import", str(file), home=home)
    assert again.code == 0 and "0 conversations imported, 1 conversation known already." in again.err
    assert again.out == ""


def test_what_a_chatgpt_export_has_besides_text(home: Path, tmp_path: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive_file:
        archive_file.writestr("user.json", "{}")
        archive_file.writestr("conversations.json", samples.chatgpt())
    (tmp_path / "export.zip").write_bytes(data.getvalue())
    assert call_slm("sessions", "import", str(tmp_path / "export.zip"), home=home).code == 0
    archive = _archive(home)
    (summary,) = archive.list()
    assert (summary.model, summary.created_at) == ("gpt-4o", "2023-11-14T22:13:20+00:00")
    talk = archive.load(summary.id)
    question, answer, _more, last = (node.message for node in talk.path())
    assert question.text == f"[image: not in the export]\n\n{QUESTION}"
    assert [each.message.text for each in talk.alternatives(talk.path()[1])] == ["An old answer.", answer.text]
    assert last.text == f"```python\nfind()\n```\n\n```\nNorway\n```\n\n{LAST}"
    assert last.thinking == "Look it up"


def test_what_the_others_have_besides_text(home: Path, tmp_path: Path) -> None:
    for tool in ("claude", "open-webui", "llm"):
        (tmp_path / tool).mkdir()
        assert call_slm("sessions", "import", str(SAMPLES[tool](tmp_path / tool)), home=home).code == 0
    archive = _archive(home)
    talks = [archive.load(one.id) for one in archive.list()]
    said = "\n".join(node.message.text for talk in talks for node in talk.nodes())
    for part in ("[notes.txt]\n```\nmy notes\n```", "[map.png: not in the export]", "[tool atlas]", "a fragment"):
        assert part in said
    assert sorted(str(talk.system) for talk in talks) == ["Be brief.", "Be brief.", "None"]
    assert "Hm." in [node.message.thinking for talk in talks for node in talk.nodes()]


def test_a_chat_that_has_grown_there_and_here(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "conversations.json"
    file.write_text(samples.chatgpt())
    assert call_slm("sessions", "import", str(file), home=home).code == 0
    file.write_text(samples.chatgpt(n_more=2))
    done = call_slm("sessions", "import", str(file), home=home)
    assert "0 conversations imported, 1 conversation brought up to date." in done.err
    archive = _archive(home)
    talk = archive.load(archive.list()[0].id)
    assert talk.path()[-1].message.text == "more 1"
    mine = talk.add(Message(Role.USER, "and here"))
    archive.store(talk, [mine])
    archive.close()
    file.write_text(samples.chatgpt(n_more=4))
    assert "brought up to date" in call_slm("sessions", "import", str(file), home=home).err
    talk = _archive(home).load(talk.id)
    assert talk.path()[-1].message.text == "and here"  # what was said here stays the branch in use
    assert "more 3" in [node.message.text for node in talk.nodes()]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[]",
        "[1, 2]",
        '{"a": 1}',
        "PK\x03\x04",
        "- a\n- b",
        pytest.param("{" * 3000, marks=pytest.mark.slow),
    ],
)
def test_another_file_is_refused_in_a_sentence(text: str, home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(text)
    done = call_slm("sessions", "import", str(tmp_path / "file"), home=home)
    assert done.code == 6
    assert done.err.startswith("slm: this is not a chat that slm can read.\nhint: exports of slm, ChatGPT")


@pytest.mark.parametrize(
    "broken", [{"mapping": 1}, {"mapping": {"a": {"message": [], "parent": "a"}}}, {"mapping": {}}]
)
def test_a_broken_chat_among_sound_ones_is_left_out(broken: dict[str, object], home: Path, tmp_path: Path) -> None:
    file = tmp_path / "conversations.json"
    file.write_text(json.dumps([broken, *json.loads(samples.chatgpt())]))
    done = call_slm("sessions", "import", str(file), home=home)
    assert done.code == 0
    assert "1 conversation imported, 1 conversation without a message left out." in done.err


@pytest.mark.parametrize("time", ["Infinity", "-Infinity", "NaN", "1e400", "1e300", "-1e300"])
def test_a_time_that_cannot_be_is_now(time: str, home: Path, tmp_path: Path) -> None:
    """An endless time was divided for ever."""
    said = f'{{"author": {{"role": "user"}}, "content": {{"parts": ["x"]}}, "create_time": {time}}}'
    node = f'{{"id": "a", "parent": null, "message": {said}}}'
    (tmp_path / "chats.json").write_text(
        f'[{{"mapping": {{"a": {node}}}, "current_node": "a", "create_time": {time}}}]'
    )
    done = call_slm("sessions", "import", tmp_path / "chats.json", home=home)
    assert done.code == 0, done.err
    assert "1 conversation imported." in done.err


def test_a_fence_is_longer_than_what_stands_in_the_text() -> None:
    from slmchat.conversation.attachments import fence_around

    for text, length in (("", 3), ("a ` b", 3), ("``` and ````", 5), ("`" * 1_000_000, 1_000_001)):  # in one look
        assert fence_around(text, "`") == "`" * length


def _cut_zip() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive_file:
        archive_file.writestr("conversations.json", samples.chatgpt())
    made = bytearray(data.getvalue())
    made[60:70] = b"\xff" * 10  # inside of what is packed
    return bytes(made)


@pytest.mark.parametrize("content", [b"9" * 5000, b"date: 2026-13-45", _cut_zip()], ids=["digits", "a day", "a zip"])
def test_what_no_library_can_read_is_a_sentence(content: bytes, home: Path, tmp_path: Path) -> None:
    (tmp_path / "chats").write_bytes(content)
    done = call_slm("sessions", "import", tmp_path / "chats", home=home)
    assert done.code == 6, done.err
    assert "not a chat that slm can read" in done.err
