"""`slm serve` as a process: how it starts and ends, its seal, and `slm run` from its memory."""

import contextlib
import http.client
import io
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fork_server
import pytest
from conftest import Outcome, environment, run_slm
from gguf_samples import PHI3_TEMPLATE, write_tiny_llama
from gguf_surgery import with_keys
from gguf_thinking import PLAIN, THINKS, write_planted
from terminal import Terminal

from slmchat.commands.serve import _start
from slmchat.errors import ExitCode
from slmchat.terminal.console import Console

pytestmark = [pytest.mark.real, pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says nonsense until its window is full."""
    return write_tiny_llama(
        tmp_path_factory.mktemp("models") / "tiny.gguf", chat_template=PHI3_TEMPLATE, context_length=4096
    )


@pytest.fixture(scope="module")
def tireless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose window is not full for minutes."""
    return write_tiny_llama(
        tmp_path_factory.mktemp("models") / "tireless.gguf", chat_template=PHI3_TEMPLATE, context_length=60_000
    )


class ServerProcess:
    """`slm serve` in the foreground, until the end of the block."""

    def __init__(self, home: Path, *arguments: str | Path, env: dict[str, str] | None = None) -> None:
        self.process = fork_server.popen(
            [sys.executable, "-m", "slmchat", "serve", *map(str, arguments), "--port", "0", "--threads", "1", "-v"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(home, env),
        )
        self.said = ""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line.decode()
            if b"SIGTERM ends it" in line:
                break
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.said)
        assert found is not None, self.said
        self.port = int(found[1])

    def request(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request(method, path, None if body is None else json.dumps(body).encode())
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def end(self) -> tuple[int, str]:
        """SIGTERM; the exit code, and what was still said."""
        self.process.send_signal(signal.SIGTERM)
        _out, said = self.process.communicate(timeout=300)
        return self.process.returncode, said.decode()

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def server(home: Path, tiny: Path) -> Iterator[ServerProcess]:
    with ServerProcess(home, tiny) as made:
        yield made


Slm = Callable[..., Outcome]
ASKED = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}


class TestLife:
    def test_sigterm_lets_an_answer_end(self, server: ServerProcess) -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=300) as made:
            body = json.dumps({**ASKED, "max_tokens": 400, "stream": True}).encode()
            made.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))  # fmt: skip
            said = made.recv(100)
            server.process.send_signal(signal.SIGTERM)
            while piece := made.recv(65536):
                said += piece
        assert b'"finish_reason": "length"' in said and b"[DONE]" in said
        assert server.process.wait(300) == 0

    def test_two_signals_are_one_end(self, server: ServerProcess) -> None:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(300) in (0, 130)

    def test_nothing_of_a_conversation_is_logged(self, server: ServerProcess) -> None:
        said_to_it = {**ASKED, "max_tokens": 8, "messages": [{"role": "user", "content": "a secret"}]}
        server.request("POST", "/v1/chat/completions", said_to_it)
        code, said = server.end()
        assert code == 0
        assert "/v1/chat/completions: 200" in said and "secret" not in said

    def test_it_leaves_no_socket_behind(self, server: ServerProcess, home: Path) -> None:
        path = home / "data" / "serve" / "socket"
        assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
        assert server.end()[0] == 0
        assert not path.exists()

    def test_a_second_one_is_refused_and_a_dead_ones_socket_is_no_obstacle(
        self, server: ServerProcess, home: Path, tiny: Path, slm: Slm
    ) -> None:
        second = slm("serve", tiny, "--port", "0")
        assert (second.code, second.out) == (2, "") and "already" in second.err
        server.process.kill()
        server.process.wait(300)
        assert (home / "data" / "serve" / "socket").exists()
        with ServerProcess(home, tiny) as third:
            assert third.request("GET", "/health")[0] == 200

    def test_a_port_that_is_taken_is_said(self, server: ServerProcess, tiny: Path, slm: Slm, tmp_path: Path) -> None:
        second = slm("serve", tiny, "--port", str(server.port), "--socket", tmp_path / "other")
        assert second.code == 2 and "cannot be listened on" in second.err

    def test_an_address_that_others_reach_wants_a_key(self, tiny: Path, slm: Slm) -> None:
        refused = slm("serve", tiny, "--host", "0.0.0.0", "--port", "0")
        assert refused.code == 2 and "--api-key-env" in refused.err
        unset = slm("serve", tiny, "--api-key-env", "NO_SUCH_KEY", "--port", "0")
        assert unset.code == 2 and "NO_SUCH_KEY is not set" in unset.err

    def test_without_a_server_status_and_stop_say_so(self, slm: Slm) -> None:
        for flag in ("--status", "--stop"):
            ended = slm("serve", flag)
            assert ended.code == 3 and "no server runs" in ended.err


class TestEmbeddingModel:
    """A server of an embedding model makes vectors, and says so to who wants to chat."""

    def test_vectors_alone(self, home: Path, tmp_path: Path, slm: Slm) -> None:
        plain = write_planted(tmp_path / "plain.gguf", THINKS, PLAIN)
        path = with_keys(plain, tmp_path / "embeds.gguf", {"llama.pooling_type": 3})
        with ServerProcess(home, path) as made:
            status, done = made.request("POST", "/v1/embeddings", {"input": ["water", "look"]})
            assert (status, len(done["data"])) == (200, 2)
            status, refused = made.request("POST", "/v1/chat/completions", ASKED)
            assert status == 400 and "makes vectors" in refused["error"]["message"]
            told = slm("serve", "--status")
            assert told.code == 0 and "weights: in memory" in told.out
            refused_run = slm("run", "Hi", "-m", path)
            assert refused_run.code == 2 and "slm embed" in refused_run.err
            assert made.end()[0] == 0


class TestBackground:
    def test_started_asked_and_ended(self, slm: Slm, tiny: Path) -> None:
        began = slm("serve", tiny, "--background", "--port", "0", "--threads", "1")
        try:
            assert began.code == 0, began.err
            told = json.loads(slm("serve", "--status", "--json").out)
            assert told["is_loaded"] and told["model"].endswith("tiny.gguf")
            again = slm("serve", tiny, "--background", "--port", "0")
            assert again.code == 0 and "runs already" in again.err
        finally:
            ended = slm("serve", "--stop")
        assert ended.code == 0, ended.err
        assert slm("serve", "--status").code == 3

    def test_two_starts_at_once_make_one_server(self, slm: Slm, tiny: Path) -> None:
        outcomes: list[Outcome] = []
        start = lambda: outcomes.append(slm("serve", tiny, "--background", "--port", "0", "--threads", "1"))  # noqa: E731
        threads = [threading.Thread(target=start) for _ in range(2)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        try:
            assert [each.code for each in outcomes] == [0, 0], [each.err for each in outcomes]
            pids = {found[1] for each in outcomes if (found := re.search(r"process (\d+)", each.out))}
            assert len(pids) == 1
        finally:
            slm("serve", "--stop")
        assert slm("serve", "--status").code == 3  # the other one does not take its place

    def test_a_server_that_comes_too_late_is_ended(
        self, tiny: Path, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It would listen when the other one ends, and nobody would know of it."""
        late: list[subprocess.Popen[bytes]] = []
        with contextlib.ExitStack() as stack:

            def start(*_given: object, **_named: object) -> "subprocess.Popen[bytes]":
                monkeypatch.undo()
                stack.enter_context(ServerProcess(home, tiny))
                late.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
                return late[0]

            monkeypatch.setattr(subprocess, "Popen", start)
            console = Console(io.StringIO(), io.StringIO(), io.StringIO(), {})
            assert _start(["serve"], home / "data" / "serve" / "socket", console) is ExitCode.DONE
            assert "tiny.gguf" in console.stdout.getvalue()  # type: ignore[attr-defined]
        assert late[0].poll() is not None

    def test_what_is_wrong_is_said_by_the_one_who_started_it(self, slm: Slm, tmp_path: Path) -> None:
        failed = slm("serve", tmp_path / "missing.gguf", "--background", "--port", "0")
        assert failed.code == 3 and "missing.gguf" in failed.err

    def test_it_ends_with_its_weights(self, slm: Slm, tiny: Path, home: Path) -> None:
        began = slm("serve", tiny, "--background", "--port", "0", "--threads", "1", "--keep-alive", "1s")
        assert began.code == 0, began.err
        path = home / "data" / "serve" / "socket"
        with socket.socket(socket.AF_UNIX) as made:
            made.settimeout(300)
            made.connect(str(path))
            assert made.recv(1) == b""  # it has gone by itself
        assert slm("serve", "--status").code == 3


def _client_in_an_answer(home: Path, tiny: Path) -> "subprocess.Popen[bytes]":
    """A `slm run` whose answer from the server has begun."""
    client = fork_server.popen(
        [sys.executable, "-m", "slmchat", "run", "Hi", "-m", str(tiny), "--temp", "1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(home),
    )
    assert client.stdout is not None
    assert client.stdout.read(1)
    return client


class TestWarmRun:
    RUN = ("run", "Hello world", "--temp", "0", "-n", "12", "--threads", "1")

    def test_the_same_bytes_as_without_a_server(self, server: ServerProcess, slm: Slm, tiny: Path) -> None:
        warm = slm(*self.RUN, "-m", tiny, "-v")
        cold = slm(*self.RUN, "-m", tiny, "-v", "--no-server")
        assert "from the memory of slm serve" in warm.err and "slm serve" not in cold.err
        assert (warm.code, warm.out) == (cold.code, cold.out)

    @pytest.mark.parametrize(
        ("more", "code"),
        [
            (("--json", "--seed", "3"), 0),
            (("--stop", "e", "--seed", "3"), 0),
            (("--regex", "[a-c]{3}"), 0),
            (("--schema", '{"type":"integer","maximum":9,"minimum":0}'), 0),
            (("--raw",), 0),
            (("--logprobs", "2", "--json", "--seed", "1"), 0),
            (("--schema", '{"type":"string","minLength":900}'), 8),
        ],
    )
    def test_options_mean_the_same(
        self, server: ServerProcess, slm: Slm, tiny: Path, more: tuple[str, ...], code: int
    ) -> None:
        warm, cold = (slm(*self.RUN, "-m", tiny, *more, *where) for where in ((), ("--no-server",)))
        assert warm.code == cold.code == code, warm.err
        if "--json" in more:
            records = [json.loads(each.out) for each in (warm, cold)]
            for record in records:
                del record["timings"], record["usage"]["cached_tokens"]
            assert records[0] == records[1]
        else:
            assert warm.out == cold.out

    def test_another_model_or_other_options_are_computed_here(
        self, server: ServerProcess, slm: Slm, tiny: Path, tmp_path: Path
    ) -> None:
        other = write_tiny_llama(tmp_path / "other.gguf", chat_template=PHI3_TEMPLATE, seed=5, context_length=512)
        for arguments in (("-m", other), ("-m", tiny, "--gpu-layers", "0"), ("-m", tiny, "--ctx", "100000", "--force")):
            ended = slm("run", "Hi", "-n", "2", "-v", *arguments)
            assert ended.code == 0, ended.err
            assert "slm serve" not in ended.err

    def test_a_prompt_larger_than_the_servers_window(self, home: Path, tiny: Path, slm: Slm) -> None:
        with ServerProcess(home, tiny, "--ctx", "256"):
            ended = slm("run", "-m", tiny, "-n", "4", "-v", stdin="the people said " * 200)
        assert ended.code == 0, ended.err
        assert "slm serve" not in ended.err.replace("from the memory of slm serve", "")

    def test_a_server_that_does_not_answer_is_not_waited_for(self, home: Path, tiny: Path, slm: Slm) -> None:
        path = home / "data" / "serve" / "socket"
        path.parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as silent:  # it loads its own model, say
            silent.bind(str(path))
            silent.listen()
            ended = slm("run", "Hi", "-n", "2", "-m", tiny, "-v")
        assert ended.code == 0 and "slm serve" not in ended.err

    def test_a_plain_answer_is_made_by_the_server_as_a_whole(self, server: ServerProcess, slm: Slm, tiny: Path) -> None:
        asked = (*self.RUN, "-m", tiny, "--seed", "3", "-s", "Be short.", "--json")
        slm(*asked, stdin="water and oil\r\n")
        warm, cold = (
            json.loads(slm(*asked, *where, stdin="water and oil\r\n").out) for where in ((), ("--no-server",))
        )
        assert warm["usage"].pop("cached_tokens") == warm["usage"]["prompt_tokens"] - 1
        del cold["usage"]["cached_tokens"], warm["timings"], cold["timings"]
        assert warm == cold
        slm("run", "Hi", "-n", "2", "-m", tiny)
        assert slm("run", "Hi", "-n", "2", "--temp", "0").code == 0  # the model that was used last

    @pytest.mark.parametrize(
        ("arguments", "stdin"),
        [
            (("-n", "2"), "the people said " * 3000),  # more than the window
            (("-n", "2", "What is it?"), b"\x89PNG\r\n\x1a\n" + b"\0" * 20),
            (("-n", "2", "--on-overflow", "what"), "a"),
            (("-n", "2"), ""),
            (("-n", "2", "--think", "never"), "a"),
            (("-n", "2", "-s", "@no-such-file"), "a"),
            (("-n", "2", "--persona", "nobody"), "a"),
        ],
    )
    def test_what_goes_wrong_is_said_as_without_a_server(
        self, server: ServerProcess, slm: Slm, tiny: Path, arguments: tuple[str, ...], stdin: str | bytes
    ) -> None:
        warm, cold = (slm("run", "-m", tiny, *arguments, *where, stdin=stdin) for where in ((), ("--no-server",)))
        assert (warm.code, warm.out, warm.err) == (cold.code, cold.out, cold.err)
        assert warm.code != 0

    def test_private_commands_do_not_ask(self, server: ServerProcess, slm: Slm, tiny: Path) -> None:
        assert "slm serve" not in slm("run", "Hi", "-n", "2", "-m", tiny, "-v", "--private").err

    def test_ctrl_c_ends_the_generation_in_the_server(self, home: Path, tireless: Path) -> None:
        with ServerProcess(home, tireless, "--ctx", "60000") as server:
            client = _client_in_an_answer(home, tireless)
            client.send_signal(signal.SIGINT)
            client.communicate(timeout=300)
            assert client.returncode == 130
            while json.loads(run_slm("serve", "--status", "--json", home=home).out)["working"]:
                pass
            assert server.request("GET", "/health")[0] == 200

    def test_a_server_that_dies_is_told(self, home: Path, tireless: Path) -> None:
        with ServerProcess(home, tireless, "--ctx", "60000") as server:
            client = _client_in_an_answer(home, tireless)
            server.process.kill()
            _out, err = client.communicate(timeout=300)
        assert client.returncode == 5 and b"slm serve ended while it answered" in err

    @pytest.mark.parametrize(("more", "code"), [(("--ctx", "64"), 7), (("--ctx", "16"), 7)])
    def test_a_window_that_is_asked_for_is_that_large(
        self, server: ServerProcess, slm: Slm, tiny: Path, more: tuple[str, ...], code: int
    ) -> None:
        asked = ("run", "Hello world", "--temp", "0", "-m", tiny, *more)
        warm, cold = slm(*asked, "-v"), slm(*asked, "--no-server")
        assert "from the memory of slm serve" in warm.err
        assert (warm.code, warm.out) == (cold.code, cold.out) == (code, cold.out)


class TestWarmBatch:
    ROWS = "".join(f"the people said {number} words\n" for number in range(12))
    BATCH = ("batch", "Say it again", "--temp", "0", "--seed", "3", "-n", "8", "--threads", "1")

    def _both(self, slm: Slm, *arguments: str | Path, stdin: str = ROWS) -> list[list[dict[str, Any]]]:
        found = []
        for where in (("-v",), ("--no-server", "-v")):
            done = slm(*self.BATCH, *arguments, *where, stdin=stdin)
            assert done.code == 0, done.err
            assert ("in the memory of slm serve" in done.err) == (where == ("-v",))
            found.append([json.loads(line) for line in done.out.splitlines()])
        return found

    def test_the_same_records_as_without_a_server(self, server: ServerProcess, slm: Slm, tiny: Path) -> None:
        n_same = 0
        for warm, cold in zip(*self._both(slm, "-m", tiny), strict=True):
            n_same += warm.pop("completion") == cold.pop("completion")
            for record in (warm, cold):
                del record["usage"]["cached_tokens"]
            assert warm == cold
        # texts may part where two tokens are nearly equally probable: the order of sums differs
        assert n_same >= 9

    def test_a_format_holds(self, server: ServerProcess, slm: Slm, tiny: Path) -> None:
        warm, cold = self._both(slm, "-m", tiny, "--regex", "[a-c]{3}")
        assert [len(record["value"]) for record in warm] == [3] * 12
        assert [record["id"] for record in warm] == [record["id"] for record in cold]

    def test_rows_that_fail_are_records(self, server: ServerProcess, slm: Slm, tiny: Path) -> None:
        done = slm(*self.BATCH, "-m", tiny, "--ctx", "256", "-v", stdin=f"a\n{'word ' * 600}\nb\n")
        records = [json.loads(line) for line in done.out.splitlines()]
        assert done.code == 7, done.err
        assert "in the memory of slm serve" in done.err
        assert [record["error"] is None for record in records] == [True, False, True]

    @pytest.mark.parametrize("more", [("--choices", "yes,no"), ("--parallel", "200"), ("--private",)])
    def test_what_the_server_does_not_do_is_done_here(
        self, server: ServerProcess, slm: Slm, tiny: Path, more: tuple[str, ...]
    ) -> None:
        done = slm(*self.BATCH, "-m", tiny, *more, "-v", stdin="a\n")
        assert done.code == 0, done.err
        assert "slm serve" not in done.err.replace("from the memory of slm serve", "")

    def test_ctrl_c_keeps_what_is_written(self, server: ServerProcess, home: Path, tiny: Path, slm: Slm) -> None:
        client = fork_server.popen(
            [sys.executable, "-m", "slmchat", *self.BATCH, "-m", str(tiny)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(home),
        )
        assert client.stdin is not None and client.stdout is not None
        client.stdin.write(b"one\n")
        client.stdin.flush()
        assert json.loads(client.stdout.readline())["error"] is None
        client.send_signal(signal.SIGINT)
        _out, err = client.communicate(timeout=300)
        assert client.returncode == 130 and b"interrupted; 1 row" in err
        assert server.request("GET", "/health")[0] == 200

    def test_a_server_that_dies_ends_the_batch_with_a_way_on(self, home: Path, tireless: Path) -> None:
        with ServerProcess(home, tireless, "--ctx", "60000") as server:
            client = fork_server.popen(
                [sys.executable, "-m", "slmchat", "batch", "go on", "-m", str(tireless), "--temp", "1"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment(home),
            )
            assert client.stdin is not None
            client.stdin.write(b"one\n")
            client.stdin.flush()
            while not json.loads(run_slm("serve", "--status", "--json", home=home).out)["working"]:
                pass
            server.process.kill()
            _out, err = client.communicate(timeout=300)
        assert client.returncode == 5 and b"--resume" in err


class TestWarmChat:
    def _open(self, home: Path, tiny: Path, *more: str) -> Terminal:
        terminal = Terminal(["chat", tiny, "--temp", "0", "-n", "10", "-v", *more], home=home)
        terminal.wait_for("/help")
        return terminal

    def _exported(self, home: Path) -> list[str]:
        found = run_slm("sessions", "list", "--json", home=home)
        last = json.loads(found.out)[0]["id"]
        tree = json.loads(run_slm("sessions", "export", last, "--format", "json", home=home).out)
        return [node["text"] for node in tree["messages"]]

    def test_the_same_conversation_as_without_a_server(self, server: ServerProcess, home: Path, tiny: Path) -> None:
        said = []
        for more in ((), ("--no-server",)):
            with self._open(home, tiny, *more) as terminal:
                for number, text in enumerate(("Hello world", "And then"), 1):
                    terminal.enter(text)
                    terminal.wait_for_count("finish reason", number)
                assert ("from the memory of slm serve" in terminal.everything) == (not more)
                terminal.enter("/exit")
                assert terminal.end() == 0
            said.append(self._exported(home))
        assert said[0] == said[1] and len(said[0]) == 4

    def test_what_the_server_does_not_do_loads_the_model_here(
        self, server: ServerProcess, home: Path, tiny: Path
    ) -> None:
        with self._open(home, tiny) as terminal:
            terminal.enter("Hello world")
            terminal.wait_for_count("finish reason", 1)
            terminal.enter("/set threads 1")
            terminal.wait_for("threads is now 1")
            terminal.enter("And then")
            terminal.wait_for_count("finish reason", 2)
            server.process.kill()
            terminal.enter("And on")
            terminal.wait_for_count("finish reason", 3)

    def test_a_server_that_ends_is_not_needed(self, server: ServerProcess, home: Path, tiny: Path) -> None:
        with self._open(home, tiny) as terminal:
            terminal.enter("Hello world")
            terminal.wait_for_count("finish reason", 1)
            assert server.end()[0] == 0
            terminal.enter("And then")
            terminal.wait_for_count("finish reason", 2)

    def test_ctrl_c_stops_the_answer_and_the_next_one_comes(self, home: Path, tireless: Path) -> None:
        with (
            ServerProcess(home, tireless, "--ctx", "60000"),
            self._open(home, tireless, "--temp", "1", "-n", "50000") as terminal,
        ):
            terminal.enter("Hello world")
            while not json.loads(run_slm("serve", "--status", "--json", home=home).out)["working"]:
                pass
            terminal.interrupt()
            terminal.wait_for_count("finish reason", 1)
            terminal.enter("/set n 5")
            terminal.wait_for("max_tokens is now 5")
            terminal.enter("And then")
            terminal.wait_for_count("finish reason", 2)

    def test_a_chat_that_goes_private_leaves_the_server(self, server: ServerProcess, home: Path, tiny: Path) -> None:
        with self._open(home, tiny) as terminal:
            terminal.enter("/private")
            terminal.wait_for("nothing more of this chat")
            terminal.enter("Hello world")
            terminal.wait_for_count("finish reason", 1)
        _code, said = server.end()
        assert "generate" not in said

    def test_a_removed_conversation_takes_its_state_along(
        self, server: ServerProcess, home: Path, tiny: Path, slm: Slm
    ) -> None:
        with self._open(home, tiny) as terminal:
            terminal.enter("the people said that it was the first time " * 12)
            terminal.wait_for_count("finish reason", 1)
            terminal.enter("/exit")
            assert terminal.end() == 0
        assert server.end()[0] == 0  # states are written at the latest then
        kept = list((home / "cache" / "kv").rglob("*.kv"))
        (session,) = json.loads(slm("sessions", "list", "--json").out)
        assert kept and all(state.name.startswith(session["id"]) for state in kept)
        assert slm("sessions", "rm", session["id"], "--yes").code == 0
        assert not list((home / "cache" / "kv").rglob("*.kv"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_an_idle_server_takes_no_processor_time(server: ServerProcess) -> None:
    def ticks() -> int:
        fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    select.select([], [], [], 2)  # what is measured is that nothing happens meanwhile
    assert ticks() - before <= 0.1 * os.sysconf("SC_CLK_TCK")
