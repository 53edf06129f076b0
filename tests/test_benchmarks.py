"""The benchmark program: what it says falls short, and that nothing is left out in silence."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests" / "benchmarks"))

import targets  # noqa: E402
from targets import Target, pairs  # noqa: E402


def test_the_median_of_pairwise_ratios_counts() -> None:
    values: Iterator[float] = iter([10.0, 5.0, 2.0, 8.0, 9.0, 3.0])  # ours, theirs; theirs, ours; ours, theirs
    ratios, mine, theirs = pairs(3, lambda: next(values), lambda: next(values))
    assert (mine, theirs) == ([10.0, 8.0, 9.0], [5.0, 2.0, 3.0])
    assert ratios == [2.0, 4.0, 3.0]
    target = Target("rate", 3.0, ratios, {}, True)
    assert (target.median, target.spread, target.is_met, target.wanted) == (3.0, (2.0, 4.0), True, ">= 3")
    assert not Target("rate", 3.1, ratios, {}, True).is_met
    assert not Target("time", 2.9, ratios, {}, False, "s").is_met
    assert Target("time", 3.0, ratios, {}, False, "s").wanted == "<= 3 s"


def test_a_target_is_measured_as_often_as_patience_lets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(targets.rounds(3)) == [0, 1, 2]
    monkeypatch.setattr(targets, "patience_s", -1.0)
    assert list(targets.rounds(3)) == [0]  # once at least
    ratios, mine, theirs = pairs(3, lambda: 4.0, lambda: 2.0)
    assert (ratios, mine, theirs) == ([2.0], [4.0], [2.0])


def run_benchmarks(tmp_path: Path, sections: str, *arguments: str) -> tuple[int, str, dict[str, object]]:
    """The program with a registry and modules of the test's own."""
    (tmp_path / "good.py").write_text(
        "from targets import Target\n"
        "def measure(repeat): return [Target('fast', 1.0, [1.5] * repeat, {'a ms': [3.0], 'b ms': []}, True)]\n"
    )
    (tmp_path / "slow.py").write_text(
        "from targets import Target\ndef measure(repeat): return [Target('slow', 1.0, [0.5], {}, True)]\n"
    )
    (tmp_path / "broken.py").write_text("def measure(repeat): raise SystemExit('slm run failed')\n")
    code = (
        "import sys, runpy\n"
        f"sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT / 'tests' / 'benchmarks')!r}]\n"
        "import sections\nfrom sections import Section\n"
        f"sections.SECTIONS = tuple(Section(name, name, 'x') for name in {sections!r}.split())\n"
        f"sys.argv = ['benchmarks', '--json', {str(tmp_path / 'out.json')!r}, *{list(arguments)!r}]\n"
        f"runpy.run_path({str(ROOT / 'tests' / 'benchmarks')!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, json.loads((tmp_path / "out.json").read_text())


@pytest.mark.real
def test_it_says_what_falls_short_what_failed_and_what_is_missing(tmp_path: Path) -> None:
    code, out, report = run_benchmarks(tmp_path, "broken good slow bench_nowhere")
    assert code == 1
    assert "1 targets fall short, 2 benchmarks did not run." in out
    assert "- slow: 0.5" in out and "- fast" not in out
    assert "slm run failed" in out
    assert "there is no bench_nowhere.py" in out
    told = report["targets"]
    assert isinstance(told, list)
    assert [(entry["name"], entry["is_met"]) for entry in told] == [("fast", True), ("slow", False)]
    assert told[0]["ratios"] == [1.5] * 5 and told[0]["raw"] == {"a ms": [3.0], "b ms": []}


@pytest.mark.real
def test_when_everything_is_met_it_exits_0(tmp_path: Path) -> None:
    code, out, report = run_benchmarks(tmp_path, "good slow", "--only", "good", "--repeat", "3")
    assert code == 0
    assert "0 targets fall short" in out
    assert report["repeat"] == 3


@pytest.mark.real
def test_every_benchmark_is_a_part_of_the_one_program() -> None:
    import importlib

    from sections import SECTIONS

    there = {file.stem for file in (ROOT / "tests" / "benchmarks").glob("bench_*.py")}
    assert {section.module for section in SECTIONS} == there
    assert len({section.name for section in SECTIONS}) == len(SECTIONS) == len(there)
    for section in SECTIONS:
        assert callable(importlib.import_module(section.module).measure), section.module


def test_the_page_names_every_part() -> None:
    from sections import SECTIONS

    page = (ROOT / "docs" / "performance.md").read_text()
    assert [section.name for section in SECTIONS if f"| `{section.name}` |" not in page] == []
    assert "tests/benchmarks/bench_" not in page.replace("tests/benchmarks/bench_grammar.py", "")  # no other command
