"""A chat in this process: its model is a fake one, its lines come from the test, its words go into a text."""

import io
from pathlib import Path

import pytest
from fake_engine import FakeEngine, Ready

from slmchat import settings as settings_module
from slmchat.catalog.records import Installed, InstalledFile
from slmchat.commands.repl.app import ChatApp, MessageHooks
from slmchat.commands.repl.documents import HOOKS
from slmchat.commands.repl.slash_commands import COMMANDS
from slmchat.models import loader, resolve
from slmchat.models.backend import LocalBackend
from slmchat.options import ChatOptions, GenerationOptions
from slmchat.terminal.console import Console


def chat_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: FakeEngine, editor: object, hooks: MessageHooks = HOOKS
) -> ChatApp:
    """A chat with a home in `tmp_path`; whoever has it closes it. `editor`: in place of the line editor."""
    file = InstalledFile(tmp_path / "m.gguf", None, 1, 1)
    installed = Installed("fake:1b", "Q4_K_M", (file,), "test", "2026-01-01T00:00:00Z")
    monkeypatch.setattr(loader, "start_loading", lambda *_, **__: Ready(engine))
    monkeypatch.setattr(resolve, "find", lambda *_: installed)
    monkeypatch.setattr(ChatApp, "_new_editor", lambda *_given: editor)
    settings = settings_module.load({"SLM_HOME": str(tmp_path / "home")})
    console = Console(io.StringIO(), io.StringIO(), io.StringIO(), {})
    options = GenerationOptions(ctx=4000)
    return ChatApp(LocalBackend(), options, ChatOptions(), settings, console, COMMANDS, hooks)


def said(chat: ChatApp) -> str:
    """What stood on stderr since the last time."""
    stream = chat.console.stderr
    assert isinstance(stream, io.StringIO)
    text = stream.getvalue()
    stream.seek(0)
    stream.truncate()
    return text
