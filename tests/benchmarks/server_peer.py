"""llama-server as a peer: started once, asked over the loopback device."""

import contextlib
import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator

import programs


@contextlib.contextmanager
def served(program: str, model: str, n_ctx: int) -> Iterator[Callable[[int], float]]:
    """A running llama-server; calling it with N gives its tokens a second for N tokens of greedy completion."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "-m", programs.path_of(model), "-c", str(n_ctx), "-t", str(programs.THREADS), "-np", "1"]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--no-webui"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def rate(n_tokens: int) -> float:
        asked = {"prompt": programs.PROMPT, "n_predict": n_tokens, "temperature": 0, "ignore_eos": True}
        request = urllib.request.Request(
            f"{address}/completion", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        with opener.open(request, timeout=600) as answer:
            return float(json.load(answer)["timings"]["predicted_per_second"])

    try:
        _wait_until_ready(process, opener, address)
        yield rate
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(process: "subprocess.Popen[bytes]", opener: urllib.request.OpenerDirector, address: str) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SystemExit(f"llama-server ended with {process.returncode} before it answered")
        with contextlib.suppress(OSError), opener.open(f"{address}/health", timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.05)
    raise SystemExit("llama-server did not answer within a minute")
