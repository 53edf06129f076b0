"""The Hub's own client, as far as slm trusts it: its session, and answers of a bounded length.

The only place that imports huggingface_hub, besides the table of its errors. slm asks through its session (proxies,
tokens, offline mode work as its users know them), and reads the answers itself: an answer may be endless, or a page of
a captive portal.

Knows: where the client keeps its cache, TLS, how much of an answer is read, which answers are not a Hub's.
Refuses to know: repositories and files (hub.py), what a sound answer means (untrusted.py).
"""

import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from slmchat.catalog.sources import Unreachable
from slmchat.catalog.untrusted import MalformedAnswer, NotAHub, parsed_json
from slmchat.errors import ExitCode, SlmError
from slmchat.redaction import redacted
from slmchat.user_paths import user_path

# A listing with hashes has about 250 bytes a file; the largest repositories of models have some thousand files.
_MOST_LISTING = 16 << 20
_MOST_REFUSAL = 64 << 10
# Seconds for a whole answer that is not a file: the client's own limit counts from byte to byte.
_MOST_SECONDS = 60.0

MOST_WAITS = 3
"""How often an answer "too many requests" is waited for."""

# Seconds that are waited at a time: the Hub counts requests in windows of five minutes (hub-docs, rate limits).
_MOST_WAIT_S = 300.0


# What the client, and the HTTP library below it, read from the environment when they begin.
_TIMES = ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")
_TOKEN_PLACES = ("HF_TOKEN_PATH", "HF_HOME")
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")


def hub_package() -> Any:
    """The huggingface_hub package, imported late (0.2 s), without telemetry, and with nothing but TLS.

    Raises `Unreachable` where it cannot begin: a proxy, a certificate, a token or a time that cannot be used.
    """
    package = _imported()
    with _set_up(*_PROXIES, *_CERTIFICATES):
        hooks = package.get_session().event_hooks
    if _refuse_plain_http in hooks["request"]:
        return package
    with _set_up(*_TOKEN_PLACES):
        package.utils.build_hf_headers()  # reads the token
    with _set_up(*_TIMES):
        if min(package.constants.HF_HUB_DOWNLOAD_TIMEOUT, package.constants.HF_HUB_ETAG_TIMEOUT) < 0:
            raise ValueError("a time below zero")
    package.get_session().event_hooks = {**hooks, "request": [*hooks["request"], _refuse_plain_http]}
    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(_without_controls)
    return package


def _imported() -> Any:
    for variable in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_DISABLE_UPDATE_CHECK"):
        os.environ[variable] = "1"
    with _set_up(*_TIMES):
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.utils

        return huggingface_hub


@contextmanager
def _set_up(*variables: str) -> Iterator[None]:
    """What goes wrong inside is the fault of these variables, and neither slm's nor the Hub's."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ImportError) and "socksio" in str(error):
            raise Unreachable(
                "the proxy of this environment is a SOCKS proxy, and the Python package for them is missing.",
                hint=f"{sys.executable} -m pip install socksio, or unset {proxies_in_use()}",
            ) from error
        names = [name for name in variables if name in os.environ]
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if isinstance(error, OSError) and error.filename:
            reason = f"{error.filename}: {reason}"
        raise Unreachable(
            f"the Hub's client cannot be used as it is set up here: {redacted(' '.join(reason.split()))}.",
            hint=f"look at {', '.join(names)}" if names else None,
        ) from error


def proxies_in_use() -> str:
    """The variables that name a proxy, separated by commas; "" without one."""
    return ", ".join(name for name in _PROXIES if os.environ.get(name))


def _without_controls(record: logging.LogRecord) -> bool:
    """The package writes warnings of the server on stderr as they came (`X-HF-Warning`), also on a terminal."""
    text = record.getMessage()
    record.msg, record.args = "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text), ()
    return True


def cache_directory() -> Path:
    """Where the Hub's client keeps its files on this device."""
    return user_path(_imported().constants.HF_HUB_CACHE).absolute()


def transport_errors() -> tuple[type[Exception], ...]:
    """The base class of the transport's errors: httpx's with huggingface_hub 1, httpx2's with 2."""
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(
        base for base in HfHubHTTPError.__mro__[1:] if base.__name__ == "HTTPError" and issubclass(base, Exception)
    )


@contextmanager
def opened(url: str, more_headers: Mapping[str, str], *, timeout_s: float) -> Iterator[Any]:
    """The response to a GET; its body has not been read. `timeout_s`: seconds without a byte.

    Raises the client's errors. What status it has is the caller's to check (`check_status`).
    """
    hub = hub_package()
    headers = {**hub.utils.build_hf_headers(library_name="slm"), "Accept-Encoding": "identity", **more_headers}
    with hub.get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=timeout_s) as response:
        yield response


def read_json(url: str) -> Any:
    """The JSON that a Hub answers with. Raises `MalformedAnswer` for no JSON or too much, and the client's errors."""
    with opened(url, {}, timeout_s=hub_package().constants.HF_HUB_ETAG_TIMEOUT) as response:
        check_status(response)
        return parsed_json(_body(response, _MOST_LISTING))


def asked_to_wait(error: Exception) -> float | None:
    """Seconds until a server that answers 429 wants to be asked again, by `Retry-After` or the Hub's `RateLimit`.

    None for any other error, for one that does not say, and for a wait that nobody would sit through.
    """
    response = getattr(error, "response", None)
    if getattr(response, "status_code", None) != 429:
        return None
    stated = str(response.headers.get("Retry-After", "")).strip()  # type: ignore[union-attr] # it has a status
    limit = re.search(r"\bt=(\d{1,6})\b", response.headers.get("RateLimit", ""))  # type: ignore[union-attr]
    if re.fullmatch(r"\d{1,6}", stated):
        seconds = float(stated)
    elif stated:
        try:
            until = parsedate_to_datetime(stated)
        except ValueError:
            return None
        seconds = max(0.0, until.timestamp() - time.time())
    elif limit:
        seconds = float(limit[1])
    else:
        return None
    return seconds if seconds <= _MOST_WAIT_S else None


def check_status(response: Any, accepted: tuple[int, ...] = (200,)) -> None:
    """Raises the client's error for an answer that refuses, `MalformedAnswer` for one that fits no question."""
    if response.status_code >= 400:
        import huggingface_hub.utils

        utils: Any = huggingface_hub.utils
        coded = ("content-encoding", "content-length", "transfer-encoding")
        utils.hf_raise_for_status(
            type(response)(  # the client reads the body of a refusal whole, however long it is
                response.status_code,
                headers=[(name, value) for name, value in response.headers.items() if name not in coded],
                content=_body(response, _MOST_REFUSAL, is_cut=True),
                request=response.request,
            )
        )
    if response.status_code not in accepted:
        raise MalformedAnswer(f"it answers with the status {response.status_code}")


def blocks(response: Any) -> Iterator[bytes]:
    """The bytes of a file as they come. Raises `MalformedAnswer` for an answer that is not the file itself."""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise MalformedAnswer("it sends the file in an encoding that was not asked for")
    if response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise NotAHub("it answers with a web page")
    yield from response.iter_raw()


def _body(response: Any, most: int, *, is_cut: bool = False) -> bytes:
    """The body of an answer, not longer than `most` bytes (`is_cut`: the rest is left), in a bounded time."""
    data = bytearray()
    end = time.monotonic() + _MOST_SECONDS
    for block in response.iter_bytes():
        data += block
        if len(data) > most or time.monotonic() > end:
            if is_cut:
                break
            raise MalformedAnswer("its answer is too long" if len(data) > most else "its answer does not end")
    return bytes(data[:most])


def _refuse_plain_http(request: Any) -> None:
    """Called by the client before every request, also before each one that follows a redirect. Raises `SlmError`."""
    url = str(request.url)
    if not is_safe(url):
        raise not_safe(f"the Hub's answer leads to {urlsplit(url).scheme}://{urlsplit(url).hostname}")


def is_safe(url: str) -> bool:
    """Whether nobody between here and there can read or change what is sent: TLS, or this very device."""
    if not is_address(url):
        return False
    scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
    return bool(host) and (scheme == "https" or (scheme == "http" and _is_loopback(host or "")))


def is_address(url: str) -> bool:
    """Whether it is written as an address can be: a host in it, a port that there is, nothing that nobody sees."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0 and not re.search(r"[\s\x00-\x20\x7f]", url)
    except ValueError:  # brackets that hold no IPv6 address, a port above 65535
        return False


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def not_safe(what: str, hint: str | None = None) -> SlmError:
    """The error for an address that others can read or change on the way."""
    return SlmError(
        f"{what}, and slm fetches over TLS (https) only; plain http is for this device itself.",
        hint=hint,
        exit_code=ExitCode.NETWORK,
    )
