"""A `slm` for the PATH of a shell: it costs a fork of the fork server instead of a start of Python.

The program is a small script that hands its words, environment, directory and streams to the tests, and ends as the
`slm` that they start with these.
Knows: how a script and the tests meet. Refuses to know: what is typed.
"""

import ast
import os
import shlex
import shutil
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Self

import fork_server

_MOST = 1 << 17  # bytes of words and environment

_CLIENT = """
import os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as made:
    made.connect(sys.argv[1])
    socket.send_fds(made, [repr((sys.argv[2:], dict(os.environ), os.getcwd())).encode()], [0, 1, 2])
    code = made.recv(16)
os._exit(int(code) if code else 1)
"""


class ForkedProgram:
    """A context manager: while it lasts, the script at `path` is `slm`."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()  # one of `slm … | slm …` after the other
        self._place = Path(tempfile.mkdtemp(prefix="slm-program-"))  # short: the address of a socket has 107 bytes
        words = [sys.executable, "-m", "slmchat"]
        if sys.platform == "linux":
            (self._place / "client.py").write_text(_CLIENT)
            words = [sys.executable, "-IS", str(self._place / "client.py"), str(self._place / "socket")]
        path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        path.chmod(0o755)

    def __enter__(self) -> Self:
        if sys.platform == "linux":
            self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._listening.bind(str(self._place / "socket"))
            self._listening.listen()
            threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if sys.platform == "linux":
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
        shutil.rmtree(self._place)

    def _accept(self) -> None:
        while True:
            try:
                made, _address = self._listening.accept()
            except OSError:  # this has ended
                return
            threading.Thread(target=self._run, args=(made,), daemon=True).start()

    def _run(self, made: socket.socket) -> None:
        with made:
            data, descriptors, _flags, _address = socket.recv_fds(made, _MOST, 3)
            words, environ, directory = ast.literal_eval(data.decode())
            stdin, stdout, stderr = descriptors
            command = [sys.executable, "-m", "slmchat", *words]
            try:
                with self._lock:
                    process = fork_server.popen(
                        command, stdin=stdin, stdout=stdout, stderr=stderr, env=environ, cwd=directory
                    )
            finally:
                for each in descriptors:
                    os.close(each)
            code = process.wait()
            made.send(str(code if code >= 0 else 128 - code).encode())
