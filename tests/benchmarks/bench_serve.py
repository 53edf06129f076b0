"""slm serve: against llama-server with the same slots, what HTTP adds, prompts that were read before, an idle server, and
`slm run` from its memory.

llama-server is taken from the PATH or from SLM_LLAMA_SERVER; without one the parts against it are left out. Both servers
run at the same time and are asked alternately, with the same window for each slot.
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import programs
from targets import Target, pairs, rounds

STREAMS = (1, 4, 16)
N_TOKENS = 64
WINDOW = 1024
LONG_TOKENS, LONG_WINDOW = 6000, 8192
REQUESTS = 20
IDLE_S = 5.0


class Server:
    """A server that speaks the API of OpenAI, in a process of its own."""

    def __init__(self, command: Sequence[str], port: int, home: Path | None = None) -> None:
        self.port = port
        self.home = home
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=programs.environment({"SLM_HOME": str(home)} if home else None),
        )
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise SystemExit(f"a server ended with {self.process.returncode} before it answered")
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.05)
        raise SystemExit("a server did not answer within two minutes")

    def ask(self, text: str, n_tokens: int) -> tuple[float, float]:
        """Seconds to the first piece of a streamed answer, and to its end."""
        asked = {"messages": [{"role": "user", "content": text}], "max_tokens": n_tokens, "temperature": 0}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        start = time.perf_counter()
        body = json.dumps({**asked, "stream": True, "ignore_eos": True}).encode()
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        answer, first = connection.getresponse(), 0.0
        while line := answer.readline():
            if not first and b'"content"' in line and b'"content": ""' not in line and b'"content":null' not in line:
                first = time.perf_counter() - start
        connection.close()
        assert answer.status == 200 and first, answer.status
        return first, time.perf_counter() - start

    def rate(self, n_streams: int, salt: str) -> float:
        """Tokens a second of so many answers at once."""
        texts = [f"{salt} {number}: {programs.PROMPT}" for number in range(n_streams)]
        threads = [threading.Thread(target=self.ask, args=(text, N_TOKENS)) for text in texts]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return n_streams * N_TOKENS / (time.perf_counter() - start)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def _slm(model: str, *more: str, home: Path | None = None) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="slm-serve-") as directory:
        port = _free_port()
        where = ("--port", str(port), "--threads", str(programs.THREADS))
        made = Server([*programs.SLM, "serve", programs.path_of(model), *where, *more], port, home or Path(directory))
        try:
            yield made
        finally:
            made.end()


@contextlib.contextmanager
def _peer(program: str, model: str, n_slots: int, window: int) -> Iterator[Server]:
    port = _free_port()
    slots = ("-np", str(n_slots), "-c", str(window * n_slots), "-t", str(programs.THREADS))
    where = ("--host", "127.0.0.1", "--port", str(port), "--no-webui")
    made = Server([program, "-m", programs.path_of(model), *slots, *where], port)
    try:
        yield made
    finally:
        made.end()


def measure(repeat: int) -> list[Target]:
    model = programs.MODELS[0]
    peer = os.environ.get("SLM_LLAMA_SERVER") or shutil.which("llama-server")
    found = [target for n in STREAMS for target in _against(peer, model, n, repeat)] if peer else []
    return [*found, _added_by_http(model, repeat), *_read_before(model), *_idle(model), *_warm_run(model, repeat)]


def _against(peer: str, model: str, n_streams: int, repeat: int) -> Iterator[Target]:
    """Tokens a second of answers side by side, and for one the time to its first token."""
    slots = ("--parallel", str(n_streams), "--ctx", str(WINDOW))
    with _slm(model, *slots, "--keep-alive", "0") as ours, _peer(peer, model, n_streams, WINDOW) as theirs:
        for each in (ours, theirs):
            each.rate(n_streams, "first")
        number = iter(range(1_000_000))
        salt = lambda: f"{next(number)}"  # noqa: E731
        ratios, mine, others = pairs(
            repeat, lambda: ours.rate(n_streams, salt()), lambda: theirs.rate(n_streams, salt())
        )
        raw = {"slm tok/s": mine, "llama-server tok/s": others}
        yield Target(f"serve: {n_streams} streams against llama-server", 0.95, ratios, raw, is_at_least=True)
        if n_streams == 1:
            first = lambda server: statistics.median(server.ask(salt(), 2)[0] for _ in range(REQUESTS))  # noqa: E731
            ratios, mine, others = pairs(repeat, lambda: first(ours), lambda: first(theirs))
            raw = {"slm s": mine, "llama-server s": others}
            yield Target("serve: first token against llama-server", 1.1, ratios, raw, is_at_least=False)


def _added_by_http(model: str, repeat: int) -> Target:
    """One token over HTTP, less the same over the line of slm's own commands (engine and queue are the same)."""
    from slmchat.engine.requests import Limits, Part, Prompt
    from slmchat.engine.sampler import SamplerSettings
    from slmchat.engine.warm.session import WarmSession
    from slmchat.models.warm_socket import connect

    with _slm(model, "--keep-alive", "0") as server:
        assert server.home is not None
        line = connect(server.home / "data" / "serve" / "socket")
        assert line is not None
        session = WarmSession(line, WINDOW)
        prompt, greedy = Prompt((Part(programs.PROMPT),)), SamplerSettings(temperature=0)

        def bare() -> float:
            start = time.perf_counter()
            for _ in session.generate(prompt, greedy, Limits(1)):
                pass
            return time.perf_counter() - start

        server.ask("Hi", 1), bare()
        mine, theirs = [], []
        for _ in rounds(repeat):
            both = [(server.ask("Hi", 1)[1], bare()) for _ in range(REQUESTS)]
            for times, seconds in zip((mine, theirs), zip(*both, strict=True), strict=True):
                times.append(1000 * statistics.median(seconds))
    added = [a - b for a, b in zip(mine, theirs, strict=True)]
    raw = {"HTTP ms": mine, "the line ms": theirs}
    return Target("serve: added by HTTP", 5, added, raw, is_at_least=False, unit="ms")


def _read_before(model: str) -> Iterator[Target]:
    """A long prompt again after a restart, and with another last message."""
    document = " ".join(f"Item {number} costs {number * 7 % 100} euros." for number in range(LONG_TOKENS // 11))
    with tempfile.TemporaryDirectory(prefix="slm-serve-") as directory:
        seconds = []
        for question in ("What costs the most?", "What costs the most?", "What costs the least of all?"):
            with _slm(model, "--ctx", str(LONG_WINDOW), home=Path(directory)) as server:
                seconds.append(server.ask(f"{document}\n\n{question}", 2)[0])
    cold, again, other = seconds
    raw = {"cold s": [cold], "again s": [again], "another last message s": [other]}
    yield Target("serve: a long prompt again after a restart", 0.05, [again / cold], raw, is_at_least=False)
    yield Target("serve: the same with another last message", 0.1, [other / cold], raw, is_at_least=False)


def _idle(model: str) -> Iterator[Target]:
    """What a server takes that nobody asks: processor time, and memory when its weights are freed."""
    with _slm(model, "--keep-alive", "1s") as server:
        server.ask("Hi", 1)
        line = _status(server)
        while line()["is_loaded"]:
            time.sleep(0.2)
        before = _processor_s(server.process.pid)
        time.sleep(IDLE_S)
        taken = 100 * (_processor_s(server.process.pid) - before) / IDLE_S
        memory = _memory_mib(server.process.pid)
    yield Target("serve: idle", 0.5, [taken], {"% of a core": [taken]}, is_at_least=False, unit="%")
    yield Target("serve: idle without weights", 60, [memory], {"MiB": [memory]}, is_at_least=False, unit="MiB")


def _status(server: Server) -> Any:
    command = [*programs.SLM, "serve", "--status", "--json"]
    return lambda: json.loads(programs.run(command, {"SLM_HOME": str(server.home)}).out)


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def _warm_run(model: str, repeat: int) -> Iterator[Target]:
    """One token of `slm run` from the memory of a server, as a whole process, and to the first token of it."""
    with _slm(model, "--keep-alive", "0") as server:
        extra = {"SLM_HOME": str(server.home)}
        asked = [*programs.SLM, "run", "-m", programs.path_of(model), "--temp", "0", "-n", "1", programs.PROMPT]
        programs.run(asked, extra)
        whole, first, version = [], [], []
        for _ in rounds(repeat):
            whole.append(1000 * programs.run(asked, extra).seconds)
            first.append(1000 * _first_byte(asked, extra))
            version.append(1000 * programs.run([*programs.SLM, "--version"], extra).seconds)
    raw = {"slm run ms": whole, "to the first byte ms": first, "slm --version ms": version}
    yield Target("serve: one token of slm run from its memory", 200, whole, raw, is_at_least=False, unit="ms")
    yield Target("serve: the first token of it", 150, first, raw, is_at_least=False, unit="ms")


def _first_byte(command: Sequence[str], extra: dict[str, str]) -> float:
    start = time.perf_counter()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=programs.environment(extra),
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        return time.perf_counter() - start
