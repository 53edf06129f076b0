"""`slm serve`: one warm, sealed model for every program of this user.

The story: make the sockets, close the process in so that it can accept and never connect, load the model, answer until
somebody ends it. What runs already is asked through its Unix socket (`--status`, `--stop`).
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmchat.engine.warm.connection import WarmConnection, ask
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.models import resolve, sandbox
from slmchat.models.backend import LocalBackend
from slmchat.models.open import open_model
from slmchat.models.warm_socket import computed_with, connect, socket_path
from slmchat.option_fields import number_or_auto
from slmchat.options import GenerationOptions, ServeOptions
from slmchat.privacy.steps import KeptSockets
from slmchat.ranges import STREAMS
from slmchat.settings import Settings
from slmchat.terminal import interrupts
from slmchat.terminal.console import Console
from slmchat.user_paths import user_path

if TYPE_CHECKING:
    from slmchat.server.served_models import ServedModels

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

# How long a server in the background may take until it answers, in seconds: a large model from a slow disk.
_START_S = 300.0
# How often it is looked whether it does, in seconds.
_LOOK_S = 0.05


def serve(name: str | None, options: ServeOptions, settings: Settings, console: Console) -> ExitCode:
    """Serve a model until it is ended; or ask or end the server that runs. Raises `SlmError`."""
    path = user_path(options.socket) if options.socket else socket_path(settings)
    if options.status or options.stop:
        return _ask_running(path, console, is_stopped=options.stop, is_json=options.json)
    if options.background:
        return _start(_words(name, options), path, console)
    return _run(name, options, path, settings, console)


def _run(name: str | None, options: ServeOptions, path: Path, settings: Settings, console: Console) -> ExitCode:
    from slmchat.server import listeners
    from slmchat.server.app import Access, Server

    keep_alive_s = _seconds(options.keep_alive)
    n_parallel = number_or_auto(options.parallel, "--parallel", STREAMS)
    key = _key(options, console)
    origins = tuple(map(_origin, options.allow_origin))
    generation = GenerationOptions.of(options, model=name)
    # 1. The sockets, while there can be new ones.
    made = [listeners.on_unix(path)] if hasattr(socket, "AF_UNIX") else []
    try:
        made.append(listeners.on_tcp(options.host, options.port))
        # 2. Closed in: it can accept and never connect.
        kept = KeptSockets(listening=tuple(each.made.fileno() for each in made))
        sandbox.seal(settings, writable=[path.parent], kept=kept)
        # 3. The model, so that what is wrong with it is said here.
        models, about = _loaded(generation, settings, console, n_parallel, keep_alive_s)
        # 4. Answer.
        access = Access(_hosts(options.host), origins, key)
        ends_idle = console.environ.get(_ENDS_IDLE) == "1"
        server = Server(made, models, access, console, settings, computed_with(generation), ends_idle=ends_idle)
        with _ended_by_signals(server.stop):
            console.note(f"{models.name} at {made[-1].address}/v1 ({about}; it accepts, and never connects)")
            console.note("Ctrl-C ends it." if console.is_stderr_tty else "SIGTERM ends it.")
            server.serve()
    finally:
        for each in made:
            each.close()
    return ExitCode.DONE


def _loaded(
    options: GenerationOptions, settings: Settings, console: Console, n_parallel: int | None, keep_alive_s: float | None
) -> "tuple[ServedModels, str]":
    """What is served, with the model that the options name in memory; and a word about it."""
    from slmchat.models.embedding import installed_embedding_models, open_installed_embedding
    from slmchat.server.embedders import Embedders
    from slmchat.server.on_demand import OnDemand
    from slmchat.server.served_model import weights_of
    from slmchat.server.served_models import ServedModels
    from slmchat.server.turns import ComputeTurns

    found = resolve.find(options.model, settings, console)
    embedders = Embedders(
        lambda installed: open_installed_embedding(installed, options, settings, console),
        lambda: installed_embedding_models(settings, console),
        keep_alive_s,
        None if found.answers else found,
        turns := ComputeTurns(),
    )
    if not found.answers:
        with embedders.used(None):
            return ServedModels(found.key, None, embedders), "vectors alone"
    chat = OnDemand(
        lambda: weights_of(open_model(LocalBackend(), options, settings, console), options.ctx, n_parallel, turns),
        keep_alive_s,
    )
    with chat.used() as loaded:
        console.detail(loaded.report)
        return ServedModels(found.key, chat, embedders), f"window: {loaded.queue.n_ctx:,} tokens"


def _key(options: ServeOptions, console: Console) -> str | None:
    from slmchat.server.listeners import is_loopback

    key = console.environ.get(options.api_key_env or "") or None
    if options.api_key_env and key is None:
        raise usage_error(
            f"the environment variable {options.api_key_env} is not set.", f"export {options.api_key_env}=..."
        )
    if key is None and not is_loopback(options.host):
        raise usage_error(
            f"{options.host} is reached by others, and there is no key.",
            "--api-key-env NAME: the variable that holds one; or without --host, for this device alone",
        )
    return key


def _hosts(host: str) -> frozenset[str] | None:
    """The names by which requests may call this server; None: any (it has a key)."""
    from slmchat.server.listeners import is_loopback

    return frozenset(("localhost", "127.0.0.1", "::1", host)) if is_loopback(host) else None


def _origin(text: str) -> str:
    """`--allow-origin` as a browser writes it; "null" is what a page from a file has. Raises `SlmError` (USAGE)."""
    found = re.fullmatch(r"([a-z][a-z0-9+.-]*://[^/?#\s@]+)/?|null", text.lower())
    if found is None:
        raise usage_error(
            f"--allow-origin cannot be '{text}'.",
            "scheme and host of the page, with the port where it has one: --allow-origin http://localhost:3000",
        )
    return found[1] or "null"


def _seconds(text: str) -> float | None:
    """`--keep-alive` in seconds; None: never. Raises `SlmError` (USAGE)."""
    found = re.fullmatch(r"(\d{1,7})([smhd]?)", text)
    if found is None:
        raise usage_error(f"--keep-alive cannot be '{text}'.", "30s, 10m, 2h; 0: never")
    return float(int(found[1]) * _UNITS[found[2]]) or None


@contextlib.contextmanager
def _ended_by_signals(stop: Any) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP let running answers end, and then the server."""
    heard: list[int] = []

    def end(number: int, _frame: object) -> None:
        heard.append(number)
        stop()

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        with interrupts.cancelling(stop):
            yield
    finally:
        for number, handler in before.items():
            if not heard:  # else who hears signals in the end (terminal/interrupts.py) would take it for one more
                signal.signal(number, handler)


# The server that runs


def _ask_running(path: Path, console: Console, *, is_stopped: bool, is_json: bool) -> ExitCode:
    """Tell about the server behind this socket, or end it."""
    connection = connect(path)
    if connection is None:
        if is_json:
            console.print_json(None)
        raise SlmError(
            f"no server runs ({path}).", hint="slm serve --background starts one", exit_code=ExitCode.NO_MODEL
        )
    status = ask(connection, {"status": True})["status"]
    if is_stopped:
        ask(connection, {"stop": True})
        _wait_for_end(connection)
        console.note(f"the server of {status['model']} has ended.")
        return ExitCode.DONE
    if is_json:
        console.print_json(status)
        return ExitCode.DONE
    console.write(_described(status))
    return ExitCode.DONE


def _described(status: dict[str, Any]) -> str:
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(status["started_at"]))
    window = f"window: {status['n_ctx']:,} tokens" if status["n_ctx"] else "weights: in memory"
    weights = window if status["is_loaded"] else "weights: freed until the next request"
    lines = [
        f"{status['model']} (process {status['pid']}, since {since})",
        *(f"  {address}" for address in status["addresses"]),
        f"  {weights}",
        f"  requests: {status['working']} worked on, {status['waiting']} waiting",
    ]
    return "".join(f"{line}\n" for line in lines)


def _wait_for_end(connection: WarmConnection) -> None:
    """Until the server has closed its end: when it has answered what it was asked."""
    with contextlib.suppress(OSError, ValueError):
        while True:
            connection.line()


# In the background

# Tells a server that was started in the background to end when it frees its weights.
_ENDS_IDLE = "SLM_SERVE_ENDS_IDLE"


def _words(name: str | None, options: ServeOptions) -> list[str]:
    """The command line of the server itself."""
    words = ["serve", *([name] if name else [])]
    for item in fields(options):
        value = getattr(options, item.name)
        is_unset = value is None or value is False or value == []
        if item.name == "background" or is_unset or value == item.default:
            continue
        flag = item.metadata["flags"][-1]
        if value is True:
            words.append(flag)
            continue
        for each in value if isinstance(value, list) else [value]:
            words += [flag, str(each)]
    return words


def _start(words: list[str], path: Path, console: Console) -> ExitCode:
    """Start a server in the background and wait until it answers."""
    from slmchat.server import listeners

    running = connect(path)
    if running is not None:
        console.note(f"a server runs already: {ask(running, {'status': True})['status']['model']} (slm serve --status)")
        return ExitCode.DONE
    listeners.make_place(path)
    log = path.with_suffix(".log")
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "slmchat", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**console.environ, _ENDS_IDLE: "1"},
            start_new_session=True,
        )
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        found = connect(path)
        if found is not None and _is_there(found):
            status = ask(found, {"status": True})["status"]
            if status["pid"] != child.pid:  # two were started at once; ours would listen when that one has ended
                child.terminate()
                child.wait()
            console.write(_described(status))
            return ExitCode.DONE
        # two were started at once: the other one may have the socket, and not be there yet
        if child.poll() is not None and not listeners.is_taken(path):
            raise SlmError(
                f"the server did not start: {_last_words(log)}", hint=f"all it said: {log}", exit_code=_code(child)
            )
        time.sleep(_LOOK_S)
    raise SlmError("the server does not answer yet.", hint=f"slm serve --status; {log}", exit_code=ExitCode.NETWORK)


def _is_there(found: WarmConnection) -> bool:
    """Wait until the server behind this connection has its weights; False: it has ended before."""
    try:
        ask(found, {"model": True})
    except SlmError as error:
        if error.exit_code is not ExitCode.NETWORK:
            raise
        return False
    return True


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.startswith("slm: ")]
    return lines[-1].removeprefix("slm: ") if lines else "it said nothing."


def _code(child: "subprocess.Popen[bytes]") -> ExitCode:
    return next((code for code in ExitCode if code == child.returncode), ExitCode.BUG)
