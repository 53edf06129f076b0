"""A model of an endpoint: the one way to it left open, what is asked there, how it is named in a conversation.

Knows: what is closed before an endpoint is asked, which options are its own affair. The classes can be asked what those
for this device can be asked (backend.py), and say there what a method does.
Refuses to know: HTTP and what is sent (engine/remote), what is said to the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from slmchat.catalog import adapter_names
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.lazy_dataclasses import dataclass
from slmchat.models import sandbox
from slmchat.options import GenerationOptions
from slmchat.reporting import Reporter
from slmchat.settings import Settings

if TYPE_CHECKING:  # what loads a model is imported when one is: the prompt of a chat stands there before
    from slmchat.endpoints import Endpoint
    from slmchat.engine.api import Engine
    from slmchat.engine.remote.adapters import RemoteAdapter
    from slmchat.engine.remote.engine import RemoteEngine
    from slmchat.engine.remote.route import Route
    from slmchat.engine.requests import Adapter
    from slmchat.models.loader import LoadedBeside, Loading
    from slmchat.privacy.dialer import DialerProcess

Model = TypeVar("Model")

# How the model of an endpoint is named in messages and the archive: `remote:HOST/MODEL`.
REMOTE_MARK = "remote:"


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
            raise usage_error(f"{flag} cannot be given together with --endpoint: the endpoint decides that.")


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

    def find(self, name: str | None, settings: Settings, reporter: Reporter) -> "RemoteModel":
        return RemoteModel(self, name or self.endpoint.model, reporter)

    def find_again(self, key: str, settings: Settings, reporter: Reporter) -> "RemoteModel":
        mark = f"{REMOTE_MARK}{self.host}/"
        return RemoteModel(self, key.removeprefix(mark) if key.startswith(mark) else self.endpoint.model, reporter)

    def warmed(self, model: Model, options: GenerationOptions, settings: Settings) -> Model:
        return model


class RemoteModel:
    """A model of an endpoint. Its name is known at the latest when it is loaded."""

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
    embeds = is_base = False
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
