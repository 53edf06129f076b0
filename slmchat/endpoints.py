"""Endpoints: where models answer that do not run in this process, and the keys that they want.

Knows: the `endpoints` table of `config.toml`, what an address may be, where a key may come from.
Refuses to know: HTTP (engine/remote), who asks, and the network: nothing here opens a connection.

A key is never in the file: it is read from an environment variable or from the system's keyring, when it is needed.
"""

import difflib
import importlib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from slmchat.errors import usage_error
from slmchat.lazy_dataclasses import dataclass
from slmchat.ranges import Range
from slmchat.redaction import hide
from slmchat.toml_schema import Check, Mistakes, flag, said, shown, table, value

# The variable with the key for an endpoint that is given by its URL and not named in the config.
KEY_VARIABLE = "SLM_ENDPOINT_KEY"

# Seconds without a byte before an endpoint is given up: a slow machine reads a long prompt for minutes.
DEFAULT_TIMEOUT_S = 300.0

_PORTS = {"http": 80, "https": 443}
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|::1")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KEYS: Mapping[str, Check] = {
    **dict.fromkeys(("url", "model", "key_env", "key_keyring"), said),
    "insecure": flag,
    "timeout": value(Range(1.0, 86_400.0).holds, "must be a number of seconds from 1 to 86400"),
}
# What people call a key that they are about to write into a file.
_KEYS_IN_THE_CLEAR = ("key", "api_key", "apikey", "token", "secret", "password")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One OpenAI-compatible endpoint.

    `path` is what stands before `/chat/completions` (`/v1`, without a slash at its end). `is_insecure`: its key may
    go over a plain connection. `timeout_s`: seconds without a byte before it is given up. `name` None: not in the
    config. `model`: the one asked when none is named.
    """

    scheme: str
    host: str
    port: int
    path: str
    name: str | None = None
    model: str | None = None
    key_env: str | None = None
    key_keyring: str | None = None
    is_insecure: bool = False
    timeout_s: float = DEFAULT_TIMEOUT_S

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this device, by its address alone; no name but `localhost` is trusted to be."""
        return bool(_LOOPBACK.fullmatch(self.host))

    @property
    def is_encrypted(self) -> bool:
        return self.scheme == "https"

    @property
    def address(self) -> str:
        """`HOST`, with the port where it is not the usual one: how the endpoint is named to people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}{self.path}"

    @property
    def asked_as(self) -> str:
        """What `--endpoint` is given to mean this one."""
        return self.name or self.url

    def key(self, environ: Mapping[str, str] | None = None) -> str | None:
        """The key, from the variable or the keyring that the config names; None: it has none.

        Raises `SlmError` (usage) when a key is configured and not there, cannot be sent, or would go over a
        connection that others can read.
        """
        environ = os.environ if environ is None else environ
        where, value = self._kept(environ)
        if value is None:
            return None
        value = value.strip()
        hide(value)
        if not re.fullmatch(r"[!-~]+", value):
            raise usage_error(f"the key for {self.address} from {where} has a character that cannot be sent.")
        if not (self.is_encrypted or self.is_loopback or self.is_insecure):
            raise usage_error(
                f"the key for {self.address} would go over a connection that others can read (http://).",
                "use https://; or insecure = true in this endpoint's table, when the network between is yours",
            )
        return value

    def _kept(self, environ: Mapping[str, str]) -> tuple[str, str | None]:
        if self.key_keyring:
            return "the keyring", _from_keyring(self.key_keyring, self.name or self.address)
        variable = self.key_env or (KEY_VARIABLE if self.name is None else None)
        value = environ.get(variable, "").strip() if variable else ""
        if self.key_env and not value:
            raise usage_error(
                f"the key for {self.address} should be in the variable {self.key_env}, which is not set.",
                f"export {self.key_env}=…",
            )
        return variable or "", value or None


def find(asked: str, tables: Mapping[str, object], file: Path) -> Endpoint:
    """The endpoint of `--endpoint URL|NAME`. Raises `SlmError` (usage) that says what is wrong with it.

    A URL that stands in the config is that endpoint, with its key and its model.
    """
    known = named(tables, file)
    if re.fullmatch(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?(/.*)?", asked) and asked not in known:
        asked = f"http://{asked}"  # a server of this device, as its log names it
    if "://" in asked:
        given = from_url(asked, "--endpoint")
        same = (one for one in known.values() if one.url == given.url)
        return next(same, given)
    if asked in known:
        return known[asked]
    near = difflib.get_close_matches(asked, known, n=3, cutoff=0.5)
    address = _with_scheme(asked)
    if near and not re.search("[:/]", asked):
        hint = f"did you mean {', '.join(near)}?"
    elif address:
        hint = f"--endpoint {address}"
    elif known:
        hint = f"the endpoints are {', '.join(known)}"
    else:
        hint = f'--endpoint https://HOST/v1, or in {file}: [endpoints.{_bare(asked)}] url = "https://HOST/v1"'
    raise usage_error(f"there is no endpoint '{asked}'.", hint)


# HOST:PORT, or HOST/PATH; a host has a dot, or a port behind it.
_PLACE = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)(?::(\d{1,5}))?(/\S*)?")


def _with_scheme(asked: str) -> str | None:
    """The address that is most likely meant by one without a scheme; None: it does not look like an address.

    It is offered, never taken: whether what you say crosses a network in the clear is not for slm to guess.
    """
    found = _PLACE.fullmatch(asked)
    if found is None:
        return None
    host, port = found[1], found[2]
    try:
        number = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        if not port and "." not in host:
            return None
        is_near = "." not in host or host.endswith((".local", ".lan", ".internal", ".home.arpa"))
    else:
        is_near = not number.is_global
    is_plain = port != "443" and (is_near or port not in (None, "8443"))
    return f"{'http' if is_plain else 'https'}://{asked}"


def named(tables: Mapping[str, object], file: Path) -> dict[str, Endpoint]:
    """The endpoints of the config by name. Raises `SlmError` (usage) with the file, the name and the reason."""
    return {name: _from_table(name, told, file) for name, told in tables.items()}


def from_url(text: str, where: str) -> Endpoint:
    """The endpoint at this address, `/v1` added where it has no path. Raises `SlmError` (usage)."""
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise usage_error(f"{where}: that is not an address ({error}).", "https://HOST/v1") from error
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme not in _PORTS or not host or re.search(r"[\s\x00-\x1f\x7f]", text.strip()):
        raise usage_error(f"{where} must be an address like https://HOST/v1 or http://127.0.0.1:8080.")
    if parts.username is not None or parts.password is not None:
        raise usage_error(
            f"{where}: a name or a key in an address would end up in histories and logs.",
            f"key_env in the config names a variable that holds it; for a plain URL the variable is {KEY_VARIABLE}",
        )
    if parts.query or parts.fragment:
        raise usage_error(f"{where}: an address must not have a part behind ? or #.")
    if not (parts.path + host).isascii():
        raise usage_error(f"{where}: an address must be of plain characters; write the host as xn--….")
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return Endpoint(parts.scheme, host.lower(), port or _PORTS[parts.scheme], path)


def _from_table(name: str, told: Any, file: Path) -> Endpoint:
    where = f"{file}: endpoint '{shown(name)}'"
    if not _NAME.fullmatch(name):
        raise usage_error(f"{where}: a name is of letters, digits, '.', '_' and '-'.")
    for key in told if isinstance(told, dict) else ():
        if str(key).lower() in _KEYS_IN_THE_CLEAR:
            hide(str(told[key]))
            raise usage_error(
                f"{where} has its key in the file, where slm does not read it.",
                'take it out, and name where it is: key_env = "MY_KEY" (a variable) or key_keyring = "SERVICE"',
            )
    mistakes = Mistakes()
    table(_KEYS, required=("url",))(told, f"endpoints.{name}", mistakes)
    mistakes.raise_if_any(file, "docs/remote.md has the keys", form="'{where}' {reason}")
    if told.get("key_env") and told.get("key_keyring"):
        raise usage_error(f"{where} names two places for its key.", "either key_env or key_keyring")
    plain = from_url(told["url"], f"{where}: 'url'")
    variable = told.get("key_env")
    if variable and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        hide(variable)  # most likely the key itself
        raise usage_error(f"{where}: 'key_env' must be the name of a variable, not the key itself.")
    return Endpoint(
        plain.scheme,
        plain.host,
        plain.port,
        plain.path,
        name=name,
        model=told.get("model"),
        key_env=variable,
        key_keyring=told.get("key_keyring"),
        is_insecure=told.get("insecure", False),
        timeout_s=float(told.get("timeout", DEFAULT_TIMEOUT_S)),
    )


def _from_keyring(place: str, user: str) -> str:
    """`SERVICE` or `SERVICE/USER` in the system's keyring. The library is optional, and imported only here."""
    service, _, named_user = place.partition("/")
    try:
        keyring = importlib.import_module("keyring")
    except ImportError as error:
        raise usage_error(
            "the config names a key in the keyring, and the library for it is not installed.",
            "pip install keyring; or key_env instead",
        ) from error
    try:
        value = keyring.get_password(service, named_user or user)
    except Exception as error:  # every backend has exceptions of its own
        raise usage_error(
            f"the keyring cannot be read: {type(error).__name__}.", "unlock it, or use key_env"
        ) from error
    if not value:
        raise usage_error(
            f"the keyring has no key of '{named_user or user}' for the service '{service}'.",
            f"keyring set {service} {named_user or user}",
        )
    return str(value)


def _bare(text: str) -> str:
    return text if _NAME.fullmatch(text) else "NAME"
