"""Many completions of an endpoint at once, one connection for each that is under way (`RemotePool`).

Knows: when a failure is that of a row and when that of the endpoint, how often a row that was lost is asked.
Refuses to know: threads (session_pool.py), what is sent, what a status means (client.py).
"""

from collections.abc import Callable, Iterator

from slmchat.engine.remote.client import PASSING
from slmchat.engine.remote.errors import Refusal
from slmchat.engine.remote.session import RemoteSession
from slmchat.engine.requests import Request
from slmchat.engine.results import Result
from slmchat.engine.session_pool import SessionPool
from slmchat.errors import ExitCode, SlmError
from slmchat.wording import counted

# Requests at once when nobody asks: servers that batch gain from them, one that does not has them in its queue.
AT_ONCE = 8

# A row whose answer is lost on the way (after the client's own tries for a busy server) is asked this often, with a
# pause before each further time that grows; in seconds.
_TRIES = 3
_PAUSE_S = 1.0

# An endpoint is given up when this many rows more than there are requests at once fail on the way, and none succeeds.
_MORE_THAN_AT_ONCE = 2


class RemotePool(SessionPool[RemoteSession]):
    """Completions of an endpoint side by side. Raises `SlmError` (NETWORK, USAGE, NO_MODEL) of the endpoint.

    A row that fails on the way waits until another one succeeds: then the failure was its own, and it comes out with
    its error. When none does, the endpoint is to blame, and `run` raises what it said.
    """

    def __init__(self, open_session: Callable[[], RemoteSession], most: int, why: str) -> None:
        """`most` requests at once; `why` says in words where that number comes from."""
        super().__init__(open_session, most, f"{counted(most, 'request')} at once ({why})")
        self._doubtful: list[Result] = []  # failures that may be the endpoint's
        self._has_succeeded = False

    def run(self, requests: Iterator[Request | Result]) -> Iterator[Result]:
        """Work on the requests, as `Pool` says."""
        self._doubtful.clear()
        self._has_succeeded = False
        return super().run(requests)

    def _done(self, request: Request, session: RemoteSession) -> Result | None:
        for number in range(1, _TRIES + 1):
            try:
                return self._asked(request, session)
            except SlmError as error:
                if number == _TRIES or not _may_pass(error):
                    return Result(request.id, error=error)
            if not session.pause(_PAUSE_S * number):
                return None
        raise AssertionError("the last try returns")

    def _settled(self, done: Result) -> Iterator[Result]:
        error = done.error
        if error is None:
            self._has_succeeded = True
            settled, self._doubtful = [*self._doubtful, done], []
            yield from settled
            return
        is_lost = error.exit_code is ExitCode.NETWORK
        is_refused = error.exit_code is ExitCode.USAGE and not self._has_succeeded
        if error.exit_code is ExitCode.NO_MODEL:
            raise error
        if not (is_lost or is_refused):
            yield done
            return
        self._doubtful.append(done)
        if len(self._doubtful) >= self._most + _MORE_THAN_AT_ONCE:
            raise error

    def _left(self) -> Iterator[Result]:
        if self._doubtful and not self._has_succeeded:
            assert self._doubtful[0].error is not None
            raise self._doubtful[0].error
        doubtful, self._doubtful = self._doubtful, []
        yield from doubtful


def _may_pass(error: SlmError) -> bool:
    """Whether the same request may succeed later: it was lost on the way, or the server was busy for long."""
    if isinstance(error, Refusal):
        return error.status in PASSING or error.status < 400  # an error in the middle of an answer
    return error.exit_code is ExitCode.NETWORK
