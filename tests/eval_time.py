"""How long the suite of `slm eval` takes with a model of a 1B's size, and where the time goes. For docs/eval.md.

    python -m tests.eval_time llama-1b.gguf --vocabulary smollm2-135m.gguf         # makes the file where there is none
    python -m tests.eval_time llama-1b.gguf --limit 4                              # what follows goes to slm eval
    python -m tests.eval_time smollm2-135m.gguf --as-it-is                         # any model, which ends as it likes

The file has the shape of Llama 3.2 1B, so that its arithmetic is that of the real one, and random weights, which never
end an answer. So each answer ends where that of a real model to the same question ended: `data/evaluation/lengths.json`
has the lengths that SmolLM2-135M gave, which talks on where it does not know. `--brief` takes those of Qwen2.5-Coder 1.5B
(Q4_K_M), about half as long; `--lengths` takes others. All else is `slm eval` as it is, in this process.
"""

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from slmchat.cli import run_cli
from slmchat.engine.sequences import Sequences, TokenSpan
from slmchat.evaluation import answers, model_run
from slmchat.evaluation.records import EvalItem, EvalTask, TaskKind
from slmchat.terminal.console import Console

HERE = Path(__file__).parent
LENGTHS, BRIEF = (HERE / "data" / "evaluation" / name for name in ("lengths.json", "lengths-brief.json"))


@dataclass
class Spent:
    """What a task took: passes through the model, tokens of prompts and choices, generated ones, seconds."""

    passes: int = 0
    read: int = 0
    generated: int = 0
    wall_s: float = 0.0
    processor_s: float = 0.0


class Watch:
    """Counts what is evaluated, by task."""

    def __init__(self, lengths: dict[str, dict[str, int]] | None) -> None:
        self.lengths = lengths
        self.spent: dict[str, Spent] = defaultdict(Spent)
        self._now = "load, speed"
        self._generates = False
        self._clock = time.perf_counter(), time.process_time()

    def evaluate(self, real: Any, sequences: Sequences, spans: Sequence[TokenSpan]) -> Any:
        spent = self.spent[self._now]
        spent.passes += 1
        n_single = sum(len(span.tokens) == 1 for span in spans) if self._generates else 0
        spent.generated += n_single
        spent.read += sum(len(span.tokens) for span in spans) - n_single
        return real(sequences, spans)

    def begin(self, name: str) -> None:
        """What comes now belongs to this task."""
        clock = time.perf_counter(), time.process_time()
        self.spent[self._now].wall_s += clock[0] - self._clock[0]
        self.spent[self._now].processor_s += clock[1] - self._clock[1]
        self._clock, self._now = clock, name

    def ask(self, real: Any, run: Any, task: EvalTask, opened: Any) -> Any:
        self.begin(task.name)
        self._generates = task.kind is not TaskKind.CHOICES
        try:
            return real(run, task, opened)
        finally:
            self.begin("load, speed")

    def request(self, real: Any, asking: Any, number: int, item: EvalItem) -> Any:
        request = real(asking, number, item)
        if self.lengths is None:
            return request
        length = self.lengths[asking._task.name][item.id]
        return replace(request, limits=replace(request.limits, max_tokens=max(1, length), stop=()))

    def table(self) -> str:
        lines = [f"{'':14}{'passes':>7}{'read':>8}{'generated':>11}{'seconds':>9}{'processor':>11}"]
        total = Spent()
        for name, spent in self.spent.items():
            lines.append(_line(name, spent))
            for key, value in vars(spent).items():
                setattr(total, key, getattr(total, key) + value)
        return "\n".join([*lines, _line("all", total)])


def _line(name: str, spent: Spent) -> str:
    return f"{name:14}{spent.passes:7,}{spent.read:8,}{spent.generated:11,}{spent.wall_s:9.1f}{spent.processor_s:11.1f}"


def _instead(owner: Any, name: str, other: Any) -> Any:
    real = getattr(owner, name)
    return mock.patch.object(owner, name, lambda self, *given: other(real, self, *given))


def _made(path: Path, vocabulary: Path | None) -> Path:
    if not path.exists():
        if vocabulary is None:
            raise SystemExit(f"{path} is not there, and is made only with --vocabulary FILE.gguf")
        sys.path.insert(0, str(HERE))
        from gguf_random import write_random
        from gguf_shapes import LLAMA_1B

        write_random(path, replace(LLAMA_1B, type="Q4_0"), vocabulary)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--vocabulary", type=Path, help="a file with the tokens and the template, to make the model")
    parser.add_argument("--lengths", type=Path, default=LENGTHS, help="by task and id of an item")
    parser.add_argument(
        "--brief",
        action="store_const",
        dest="lengths",
        const=BRIEF,
        help="the lengths of a larger model, which answers briefly",
    )
    parser.add_argument("--as-it-is", action="store_true", help="answers end where the model ends them")
    given, others = parser.parse_known_args()
    path = _made(given.model, given.vocabulary)
    start = time.perf_counter()
    watch = Watch(None if given.as_it_is else json.loads(given.lengths.read_text()))
    with (
        _instead(Sequences, "evaluate", watch.evaluate),
        _instead(model_run.ModelRun, "_ask_missing", watch.ask),
        _instead(answers.GeneratedAnswers, "request", watch.request),
    ):
        console = Console(sys.stdin, sys.stdout, sys.stderr, dict(os.environ))
        code = run_cli(["eval", str(path), "--private", *others], console)
    watch.begin("")
    print(watch.table())
    print(f"the whole run: {time.perf_counter() - start:.1f} seconds")
    sys.stdout.flush()
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
