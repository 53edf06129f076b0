"""How fast one llama.cpp library is beside another on this device, with the same model and the same work.

Knows: a child process for each library (a process can load only one), turns that alternate, so that a slow moment of
the machine meets both. Refuses to know: which libraries there are (library.py), how a measurement is made
(throughput.py), what is concluded (models/own_build.py).

The child is this module run as a program: `python -m slmchat.engine.library_comparison`. It reads a line of JSON with
the model and the work, loads the library that `LLAMA_CPP_LIB_PATH` names, says that it is ready, and measures once for
every further line that comes.
"""

import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slmchat.engine.library import VARIABLE, NativeLibrary
from slmchat.engine.throughput import GivenUp, Workload, WorkloadTimes, measure
from slmchat.lazy_dataclasses import dataclass

_TURNS = 3
# After this the children are ended: on a machine that others keep busy a turn can take minutes.
_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """By which factors the second library is faster than the first: for each turn, prompts and generation."""

    prompt: tuple[float, ...]
    generation: tuple[float, ...]

    def in_words(self) -> str:
        """The medians with their spread."""
        told = [
            f"{what} at {statistics.median(found):.2f} times the speed ({min(found):.2f} to {max(found):.2f})"
            for what, found in (("reads prompts", self.prompt), ("generates", self.generation))
        ]
        return " and ".join(told)


class _Child:
    """A process with one of the libraries and the model loaded."""

    def __init__(self, library: NativeLibrary, order: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "slmchat.engine.library_comparison"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, VARIABLE: str(library.path)},
        )
        self._order = json.dumps(order)
        self._is_ready = False

    def measured(self) -> WorkloadTimes | None:
        """The next measurement; None when the process has ended."""
        self._is_ready = self._is_ready or self._ask(self._order) is not None
        answer = self._ask("") if self._is_ready else None
        return None if answer is None else WorkloadTimes(**answer)

    def _ask(self, line: str) -> Any:
        """What the child answers to this line; None when it has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
        except (OSError, ValueError):
            return None

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def compare(
    libraries: tuple[NativeLibrary, NativeLibrary],
    model: Path,
    threads: tuple[int, int],
    tokens: Sequence[int],
    work: Workload,
    is_cancelled: Callable[[], bool],
) -> Comparison | None:
    """The second library beside the first. None when one of them does not get through in time. Raises `GivenUp`.

    `threads`: to generate and to read the prompt. The first measurement of each is not counted.
    """
    order = {"model": str(model), "threads": threads, "tokens": list(tokens), "work": asdict(work)}
    children: list[_Child] = []
    seconds: list[list[WorkloadTimes]] = [[], []]

    def give_up() -> None:
        for child in children:
            child.kill()

    limit = threading.Timer(_LIMIT_S, give_up)
    limit.start()
    try:
        for library in libraries:
            children.append(_Child(library, order))
        for _ in range(_TURNS + 1):
            for child, found in zip(children, seconds, strict=True):
                measured = child.measured()
                if is_cancelled():
                    raise GivenUp
                if measured is None:
                    return None
                found.append(measured)
    finally:
        limit.cancel()
        for child in children:
            child.close()
    pairs = list(zip(seconds[0][1:], seconds[1][1:], strict=True))
    return Comparison(
        tuple(first.prompt_s / second.prompt_s for first, second in pairs),
        tuple(first.generation_s / second.generation_s for first, second in pairs),
    )


def _main() -> None:
    from slmchat.engine import llama
    from slmchat.engine.requests import SessionSettings

    order = json.loads(sys.stdin.readline())
    engine = llama.load(Path(order["model"]))
    settings = SessionSettings(512, order["threads"][0], order["threads"][1], speculation="off")
    work = Workload(**order["work"])
    print(json.dumps({}), flush=True)  # noqa: T201 - an answer to the parent
    for _ in sys.stdin:
        found = measure(engine, settings, order["tokens"], work, lambda: False)
        print(json.dumps(asdict(found)), flush=True)  # noqa: T201
    engine.close()


if __name__ == "__main__":
    _main()
