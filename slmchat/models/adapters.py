"""LoRA adapters in a generation: those of the model's own name, and those that are named beside it.

Knows: which adapters count, in which order, with which scale, and how they are told.
Refuses to know: what the header of an adapter must hold (catalog/lora.py), how they are applied (engine/adapters.py).
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from slmchat.catalog import adapter_names, registry
from slmchat.catalog.finding import Finder
from slmchat.catalog.library import Library
from slmchat.catalog.records import Installed
from slmchat.settings import Settings

if TYPE_CHECKING:
    from slmchat.engine.requests import Adapter


def finder(settings: Settings, library: Library | None = None) -> Finder:
    """What finds models and adapters on this device. Raises `SlmError` (USAGE) for a mistake in the user's file."""
    user_file = settings.paths.user_registry
    return Finder(library or Library(settings.paths), registry.load_user_names(user_file), user_file)


def with_adapters(
    installed: Installed, texts: Sequence[str], settings: Settings, present: "Sequence[Adapter] | None" = None
) -> "tuple[Adapter, ...]":
    """The adapters that count after these were named: `PATH[=SCALE]` or `hf:NAME[=SCALE]` each.

    They join `present` (None: those of the model's own name); one that is there already gets the new scale. Raises
    `SlmError`: NO_MODEL when there is no such file, DAMAGED when it does not belong to this model.
    """
    before = installed.adapters if present is None else tuple(present)
    if not texts:
        return before
    from slmchat.catalog import lora  # with the parser of headers, which most starts need not wait for

    adapters = {adapter.path: adapter for adapter in before}
    base = lora.Base([file.path for file in installed.files])
    for text in texts:
        target, scale = adapter_names.parse(text)
        named = next((path for path in adapters if path.name == target), None)
        path = named or finder(settings).adapter_file(target)
        known = adapters.get(path)
        is_known = known is not None and known.stamp == lora.stamp_of(path)
        adapters[path] = replace(known, scale=scale) if known and is_known else base.adapter(path, scale)
    return tuple(adapters.values())


def labels(adapters: "Iterable[Adapter]") -> str:
    """Adapters in one line for people, as they could be typed."""
    return ", ".join(adapter_names.labelled(adapter.path.name, adapter.scale) for adapter in adapters)
