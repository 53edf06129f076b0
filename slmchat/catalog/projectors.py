"""Projectors (mmproj): the files that let a model see, beside a file used in place, or named by the user.

Knows: how such files are called, what their headers say, which of several fits a model.
Refuses to know: how they are fetched (pull.py), what they do (engine/vision.py).
"""

import os
from pathlib import Path

from slmchat.catalog.file_names import projector_in
from slmchat.catalog.gguf import read_header
from slmchat.catalog.gguf_header import Header, is_projector
from slmchat.catalog.records import InstalledFile
from slmchat.errors import ExitCode, SlmError


def check(name: str, header: Header) -> None:
    """Raises `SlmError` (damaged) when the file that is called `name` is not a projector with an image encoder."""
    sees = header.metadata.get("clip.has_vision_encoder")
    if not is_projector(header) or sees is False:
        what = "it encodes sound, not images" if is_projector(header) else "it is a language model"
        raise SlmError(
            f"{name} is not a projector for images: {what}.",
            hint="a projector's name has mmproj in it",
            exit_code=ExitCode.DAMAGED,
        )


def from_path(path: Path) -> InstalledFile:
    """A projector that the user names. Raises `SlmError`: no such file (3), it is none (6), it cannot be read (10)."""
    if not os.path.lexists(path):
        raise SlmError(
            f"there is no projector {path}.",
            hint="--mmproj PATH: the mmproj*.gguf that was made for this model",
            exit_code=ExitCode.NO_MODEL,
        )
    check(path.name, read_header(path))
    return InstalledFile.of(path, None)


def beside(model: Path, header: Header) -> InstalledFile | None:
    """The projector in the directory of a model that is used in place. Of several the one made for its width, if any.

    Files that are not sound projectors are passed over: nobody has asked for them.
    """
    try:
        paths = [path for path in model.parent.iterdir() if path != model and projector_in([path.name])]
    except OSError:
        return None
    width = header.metadata.get(f"{header.architecture}.embedding_length")
    found: dict[str, tuple[bool, Path]] = {}
    for path in paths:
        try:
            its = read_header(path)
            check(path.name, its)
        except SlmError:
            continue
        found[path.name] = (its.metadata.get("clip.vision.projection_dim") == width, path)
    fitting = [name for name, (fits, _) in found.items() if fits] or list(found)
    chosen = projector_in(fitting)
    return InstalledFile.of(found[chosen][1], None) if chosen else None
