"""What the names of GGUF files in a repository say: the quantization, the parts of a split file, what is preferred.

Knows: the naming habits of the field (`Model-Q4_K_M.gguf`, `model.q4_k_m.gguf`, `Q8_0/Model-00001-of-00003.gguf`).
Refuses to know: the network, the disk, what is inside a file.
"""

import re
from collections.abc import Iterable

PREFERRED = (
    "Q4_K_M", "Q4_K_XL", "Q4_K_S", "Q5_K_M", "Q4_0", "Q4_1", "IQ4_NL", "IQ4_XS", "Q5_K_S", "Q5_0", "Q5_1",
    "Q3_K_L", "Q3_K_M", "Q6_K", "Q8_0", "BF16", "F16",
)  # fmt: skip
"""Without a quantization in the name: Q4_K_M (small, little is lost), then what is nearest to it."""

_QUANTIZATION = re.compile(
    r"(?:^|[-._/ ])((?:UD-)?"
    r"(?:I?Q[1-8](?:_[0-9A-Z]+)*|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32|FP16|FP32))(?="
    r"$|[-._/ ])",
    re.IGNORECASE,
)

_PART = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$", re.IGNORECASE)

_NO_MODEL = re.compile(r"(?:^|[-._/])(?:mmproj|imatrix|vocab|draft|mtp)(?=$|[-._/])", re.IGNORECASE)
"""GGUF files that are not a language model by themselves: an image encoder, a calibration matrix, a helper."""

_PROJECTOR = re.compile(r"(?:^|[-._/])mmproj(?=$|[-._/])", re.IGNORECASE)


def quantization_of(name: str) -> str | None:
    """The quantization that a file name (or the folder it lies in) states, in upper case; None when it states none."""
    part = _PART.match(name)
    stem = part["stem"] if part else name.removesuffix(".gguf").removesuffix(".GGUF")
    found = [str(match[1]).upper() for match in _QUANTIZATION.finditer(stem)]
    return found[-1].replace("FP16", "F16").replace("FP32", "F32") if found else None


def parts_of(name: str) -> tuple[str, ...]:
    """All files of a split GGUF, from the name of any of them; a file that is not split is its only part."""
    part = _PART.match(name)
    if not part or not 0 < int(part["count"]) <= 1000:
        return (name,)
    count = int(part["count"])
    return tuple(f"{part['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1))


def models_in(names: Iterable[str]) -> dict[str, str]:
    """The language models among the files of a repository: quantization -> name of the file or of its first part.

    Where several files have one quantization, the one with the shortest name counts: the others are special builds.
    A file that states no quantization stands under its own name.
    """
    found: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (len(name), name)):
        if not name.lower().endswith(".gguf") or _NO_MODEL.search(name) or parts_of(name)[0] != name:
            continue
        found.setdefault(quantization_of(name) or name, name)
    return found


def projector_in(names: Iterable[str]) -> str | None:
    """The image encoder (mmproj) among the files of a repository: F16 is as good as larger ones, then Q8_0."""
    found = [name for name in names if name.lower().endswith(".gguf") and _PROJECTOR.search(name)]
    order = {"F16": 0, "Q8_0": 1, "BF16": 2, "F32": 3}
    return min(found, key=lambda name: (order.get(quantization_of(name) or "", 4), len(name), name), default=None)


def choose(models: dict[str, str], quantization: str | None) -> str | None:
    """The quantization to take of those in `models_in`: the one asked for, else the preferred one. None: not there."""
    if quantization is not None:
        wanted = quantization.upper()
        named = (found for found in models if found.upper() in (wanted, f"UD-{wanted}", wanted.removeprefix("UD-")))
        return wanted if wanted in models else next(named, None)
    for name in PREFERRED:
        for found in (name, f"UD-{name}"):  # UD: Unsloth's dynamic variant of the same
            if found in models:
                return found
    return min(models, key=lambda found: (len(models[found]), found), default=None)
