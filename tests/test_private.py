"""`--private`: no core dump, no file, no program started; real processes, a tiny model."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import environment, run_slm
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama
from terminal import Terminal

pytestmark = pytest.mark.real

REPOSITORY = Path(__file__).parents[1]
SECRET = "Zwiebelkuchen at the lighthouse"

# Seals as `run` and `chat` do, and tells what is left of core dumps. argv: home, whether private, user id or -1.
_DUMPS = """
import ctypes, hashlib, json, os, resource, sys
import tempfile  # the seal needs it, and another user may not read this Python
from pathlib import Path
from slmchat import settings
from slmchat.models import sandbox
from slmchat.privacy import dumps
from slmchat.privacy.seal import status
home, is_private, user = sys.argv[1], sys.argv[2] == "1", int(sys.argv[3])
libc = ctypes.CDLL(None)
PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4
from slmchat.engine import native
resolved = settings.load({"SLM_HOME": home}, is_private=is_private)
if user >= 0:
    os.setgid(user)
    os.setuid(user)
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
before = libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)
sandbox.seal(resolved)
print(json.dumps({
    "before": before,
    "dumpable": libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0),
    "limit": list(resource.getrlimit(resource.RLIMIT_CORE)),
    "is_closed": status().is_closed and status().is_local_closed,
    "unsealed": [
        task.name for task in Path("/proc/self/task").iterdir()
        if "Seccomp:\\t2" not in (task / "status").read_text()
    ],
    "descriptors": len(os.listdir("/proc/self/fd")) > 2,
}))
"""


def _lets_in(user: int) -> bool:
    """Whether somebody else than root reaches this Python and this checkout: both may lie in root's own directory."""
    code = (
        f"import os; os.setgid({user}); os.setuid({user}); open(os.devnull).close(); "
        f"[os.listdir(place) for place in (os.path.dirname(os.__file__), {str(REPOSITORY)!r})]"
    )
    return subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL, check=False).returncode == 0


linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_llama(
        tmp_path / "tiny.gguf", chat_template=CHATML_TEMPLATE, extra_control_tokens=("<|im_start|>", "<|im_end|>")
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory that stands for everything that slm may write to: HOME, SLM_HOME, TMPDIR, the current directory."""
    directory = tmp_path / "place"
    for name in ("home", "slm", "tmp"):
        (directory / name).mkdir(parents=True)
    return directory


def _environment(place: Path) -> dict[str, str]:
    own = {"HOME": str(place / "home"), **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(place / "tmp"))}
    return {**own, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(REPOSITORY)}


def _files(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def _dumps(home: Path, *, is_private: bool, user: int = -1) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", _DUMPS, str(home), str(int(is_private)), str(user)],
        env={**environment(home), "PYTHONPATH": str(REPOSITORY)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@linux_only
def test_a_private_process_cannot_be_dumped(home: Path) -> None:
    found = _dumps(home, is_private=True)
    assert (found["before"], found["dumpable"], found["limit"]) == (1, 0, [0, 0])
    assert found["is_closed"] and found["unsealed"] == [] and found["descriptors"]


@linux_only
def test_a_process_that_is_not_private_stays_as_it_was(home: Path) -> None:
    found = _dumps(home, is_private=False)
    assert (found["before"], found["dumpable"]) == (1, 1)


@linux_only
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else")
def test_the_seal_and_the_mark_hold_for_an_ordinary_user_too(home: Path) -> None:
    if not _lets_in(65534):
        pytest.skip("this Python, or this checkout, is out of an ordinary user's reach")
    found = _dumps(home, is_private=True, user=65534)
    assert (found["before"], found["dumpable"], found["limit"]) == (1, 0, [0, 0])
    assert found["is_closed"] and found["unsealed"] == [] and found["descriptors"]


@pytest.mark.parametrize("is_by_variable", [False, True])
def test_a_private_run_leaves_no_file_and_starts_no_program(place: Path, tiny: Path, is_by_variable: bool) -> None:
    """An audit hook counts the programs that Python starts; the prompt comes on stdin, where no other user sees it."""
    started = "subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.spawn"
    code = (
        "import sys\n"
        "found = []\n"
        f"sys.addaudithook(lambda event, _: found.append(event) if event in {started!r} else None)\n"
        "from slmchat.cli import run_cli\n"
        "code = run_cli(sys.argv[1:])\n"
        "sys.exit(code or (f'started {found}' if found else 0))\n"
    )
    extra = {"SLM_PRIVATE": "1"} if is_by_variable else {}
    before = _files(place)
    done = subprocess.run(
        [sys.executable, "-c", code, *([] if is_by_variable else ["--private"]), "run", "-m", str(tiny), "-n", "5"],
        input=SECRET,
        env={**environment(place / "slm", {**_environment(place), **extra})},
        cwd=place,  # the current directory stays writable behind the seal: only slm itself keeps from writing here
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    assert _files(place) == before


def test_a_run_that_is_not_private_leaves_a_file(place: Path, tiny: Path) -> None:
    """So that the test above can fail."""
    before = _files(place)
    done = run_slm("run", "-m", tiny, "-n", "5", SECRET, home=place / "slm", env=_environment(place))
    assert done.code == 0, done.err
    assert _files(place) != before


@linux_only
def test_private_in_the_middle_of_a_chat_switches_core_dumps_off(home: Path, tiny: Path) -> None:
    with Terminal(["chat", tiny, "-n", "3"], home=home, env={"PYTHONPATH": str(REPOSITORY)}) as terminal:
        terminal.wait_for(r"\n> ?(\n|$)")
        assert "Max core file size" in _limits(terminal.child.pid)
        terminal.enter("/private")
        terminal.wait_for("nothing is written")
        row = next(line for line in _limits(terminal.child.pid).splitlines() if line.startswith("Max core file size"))
        assert row.split()[4:6] == ["0", "0"]


def _limits(pid: int) -> str:
    return Path(f"/proc/{pid}/limits").read_text()


needs_modes = pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@needs_modes
def test_what_others_could_read_is_the_owners_alone_after_the_next_command(home: Path) -> None:
    wide = {
        **{home / name: 0o755 for name in ("data", "config", "cache", "data/models")},
        home / "data" / "sessions.db": 0o644,
        home / "data" / "sessions.db-wal": 0o666,
        home / "data" / "input-history": 0o640,
        home / "data" / "models" / "tiny.json": 0o644,
        home / "config" / "models.toml": 0o664,
    }
    for path, mode in wide.items():
        path.mkdir(parents=True) if mode == 0o755 else path.touch()
    for path, mode in wide.items():
        path.chmod(mode)
    done = run_slm("-v", "list", home=home)
    assert {path: oct(_mode(path)) for path in wide} == {
        path: "0o700" if mode == 0o755 else "0o600" for path, mode in wide.items()
    }
    assert f"{home / 'data'} could be read by others; now it is yours alone" in done.err


@needs_modes
@pytest.mark.skipif(os.name != "posix", reason="Windows has no such permissions")
def test_the_directory_of_slm_home_becomes_the_owners_alone(home: Path, tmp_path: Path) -> None:
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    run_slm("list", home=home)
    assert home.stat().st_mode & 0o777 == 0o700
    for shared, mode in ((tmp_path / "me", 0o755), (tmp_path / "tmp", 0o1777)):  # a home directory, one like /tmp
        shared.mkdir()
        shared.chmod(mode)
        run_slm("list", home=shared, env={"HOME": str(tmp_path / "me")})
        assert shared.stat().st_mode & 0o7777 == mode


def test_a_link_and_a_model_file_keep_their_permissions(home: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    weights = home / "data" / "models" / "model.gguf"
    weights.parent.mkdir(parents=True)
    weights.touch()
    for path in (elsewhere, weights):
        path.chmod(0o644)
    (home / "data" / "last-model").symlink_to(elsewhere)
    assert run_slm("list", home=home).code == 0
    assert (_mode(elsewhere), _mode(weights)) == (0o644, 0o644)


@needs_modes
def test_records_that_nobody_can_reach_are_not_looked_at_one_by_one(home: Path) -> None:
    """Every command asks, and there may be a thousand."""
    from slmchat import settings

    models = home / "data" / "models"
    models.mkdir(parents=True)
    record = models / "tiny.json"
    record.touch()
    paths = settings.load({"SLM_HOME": str(home)}).paths
    models.chmod(0o750)
    assert record in set(paths.private())
    models.chmod(0o700)
    assert record not in set(paths.private())
