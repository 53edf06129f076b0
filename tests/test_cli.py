"""The door: help, usage errors, what is imported, settings."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome, environment
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama

pytestmark = pytest.mark.real

HEAVY = ("llama_cpp", "numpy", "jinja2", "huggingface_hub", "prompt_toolkit", "rich", "psutil", "tomlkit", "pygments")


def test_nothing_heavy_is_imported_by_the_door(home: Path) -> None:
    code = "import sys, slmchat.cli; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(home), check=True
    )
    assert not set(HEAVY) & set(done.stdout.split())


def test_a_chat_without_documents_imports_nothing_that_reads_them() -> None:
    """The prompt waits for every import."""
    code = "import sys, slmchat.commands.repl.command, slmchat.commands.repl.slash_commands; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "slmchat.commands.repl.documents" in done.stdout.split()
    assert "slmchat.retrieval" not in done.stdout.split()


def test_the_weights_are_read_before_what_answers_is_imported(home: Path, tmp_path: Path) -> None:
    """llama.cpp needs no interpreter while it reads: what Python imports then takes no time of its own."""
    model = write_tiny_llama(tmp_path / "tiny.gguf", chat_template=CHATML_TEMPLATE)
    code = (
        "import sys; from slmchat import cli; from slmchat.models.loader import Loading\n"
        "wait = Loading.wait_until_begun\n"
        "def waited(loading): wait(loading); print(*sys.modules, file=sys.stderr)\n"
        "Loading.wait_until_begun = waited\n"
        f"sys.exit(cli.run_cli(['run', '-m', {str(model)!r}, '--temp', '0', '-n', '2', 'hello']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(home), check=True
    )
    imported = set(done.stderr.split())
    assert {"llama_cpp.llama_cpp", "slmchat.engine.llama", "slmchat.commands.run"} <= imported
    late = {"jinja2", "socket", "secrets", "slmchat.commands.run_answer", "slmchat.engine.session"}
    late |= {"slmchat.generation.generator", "slmchat.generation.structured", "slmchat.conversation.template"}
    assert not late & imported
    assert len({name for name in imported if name.startswith("slmchat")}) < 153  # some come beside it, by chance


def test_the_bindings_come_without_the_package_around_them(home: Path) -> None:
    code = "import sys; from slmchat.engine import native; native.bindings(); print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(home), check=True
    )
    assert "llama_cpp.llama_cpp" in done.stdout.split()
    assert not {"numpy", "jinja2", "llama_cpp.llama"} & set(done.stdout.split())


def test_version(slm: Callable[..., Outcome]) -> None:
    from slmchat import __version__

    assert slm("--version") == Outcome(0, f"slm {__version__}\n", "")


def test_without_arguments_in_a_pipe_help_and_exit_2(slm: Callable[..., Outcome]) -> None:
    done = slm()
    assert done.code == 2
    assert done.out.startswith("Usage: slm ")


def test_chat_in_a_pipe_is_a_usage_error(slm: Callable[..., Outcome]) -> None:
    done = slm("chat", stdin="hello")
    assert (done.code, done.out) == (2, "")
    assert "slm run" in done.err


@pytest.mark.parametrize(
    ("arguments", "says", "hint"),
    [
        (["fly"], "slm: no such command 'fly'.", "hint: slm --help"),
        (["pull"], "slm: missing argument", "hint: slm pull --help"),
        (["run", "--ctx", "x"], "slm: invalid value for '--ctx'", "hint: slm run --help"),
    ],
)
def test_usage_errors_are_a_sentence_and_a_hint(
    slm: Callable[..., Outcome], arguments: list[str], says: str, hint: str
) -> None:
    done = slm(*arguments)
    first, second = done.err.splitlines()
    assert (done.code, done.out, second) == (2, "", hint)
    assert first.lower().startswith(says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("temperature = 1", "there is no setting 'temperature'"),
        ("ctx = 'many'", "'ctx' must be a whole number of at least 16"),
        ("threads = 0", "'threads' must be a whole number of at least 1"),
        ("kv-type = 'f64'", "'kv-type' must be one of f16, q8_0, q4_0"),
        ("sampler = { heat = 1 }", "'sampler' has no setting 'heat'"),
        ("offline = 'perhaps'", "'offline' must be true or false"),
        ("= 1", "cannot be read"),
    ],
)
def test_mistakes_in_the_config_name_file_key_and_reason(
    slm: Callable[..., Outcome], home: Path, content: str, says: str
) -> None:
    file = home / "config" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    done = slm("list")
    assert done.code == 2
    assert str(file) in done.err
    assert says in done.err


def test_environment_over_config_over_defaults(home: Path) -> None:
    from slmchat import settings

    home.joinpath("config").mkdir(parents=True)
    home.joinpath("config", "config.toml").write_text('model = "a"\nthreads = 3\nsampler = { top_k = 5 }\n')
    environ = {"SLM_HOME": str(home), "SLM_MODEL": "b", "SLM_OFFLINE": "1"}
    found = settings.load(environ, threads=4, n_ctx=None)
    assert (found.model, found.threads, found.is_offline, found.n_ctx) == ("b", 4, True, None)
    assert found.sampler == {"top_k": 5.0}
    with pytest.raises(Exception, match="SLM_THREADS must be a whole number"):
        settings.load({**environ, "SLM_THREADS": "two"})


def test_a_bug_is_a_sentence_and_only_debug_shows_the_traceback(home: Path, tmp_path: Path) -> None:
    code = (
        "import sys, slmchat.commands.models as models\n"
        "def broken(*a, **k): raise RuntimeError('boom')\n"
        "models.list_models = broken\n"
        "from slmchat.cli import run_cli; sys.exit(run_cli(['list']))"
    )

    def run(**env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment(home, env), check=False
        )

    quiet, loud = run(), run(SLM_DEBUG="1")
    assert quiet.returncode == loud.returncode == 1
    assert quiet.stderr.startswith("slm: an error of slm's own: RuntimeError: boom")
    assert "Traceback" not in quiet.stderr
    assert "Traceback" in loud.stderr


def test_global_options_before_and_after_the_command(slm: Callable[..., Outcome]) -> None:
    for arguments in (["-q", "list"], ["list", "-q"]):
        assert slm(*arguments) == Outcome(0, "", "")
    assert "slm pull" in slm("list").err


def test_only_the_command_that_is_called_is_prepared() -> None:
    """typer prepares the options of all commands otherwise, at every start."""
    from slmchat.cli import program_for, whole_program

    def names(*arguments: str) -> list[str | None]:
        return list(program_for(arguments).commands)

    assert names("--version") == []
    assert names("run", "list", "--help") == ["run"]
    assert names("-q", "--offline", "list") == ["list"]
    assert names("sessions", "list") == ["sessions"]
    for arguments in ((), ("--help",), ("-h", "run"), ("fly",), ("-q",)):
        assert program_for(arguments) is whole_program()
    assert len(whole_program().commands) > 5 and whole_program().commands["sessions"].commands


def test_help_names_every_command_and_a_near_miss_is_answered(slm: Callable[..., Outcome]) -> None:
    shown = slm("-h", "run").out
    assert "chat" in shown and "sessions" in shown
    assert slm("-q", "--version").out.startswith("slm ")
    assert slm("sessions", "--help").code == 0
