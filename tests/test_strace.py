"""What an independent tool sees: strace on the real program. No socket is made, and no other program is started."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import environment
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama
from terminal import Terminal

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]

CALLS = "trace=%network,execve,execveat"
# A pair of connected local streams, with which Python's event loop wakes itself up.
_PAIR = re.compile(r"socketpair\(AF_UNIX, SOCK_STREAM(\|SOCK_CLOEXEC|\|SOCK_NONBLOCK)*, 0, \[\d+, \d+\]\) = 0")
# On that pair: the waking byte, sent to no address; and what a socket is asked about itself.
_WAKE = re.compile(r"sendto\(\d+, .*, NULL, 0\) = \d+")
_ASKED = ("recvfrom(", "getsockname(", "getpeername(", "getsockopt(", "setsockopt(", "shutdown(")


def _strace(log: Path) -> list[str]:
    return ["strace", "-f", "-e", CALLS, "-e", "signal=none", "-o", str(log)]


def _can_trace(tmp_path: Path) -> bool:
    done = subprocess.run([*_strace(tmp_path / "try"), "true"], capture_output=True, check=False, timeout=300)
    return done.returncode == 0


def _succeeded(log: Path) -> list[str]:
    """The calls that were not refused, without process ids, joined where strace has cut them in two."""
    calls, begun = [], {}
    for line in log.read_text(errors="replace").splitlines():
        pid, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            begun[pid] = call.removesuffix("<unfinished ...>")
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>", call):
            call = begun.pop(pid) + call[resumed.end() :]
        if not call.startswith(("+++", "---")) and not re.search(r"\) += -1 E", call):
            calls.append(re.sub(r" +(?=\)? +=)", "", re.sub(r" {2,}", " ", call)))
    return calls


def _reaching(calls: list[str]) -> list[str]:
    """What is neither the start of the program itself nor the event loop's own pair."""
    return [
        call
        for call in calls
        if not call.startswith(("execve(", *_ASKED)) and not _PAIR.fullmatch(call) and not _WAKE.fullmatch(call)
    ]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    if not _can_trace(tmp_path):
        pytest.skip("strace may not trace here")
    return write_tiny_llama(
        tmp_path / "tiny.gguf", chat_template=CHATML_TEMPLATE, extra_control_tokens=("<|im_start|>", "<|im_end|>")
    )


def _programs(calls: list[str]) -> list[str]:
    return [call for call in calls if call.startswith("execve")]


@pytest.mark.parametrize("options", [[], ["--private"], ["--offline"]])
def test_a_run_makes_no_socket_and_starts_no_program(
    home: Path, tiny: Path, tmp_path: Path, options: list[str]
) -> None:
    log = tmp_path / "log"
    done = subprocess.run(
        [*_strace(log), sys.executable, "-m", "slmchat", *options, "run", "-m", str(tiny), "-n", "5"],
        input="a word that nobody else sees",
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    calls = _succeeded(log)
    assert len(_programs(calls)) == 1
    assert _reaching(calls) == []


def test_a_batch_makes_no_socket_and_starts_no_program(home: Path, tiny: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = subprocess.run(
        [
            *_strace(log),
            sys.executable,
            "-m",
            "slmchat",
            "batch",
            "-m",
            str(tiny),
            "-n",
            "5",
            "-o",
            str(tmp_path / "o"),
        ],
        input="a word\nand another one\n",
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "o").read_text().splitlines()) == 2
    calls = _succeeded(log)
    assert len(_programs(calls)) == 1
    assert _reaching(calls) == []


def test_a_chat_makes_no_socket_and_starts_no_program(home: Path, tiny: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = (*_strace(log), sys.executable, "-m", "slmchat")
    with Terminal(["chat", tiny, "-n", "3"], home=home, program=program) as terminal:
        terminal.wait_for(r"\n> ?(\n|$)")
        terminal.enter("hello")
        terminal.wait_for("cut at the limit")
        terminal.enter("/exit")
        assert terminal.end() == 0
    calls = _succeeded(log)
    assert len(_programs(calls)) == 1
    assert _reaching(calls) == []


def test_calls_that_the_log_has_cut_in_two_are_read_whole(tmp_path: Path) -> None:
    """Another thread's call in between cuts a line, and leaves a space where it was cut."""
    log = tmp_path / "log"
    log.write_text(
        '7 sendto(5, "\\0", 1, 0, NULL, 0 <unfinished ...>\n'
        "8 socket(AF_INET, SOCK_STREAM, 0) = -1 EPERM (Operation not permitted)\n"
        "7 <... sendto resumed>)             = 1\n"
        "7 socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0,  <unfinished ...>\n"
        "8 connect(3, {sa_family=AF_INET}, 16) = 0\n"
        "7 <... socketpair resumed>[3, 4])   = 0\n"
        "7 +++ exited with 0 +++\n"
    )
    calls = _succeeded(log)
    assert len(calls) == 3
    assert _reaching(calls) == ["connect(3, {sa_family=AF_INET}, 16) = 0"]


def test_the_same_look_finds_a_program_that_does_reach_out(tmp_path: Path, tiny: Path) -> None:
    """So that the tests above can fail."""
    code = (
        "import socket, subprocess\n"
        "listener = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(listener.getsockname()).close()\n"
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "subprocess.run(['true'])\n"
    )
    log = tmp_path / "log"
    subprocess.run([*_strace(log), sys.executable, "-c", code], env=dict(os.environ), check=True, timeout=300)
    calls = _succeeded(log)
    assert len(_programs(calls)) == 2
    found = {call.partition("(")[0] for call in _reaching(calls)}
    assert {"socket", "bind", "listen", "connect", "socketpair"} <= found
