"""The door for slm's own commands: the Unix socket of this user, lines of JSON (engine/warm has the other end).

Knows: what is asked on a line. Refuses to know: HTTP, who may connect (listeners.py).
"""

import io
import json
import select
import socket
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from slmchat import __version__
from slmchat.engine.requests import Limits, Prompt
from slmchat.engine.results import AtLeast
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.warm.codec import decode, encode
from slmchat.engine.warm.connection import MOST_LINE, error_as_record
from slmchat.engine.warm.engine import WarmModel
from slmchat.engine.warm.session import EVENTS
from slmchat.errors import ExitCode, SlmError
from slmchat.server import warm_run
from slmchat.server.on_demand import OnDemand
from slmchat.server.served_model import ServedWeights
from slmchat.settings import Settings

_NAMES = {kind: name for name, kind in EVENTS.items()}


class WarmDoor:
    """Answers the lines of one connection after the other."""

    def __init__(
        self,
        model: Callable[[], OnDemand[ServedWeights]],
        name: str,
        options: tuple[str, ...],
        settings: Settings,
        status: Callable[[], Mapping[str, Any]],
        stop: Callable[[], None],
    ) -> None:
        """`model` raises `SlmError` where nothing chats. `options`: what the server computes with, as `WarmModel` has
        it. `status`: what it says of itself."""
        self._model = model
        self._name = name
        self._options = options
        self._settings = settings
        self._status = status
        self._stop = stop

    def talk(self, made: socket.socket, answering: Callable[[], AbstractContextManager[None]]) -> None:
        """Answer until the other end has gone; `answering` lasts as long as one answer. Raises OSError."""
        with made.makefile("rb") as lines:
            while (line := lines.readline(MOST_LINE)).endswith(b"\n"):
                with answering():
                    for said in self._answers(line, made, lambda: _is_given_up(made, lines)):
                        made.sendall(json.dumps(said).encode() + b"\n")

    def _answers(self, line: bytes, made: socket.socket, is_given_up: Callable[[], bool]) -> Any:
        try:
            yield from self._answered(json.loads(line), made, is_given_up)
        except SlmError as error:
            yield {"error": error_as_record(error)}
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            wrong = SlmError(f"this is not a request: {error}.", exit_code=ExitCode.BUG)
            yield {"error": error_as_record(wrong)}

    def _answered(self, asked: Mapping[str, Any], made: socket.socket, is_given_up: Callable[[], bool]) -> Any:
        if "hello" in asked:
            yield {"version": __version__, "key": self._name, "options": list(self._options)}
        elif "model" in asked:
            yield {"model": encode(self._loaded_model())}
        elif "run" in asked:
            self._model()  # raises where nothing chats
            yield {"run": warm_run.is_same(asked["run"], self._name, self._options, self._settings)}
        elif "prompt" in asked:
            yield self._answered_run(asked["prompt"], made, is_given_up)
        elif "cancel" in asked:
            return  # what was to be given up has ended already
        elif "status" in asked:
            yield {"status": dict(self._status())}
        elif "stop" in asked:
            yield {"stop": True}
            self._stop()
        elif "count" in asked:
            with self._model().used() as loaded:
                n_tokens = loaded.opened.count(decode(Prompt, asked["count"]), asked.get("most"))
                yield {"count": n_tokens, "is_least": isinstance(n_tokens, AtLeast)}
        else:
            wanted = asked["generate"]
            prompt, limits = decode(Prompt, wanted["prompt"]), decode(Limits, wanted["limits"])
            sampler = decode(SamplerSettings, wanted["sampler"])
            with self._model().used() as loaded:
                session = loaded.queue.session(is_given_up, wanted["n_ctx"])
                for event in session.generate(prompt, sampler, limits):
                    yield {_NAMES[type(event)]: encode(event)}

    def _answered_run(
        self, asked: Mapping[str, Any], made: socket.socket, is_given_up: Callable[[], bool]
    ) -> dict[str, Any]:
        send = lambda said: made.sendall(json.dumps(said).encode() + b"\n")  # noqa: E731
        with self._model().used() as loaded:
            return warm_run.answer(asked, loaded, self._settings, send, is_given_up)

    def _loaded_model(self) -> WarmModel:
        with self._model().used() as loaded:
            opened = loaded.opened
            is_asked = bool(opened.options.ctx or opened.settings.n_ctx)
            return WarmModel(loaded.queue.n_ctx, loaded.queue.most, opened.engine.info, is_ctx_asked=is_asked)


def _is_given_up(made: socket.socket, lines: io.BufferedReader) -> bool:
    """Whether the other end is closed, or says something, which is that it gives up: it waits for events."""
    try:
        if select.select([made], [], [], 0)[0]:
            return True
        made.setblocking(False)  # what came together with the request has been read with it
        try:
            return bool(lines.peek(1))
        finally:
            made.setblocking(True)
    except (OSError, ValueError):
        return True
