"""What attacks share: the canary, a home, a Hub on the loopback, `slm` inside this process."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Outcome
from hub_server import HubServer, Repo, gguf_bytes

from attacks.canary import Canary

REPO = "owner/small-GGUF"
FILE = "small-Q4_K_M.gguf"


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    return Canary.make(tmp_path / "user" / ".ssh")


@pytest.fixture
def slm(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`slm(*arguments)` in an empty home, without a process of its own."""
    from huggingface_hub import constants

    for name in ("SLM_DEBUG", "SLM_MODEL", "HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLM_HOME", str(home))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hf" / "hub"))

    def call(*arguments: str | Path) -> Outcome:
        from slmchat.cli import run_cli

        capsys.readouterr()
        # --force: whether the model fits is not asked, so the memory's speed is not measured
        more = ["--force"] if arguments[0] == "pull" and "--dry-run" not in arguments else []
        code = run_cli([*map(str, arguments), *more])
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return call


@pytest.fixture(scope="session")
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def hub(server: HubServer, slm: object, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    server.reset()
    monkeypatch.setattr("slmchat.catalog.hub.WAITS", (0.0,))
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
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
