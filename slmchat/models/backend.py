"""Which model answers, and where: on this device behind the seal, or at an endpoint over the one way left open.

Knows: what every model can be asked before it is loaded, wherever it is; the models of this device.
Refuses to know: how a model is loaded (loader.py), endpoints (remote_backend.py), what is said to it.

One process reaches one place: a chat of this device cannot open the seal again, and a chat with an endpoint reaches
that endpoint and no other.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from slmchat.catalog.library import Library
from slmchat.catalog.records import BASE_TAG, Installed
from slmchat.errors import ExitCode, SlmError
from slmchat.models import adapters, resolve, sandbox
from slmchat.models.remote_backend import REMOTE_MARK, RemoteBackend, RemoteModel, open_endpoint, refuse_local_options
from slmchat.options import GenerationOptions
from slmchat.privacy.steps import KeptSockets
from slmchat.reporting import Reporter
from slmchat.settings import Settings

if TYPE_CHECKING:  # what loads a model is imported when one is: the prompt of a chat stands there before
    from slmchat.engine.requests import Adapter
    from slmchat.models.loader import LoadedBeside, Loading


class ModelServer(Protocol):
    """A server of this user that may have a model in memory. `kept`: the sockets to it, made before the seal."""

    kept: KeptSockets

    def instead_of(self, model: "BackendModel", options: GenerationOptions, settings: Settings) -> "LocalModel | None":
        """The same model in the server's memory; None when it is another one, or computed in another way."""
        ...


def open_backend(
    options: GenerationOptions,
    settings: Settings,
    reporter: Reporter,
    writable: Sequence[Path] = (),
    server: ModelServer | None = None,
) -> "Backend":
    """Settle where this process looks for models, and close every other way out of it.

    `writable`: what the user has named to be written, besides slm's own places. `server`: may have the model already.
    Raises `SlmError`: USAGE, NETWORK for an endpoint that `--offline` forbids, UNSEALED.
    """
    if options.endpoint is None:
        sandbox.seal(settings, writable=writable, kept=None if server is None else server.kept)
        return LocalBackend(server)
    refuse_local_options(options)
    return open_endpoint(options.endpoint, settings, reporter, writable)


class LocalBackend:
    """This device, sealed.

    `what_happens`: what a message does that is sent to a model: "leave this device"; "" where it stays in this process.
    """

    host = None
    what_happens = ""

    def __init__(self, server: ModelServer | None = None) -> None:
        """`server`: one of this user, which may have a model in memory."""
        self._server = server

    def find(self, name: str | None, settings: Settings, reporter: Reporter) -> "LocalModel":
        """The model of this name, or the default. Raises `SlmError` (no model)."""
        return LocalModel(resolve.find(name, settings, reporter))

    def find_again(self, key: str, settings: Settings, reporter: Reporter) -> "LocalModel":
        """The model of an earlier answer. Raises `SlmError` when it cannot answer here."""
        if key.startswith(REMOTE_MARK):
            host, _, model = key.removeprefix(REMOTE_MARK).partition("/")
            raise SlmError(
                f"the last answers came from {model} at {host}, and this chat stays on this device "
                f"(to go on there: slm chat -c --endpoint …).",
                exit_code=ExitCode.NO_MODEL,
            )
        return LocalModel(resolve.find(key, settings, reporter))

    def warmed(self, model: "BackendModel", options: GenerationOptions, settings: Settings) -> "BackendModel":
        """This model, or the same in the memory of a server of this user, if it is there just as it would be here."""
        return (self._server and self._server.instead_of(model, options, settings)) or model


class LocalModel:
    """An installed model, chosen: what it can be asked before it is loaded. That of an endpoint can be asked the same.

    `key` names it and no other, `label` is the name as it is shown, `title` in words; `host` is where it is, None: on
    this device. `sampler`, `sampler_thinking`: the settings that its makers recommend, as far as slm knows, and those
    for an answer that begins with a thought. `draft`: the name of a small model that drafts for it, as far as the
    catalog knows one. `files`: what it is made of. `embeds`: it was opened to make vectors, and nothing else.
    `is_base`: it completes texts and was not made to chat, as far as that is known before it is loaded.
    `supports_vision`: it can be shown pictures.
    """

    host = None

    def __init__(self, installed: Installed, *, embeds: bool = False) -> None:
        self.installed = installed
        self.embeds = embeds
        self.key = installed.key
        self.label = installed.path.name if installed.name.endswith(".gguf") else installed.key  # a file used in place
        self.title = installed.title or str(installed.path)
        self.sampler = installed.sampler
        self.sampler_thinking = installed.sampler_thinking
        self.draft = installed.draft
        self.files = tuple(file.path for file in installed.files)
        self.is_base = BASE_TAG in installed.tags
        self.supports_vision = installed.projector is not None

    def with_projector(self, path: str | None) -> "LocalModel":
        """The same with the projector of `--mmproj`, if there is one. Raises `SlmError` when that is none."""
        if path is None:
            return self
        from slmchat.models import vision

        return LocalModel(vision.with_projector(self.installed, path), embeds=self.embeds)

    def check_vision(self, settings: Settings) -> None:
        """Raises `SlmError` with what to do instead when it cannot be shown pictures."""
        from slmchat.models import vision

        vision.check_vision(self.installed, settings)

    def with_adapters(
        self, texts: Sequence[str], settings: Settings, present: "Sequence[Adapter] | None" = None
    ) -> "tuple[Adapter, ...]":
        """The LoRA adapters that count when these were named beside `present` (None: those of its own name).

        Raises `SlmError`.
        """
        return adapters.with_adapters(self.installed, texts, settings, present)

    def without_adapters(self) -> "tuple[Adapter, ...]":
        """What has to be asked for so that no LoRA adapter counts, in a window opened later too. Raises `SlmError`."""
        return ()

    def is_called(self, name: str) -> bool:
        """Whether this name means it."""
        return name in (self.installed.name, self.installed.key)

    def check(self) -> None:
        """Raises `SlmError` when it is not there, and may take as long as the network does. This one was found."""

    def start(self, options: GenerationOptions, settings: Settings, beside: "LoadedBeside") -> "Loading":
        """Begin to load it, with these `beside` it."""
        from slmchat.models import loader

        if self.embeds:
            return loader.start_loading(self.installed, options, settings, embeds=True)
        return loader.start_loading(self.installed, options, settings, beside)

    def report(self, loading: "Loading", reporter: Reporter) -> None:
        """What the user has to know of the loading, and for `-v` everything that was said."""
        for notice in loading.notices:
            reporter.warn(notice)
        if reporter.shows_engine_log:
            from slmchat.engine import native

            for line in native.log_lines():
                reporter.detail(line)

    def remember(self, settings: Settings) -> None:
        """It has been used: the next command without a name may mean it."""
        Library(settings.paths).remember(self.installed.key)


BackendModel = LocalModel | RemoteModel
"""A model that was chosen, here or at an endpoint."""

Backend = LocalBackend | RemoteBackend
"""Where models are looked for in this process."""
