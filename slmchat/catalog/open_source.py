"""From what the catalog (or the user) names to the source that has it.

Knows: which kind of source belongs to which entry. Refuses to know: how any of them works.
"""

from pathlib import Path

from slmchat.catalog.hub import HubSource
from slmchat.catalog.model_specs import HubFile, SourceSpec
from slmchat.catalog.package_index import IndexSource
from slmchat.catalog.sources import Chooser, Source
from slmchat.reporting import Reporter


def open_source(
    spec: SourceSpec, models: Path, command: str, reporter: Reporter, choose: Chooser | None = None
) -> Source:
    """The source for what the catalog says.

    `models` is slm's own directory of weights, `command` the `slm pull` command that hints repeat.
    `choose` is needed where `spec` names no file: it picks the model among the files of the repository.
    """
    if isinstance(spec, HubFile):
        return HubSource(spec, command, reporter, choose)
    return IndexSource(spec, models)
