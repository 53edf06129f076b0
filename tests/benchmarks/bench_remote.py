"""What the remote engine adds: to the first token, to every token, and to a process.

A server of our own on the loopback device answers; it is another process, so that nothing is shared.
- first token: from generate() to the first chunk, less what a bare socket takes for the same request, alternating; the
  server answers at once, so that nothing hides behind it. One measurement is the median of many requests;
- rate: tokens a second from a server that sends as fast as it can, and the share of a core that 1,000 a second need;
- process: `slm run --endpoint` as a whole, and `slm --version` beside it.
"""

import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import programs
from targets import Target, rounds

from slmchat import endpoints
from slmchat.engine.remote.engine import load
from slmchat.engine.remote.route import route_to
from slmchat.engine.remote.session import RemoteSession
from slmchat.engine.requests import Limits, Part, Prompt, SessionSettings, Turn
from slmchat.engine.results import Chunk
from slmchat.engine.sampler import SamplerSettings

PROMPT = Prompt((Part("Hi"),), (Turn("user", "Hi"),))
MANY = 20_000
REQUESTS = 40

_SERVER = r"""
import json, socket, sys, threading
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)
def event(text, reason=None):
    value = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}], "model": "small"}
    return chunk(b"data: " + json.dumps(value).encode() + b"\n\n")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
MODELS = b'{"data": [{"id": "small"}]}'
def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    file = connection.makefile("rb")
    while line := file.readline():
        length = 0
        while (header := file.readline()) not in (b"\r\n", b""):
            name, _, value = header.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        body = file.read(length)
        if line.startswith(b"GET"):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                               % (len(MODELS), MODELS))
            continue
        count = json.loads(body)["max_tokens"]
        connection.sendall(HEAD)
        for _ in range(count):
            connection.sendall(event(" word"))
        connection.sendall(event("", "stop") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def measure(repeat: int) -> list[Target]:
    with _served() as port:
        endpoint = endpoints.from_url(f"http://127.0.0.1:{port}", "bench")
        session = load(endpoint, None, None, route_to(endpoint, {}), print).open_session(SessionSettings(1, 1, 1))
        return [_first_token(session, port, repeat), _many_tokens(session, repeat), _process(endpoint.url, repeat)]


@contextmanager
def _served() -> Iterator[int]:
    """The port of a server that answers until this ends."""
    with subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline())
        finally:
            server.kill()


def _first_token(session: RemoteSession, port: int, repeat: int) -> Target:
    mine, theirs = [], []
    with socket.create_connection(("127.0.0.1", port)) as bare:
        bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _first(session), _bare_first(bare)
        for _ in rounds(repeat):
            both = [(_first(session), _bare_first(bare)) for _ in range(REQUESTS)]
            for times, seconds in zip((mine, theirs), zip(*both, strict=True), strict=True):
                times.append(1000 * statistics.median(seconds))
    added = [a - b for a, b in zip(mine, theirs, strict=True)]
    raw = {"slm ms": mine, "a bare socket ms": theirs}
    return Target("remote engine: added to the first token", 5, added, raw, is_at_least=False, unit="ms")


def _many_tokens(session: RemoteSession, repeat: int) -> Target:
    found = [_rate(session) for _ in rounds(repeat)]
    rates = [rate for rate, _cpu in found]
    raw = {"tok/s": rates, "% of a core at 1,000 tok/s": [100 * 1000 * cpu for _rate, cpu in found]}
    return Target("remote engine: as fast as tokens come", 1000, rates, raw, is_at_least=True, unit="tok/s")


def _first(session: RemoteSession) -> float:
    start = time.perf_counter()
    found = None
    for item in session.generate(PROMPT, SamplerSettings(), Limits(3)):
        if found is None and isinstance(item, Chunk):
            found = time.perf_counter() - start
    assert found is not None
    return found


def _bare_first(connection: socket.socket) -> float:
    body = b'{"max_tokens": 3}'
    start = time.perf_counter()
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    data = b""
    while b" word" not in data:
        data += connection.recv(65536)
    found = time.perf_counter() - start
    while not data.endswith(b"0\r\n\r\n"):
        data += connection.recv(65536)
    return found


def _rate(session: RemoteSession) -> tuple[float, float]:
    """Tokens a second, and seconds of this process's CPU for one token."""
    start, cpu = time.perf_counter(), time.process_time()
    count = sum(isinstance(item, Chunk) for item in session.generate(PROMPT, SamplerSettings(), Limits(MANY)))
    assert count == MANY
    return MANY / (time.perf_counter() - start), (time.process_time() - cpu) / MANY


def _process(url: str, repeat: int) -> Target:
    """No target of an issue; ours: not slower than `slm run` may be before its model loads."""
    asked = [*programs.SLM, "run", "--endpoint", url, "-n", "3", "Hi"]
    taken, version = [], []
    with tempfile.TemporaryDirectory() as home:
        for command in (asked, [*programs.SLM, "--version"]):
            programs.run(command, {"SLM_HOME": home})  # the bytecode
        for _ in rounds(repeat):
            taken.append(1000 * programs.run(asked, {"SLM_HOME": home}).seconds)
            version.append(1000 * programs.run([*programs.SLM, "--version"], {"SLM_HOME": home}).seconds)
    raw = {"slm run --endpoint ms": taken, "slm --version ms": version}
    return Target("slm run --endpoint, three tokens, whole process", 400, taken, raw, is_at_least=False, unit="ms")
