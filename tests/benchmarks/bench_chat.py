"""How soon the chat is there: from the start of the program to an open prompt, and to the first token of turn N.

Usage: python tests/benchmarks/bench_chat.py [--runs 5] [--turns 12]; smollm2:135m must be installed in SLM_HOME.
"""

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from terminal import Terminal


def prompt_opens(home: Path) -> float:
    """Seconds until the prompt stands there."""
    start = time.perf_counter()
    with Terminal(["chat", "smollm2:135m", "--private"], home=home) as terminal:
        terminal.wait_for(r"(^|\n)> ?(\n|$)")
        return time.perf_counter() - start


def first_tokens(home: Path, turns: int) -> list[float]:
    """Seconds to the first token of every turn, as the chat itself reports them (-v)."""
    with Terminal(
        ["chat", "smollm2:135m", "--private", "-v", "--temp", "0", "-n", "40", "--ctx", "8192"], home=home, lines=60
    ) as terminal:
        terminal.wait_for(r"(^|\n)> ?(\n|$)")
        for turn in range(turns):
            terminal.enter(f"Question {turn}: tell me something about the number {turn}, please.")
            terminal.wait_for(lambda turn=turn: len(_reported(terminal.raw)) > turn)
        return _reported(terminal.raw)


def _reported(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"first token after ([\d.]+) s", text)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--turns", type=int, default=12)
    options = parser.parse_args()
    home = Path(os.environ.get("SLM_HOME") or tempfile.gettempdir())
    opened = [prompt_opens(home) for _ in range(options.runs)]
    print(f"prompt open after {statistics.median(opened):.3f} s (median of {options.runs}; target 0.4)")
    turns = first_tokens(home, options.turns)
    print(f"first token of each turn: {', '.join(f'{value:.2f}' for value in turns)} s")
    first, last = statistics.median(turns[1:4]), statistics.median(turns[-3:])
    print(f"turns {options.turns - 2} to {options.turns} against turns 2 to 4: {last / first:.2f}")


if __name__ == "__main__":
    main()
