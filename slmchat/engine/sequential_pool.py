"""Jobs of a batch one after the other in one session: what a pool cannot decode together, as rows with pictures.

Knows: the order of jobs, collecting a completion. Refuses to know: rows, records, how a session evaluates.
"""

from collections import deque
from collections.abc import Iterator

from slmchat.engine.api import Chance, Chunk, Done, Finish, Job, Session
from slmchat.errors import SlmError


class OneByOne:
    """Implements `Pool`. What a prompt has in common with the one before it is not evaluated again."""

    report = "one row at a time: pictures are not decoded side by side"

    def __init__(self, session: Session) -> None:
        """`session` is its own from here on: `close` closes it."""
        self._session = session
        self._again: deque[Job] = deque()
        self._is_cancelled = False

    def run(self, jobs: Iterator[Job | Done]) -> Iterator[Done]:
        """Work on the jobs, in order."""
        self._is_cancelled = False
        return self._run(jobs)

    def _run(self, jobs: Iterator[Job | Done]) -> Iterator[Done]:
        while not self._is_cancelled:
            job = self._again.popleft() if self._again else next(jobs, None)
            if job is None:
                return
            done = job if isinstance(job, Done) else self._done(job)
            if not self._is_cancelled:  # a completion that was cut off is none
                yield done

    def _done(self, job: Job) -> Done:
        text: list[str] = []
        thinking: list[str] = []
        chances: list[Chance] = []
        finish: Finish | None = None
        try:
            for event in self._session.generate(job.prompt, job.sampler, job.limits):
                if isinstance(event, Chunk):
                    (thinking if event.is_thinking else text).append(event.text)
                    chances += event.chances
                elif isinstance(event, Finish):
                    finish = event
        except SlmError as error:
            return Done(job.id, error=error)
        return Done(job.id, "".join(text), finish, thinking="".join(thinking), chances=tuple(chances))

    def again(self, job: Job) -> None:
        """Work on this job before the next one."""
        self._again.append(job)

    def cancel(self) -> None:
        """End `run` soon; from any thread or a signal handler."""
        self._is_cancelled = True
        self._session.cancel()

    def close(self) -> None:
        """Free the session."""
        self._session.close()
