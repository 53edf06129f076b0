"""Requests of a batch one after the other in one session: what a pool cannot decode together, as rows with pictures.

Knows: the order of requests, collecting a completion. Refuses to know: rows, records, how a session evaluates.
"""

from collections import deque
from collections.abc import Iterable, Iterator

from slmchat.engine.api import Session
from slmchat.engine.requests import Request
from slmchat.engine.results import Chunk, Event, Finish, Result, TokenLogprob
from slmchat.errors import SlmError


def result_of(number: int, events: Iterable[Event]) -> Result:
    """What a session says of the request with this number, as a pool says it: whole. Raises what the session raises."""
    text: list[str] = []
    thinking: list[str] = []
    logprobs: list[TokenLogprob] = []
    finish: Finish | None = None
    for event in events:
        if isinstance(event, Chunk):
            (thinking if event.is_thinking else text).append(event.text)
            logprobs += event.logprobs
        elif isinstance(event, Finish):
            finish = event
    return Result(number, "".join(text), finish, thinking="".join(thinking), logprobs=tuple(logprobs))


class OneByOne:
    """Implements `Pool`. What a prompt has in common with the one before it is not evaluated again."""

    report = "one row at a time: pictures are not decoded side by side"

    def __init__(self, session: Session) -> None:
        """`session` is its own from here on: `close` closes it."""
        self._session = session
        self._resubmitted: deque[Request] = deque()
        self._is_cancelled = False

    def run(self, requests: Iterator[Request | Result]) -> Iterator[Result]:
        """Work on the requests, in order."""
        self._is_cancelled = False
        return self._run(requests)

    def _run(self, requests: Iterator[Request | Result]) -> Iterator[Result]:
        while not self._is_cancelled:
            request = self._resubmitted.popleft() if self._resubmitted else next(requests, None)
            if request is None:
                return
            done = request if isinstance(request, Result) else self._done(request)
            if not self._is_cancelled:  # a completion that was cut off is none
                yield done

    def _done(self, request: Request) -> Result:
        try:
            return result_of(request.id, self._session.generate(request.prompt, request.sampler, request.limits))
        except SlmError as error:
            return Result(request.id, error=error)

    def resubmit(self, request: Request) -> None:
        """Work on this request before the next one."""
        self._resubmitted.append(request)

    def cancel(self) -> None:
        """End `run` soon; from any thread or a signal handler."""
        self._is_cancelled = True
        self._session.cancel()

    def close(self) -> None:
        """Free the session."""
        self._session.close()
