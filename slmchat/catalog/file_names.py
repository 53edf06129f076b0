"""What the names of GGUF files in a repository say: the quantization, the parts of a split file, the order to look in.

A name is a guess. `Model-MTP-Q4_K_M.gguf` may be a whole model or a draft head, `model-f16.gguf` an adapter. So no file
is thrown out because of its name: names order the candidates, and the header decides (models/repository_choice.py).

Knows: the naming habits of the field (`Model-Q4_K_M.gguf`, `model.q4_k_m.gguf`, `Q8_0/Model-00001-of-00003.gguf`).
Refuses to know: the network, the disk, what is inside a file.
"""

import re
from collections.abc import Iterable

from slmchat.lazy_dataclasses import dataclass
from slmchat.lazy_patterns import lazy_pattern

# The order in which files of one model are looked at: Q4_K_M (small, little is lost), then what is nearest to it. Which
# one is taken is decided by what fits.
_ORDER = (
    "Q4_K_M", "Q4_K_XL", "Q4_K_S", "Q5_K_M", "Q4_0", "Q4_1", "Q4_K", "Q4", "IQ4_NL", "IQ4_XS", "MXFP4_MOE", "MXFP4",
    "NVFP4", "Q5_K_S", "Q5_0", "Q5_1", "Q3_K_L", "Q3_K_M", "Q6_K", "Q8_0", "BF16", "F16",
)  # fmt: skip

# llama.cpp's own names (tools/quantize, QUANT_OPTIONS), those that Unsloth and others make of them (UD-Q4_K_XL, Q6_K_L,
# Q4_0_4_4) and short ones (Q4, fp16).
_QUANTIZATION = lazy_pattern(
    r"(?:^|[-._/ ])((?:UD-)?"
    r"(?:I?Q[1-8](?:_[0-9A-Z]+)*|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32|FP16|FP32))(?="
    r"$|[-._/ ])",
    re.IGNORECASE,
)
_QAT = lazy_pattern(r"(?:^|[-._/])qat(?=$|[-._/])", re.IGNORECASE)

_PART = lazy_pattern(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$", re.IGNORECASE)

# What is mostly not the model itself: an image encoder, a calibration matrix, a vocabulary, something that guesses
# ahead or lies on top of a model. Such a file comes last; its header says what it is.
_BESIDE = lazy_pattern(
    r"(?:^|[-._/])(?:mmproj|imatrix|vocab|draft|drafter|mtp|dflash|eagle\d?|lora|adapter|assistant)(?=$|[-._/])",
    re.IGNORECASE,
)

_PROJECTOR = lazy_pattern(r"(?:^|[-._/])mmproj(?=$|[-._/])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class NamedModel:
    """The file, or all parts of the split one, that may be a model.

    `build` is the same for the quantizations of one model: its name and folder without quantization and part.
    """

    parts: tuple[str, ...]
    quantization: str | None
    build: str

    @property
    def name(self) -> str:
        """The file, or the first part of it."""
        return self.parts[0]

    @property
    def label(self) -> str:
        """How a message lists it: by its quantization, or by its name where that states none."""
        return self.quantization or self.name


def quantization_of(name: str) -> str | None:
    """The quantization that a file name (or the folder it lies in) states, in upper case; None when it states none.

    `-QAT` at its end: the weights were trained for it.
    """
    stem = _stem(name)
    found = [str(match[1]).upper() for match in _QUANTIZATION.finditer(stem)]
    if not found:
        return None
    quantization = found[-1].replace("FP16", "F16").replace("FP32", "F32")
    return f"{quantization}-QAT" if _QAT.search(stem) and not quantization.startswith(("F", "B")) else quantization


def same_quantization(one: str, other: str) -> bool:
    """Whether both can mean one file: `Q4_K_XL` and `UD-Q4_K_XL`, `Q4_0` and `Q4_0-QAT`, in any case."""
    return _plain(one) == _plain(other)


def named(quantization: str, there_are: Iterable[str]) -> str | None:
    """Which of the quantizations is meant: the one of this very name, else the first that can be; None: not there."""
    known = list(there_are)
    exact = (found for found in known if found.casefold() == quantization.casefold())
    return next(exact, None) or next((found for found in known if same_quantization(quantization, found)), None)


def same_file(one: str, other: str) -> bool:
    """Whether both surely mean one file: in any case, and with or without `UD-` where only Unsloth has such a name."""
    plain = _plain(one)
    return one.upper() == other.upper() or (plain.endswith("_XL") and plain == _plain(other))


def _plain(quantization: str) -> str:
    return quantization.upper().removeprefix("UD-").removesuffix("-QAT")


def _stem(name: str) -> str:
    part = _PART.match(name)
    return part["stem"] if part else re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE)


def parts_of(name: str) -> tuple[str, ...]:
    """All files of a split GGUF, from the name of any of them; a file that is not split is its only part."""
    part = _PART.match(name)
    if not part or not 0 < int(part["count"]) <= 1000:
        return (name,)
    count = int(part["count"])
    return tuple(f"{part['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1))


def models_in(names: Iterable[str], repo: str) -> list[NamedModel]:
    """What may be a model among the files of the repository OWNER/REPO, in the order to look at their headers.

    First what is called as the repository is, then what has words of its own (a special build), then what is called
    as something beside a model.
    """
    words = _words(repo.partition("/")[2])
    ranked = []
    for name in names:
        if not name.lower().endswith(".gguf") or parts_of(name)[0] != name:
            continue
        quantization = quantization_of(name)
        build = " ".join(_words(_QUANTIZATION.sub("-", _stem(name))))
        model = NamedModel(parts_of(name), quantization, build)
        extra = len([word for word in build.split() if word not in words])
        ranked.append((bool(_BESIDE.search(name)), extra, _rank(quantization), len(name), name, model))
    return [model for *_, model in sorted(ranked, key=lambda row: row[:-1])]


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def _rank(quantization: str | None) -> int:
    plain = _plain(quantization) if quantization else ""
    return _ORDER.index(plain) if plain in _ORDER else len(_ORDER)


def projector_in(names: Iterable[str]) -> str | None:
    """The image encoder (mmproj) among the files of a repository: F16 is as good as larger ones, then Q8_0."""
    found = [name for name in names if name.lower().endswith(".gguf") and _PROJECTOR.search(name)]
    order = {"F16": 0, "Q8_0": 1, "BF16": 2, "F32": 3}
    return min(found, key=lambda name: (order.get(quantization_of(name) or "", 4), len(name), name), default=None)
