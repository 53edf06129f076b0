"""Measure what the remote engine adds: to the first token, to every token, and to a process.

Usage: python tests/benchmarks/bench_remote.py [--json] [--runs 40]
A server of our own on the loopback device answers; it is another process, so that nothing is shared.
- first token: seconds from generate() to the first chunk, less what a bare socket takes for the same request (target:
  at most 5 ms more), medians of alternating pairs; the server answers at once, so that nothing hides behind it;
- rate: tokens a second from a server that sends as fast as it can (target: at least 1,000), and the share of one core
  that 1,000 tokens a second need;
- process: `slm run --endpoint` as a whole, beyond `slm --version`.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from slmchat import endpoints
from slmchat.engine.api import Chunk, Limits, Part, Prompt, SessionSettings, Turn
from slmchat.engine.remote.engine import RemoteSession, load
from slmchat.engine.remote.route import route_to
from slmchat.engine.sampler import SamplerSettings

PROMPT = Prompt((Part("Hi"),), (Turn("user", "Hi"),))
MANY = 20_000

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=40)
    options = parser.parse_args()
    with subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        try:
            results = _measured(port, options.runs)
        finally:
            server.kill()
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for what, value in results.items():
        print(f"{what:60} {value:12,.2f}")


def _measured(port: int, runs: int) -> dict[str, float]:
    endpoint = endpoints.from_url(f"http://127.0.0.1:{port}", "bench")
    session = load(endpoint, None, None, route_to(endpoint, {}), print).open_session(SessionSettings(1, 1, 1))
    bare = socket.create_connection(("127.0.0.1", port))
    bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _first(session), _bare_first(bare)
    pairs = [(_first(session), _bare_first(bare)) for _ in range(runs)]
    ours, theirs = (statistics.median(times) * 1000 for times in zip(*pairs, strict=True))
    rate, cpu = _rate(session)
    process, version = _processes(endpoint.url)
    return {
        "first token, slm (ms)": ours,
        "first token, a bare socket (ms)": theirs,
        "added to the first token (ms; target 5)": ours - theirs,
        "tokens a second, as fast as it comes (target 1,000)": rate,
        "share of a core at 1,000 tokens a second (%)": 100 * cpu * 1000,
        "slm run --endpoint, whole process (ms)": process * 1000,
        "slm --version, whole process (ms)": version * 1000,
    }


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


def _processes(url: str) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as home:
        environ = {**os.environ, "SLM_HOME": home, "PYTHONPATH": str(Path(__file__).parents[2])}
        asked = ["run", "--endpoint", url, "-n", "3", "Hi"]
        times = [(_timed(asked, environ), _timed(["--version"], environ)) for _ in range(7)]
    process, version = (statistics.median(column) for column in zip(*times, strict=True))
    return process, version


def _timed(arguments: list[str], environ: dict[str, str]) -> float:
    start = time.perf_counter()
    command = [sys.executable, "-m", "slmchat", *arguments]
    subprocess.run(command, check=True, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
