"""The token of the Hub is never shown, and nothing is fetched without TLS but from this device."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fork_server
import pytest
from conftest import call_slm, run_slm
from hub_server import HubServer, gguf_bytes

pytestmark = pytest.mark.real

REPO = "owner/small-GGUF"
FILE = "small-Q4_K_M.gguf"
TOKEN = "hf_VerySecretWordOfTheTests"
DIRECT = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}


@pytest.fixture(scope="module")
def weights() -> bytes:
    return gguf_bytes(seed=3, size=400_000)


@pytest.fixture
def hub(weights: bytes) -> Iterator[HubServer]:
    with HubServer() as server:
        server.add(REPO, {FILE: weights})
        yield server


def _break(hub: HubServer, how: str) -> str:
    """Switch a fault on; the name to pull."""
    repo = hub.repos[REPO]
    if how == "cut":
        hub.cut_after, hub.cuts_left = 1000, 1000
    elif how == "wrong byte":
        content = repo.contents[FILE]
        repo.sent[FILE] = content[:-1] + bytes([content[-1] ^ 1])
    elif how == "gated":
        repo.is_gated = True
    elif how == "no repository":
        return "hf:owner/nothing@Q4_K_M"
    else:
        hub.status = int(how)
    return f"hf:{REPO}@Q4_K_M"


CODES = {"401": 5, "403": 5, "404": 5, "500": 5, "cut": 5, "wrong byte": 6, "gated": 5, "no repository": 3}


@pytest.mark.parametrize("how", CODES)
def test_the_token_is_sent_to_the_hub_and_shown_nowhere(hub: HubServer, home: Path, how: str) -> None:
    name = _break(hub, how)
    done = call_slm(
        *["pull", name, "-v", "--json"],
        home=home,
        env={**DIRECT, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "SLM_DEBUG": "1"},
    )
    assert done.code == CODES[how], done.err
    assert "Traceback" in done.err
    assert TOKEN not in done.out + done.err
    assert "\nslm: " in done.err
    asked = [request.authorization for request in hub.requests if request.place == "hub"]
    assert f"Bearer {TOKEN}" in asked
    assert {request.authorization for request in hub.requests if request.place == "storage"} <= {None}
    for path in home.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


def test_a_token_that_cannot_be_sent_is_a_sentence_that_does_not_show_it(hub: HubServer, home: Path) -> None:
    done = run_slm(
        *["pull", f"hf:{REPO}@Q4_K_M"],
        home=home,
        env={**DIRECT, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "SecretInTheHeädèr", "SLM_DEBUG": "1"},
    )
    assert done.code == 5, done.err
    assert "SecretInTheHe" not in done.out + done.err
    assert hub.requests == []


@pytest.mark.parametrize("token", ["Sec\x01ret\ttöken", TOKEN, "an ordinary one"])
def test_errors_and_tracebacks_that_quote_the_token_lose_it(
    token: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The HTTP library quotes a header that it does not like: `Illegal header value b'Bearer …'`."""
    from slmchat import cli
    from slmchat.catalog.hub_errors import translated
    from slmchat.catalog.model_specs import HubFile
    from slmchat.terminal.console import Console

    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("SLM_DEBUG", "1")
    for quoted in (token, repr(token), repr(token.encode("utf-8"))):
        cause = ConnectionError(f"Illegal header value {quoted}, Bearer {token}")
        error = translated(cause, HubFile(REPO, FILE), "127.0.0.1", "slm pull x", ())
        assert error is not None
        error.__cause__ = cause
        cli._failed(Console(), error)
        said = capsys.readouterr().err
        assert "Traceback" in said or "ConnectionError" in said
        assert "Illegal header value" in said and "<token>" in said
        assert not any(spelled in said for spelled in (token, repr(token)[1:-1], repr(token.encode())[2:-1])), said


def test_a_token_that_is_kept_in_a_file_is_known_by_its_looks() -> None:
    from slmchat.redaction import redacted

    assert redacted("b'Bearer hf_abcDEF12345' for hf:owner/repo") == "b'Bearer <token>' for hf:owner/repo"
    assert redacted("HF_TOKEN=<token> slm pull hf_small/x") == "HF_TOKEN=<token> slm pull hf_small/x"


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://example.invalid",
        "http://user:hf_secretsecret@192.0.2.1:8080",
        "ftp://example.invalid",
        "example.invalid",
    ],
)
def test_an_endpoint_without_tls_is_refused_before_any_request(home: Path, endpoint: str) -> None:
    """No name is looked up: an audit hook ends the program if it tries."""
    code = (
        "import sys, os\n"
        "sys.addaudithook(lambda event, _: os._exit(77) if event in ('socket.getaddrinfo', 'socket.connect') else None)\n"
        "from slmchat.cli import run_cli\n"
        "sys.exit(run_cli(sys.argv[1:]))\n"
    )
    done = _python(code, home, ["pull", f"hf:{REPO}@Q4_K_M"], HF_ENDPOINT=endpoint)
    assert done.returncode == 5, done.stderr
    told = "slm: HF_ENDPOINT is not the address of a server" if "://" not in endpoint else "slm: HF_ENDPOINT is "
    assert done.stderr.startswith(told)
    assert endpoint.replace("user:hf_secretsecret@", "") in done.stderr
    assert ("TLS" in done.stderr) == ("://" in endpoint) and "hf_secretsecret" not in done.stderr


def _python(code: str, home: Path, arguments: list[str], **extra: str) -> "subprocess.CompletedProcess[str]":
    from conftest import environment

    return fork_server.run(
        [sys.executable, "-c", code, *arguments],
        env=environment(home, {**DIRECT, **extra}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_which_addresses_are_safe() -> None:
    from slmchat.catalog import hub

    safe = [
        "https://huggingface.co",
        "http://127.0.0.1:8080",
        "http://127.9.9.9",
        "http://[::1]:1",
        "http://localhost/",
    ]
    unsafe = ["http://example.org", "http://127.0.0.1.example.org", "http://localhost.example.org", "http://0.0.0.0"]
    unsafe += ["http://[::ffff:10.0.0.1]", "http://[", "https://", "file:///etc/passwd", "HTTP://10.0.0.1", ""]
    unsafe += ["http://127.0.0.1@example.org", "http://2130706433.example"]
    assert [url for url in safe if not hub._is_safe(url)] == []
    assert [url for url in unsafe if hub._is_safe(url)] == []


def test_a_redirect_to_plain_http_elsewhere_is_refused(
    hub: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HubServer, "storage", "http://storage.example.invalid")
    done = run_slm(
        *["pull", f"hf:{REPO}@Q4_K_M"], home=home, env={**DIRECT, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN}
    )
    assert done.code == 5
    assert done.err.splitlines()[-1].startswith(
        "slm: the Hub's answer leads to http://storage.example.invalid, and slm fetches over TLS"
    )
    assert TOKEN not in done.err
