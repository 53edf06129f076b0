"""Pictures that the user gives to a model: read, checked against what the model can do, described.

Knows: which model can be shown pictures, what to do when it cannot.
Refuses to know: decoding (conversation/pictures.py), projectors as files (catalog/projectors.py).
"""

import os
from dataclasses import replace

from slmchat.catalog import registry
from slmchat.catalog.library import Library
from slmchat.catalog.records import Installed
from slmchat.conversation.pictures import Picture
from slmchat.engine.api import Engine
from slmchat.engine.requests import Part, Prompt
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.settings import Settings
from slmchat.user_paths import user_path


def with_projector(installed: Installed, path: str | None) -> Installed:
    """The model with the projector of `--mmproj`. Raises `SlmError` when that is none."""
    if path is None:
        return installed
    from slmchat.catalog import projectors

    return replace(installed, projector=projectors.from_path(user_path(path).absolute()))


def check_vision(installed: Installed, settings: Settings) -> None:
    """Raises `SlmError`: USAGE when this model cannot be shown pictures, NO_MODEL when its projector has gone."""
    projector = installed.projector
    if projector is not None and not os.path.isfile(projector.path):
        raise SlmError(
            f"the projector of {installed.key}, {projector.path}, is gone.",
            hint=f"slm pull {installed.key}",
            exit_code=ExitCode.NO_MODEL,
        )
    if projector is None:
        raise usage_error(f"{installed.key} does not see pictures.", _what_sees(installed, settings))


def _what_sees(installed: Installed, settings: Settings) -> str:
    """What to do instead: get its projector, use an installed model that sees, or pull one."""
    catalog = registry.load(settings.paths.user_registry)
    spec = catalog.models.get(installed.name)
    if spec is not None and spec.projector:
        return f"the projector that it sees with is not here: slm pull {installed.key}"
    if not installed.admitted_at:
        return "its projector is looked for beside it (mmproj*.gguf), or named: --mmproj PATH"
    seeing = [record.key for record in Library(settings.paths).all() if record.projector is not None]
    if seeing:
        return f"one that does: -m {seeing[0]}"
    small = min(
        (model for model in catalog.models.values() if model.projector), key=lambda model: model.parameters or 0
    )
    return f"one that does: slm pull {small.name}; slm list --available shows others (tag vision)"


def cost(picture: Picture, engine: Engine) -> int:
    """Tokens that a picture takes. Raises `SlmError` when it cannot be taken in."""
    return engine.count(Prompt((Part("", image=picture.image()),))) - engine.count(Prompt(()))
