"""LoRA adapters as files: what `PATH=SCALE` means, and whether a file is an adapter for this model at all.

Knows: the header of an adapter (convert_lora_to_gguf.py of llama.cpp writes it).
Refuses to know: what an adapter computes (engine/adapters.py).
"""

from pathlib import Path

from slmchat.catalog.gguf import Header, read_header
from slmchat.errors import ExitCode, SlmError
from slmchat.private_files import storage_error

MAX_SCALE = 100.0
"""A larger scale is a slip of the hand; adapters are trained to count once."""


def parse(text: str) -> tuple[str, float]:
    """`PATH` or `PATH=SCALE` as (path, scale); raises `SlmError` (USAGE). A path may hold `=` where no number follows."""
    path, equals, scale = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        value = float(scale)
    except ValueError:
        return text, 1.0
    if not path or not -MAX_SCALE <= value <= MAX_SCALE:
        raise SlmError(
            f"--lora cannot be '{text}'.",
            hint=f"PATH or PATH=SCALE with a scale from -{MAX_SCALE:g} to {MAX_SCALE:g}",
            exit_code=ExitCode.USAGE,
        )
    return path, value


def checked(path: Path, architecture: str | None) -> Path:
    """The adapter's absolute path, when it is one for models of this architecture (None: not known before loading).

    Raises `SlmError`: NO_MODEL when there is no such file, DAMAGED when it is no GGUF or no adapter for this model.
    """
    path = path.expanduser().absolute()
    if not path.is_file():
        raise SlmError(f"there is no adapter {path}.", exit_code=ExitCode.NO_MODEL)
    try:
        header = read_header(path)
    except OSError as error:
        raise storage_error(error, path) from error
    if not is_adapter(header):
        raise SlmError(
            f"{path.name} is not a LoRA adapter but a whole model or a part of one.",
            hint=f"a model is named with -m: slm run -m {path}",
            exit_code=ExitCode.DAMAGED,
        )
    if architecture is not None and header.architecture != architecture:
        raise SlmError(
            f"the adapter {path.name} is for models of the architecture '{header.architecture}', "
            f"and this model has '{architecture}'.",
            hint="its own page says which base model it needs",
            exit_code=ExitCode.DAMAGED,
        )
    return path


def is_adapter(header: Header) -> bool:
    """Whether the header is that of a LoRA adapter."""
    return header.metadata.get("general.type") == "adapter" and header.metadata.get("adapter.type") == "lora"
