"""The programs that are measured: slm and its peers, started as a user starts them.

slm is compiled before, as pip does it: a sealed program cannot keep what it compiles, so that the first starts of an slm
that nobody compiled take half a second more.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slmchat.engine.llama import LlamaEngine

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SLM = (sys.executable, "-m", "slmchat")
PROMPT = "Once upon a time there was a fox who wanted to cross the river."
PEERS = ("llama-bench", "llama-completion", "llama-server")
MODELS = ("smollm2:135m@Q4_1", "gemma3:270m-pt@Q4_K_M")
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _compile() -> None:
    subprocess.run([sys.executable, "-m", "compileall", "-q", ROOT / "slmchat"], check=False, stdout=subprocess.DEVNULL)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of every program that is measured."""
    return {**os.environ, **python_environment(), **(extra or {})}


def python_environment() -> dict[str, str]:
    """What makes Python find this slm, compiled."""
    _compile()
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": paths, "PYTHONPYCACHEPREFIX": ""}


@dataclass(frozen=True)
class Ran:
    """A finished process: wall seconds, peak resident memory in MiB, output."""

    seconds: float
    peak_mib: float
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The JSON object that a peer of this directory prints as its last line on stderr."""
        return json.loads(self.err.splitlines()[-1])


def run(command: Sequence[str], extra: Mapping[str, str] | None = None) -> Ran:
    """Run to the end and measure (POSIX: the memory comes from wait4). Leaves the benchmark when it fails."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment(extra), cwd=tempfile.gettempdir()
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        seconds = time.perf_counter() - start
        out.seek(0)
        err.seek(0)
        unit = 2**20 if sys.platform == "darwin" else 2**10  # getrusage(2): ru_maxrss is in bytes on macOS
        done = Ran(seconds, usage.ru_maxrss / unit, out.read(), err.read())
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(map(str, command))} failed: {done.err}")
    return done


def home() -> Path:
    """The home with the models. Leaves the benchmark when none is named: parts of it change what is cached there."""
    if not os.environ.get("SLM_HOME"):
        raise SystemExit("set SLM_HOME to a home in which both models are installed")
    return Path(os.environ["SLM_HOME"])


@functools.cache
def path_of(model: str) -> str:
    """The file of an installed model."""
    return str(json.loads(run([*SLM, "show", model, "--json"]).out)["path"])


def load_engine(model: str) -> "LlamaEngine":
    """An installed model as slm loads it: without what does not work on this machine, with the faster attention."""
    from slmchat import settings
    from slmchat.engine import llama, verdict_place, verdicts

    verdicts.library(verdict_place.directory(settings.paths_of(os.environ).cache))
    return llama.load(Path(path_of(model)))


@functools.cache
def _plain() -> tuple[str, ...]:
    """Options for one token at a time, where slm can do otherwise: speculation has a benchmark of its own."""
    return ("--speculation", "off") if "--speculation" in run([*SLM, "run", "--help"]).out else ()


def slm_run(model: str, n_tokens: int, *more: str, prompt: str = PROMPT) -> list[str]:
    """`slm run`, greedy and with every core, so that all programs do the same work."""
    fixed = ("--temp", "0", "-n", str(n_tokens), "--threads", str(THREADS))
    return [*SLM, "run", "-m", model, *fixed, *_plain(), *more, prompt]


def slm_rate(model: str, n_tokens: int, *more: str) -> float:
    """Generation tokens a second that `slm run` reports: N tokens are N - 1 decodes."""
    done = json.loads(run(slm_run(model, n_tokens, "--json", *more)).out)
    assert done["usage"]["completion_tokens"] == n_tokens, "the model ended its turn early"
    return float(done["timings"]["generation_tps"]) * (n_tokens - 1) / n_tokens


def bare_loop(model: str, n_tokens: int, n_ctx: int = 512) -> list[str]:
    return [
        *(sys.executable, str(HERE / "bare_loop.py"), path_of(model)),
        *(str(n_tokens), str(THREADS), PROMPT, str(n_ctx)),
    ]


def bare_rate(model: str, n_tokens: int, n_ctx: int = 512) -> float:
    return float(run(bare_loop(model, n_tokens, n_ctx)).result["tps"])


def high_level_rate(model: str, n_tokens: int, message: str, n_ctx: int) -> float:
    """llama-cpp-python's create_chat_completion(stream=True)."""
    program = [sys.executable, str(HERE / "high_level.py"), path_of(model)]
    return float(run([*program, str(n_tokens), str(THREADS), message, str(n_ctx)]).result["tps"])


def llama_bench_rate(program: str, model: str, n_tokens: int) -> float:
    command = [program, "-m", path_of(model), "-p", "0", "-n", str(n_tokens), "-t", str(THREADS), "-r", "1"]
    return float(json.loads(run([*command, "-o", "json"]).out)[0]["avg_ts"])
