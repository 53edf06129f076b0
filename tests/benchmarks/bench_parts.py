"""What small parts cost that are in the way of a first token, or of each: in milliseconds, or microseconds a token."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from targets import Target, rounds

from slmchat.catalog.gguf import read_header
from slmchat.sanitize import Sanitizer
from slmchat.terminal.input_history import MAX_ENTRIES, InputHistory

_SEAL = """
import time
from slmchat.privacy import seal
seal.kernel_mechanisms()
start = time.perf_counter()
seal.seal(is_required=True)
print(time.perf_counter() - start)
"""
_TOKENS = 10_000


def measure(repeat: int) -> list[Target]:
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from gguf_samples import write_big_vocabulary
    from test_line_editor import write_history

    with tempfile.TemporaryDirectory() as folder:
        header = write_big_vocabulary(Path(folder, "big.gguf"))
        history = Path(folder, "history")
        write_history(history, MAX_ENTRIES)
        return [
            _target("closing the seal", 5, repeat, _sealed),
            _target("the header of 262,144 tokens", 150, repeat, lambda: _timed(lambda: read_header(header))),
            _target("a full history", 50, repeat, lambda: _timed(InputHistory(history).entries)),
            _target("making a token safe", 2, repeat, lambda: _timed(_sanitized) / _TOKENS * 1000, "us"),
        ]


def _target(name: str, most: float, repeat: int, once: Callable[[], float], unit: str = "ms") -> Target:
    values = [once() for _ in rounds(repeat)]
    return Target(name, most, values, {unit: values}, False, unit)


def _timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def _sealed() -> float:
    return float(subprocess.run([sys.executable, "-c", _SEAL], check=True, capture_output=True).stdout) * 1000


def _sanitized() -> None:
    feed = Sanitizer(show_invisible=True).feed
    for _ in range(_TOKENS):
        feed(" hello")
