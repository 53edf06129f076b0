"""How soon the chat is there: from the start of the program to its prompt and its editor, and to a turn's first token."""

import re
import statistics
import sys
import time
from pathlib import Path

import programs
from targets import Target, rounds

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from terminal import Terminal

TURNS = 12


def prompt_opens(home: Path) -> tuple[float, float]:
    """Seconds until the prompt stands there and keeps keys, and until its line editor is there (it draws the toolbar)."""
    start = time.perf_counter()
    with Terminal(["chat", "smollm2:135m", "--private"], home=home, env=programs.python_environment()) as terminal:
        terminal.wait_for(r"(^|\n)> ?(\n|$)")
        stands = time.perf_counter() - start
        terminal.wait_for(r"\nsmollm2:135m\S* · ")
        return stands, time.perf_counter() - start


def first_tokens(home: Path, turns: int) -> list[float]:
    """Seconds to the first token of every turn, as the chat itself reports them (-v)."""
    with Terminal(
        ["chat", "smollm2:135m", "--private", "-v", "--temp", "0", "-n", "40", "--ctx", "8192"],
        home=home,
        lines=60,
        columns=200,  # a report in one line
        env=programs.python_environment(),
    ) as terminal:
        terminal.wait_for(r"(^|\n)> ?(\n|$)")
        for turn in range(turns):
            terminal.enter(f"Question {turn}: tell me something about the number {turn}, please.")
            terminal.wait_for(lambda turn=turn: len(_reported(terminal.raw)) > turn)
        return _reported(terminal.raw)


def _reported(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"first token after ([\d.]+) s", text)]


def measure(repeat: int) -> list[Target]:
    home = programs.home()
    stands, edits = zip(*(prompt_opens(home) for _ in rounds(repeat)), strict=True)
    found = [
        Target("slm chat: the prompt stands, and keeps keys", 0.2, [*stands], {"prompt s": [*stands]}, False, "s"),
        Target("slm chat: its line editor is there", 0.4, [*edits], {"editor s": [*edits]}, False, "s"),
    ]
    early, late = [], []
    for _ in rounds(min(repeat, 3)):
        turns = first_tokens(home, TURNS)
        early.append(statistics.median(turns[1:4]))
        late.append(statistics.median(turns[-3:]))
    ratios = [b / a for a, b in zip(early, late, strict=True)]
    raw = {"turns 2 to 4 s": early, f"turns {TURNS - 2} to {TURNS} s": late}
    # 1,000 tokens later attention has more to read: only what is new may be evaluated, which would be 8 times without
    return [*found, Target("slm chat: first token late over early in a conversation", 2.0, ratios, raw, False)]
