"""A whole `slm run` in the process of the server: what was asked becomes an answer, and the client shows it.

A command that does this itself takes longer to import what it needs than the answer takes. The same rooms do the same
here, with the options and the settings of the client.

Knows: what is asked on the line and said back. Refuses to know: streams, exit codes (commands/warm_run.py).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from slmchat import __version__
from slmchat.conversation.attachments import Attachment
from slmchat.conversation.messages import Message, Role
from slmchat.engine.api import ModelInfo, Session
from slmchat.engine.cancellable import Cancellable
from slmchat.engine.requests import Prompt, SessionSettings
from slmchat.engine.results import Prefill
from slmchat.engine.warm.engine import AnswersOnly
from slmchat.generation import params
from slmchat.generation.generator import Generator, OneAttempt
from slmchat.generation.prompt import PromptRequest
from slmchat.generation.response import NullHandler, silence
from slmchat.models import resolve
from slmchat.models.backend import LocalModel
from slmchat.models.open import OpenModel
from slmchat.models.warm_server import WarmLocalModel
from slmchat.options import GenerationOptions
from slmchat.reporting import LogReporter
from slmchat.server.served_model import ServedWeights
from slmchat.settings import Settings

Send = Callable[[Mapping[str, Any]], None]


def is_same(asked: Mapping[str, Any], name: str, options: Sequence[str], settings: Settings) -> bool:
    """Whether the model that a client means is this one, computed in this way by this version."""
    if asked["version"] != __version__ or asked["options"] != list(options):
        return False
    found = resolve.find(asked["model"], replace(settings, model=asked["default"]), LogReporter())
    return found.key == name


def answer(
    asked: Mapping[str, Any], loaded: ServedWeights, settings: Settings, send: Send, is_gone: Callable[[], bool]
) -> dict[str, Any]:
    """Answer while it comes, through `send`; the last word: `done`, or `no` where the window here is too small.

    Raises what an answer raises, and what `send` does.
    """
    options = GenerationOptions(**asked["options"])
    settings = replace(settings, **asked["settings"])
    installed = loaded.opened.model
    assert isinstance(installed, LocalModel)
    engine = _Engine(loaded, is_gone)
    model = WarmLocalModel(installed.installed, engine, loaded.queue.n_ctx)  # type: ignore[arg-type]
    opened = OpenModel(model, options, settings, _Reporter(send))
    generator = Generator(opened)
    system = [Message(Role.SYSTEM, options.system)] if options.system else []
    piped = [Attachment(asked["piped"])] if asked["piped"].strip() else []
    request = PromptRequest(asked["instruction"], piped, system)
    thinking = params.thinking_of(options, settings)
    prepared = generator.prepare(request, is_raw=options.raw, thinking=thinking)
    if not generator.has_room_for(prepared):
        return {"no": True}
    sampler = params.sampler_settings(model, settings, options, lambda: prepared.thinks(engine))
    is_trimmed = options.on_overflow == "trim"
    prepared = generator.open_for(prepared, is_trimmed=is_trimmed)
    send({"begun": True})
    completion = generator.generate(prepared, sampler, params.limits(options), _Delegate(send))
    return {
        "done": {
            "record": completion.record(model.key, 0.0),
            "thinking": completion.thinking,
            "silence": silence(completion, completion.usage, completion.finish_reason),
            "n_ctx": generator.n_ctx,
            "n_trained": engine.info.trained_context_length,
        }
    }


class _Engine(AnswersOnly):
    """The weights and the queue of the server as an engine for one answer. Implements `Engine`, for sessions."""

    def __init__(self, loaded: ServedWeights, is_gone: Callable[[], bool]) -> None:
        self._loaded = loaded
        self._is_gone = is_gone

    @property
    def info(self) -> ModelInfo:
        return self._loaded.opened.engine.info

    def count(self, prompt: Prompt, most: int | None = None) -> int:
        return self._loaded.opened.count(prompt, most)

    def open_session(self, settings: SessionSettings) -> Session:
        return self._loaded.queue.session(self._is_gone, max(settings.n_ctx, settings.most_ctx))

    def close(self) -> None:
        """Nothing: the weights stay."""


class _Reporter(LogReporter):
    """What there is to say goes to the client; nothing of it to a log."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send = send

    def note(self, text: str) -> None:
        self._send({"note": text})

    def warn(self, text: str) -> None:
        self._send({"warn": text})

    def detail(self, text: str) -> None:
        """Who wants details does it all itself."""


class _Delegate(OneAttempt, NullHandler):
    """Implements `GenerationDelegate` and `StreamHandler`: all goes to the client."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def handler(self) -> "_Delegate":
        return self

    def cancellable(self, session: Cancellable) -> AbstractContextManager[None]:
        return nullcontext()

    def prefill(self, event: Prefill) -> None:
        self._send({"prefill": [event.done, event.total, event.cached]})

    def thinking(self, text: str) -> None:
        self._send({"thinking": text})

    def answer(self, text: str) -> None:
        self._send({"answer": text})
