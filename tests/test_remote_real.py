"""The remote engine against real servers with the real smollm2:135m: the text is that of the local engine."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import SMOLLM2, Outcome, run_slm

from slmchat import endpoints
from slmchat.engine import native, verdicts
from slmchat.engine.library import LibraryKind
from slmchat.engine.remote.engine import load
from slmchat.engine.remote.route import route_to
from slmchat.engine.requests import Limits, Part, Prompt, SessionSettings, Turn
from slmchat.engine.results import Finish, FinishReason
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import SlmError

pytestmark = [pytest.mark.real, pytest.mark.model, pytest.mark.slow]

GREEDY = ("--temp", "0", "-n", "24", "Why is the sky blue?")
_PATIENCE_S = 300.0


@contextlib.contextmanager
def _running(command: list[str], port: int, log: Path) -> Iterator[str]:
    """A server; it is ready when it lists its models."""
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            endpoint = endpoints.from_url(url, "test")
            end = time.monotonic() + _PATIENCE_S
            while True:
                assert process.poll() is None and time.monotonic() < end, log.read_text(errors="replace")[-3000:]
                with contextlib.suppress(SlmError):
                    load(endpoint, None, None, route_to(endpoint, {}), lambda text: None)
                    break
                time.sleep(0.1)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(300)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _command(kind: str, weights: Path, port: int) -> list[str]:
    if kind == "llama-server":
        found = shutil.which("llama-server")
        if found is None:
            pytest.skip("no llama-server on the PATH")
        return [
            found,
            "-m",
            str(weights),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "-c",
            "1024",
            "-t",
            "2",
            "-np",
            "1",
        ]
    pytest.importorskip("uvicorn", reason="the extra 'dev' brings what llama_cpp.server needs")
    if native.library().kind is LibraryKind.PREBUILT:
        pytest.skip("llama_cpp.server loads a library of its own package alone")
    if verdicts.library().verdict.limits.forbidden:
        pytest.skip("llama_cpp.server crashes on this machine: it has no way around what goes wrong in this library")
    return [
        *(sys.executable, "-m", "llama_cpp.server", "--model", str(weights), "--host", "127.0.0.1"),
        *("--port", str(port), "--n_ctx", "1024", "--n_threads", "2", "--verbose", "False"),
        *("--flash_attn", "True"),  # as llama.cpp itself chooses; without it the last bits of the logits are others
    ]


@pytest.fixture(scope="module", params=["llama_cpp.server", "llama-server"])
def server(request: pytest.FixtureRequest, smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = _free_port()
    command = _command(request.param, smollm2, port)
    with _running(command, port, tmp_path_factory.mktemp("server") / "log") as url:
        yield url


@pytest.fixture(scope="module")
def local(model_home: Path) -> Outcome:
    return run_slm("run", "-m", SMOLLM2, "--json", *GREEDY, home=model_home)


def test_greedy_text_and_counts_are_those_of_the_local_engine(server: str, local: Outcome, home: Path) -> None:
    here, done = json.loads(local.out), run_slm("run", "--endpoint", server, "--json", *GREEDY, home=home)
    assert done.code == 0, done.err
    there = json.loads(done.out)
    assert there["completion"] == here["completion"]
    assert there["finish_reason"] == here["finish_reason"] == "length"
    if "is_estimate" not in there["usage"]:  # llama_cpp.server does not count while it streams
        assert there["usage"]["prompt_tokens"] == here["usage"]["prompt_tokens"]
        assert there["usage"]["completion_tokens"] == here["usage"]["completion_tokens"]


def test_a_bare_prompt_and_a_stop_sequence(server: str, model_home: Path, home: Path) -> None:
    asked = ("--raw", "--temp", "0", "-n", "40", "--stop", ".", "The capital of France is")
    here = run_slm("run", "-m", SMOLLM2, *asked, home=model_home)
    there = run_slm("run", "--endpoint", server, *asked, home=home)
    assert there.out == here.out and there.out.strip()


def test_rows_in_a_format_are_those_of_the_local_engine(server: str, model_home: Path, home: Path) -> None:
    asked = ("batch", "--temp", "0", "--fields", "name, age int", "Who is it?")
    rows = "Ann Miller is 34.\nBob Stone is 7 years old.\n"
    here = run_slm(*asked, "-m", SMOLLM2, "--parallel", "1", home=model_home, stdin=rows)
    there = run_slm(*asked, "--endpoint", server, "--parallel", "2", home=home, stdin=rows)
    assert (here.code, there.code) == (0, 0), there.err
    values = [[json.loads(line)["value"] for line in done.out.splitlines()] for done in (here, there)]
    assert values[0] == values[1]
    assert [value["age"] for value in values[1]] == [34, 7]


def test_what_does_not_fit_is_said(server: str, home: Path) -> None:
    done = run_slm("run", "--endpoint", server, "-n", "4", "x", stdin="word " * 3000, home=home)
    if done.code == 5:  # llama_cpp.server ends the stream without a word when it was asked for one
        assert "there is no completion in it" in done.err
        return
    assert done.code == 7, done.err
    assert "does not fit its context window" in done.err


def test_cancel_frees_the_server_for_the_next_question(server: str) -> None:
    endpoint = endpoints.from_url(server, "test")
    engine = load(endpoint, None, None, route_to(endpoint, {}), print)
    session = engine.open_session(SessionSettings(1, 1, 1))
    prompt = Prompt((Part("Tell me a long story."),), (Turn("user", "Tell me a long story."),))
    finish = None
    for number, item in enumerate(session.generate(prompt, SamplerSettings(temperature=0.0), Limits(700))):
        if number == 6:
            session.cancel()
        finish = item
    assert isinstance(finish, Finish) and finish.reason is FinishReason.INTERRUPTED
    *_, finish = session.generate(prompt, SamplerSettings(temperature=0.0), Limits(3))
    assert isinstance(finish, Finish) and finish.reason is FinishReason.LENGTH
    session.close()


def test_an_answer_goes_on_where_llama_server_can(server: str) -> None:
    endpoint = endpoints.from_url(server, "test")
    engine = load(endpoint, None, None, route_to(endpoint, {}), print)
    session = engine.open_session(SessionSettings(1, 1, 1))
    cut = Prompt((), (Turn("user", "Count to five."), Turn("assistant", "1, 2, 3,")))
    if not engine.model.kind.can_go_on:
        with pytest.raises(SlmError, match="cannot go on"):
            session.generate(cut, SamplerSettings(temperature=0.0), Limits(4))
        return
    records = list(session.generate(cut, SamplerSettings(temperature=0.0), Limits(4)))
    text = "".join(getattr(item, "text", "") for item in records)
    assert text.lstrip().startswith("4")
