"""A conversation in a Python program.

Knows: what a program may do with a conversation. Refuses to know: how one goes on (generation/chat_session.py) and what
is done when its window is full.
"""

import sys
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Literal, NoReturn

from slmchat.api import arguments
from slmchat.api.options import ImageSource, pictures_of
from slmchat.api.parameters import says_parameters
from slmchat.api.questions import MessageDict, messages_of
from slmchat.api.shared_model import SharedModel
from slmchat.api.stream import Stream
from slmchat.api.turns import ModelTurn
from slmchat.conversation import window
from slmchat.conversation.messages import Conversation, Message, Role
from slmchat.conversation.pictures import Picture
from slmchat.engine.cancellable import Cancellable
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.generation.chat_session import ChatSession, Overflow
from slmchat.generation.response import Completion, NullHandler, Response, StreamHandler, completion_of
from slmchat.options import GenerationOptions

# What to do when a conversation no longer fits into its window.
Overflowing = Literal["fail", "drop", "summarise"]


class Chat:
    """A conversation with a model, in a context window of its own. Also a context manager, closed at its end.

    What has been read and said is kept in the window, so that a new message costs only itself. Threads wait for one
    another as they do with the model.
    """

    def __init__(
        self,
        shared: SharedModel,
        options: GenerationOptions,
        system: str | None,
        messages: Sequence[tuple[Literal["user", "assistant"], str] | MessageDict],
        on_overflow: Overflowing,
    ) -> None:
        """Programs use `Model.chat`. Raises `SlmError` (USAGE)."""
        n_ctx = shared.generator.n_ctx
        self._shared = shared
        self._delegate = _Delegate(shared, on_overflow)
        self._conversation = Conversation(arguments.text_or_none(system, "system"))
        for message in messages_of(messages, takes_pairs=True):
            if message.role is Role.SYSTEM:
                raise usage_error("a system message cannot be one of messages.", "chat(system=...)")
            self._conversation.add(message)
        # of the size of the model's own window, whatever suits the device by now
        options = replace(options, ctx=n_ctx)
        self._session = ChatSession(shared.opened, self._conversation, options, self._delegate)
        self._stream: weakref.ref[Stream] | None = None
        self._is_closed = False
        shared.chats.add(self)

    @property
    def messages(self) -> list[Message]:
        """What has been said, oldest first, without the system message.

        `role` ("user" or "assistant"), `text`, `thinking`, and `is_cut` where an answer was ended by something else
        than the model.
        """
        return [node.message for node in self._conversation.path()]

    @says_parameters
    def say(self, text: str, *, images: Sequence[ImageSource] = ()) -> Completion:
        """The answer to a new message.

        Raises `SlmError`: CONTEXT when the conversation does not fit into the window any more, USAGE for an empty
        message, or a closed chat. After an error the message has not been said.
        """
        shown = self._checked(text, images)
        with self._shared.turns.taken():
            return self._said(text, shown, NullHandler())

    @says_parameters
    def stream(self, text: str, *, images: Sequence[ImageSource] = ()) -> Stream:
        """As `say`, but piece by piece. Of a stream that is closed early, what came is kept (`is_cut`)."""
        shown = self._checked(text, images)
        turn = ModelTurn()
        try:
            self._shared.turns.take(turn)
            stream = self._shared.streamed(turn, lambda handler: self._said(text, shown, handler))
        except BaseException:
            self._shared.turns.give_back(turn)
            raise
        self._stream = weakref.ref(stream)
        return stream

    @says_parameters
    def go_on(self) -> Completion:
        """Let the last answer go on where it was cut, as by `max_tokens`; gives what is new of it.

        Raises `SlmError`: CONTEXT as `say` does, USAGE when there is no answer, or nothing has come of it.
        """
        self._check_open()
        with self._shared.turns.taken():
            self._delegate.listens(NullHandler())
            end = self._conversation.current
            if end is None or not end.message.text:
                raise usage_error("there is no answer to go on with.", "say() asks")
            return self._completed(self._session.go_on())

    def undo(self) -> Message:
        """Take the last message and its answer back; gives the message. Raises `SlmError` (USAGE) if there is none."""
        with self._shared.turns.taken():
            taken = self._conversation.undo()
        if taken is None:
            raise usage_error("there is nothing to undo.")
        return taken

    def close(self) -> None:
        """End its open stream and free its context window; `messages` stay. A second call does nothing."""
        if self._shared.turns.is_forked:
            return
        stream = self._stream() if self._stream is not None else None
        if stream is not None:
            stream.close()
        with self._shared.turns.taken():
            self._is_closed = True
            self._session.reopen()

    def __reduce__(self) -> NoReturn:
        raise usage_error(
            "a Chat cannot be pickled or copied: its context window is in the memory of this process.",
            "Model.chat(messages=...) begins another with what was said",
        )

    def __repr__(self) -> str:
        said = f"messages: {len(self._conversation.path())}{', closed' if self._is_closed else ''}"
        return f"<slmchat.Chat {self._shared.opened.model.key}, {said}>"

    def __enter__(self) -> "Chat":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # nobody else can be using it: no turn is taken, which another thread may have
        if not sys.is_finalizing() and hasattr(self, "_session") and not self._shared.turns.is_forked:
            self._session.reopen()

    def _check_open(self) -> None:
        self._shared.generator  # noqa: B018 - raises when the model has been closed
        if self._is_closed:
            raise usage_error("this chat has been closed.", "Model.chat() begins another")

    def _checked(self, text: str, images: Sequence[ImageSource]) -> list[Picture]:
        self._check_open()
        if not arguments.text(text, "text").strip():
            raise usage_error("the message is empty.")
        return pictures_of(images)

    def _said(self, text: str, shown: list[Picture], handler: StreamHandler) -> Completion:
        session = self._session
        session.pictures = shown
        self._delegate.listens(handler)
        return self._completed(session.send(text))

    def _completed(self, answer: Response | None) -> Completion:
        finish = self._session.last
        assert finish is not None  # the delegate never cancels before a generation has begun
        return completion_of(replace(answer or Response(), finish=finish))


class _Delegate:
    """The world of a chat without a user: the program decides beforehand. Implements `ChatDelegate`."""

    def __init__(self, shared: SharedModel, on_overflow: Overflowing) -> None:
        if not isinstance(on_overflow, str) or on_overflow not in ("fail", "drop", "summarise"):
            raise usage_error(f"on_overflow cannot be '{on_overflow}'.", "fail, drop or summarise")
        self._shared = shared
        self._on_overflow = on_overflow
        self._handler: StreamHandler = NullHandler()
        self._is_summing_up = False

    def listens(self, handler: StreamHandler) -> None:
        """From now on this handler gets the answers."""
        self._handler = handler
        self._is_summing_up = False

    def handler(self, _behind: str = "") -> StreamHandler:
        """The summary comes before the answer and is no part of it."""
        is_summary, self._is_summing_up = self._is_summing_up, False
        return NullHandler() if is_summary else self._handler

    def on_overflow(self, overflow: Overflow) -> str:
        if self._on_overflow == "fail":
            raise SlmError(
                f"{window.overflow('the conversation is', overflow.n_prompt, overflow.n_ctx)}.",
                hint='chat(on_overflow="drop") leaves the oldest exchanges out; or a larger window: load(..., ctx=N)',
                exit_code=ExitCode.CONTEXT,
            )
        self._is_summing_up = self._on_overflow == "summarise"
        return self._on_overflow

    def on_summary(self, summary: str) -> str:
        """Nobody is there to read it."""
        return "keep"

    def cancellable(self, session: Cancellable) -> AbstractContextManager[None]:
        return self._shared.running(session)

    def is_saved(self, id: str) -> bool:
        """Never: what a program says is kept nowhere."""
        return False
