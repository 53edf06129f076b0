"""A process of Python without its start: a server that has imported slm forks one for each command.

A start takes 200 ms, most of it imports; a fork takes 10. The child is a process like any other, with descriptors,
environment, directory, terminal, signals and seal of its own, and Python takes it apart at its end. What it does not
show is the start: imports, and variables that are read when Python or llama.cpp is loaded. Tests of those use
`subprocess`. So does everything here where a fork is not to be trusted, which is outside Linux.

Run as a program, this file is the server. It has no threads and answers one request at a time.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import io
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

_MOST = 1 << 17  # bytes of one request: arguments and environment

# What is read when Python, a library or llama.cpp is loaded.
_READ_AT_START = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_", "LLAMA_", "GGML_", "GOMP_", "OMP_", "OPENBLAS_")

# What slm imports when it needs it. Not huggingface_hub, which reads HF_HOME and HF_ENDPOINT when it is imported: what
# that imports.
_LATE = (
    *(
        "rich.table",
        "rich.progress",
        "jinja2.sandbox",
        "numpy",
        "prompt_toolkit.shortcuts",
        "PIL.Image",
    ),
    *("httpx2", "httpcore2", "httpcore2._backends.sync", "truststore", "stringprep", "h11"),
    *("filelock", "fsspec", "tqdm.auto", "yaml", "packaging.version"),
    *("termios", "resource", "encodings.idna", "encodings.unicode_escape", "typer._click.decorators"),
)


def popen(command: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
    """`subprocess.Popen`, from the server where it can: `python -m slmchat …`, `python -c …`, `python FILE …`."""
    env = options.get("env")
    if can_fork(command, os.environ if env is None else env) and "preexec_fn" not in options:
        return _Forked(command, **options)
    return subprocess.Popen(command, **options)


def run(
    command: Sequence[str],
    *,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> "subprocess.CompletedProcess[Any]":
    """`subprocess.run`, from the server where it can."""
    if input is not None:
        options["stdin"] = subprocess.PIPE
    if capture_output:
        options["stdout"] = options["stderr"] = subprocess.PIPE
    with popen(command, **options) as process:
        try:
            out, err = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    if check and process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, out, err)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def start_on_terminal(command: Sequence[str], descriptor: int, env: Mapping[str, str], cwd: str | None) -> int:
    """Start a command that `can_fork` in a session of its own on this terminal; the pid, for `wait_for`."""
    return _server().start(command, env, cwd, (descriptor,) * 3, has_terminal=True)


def wait_for(pid: int, timeout: float | None) -> int | None:
    """The status of a child of the server, as `os.waitpid` has it; None when it still runs after so many seconds."""
    with open(os.pidfd_open(pid)) as handle:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return _server().ask({"reap": pid}) if poll.poll(None if timeout is None else timeout * 1000) else None


def can_fork(command: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether a fork shows of this command what a start would."""
    return (
        sys.platform == "linux"
        and command[0] == sys.executable
        and (list(command[1:3]) == ["-m", "slmchat"] or command[1] == "-c" or command[1].endswith(".py"))
        and _at_start(env) == _at_start(_server_environment())
        and not _has_gpu_backend()
    )


@functools.cache
def _has_gpu_backend() -> bool:
    """CUDA, once it has started, does not work in the children of a fork."""
    from slmchat.engine import native

    return native.has_gpu_backend()


def _at_start(env: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in env.items() if name.startswith(_READ_AT_START) and name != "PYTHONUNBUFFERED"
    }


@functools.cache
def _server_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("SLM_", "HF_"))}


class _Forked(subprocess.Popen):  # type: ignore[type-arg]
    """A child of the server. The hooks are those in which `subprocess` itself differs between systems."""

    def _execute_child(self, args: Any, *options: Any) -> None:
        _executable, _preexec, _close, _pass, cwd, env, _startup, _flags, _shell, *streams = options[:15]
        own = (streams[0], streams[3], streams[5])
        given = [default if each == -1 else each for each, default in zip(own, (0, 1, 2), strict=True)]
        has_session = bool(options[20])  # start_new_session
        self.pid = _server().start(args, os.environ if env is None else env, cwd, given, has_session=has_session)
        self._child_created = True
        self._close_pipe_fds(*streams)

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        status = wait_for(self.pid, 0 if wait_flags & os.WNOHANG else None)
        return (0, 0) if status is None else (self.pid, status)

    def _internal_poll(self, **_: Any) -> int | None:
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                self._handle_exitstatus(status)
        return self.returncode


class _Server:
    """The server, seen from the tests: one for each process that runs tests, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._socket, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _MOST)
        command = [sys.executable, __file__, str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env=_server_environment(), stdin=subprocess.DEVNULL
            )
        atexit.register(self._end)

    def start(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        cwd: str | None,
        descriptors: Sequence[int],
        *,
        has_session: bool = False,
        has_terminal: bool = False,
    ) -> int:
        """The pid of a new child with these three descriptors."""
        request = {
            "words": list(map(os.fsdecode, command[1:])),
            "env": dict(env),
            "cwd": os.getcwd() if cwd is None else os.fspath(cwd),
            "session": has_session,
            "terminal": has_terminal,
        }
        return self.ask(request, descriptors)

    def ask(self, request: Mapping[str, Any], descriptors: Sequence[int] = ()) -> int:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
            answer = self._socket.recv(64)
        assert answer, "the fork server has ended"
        return int(answer)

    def _end(self) -> None:
        self._socket.close()
        self._process.wait()


@functools.cache
def _server() -> _Server:
    return _Server()


# The server itself


def _serve(own: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Answer until a request has to be followed: this returns in each child, and never in the server."""
    while True:
        data, descriptors, _flags, _address = socket.recv_fds(own, _MOST, 3)
        if not data:
            sys.exit(0)
        request = json.loads(data)
        if "reap" in request:
            answer = os.waitpid(request["reap"], 0)[1]
        else:
            answer = os.fork()
            if not answer:
                own.close()
                return request, descriptors
            for each in descriptors:
                os.close(each)
        own.send(str(answer).encode())


def _become(request: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    """Make this child what a start would have made of it."""
    if request["session"] or request["terminal"]:
        os.setsid()
    for number, each in enumerate(descriptors):
        os.dup2(each, number)
    for each in set(descriptors):
        os.close(each)
    if request["terminal"]:
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        old = getattr(sys, name)
        stream = io.open(number, mode + "b", closefd=False)  # noqa: SIM115, UP020
        is_lined = name == "stderr" or os.isatty(number)
        made = io.TextIOWrapper(stream, old.encoding, old.errors, line_buffering=is_lined)
        made.mode = mode  # type: ignore[misc]
        setattr(sys, name, made)
        setattr(sys, f"__{name}__", made)


def _follow(words: Sequence[str]) -> object:
    """What `python WORDS` does. The exit code, or None."""
    if words[0] == "-m":
        import slmchat.__main__

        sys.argv, sys.path[0] = [slmchat.__main__.__file__ or "", *words[2:]], os.getcwd()
        return slmchat.__main__.main()
    if words[0] == "-c":
        code, name = words[1], "<string>"
        sys.argv, sys.path[0] = ["-c", *words[2:]], ""
    else:
        code, name = Path(words[0]).read_text("utf-8"), words[0]
        sys.argv, sys.path[0] = list(words), str(Path(name).parent)
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    exec(compile(code, name, "exec"), main.__dict__)
    return None


def _leave(code: int) -> NoReturn:
    """Python's end, but for taking all modules apart: most of the time of a short command, and the same every time."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = 120  # as Python's own
    os._exit(code & 0xFF)


def load() -> None:
    """Import what the commands import, and start nothing. Signals are as in a shell, whoever started the tests."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    import slmchat

    for found in pkgutil.walk_packages(slmchat.__path__, "slmchat."):
        importlib.import_module(found.name)
    for name in _LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    from slmchat.engine import native
    from slmchat.errors import SlmError

    with contextlib.suppress(SlmError):
        native._import_declarations("llama_cpp.llama_cpp")
    _make_ready()


def _make_ready() -> None:
    """What is made once in a process, and what a command makes for itself: a third of the time of a short one."""
    from chat_templates import CHATML_TEMPLATE, GEMMA_TEMPLATE, LLAMA2_TEMPLATE, PHI3_TEMPLATE

    from slmchat import cli, lazy_dataclasses
    from slmchat.catalog import registry
    from slmchat.conversation.template import ChatTemplate

    cli.whole_program()
    for name in cli.COMMANDS:
        cli.program_for([name.partition(" ")[0]])
    registry.is_in_catalog("")
    for source in (PHI3_TEMPLATE, CHATML_TEMPLATE, GEMMA_TEMPLATE, LLAMA2_TEMPLATE):
        ChatTemplate(source, bos_text="", eos_text="")
    for module in [module for name, module in sys.modules.items() if name.startswith("slmchat.")]:
        for record in vars(module).values():
            if isinstance(record, type) and getattr(record.__init__, "__qualname__", "").startswith("_init_of."):
                record.__init__ = lazy_dataclasses._compiled_init(record)  # type: ignore[misc]


if __name__ == "__main__":
    load()
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as _own:
        _request, _descriptors = _serve(_own)
    _become(_request, _descriptors)
    try:
        _code = _follow(_request["words"])
    except SystemExit as _end:
        _code = _end.code
    if _code is not None and not isinstance(_code, int):
        sys.exit(_code)  # a sentence
    _leave(int(_code or 0))
