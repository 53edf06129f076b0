"""`slm run` from the memory of a server: nothing is imported that lays out a prompt, loads a model or checks an answer.

The story: connect, ask whether the server has the model, close the process in, read what is piped in, say it, show what
comes. Where anything is asked that the server does not do, `slm run` does it all itself, as without a server.
"""

import dataclasses
import io
import os
import time
from typing import TYPE_CHECKING, Any

from slmchat import __version__
from slmchat.commands.endings import exit_code, tell_of_silence
from slmchat.commands.own_options import RunOptions
from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass
from slmchat.models import sandbox
from slmchat.models.warm_socket import HELLO_S, computed_with, connect, socket_path
from slmchat.options import GenerationOptions, OutputOptions
from slmchat.privacy.steps import KeptSockets
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.terminal.interrupts import cancelled_by_ctrl_c
from slmchat.terminal.plain_view import PlainView

if TYPE_CHECKING:  # most calls find no server
    from slmchat.engine.warm.connection import WarmConnection

# Settings that an answer depends on, and the server has of its own start.
_OF_ANSWERS = ("n_ctx", "think", "think_budget", "sampler")


def run_warm(
    own: RunOptions, options: GenerationOptions, beside: tuple[Any, ...], settings: Settings, console: Console
) -> ExitCode | None:
    """Answer from a server's memory; None: it cannot, and nothing has been said or lost. `beside`: all other options.

    Raises `SlmError`, as `slm run` does.
    """
    if not _is_plain(options, beside, settings, console):
        return None
    start = time.perf_counter()
    # 1. The server, while there can be a connection to it. 2. Closed in; only then is anything read.
    connection = connect(socket_path(settings))
    if connection is None or not _has_model(connection, options, settings):
        return None
    sandbox.seal(settings, kept=KeptSockets(connected=(connection.fileno(),)))
    piped = _piped(own, console)
    if piped is None:
        return None
    # 3. The answer, while it comes.
    asked = {
        "instruction": " ".join(own.words or []),
        "piped": piped,
        "options": {item.name: getattr(options, item.name) for item in dataclasses.fields(options)},
        "settings": {name: getattr(settings, name) for name in _OF_ANSWERS},
    }
    return _Answer(connection, console, is_json=_output(beside).json, start=start).show(asked)


def _output(beside: tuple[Any, ...]) -> OutputOptions:
    found: OutputOptions = next(each for each in beside if isinstance(each, OutputOptions))
    return found


def _is_plain(options: GenerationOptions, beside: tuple[Any, ...], settings: Settings, console: Console) -> bool:
    """Whether it is an answer as it comes, to a prompt of words and of what is piped in."""
    is_usual = all(
        each == type(each)(**({"json": each.json} if isinstance(each, OutputOptions) else {})) for each in beside
    )
    is_elsewhere = options.endpoint or options.no_server or settings.is_private
    needs_more = options.files or options.persona or options.lora or options.draft or options.speculation
    is_file = (options.system or "").startswith("@")
    return is_usual and not (is_elsewhere or needs_more or is_file or options.raw_output or console.is_verbose)


def _has_model(connection: "WarmConnection", options: GenerationOptions, settings: Settings) -> bool:
    from slmchat.engine.warm.connection import ask

    name = options.model
    if name is not None and name.endswith(".gguf"):
        name = os.path.abspath(os.path.expanduser(name))
    wanted = {"version": __version__, "options": list(computed_with(options)), "model": name, "default": settings.model}
    try:
        connection.wait_at_most(HELLO_S)
        is_there = ask(connection, {"run": wanted}).get("run") is True
        connection.wait_at_most(None)
    except (SlmError, OSError):  # it does not know the word, or the model; or it is busy
        return False
    return is_there


def _piped(own: RunOptions, console: Console) -> str | None:
    """What is piped in, as text; None: it is something else, which stays to be read."""
    if own.no_input or console.stdin.isatty():
        return ""
    from slmchat import text_files
    from slmchat.terminal.piped import read_piped

    data = text_files.read_whole(lambda most: read_piped(console, most), "standard input")
    try:
        return text_files.with_line_feeds(text_files.decode(data))
    except text_files.NotText:
        _put_back(data, console)
        return None


def _put_back(data: bytes, console: Console) -> None:
    console.stdin = io.TextIOWrapper(io.BytesIO(data), "utf-8", "replace")


class _Answer:
    """One answer on the line, as it is shown. Can be cancelled."""

    def __init__(self, connection: "WarmConnection", console: Console, *, is_json: bool, start: float) -> None:
        self._connection = connection
        self._console = console
        self._is_json = is_json
        self._start = start
        self._load_s = 0.0
        self._is_sent = self._is_cancelled = False
        self._view: PlainView | None = None

    def cancel(self) -> None:
        """Ctrl-C: a word on the line says that nobody wants the rest."""
        self._is_cancelled = True
        if self._is_sent:
            self._connection.send({"cancel": True})

    def show(self, asked: dict[str, Any]) -> ExitCode | None:
        """Ask, and show what comes; None: the server cannot. Raises `SlmError`."""
        try:
            with cancelled_by_ctrl_c(self):
                self._connection.send({"prompt": asked})
                self._is_sent = True
                if self._is_cancelled:
                    self.cancel()
                done = self._followed()
        except (OSError, ValueError) as error:
            from slmchat.engine.warm.connection import server_gone

            raise server_gone() from error
        finally:
            self._connection.close()
        if done is None:
            if asked["piped"]:
                _put_back(asked["piped"].encode(), self._console)
            return None
        return self._ended(done)

    def _followed(self) -> dict[str, Any] | None:
        try:
            while True:
                ((name, said),) = self._connection.line().items()
                if name == "done":
                    done: dict[str, Any] = said
                    return done
                if name == "no":
                    return None
                if name == "error":
                    from slmchat.engine.warm.connection import error_of

                    raise error_of(said)
                self._take(name, said)
        finally:
            if self._view is not None:
                self._view.close()

    def _take(self, name: str, said: Any) -> None:
        if name == "note":
            self._console.note(said)
            return
        if name == "warn":
            self._console.warn(said)
            return
        if self._view is None:
            self._load_s = time.perf_counter() - self._start
            self._view = PlainView(self._console, is_silent=self._is_json)
        if name == "prefill":
            self._view.prefill(_Read(*said))
        elif name == "thinking":
            self._view.thinking(said)
        elif name == "answer":
            self._view.answer(said)

    def _ended(self, done: dict[str, Any]) -> ExitCode:
        record, console = done["record"], self._console
        record["timings"]["load_s"] = round(self._load_s, 4)
        if self._is_json:
            from slmchat import safe_json

            console.write(safe_json.encode(record))
        else:
            console.write("" if record["completion"].endswith("\n") else "\n")
        tell_of_silence(done["silence"], done["thinking"], console)
        return exit_code(record["finish_reason"], console, done["n_ctx"], done["n_trained"])


@dataclass(frozen=True, slots=True)
class _Read:
    """How much of the prompt is read. Implements `ReadPrompt`."""

    done: int
    total: int
    cached: int

    def now(self) -> float:
        return self.done
