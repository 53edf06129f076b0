"""A sealed process that wants to come back: it may write nowhere where somebody else looks for code."""

import os
import sys
from pathlib import Path

import pytest
from sealed_process import REPOSITORY, in_python, needs_landlock, needs_seccomp, told

from slmchat.errors import ExitCode, SlmError
from slmchat.privacy import writable_paths

# argv: files to write. Seals as a chat does in a project with its environment, as the README lays it out.
_PLANT = """
import os
import sys
from pathlib import Path
from slmchat.commands.repl import export_directory
from slmchat.models import sandbox
from slmchat.settings import load
settings = load(os.environ)
sandbox.seal(settings, writable=(export_directory.export_directory(None, settings),))
import tempfile
for name in sys.argv[1:]:
    try:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        with open(name, "a"):
            pass
        print("written")
    except OSError as error:
        print("refused")
with tempfile.NamedTemporaryFile() as file:
    print(Path(file.name).parent)
"""


@pytest.mark.real
@needs_landlock
@needs_seccomp
@pytest.mark.parametrize("home", ["slm", ".", "project/slm"])
def test_nothing_can_be_planted_for_the_next_program(tmp_path: Path, home: str) -> None:
    """`home`: SLM_HOME, also when it is the home directory itself, and when it is in the project."""
    project = tmp_path / "project"
    refused = (
        *("project/notes.md", "project/.git/hooks/pre-commit", "project/.venv/lib/python3/site-packages/x.pth"),
        *("project/slmchat.py", "project/.envrc", "project/sub/x", ".bashrc", ".config/fish/config.fish", "bin/ls"),
        *(".local/lib/python3/site-packages/x.pth", ".ssh/authorized_keys", "tmp/x"),
    )
    for name in refused:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    own = (f"{home}/data/exports/x.md", f"{home}/data/x", f"{home}/cache/x")
    temporary = {name: str(tmp_path / "tmp") for name in ("TMPDIR", "TEMP", "TMP")}
    env = {**os.environ, "HOME": str(tmp_path), "SLM_HOME": str(tmp_path / home), **temporary}
    done = in_python(_PLANT, *(tmp_path / name for name in (*refused, *own)), cwd=project, env=env)
    lines = told(done).splitlines()
    assert lines[:-1] == ["refused"] * len(refused) + ["written"] * len(own)
    assert lines[-1] == "/dev/shm"


@pytest.mark.real
@needs_landlock
@needs_seccomp
def test_a_place_that_holds_code_is_left_out_and_told(tmp_path: Path) -> None:
    code = """
    from pathlib import Path
    from slmchat.privacy.seal import seal
    root = Path(sys.argv[1])
    sys.path.append(str(root / "deep" / "lib"))
    status = seal(is_required=True, writable=(root,))
    print(root in status.writable, any("it holds code" in line for line in status.details))
    """
    (tmp_path / "deep" / "lib").mkdir(parents=True)
    assert told(in_python(code, tmp_path.resolve())) == "False True"


@pytest.mark.real
@needs_landlock
@needs_seccomp
def test_a_program_names_where_it_writes_before_it_is_sealed(tmp_path: Path) -> None:
    code = """
    import slmchat
    for directory in (".", "~", "missing"):
        try:
            slmchat.seal(writable=[directory])
        except slmchat.SlmError as error:
            print(error.exit_code.name)
    status = slmchat.seal(writable=["results"])
    for name in ("results/a", "b"):
        try:
            open(name, "w").close()
            print("written")
        except PermissionError:
            print("refused")
    """
    (tmp_path / "results").mkdir()
    said = told(in_python(code, cwd=tmp_path, env={**os.environ, "SLM_HOME": str(tmp_path / "home")}))
    assert said.split() == ["USAGE"] * 3 + ["written", "refused"]


def _says(directory: Path) -> str:
    with pytest.raises(SlmError) as caught:
        writable_paths.check_directory(directory, "--export-dir")
    assert caught.value.exit_code is ExitCode.USAGE
    assert caught.value.message.startswith("--export-dir: ") and caught.value.hint
    return caught.value.message


def test_a_directory_for_exports_holds_nothing_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("home/.config/x", "project/.git/hooks", "nested/a/b/.git", "plain/sub", "tools", "env"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "env" / "pyvenv.cfg").touch()
    (tmp_path / "link").symlink_to(tmp_path / "project")
    monkeypatch.setenv("PATH", f"/usr/bin{os.pathsep}{tmp_path / 'tools'}")
    assert "your home directory" in _says(tmp_path / "home")
    assert "your home directory" in _says(tmp_path)
    assert "your home directory" in _says(Path("~"))
    assert "what is hidden" in _says(tmp_path / "home" / ".config" / "x")
    assert "what is hidden" in _says(tmp_path / "project")
    assert "what is hidden" in _says(tmp_path / "link")
    assert "what is hidden" in _says(tmp_path / "nested")
    assert "git repository" in _says(tmp_path / "project" / ".git" / "hooks")
    assert "environment of Python" in _says(tmp_path / "env")
    assert "there is no directory" in _says(tmp_path / "none")
    assert "tools" in _says(tmp_path / "tools")
    assert "code" in _says(REPOSITORY / "slmchat")
    assert "code" in _says(Path(sys.prefix))
    assert "everything" in _says(Path("/"))
    assert writable_paths.check_directory(tmp_path / "plain", "x") == (tmp_path / "plain").resolve()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "plain")])
    assert "code" in _says(tmp_path / "plain")


def test_a_directory_with_too_much_in_it_is_not_one_for_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writable_paths, "_MOST_DIRECTORIES", 3)
    for name in "abc":
        (tmp_path / "many" / name).mkdir(parents=True)
    assert "more than 3 directories" in _says(tmp_path / "many")


@pytest.mark.parametrize(
    "name",
    [
        *(".bashrc", ".BASHRC", ".zshenv", ".inputrc", ".tmux.conf", ".Rprofile", ".gdbinit", ".xsession", ".emacs"),
        *(".ssh/authorized_keys", ".config/zsh/.zshrc", ".vim/plugin/x.vim", ".ipython/profile_default/startup/x.py"),
        *(".local/lib/python3/site-packages/x.pth", ".termux/boot/x", "Library/LaunchAgents/x.plist", "on-path/ls"),
        *("p/.git/hooks/pre-commit", "p/.git/config", "p/.git", "link"),
    ],
)
def test_a_file_that_runs_unasked_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(tmp_path / ".profile")
    (tmp_path / "on-path").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "on-path"), prepend=os.pathsep)
    with pytest.raises(SlmError, match="would run without being asked") as caught:
        writable_paths.check_file(tmp_path / name, "-o")
    assert caught.value.exit_code is ExitCode.USAGE and caught.value.hint


@pytest.mark.parametrize("name", [".gitignore", "notes.md", "p/.github/workflows/ci.yml", "bin/tool.sh", ".bashrc.md"])
def test_other_files_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    writable_paths.check_file(tmp_path / name, "-o")


def test_a_pth_file_is_not_written() -> None:
    import sysconfig

    with pytest.raises(SlmError, match="code"):
        writable_paths.check_file(Path(sysconfig.get_path("purelib"), "x.pth"), "-o")


def test_temporary_files_have_a_directory_of_their_own_where_there_is_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writable_paths, "_MEMORY", tmp_path / "none")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own = tmp_path.resolve() / f"slm-{os.geteuid()}"
    assert writable_paths.temporary_directory() == own and own.stat().st_mode & 0o777 == 0o700
    own.rmdir()
    own.symlink_to(tmp_path)  # somebody else was first
    assert writable_paths.temporary_directory() is None
    own.unlink()
    own.mkdir()
    own.chmod(0o777)
    assert writable_paths.temporary_directory() is None
