"""A task of choices as the file that `llama-perplexity --multiple-choice` reads, and what that program says of it.

Usage: python tests/llama_perplexity.py TASK.toml OUT.bin
       llama-perplexity -m MODEL.gguf --multiple-choice -bf OUT.bin

The layout is that of llama.cpp (tools/perplexity/perplexity.cpp, multiple_choice_score): the number of tasks, the place
of each, then the tasks: a question, its answers with one label each, and a second list of answers, which is not used.
That program adds a space between question and answer, and takes the mean of the log-probabilities of an answer's tokens
behind those that all answers begin with. slm's nearest is `normalize = "tokens"`. It runs without repacked weights, with
which llama.cpp crashes on some processors (docs/decisions.md).
"""

import re
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from slmchat.evaluation import task_files
from slmchat.evaluation.records import EvalItem, EvalTask


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def _task(item: EvalItem) -> bytes:
    labels = [int(choice in item.answers) for choice in item.choices]
    answers = b"".join(map(_string, item.choices))
    first = struct.pack("<I", len(item.choices)) + answers + struct.pack(f"<{len(labels)}i", *labels)
    return _string(item.prompt) + first + struct.pack("<I", 0)


def encoded(items: Sequence[EvalItem]) -> bytes:
    """The file."""
    tasks = [_task(item) for item in items]
    begin = 4 + 4 * len(tasks)
    places = [begin + sum(map(len, tasks[:number])) for number in range(len(tasks))]
    return struct.pack(f"<I{len(tasks)}I", len(tasks), *places) + b"".join(tasks)


def score(program: str, model: Path, task: EvalTask, file: Path, threads: int = 1) -> float:
    """What llama-perplexity makes of the task: the share that is right, 0 to 1."""
    file.write_bytes(encoded(task.items))
    command = [program, "-m", str(model), "--multiple-choice", "-bf", str(file), "-c", "64", "-t", str(threads)]
    done = subprocess.run([*command, "-np", "8", "--no-repack"], capture_output=True, check=False)
    told = (done.stdout + done.stderr).decode(errors="replace")
    found = re.findall(r"^(\d+)\t([\d.]+)$", told, re.MULTILINE)
    assert found and int(found[-1][0]) == len(task.items), told[-2000:]
    return float(found[-1][1]) / 100


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(encoded(task_files.load(Path(sys.argv[1])).items))
