"""Measure `slm run` against llama.cpp's own programs and the bare loop, side by side, as ratios.

Usage: python tests/benchmarks/bench_run.py [--json] [--pairs 5] [MODEL ...]
Models are names or files; by default the two real models of the tests, which must be installed in SLM_HOME.
Peers: llama-bench and llama-completion when they are on the PATH, and always the bare loop of bare_loop.py.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROMPT = "Once upon a time there was a fox who wanted to cross the river."
N_RATE, N_PROCESS = 128, 32
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
SLM = [sys.executable, "-m", "slmchat"]


@dataclass(frozen=True)
class Row:
    """One comparison: the ratio of slm to the peer, its target, and the raw pairs."""

    what: str
    peer: str
    ratio: float
    target: str
    is_met: bool
    slm: list[float]
    other: list[float]


@dataclass(frozen=True)
class Ran:
    """A finished process: wall seconds, peak resident memory in MiB, output."""

    seconds: float
    peak_mib: float
    out: str
    err: str


def run(command: Sequence[str]) -> Ran:
    """Run to the end and measure (POSIX: the memory comes from wait4)."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        out.seek(0)
        err.seek(0)
        done = Ran(seconds, usage.ru_maxrss / 1024, out.read(), err.read())
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)} failed: {done.err}")
    return done


def pairs(n: int, ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Measured alternately, so that what disturbs one disturbs the other."""
    mine: list[float] = []
    others: list[float] = []
    for _ in range(n):
        mine.append(ours())
        others.append(theirs())
    return mine, others


def row(what: str, peer: str, target: float, measured: tuple[list[float], list[float]], *, least: bool) -> Row:
    """The median of pairwise ratios against a target that it must reach (`least`) or not exceed."""
    ratio = statistics.median(a / b for a, b in zip(*measured, strict=True))
    is_met = ratio >= target if least else ratio <= target
    return Row(what, peer, round(ratio, 3), f"{'>=' if least else '<='} {target}", is_met, *measured)


def slm_run(model: str, n: int, *more: str) -> list[str]:
    return [*SLM, "run", "-m", model, "--raw", "--temp", "0", "-n", str(n), "--threads", str(THREADS), *more, PROMPT]


def slm_rate(model: str) -> float:
    return float(json.loads(run(slm_run(model, N_RATE, "--json")).out)["timings"]["generation_tps"])


def bare(path: str, n: int) -> list[str]:
    return [sys.executable, str(HERE / "bare_loop.py"), path, str(n), str(THREADS), PROMPT]


def bare_rate(path: str) -> float:
    return float(json.loads(run(bare(path, N_RATE)).err.splitlines()[-1])["tps"])


def llama_bench_rate(program: str, path: str) -> float:
    command = [program, "-m", path, "-p", "0", "-n", str(N_RATE), "-t", str(THREADS), "-r", "1", "-o", "json"]
    return float(json.loads(run(command).out)[0]["avg_ts"])


def measure(model: str, n: int) -> list[Row]:
    shown = subprocess.run([*SLM, "show", model, "--json"], capture_output=True, text=True, check=True)
    path = json.loads(shown.stdout)["path"]
    rows = [
        row(
            f"{model} generation rate",
            "bare loop",
            0.97,
            pairs(n, lambda: slm_rate(model), lambda: bare_rate(path)),
            least=True,
        )
    ]
    if program := shutil.which("llama-bench"):
        measured = pairs(n, lambda: slm_rate(model), lambda: llama_bench_rate(program, path))
        rows.append(row(f"{model} generation rate", "llama-bench tg128", 0.97, measured, least=True))
    peers = {"bare loop": bare(path, N_PROCESS)}
    if program := shutil.which("llama-completion"):
        peers["llama-completion"] = [
            *(program, "-m", path, "--temp", "0", "-n", str(N_PROCESS), "-t", str(THREADS), "-c", "512"),
            *("-no-cnv", "-p", PROMPT),
        ]
    for peer, command in peers.items():
        measured = pairs(
            n, lambda: run(slm_run(model, N_PROCESS)).seconds, lambda command=command: run(command).seconds
        )  # type: ignore[misc]
        rows.append(row(f"{model} whole process, {N_PROCESS} tokens", peer, 1.25, measured, least=False))
    memory = pairs(2, lambda: run(slm_run(model, N_PROCESS)).peak_mib, lambda: run(bare(path, N_PROCESS)).peak_mib)
    over = statistics.median(a - b for a, b in zip(*memory, strict=True))
    rows.append(Row(f"{model} peak MiB over", "bare loop", round(over, 1), "<= 60", over <= 60, *memory))
    return rows


def version(n: int) -> Row:
    seconds = [run([*SLM, "--version"]).seconds for _ in range(n)]
    middle = statistics.median(seconds)
    return Row("slm --version, seconds", "-", round(middle, 3), "<= 0.12", middle <= 0.12, seconds, [])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=["smollm2:135m@Q4_1", "gemma3:270m-pt@Q4_K_M"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [version(options.pairs), *(row for model in options.models for row in measure(model, options.pairs))]
    if options.json:
        print(json.dumps([asdict(item) for item in rows], indent=2))
    else:
        print("| what | against | measured | target | met |\n|---|---|---|---|---|")
        for item in rows:
            print(f"| {item.what} | {item.peer} | {item.ratio} | {item.target} | {'yes' if item.is_met else 'NO'} |")
    return 0 if all(item.is_met for item in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
