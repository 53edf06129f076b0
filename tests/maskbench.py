"""How many of other people's schemas slm holds, by MaskBench's rules: a schema passes when it compiles, lets every valid
instance of its file through and none of the invalid ones.

Usage: python tests/maskbench.py [--sample N] [--seed 0] [--failures] [--compile-only] DIRECTORY-OR-FILE.jsonl

The directory has the files of github.com/guidance-ai/jsonschemabench, maskbench/data. An instance goes through llama.cpp's own
grammar, byte by byte, and through the check of the finished text, as an answer does.
"""

import argparse
import ctypes
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from gguf_samples import write_tiny_llama

from slmchat.engine import constraint, llama
from slmchat.errors import SlmError
from slmchat.schemas import json_schema
from slmchat.schemas.check import SchemaCheck


class Matcher:
    """llama.cpp's grammars on texts, without a model: a vocabulary of bytes is enough."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory()
        path = write_tiny_llama(Path(self._directory.name) / "tiny.gguf", chat_template=None)
        self._engine = llama.load(path)
        self._api = self._engine.loaded.api
        self._vocabulary = self._engine.vocabulary
        self._bytes: dict[int, int] = {}
        for token in range(self._vocabulary.n_tokens):
            if len(piece := self._vocabulary.piece(token)) == 1:
                self._bytes[piece[0]] = token
        self._one = (self._api.llama_token_data * 1)()
        self._array = self._api.llama_token_data_array(data=self._one, size=1, selected=-1, sorted=False)

    def close(self) -> None:
        self._engine.close()
        self._directory.cleanup()

    def compiled(self, gbnf: str) -> Any:
        """llama.cpp's grammar; `free` it. Raises `SlmError`."""
        return constraint.compiled(self._api, self._vocabulary, gbnf)

    def free(self, grammar: Any) -> None:
        self._api.llama_sampler_free(grammar)

    def matches(self, grammar: Any, text: str) -> bool:
        """Whether the grammar may write exactly this text."""
        copy = self._api.llama_sampler_clone(grammar)
        try:
            for byte in text.encode("utf-8", "surrogatepass"):
                token = self._bytes[byte]
                if not self._allows(copy, token):
                    return False
                self._api.llama_sampler_accept(copy, token)
            return self._allows(copy, self._vocabulary.eos)
        finally:
            self._api.llama_sampler_free(copy)

    def _allows(self, grammar: Any, token: int) -> bool:
        self._one[0].id = token
        self._one[0].logit = 0.0
        self._array.size = 1
        self._api.llama_sampler_apply(grammar, ctypes.byref(self._array))
        return bool(self._one[0].logit == 0.0)


@dataclass(slots=True)
class Report:
    """What became of one file. `milliseconds` of the processor: for the grammar and the check in Python, and for llama.cpp's reading of it."""

    name: str
    refusal: str = ""
    unsound: list[str] = field(default_factory=list)
    over_strict: list[str] = field(default_factory=list)
    milliseconds: tuple[float, float] = (0.0, 0.0)
    only_checked: tuple[str, ...] = ()

    @property
    def is_passed(self) -> bool:
        return not (self.refusal or self.unsound or self.over_strict)


def judged(matcher: Matcher, name: str, schema: Any, tests: Sequence[dict[str, Any]]) -> Report:
    """One schema and its instances."""
    report = Report(name)
    start = time.process_time()
    try:
        text = json.dumps(schema, ensure_ascii=False)
        made = json_schema._written.__wrapped__(text, is_capped=False)
        check = SchemaCheck(schema, text)
        done = time.process_time()
        report.only_checked = made.only_checked
        grammar = matcher.compiled(made.gbnf)
    except SlmError as error:
        report.refusal = error.message
        return report
    report.milliseconds = ((done - start) * 1000, (time.process_time() - done) * 1000)
    try:
        for number, test in enumerate(tests):
            written = json.dumps(test["data"], ensure_ascii=False)
            problem = None if matcher.matches(grammar, written) else "grammar"
            problem = problem or check.problem(json.loads(written))
            if problem is None and not test["valid"]:
                report.unsound.append(f"{number}: {written}")
            elif problem is not None and test["valid"]:
                report.over_strict.append(f"{number}: {problem}: {written}")
    except SlmError as error:
        report.refusal = error.message
    finally:
        matcher.free(grammar)
    return report


def files(source: Path, sample: int | None, seed: int) -> Iterator[tuple[str, Any, list[dict[str, Any]]]]:
    """Name, schema and tests of each file, or of each line of a file of lines."""
    if source.is_file():
        for line in source.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            yield entry["name"], entry["schema"], entry["tests"]
        return
    found = sorted(source.glob("*.json"))
    if sample is not None:
        found = sorted(random.Random(seed).sample(found, min(sample, len(found))))
    for path in found:
        entry = json.loads(path.read_text(encoding="utf-8"))
        yield path.name, entry["schema"], entry["tests"]


def table(reports: Sequence[Report]) -> str:
    """The figures, a line each."""
    total = len(reports)
    times = sorted(report.milliseconds[0] for report in reports if not report.refusal)
    native = sorted(report.milliseconds[1] for report in reports if not report.refusal)
    compiled = sum(not report.refusal for report in reports)
    lines = [
        f"schemas      {total:6,}",
        *(
            f"{label:<12} {count:6,}  {count / total:6.1%}"
            for label, count in (
                ("compiled", compiled),
                ("passed", sum(report.is_passed for report in reports)),
                ("unsound", sum(bool(report.unsound) for report in reports)),
                ("over-strict", sum(bool(report.over_strict) for report in reports)),
            )
        ),
    ]
    for label, values in (("ms", times), ("llama.cpp ms", native)):
        if values:
            p95 = values[int(len(values) * 0.95)]
            lines.append(f"{label:<12} median {statistics.median(values):.2f}, p95 {p95:.1f}, max {values[-1]:.0f}")
    return "\n".join(lines)


def main() -> None:
    """Print the table, and with `--failures` what failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--failures", action="store_true", help="say what failed, each on a line")
    parser.add_argument("--compile-only", action="store_true", help="without the instances")
    asked = parser.parse_args()
    matcher = Matcher()
    reports = []
    for name, schema, tests in files(asked.source, asked.sample, asked.seed):
        report = judged(matcher, name, schema, () if asked.compile_only else tests)
        reports.append(report)
        if asked.failures and not report.is_passed:
            kind = "refused" if report.refusal else "unsound" if report.unsound else "over-strict"
            print(f"{kind}\t{name}\t{report.refusal or (report.unsound + report.over_strict)[0][:300]}", flush=True)
    matcher.close()
    print(table(reports))
    left = Counter(keyword for report in reports for keyword in report.only_checked)
    print("only checked:", ", ".join(f"{keyword} {count:,}" for keyword, count in left.most_common()))


if __name__ == "__main__":
    main()
