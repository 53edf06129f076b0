"""Where nobody compiled slm when it was installed, it is compiled once, and not behind the seal of each start anew.

An empty place for bytecode (PYTHONPYCACHEPREFIX) is what an installation by uv is: no module has any.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest
from conftest import environment
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama
from terminal import Terminal

from slmchat.privacy import bytecode

needs_landlock = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="elsewhere the seal leaves files alone"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny.gguf", chat_template=CHATML_TEMPLATE)


@pytest.fixture
def uncompiled(tmp_path: Path) -> dict[str, str]:
    return {"PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode")}


def _compiled_by(command: list[str | Path], home: Path, env: dict[str, str]) -> list[str]:
    """The sources that this start of slm had to compile, as Python itself tells."""
    program = [sys.executable, "-v", "-m", "slmchat", *map(str, command)]
    done = subprocess.run(program, env=environment(home, env), capture_output=True, text=True, input="hi", timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    return re.findall(r"^# code object from (\S*\.py)$", done.stderr, re.MULTILINE)


def _lists(home: Path) -> list[Path]:
    return list((home / "cache").glob("uncompiled-*"))


@pytest.mark.real
@needs_landlock
def test_what_is_compiled_behind_the_seal_is_compiled_once(model: Path, home: Path, uncompiled: dict[str, str]) -> None:
    asked: list[str | Path] = ["run", "-m", model, "-n", "2"]
    first = _compiled_by(asked, home, uncompiled)
    second = _compiled_by(asked, home, uncompiled)
    third = _compiled_by(asked, home, uncompiled)
    assert any(name.endswith("jinja2/sandbox.py") for name in first), "no longer imported behind the seal"
    assert len(second) < len(first) / 10, second  # what compiles the rest is imported for the first time
    assert third == []


@pytest.mark.real
@needs_landlock
def test_a_chat_compiles_its_line_editor_once(model: Path, home: Path, uncompiled: dict[str, str]) -> None:
    left = []
    for _ in range(2):
        with Terminal(["chat", model], home=home, env=uncompiled) as terminal:
            terminal.wait_for(r"\ntiny\.gguf · ")
            terminal.type("\x04")
            assert terminal.end() == 0
        left.append([name for file in _lists(home) for name in file.read_text().splitlines()])
    assert any("prompt_toolkit" in name for name in left[0])
    assert set(left[0]).isdisjoint(left[1])  # how far a chat gets before its user leaves is chance


@pytest.mark.real
@needs_landlock
def test_where_nothing_can_be_kept_slm_tries_it_once(model: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    nowhere = {"PYTHONPYCACHEPREFIX": str(tmp_path / "file" / "bytecode")}
    asked: list[str | Path] = ["run", "-m", model, "-n", "2"]
    _compiled_by(asked, home, nowhere)
    assert any(name.endswith("/py_compile.py") for name in _compiled_by(asked, home, nowhere))
    assert not any(name.endswith("/py_compile.py") for name in _compiled_by(asked, home, nowhere))


@pytest.mark.real
@needs_landlock
@pytest.mark.parametrize("wish", ["no bytecode", "private"])
def test_whoever_wants_nothing_written_gets_nothing(
    model: Path, home: Path, uncompiled: dict[str, str], wish: str
) -> None:
    env = {**uncompiled, "PYTHONDONTWRITEBYTECODE": "1"} if wish == "no bytecode" else uncompiled
    private = ["--private"] if wish == "private" else []
    _compiled_by([*private, "run", "-m", model, "-n", "2"], home, env)
    assert _lists(home) == []


@pytest.fixture
def listed(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a sealed process leaves for the next start of this Python; bytecode lies in `bytecode`."""
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "bytecode"))
    (home / "cache").mkdir(parents=True)
    return bytecode._place(home / "cache")


def _made_up(listed: Path, *names: str | Path) -> None:
    listed.write_text("".join(f"{name}\n" for name in names))
    bytecode.make_up(listed.parent)


def _bytecode(source: str | Path) -> Path:
    return Path(importlib.util.cache_from_source(str(source)))


def test_only_sources_that_no_sealed_process_may_write_are_compiled(listed: Path, tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text("import os")
    linked = f"{Path(jinja2.__file__).parent}/../../../../../../../../../../../..{planted}"
    _made_up(listed, planted, linked, "/etc/passwd", "no such file.py", jinja2.__file__)
    assert os.path.samefile(linked, planted)
    assert [_bytecode(each).exists() for each in (planted, linked, jinja2.__file__)] == [False, False, True]
    assert not listed.exists()


@pytest.mark.parametrize("content", [b"\x00\n..\n\n", b"\xff\xfe\x00" * 1000, b"a" * 2_000_000, b""])
def test_a_list_of_anything_does_no_harm(listed: Path, content: bytes) -> None:
    listed.write_bytes(content)
    bytecode.make_up(listed.parent)


def test_a_list_that_is_no_file_does_no_harm(listed: Path) -> None:
    listed.mkdir()
    bytecode.make_up(listed.parent)
    bytecode.make_up(listed.parent / "nowhere")


def test_a_source_that_has_changed_is_compiled_anew(listed: Path) -> None:
    _made_up(listed, jinja2.__file__)
    made = _bytecode(jinja2.__file__)
    head = made.read_bytes()
    made.write_bytes(head[:8] + b"\0\0\0\0" + head[12:])  # the time of an older source
    _made_up(listed, jinja2.__file__)
    assert made.read_bytes() == head
