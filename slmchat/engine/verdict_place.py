"""Where verdicts about llama.cpp are kept. Apart from them, because the seal allows the place to every process, and one
that asks a server never looks into it.

Refuses to know: what lies there (verdicts.py, attention_trial.py).
"""

import os
from pathlib import Path

PLACE = "SLM_VERDICTS"
"""Internal: another directory for the verdicts, shared by homes that live for one test only."""


def directory(cache: Path) -> Path:
    """Where verdicts are kept, below slm's cache directory."""
    return Path(os.environ.get(PLACE) or cache / "engine")
