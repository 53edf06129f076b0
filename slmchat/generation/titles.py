"""A title for a conversation, made by its model while nobody waits for it.

Knows: what the model is asked, which of its answers are titles, and how to stop at once when the user goes on.
Refuses to know: when a chat rests, and where titles are kept.

The first line of the first message is the title of every conversation at first. "hi" or half a sentence tells little
in a list of a hundred. A small model that is asked for a title may also answer anything else: what is not short, has
no word of the conversation or reads like an answer is no title, and the first line stays.
"""

import re
import threading
from collections.abc import Sequence

from slmchat.conversation.layouts import layout_of
from slmchat.conversation.messages import Message, Role
from slmchat.engine.api import Session
from slmchat.engine.requests import Limits
from slmchat.engine.results import FinishReason
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.thinking import ThinkingMode
from slmchat.errors import SlmError
from slmchat.generation.response import NullHandler, consume_stream
from slmchat.models.open import OpenModel
from slmchat.sanitize import Sanitizer

_REQUEST = "Write a title for our conversation: two to six words that tell what it is about. Write only the title."
_MOST_WORDS, _MOST_LETTERS = 8, 60
_MOST_TOKENS = 24
_SHOWN_LETTERS = 1_500  # of each message: a title needs no more, and it is read anew
_LEAST_SHARED = 4  # letters of a word that ties a title to what was said

# What models put around a title, and what only answers have.
_AROUND = re.compile(r"^(?:#+\s*|\**title:?\**:?\s*)+", re.IGNORECASE)
_ANSWER = re.compile(r"\b(?:conversation|i'm|i am|you|here is|here's|title)\b", re.IGNORECASE)


def title_in(answer: str, said: Sequence[Message]) -> str | None:
    """The title in what a model has answered; None where that is no title of what was `said`."""
    line = next((line.strip() for line in answer.splitlines() if line.strip()), "")
    title = " ".join(_AROUND.sub("", line).strip("\"'“”«»*_` .").split())
    words = title.split()
    if not 2 <= len(words) <= _MOST_WORDS or len(title) > _MOST_LETTERS or title.endswith(":") or _ANSWER.search(title):
        return None
    return title if _words(title) & {word for message in said for word in _words(message.text)} else None


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text.casefold()) if len(word) >= _LEAST_SHARED}


class TitleInTheMaking:
    """A thread that waits, asks the model in a context window of its own, and can be stopped at any moment.

    A window of its own: the conversation's stays as it is, for the next message to go on from.
    """

    def __init__(self, opened: OpenModel, said: Sequence[Message], *, rest_s: float) -> None:
        """`said`: the first message and its answer. `rest_s`: seconds without a word before it begins."""
        self._opened = opened
        self._said = [Message(one.role, one.text[:_SHOWN_LETTERS]) for one in said]
        self._rest_s = rest_s
        self._title: str | None = None
        self._session: Session | None = None
        self._is_over = threading.Event()
        self._lock = threading.Lock()  # between the end and the session that has just been opened
        self.is_done = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="title")
        self._thread.start()

    def stop(self) -> str | None:
        """End it; the title, if there is one by now. Takes no longer than what is computed at a time."""
        with self._lock:
            self._is_over.set()
            if self._session is not None:
                self._session.cancel()
        self._thread.join()
        return self._title

    def _run(self) -> None:
        if self._is_over.wait(self._rest_s):
            return
        try:
            self._title = self._asked()
        except SlmError:  # no memory for a second window, no place in this template: the first line stays
            self.is_done = True

    def _asked(self) -> str | None:
        engine = self._opened.engine
        layout = layout_of(engine.info, is_raw=False, mode=ThinkingMode.OFF)
        if layout.thinks:  # and cannot be kept from it: a thought takes longer than anybody rests
            self.is_done = True
            return None
        prompt = layout.render([*self._said, Message(Role.USER, _REQUEST)])
        session = self._opened.open_plain_session(engine.count(prompt) + _MOST_TOKENS + 1)
        try:
            with self._lock:
                if self._is_over.is_set():
                    return None
                self._session = session
            events = session.generate(prompt, SamplerSettings(temperature=0.0), Limits(_MOST_TOKENS))
            answer = consume_stream(events, NullHandler(), sanitizer=Sanitizer(show_invisible=False))
        finally:
            with self._lock:
                self._session = None
            session.close()
        if answer.finish is None or answer.finish.reason is FinishReason.INTERRUPTED:
            return None
        self.is_done = True
        return title_in(answer.text, self._said)
