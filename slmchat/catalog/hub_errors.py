"""What the errors of the Hub's client mean for the person who pulls.

Knows: the exception classes of huggingface_hub, what to do about each, and that their words may carry a token.
Refuses to know: how they came about (hub.py).
"""

from urllib.parse import urlsplit

from slmchat.catalog import hub_client
from slmchat.catalog.model_specs import HubFile
from slmchat.catalog.sources import Unreachable
from slmchat.catalog.untrusted import MalformedAnswer, NotAHub
from slmchat.errors import ExitCode, SlmError
from slmchat.redaction import redacted

# What the client stumbles over when an answer has another form than a Hub's.
_WRONG_ANSWERS = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
# The HTTP libraries below the client; not all of their errors have the base class of its transport errors.
_TRANSPORTS = ("httpx", "httpx2", "httpcore", "httpcore2", "h11")


def translated(
    error: Exception, spec: HubFile, host: str, command: str, transport: tuple[type[Exception], ...]
) -> SlmError | None:
    """The sentence for an error of the Hub's client, or None when it is not one (a full disk, a bug).

    `transport`: the base classes of the errors of the HTTP library below the client.
    """
    from huggingface_hub import errors as hub

    if isinstance(error, hub.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        return translated(error.__cause__, spec, host, command, transport)
    if isinstance(error, UnicodeEncodeError):  # only a header must be ASCII, and only the token comes from outside
        return SlmError(
            f"the access token for {host} has a character that cannot be sent.",
            hint=f"check the token: HF_TOKEN=<token> {command}",
            exit_code=ExitCode.NETWORK,
        )
    known = (
        _storage(error, host, command)
        or _access(error, spec, host, command)
        or _missing(error, spec, host, command)
        or _trouble(error, spec, host, command)
    )
    if known is not None:
        return known
    if isinstance(error, hub.LocalEntryNotFoundError | hub.OfflineModeIsEnabled):
        return Unreachable(
            f"the Hub's client may not use the network for {spec.repo}.", hint="unset HF_HUB_OFFLINE if it is set"
        )
    if isinstance(error, (*transport, ConnectionError, TimeoutError)):
        proxies = hub_client.proxies_in_use()
        proxy = f"is the proxy right ({proxies})? " if proxies else ""
        return Unreachable(
            f"{host} cannot be reached: {_reason(error)}.", hint=f"{proxy}when the network is back: {command}"
        )
    if isinstance(error, NotAHub):  # nothing else that is asked of it will be answered
        return Unreachable(_no_hub(host, str(error)), hint=_PORTAL.format(command))
    if isinstance(error, MalformedAnswer):
        return SlmError(_no_hub(host, str(error)), hint=_PORTAL.format(command), exit_code=ExitCode.NETWORK)
    if isinstance(error, _WRONG_ANSWERS) or type(error).__module__.partition(".")[0] in _TRANSPORTS:
        told = _no_hub(host, f"its answer cannot be read ({type(error).__name__})")
        return SlmError(told, hint=_PORTAL.format(command), exit_code=ExitCode.NETWORK)
    return None


_PORTAL = "does the network want a login in a browser first? then: {}"


def _no_hub(host: str, reason: str) -> str:
    """An answer that no Hub gives: another server's, a captive portal's, or one that was made to do harm."""
    return f"{host} does not answer like a Hub: {redacted(reason)}."


def _storage(error: Exception, host: str, command: str) -> SlmError | None:
    """A refusal that does not come from the Hub, but from where its answer has led."""
    status = _status(error)
    request = getattr(getattr(error, "response", None), "request", None)
    place = urlsplit(str(getattr(request, "url", ""))).netloc.rpartition("@")[2]
    if status is None or not place or place == host:
        return None
    told = "answers with an error" if status >= 500 else "refuses the download"
    return Unreachable(f"the Hub's storage ({redacted(place)}) {told} ({status}).", hint=f"later: {command}")


def _access(error: Exception, spec: HubFile, host: str, command: str) -> SlmError | None:
    """A repository that wants to know who asks."""
    from huggingface_hub import errors as hub

    if isinstance(error, hub.GatedRepoError):
        return SlmError(
            f"{spec.repo} is gated: its authors want their terms accepted before anyone downloads it.",
            hint=f"accept the terms at https://huggingface.co/{spec.repo}, create a token at "
            f"https://huggingface.co/settings/tokens, then: HF_TOKEN=<token> {command}",
            exit_code=ExitCode.NETWORK,
        )
    if _status(error) in (401, 403) and not isinstance(error, hub.RepositoryNotFoundError):
        return SlmError(
            f"{host} refuses access to {spec.repo} ({_status(error)}).",
            hint=f"check the token: HF_TOKEN=<token> {command}",
            exit_code=ExitCode.NETWORK,
        )
    return None


def _missing(error: Exception, spec: HubFile, host: str, command: str) -> SlmError | None:
    """A repository, revision or file that is not there."""
    from huggingface_hub import errors as hub

    if isinstance(error, hub.RevisionNotFoundError):
        return SlmError(f"{spec.repo} has no revision {spec.revision}.", exit_code=ExitCode.NO_MODEL)
    if isinstance(error, hub.RemoteEntryNotFoundError):
        where = f"{spec.repo} at revision {spec.revision}" if spec.revision else spec.repo
        what = f"no file {spec.file}" if spec.file else "not the file that its listing names"
        return SlmError(f"{where} has {what}.", exit_code=ExitCode.NO_MODEL)
    if isinstance(error, hub.RepositoryNotFoundError):
        return SlmError(
            f"{host} has no repository {spec.repo}, or your token may not see it.",
            hint=f"if it is private: HF_TOKEN=<token> {command}",
            exit_code=ExitCode.NO_MODEL,
        )
    if isinstance(error, hub.HFValidationError):
        return SlmError(
            f"{spec.repo} is not the name of a repository: {redacted(str(error))}", exit_code=ExitCode.NO_MODEL
        )
    return None


def _trouble(error: Exception, spec: HubFile, host: str, command: str) -> SlmError | None:
    """Any other status that is not the answer."""
    status = _status(error)
    if status is None:
        return None
    if status == 429:
        return Unreachable(
            f"{host} wants fewer requests (429).", hint=f"in some minutes, or with a token (HF_TOKEN): {command}"
        )
    if status >= 500:
        return Unreachable(f"{host} answers with an error ({status}).", hint=f"later: {command}")
    return SlmError(f"{host} answers {status} for {spec.repo}.", exit_code=ExitCode.NETWORK)


def _status(error: Exception) -> int | None:
    """The HTTP status that an error of the client carries."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _reason(error: Exception) -> str:
    """The system's own words, in one line: `Name or service not known`, `Connection refused`."""
    text = redacted(" ".join(str(error).split())) or type(error).__name__
    _, bracket, words = text.rpartition("] ")
    return (words if bracket else text).rstrip(".")
