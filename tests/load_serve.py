"""64 clients of mixed kinds against one server, as long as you like: `python tests/load_serve.py [SECONDS]` (600).

Each client asks again and again in its own way (whole, streamed, vanishing, half-closed, slow to read, slamming the
door) and checks its own text against what a quiet server said. Texts of random weights may part where two tokens are
nearly equally probable, as sums depend on what else is in a batch; a text of another client never comes.

Exit code 0: no request failed, no text was another client's, memory is flat within 5 % from a third of the time on, all
threads and descriptors are back at the end, and SIGTERM ends the server with 0.
"""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gguf_samples import PHI3_TEMPLATE, WORDS, write_tiny_llama

N_CLIENTS = 64
PERIOD_S = 10.0
# Threads and descriptors that a server may have more at the end than before its first connection.
SPARE = 2


@dataclass
class Server:
    """The process, and what the kernel knows of it."""

    home: Path
    process: "subprocess.Popen[bytes]" = field(init=False)
    port: int = field(init=False)

    def __post_init__(self) -> None:
        model = write_tiny_llama(self.home / "tiny.gguf", chat_template=PHI3_TEMPLATE, context_length=1024)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "slmchat", "serve", str(model), "--port", "0", "--threads", "1", "--parallel", "8"],
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "SLM_HOME": str(self.home)},
        )
        said = ""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            said += line.decode()
            if b"SIGTERM ends it" in line:
                break
        found = re.search(r"127\.0\.0\.1:(\d+)", said)
        assert found is not None, said
        self.port = int(found[1])
        rest = self.process.stderr
        threading.Thread(target=lambda: sys.stderr.buffer.writelines(rest), daemon=True).start()

    def sample(self) -> tuple[int, int, int]:
        """KiB in memory, threads, descriptors."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        numbers = [re.search(rf"{name}:\s+(\d+)", status) for name in ("VmRSS", "Threads")]
        rss, threads = (int(number[1]) for number in numbers if number is not None)
        return rss, threads, len(os.listdir(f"/proc/{self.process.pid}/fd"))


def body(number: int, **more: object) -> bytes:
    """What client `number` asks."""
    text = " ".join(WORDS[number % 60 : number % 60 + 6 + number % 9])
    asked = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 24, **more}
    return json.dumps(asked).encode()


class Clients:
    """What each kind of client does once, and what came of all of them."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.other: list[str] = []  # texts that a quiet server did not say
        self._lock = threading.Lock()
        self.expected = {number: self._text(self._ask(number)[1]) for number in range(N_CLIENTS)}

    def kinds(self) -> list[Callable[[int], None]]:
        return [
            *(self.whole, self.whole, self.streamed, self.streamed),
            *(self.vanishing, self.half_closed, self.slow, self.slamming),
        ]

    def run(self, number: int, end: float) -> None:
        kind = self.kinds()[number % len(self.kinds())]
        while time.monotonic() < end:
            try:
                kind(number)
            except Exception as error:  # noqa: BLE001 - a failure is what is looked for
                self.failures.append(f"{kind.__name__}: {error!r}")

    def whole(self, number: int) -> None:
        status, data = self._ask(number)
        self._judge(number, "whole", status, lambda: self._text(data))

    def streamed(self, number: int) -> None:
        status, data = self._ask(number, stream=True)
        self._judge(number, "streamed", status, lambda: _streamed_text(data))

    def vanishing(self, number: int) -> None:
        with self._raw(number, stream=True, max_tokens=500) as made:
            made.recv(200)
        self._count("vanished")

    def half_closed(self, number: int) -> None:
        with self._raw(number) as made:
            made.shutdown(socket.SHUT_WR)
            said = b""
            while piece := made.recv(65536):
                said += piece
        status = int(said.rpartition(b"HTTP/1.1 ")[2][:3])  # behind words that say nothing (102)
        self._judge(number, "half-closed", status, lambda: self._text(said[said.rindex(b"\r\n\r\n") :]))

    def slow(self, number: int) -> None:
        with self._raw(number, stream=True) as made:
            said = b""
            while piece := made.recv(50):
                said += piece
                time.sleep(0.02)
                if b"[DONE]" in said[-60:] or b'"error"' in said:
                    break
        self._count("slow reader")

    def slamming(self, _number: int) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as made:
            made.sendall(b"POST /v1/chat")
        self._count("slammed")

    def _judge(self, number: int, kind: str, status: int, text: Callable[[], str]) -> None:
        if status == 429:
            self._count("told to come back")
            time.sleep(0.2)
            return
        said = text()
        if said != self.expected[number]:
            self.other.append(said)
        self._count(kind)

    def _ask(self, number: int, **more: object) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("POST", "/v1/chat/completions", body(number, **more))
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, data

    def _raw(self, number: int, **more: object) -> socket.socket:
        data = body(number, **more)
        made = socket.create_connection(("127.0.0.1", self.port), timeout=120)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(data)
        made.sendall(head + data)
        return made

    def _text(self, data: bytes) -> str:
        text: str = json.loads(data)["choices"][0]["message"]["content"]
        return text

    def _count(self, kind: str) -> None:
        with self._lock:
            self.counts[kind] += 1


def _streamed_text(data: bytes) -> str:
    events = [json.loads(line[6:]) for line in data.decode().splitlines() if line.startswith("data: {")]
    assert not any("error" in event for event in events), events[-1]
    return "".join(event["choices"][0]["delta"].get("content", "") for event in events if event["choices"])


def main(seconds: float) -> int:
    with tempfile.TemporaryDirectory(prefix="slm-load-") as directory:
        server = Server(Path(directory))
        before = server.sample()
        clients = Clients(server.port)
        start = time.monotonic()
        end = start + seconds
        threads = [threading.Thread(target=clients.run, args=(number, end)) for number in range(N_CLIENTS)]
        for thread in threads:
            thread.start()
        samples: list[tuple[float, int]] = []
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(PERIOD_S, left))
            now = server.sample()
            samples.append((time.monotonic() - start, now[0]))
            print(
                f"{samples[-1][0]:5.0f} s: {now[0] / 1024:.1f} MiB, {now[1]} threads, {now[2]} descriptors", flush=True
            )
        for thread in threads:
            thread.join()
        time.sleep(2)
        after = server.sample()
        server.process.terminate()
        code = server.process.wait(60)
    return _verdict(clients, samples, before, after, code)


def _verdict(
    clients: Clients,
    samples: list[tuple[float, int]],
    before: tuple[int, int, int],
    after: tuple[int, int, int],
    code: int,
) -> int:
    settled = [rss for at, rss in samples if at >= samples[-1][0] / 3]
    growth = max(settled) / min(settled) - 1
    theirs = set(clients.expected.values())
    mixed = [text for text in clients.other if text in theirs]
    n_answers = sum(clients.counts[kind] for kind in ("whole", "streamed", "half-closed"))
    print(dict(clients.counts))
    print(
        f"{n_answers:,} answers checked; {len(clients.other):,} other than on a quiet server, {len(mixed)} another client's"
    )
    print(f"memory of the last two thirds: {growth:.1%} between the least and the most")
    print(f"threads {before[1]} -> {after[1]}, descriptors {before[2]} -> {after[2]}, exit code {code}")
    print(f"{len(clients.failures)} failures", *clients.failures[:5], sep="\n")
    is_back = after[1] <= before[1] + SPARE and after[2] <= before[2] + SPARE
    return 0 if not clients.failures and not mixed and growth <= 0.05 and is_back and code == 0 else 1


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 600.0))
