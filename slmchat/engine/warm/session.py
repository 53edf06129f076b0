"""Generations in a server of this user: `WarmSession`.

Knows: what is said on a line for one, how an answer is given up: by any word on its line. Refuses to know: how lines
come and go (connection.py), what the model is.
"""

import contextlib
from collections.abc import Iterator, Sequence

from slmchat.engine.requests import Adapter, Limits, Prompt
from slmchat.engine.results import Chunk, Event, Finish, Prefill
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.warm.codec import decode, encode
from slmchat.engine.warm.connection import WarmConnection, error_of, server_gone
from slmchat.errors import SlmError, usage_error

EVENTS: dict[str, type[Prefill] | type[Chunk] | type[Finish]] = {"prefill": Prefill, "chunk": Chunk, "finish": Finish}


class WarmSession:
    """Generations in the server's queue, one after the other. Implements `Session`."""

    def __init__(self, connection: WarmConnection, n_ctx: int) -> None:
        self._connection = connection
        self._is_cancelled = False
        self._is_asked = False  # the server has the whole request, and its answer has not ended
        self.n_ctx = n_ctx

    def generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        """As `Session` says; the errors are those of the server's engine, and NETWORK when it is gone."""
        self._is_cancelled = False
        return self._events(prompt, sampler, limits)

    def _events(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        asked = {"prompt": encode(prompt), "sampler": encode(sampler), "limits": encode(limits), "n_ctx": self.n_ctx}
        try:
            self._connection.send({"generate": asked})
            self._is_asked = True
            if self._is_cancelled:  # while it was sent
                self._give_up()
            while self._is_asked:
                yield self._event()
        except (OSError, ValueError) as error:
            self._connection.close()
            raise server_gone() from error
        finally:
            if self._is_asked:  # nobody takes what is left of the answer
                self._drop_rest()

    def _event(self) -> Event:
        said = self._connection.line()
        if "error" in said:
            self._is_asked = False
            raise error_of(said["error"])
        ((name, data),) = said.items()
        event = decode(EVENTS[name], data)
        self._is_asked = not isinstance(event, Finish)
        return event

    def _drop_rest(self) -> None:
        try:
            self._give_up()
            while self._is_asked:
                self._event()
        except (OSError, ValueError, SlmError):
            self._is_asked = False
            self._connection.close()

    def cancel(self) -> None:
        """End the generation: a word on the line says that nobody wants the rest."""
        self._is_cancelled = True
        if self._is_asked:
            self._give_up()

    def _give_up(self) -> None:
        with contextlib.suppress(OSError):  # then whoever reads finds out
            self._connection.send({"cancel": True})

    def keep(self, owner: str, *, is_resting: bool = False) -> None:
        """Nothing: the server keeps what is worth it, by the owner of the prompt."""

    def set_adapters(self, adapters: Sequence[Adapter]) -> None:
        """Raises `SlmError` (USAGE) for any: the server has its own."""
        if adapters:
            raise only_answers()

    def close(self) -> None:
        """Nothing: the connection is the engine's."""


def only_answers() -> SlmError:
    """What this engine does not do."""
    return usage_error("the engine of slm serve gives answers, and nothing else.", "--no-server")
