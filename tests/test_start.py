"""What a start does without: the modules behind the prompt of a chat, OpenSSL, patterns that nothing is looked for with."""

import hashlib
import importlib
import pkgutil
import re
import subprocess
import sys

import pytest

import slmchat
from slmchat.file_hashes import short_sha256
from slmchat.lazy_patterns import LazyPattern, lazy_pattern

_BEHIND_THE_PROMPT = (
    *("slmchat.models.loader", "slmchat.engine.api", "slmchat.engine.requests", "slmchat.engine.results"),
    *("slmchat.fit.plan", "slmchat.models.vision"),
)


def _imported_by(*names: str) -> set[str]:
    code = f"import {', '.join(names)}, sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_prompt_of_a_chat_stands_before_anything_that_loads_a_model_is_imported() -> None:
    before = _imported_by(
        *("slmchat.cli", "slmchat.options", "slmchat.commands.repl.command", "slmchat.commands.repl.export_directory"),
        *("slmchat.models.backend", "slmchat.models.warm_server", "slmchat.terminal.early_prompt"),
        *("slmchat.privacy.seal", "slmchat.engine.library"),
    )
    assert before.isdisjoint((*_BEHIND_THE_PROMPT, "_hashlib"))


def test_the_model_of_slm_run_begins_to_load_without_openssl() -> None:
    before = _imported_by(
        "slmchat.cli", "slmchat.commands.run", "slmchat.engine.verdicts", "slmchat.engine.crash_guard"
    )
    assert "_hashlib" not in before


@pytest.mark.parametrize("data", [b"", b"abc", bytes(range(256)) * 40])
def test_a_hash_is_that_of_the_standard_library(data: bytes) -> None:
    assert short_sha256(data) == hashlib.sha256(data).hexdigest()


def test_a_lazy_pattern_finds_what_a_pattern_finds() -> None:
    lazy, usual = lazy_pattern(r"(?P<word>[a-z]+)\d", re.IGNORECASE), re.compile(r"(?P<word>[a-z]+)\d", re.IGNORECASE)
    for text in ("", "A1 b2", "no", "xx9"):
        assert [each["word"] for each in lazy.finditer(text)] == [each["word"] for each in usual.finditer(text)]
        assert bool(lazy.fullmatch(text)) == bool(usual.fullmatch(text))
        assert lazy.sub("-", text) == usual.sub("-", text)
    assert (lazy.pattern, lazy.flags) == (usual.pattern, usual.flags)
    with pytest.raises(AttributeError):
        lazy.find  # type: ignore[attr-defined]  # noqa: B018


def test_every_lazy_pattern_of_slm_can_be_compiled() -> None:
    """A mistake in one would show itself to a user."""
    found = 0
    for module in pkgutil.walk_packages(slmchat.__path__, "slmchat."):
        if module.name.startswith(("slmchat.catalog.", "slmchat.privacy.")) or module.name.count(".") == 1:
            if module.name == "slmchat.__main__":
                continue
            for each in vars(importlib.import_module(module.name)).values():
                if isinstance(each, LazyPattern):
                    re.compile(each._source, each._flags)
                    found += 1
    assert found > 15
