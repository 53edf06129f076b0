"""No surprise requests: what every command reaches, counted twice.

A proxy on the loopback device records the host names that anything asks it for, and refuses; an audit hook in the
program itself records every address and name, also of what would go past the proxy.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import fork_server
import pytest
from conftest import Outcome, environment
from endpoint_server import EndpointServer
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama
from hub_server import HubServer, gguf_bytes
from loopback import LoopbackServer, QuietHandler
from terminal import Terminal

pytestmark = pytest.mark.real

REPO = "owner/small-GGUF"
FILE = "small-Q4_K_M.gguf"

# The program with the hook. The record is opened first: a sealed process may not open it later.
_HOOKED = """
import json, os, sys
record = os.open(os.environ["TEST_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
reaching = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
            "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")
def note(event, arguments):
    if event in reaching:
        plain = [list(item) if isinstance(item, tuple) else item for item in arguments]
        line = json.dumps([event, [item for item in plain if isinstance(item, (str, int, list))]]) + chr(10)
        try:
            os.write(record, line.encode())
        except OSError:  # in the process that makes an endpoint's connections: it has let go of everything else
            pass
sys.addaudithook(note)
from slmchat.__main__ import main
sys.exit(main())
"""
PROGRAM = (sys.executable, "-c", _HOOKED)


class Proxy:
    """Records `host:port` of everything that it is asked for, and refuses it."""

    def __init__(self) -> None:
        self.hosts: list[str] = []
        proxy = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.0"

            def refuse(self) -> None:
                proxy.hosts.append(urlsplit(self.path).netloc or self.path)
                self.send_error(403)

            do_CONNECT = do_GET = do_HEAD = do_POST = refuse

        self._server = LoopbackServer(Handler)

    @property
    def environment(self) -> dict[str, str]:
        url = f"http://127.0.0.1:{self._server.port}"
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
        return {**dict.fromkeys(names, url), "NO_PROXY": "", "no_proxy": ""}

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as server:
        yield server


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "record"


def _reached(record: Path) -> list[list[object]]:
    return [json.loads(line) for line in record.read_text().splitlines()]


@pytest.fixture
def slm(home: Path, proxy: Proxy, record: Path, tmp_path: Path) -> Callable[..., Outcome]:
    def call(*arguments: str | Path, stdin: str = "", **extra: str) -> Outcome:
        done = fork_server.run(
            [*PROGRAM, *map(str, arguments)],
            input=stdin,
            env=environment(home, {**proxy.environment, "TEST_RECORD": str(record), **extra}),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_llama(
        tmp_path / "tiny.gguf", chat_template=CHATML_TEMPLATE, extra_control_tokens=("<|im_start|>", "<|im_end|>")
    )


# Every command that must not use the network; TINY stands for a model file. In this order, in one home.
QUIET = (
    (0, "--version"),
    (0, "--help"),
    (0, "help", "run"),
    (2,),
    (0, "list"),
    (0, "list", "--available"),
    (0, "list", "--available", "--json"),
    (2, "list", "--endpoint", "nobody"),
    (5, "list", "--endpoint", "https://example.org/v1", "--offline"),
    (5, "run", "--endpoint", "https://example.org/v1", "--offline", "hello"),
    (5, "batch", "--endpoint", "https://example.org/v1", "--offline", "hello"),
    (3, "show", "smollm2:135m"),
    (0, "show", "TINY"),
    (0, "add", "mine", "TINY"),
    (0, "add", "theirs", "hf:owner/repo@Q4_K_M"),
    (0, "run", "-m", "TINY", "-n", "3", "hello"),
    (0, "run", "-m", "mine", "-n", "3", "--json", "hello"),
    (3, "run", "-m", "smollm2:135m", "hello"),
    (3, "run", "-m", "hf:owner/repo", "hello"),
    (2, "chat", "TINY"),
    (0, "bench", "TINY", "--repeat", "1", "--json"),
    (0, "eval", "--list"),
    (0, "eval", "TINY", "--task", "knowledge", "--limit", "3"),
    (0, "batch", "-m", "TINY", "-n", "3", "What is it?"),
    (None, "doctor"),  # what is wrong with the device of the tests is not asked here
    (1, "doctor", "TINY"),
    (0, "tune", "TINY"),
    (0, "pull", "TINY"),
    (5, "pull", "smollm2:135m", "--offline"),
    (5, "pull", "hf:owner/repo", "--offline"),
    (0, "verify"),
    (0, "verify", "TINY"),
    (0, "rm", "mine"),
    (2, "embed", "-m", "TINY", "hello"),
    (2, "ask", "-m", "TINY", "hello"),
    (3, "serve", "--status"),
    (3, "serve", "smollm2:135m", "--port", "0"),
    (0, "docs", "list"),
    (2, "docs", "show", "none"),
    (2, "docs", "rm", "none"),
    (0, "sessions", "list"),
    (6, "sessions", "import", "-"),
    (0, "sessions", "search", "word"),
    (2, "sessions", "show", "none"),
    (2, "sessions", "export", "none"),
    (2, "sessions", "rename", "none", "other"),
    (2, "sessions", "rm", "none"),
    (0, "completion", "bash"),
    (0, "__complete", "--", "chat", ""),
    (0, "__complete", "--", "pull", ""),
    (0, "privacy"),
)


def test_no_command_but_pull_reaches_anything(
    slm: Callable[..., Outcome], proxy: Proxy, record: Path, tiny: Path
) -> None:
    for code, *arguments in QUIET:
        words = [str(tiny) if word == "TINY" else str(word) for word in arguments]
        done = slm(*words)
        reached = [event for event in _reached(record) if words[0] != "serve" or event[0] != "socket.bind"]
        record.unlink()
        assert (words, reached, proxy.hosts) == (words, [], [])
        assert code is None or done.code == code, (words, done)


def test_the_list_of_commands_is_whole() -> None:
    from slmchat import cli

    tried = {arguments[1] for arguments in QUIET if len(arguments) > 1 and not str(arguments[1]).startswith("-")}
    words = [name.split() for name in cli.COMMANDS]
    assert tried - {"__complete"} == {word[0] for word in words}
    assert {arguments[2] for arguments in QUIET if arguments[1:2] == ("sessions",)} == {
        word[1] for word in words if len(word) > 1
    }


def test_the_proof_of_the_seal_asks_no_proxy(slm: Callable[..., Outcome], proxy: Proxy) -> None:
    done = slm("privacy", "--check")
    assert done.code in (0, 9), done.err
    assert proxy.hosts == []


def test_a_chat_reaches_nothing(home: Path, proxy: Proxy, record: Path, tiny: Path) -> None:
    env = {**proxy.environment, "TEST_RECORD": str(record)}
    with Terminal(["chat", tiny, "-n", "3"], home=home, env=env, program=PROGRAM) as terminal:
        terminal.wait_for(r"\n> ?(\n|$)")
        terminal.enter("hello")
        terminal.wait_for("cut at the limit")
        terminal.enter("/exit")
        assert terminal.end() == 0
    assert (_reached(record), proxy.hosts) == ([], [])


@pytest.mark.parametrize("arguments", [("run", "-m", "small", "hello"), ("list",)], ids=["run", "list"])
def test_with_an_endpoint_that_endpoint_is_reached_and_nobody_else(
    slm: Callable[..., Outcome], proxy: Proxy, record: Path, arguments: tuple[str, ...]
) -> None:
    """The process with the words connects to nothing: another one hands it connections to the endpoint, only there."""
    with EndpointServer() as server:
        done = slm(*arguments, "--endpoint", server.url)
        asked = len(server.requests)
    assert done.code == 0, done.err
    assert asked
    is_handed = sys.platform.startswith("linux")
    assert _reached(record) == ([] if is_handed else [["socket.connect", [["127.0.0.1", server.port]]]])
    assert proxy.hosts == []


def _kind(path: str) -> str:
    path = path.replace(REPO, "REPO").replace(FILE, "FILE")
    return re.sub(r"[0-9a-f]{40}", "COMMIT", path)


def test_a_pull_talks_to_the_endpoint_and_nobody_else(slm: Callable[..., Outcome], proxy: Proxy, record: Path) -> None:
    direct = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    with HubServer() as hub:
        hub.add(REPO, {FILE: gguf_bytes(seed=5, size=300_000), "README.md": b"# small"})
        done = slm("pull", f"hf:{REPO}@Q4_K_M", HF_ENDPOINT=hub.endpoint, **direct)
        assert done.code == 0, done.err
        asked = {(request.place, request.method, _kind(request.path)) for request in hub.requests}
        agents = {request.user_agent for request in hub.requests}
        ports = {urlsplit(hub.endpoint).port, urlsplit(hub.storage).port}
    assert asked == {
        ("hub", "GET", "/api/models/REPO"),
        ("hub", "HEAD", "/REPO/resolve/COMMIT/FILE"),
        ("hub", "GET", "/REPO/resolve/COMMIT/FILE"),
        ("storage", "GET", "/REPO/COMMIT/FILE"),
    }
    assert proxy.hosts == []
    connected = [arguments for event, arguments in _reached(record) if event == "socket.connect"]
    assert {tuple(arguments[-1]) for arguments in connected} == {("127.0.0.1", port) for port in ports}  # type: ignore[index, misc]
    named = [arguments[0] for event, arguments in _reached(record) if event != "socket.connect"]  # type: ignore[index]
    assert set(named) <= {"127.0.0.1"}
    assert not [agent for agent in agents if "session" in agent.lower() or "agent/" in agent.lower()], agents


def test_a_pull_asks_the_hub_of_the_name_and_nobody_else(slm: Callable[..., Outcome], proxy: Proxy) -> None:
    """Without HF_ENDPOINT, refused by the proxy: the hosts that it would have reached."""
    done = slm("pull", f"hf:{REPO}@Q4_K_M")
    assert done.code == 5, done.err
    assert set(proxy.hosts) == {"huggingface.co:443"}


def test_a_pull_from_the_index_asks_the_index_of_pip_and_nobody_else(slm: Callable[..., Outcome], proxy: Proxy) -> None:
    index = {"PIP_INDEX_URL": "https://index.invalid/simple", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": "/dev/null"}
    done = slm("pull", "smollm2:135m", "--source", "index", "--accept-license", **index)
    assert done.code == 5, done.err
    assert set(proxy.hosts) == {"index.invalid:443"}


def test_pip_gets_no_token_and_does_not_look_for_a_newer_pip(slm: Callable[..., Outcome], tmp_path: Path) -> None:
    """A module called pip that writes down how it was called."""
    module = tmp_path / "modules" / "pip"
    module.mkdir(parents=True)
    (module / "__init__.py").touch()
    (module / "__main__.py").write_text(
        "import json, os, sys\n"
        f"open({str(tmp_path / 'called.json')!r}, 'w').write(json.dumps([sys.argv[1:], dict(os.environ)]))\n"
        "sys.exit(1)\n"
    )
    modules = f"{module.parent}:{Path(__file__).parents[1]}"
    more = {"PYTHONPATH": modules, "HF_TOKEN": "hf_secretsecret", "PIP_DISABLE_PIP_VERSION_CHECK": "0"}
    done = slm("pull", "smollm2:135m", "--source", "index", "--accept-license", **more)
    assert done.code == 5, done.err
    arguments, environ = json.loads((tmp_path / "called.json").read_text())
    assert arguments[0] == "download" and "--no-input" in arguments and "--no-deps" in arguments
    assert environ["PIP_DISABLE_PIP_VERSION_CHECK"] == "1"
    assert "HF_TOKEN" not in environ


def test_telemetry_is_off_before_the_library_is_imported(home: Path) -> None:
    code = (
        "import os\n"
        "from slmchat.catalog.hub_client import hub_package as _hub\n"
        "constants = _hub().constants\n"
        "print(constants.HF_HUB_DISABLE_TELEMETRY, getattr(constants, 'HF_HUB_DISABLE_UPDATE_CHECK', True), "
        "os.environ['DO_NOT_TRACK'], os.environ['HF_HUB_DISABLE_TELEMETRY'])"
    )
    given = {"HF_HUB_DISABLE_TELEMETRY": "0", "DO_NOT_TRACK": "0", "HF_HUB_DISABLE_UPDATE_CHECK": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(home, {**given, "PYTHONPATH": str(Path(__file__).parents[1])}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.strip() == "True True 1 1", done.stderr
