"""Which model answers, and where: on this device behind the seal, or at an endpoint over the one way left open.

Knows: `--endpoint`, what each choice closes before anything else happens, how a model is named in a conversation.
Refuses to know: how a model is loaded (models/loader.py, engine/remote), what is said to it.

One process reaches one place: a chat of this device cannot open the seal again, and a chat with an endpoint reaches
that endpoint and no other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from slmchat.catalog import adapter_names
from slmchat.catalog.library import Library
from slmchat.catalog.records import Installed
from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass
from slmchat.models import adapters, resolve, sandbox
from slmchat.options import GenerationOptions
from slmchat.privacy.steps import KeptSockets
from slmchat.reporting import Reporter
from slmchat.settings import Settings

if TYPE_CHECKING:  # what loads a model is imported when one is: the prompt of a chat stands there before
    from slmchat.endpoints import Endpoint
    from slmchat.engine.api import Adapter, Engine
    from slmchat.engine.remote.adapters import RemoteAdapter
    from slmchat.engine.remote.engine import RemoteEngine
    from slmchat.engine.remote.route import Route
    from slmchat.models.loader import LoadedBeside, Loading
    from slmchat.privacy.dialer import DialerProcess

# How the model of an endpoint is named in messages and the archive: `remote:HOST/MODEL`.
REMOTE_MARK = "remote:"


class BackendModel(Protocol):
    """A model that was chosen. `key` names it and no other; `host` is where it is, None: on this device."""

    @property
    def key(self) -> str: ...

    @property
    def label(self) -> str:
        """The name as it is shown."""
        ...

    @property
    def title(self) -> str:
        """The name in words."""
        ...

    @property
    def host(self) -> str | None: ...

    @property
    def sampler(self) -> Mapping[str, float]:
        """The sampler settings that its makers recommend, as far as slm knows."""
        ...

    @property
    def sampler_thinking(self) -> Mapping[str, float]:
        """Those for an answer that begins with a thought; empty where they are the same."""
        ...

    @property
    def draft(self) -> str | None:
        """The name of a small model that drafts for it, as far as the catalog knows one."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it is made of; none where it is elsewhere."""
        ...

    @property
    def embeds(self) -> bool:
        """Whether it was opened to make vectors, and nothing else."""
        ...

    @property
    def supports_vision(self) -> bool:
        """Whether it can be shown pictures."""
        ...

    def with_projector(self, path: str | None) -> "BackendModel":
        """The same with the projector of `--mmproj`, if there is one. Raises `SlmError` when that is none."""
        ...

    def check_vision(self, settings: Settings) -> None:
        """Raises `SlmError` with what to do instead when it cannot be shown pictures."""
        ...

    def with_adapters(
        self, texts: Sequence[str], settings: Settings, present: "Sequence[Adapter] | None" = None
    ) -> "tuple[Adapter, ...]":
        """The LoRA adapters that count when these were named beside `present` (None: those of its own name).

        Raises `SlmError`.
        """
        ...

    def without_adapters(self) -> "tuple[Adapter, ...]":
        """What has to be asked for so that no LoRA adapter counts, in a window opened later too. Raises `SlmError`."""
        ...

    def is_called(self, name: str) -> bool:
        """Whether this name means it."""
        ...

    def check(self) -> None:
        """Raises `SlmError` when it is not there. May take as long as the network does."""
        ...

    def start(self, options: GenerationOptions, settings: Settings, beside: "LoadedBeside") -> "Loading":
        """Begin to load it, with these `beside` it."""
        ...

    def report(self, loading: "Loading", reporter: Reporter) -> None:
        """What the user has to know of the loading, and for `-v` everything that was said."""
        ...

    def remember(self, settings: Settings) -> None:
        """It has been used: the next command without a name may mean it."""
        ...


class ModelServer(Protocol):
    """A server of this user that may have a model in memory. `kept`: the sockets to it, made before the seal."""

    kept: KeptSockets

    def instead_of(self, model: BackendModel, options: GenerationOptions, settings: Settings) -> "LocalModel | None":
        """The same model in the server's memory; None when it is another one, or computed in another way."""
        ...


class Backend(Protocol):
    """Where models are looked for in this process."""

    @property
    def host(self) -> str | None: ...

    @property
    def what_happens(self) -> str:
        """What a message does that is sent there: "leave this device"; "" where it stays in this process."""
        ...

    def find(self, name: str | None, settings: Settings, reporter: Reporter) -> BackendModel:
        """The model of this name, or the default. Raises `SlmError` (no model)."""
        ...

    def find_again(self, key: str, settings: Settings, reporter: Reporter) -> BackendModel:
        """The model of an earlier answer. Raises `SlmError` when it cannot answer here."""
        ...

    def warmed(self, model: BackendModel, options: GenerationOptions, settings: Settings) -> BackendModel:
        """This model, or the same in the memory of a server of this user, if it is there just as it would be here."""
        ...


def open_backend(
    options: GenerationOptions,
    settings: Settings,
    reporter: Reporter,
    writable: Sequence[Path] = (),
    server: ModelServer | None = None,
) -> Backend:
    """Settle where this process looks for models, and close every other way out of it.

    `writable`: what the user has named to be written, besides slm's own places. `server`: may have the model already.
    Raises `SlmError`: USAGE, NETWORK for an endpoint that `--offline` forbids, UNSEALED.
    """
    if options.endpoint is None:
        sandbox.seal(settings, writable=writable, kept=None if server is None else server.kept)
        return LocalBackend(server)
    refuse_local_options(options)
    return open_endpoint(options.endpoint, settings, reporter, writable)


def open_endpoint(asked: str, settings: Settings, reporter: Reporter, writable: Sequence[Path] = ()) -> "RemoteBackend":
    """The endpoint of `--endpoint`, after closing every other way. Raises `SlmError` as `open_backend` does."""
    from slmchat import endpoints
    from slmchat.engine.remote.route import route_to
    from slmchat.privacy.seal import own_directories

    endpoint = endpoints.find(asked, settings.endpoints, settings.paths.config_file)
    if settings.is_offline and not endpoint.is_loopback:
        raise SlmError(
            f"{endpoint.address} is not on this device, and --offline forbids everything else.",
            hint="without --offline (or SLM_OFFLINE) it may be asked",
            exit_code=ExitCode.NETWORK,
        )
    route = route_to(endpoint)
    dialer = _dialer(route, is_loopback=endpoint.is_loopback)  # before a keyring starts threads
    key = endpoint.key()  # before the egress: a keyring is asked over local sockets
    own = () if settings.is_private else own_directories(settings.paths)
    sandbox.restrict(endpoint, route, dialer, settings, reporter, writable=(*own, *writable))
    return RemoteBackend(endpoint, key, replace(route, dialer=dialer))


def endpoint_in_open_process(asked: str, settings: Settings) -> "RemoteBackend":
    """The same for a program that has not asked to be closed: every other way stays as it is. Raises `SlmError`."""
    from slmchat import endpoints
    from slmchat.engine.remote.route import route_to

    endpoint = endpoints.find(asked, settings.endpoints, settings.paths.config_file)
    return RemoteBackend(endpoint, endpoint.key(), route_to(endpoint))


def _dialer(route: "Route", *, is_loopback: bool) -> "DialerProcess | None":
    """The process that makes the connections; None: this one has to."""
    from slmchat.engine.remote.wire import dial
    from slmchat.privacy import forked
    from slmchat.privacy.dialer import DialerProcess

    if not forked.is_possible():
        return None
    try:
        return DialerProcess(lambda: dial(route), port=route.port, names=not is_loopback)
    except OSError:  # no more processes; what the kernel keeps closed without one is told
        return None


def refuse_local_options(options: GenerationOptions) -> None:
    given = {
        "--ctx": options.ctx,
        "--threads": options.threads,
        "--gpu-layers": options.gpu_layers,
        "--device": options.device,
        "--kv-type": options.kv_type,
        "--mmproj": options.mmproj,
        "--draft": options.draft,
        "--speculation": options.speculation,
        "--force": options.force or None,
    }
    for flag, value in given.items():
        if value is not None:
            raise SlmError(
                f"{flag} cannot be given together with --endpoint: the endpoint decides that.", exit_code=ExitCode.USAGE
            )


class LocalBackend:
    """This device, sealed."""

    host = None
    what_happens = ""

    def __init__(self, server: ModelServer | None = None) -> None:
        """`server`: one of this user, which may have a model in memory."""
        self._server = server

    def find(self, name: str | None, settings: Settings, reporter: Reporter) -> BackendModel:
        return LocalModel(resolve.find(name, settings, reporter))

    def find_again(self, key: str, settings: Settings, reporter: Reporter) -> BackendModel:
        if key.startswith(REMOTE_MARK):
            host, _, model = key.removeprefix(REMOTE_MARK).partition("/")
            raise SlmError(
                f"the last answers came from {model} at {host}, and this chat stays on this device "
                f"(to go on there: slm chat -c --endpoint …).",
                exit_code=ExitCode.NO_MODEL,
            )
        return LocalModel(resolve.find(key, settings, reporter))

    def warmed(self, model: BackendModel, options: GenerationOptions, settings: Settings) -> BackendModel:
        return (self._server and self._server.instead_of(model, options, settings)) or model


@dataclass(frozen=True, slots=True)
class RemoteBackend:
    """One endpoint."""

    endpoint: "Endpoint"
    key: str | None
    route: "Route"

    @property
    def host(self) -> str:
        return self.endpoint.address

    @property
    def what_happens(self) -> str:
        return "go to another program on this device" if self.endpoint.is_loopback else "leave this device"

    def find(self, name: str | None, settings: Settings, reporter: Reporter) -> BackendModel:
        return RemoteModel(self, name or self.endpoint.model, reporter)

    def find_again(self, key: str, settings: Settings, reporter: Reporter) -> BackendModel:
        mark = f"{REMOTE_MARK}{self.host}/"
        return RemoteModel(self, key.removeprefix(mark) if key.startswith(mark) else self.endpoint.model, reporter)

    def warmed(self, model: BackendModel, options: GenerationOptions, settings: Settings) -> BackendModel:
        return model


class LocalModel:
    """An installed model. Implements `BackendModel`."""

    host = None

    def __init__(self, installed: Installed, *, embeds: bool = False) -> None:
        """`embeds`: it is to make vectors."""
        self.installed = installed
        self.embeds = embeds
        self.key = installed.key
        self.label = installed.path.name if installed.name.endswith(".gguf") else installed.key  # a file used in place
        self.title = installed.title or str(installed.path)
        self.sampler = installed.sampler
        self.sampler_thinking = installed.sampler_thinking
        self.draft = installed.draft
        self.files = tuple(file.path for file in installed.files)
        self.supports_vision = installed.projector is not None

    def with_projector(self, path: str | None) -> "LocalModel":
        if path is None:
            return self
        from slmchat.models import vision

        return LocalModel(vision.with_projector(self.installed, path), embeds=self.embeds)

    def check_vision(self, settings: Settings) -> None:
        from slmchat.models import vision

        vision.check_vision(self.installed, settings)

    def with_adapters(
        self, texts: Sequence[str], settings: Settings, present: "Sequence[Adapter] | None" = None
    ) -> "tuple[Adapter, ...]":
        return adapters.with_adapters(self.installed, texts, settings, present)

    def without_adapters(self) -> "tuple[Adapter, ...]":
        return ()

    def is_called(self, name: str) -> bool:
        return name in (self.installed.name, self.installed.key)

    def check(self) -> None:
        """It was there when it was found."""

    def start(self, options: GenerationOptions, settings: Settings, beside: "LoadedBeside") -> "Loading":
        from slmchat.models import loader

        if self.embeds:
            return loader.start_loading(self.installed, options, settings, embeds=True)
        return loader.start_loading(self.installed, options, settings, beside)

    def report(self, loading: "Loading", reporter: Reporter) -> None:
        for notice in loading.notices:
            reporter.warn(notice)
        if reporter.shows_engine_log:
            from slmchat.engine import native

            for line in native.log_lines():
                reporter.detail(line)

    def remember(self, settings: Settings) -> None:
        Library(settings.paths).remember(self.installed.key)


class RemoteModel:
    """A model of an endpoint. Implements `BackendModel`. Its name is known at the latest when it is loaded."""

    def __init__(self, place: RemoteBackend, name: str | None, reporter: Reporter) -> None:
        self._place = place
        self._name = name
        self._reporter = reporter
        self._engine: RemoteEngine | None = None
        self.sampler: Mapping[str, float] = {}
        self.sampler_thinking: Mapping[str, float] = {}

    @property
    def host(self) -> str:
        return self._place.host

    @property
    def key(self) -> str:
        return f"{REMOTE_MARK}{self.host}/{self._name or '…'}"

    @property
    def label(self) -> str:
        return f"{self._name or '…'} · REMOTE {self.host}"

    @property
    def title(self) -> str:
        name = f"{self._name} at " if self._name else ""
        return f"{name}{self._place.endpoint.url} (REMOTE: messages {self._place.what_happens})"

    @property
    def supports_vision(self) -> bool:
        """Whether it may: few endpoints tell before they are shown a picture."""
        return self._engine is None or self._engine.model.sees is not False

    files: tuple[Path, ...] = ()
    embeds = False
    draft = None

    def with_projector(self, path: str | None) -> "RemoteModel":
        """Unchanged: `--mmproj` was refused when the endpoint was entered."""
        return self

    def check_vision(self, settings: Settings) -> None:
        from slmchat.engine.remote.errors import does_not_see

        if not self.supports_vision:
            raise does_not_see(self._place.endpoint)

    def with_adapters(
        self, texts: Sequence[str], settings: Settings, present: "Sequence[Adapter] | None" = None
    ) -> "tuple[Adapter, ...]":
        if not texts:
            return tuple(present or ())
        from slmchat.engine.remote.adapters import joined, named

        served = self._served_adapters()
        parsed = [adapter_names.parse(text) for text in texts]
        return joined(
            present or (),
            [replace(named(served, target, self._place.endpoint), scale=scale) for target, scale in parsed],
        )

    def without_adapters(self) -> "tuple[Adapter, ...]":
        """Every adapter of the server, off: a request that names none gets those that the server applies by itself."""
        return tuple(replace(adapter, scale=0.0) for adapter in self._served_adapters())

    def _served_adapters(self) -> "tuple[RemoteAdapter, ...]":
        from slmchat.engine.remote.engine import served_adapters

        place = self._place
        return served_adapters(place.endpoint, place.key, place.route, self._reporter.note)

    def is_called(self, name: str) -> bool:
        return name in (self._name, self.key)

    def check(self) -> None:
        from slmchat.engine.remote.engine import choose, list_models

        place = self._place
        models = list_models(place.endpoint, place.key, place.route, self._reporter.note)
        self._name = choose(models, self._name, place.endpoint).id

    def start(self, options: GenerationOptions, settings: Settings, beside: "LoadedBeside") -> "Loading":
        from slmchat.models.loader import Loading

        return Loading(self._load)

    def _load(self) -> "tuple[Engine, None]":
        from slmchat.engine.remote.engine import load

        place = self._place
        engine = load(place.endpoint, place.key, self._name, place.route, self._reporter.note)
        self._name, self._engine = engine.model.id, engine
        return engine, None

    def report(self, loading: "Loading", reporter: Reporter) -> None:
        reporter.detail(f"{self._name} at {self._place.endpoint.url}")

    def remember(self, settings: Settings) -> None:
        """Never: a command that names no model must not reach out to one."""
