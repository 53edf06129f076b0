"""What goes wrong between slm and an endpoint, one sentence each.

Knows: the exceptions of sockets, TLS and http.client, status codes.
Refuses to know: what was asked, how servers word their refusals (error_words.py).
"""

import http.client
import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from slmchat.endpoints import KEY_VARIABLE, Endpoint
from slmchat.engine.remote.cancel import Cancelled
from slmchat.engine.remote.error_words import ErrorWords, quoted
from slmchat.engine.remote.events import TooLarge
from slmchat.engine.remote.wire import NoSuchHost, ProxyRefused, TimedOut
from slmchat.errors import ExitCode, SlmError, usage_error

_PROXY_HINT = "check the proxy; NO_PROXY=HOST names a host that is asked straight"
_OK = 200  # the status of an answer that tells its error inside


class Refusal(SlmError):
    """The endpoint answered, and refused. `said`: its own words; `param`: the field of the request that it names."""

    def __init__(self, message: str, *, exit_code: ExitCode, hint: str | None, status: int, said: ErrorWords) -> None:
        super().__init__(message, exit_code=exit_code, hint=hint)
        self.status = status
        self.said = said


class Truncated(SlmError):
    """The stream ended without saying that the completion did."""


def meaning(status: int) -> str:
    """`Too Many Requests` for 429."""
    return http.client.responses.get(status, "overloaded" if status == 529 else "no meaning known")


def of_status(endpoint: Endpoint, status: int, body: bytes | str, has_key: bool, proxy: str | None = None) -> SlmError:
    """The sentence for an answer with a bad status. `proxy`: as `translated` takes it."""
    said = ErrorWords(body)
    where = endpoint.address
    words = f": {said.text}" if said.text else ""
    page = " with a web page" if said.is_page else ""

    def refusal(message: str, code: ExitCode, hint: str | None = None) -> Refusal:
        return Refusal(message, exit_code=code, hint=hint, status=status, said=said)

    if status == 407:
        return refusal(
            f"{proxy or 'a proxy before ' + where} does not let slm through to {where} ({status}{words}).",
            ExitCode.NETWORK,
            "a proxy with a login: HTTP_PROXY=http://NAME:PASSWORD@HOST:PORT",
        )
    if status in (401, 403):
        what = "the key" if has_key else "a request without a key"
        return refusal(f"{where} refuses {what} ({status}{words}).", ExitCode.NETWORK, _key_hint(endpoint, has_key))
    if said.is_about_context and status in (400, 413, 422, 500):
        return refusal(
            f"{where} says that the conversation does not fit its context window ({status}{words}).",
            ExitCode.CONTEXT,
            "a shorter input; in a chat: /undo, /clear",
        )
    if said.is_about_model and status in (400, 404):
        return refusal(f"{where} does not have this model ({status}{words}).", ExitCode.NO_MODEL, _list_hint(endpoint))
    if status == 404:
        return refusal(
            f"{where} has nothing at {endpoint.path} ({status}{page}{words}).",
            ExitCode.NETWORK,
            "is it an OpenAI-compatible endpoint? most have /v1 in their address",
        )
    if status in (400, 413, 415, 422):
        return refusal(f"{where} does not take this request ({status}{words}).", ExitCode.USAGE)
    if status in (429, 500, 502, 503, 504, 529):
        return refusal(
            f"{where} answers {status} ({meaning(status)}){page}{words}.", ExitCode.NETWORK, "try again later"
        )
    return refusal(f"{where} answers {status} ({meaning(status)}){page}{words}.", ExitCode.NETWORK)


def does_not_see(endpoint: Endpoint, refusal: Refusal | None = None) -> SlmError:
    """The model cannot be shown pictures, by its description or by what the endpoint answered."""
    words = f" ({refusal.status}{f': {refusal.said.text}' if refusal.said.text else ''})" if refusal else ""
    return usage_error(
        f"the model at {endpoint.address} does not see pictures{words}.",
        f"another model: -m NAME; {_list_hint(endpoint)}",
    )


def of_event(endpoint: Endpoint, data: str, *, is_begun: bool) -> SlmError:
    """The sentence for an error that comes inside of a stream. `is_begun`: a part of the answer had come."""
    said = ErrorWords(data)
    if said.is_about_context:
        return of_status(endpoint, 400, data, has_key=False)
    words = f": {said.text}" if said.text else ""
    what = "broke off with an error" if is_begun else "answers with an error"
    return Refusal(f"{endpoint.address} {what}{words}.", exit_code=ExitCode.NETWORK, hint=None, status=_OK, said=said)


def _key_hint(endpoint: Endpoint, has_key: bool) -> str:
    if endpoint.key_env:
        return f"check the key in the variable {endpoint.key_env}"
    if endpoint.key_keyring:
        return "check the key in the keyring"
    if has_key:
        return f"check the key in the variable {KEY_VARIABLE}"
    if endpoint.name:
        return f"name where its key is: key_env or key_keyring in the config's table for '{endpoint.name}'"
    return f"put its key into the variable {KEY_VARIABLE}, or give the endpoint a name in the config"


def lists_nothing(endpoint: Endpoint, refusal: Refusal) -> SlmError:
    """The endpoint has no list of models; it may have models all the same."""
    page = ", a web page" if refusal.said.is_page else ""
    return SlmError(
        f"{endpoint.address} lists no models ({refusal.status} at {endpoint.path}/models{page}).",
        hint="name one: -m NAME; or is the address wrong? most end in /v1",
        exit_code=ExitCode.NETWORK,
    )


def _list_hint(endpoint: Endpoint) -> str:
    return f"slm list --endpoint {endpoint.asked_as}"


def asks_too_long(endpoint: Endpoint, status: int, seconds: float, body: bytes) -> SlmError:
    """The endpoint wants slm to wait longer than anybody would."""
    said = ErrorWords(body)
    words = f": {said.text}" if said.text else ""
    return _network(
        f"{endpoint.address} answers {status} ({meaning(status)}) and wants {seconds:,.0f} seconds of patience{words}.",
        "try again after that",
    )


def redirected(endpoint: Endpoint, place: str) -> SlmError:
    """The endpoint sends slm to somebody else."""
    there = quoted(place)[:120] or "nowhere"
    return _network(
        f"{endpoint.address} redirects to {there}, and slm follows nobody to another place with what you say.",
        "if that is where you want to go, give its address with --endpoint",
    )


def wrong_type(endpoint: Endpoint, kind: str, body: bytes) -> SlmError:
    """An answer that is neither a stream of events nor JSON."""
    said = ErrorWords(body)
    if said.is_page:
        title = f" ('{said.text}')" if said.text else ""
        return _network(
            f"{endpoint.address} answers with a web page{title} instead of a completion.",
            "is it an OpenAI-compatible endpoint, and does this network want a login first?",
        )
    return garbled(endpoint, f"its type is '{quoted(kind)[:60] or 'not said'}', not a stream of events")


def garbled(endpoint: Endpoint, why: str, hint: str | None = None) -> SlmError:
    """An answer that makes no sense; `why` completes "the answer of … cannot be used: "."""
    return _network(f"the answer of {endpoint.address} cannot be used: {why}.", hint)


def truncated(endpoint: Endpoint) -> Truncated:
    """The sentence for a stream that ends too early."""
    return Truncated(
        f"the answer of {endpoint.address} broke off in the middle.",
        hint="what came of it is shown; ask again",
        exit_code=ExitCode.NETWORK,
    )


def as_json(body: bytes, endpoint: Endpoint) -> Any:
    """A document that should be JSON. Raises `SlmError` (network)."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        if ErrorWords(body).is_page:
            raise wrong_type(endpoint, "text/html", body) from error
        raise garbled(endpoint, "it is not JSON") from error


@contextmanager
def translated(
    endpoint: Endpoint,
    proxy: str | None = None,
    on_failure: Callable[[], None] = lambda: None,
    *,
    is_begun: bool = False,
) -> Iterator[None]:
    """Turn what sockets, TLS and http.client raise into sentences; a wish to stop passes.

    `proxy`: how the one is named through which the endpoint is asked (`Route.proxy`).
    `is_begun`: the answer has begun, so that a connection that is gone has cut it.
    """
    try:
        yield
    except (SlmError, Cancelled):
        on_failure()
        raise
    except Exception as error:
        on_failure()
        is_cut = is_begun and isinstance(error, ConnectionError | ssl.SSLEOFError | http.client.HTTPException)
        sentence = truncated(endpoint) if is_cut else _sentence(endpoint, proxy, error)
        if sentence is None:
            raise
        raise sentence from error


def _sentence(endpoint: Endpoint, proxy: str | None, error: Exception) -> SlmError | None:
    where = endpoint.address
    if isinstance(error, TimedOut | NoSuchHost | ProxyRefused | ConnectionRefusedError):
        return _not_connected(endpoint, proxy, error)
    if isinstance(error, TooLarge):
        return garbled(endpoint, str(error))
    if isinstance(error, ssl.SSLError):
        return _of_tls(endpoint, error)
    if isinstance(error, http.client.IncompleteRead):
        return truncated(endpoint)
    if isinstance(error, http.client.RemoteDisconnected | ConnectionResetError | BrokenPipeError):
        return _network(f"{proxy or where} closed the connection without an answer.")
    if isinstance(error, http.client.HTTPException):
        return garbled(endpoint, f"it is not HTTP as it should be ({type(error).__name__})")
    if isinstance(error, PermissionError):
        return _network(f"{where} cannot be reached: this process may not use the network for it.", "slm privacy")
    if isinstance(error, OSError):
        return _network(f"{proxy or where} cannot be reached: {quoted(error.strerror or str(error))}.")
    return None


def _not_connected(endpoint: Endpoint, proxy: str | None, error: Exception) -> SlmError:
    """Nobody there, or nobody who answers in time; behind a proxy it is the proxy that was not reached."""
    if isinstance(error, TimedOut):
        return _of_timeout(endpoint.address, proxy, error)
    if isinstance(error, ProxyRefused):
        return _network(f"{proxy} does not let slm through to {endpoint.address}: {quoted(str(error))}.", _PROXY_HINT)
    hint = _PROXY_HINT if proxy else "is the server running?" if endpoint.is_loopback else "check the address"
    if isinstance(error, NoSuchHost):
        hint = _PROXY_HINT if proxy else "check the address and the network"
        return _network(f"{proxy or endpoint.host} cannot be found: {quoted(str(error))}.", hint)
    return _network(f"{proxy or endpoint.address} cannot be reached: nobody listens there (connection refused).", hint)


def _of_timeout(where: str, proxy: str | None, error: TimedOut) -> SlmError:
    seconds = f"{error.seconds:,.0f} seconds" if error.seconds >= 1 else f"{error.seconds:.1f} seconds"
    if error.phase == "connect":
        hint = _PROXY_HINT if proxy else None
        return _network(f"{proxy or where} cannot be reached: no connection after {seconds}.", hint)
    rest = f"fell silent in the middle of its answer, for {seconds}"
    if not error.is_silent:
        rest = f"keeps the connection open, and no word of its answer came for {seconds}"
    what = {
        "answer": f"took the request and has not answered for {seconds}",
        "rest": rest,
        "drip": "answers too slowly to be waited for",
    }[error.phase]
    return _network(f"{where} {what}.", "a slower server: timeout = SECONDS in its table of the config")


def _of_tls(endpoint: Endpoint, error: ssl.SSLError) -> SlmError:
    where = endpoint.address
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = quoted(error.verify_message or str(error))
        hint = "a certificate of your own: SSL_CERT_FILE=FILE names who signed it"
        return _network(f"{where} cannot prove that it is {endpoint.host}: {reason}.", hint)
    if isinstance(error, ssl.SSLEOFError):
        return _network(f"{where} closed the connection while it was being secured.")
    is_plain = "WRONG_VERSION_NUMBER" in str(error) or "HTTP_REQUEST" in str(error)
    reason = (error.reason or "").replace("_", " ").lower() or quoted(str(error))
    return _network(
        f"there is no secure connection to {where}: {reason}.", "it may speak plain http:// there" if is_plain else None
    )


def _network(message: str, hint: str | None = None) -> SlmError:
    return SlmError(message, hint=hint, exit_code=ExitCode.NETWORK)
