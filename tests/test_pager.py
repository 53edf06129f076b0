"""A saved conversation on a terminal: answers are laid out, and a long one is turned page by page."""

import json
import sys
from pathlib import Path

import pytest
from conftest import run_slm
from terminal import Terminal

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
    pager = tmp_path / "pager"
    pager.write_text('#!/bin/sh\necho "PAGER $LESSHISTFILE"\ncat\n')
    pager.chmod(0o755)
    with Terminal(["sessions", "show", "Planted"], home=planted, env={"PAGER": str(pager)}, lines=20) as terminal:
        assert terminal.end() == 0
    assert "PAGER -" in terminal.everything
    assert "What **is** it?" in terminal.everything  # what a person typed stays as it was typed
    assert "It is bold.\n" in terminal.everything and "• one more" in terminal.everything
    with Terminal(["sessions", "show", "Planted"], home=planted, env={"PAGER": str(pager)}, lines=90) as terminal:
        assert terminal.end() == 0
    assert "PAGER" not in terminal.everything


def test_ctrl_c_is_the_pagers(planted: Path, tmp_path: Path) -> None:
    """A pager may take its time for it (`less` ends a search), and has its own modes of the terminal to give back."""
    pager = tmp_path / "pager"
    pager.write_text(
        "#!/bin/sh\nstty -echo < /dev/tty\ntrap 'sleep 1; echo heard' INT\ncat > /dev/null\necho turning\n"
        'while ! read -r line < /dev/tty; do :; done\nstty echo < /dev/tty\necho "left by $line"\n'
    )
    pager.chmod(0o755)
    show = ["sessions", "show", "Planted"]
    with Terminal(show, home=planted, env={"PAGER": str(pager)}, lines=20, echo=True) as terminal:
        terminal.wait_for("turning")
        terminal.interrupt()
        terminal.wait_for("heard")
        terminal.press("q\r")
        terminal.wait_for("left by q")
        assert terminal.end() == 0


def test_a_person_is_asked_before_something_is_removed(planted: Path) -> None:
    with Terminal(["sessions", "rm", "Planted"], home=planted) as terminal:
        terminal.wait_for(r"Remove 'Planted' \(2 messages\) for good\? \[y/N\]")
        terminal.press("n\r")
        assert terminal.end() == 2
    with Terminal(["sessions", "rm", "Planted", "--yes"], home=planted) as terminal:
        assert terminal.end() == 0
    assert run_slm("sessions", "list", "--json", home=planted).out == "[]\n"
