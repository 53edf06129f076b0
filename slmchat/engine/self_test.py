"""llama.cpp tried before it is trusted: whether its fast ways work on this machine, and which of them must be left out.

Knows: how a child process is let try it, what is a fault, in which order less is tried.
Refuses to know: the model (self_test_model.py), when that is worth it and where the verdict is kept (verdicts.py).

llama.cpp chooses kernels by what a processor has: AMX tiles, weights repacked for wide registers, a GPU. A compiler
that gets one of them wrong ends every program at its first token (GCC 12 and AMX: ggml-org/llama.cpp #20824). So a
child process computes some tokens in the plain way and in the fast way. It dies instead of slm; and numbers that
differ by more than rounding are a fault too. Then one feature after the other is left out, until it works.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, field, replace
from pathlib import Path

from slmchat.engine import library, native, self_test_model
from slmchat.engine.limits import ALL, FEATURES, HANGS, LEAST, Attempt, EngineLimits, SelfTestVerdict
from slmchat.interpreter import interpreter
from slmchat.lazy_dataclasses import dataclass

# Tokens of the prompt: more than two tiles of AMX (mmq.cpp: TILE_M * 2 = 32) with a part of a third, past the block of
# queries from which flash attention computes in tiles (ggml-cpu/common.h: GGML_FA_TILE_Q = 64). Then single tokens.
_PROMPT, _TOKENS = 80, 3
_MODEL_PROMPT, _MODEL_TOKENS = 16, 2  # of a real model, which may be large

TOLERANCE = 0.15
"""Root of the mean square of the differences to the plain logits, over that of those. Correct kernels differ by their
order of summation and by how they round activations to 8 bits: 0.024 to 0.031 after these 11 layers (measured with
AVX2: repacking, flash attention, both). A weight type that is computed wrongly gives 0.42 and more, one row in eight
of it 0.23 and more, whichever layer it is (docs/decisions.md)."""

# Seconds for a child; of processor time it may use half as many. All is done in less than one, but a machine that other
# programs keep busy may take many.
_SECONDS = 20.0
_MODEL_SECONDS = 120.0

# Signals by which somebody else ends a process: no word about llama.cpp. The system sends SIGKILL when memory runs out.
_FOREIGN = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")

# And those by which the child ends itself when it takes too long.
_TOO_LONG = ("SIGXCPU", "SIGALRM")

# An abort would start a debugger, which takes seconds. Threads that wait by sleeping instead of spinning do not take
# the processors from each other on a busy machine: 0.9 instead of 2.6 s with a load of 16 on two processors.
_ENVIRONMENT = {"GGML_NO_BACKTRACE": "1", "OMP_WAIT_POLICY": "passive"}

_CHILD = """import json, sys
sys.path[:] = json.loads(sys.argv[1])
from slmchat.engine.self_test_child import main
main()"""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a child ended: the logits that it told, and what ended it early. `is_foreign`: nothing that llama.cpp did."""

    rows: tuple[Sequence[float], ...] = ()
    fault: str = ""
    is_foreign: bool = False


Run = Callable[[Sequence[EngineLimits]], Ending]
"""Compute in a child under each of these limits, one after the other."""


def step_down(run: Run, features: Sequence[str], *, has_reference: bool = True) -> SelfTestVerdict:
    """Which of `features` must be left out. `has_reference`: results are compared with those of the plain way.

    1. everything; 2. everything but one feature, the likeliest fault first; 3. when no single one is at fault: from
    the plain way upwards, whatever can be given back. That is at most eight children.
    """
    start = time.perf_counter()
    ending = run([LEAST, ALL] if has_reference else [ALL])
    reference = None
    if has_reference:
        if not ending.rows:
            return _without_reference(ending, time.perf_counter() - start)
        reference, ending = ending.rows[0], replace(ending, rows=ending.rows[1:])
    search = _Search(run, reference, [])
    try:
        limits = search.largest(ending, features)
    except _Foreign as reason:
        return SelfTestVerdict(attempts=tuple(search.attempts), untried=str(reason))
    return SelfTestVerdict(
        limits or LEAST, tuple(search.attempts), time.perf_counter() - start, is_broken=limits is None
    )


def _without_reference(ending: Ending, seconds: float) -> SelfTestVerdict:
    """Not even the plain way has come to an end."""
    if ending.is_foreign or ending.fault in ("", HANGS):  # a machine that is very busy looks the same
        return SelfTestVerdict(untried=ending.fault or "the child said nothing")
    return SelfTestVerdict(LEAST, (Attempt(LEAST, ending.fault),), seconds, is_broken=True)


class _Foreign(Exception):
    """A child was ended by somebody else: nothing was found out."""


@dataclass(slots=True)
class _Search:
    """The search for the limits that leave most open. `reference`: the plain logits, which are known to come."""

    run: Run
    reference: Sequence[float] | None
    attempts: list[Attempt]

    def largest(self, fast: Ending, features: Sequence[str]) -> EngineLimits | None:
        """What works; None: nothing. `fast` is what came of trying everything. Raises `_Foreign`."""
        if self._judge(ALL, fast):
            return ALL
        for feature in features:
            if self._works(ALL.without(feature)):
                return ALL.without(feature)
        found = ALL
        for feature in features:
            found = found.without(feature)
        if self.reference is None and not self._works(found):
            return None
        for feature in reversed(features):
            if self._works(found.with_(feature)):
                found = found.with_(feature)
        return found

    def _works(self, limits: EngineLimits) -> bool:
        known = next((attempt for attempt in self.attempts if attempt.limits == limits), None)
        return not known.fault if known is not None else self._judge(limits, self.run([limits]))

    def _judge(self, limits: EngineLimits, ending: Ending) -> bool:
        if ending.is_foreign:
            raise _Foreign(ending.fault)
        fault = ending.fault or (_judged(ending.rows[0], self.reference) if ending.rows else "says nothing")
        self.attempts.append(Attempt(limits, fault))
        return not fault


def _judged(row: Sequence[float], reference: Sequence[float] | None) -> str:
    """What is wrong with these logits; empty: nothing."""
    if not all(map(math.isfinite, row)):
        return "computes no numbers (NaN or infinite)"
    if reference is None:
        return ""
    found = deviation(row, reference)
    return f"computes wrongly (off by {found:.0%})" if found > TOLERANCE else ""


def deviation(row: Sequence[float], reference: Sequence[float]) -> float:
    """How far these logits are from the plain ones: 0 is equal, 1 has nothing to do with them."""
    if len(row) != len(reference):
        return math.inf
    scale = math.fsum(value * value for value in reference) or 1.0
    return math.sqrt(math.fsum((a - b) ** 2 for a, b in zip(row, reference, strict=True)) / scale)


def try_library(threads: int) -> SelfTestVerdict:
    """Try the library in use with slm's own tiny model."""
    with _directory() as directory:
        if directory is None:
            return SelfTestVerdict(untried="there is no place for a temporary file")
        model = Path(directory, "tiny.gguf")
        try:
            self_test_model.write_model(model)
        except OSError as error:
            return SelfTestVerdict(untried=f"the temporary file cannot be written: {error.strerror}")
        return step_down(_runner(model, threads, (_PROMPT, _TOKENS), _SECONDS), features_here(threads))


def try_model(model: Path, threads: int, at_fault: EngineLimits | None, within: EngineLimits = ALL) -> SelfTestVerdict:
    """Try a model that has ended slm, without comparing numbers: with everything, then with less.

    `at_fault`: limits under which it has crashed although it had passed this test; at least one feature less is tried.
    `within`: what is left out in any case; the verdict names only what must be left out besides.
    """
    compute = _runner(model, threads, (_MODEL_PROMPT, _MODEL_TOKENS), _MODEL_SECONDS)

    def run(limits: Sequence[EngineLimits]) -> Ending:
        return compute([each.both(within) for each in limits])

    features = tuple(name for name in features_here(threads) if name not in within.forbidden)
    if at_fault is None:
        return step_down(run, features, has_reference=False)
    start, limits, attempts = time.perf_counter(), at_fault, [Attempt(at_fault, "crashes")]
    for feature in (name for name in features if name not in at_fault.forbidden):
        limits = limits.without(feature)
        ending = run([limits])
        if ending.is_foreign:
            return SelfTestVerdict(at_fault, tuple(attempts), untried=ending.fault)
        attempts.append(Attempt(limits, ending.fault or _judged(ending.rows[0], None)))
        if not attempts[-1].fault:
            return SelfTestVerdict(limits, tuple(attempts), time.perf_counter() - start)
    return SelfTestVerdict(limits, tuple(attempts), time.perf_counter() - start, is_broken=True)


def features_here(threads: int) -> tuple[str, ...]:
    """What can be left out on this machine."""
    missing = {"has_gpu"} if not native.has_gpu_backend() else set()
    if threads == 1:
        missing.add("has_threads")
    return tuple(name for name in FEATURES if name not in missing)


@contextlib.contextmanager
def _directory() -> Iterator[str | None]:
    """A temporary directory, which is open to writing behind the seal as well; None: there is none."""
    try:
        made = tempfile.TemporaryDirectory(prefix="slm-self-test-", ignore_cleanup_errors=True)
    except OSError:
        yield None
        return
    with made as name:
        yield name


def _runner(model: Path, threads: int, tokens: tuple[int, int], seconds: float) -> Run:
    def run(limits: Sequence[EngineLimits]) -> Ending:
        job = {
            "model": str(model),
            "threads": threads,
            "prompt": tokens[0],
            "tokens": tokens[1],
            "seconds": seconds,
            "runs": [asdict(each) for each in limits],
        }
        return in_child(json.dumps(job), seconds)

    return run


@dataclass(slots=True)
class _Heard:
    has_begun: bool = False
    is_loaded: bool = False
    error: str = ""
    rows: list[Sequence[float]] = field(default_factory=list)


def in_child(job: str, seconds: float) -> Ending:
    """Let a child do this job; it is ended after so many seconds. It inherits the seal."""
    program = interpreter()
    if program is None:
        return Ending(fault="no Python can be started from this program", is_foreign=True)
    # the child loads the library first: it may be one that ends, or holds up, whoever loads it
    roots = [str(Path(__file__).parents[2]), str(library.packages() or ""), *sys.path]
    try:
        done = subprocess.run(
            [program, "-I", "-S", "-c", _CHILD, json.dumps([root for root in roots if root])],
            input=(job + "\n").encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
            env={**os.environ, **_ENVIRONMENT},
            start_new_session=sys.platform != "win32",  # Ctrl-C is not meant for it, and would look like a crash
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        out, ending = done.stdout, _ended(done.returncode)
    except subprocess.TimeoutExpired as late:
        out, ending = late.stdout or b"", HANGS
    except OSError as error:
        return Ending(fault=f"no process can be started: {error.strerror}", is_foreign=True)
    heard = _heard(out)
    if not heard.has_begun or (heard.error and not heard.is_loaded):  # a library that is refused is told by whom it is
        return Ending(fault=heard.error or ending or "the child did not start", is_foreign=True)
    fault = heard.error or ending
    if ending == HANGS and not heard.is_loaded:
        fault = "hangs while it is loaded"
    return Ending(tuple(heard.rows), fault, is_foreign=any(name in fault for name in _FOREIGN))


def _ended(code: int) -> str:
    if code == 0:
        return ""
    if code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            return HANGS if name in _TOO_LONG else f"crashes ({name})"
        return f"crashes (signal {-code})"
    return f"crashes (0x{code:X})" if code > 0xFF else f"ends with code {code}"


def _heard(out: bytes) -> _Heard:
    """What the child told; a line that was cut short, or was written by the library, is none of it."""
    heard = _Heard()
    for line in out.splitlines():
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if isinstance(answer, dict):
            heard.has_begun = heard.has_begun or "begins" in answer
            heard.is_loaded = heard.is_loaded or "library" in answer
            heard.error = heard.error or str(answer.get("error", ""))
            if isinstance(answer.get("logits"), list):
                heard.rows.append(answer["logits"])
    return heard
