"""What attacks share: the canary, a home, a Hub on the loopback, `slm` inside this process."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Outcome, call_slm
from hub_server import HubServer, Repo, gguf_bytes

from attacks.canary import Canary

REPO = "owner/small-GGUF"
FILE = "small-Q4_K_M.gguf"


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    return Canary.make(tmp_path / "user" / ".ssh")


@pytest.fixture
def slm(home: Path, server: HubServer) -> Callable[..., Outcome]:
    """`slm(*arguments)` in an empty home, without a process of its own."""
    env = {"HF_ENDPOINT": server.endpoint, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

    def call(*arguments: str | Path) -> Outcome:
        return call_slm(*arguments, home=home, env=env)

    return call


@pytest.fixture(scope="session")
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def hub(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    server.reset()
    monkeypatch.setattr("slmchat.catalog.hub_transfer.WAITS", (0.0,))
    return server


@pytest.fixture(scope="session")
def weights() -> bytes:
    return gguf_bytes(seed=1, size=700_000)


@pytest.fixture
def repo(hub: HubServer, weights: bytes) -> Repo:
    return hub.add(REPO, {FILE: weights, "README.md": b"# small"})


def has_told(outcome: Outcome, *codes: int) -> None:
    """A sentence, one of these exit codes, no traceback."""
    assert outcome.code in codes, outcome.err
    assert "Traceback" not in outcome.err and "an error of slm's own" not in outcome.err
    assert outcome.code == 0 or "slm: " in outcome.err
