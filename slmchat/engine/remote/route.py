"""The way to an endpoint: straight, or through the proxy that the environment names.

Knows: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY as curl reads them.
Refuses to know: how a connection is made. What is on this device is never asked for through a proxy.
"""

import base64
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Protocol
from urllib.parse import unquote, urlsplit

from slmchat.endpoints import Endpoint
from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass
from slmchat.redaction import hide


class Dialer(Protocol):
    """Whoever makes the connections for a process that may not make any itself."""

    def ask(self, wait: Callable[[int], None]) -> tuple[bytes, socket.socket | None]:
        """One connection, or the words of `wire.dial` for why there is none. `wait` waits for a descriptor."""
        ...


@dataclass(frozen=True, slots=True)
class Route:
    """Where the connections go. `authorization`: what the proxy wants to see (the value of its header).

    `variable`: the one that names the proxy.
    `dialer` makes the connections; None: this process. `addresses`: what the name of the host was found to mean.
    """

    host: str
    port: int
    is_proxy: bool = False
    authorization: str | None = None
    variable: str = ""
    dialer: Dialer | None = None
    addresses: set[str] = field(default_factory=set, compare=False)

    @property
    def proxy(self) -> str | None:
        """How the proxy is named to people; None: the way is straight."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"the proxy {host}:{self.port} ({self.variable})" if self.is_proxy else None


def route_to(endpoint: Endpoint, environ: Mapping[str, str] | None = None) -> Route:
    """The way to this endpoint. Raises `SlmError` (network) for a proxy that slm cannot use."""
    environ = os.environ if environ is None else environ
    straight = Route(endpoint.host, endpoint.port)
    if endpoint.is_loopback or _is_exempt(endpoint, environ):
        return straight
    for name in (f"{endpoint.scheme}_proxy", "all_proxy"):
        value = environ.get(name) or environ.get(name.upper())
        if value:
            return _through(value, name.upper())
    return straight


def _is_exempt(endpoint: Endpoint, environ: Mapping[str, str]) -> bool:
    for entry in (environ.get("no_proxy") or environ.get("NO_PROXY") or "").split(","):
        name = entry.strip().lower().lstrip(".")
        if name == "*" or name == f"{endpoint.host}:{endpoint.port}":
            return True
        if name and (endpoint.host == name or endpoint.host.endswith(f".{name}")):
            return True
    return False


def _through(value: str, variable: str) -> Route:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        port = parts.port or 80
    except ValueError as error:
        raise _unusable(variable) from error
    if parts.scheme != "http" or not parts.hostname:
        raise _unusable(variable)
    authorization = None
    if parts.username is not None:
        password = unquote(parts.password or "")
        hide(password)
        login = f"{unquote(parts.username)}:{password}"
        authorization = f"Basic {base64.b64encode(login.encode()).decode()}"
    return Route(parts.hostname, port, is_proxy=True, authorization=authorization, variable=variable)


def _unusable(variable: str) -> SlmError:
    return SlmError(
        f"the proxy in {variable} cannot be used: slm speaks to plain HTTP proxies (http://HOST:PORT) only.",
        hint=f"unset {variable}, or name the host in NO_PROXY",
        exit_code=ExitCode.NETWORK,
    )
