"""The first lines of a chat: what somebody should know before a message is written."""

import io
from pathlib import Path

import pytest
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama

from slmchat.catalog.library import from_path
from slmchat.commands.repl.greeting import greet
from slmchat.models.backend import LocalModel
from slmchat.terminal.console import Console


@pytest.mark.parametrize(
    ("template", "is_raw", "is_told"), [(None, False, True), (None, True, False), (CHATML_TEMPLATE, False, False)]
)
def test_a_base_model_is_told_before_the_first_message(
    template: str | None, is_raw: bool, is_told: bool, tmp_path: Path
) -> None:
    err = io.StringIO()
    console = Console(stdin=io.StringIO(), stdout=io.StringIO(), stderr=err, environ={})
    model = LocalModel(from_path(write_tiny_llama(tmp_path / "tiny.gguf", chat_template=template)))
    greet(console, model, is_private=False, is_raw=is_raw)
    assert "/help lists the commands" in err.getvalue()
    assert ("tiny.gguf is a base model" in err.getvalue()) is is_told
    assert ("slm chat --raw" in err.getvalue()) is is_told
