"""A saved conversation on a terminal: answers are laid out, and a long one is turned page by page."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import run_slm
from terminal import Terminal

from slmchat.terminal import pager
from slmchat.terminal.console import Console
from slmchat.terminal.screen import ControlSequences

pytestmark = [pytest.mark.real, pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")]


@pytest.fixture
def planted(home: Path) -> Path:
    time = "2026-11-20T10:00:00+00:00"
    said = [(None, "user", "What **is** it?"), (1, "assistant", "It is **bold**.\n\n" + "- one more\n" * 40)]
    messages = [
        {"number": number, "parent": parent, "role": role, "text": text, "created_at": time}
        for number, (parent, role, text) in enumerate(said, 1)
    ]
    value = {"format": "slm session", "version": 1, "id": "", "title": "Planted", "created_at": time,
             "updated_at": time, "current": 2, "messages": messages}  # fmt: skip
    assert run_slm("sessions", "import", "-", home=home, stdin=json.dumps(value)).code == 0
    return home


def test_a_long_conversation_goes_through_the_pager(planted: Path, tmp_path: Path) -> None:
    program = tmp_path / "pager"
    program.write_text('#!/bin/sh\necho "PAGER $LESSHISTFILE"\ncat\n')
    program.chmod(0o755)
    with Terminal(["sessions", "show", "Planted"], home=planted, env={"PAGER": str(program)}, lines=20) as terminal:
        assert terminal.end() == 0
    assert "PAGER -" in terminal.everything
    assert "What **is** it?" in terminal.everything  # what a person typed stays as it was typed
    assert "It is bold.\n" in terminal.everything and "• one more" in terminal.everything
    with Terminal(["sessions", "show", "Planted"], home=planted, env={"PAGER": str(program)}, lines=90) as terminal:
        assert terminal.end() == 0
    assert "PAGER" not in terminal.everything


def test_ctrl_c_is_the_pagers(monkeypatch: pytest.MonkeyPatch) -> None:
    """`subprocess` would end it, and the terminal would stay as `less` has set it."""
    done: list[str] = []

    def run(*_command: object, **_options: object) -> None:
        signal.raise_signal(signal.SIGINT)
        done.append("left by q")

    monkeypatch.setattr(pager, "pager_command", lambda _console: ["less"])
    monkeypatch.setattr(subprocess, "run", run)
    pager.show(Console(io.StringIO(), io.StringIO(), io.StringIO(), {"LINES": "5"}), ControlSequences("line\n" * 99))
    assert done == ["left by q"]


def test_a_person_is_asked_before_something_is_removed(planted: Path) -> None:
    with Terminal(["sessions", "rm", "Planted"], home=planted) as terminal:
        terminal.wait_for(r"Remove 'Planted' \(2 messages\) for good\? \[y/N\]")
        terminal.press("n\r")
        assert terminal.end() == 2
    with Terminal(["sessions", "rm", "Planted", "--yes"], home=planted) as terminal:
        assert terminal.end() == 0
    assert run_slm("sessions", "list", "--json", home=planted).out == "[]\n"
