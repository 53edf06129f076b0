"""From a name to an installed model.

Knows: which model is meant when none is named. Refuses to know: the catalog of what could be pulled, loading.
"""

from slmchat.catalog.library import Library
from slmchat.catalog.records import BASE_TAG, Installed
from slmchat.errors import ExitCode, SlmError
from slmchat.models import adapters
from slmchat.reporting import Reporter
from slmchat.settings import Settings


def find(name: str | None, settings: Settings, reporter: Reporter) -> Installed:
    """The installed model that this name (or the default) stands for; `SlmError` NO_MODEL with what to pull.

    The catalog is parsed only when the name is not that of an installed model: `slm run` has no time for it.
    """
    library = Library(settings.paths, warn=reporter.warn)
    finder = adapters.finder(settings, library)
    name = name or settings.model or library.default_model(finder.names)
    if name is None:
        is_empty = not any(record.answers for record in library.all())
        raise SlmError(
            "no model is installed." if is_empty else "several models are installed and none is chosen.",
            hint="slm pull smollm2:135m" if is_empty else "name one with -m; slm list shows them",
            exit_code=ExitCode.NO_MODEL,
        )
    return finder.find(name)


def find_embedding(name: str | None, settings: Settings, reporter: Reporter) -> Installed:
    """The installed embedding model of this name, or the only one; `SlmError` NO_MODEL with what to pull."""
    finder = adapters.finder(settings, Library(settings.paths, warn=reporter.warn))
    if name is None:
        there_are = [record.key for record in finder.embedding_models()]
        if len(there_are) != 1:
            raise SlmError(
                "several embedding models are installed." if there_are else "no embedding model is installed.",
                hint=f"name one: slm embed -m {there_are[0]}" if there_are else "slm pull all-minilm",
                exit_code=ExitCode.NO_MODEL,
            )
        (name,) = there_are
    return finder.find(name)


def is_first_run(settings: Settings) -> bool:
    """Nothing that chats is installed and no model is named anywhere."""
    library = Library(settings.paths)
    if settings.model is not None or any(record.answers and BASE_TAG not in record.tags for record in library.all()):
        return False
    default = library.default_model()
    return default is None or any(record.answers for record in library.matching(default))
