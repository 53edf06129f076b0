"""A pull where the environment of the Hub's client is not as it should be: the variable is named, not the Hub blamed."""

import builtins
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome, call_slm, run_slm
from hub_server import HubServer, gguf_bytes

from slmchat.catalog import hub_client, hub_errors
from slmchat.catalog.model_specs import HubFile
from slmchat.catalog.partial import PartialFile
from slmchat.catalog.sources import Unreachable
from slmchat.errors import ExitCode, SlmError

_VARIABLES = (*hub_client._PROXIES, *hub_client._CERTIFICATES, *hub_client._TIMES, *hub_client._TOKEN_PLACES)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add("owner/small-GGUF", {"small-Q4_K_M.gguf": gguf_bytes(1, 4000)})
        yield server


@pytest.fixture
def slm(home: Path, hub: HubServer) -> Callable[..., Outcome]:
    env = {"HF_ENDPOINT": hub.endpoint, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    return lambda *arguments, **extra: call_slm(*arguments, home=home, env={**env, **extra})


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)


class _Package:
    """What of huggingface_hub is asked for first."""

    def __init__(self, error: Exception | None = None, *, token: Exception | None = None, seconds: int = 10) -> None:
        self._error, self._token = error, token
        self.constants = type("constants", (), {"HF_HUB_DOWNLOAD_TIMEOUT": seconds, "HF_HUB_ETAG_TIMEOUT": 10})
        self.utils = self

    def get_session(self) -> Any:
        if self._error is not None:
            raise self._error
        return type("session", (), {"event_hooks": {"request": []}})

    def build_hf_headers(self) -> None:
        if self._token is not None:
            raise self._token


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    ("variable", "value", "package", "told"),
    [
        (
            *("ALL_PROXY", "socks5://127.0.0.1:1"),
            _Package(ImportError("Using SOCKS proxy, but the 'socksio' package is not installed.")),
            "SOCKS",
        ),
        ("HTTPS_PROXY", "ftp://x", _Package(ValueError("Unknown scheme for proxy URL URL('ftp://x')")), "scheme"),
        ("SSL_CERT_FILE", "/none.pem", _Package(FileNotFoundError(2, "No such file or directory")), "No such file"),
        ("HF_HOME", "/dev/null", _Package(token=NotADirectoryError(20, "Not a directory", "/dev/null/token")), "token"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "-1", _Package(seconds=-1), "below zero"),
    ],
)
def test_the_variable_that_is_wrong_is_named(
    variable: str, value: str, package: _Package, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(hub_client, "_imported", lambda: package)
    with pytest.raises(Unreachable, match=told) as error:  # so that another place is asked for a model of the catalog
        hub_client.hub_package()
    assert error.value.exit_code == ExitCode.NETWORK
    assert variable in str(error.value.hint)


@pytest.mark.usefixtures("plain")
def test_a_time_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "soon")
    real = builtins.__import__

    def refuse(name: str, *more: Any) -> Any:
        if name.startswith("huggingface_hub"):
            raise ValueError("invalid literal for int() with base 10: 'soon'")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(Unreachable, match="soon") as error:
        hub_client.hub_package()
    assert error.value.hint == "look at HF_HUB_ETAG_TIMEOUT"


@pytest.mark.parametrize(
    "address",
    ["http://[::1", "http://127.0.0.1:99999", "http://127.0.0.1:1\n", "http://exa mple", " ", "https://", "x"],
)
def test_an_endpoint_that_is_not_an_address(slm: Callable[..., Outcome], address: str) -> None:
    for arguments in (("pull", "hf:owner/small-GGUF"), ("pull", "hf:owner/small-GGUF", "--dry-run", "--json")):
        told = slm(*arguments, HF_ENDPOINT=address)
        assert (told.code, told.out) == (ExitCode.NETWORK, "")
        assert "HF_ENDPOINT is not the address of a server" in told.err


def test_a_cache_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("x")
    assert PartialFile(tmp_path / "cache", tmp_path / "cache" / "blobs" / "x").size == 0


@pytest.mark.usefixtures("plain")
def test_a_proxy_is_named_where_nothing_can_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def told() -> str:
        error = hub_errors.translated(ConnectionError("refused"), HubFile("a/b", ""), "hub", "slm pull x", ())
        assert isinstance(error, SlmError)
        return str(error.hint)

    assert "proxy" not in told()
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    assert "HTTPS_PROXY" in told()


def test_rm_needs_no_connection_to_the_hub(
    slm: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """Only the place of the cache is asked for: a proxy that cannot be used does not keep a model on the disk."""
    assert slm("pull", "hf:owner/small-GGUF").code == 0

    def refuse() -> None:
        raise AssertionError("a session is made")

    monkeypatch.setattr(hub_client, "hub_package", refuse)
    told = slm("rm", "hf:owner/small-GGUF")
    assert told.code == 0
    assert "removed" in told.err


@pytest.mark.real
def test_a_socks_proxy_in_the_real_world(home: Path) -> None:
    told = run_slm(
        "pull",
        "hf:owner/small-GGUF",
        home=home,
        env={"ALL_PROXY": "socks5://127.0.0.1:1", "HF_ENDPOINT": "https://127.0.0.1:1", "NO_PROXY": ""},
        from_start=True,
    )
    assert told.code == ExitCode.NETWORK
    assert "own" not in told.err
