"""`--endpoint` in the program itself: streams, exit codes, what leaves the device, what the kernel still refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fork_server
import pytest
from conftest import Outcome, environment
from endpoint_server import USAGE, EndpointServer, cut, delta, hold, status, stream
from terminal import Terminal

from slmchat import endpoints
from slmchat.engine.remote import engine as engine_module
from slmchat.engine.remote.route import route_to
from slmchat.errors import SlmError

pytestmark = pytest.mark.real

KEY = "a-key-that-nobody-may-see"
CTRL_C = "\x03"  # as a key of the line editor


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with EndpointServer() as running:
        yield running


def _config(home: Path, text: str) -> None:
    (home / "config").mkdir(parents=True, exist_ok=True)
    (home / "config" / "config.toml").write_text(text)


def test_an_answer_is_all_that_stdout_gets(server: EndpointServer, slm: Callable[..., Outcome]) -> None:
    server.usual = stream(delta(reasoning_content="Let me see."), "Hel", "lo\x1b[31m.", usage=USAGE)
    done = slm("run", "--endpoint", server.url, "-s", "Be brief.", "Hi", stdin="a text")
    assert (done.code, done.out) == (0, "Hello.\n")
    assert done.err == "Let me see.\n"
    assert [message["role"] for message in server.posts[0].body["messages"]] == ["system", "user"]
    assert "a text" in server.posts[0].body["messages"][1]["content"]


def test_json_has_what_the_endpoint_counted(server: EndpointServer, slm: Callable[..., Outcome]) -> None:
    done = slm("run", "--endpoint", server.url, "--json", "--seed", "5", "Hi")
    said = json.loads(done.out)
    assert said["model"] == f"remote:127.0.0.1:{server.port}/small"
    assert said["completion"] == "Hello."
    assert said["usage"] == {"prompt_tokens": 7, "cached_tokens": 3, "completion_tokens": 2}
    assert said["seed"] == server.posts[0].body["seed"] == 5
    server.usual = stream("x")
    assert json.loads(slm("run", "--endpoint", server.url, "--json", "Hi").out)["usage"]["is_estimate"] is True


def test_a_named_endpoint_brings_its_model_and_its_key(
    server: EndpointServer, home: Path, slm: Callable[..., Outcome]
) -> None:
    server.models.append({"id": "other"})
    _config(home, f'[endpoints.work]\nurl = "{server.url}"\nmodel = "other"\nkey_env = "WORK_KEY"\n')
    done = slm("run", "--endpoint", "work", "-v", "Hi", env={"WORK_KEY": KEY, "SLM_DEBUG": "1"})
    assert done.code == 0, done.err
    assert server.posts[0].body["model"] == "other"
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {KEY}"}
    server.usual = status(401, {"error": {"message": f"bad key {KEY}"}})
    failed = slm("run", "--endpoint", "work", "-v", "Hi", env={"WORK_KEY": KEY, "SLM_DEBUG": "1"})
    assert failed.code == 5 and "refuses the key" in failed.err and "WORK_KEY" in failed.err
    assert KEY not in done.out + done.err + failed.out + failed.err
    for file in home.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file


def test_a_persona_for_local_models_does_not_choose_one_over_there(
    server: EndpointServer, home: Path, slm: Callable[..., Outcome]
) -> None:
    _config(home, '[personas.mine]\nsystem = "Be kind."\nmodel = "gemma3:1b"\n')
    done = slm("run", "--endpoint", server.url, "-p", "mine", "Hi")
    assert done.code == 0, done.err
    assert server.posts[0].body["model"] == "small"


def test_the_next_command_does_not_reach_out_by_itself(
    server: EndpointServer, home: Path, slm: Callable[..., Outcome]
) -> None:
    assert slm("run", "--endpoint", server.url, "Hi").code == 0
    asked = len(server.requests)
    assert slm("run", "Hi").code == 3
    assert len(server.requests) == asked
    assert not (home / "data" / "last-model").exists()


def test_errors_of_the_way_end_in_their_exit_codes(server: EndpointServer, slm: Callable[..., Outcome]) -> None:
    server.script.append(cut("Hel", "lo"))
    done = slm("run", "--endpoint", server.url, "Hi")
    assert (done.code, done.out) == (5, "Hello")
    assert done.err.startswith("slm: the answer of ") and "broke off in the middle" in done.err
    server.script.append(status(400, {"error": {"message": "maximum context length is 5 tokens"}}))
    assert slm("run", "--endpoint", server.url, "Hi").code == 7
    assert slm("run", "--endpoint", server.url, "-m", "smal", "Hi").err.endswith("hint: did you mean small?\n")
    assert slm("run", "--endpoint", server.url, "--threads", "2", "Hi").code == 2
    assert slm("run", "--endpoint", "nobody", "Hi").code == 2


def test_a_retry_is_said_on_stderr(server: EndpointServer, slm: Callable[..., Outcome]) -> None:
    server.script.append(status(429, Retry_After="0"))
    done = slm("run", "--endpoint", server.url, "Hi")
    assert (done.code, done.out) == (0, "Hello.\n")
    assert "answers 429 (Too Many Requests); try 2 of 5" in done.err
    server.script.append(status(429, Retry_After="0"))
    assert slm("run", "--endpoint", server.url, "-q", "Hi").err == ""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_keeps_what_came_and_closes_the_stream(server: EndpointServer, home: Path) -> None:
    server.script.append(hold(server, "Hel\n", "lo"))
    command = [sys.executable, "-m", "slmchat", "run", "--endpoint", server.url, "Hi"]
    with fork_server.popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(home)
    ) as running:
        assert running.stdout is not None
        came = os.read(running.stdout.fileno(), 100)
        assert came == b"Hel\n"  # a pipe gets whole lines at once
        running.send_signal(signal.SIGINT)
        rest, err = running.communicate(timeout=300)
    assert (running.returncode, err) == (130, b"")
    assert rest == b"lo\n"
    assert server.left.wait(300)


def test_the_list_of_an_endpoint(server: EndpointServer, slm: Callable[..., Outcome]) -> None:
    server.models = [{"id": "big", "max_model_len": 4096}, {"id": "small\x1b[2J", "aliases": ["s"]}]
    done = slm("list", "--endpoint", server.url)
    assert done.code == 0 and "4,096" in done.out and "\x1b" not in done.out
    listed = json.loads(slm("list", "--endpoint", server.url, "--json").out)
    assert [(one["name"][:5], one["context_length"], one["aliases"]) for one in listed] == [
        ("big", 4096, []),
        ("small", None, ["s"]),
    ]


# Offline, and what stays closed


def test_offline_allows_this_device_only(server: EndpointServer, slm: Callable[..., Outcome]) -> None:
    refused = slm("run", "--offline", "--endpoint", "https://example.org", "Hi")
    assert refused.code == 5 and "--offline forbids" in refused.err
    assert slm("run", "--endpoint", "http://192.168.1.2:8080", "Hi", env={"SLM_OFFLINE": "1"}).code == 5
    allowed = slm("run", "--offline", "-v", "--endpoint", server.url, "Hi")
    assert allowed.code in (0, 9), allowed.err
    if allowed.code == 0:  # the kernel has what it takes
        assert "seccomp refuses new sockets" in allowed.err
        assert f"connections to 127.0.0.1:{server.port} come from a process of slm's own" in allowed.err
        assert "guard" not in allowed.err


def test_privacy_names_the_endpoints_and_where_their_keys_are(home: Path, slm: Callable[..., Outcome]) -> None:
    _config(home, '[endpoints.work]\nurl = "https://host.example/v1"\nkey_env = "WORK_KEY"\n')
    shown = slm("privacy", env={"WORK_KEY": KEY})
    assert "https://host.example/v1" in shown.out and "the variable WORK_KEY" in shown.out
    assert KEY not in shown.out
    (one,) = json.loads(slm("privacy", "--json").out)["endpoints"]
    assert one == {
        "name": "work",
        "url": "https://host.example/v1",
        "is_here": False,
        "key_from": "the variable WORK_KEY",
    }


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of our own for localhost, with its key in the same file."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", folder / "key.pem", "-out", folder / "cert.pem", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    both = folder / "both.pem"
    both.write_text((folder / "key.pem").read_text() + (folder / "cert.pem").read_text())
    return both


def test_tls_is_checked_and_can_be_trusted(
    certificate: Path, slm: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    with EndpointServer(certificate=certificate) as server:
        refused = slm("run", "--endpoint", server.url, "Hi", env={"SLM_ENDPOINT_KEY": KEY})
        assert refused.code == 5 and "cannot prove that it is localhost" in refused.err
        assert server.requests == []  # not even the key
        trusted = {"SSL_CERT_FILE": str(certificate), "SLM_ENDPOINT_KEY": KEY}
        assert slm("run", "--endpoint", server.url, "Hi", env=trusted).out == "Hello.\n"
        other = slm("run", "--endpoint", server.url.replace("localhost", "127.0.0.1"), "Hi", env=trusted)
        assert other.code == 5 and "cannot prove that it is 127.0.0.1" in other.err
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        endpoint = endpoints.from_url(server.url, "test")
        model = engine_module.load(endpoint, None, None, route_to(endpoint, {}), print).model
        assert model.id == "small"


def test_tls_to_a_server_that_speaks_none(server: EndpointServer) -> None:
    endpoint = endpoints.from_url(server.url.replace("http:", "https:"), "test")
    with pytest.raises(SlmError, match=r"no secure connection|closed the connection") as raised:
        engine_module.load(endpoint, KEY, None, route_to(endpoint, {}), print)
    assert raised.value.exit_code == 5
    assert server.requests == []


# The chat


def _chat(home: Path, *arguments: str) -> Terminal:
    return Terminal(["chat", *arguments], home=home)


def test_a_chat_is_marked_remote_and_survives_what_happens_on_the_way(server: EndpointServer, home: Path) -> None:
    with _chat(home, "--endpoint", server.url) as terminal:
        terminal.wait_for(rf"small · REMOTE 127\.0\.0\.1:{server.port}")
        terminal.enter("first question")
        terminal.wait_for(r"Hello\.")
        server.script.append(cut("Half an ", "answer"))
        terminal.enter("second question")
        terminal.wait_for("broke off in the middle")
        terminal.wait_for("Half an answer")
        terminal.type(CTRL_C)  # the question is back in the line
        server.script.append(status(400, {"error": {"message": "maximum context length is 64 tokens"}}))
        terminal.enter("third question")
        terminal.wait_for("does not fit its context window")
        terminal.type(CTRL_C)
        terminal.enter("/set threads 2")
        terminal.wait_for("threads is decided at")
        terminal.enter("/model nobody")
        terminal.wait_for("has no model 'nobody'")
        terminal.enter("/exit")
        assert terminal.end() == 0
    shown = json.loads(_exported(home))
    said = [(message["role"], message["text"], message["model"], message["is_cut"]) for message in shown["messages"]]
    name = f"remote:127.0.0.1:{server.port}/small"
    assert said[:4] == [
        ("user", "first question", None, False),
        ("assistant", "Hello.", name, False),
        ("user", "second question", None, False),
        ("assistant", "Half an answer", name, True),
    ]


def _exported(home: Path) -> str:
    from conftest import run_slm

    (one,) = json.loads(run_slm("sessions", "list", "--json", home=home).out)
    return run_slm("sessions", "export", one["id"], "--format", "json", home=home).out


def test_a_conversation_leaves_only_after_a_yes(server: EndpointServer, home: Path) -> None:
    with _chat(home, "--endpoint", server.url) as terminal:
        terminal.wait_for("REMOTE")
        terminal.enter("a private thing")
        terminal.wait_for(r"Hello\.")
        terminal.enter("/exit")
        terminal.end()
    asked = len(server.requests)
    with EndpointServer() as other:
        with _chat(home, "--continue", "--endpoint", other.url) as terminal:
            terminal.wait_for("2 messages of this conversation would go to another program")
            terminal.press("n")
            terminal.wait_for("nothing of the conversation has been sent")
            assert terminal.end() == 130
        assert (other.requests, len(server.requests)) == ([], asked)
        with _chat(home, "--continue", "--endpoint", other.url) as terminal:
            terminal.wait_for("2 messages of this conversation")
            terminal.press("y")
            terminal.wait_for(r"a private thing[\s\S]*small · REMOTE")
            terminal.enter("and another")
            terminal.wait_for_count(r"Hello\.", 2)
            terminal.enter("/exit")
            terminal.end()
        assert [message["content"] for message in other.posts[0].body["messages"]] == [
            "a private thing",
            "Hello.",
            "and another",
        ]
