"""From what the catalog (or the user) names to the source that has it.

Knows: which kind of source belongs to which entry. Refuses to know: how any of them works.
"""

from pathlib import Path

from slmchat.catalog.hub import HubSource
from slmchat.catalog.package_index import IndexSource
from slmchat.catalog.registry import HubFile, SourceSpec
from slmchat.catalog.sources import Source


def open_source(spec: SourceSpec, models: Path, command: str, quantization: str | None = None) -> Source:
    """The source for what the catalog says.

    `models` is slm's own directory of weights, `command` the `slm pull` command that hints repeat.
    `quantization` matters only where `spec` names no file: it is looked for in the listing of the repository.
    """
    if isinstance(spec, HubFile):
        return HubSource(spec, command, quantization)
    return IndexSource(spec, models)
