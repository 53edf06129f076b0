"""Which C and C++ compilers are installed, for advice on building llama.cpp for this very processor.

Knows: which of them build the kernels for AMX rightly. Refuses to know: how llama.cpp is built (diagnostics/device.py).

GCC 11 and 12 think that `ldtilecfg` reads 8 bytes and leave the stores of the other 56 out: every program that has
llama.cpp's AMX kernels from them faults at its first token (ggml-org/llama.cpp #20824, PR #26954). Older ones know no
AMX at all; GCC from 13 on and clang are right.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator

_WRONG_GCC = (11, 12)
_NEWEST_GCC, _NEWEST_CLANG = 19, 25

Versions = Callable[[str], str]
"""The name of a compiler -> what it says to `--version`; empty when it is not installed."""


def version_of(name: str) -> str:
    """What an installed compiler says of itself."""
    path = shutil.which(name)
    if path is None:
        return ""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def for_amx(version: Versions = version_of) -> tuple[str, str] | None:
    """C and C++ compilers, installed here, that build llama.cpp's AMX kernels rightly; None: there are none.

    Two empty names are those that a build takes by itself.
    """
    if builds_amx(version("cc")) and builds_amx(version("c++")):
        return "", ""
    return next((pair for pair in _others() if all(builds_amx(version(name)) for name in pair)), None)


def _others() -> Iterator[tuple[str, str]]:
    yield "clang", "clang++"
    for number in range(_NEWEST_GCC, max(_WRONG_GCC), -1):
        yield f"gcc-{number}", f"g++-{number}"
    for number in range(_NEWEST_CLANG, max(_WRONG_GCC), -1):
        yield f"clang-{number}", f"clang++-{number}"


def builds_amx(said: str) -> bool:
    """Whether a compiler that says this of itself can be trusted with AMX."""
    if not said:
        return False
    if "clang" in said.lower():
        return True
    found = re.search(r"\s(\d+)\.\d+(?:\.\d+)?", said.partition("\n")[0].rpartition(")")[2] or said)
    return found is not None and int(found[1]) not in _WRONG_GCC
