"""Pictures in conversations: in the archive once, in exports, in a resumed chat, on the screen."""

import base64
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fork_server
import pytest
from conftest import environment, run_slm
from gguf_vision import IMAGE_TOKENS, write_tiny_gemma3, write_tiny_siglip
from terminal import Terminal
from test_archive import VERSION_1, answer, hand_made, user

from slmchat.conversation.archive import Archive
from slmchat.conversation.messages import Conversation, Message, Role
from slmchat.conversation.pictures import Picture
from slmchat.conversation.recorder import ArchiveRecorder
from slmchat.engine.requests import Image
from slmchat.errors import ExitCode, SlmError

pytestmark = pytest.mark.real


def picture(name: str = "cat.png", colour: int = 40) -> Picture:
    return Picture.of(name, Image.of(16, 8, bytes((colour, 200, 100)) * 128))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "sessions.db"


@pytest.fixture
def archive(file: Path) -> Iterator[Archive]:
    archive = Archive(file)
    yield archive
    archive.close()


def shown(archive: Archive, *pictures: Picture, text: str = "what is this") -> Conversation:
    """A saved conversation whose first question shows these pictures."""
    recorder = ArchiveRecorder(archive, lambda text: None)
    talk = Conversation(recorder=recorder)
    talk.add(Message(Role.USER, text, pictures=pictures))
    talk.add(answer("A cat."))
    recorder.flush()
    return talk


def kept(file: Path) -> int:
    with sqlite3.connect(file) as connection:
        return int(connection.execute("SELECT count(*) FROM pictures").fetchone()[0])


# The archive


def test_a_picture_comes_back_as_it_was(archive: Archive) -> None:
    both = (picture(), picture("dog.jpg", 90))
    talk = shown(archive, *both)
    (question, reply) = archive.load(talk.id).path()
    assert question.message.pictures == both
    assert [one.image() for one in question.message.pictures] == [one.image() for one in both]
    assert reply.message.pictures == ()


def test_the_archive_keeps_a_picture_once(archive: Archive, file: Path) -> None:
    first = shown(archive, picture(), picture("again.png"))
    second = shown(archive, picture("copy.png"), picture("dog.jpg", 90))
    assert kept(file) == 2
    assert [one.name for one in archive.load(first.id).path()[0].message.pictures] == ["cat.png", "again.png"]
    archive.remove([first.id])
    assert kept(file) == 2
    assert archive.load(second.id).path()[0].message.pictures[0].image() == picture().image()
    archive.remove([second.id])
    assert kept(file) == 0


def test_nothing_of_a_removed_picture_is_left_in_the_file(archive: Archive, file: Path) -> None:
    import random

    noise = Picture.of("noise", Image.of(64, 64, random.Random(1).randbytes(3 * 64 * 64)))
    marks = [noise.png()[start : start + 32] for start in range(200, 8_000, 1_500)]
    talk, other = shown(archive, noise), shown(archive, picture())
    archive.close()
    before = file.read_bytes()
    assert all(mark in before for mark in marks)
    archive.remove([talk.id])
    archive.close()
    after = b"".join(path.read_bytes() for path in file.parent.iterdir())
    assert not any(mark in after for mark in marks)
    assert archive.load(other.id).path()[0].message.pictures


def test_an_archive_from_before_pictures_is_migrated(archive: Archive, file: Path) -> None:
    hand_made(file, VERSION_1)
    assert [node.message.pictures for node in archive.load("abcd0000000000000000000000000000").path()] == [(), ()]
    talk = shown(archive, picture())
    assert archive.load(talk.id).path()[0].message.pictures == (picture(),)


def test_a_session_removed_meanwhile_is_written_anew_with_its_pictures(archive: Archive) -> None:
    talk = shown(archive, picture())
    archive.remove([talk.id])
    talk.add(user("and now?"))
    assert talk.recorder is not None
    talk.recorder.flush()
    assert archive.load(talk.id).path()[0].message.pictures == (picture(),)


def test_a_picture_without_text_gives_the_title(archive: Archive) -> None:
    assert shown(archive, picture(), text="").title == "cat.png"


# Exports


def test_an_export_takes_pictures_along_once(archive: Archive, tmp_path: Path) -> None:
    talk = shown(archive, picture(), picture("again.png"))
    text = archive.export_json(talk.id)
    assert len(json.loads(text)["pictures"]) == 1
    assert text.count(base64.b64encode(picture().png()).decode()) == 1
    other = Archive(tmp_path / "other" / "sessions.db")
    message = other.load(other.import_json(text)).path()[0].message
    assert [(one.name, one.image()) for one in message.pictures] == [
        ("cat.png", picture().image()),
        ("again.png", picture().image()),
    ]
    other.close()
    assert "*(picture: cat.png, 16 × 8 pixels)*\n" in archive.export_markdown(talk.id)
    assert "pictures" not in json.loads(archive.export_json(shown(archive).id))  # as before pictures were known


def test_an_import_keeps_the_pixels_only(archive: Archive) -> None:
    """A PNG that carries more than a picture is written anew."""
    import io

    from PIL import Image as Pillow
    from PIL import PngImagePlugin

    value = json.loads(archive.export_json(shown(archive, picture()).id))
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "stowaway")
    out = io.BytesIO()
    Pillow.frombytes("RGB", (16, 8), picture().image().rgb).save(out, "PNG", pnginfo=info)
    assert b"stowaway" in out.getvalue()
    (one,) = value["pictures"].values()
    one["png"] = base64.b64encode(out.getvalue()).decode()
    archive.remove([value["id"]])
    id = archive.import_json(json.dumps(value))
    assert b"stowaway" not in archive.load(id).path()[0].message.pictures[0].png()


def _change(value: dict[str, object], how: str) -> None:
    pictures = value["pictures"]
    assert isinstance(pictures, dict)
    (id,) = pictures
    one = pictures[id]
    if how == "not a table":
        value["pictures"] = []
    elif how == "no id":
        pictures["../../etc/passwd"] = pictures.pop(id)
    elif how == "another picture":
        one["png"] = base64.b64encode(picture(colour=1).png()).decode()
    elif how == "no base64":
        one["png"] = "!!!!"
    elif how == "no png":
        one["png"] = base64.b64encode(b"GIF89a....").decode()
    elif how == "cut":
        one["png"] = base64.b64encode(picture().png()[:50]).decode()
    elif how == "no size":
        one["width"] = -1
    elif how == "not there":
        value["messages"][0]["pictures"][0]["id"] = "0" * 64  # type: ignore[index]
    else:
        value["messages"][0]["pictures"] = {"id": id}  # type: ignore[index]


@pytest.mark.parametrize(
    "how",
    ["not a table", "no id", "another picture", "no base64", "no png", "cut", "no size", "not there", "not a list"],
)
def test_wrong_pictures_in_an_import_are_refused_whole(archive: Archive, file: Path, how: str) -> None:
    value = json.loads(archive.export_json(shown(archive, picture()).id))
    archive.remove([value["id"]])
    _change(value, how)
    with pytest.raises(SlmError) as caught:
        archive.import_json(json.dumps(value))
    assert caught.value.exit_code is ExitCode.DAMAGED
    assert archive.list() == []
    assert kept(file) == 0


# The chat on a terminal


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    write_tiny_siglip(tmp_path / "model" / "mmproj.gguf")
    return write_tiny_gemma3(tmp_path / "model" / "model.gguf")


@pytest.fixture
def png(tmp_path: Path) -> Path:
    path = tmp_path / "my cat.png"
    path.write_bytes(Picture.of("", Image.of(80, 50, bytes(range(240)) * 50)).png())
    return path


def opened(home: Path, model: Path, *options: str | Path) -> Terminal:
    terminal = Terminal(["chat", model, "--temp", "0", "-n", "6", *options], home=home)
    terminal.wait_for(r"^> ?$|\n> ?(\n|$)")
    return terminal


def answers(terminal: Terminal) -> list[str]:
    """What stands behind each question `what is this`."""
    return re.findall(r"> what is this\n(.+)\n", terminal.text)


def test_a_picture_in_a_chat_and_in_the_resumed_chat(home: Path, model: Path, png: Path) -> None:
    with opened(home, model) as terminal:
        terminal.enter(f"/image '{png}'")
        terminal.wait_for(rf"my cat\.png, 80 × 50 pixels, {IMAGE_TOKENS + 2} tokens\n")
        terminal.wait_for(rf"{IMAGE_TOKENS + 2} tokens go along with your next message")
        terminal.wait_for("1 picture attached")
        terminal.enter("what is this")
        terminal.wait_for_count("cut at the limit", 1)
        assert "1 picture attached" not in terminal.text
        terminal.enter("/context")
        terminal.wait_for(rf"{IMAGE_TOKENS + 2 + 7}  user ")
        terminal.enter("/prompt")
        terminal.wait_for(r"\[picture, 80 × 50\]what is this<end_of_turn>")
        terminal.enter("/retry")
        terminal.wait_for_count("cut at the limit", 2)
        terminal.enter("/exit")
        assert terminal.end() == 0
        (seen, *_) = answers(terminal)
    with opened(home, model, "-c") as terminal:
        terminal.wait_for(r"\[my cat\.png, 80 × 50 pixels\]\n> what is this")
        terminal.enter("/retry")
        terminal.wait_for("cut at the limit")
        assert terminal.text.count(seen) == 2  # the old answer and the new one: it sees what it saw
        terminal.enter("/exit")
        assert terminal.end() == 0


def test_private_chats_keep_no_picture(home: Path, model: Path, png: Path) -> None:
    with opened(home, model, "--private", "-f", png) as terminal:
        terminal.wait_for("1 picture attached")
        terminal.enter("what is this")
        terminal.wait_for("cut at the limit")
        terminal.enter("/exit")
        assert terminal.end() == 0
    assert not [path for path in home.rglob("*") if path.is_file() and "sessions" in path.name]


def test_image_says_what_is_wrong_and_the_chat_goes_on(home: Path, model: Path, png: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with opened(home, model) as terminal:
        terminal.enter("/image")
        terminal.wait_for("which picture")
        terminal.enter(f"/image {tmp_path / 'notes.txt'}")
        terminal.wait_for(r"notes\.txt cannot be used as a picture: it is not a picture")
        terminal.enter(f"/image '{png}' '{png}'")
        terminal.wait_for("2 pictures attached")
        terminal.enter('/image ""')
        terminal.wait_for("No picture is attached any more")
        terminal.enter("/exit")
        assert terminal.end() == 0
    (model.parent / "mmproj.gguf").unlink()
    with opened(home, model) as terminal:
        terminal.enter(f"/image '{png}'")
        terminal.wait_for("its projector is looked for beside it")
        terminal.enter("/exit")
        assert terminal.end() == 0


def test_a_model_that_cannot_see_goes_on_without_the_pictures(home: Path, model: Path, png: Path) -> None:
    with opened(home, model, "-f", png) as terminal:
        terminal.enter("what is this")
        terminal.wait_for("cut at the limit")
        terminal.enter("/exit")
        assert terminal.end() == 0
    (model.parent / "mmproj.gguf").unlink()
    with opened(home, model, "-c") as terminal:
        terminal.enter("and now")
        terminal.wait_for(r"\(model\.gguf does not see the pictures of this conversation\)")
        terminal.wait_for("cut at the limit")
        terminal.enter("/exit")
        assert terminal.end() == 0


_SPY = """
import socket, sys
import slmchat.conversation.pictures as pictures
decode = pictures.decode
def spy(data, name):
    try:
        socket.socket()
        print("OPEN", file=sys.stderr)
    except OSError:
        print("SEALED", file=sys.stderr)
    return decode(data, name)
pictures.decode = spy
from slmchat.__main__ import main
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own refusal")
def test_pictures_are_decoded_behind_the_seal(home: Path, model: Path, png: Path, tmp_path: Path) -> None:
    export = tmp_path / "export.json"
    archive = Archive(tmp_path / "else" / "sessions.db")
    export.write_text(archive.export_json(shown(archive, picture()).id))
    archive.close()
    for arguments in (["run", "-m", model, "-n", "1", "-f", png, "what"], ["sessions", "import", export]):
        command = [sys.executable, "-c", _SPY, *map(str, arguments)]
        done = fork_server.run(command, env=environment(home), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "SEALED" in done.stderr
        assert "OPEN" not in done.stderr


def test_an_export_with_pictures_goes_through_the_commands(home: Path, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "else" / "sessions.db")
    text = archive.export_json(shown(archive, picture()).id)
    archive.close()
    done = run_slm("sessions", "import", "-", home=home, stdin=text)
    assert done.code == 0, done.err
    exported = run_slm("sessions", "export", done.out.strip(), "--format", "json", home=home)
    assert json.loads(exported.out)["pictures"] == json.loads(text)["pictures"]
    value = json.loads(text)
    _change(value, "cut")
    assert run_slm("sessions", "import", "-", home=home, stdin=json.dumps(value)).code == 6
