"""LoRA adapters as files: whether a file is one, and whether it belongs to this model.

Knows: the header of an adapter as llama.cpp's convert_lora_to_gguf.py writes it, what llama.cpp's loader
(llama-adapter.cpp) refuses, and what it takes and then aborts on: that is refused here, before it opens the file.
Refuses to know: what an adapter computes (engine/adapters.py), where files come from.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slmchat.catalog.gguf import read_header, read_headers
from slmchat.catalog.gguf_header import Header, Tensor
from slmchat.errors import ExitCode, SlmError
from slmchat.toml_schema import shown

if TYPE_CHECKING:
    from slmchat.engine.requests import Adapter

# What ggml_mul_mat takes as its first operand on every backend, and what convert_lora_to_gguf.py can write.
_TYPES = ("F32", "F16", "BF16", "Q8_0")
_EMBEDDING = "token_embd.weight"
# adapter.alora.invocation_tokens (gguf-py constants.py): an "activated" LoRA counts only behind certain tokens.
_ACTIVATED = "adapter.alora.invocation_tokens"


def is_adapter(header: Header) -> bool:
    """Whether the file is an adapter of any kind, so that it is not a model."""
    return header.metadata.get("general.type") == "adapter"


def not_a_model(path: Path | str, header: Header | None = None) -> SlmError:
    """The error for an adapter that is given where a model belongs."""
    made_for = f"; it was made for {shown(header.base_model_names[0])}" if header and header.base_model_names else ""
    return SlmError(
        f"{path} is a LoRA adapter, not a model{made_for}.",
        hint=f"slm run -m MODEL --lora {path}, with the model that it was made for",
        exit_code=ExitCode.DAMAGED,
    )


def stamp_of(path: Path) -> tuple[int, int]:
    """Bytes and time of change (ns) of a file, zeros when it cannot be asked: no file has been like that."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return 0, 0
    return found.st_size, found.st_mtime_ns


class Base:
    """The model that adapters are laid over, as its files describe it. They are read when the first adapter comes."""

    def __init__(self, files: Sequence[Path]) -> None:
        """`files`: all parts of the model."""
        self._files = files
        self._headers: list[Header] = []

    def adapter(self, path: Path, scale: float) -> "Adapter":
        """The adapter in the file at `path` (absolute), looked at closely: it is one, and it belongs to this model.

        Raises `SlmError`: NO_MODEL when there is no such file, STORAGE when one cannot be read, DAMAGED else.
        """
        stamp = stamp_of(path)
        try:
            header = read_header(path)
        except SlmError as error:
            if error.exit_code is not ExitCode.NO_MODEL:
                raise
            raise SlmError(
                f"there is no adapter {path}.",
                hint="the path of a .gguf file, or the hf: name of one that was pulled",
                exit_code=ExitCode.NO_MODEL,
            ) from error
        reason = _no_lora(header)
        if reason:
            raise SlmError(f"{path.name} {reason}.", exit_code=ExitCode.DAMAGED)
        reason = _mismatch(header, self._architecture(), self._tensors())
        if reason:
            raise SlmError(
                f"the adapter {path.name} does not belong to this model: {reason}.",
                hint=_made_for(header),
                exit_code=ExitCode.DAMAGED,
            )
        from slmchat.engine.requests import Adapter  # most who look at a header meet no adapter

        return Adapter(path, scale, stamp)

    def _read(self) -> list[Header]:
        if not self._headers:
            self._headers = read_headers(self._files)
        return self._headers

    def _architecture(self) -> str | None:
        return self._read()[0].architecture

    def _tensors(self) -> Mapping[str, Tensor]:
        return {tensor.name: tensor for header in self._read() for tensor in header.tensors}


def _made_for(header: Header) -> str:
    names = header.base_model_names
    return (
        f"its file says that it was made for {shown(names[0])}" if names else "its own page says which model it needs"
    )


def _no_lora(header: Header) -> str | None:
    """Why the file cannot be used as a LoRA adapter of any model, as the end of a sentence."""
    if not is_adapter(header):
        return "is not a LoRA adapter but a whole model or a part of one"
    if header.metadata.get("adapter.type") != "lora":
        return f"is an adapter of the kind '{shown(str(header.metadata.get('adapter.type')))}', and slm knows LoRA"
    if _ACTIVATED in header.metadata:
        return "is an activated LoRA, which counts only behind certain tokens; slm knows those that count everywhere"
    if not isinstance(header.metadata.get("adapter.lora.alpha", 0.0), float):
        return "is damaged: its adapter.lora.alpha is not a number"
    if not any(tensor.name.endswith(".lora_a") for tensor in header.tensors):
        return "is a LoRA adapter that changes nothing: it holds no matrices"
    return None


def _mismatch(header: Header, architecture: str | None, base: Mapping[str, Tensor]) -> str | None:
    """Why the adapter cannot be laid over a model of these tensors, as the end of a sentence."""
    if header.architecture != architecture:
        return f"it is for the architecture '{shown(str(header.architecture))}', and the model has '{architecture}'"
    adapter = {tensor.name: tensor for tensor in header.tensors}
    for name, tensor in adapter.items():
        stem, _, half = name.rpartition(".")
        if half not in ("lora_a", "lora_b"):
            if name.endswith("_norm.weight"):  # llama.cpp leaves those out
                continue
            return f"its tensor '{name}' is not part of a LoRA"
        other = adapter.get(f"{stem}.{'lora_b' if half == 'lora_a' else 'lora_a'}")
        if other is None:
            return f"its matrix '{name}' has no counterpart"
        if tensor.type_name not in _TYPES:
            return f"its matrix '{name}' is in {tensor.type_name or 'an unknown type'}; {', '.join(_TYPES)} can be used"
        if stem not in base:
            return f"the model has no tensor '{stem}'"
        if half == "lora_a" and not _fits(base[stem], tensor, other):
            return f"its matrices for '{stem}' have other sizes than the model's"
    if f"{_EMBEDDING}.lora_a" in adapter and "output.weight" not in base:
        return "it changes the token embedding, which in this model is the output, too, and llama.cpp cannot do that"
    return None


def _fits(base: Tensor, a: Tensor, b: Tensor) -> bool:
    """Whether B·A has the shape of the model's matrix; for the embedding A holds a row for each token."""
    rows, wide, tall = (_four(tensor.shape) for tensor in (base, a, b))
    if rows[2:] != wide[2:] or rows[2:] != tall[2:]:  # the experts of a mixture
        return False
    if base.name == _EMBEDDING:
        return (rows[0], rows[1], wide[0]) == (tall[1], wide[1], tall[0])
    return (rows[0], rows[1], wide[1]) == (wide[0], tall[1], tall[0])


def _four(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape + (1,) * (4 - len(shape))
