"""The commands of the chat that take things out of it and put things in, on a pty with a tiny model."""

import base64
import json
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import run_slm
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama
from terminal import Terminal

pytestmark = [pytest.mark.real, pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")]

ANSWER = "Here:\n\n```py\nprint(1)\n```\n\nor\n\n```sh\necho 2\n```\n"

Open = Callable[..., Terminal]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(
        tmp_path_factory.mktemp("model") / "tiny.gguf",
        chat_template=CHATML_TEMPLATE,
        extra_control_tokens=("<|im_start|>", "<|im_end|>"),
        context_length=2048,
    )


@pytest.fixture
def chat(home: Path, model: Path, tmp_path: Path) -> Iterator[Open]:
    opened: list[Terminal] = []

    def call(*options: str) -> Terminal:
        terminal = Terminal(["chat", model, "-n", "4", "--temp", "0", *options], home=home, cwd=tmp_path)
        opened.append(terminal)
        return terminal

    yield call
    for terminal in opened:
        terminal.__exit__()


def _plant(home: Path, title: str, *texts: str) -> None:
    """A saved conversation: questions and answers in turn."""
    time = "2026-11-20T10:00:00+00:00"
    messages = [
        {"number": number, "parent": number - 1 or None, "role": "assistant" if number % 2 == 0 else "user",
         "text": text, "created_at": time}
        for number, text in enumerate(texts, 1)
    ]  # fmt: skip
    value = {"format": "slm session", "version": 1, "id": "", "title": title, "created_at": time, "updated_at": time,
             "current": len(texts), "messages": messages}  # fmt: skip
    done = run_slm("sessions", "import", "-", home=home, stdin=json.dumps(value))
    assert done.code == 0, done.err


def _messages(home: Path, title: str) -> list[dict[str, str]]:
    exported = run_slm("sessions", "export", title, "--format", "json", home=home)
    assert exported.code == 0, exported.err
    found = json.loads(exported.out)["messages"]
    assert isinstance(found, list)
    return found


def _clipboard(terminal: Terminal) -> list[str]:
    return [base64.b64decode(data).decode() for data in re.findall(r"\x1b\]52;c;([^\x07]*)\x07", terminal.raw)]


def test_answers_and_code_blocks_go_out(chat: Open, home: Path) -> None:
    _plant(home, "Code", "first", "An older answer.", "second", ANSWER)
    terminal = chat("-c")
    terminal.wait_for(r"\n> ?(\n|$)")
    for number, (command, told) in enumerate(
        (
            ("/copy", "The last answer is handed"),
            ("/copy 2", "Answer 2 from the end is handed"),
            ("/copy code", "Code block 2 of 2 is handed"),
            ("/copy code 1", "Code block 1 of 2 is handed"),
        ),
        1,
    ):
        terminal.enter(command)
        terminal.wait_for(told)
        assert len(_clipboard(terminal)) == number
    assert _clipboard(terminal) == [ANSWER, "An older answer.", "echo 2\n", "print(1)\n"]
    terminal.enter("/copy code 3")
    terminal.wait_for("the last answer has 2 code blocks")
    for name in ("one", "one-2"):
        terminal.enter("/save code 1 one.py")
        terminal.wait_for(rf"exports/{name}\.py")
    terminal.enter("/save all.md")
    terminal.wait_for("exports/all.md")
    exports = home / "data" / "exports"
    assert (exports / "one.py").read_text() == (exports / "one-2.py").read_text() == "print(1)\n"
    assert (exports / "all.md").read_text() == ANSWER
    terminal.enter("/save code")
    terminal.wait_for("into which file")


def test_files_are_named_in_the_message_and_by_directory(chat: Open, home: Path, tmp_path: Path) -> None:
    (tmp_path / "src" / "sub").mkdir(parents=True)
    (tmp_path / "src" / "main.py").write_text("print('main')\n")
    (tmp_path / "src" / "sub" / "more.py").write_text("print('more')\n")
    (tmp_path / "src" / "picture.bin").write_bytes(b"a\0b")
    (tmp_path / "src" / ".hidden").write_text("secret")
    terminal = chat()
    terminal.wait_for(r"\n> ?(\n|$)")
    terminal.enter("/file src")
    terminal.wait_for(r"1 file left out[\s\S]*main\.py: 14 characters, \d+ tokens[\s\S]*more\.py: 14 characters")
    terminal.wait_for(r"tokens go along with your next message \([\d,]+ of 2,048 are free\)")
    terminal.enter('/file ""')
    terminal.type("explain @src/ma")
    terminal.wait_for("14 bytes")
    terminal.type("\t")
    terminal.wait_for(r"explain @src/main\.py")
    terminal.enter(" to me@home, please")
    terminal.wait_for(r"main\.py: 14 characters[\s\S]*cut at the limit")
    terminal.enter("/exit")
    terminal.end()
    (said, _answer) = _messages(home, "explain @src/main.py")
    assert "print('main')" in said["text"] and "to me@home" in said["text"]
    assert "secret" not in said["text"]


def test_a_session_is_picked_with_arrows_and_letters(chat: Open, home: Path) -> None:
    _plant(home, "About rivers", "What is a river?", "Water that flows.")
    _plant(home, "About mountains", "What is a mountain?", "A large hill.")
    terminal = chat("--resume")
    terminal.wait_for(r"Go on with which conversation\? \(2 of 2\)")
    terminal.wait_for(r"> About (\w+)  2 messages, \d+ \w+ ago")
    terminal.press("riv")
    terminal.wait_for(r"\(1 of 2\) riv\n> About rivers[\s\S]*> What is a river\?\n  Water that flows\.")
    terminal.press("\x15\x1b[B\x1b[A\x1b[B")
    terminal.wait_for(r"\(2 of 2\)\n  About \w+ [\s\S]*\n> About")
    terminal.press("\x15rivers\r")
    terminal.wait_for(r"About rivers \(2 messages\)\n> What is a river\?\nWater that flows\.")
    assert "Go on with which" not in terminal.text
    terminal.enter("/sessions")
    terminal.wait_for(r"Go on with which")
    terminal.press("\x1b")
    terminal.wait_for(r"\(nothing was chosen\)")


@pytest.mark.skipif(not shutil.which("bash"), reason="needs a shell with job control")
def test_ctrl_z_in_a_list_stops_slm_and_fg_shows_it_again(home: Path, model: Path, tmp_path: Path) -> None:
    _plant(home, "About rivers", "What is a river?", "Water that flows.")
    chat = shlex.join([sys.executable, "-m", "slmchat", "chat", str(model), "--resume"])
    with Terminal(["--norc", "-i"], home=home, program=("bash",), cwd=tmp_path, echo=True) as terminal:
        terminal.press(f"PS1='READY> '; stty -a > before; {chat}\r")
        terminal.wait_for(r"> About rivers  2 messages")
        terminal.press("riv")
        terminal.wait_for(r"\(1 of 1\) riv")
        terminal.press("\x1a")
        terminal.wait_for("Stopped")
        terminal.press("stty -a > stopped; echo all of it\r")
        terminal.wait_for(r"\nall of it")
        terminal.press("fg\r")
        terminal.wait_for(r"all of it[\s\S]*\(1 of 1\) riv")
        terminal.press("\r")
        terminal.wait_for(r"About rivers \(2 messages\)")
        terminal.type("\x04")
        terminal.wait_for(r"READY> ?$")
    assert (tmp_path / "stopped").read_text() == (tmp_path / "before").read_text()


@pytest.mark.parametrize("keys", ["/editor my secret\r", "my secret\x07"], ids=["/editor", "Ctrl-G"])
def test_what_is_in_an_editor_goes_with_the_terminal(keys: str, home: Path, model: Path, tmp_path: Path) -> None:
    """A terminal that is closed ends slm by SIGHUP; the text must not stay in memory or on a disk."""
    editor, told = tmp_path / "editor", home / "data" / "told"
    editor.write_text(f'#!/bin/sh\nprintf "%s" "$1" > "{told}.new"; mv "{told}.new" "{told}"; exec sleep 300\n')
    editor.chmod(0o700)
    with Terminal(["chat", model], home=home, env={"EDITOR": str(editor)}) as terminal:
        terminal.wait_for(r"\n> ?(\n|$)")
        terminal.type(keys)
        terminal.wait_for(told.exists)
        text = Path(told.read_text())
        assert text.read_text() == "my secret\n"
        os.kill(terminal.child.pid, signal.SIGHUP)
        assert terminal.end() == -signal.SIGHUP
    assert not text.parent.exists()


def test_settings_by_the_names_of_the_options_and_back(chat: Open, home: Path) -> None:
    terminal = chat("--seed", "7")
    terminal.wait_for(r"\n> ?(\n|$)")
    for typed, told in (
        ("/set temp 0.5 --save", r"temperature is now 0\.5 and stays so in later chats"),
        ("/set seed none", "seed is as it was without /set"),
        ("/set -n 3", "max_tokens is now 3"),
        ("/set top-k 5", "top_k is now 5"),
        ("/set top_k none", "top_k is as it was"),
        ("/set stop END\\n --save", r"An answer ends at 'END\\n'"),
        ("/set tmep 1", "there is no setting 'tmep'"),
    ):
        terminal.enter(typed)
        terminal.wait_for(told)
    terminal.enter("/set")
    terminal.wait_for(r"seed +a new one each time[\s\S]*kept for later chats: temperature, stop")
    terminal.enter("/exit")
    terminal.end()
    kept = home / "data" / "chat-settings.json"
    assert json.loads(kept.read_text()) == {"temperature": 0.5, "stop": ["END\n"]}
    assert kept.stat().st_mode & 0o777 == 0o600
    later = Terminal(["chat", terminal_model(terminal)], home=home)
    later.wait_for(r"\n> ?(\n|$)")
    later.enter("/set")
    later.wait_for(r"temperature +0\.5[\s\S]*stop +'END\\n'")
    later.enter("/set temp none --save")
    later.wait_for("temperature is as it was")
    later.enter("/set stop none --save")
    later.wait_for("No stop sequence ends an answer")
    later.enter("/exit")
    later.end()
    assert json.loads(kept.read_text()) == {}


def terminal_model(terminal: Terminal) -> str:
    return str(terminal.child.args[terminal.child.args.index(b"chat") + 1].decode())


def test_names_from_other_tools_and_a_lone_exit(chat: Open, home: Path) -> None:
    terminal = chat()
    terminal.wait_for(r"\n> ?(\n|$)")
    terminal.enter("hello")
    terminal.wait_for("cut at the limit")
    terminal.enter("/regen")
    terminal.wait_for(r"answer 2 of 2")
    terminal.enter("/?")
    terminal.wait_for(r"The conversation\n  /retry ")
    terminal.enter("/help quit")
    terminal.wait_for(r"/exit: leave .*\nAlso: /quit, /bye")
    terminal.type("\x1b\x1b")
    terminal.wait_for(r"edit> hello")
    terminal.type("\x03")
    terminal.type("\x03")
    terminal.wait_for("not changed")
    terminal.enter("/new")
    terminal.wait_for("A new conversation")
    terminal.enter("quit")
    terminal.wait_for(r"'quit' by itself:")
    terminal.press("s")
    terminal.wait_for_count("cut at the limit", 3)
    terminal.enter("exit")
    terminal.wait_for(r"'exit' by itself:")
    terminal.press("y")
    assert terminal.end() == 0
