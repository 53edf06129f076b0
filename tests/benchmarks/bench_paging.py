"""A model of three times the memory: how fast it answers while it is read from the disk, against what slm predicts.

The memory is that of a control group, which only root may make (version 1 of them); elsewhere nothing is measured.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import programs
from targets import Target, rounds

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gguf_samples import write_mixture

GROUPS = Path("/sys/fs/cgroup/memory")
MEMORY = 300 << 20
TOKENS = 20


def measure(repeat: int) -> list[Target]:
    group = GROUPS / f"slm-{uuid.uuid4().hex[:8]}"
    try:
        group.mkdir()
    except OSError as error:
        raise SystemExit(f"no control group can be made here: {error}") from error
    ratios, told, measured = [], [], []
    try:
        (group / "memory.limit_in_bytes").write_text(str(MEMORY))
        with tempfile.TemporaryDirectory() as directory:
            model = write_mixture(Path(directory) / "mixture.gguf", experts=64)
            os.sync()
            home = Path(directory) / "home"
            _measure_device(model, home)
            for _ in rounds(repeat):
                _forget(model)
                shown = _inside(group, home, "show", str(model), "--json")
                told.append(float(json.loads(shown.stdout)["fit"]["tokens_per_second"]))
                ran = _inside(group, home, "run", "-m", str(model), "-n", str(TOKENS), "--raw", "-v", "the of and to")
                measured.append(float(re.findall(r"([\d.]+) generation tok/s", ran.stderr)[0]))
                ratios.append(told[-1] / measured[-1])
    finally:
        group.rmdir()
    raw = {"predicted tok/s": told, "measured tok/s": measured}
    return [Target("paging: predicted over measured rate", 1.3, ratios, raw, False)]


def _measure_device(model: Path, home: Path) -> None:
    """Each command measures a little of the speed of the device, until it has all of it."""
    for _ in range(40):
        shown = programs.run([*programs.SLM, "show", str(model), "--json"], {"SLM_HOME": str(home)})
        if json.loads(shown.out)["fit"]["tokens_per_second"] is not None:
            return
    raise SystemExit("the speed of this device cannot be measured now: other programs compute")


def _forget(file: Path) -> None:
    """Nothing of the file is in memory."""
    descriptor = os.open(file, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def _inside(group: Path, home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *programs.SLM, *arguments],
        env=programs.environment({"SLM_HOME": str(home)}),
        capture_output=True,
        text=True,
        check=True,
    )
