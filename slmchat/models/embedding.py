"""An embedding model, opened: found, loaded, ready to make vectors.

Knows: which models of this device make vectors, which is meant, how it computes here.
Refuses to know: where texts come from, what becomes of the vectors.
"""

from slmchat.catalog.library import Library
from slmchat.catalog.records import Installed
from slmchat.engine.api import Embedder
from slmchat.models import adapters, resolve
from slmchat.models.backend import Backend, LocalModel
from slmchat.models.open import OpenModel
from slmchat.options import GenerationOptions
from slmchat.reporting import Reporter
from slmchat.settings import Settings

# The context is made for the texts that come; this is what its settings are made for.
_N_CTX = 512


def open_embedding(backend: Backend, options: GenerationOptions, settings: Settings, reporter: Reporter) -> OpenModel:
    """Choose the embedding model that the options name, or the only one, and begin to load it.

    Raises `SlmError`: NO_MODEL; what its loading raises comes later.
    """
    if backend.host is not None:
        model = backend.find(options.model, settings, reporter)
        return OpenModel(model, options, settings, reporter, is_remembered=False)
    found = LocalModel(resolve.find_embedding(options.model, settings, reporter), embeds=True)
    return OpenModel(found, options, settings, reporter, is_remembered=False)


def installed_embedding_models(settings: Settings, reporter: Reporter) -> list[Installed]:
    """Those that are installed, and files that `slm add` has named."""
    return adapters.finder(settings, Library(settings.paths, warn=reporter.warn)).embedding_models()


def newest_embedding_model(settings: Settings, reporter: Reporter) -> Installed | None:
    """The one that was pulled last, else the file that was named last with `slm add`; None: there is none."""
    finder = adapters.finder(settings, Library(settings.paths, warn=reporter.warn))
    pulled = finder.pulled_embedding_models()
    if pulled:  # then no header of a file that has a name is read
        return max(pulled, key=lambda record: (record.admitted_at, record.key))
    return next(reversed(finder.embedding_models()), None)


def open_installed_embedding(
    installed: Installed, options: GenerationOptions, settings: Settings, reporter: Reporter
) -> OpenModel:
    """An installed embedding model, in a process that is closed in already. What is computed with alone counts of the
    `options`. Raises what its loading raises later."""
    chosen = GenerationOptions(
        threads=options.threads, gpu_layers=options.gpu_layers, device=options.device, force=options.force
    )
    return OpenModel(LocalModel(installed, embeds=True), chosen, settings, reporter, is_remembered=False)


def embedder(opened: OpenModel, *, is_cut: bool) -> Embedder:
    """What makes the vectors. `is_cut`: of texts that are too long, the beginning counts. Waits for the model."""
    return opened.engine.embedder(opened.session_settings(_N_CTX), is_cut=is_cut)
