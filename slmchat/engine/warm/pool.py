"""Many completions at once in the memory of a server of this user (`WarmPool`): a connection for each under way.

Knows: when a failure is that of the server. Refuses to know: threads (session_pool.py), what is said on a connection
(session.py).
"""

from collections.abc import Sequence

from slmchat.engine.requests import Request
from slmchat.engine.results import Result
from slmchat.engine.session_pool import SessionPool
from slmchat.engine.warm.session import WarmSession
from slmchat.errors import ExitCode


class WarmPool(SessionPool[WarmSession]):
    """A server that is gone ends `run` with its error; all else is a request's own."""

    def __init__(self, sessions: Sequence[WarmSession]) -> None:
        """As many at once as there are sessions, which are its own from here on."""
        report = f"{len(sessions)} at once, in the memory of slm serve"
        super().__init__(iter(sessions).__next__, len(sessions), report)

    def _done(self, request: Request, session: WarmSession) -> Result | None:
        done = super()._done(request, session)
        if done is not None and done.error is not None and done.error.exit_code is ExitCode.NETWORK:
            raise done.error
        return done
