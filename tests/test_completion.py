"""Completion: what could stand next, and the real shells that ask for it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome, environment
from terminal import Terminal

from slmchat import settings
from slmchat.catalog import registry
from slmchat.catalog.library import Library
from slmchat.catalog.records import Installed, InstalledFile
from slmchat.commands.completion import complete, split_line

ROOT = Path(__file__).resolve().parent.parent


def _install(home: Path, name: str, quantization: str = "Q4_1", title: str = "A model") -> None:
    paths = settings.load({"SLM_HOME": str(home)}).paths
    file = InstalledFile(paths.models / "weights.gguf", None, 1, 1)
    made = Installed(name, quantization, (file,), "test", "2026-01-01T00:00:00+00:00", title=title)
    Library(paths).admit(made)


@pytest.fixture
def offered(home: Path) -> Callable[[str], list[str] | str]:
    """The values that are offered for a line up to the cursor."""
    from slmchat import cli

    def ask(line: str) -> list[str] | str:
        words, incomplete = split_line(line)
        found = complete(
            cli.program_to_complete(words),
            words,
            incomplete,
            lambda: settings.load({"SLM_HOME": str(home)}),
        )
        return found if isinstance(found, str) else [one.value for one in found]

    return ask


Offered = Callable[[str], list[str] | str]


def test_commands_and_options(offered: Offered) -> None:
    assert offered("slm ru") == ["run"]
    assert "__complete" not in offered("slm ") and {"pull", "chat", "sessions"} <= set(offered("slm "))
    assert offered("slm sessions re") == ["rename"]
    assert offered("slm run --extract") == ["--extract", "--extract-last"]
    assert offered("slm -q --offline show --js") == ["--json"]
    assert {"run", "sessions"} <= set(offered("slm help ")) and offered("slm --quiet help ru") == ["run"]
    assert offered("slm help sessions re") == ["rename"] and "--help" in offered("slm help --")
    assert offered("slm fly ") == [] == offered("slm fly away")


def test_installed_models_where_a_model_is_wanted(offered: Offered, home: Path) -> None:
    _install(home, "smollm2:135m")
    _install(home, "gemma3:1b", "Q4_K_M")
    _install(home, "gemma3:1b", "Q8_0")
    every = ["gemma3:1b", "gemma3:1b@Q4_K_M", "gemma3:1b@Q8_0", "smollm2:135m"]
    for line in (
        "chat ",
        "show ",
        "rm ",
        "rm smollm2:135m ",
        "verify ",
        "bench ",
        "run -m ",
        "run --model ",
        "batch --draft ",
    ):
        assert offered(f"slm {line}") == every, line
    assert offered("slm run --temp 0 -m g") == every[:3]
    assert offered("slm run --model=s") == ["--model=smollm2:135m"]
    assert offered("slm chat -v g") == every[:3]  # a flag takes no value
    assert offered("slm chat smollm2:135m ") == []  # there is one model
    assert offered("slm run ") == []  # a prompt is the user's own
    assert offered("slm chat -- -") == []


def test_the_catalog_where_a_model_is_pulled(offered: Offered) -> None:
    assert offered("slm pull smollm2:1") == ["smollm2:1.7b", "smollm2:135m"]
    assert offered("slm pull gemma3:1b phi4-m") == ["phi4-mini", "phi4-mini-reasoning"]


def test_the_quick_reading_of_the_catalog_finds_what_the_whole_one_has() -> None:
    assert registry.catalog_titles() == {name: spec.title for name, spec in registry.load().models.items()}


def test_personas_choices_and_files(offered: Offered, home: Path) -> None:
    (home / "config").mkdir(parents=True)
    (home / "config" / "config.toml").write_text('[personas.transcriber]\nsystem = "Write it down."\n')
    assert offered("slm run -p trans") == ["translator", "transcriber"]
    assert offered("slm run --speculation ") == ["auto", "always", "off"]
    assert offered("slm run --kv-type q") == ["q8_0", "q4_0"]
    assert offered("slm eval --task m") == ["mathematics", "mmlu-pro"]
    assert offered("slm run -n ") == []
    assert offered("slm completion f") == ["fish"]
    for line in ("run -f ", "run -o ", "add name ", "batch --template-file ./t", "sessions import "):
        assert offered(f"slm {line}") == "files", line


def test_a_line_that_is_not_finished() -> None:
    assert split_line('slm run "what is') == (["run", "what"], "is")
    assert split_line("slm run ") == (["run"], "")
    assert split_line("slm") == ([], "slm") or split_line("slm")[0] == []
    assert split_line("") == ([], "")


def test_a_name_that_a_shell_would_obey_is_not_offered(offered: Offered, home: Path) -> None:
    for name in ("$(touch x)", "a;b", "a b", "`x`", "fine", "a\x1b[31m"):
        _install(home, name)
    assert offered("slm chat ") == ["fine"]


@pytest.mark.real
class TestProgram:
    def test_what_the_scripts_read(self, slm: Callable[..., Outcome], home: Path) -> None:
        _install(home, "smollm2:135m", title="Smol\tLM\n\x1b[31m2")
        assert slm("__complete", "--", "chat", "s") == Outcome(0, "words\nsmollm2:135m\tSmol LM 2\n", "")
        assert slm("__complete", "--line", "slm run -f ") == Outcome(0, "files\n", "")

    def test_it_imports_nothing_heavy_and_writes_nothing(self, home: Path) -> None:
        code = (
            "import sys; from slmchat.cli import run_cli; run_cli(['__complete', '--', 'chat', '']); "
            "print(*sys.modules, file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment(home), check=True, timeout=300
        )
        heavy = {"rich", "jinja2", "llama_cpp", "numpy", "prompt_toolkit", "huggingface_hub", "psutil", "sqlite3"}
        assert not heavy & {name.partition(".")[0] for name in done.stderr.split()}
        assert not home.exists()

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell", "pwsh"])
    def test_a_script_for_each_shell(self, slm: Callable[..., Outcome], shell: str) -> None:
        done = slm("completion", shell)
        assert (
            done.code == 0
            and "__complete" in done.out
            and f"slm completion {shell.replace('pwsh', 'powershell')}" in done.out
        )

    def test_a_shell_that_slm_does_not_know(self, slm: Callable[..., Outcome]) -> None:
        done = slm("completion", "tcsh")
        assert (done.code, done.out) == (2, "") and "bash, zsh, fish, powershell" in done.err

    @pytest.mark.parametrize(
        ("shell", "setup"),
        [
            (["bash", "--norc", "--noprofile"], "stty echo; source <(slm completion bash)"),
            (["zsh", "-f"], 'autoload -U compinit; compinit -D -u; eval "$(slm completion zsh)"'),
            (["fish", "--no-config"], "slm completion fish | source"),
        ],
        ids=["bash", "zsh", "fish"],
    )
    def test_a_real_shell(self, home: Path, tmp_path: Path, shell: list[str], setup: str) -> None:
        if shutil.which(shell[0]) is None:
            pytest.skip(f"{shell[0]} is not installed")
        _install(home, "smollm2:135m")
        program = tmp_path / "bin" / "slm"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m slmchat "$@"\n')
        program.chmod(0o755)
        env = {
            "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(tmp_path),
            "PS1": "$ ",
            "PS2": "> ",
        }
        with Terminal(shell[1:], home=home, env=env, program=shell[:1], cwd=tmp_path) as terminal:
            terminal.press(f"{setup}; echo read''y\r")
            terminal.wait_for(r"(?m)^ready\n.*[$#%>]")  # its prompt: before that it would not see a Tab
            for typed, whole in (
                ("slm ch", "slm chat"),
                ("slm chat smo", "slm chat smollm2:135m"),
                ("slm show smollm2:1", "slm show smollm2:135m"),
                ("slm run --extract-l", "slm run --extract-last"),
                ("slm pull phi4-m", "slm pull phi4-mini"),
            ):
                terminal.press(f"{typed}\t")
                terminal.wait_for(re.escape(whole))
                terminal.press("\x05\x15")  # to the end of the line, and away with it
            terminal.press("exit\r")
            terminal.end()
