"""Programs on a pseudo-terminal, from the fork server where it can start them."""

import os
import signal
import termios
from typing import Any

import fork_server
import pexpect
import ptyprocess


class _Forked(ptyprocess.PtyProcess):  # type: ignore[misc]
    """A child of the fork server on a terminal."""

    def isalive(self) -> bool:
        if not self.terminated:
            self._ended(fork_server.wait_for(self.pid, None if self.flag_eof else 0))
        return not self.terminated

    def wait(self) -> int | None:
        if not self.terminated:
            self._ended(fork_server.wait_for(self.pid, None))
        return self.exitstatus  # type: ignore[no-any-return]

    def close(self, force: bool = True) -> None:
        """Take the terminal away, which tells the child to end (SIGHUP), and end it if it does not."""
        if self.closed:
            return
        self.flush()
        self.fileobj.close()
        self.fd, self.closed = -1, True
        if not self.terminated:
            self._ended(fork_server.wait_for(self.pid, 2))
        if not self.terminated:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def _ended(self, status: int | None) -> None:
        if status is not None:
            code = os.waitstatus_to_exitcode(status)
            self.status, self.terminated = status, True
            self.exitstatus, self.signalstatus = (code, None) if code >= 0 else (None, -code)


class Spawn(pexpect.spawn):  # type: ignore[misc]
    """`pexpect.spawn`, from the fork server where it can."""

    def _spawnpty(self, args: list[bytes], **options: Any) -> ptyprocess.PtyProcess:
        if not fork_server.can_fork(list(map(os.fsdecode, args)), options["env"]):
            return super()._spawnpty(args, **options)
        ours, theirs = os.openpty()
        termios.tcsetwinsize(theirs, options["dimensions"])
        if not options["echo"]:
            mode = termios.tcgetattr(theirs)
            mode[3] &= ~termios.ECHO
            termios.tcsetattr(theirs, termios.TCSANOW, mode)
        child = _Forked(fork_server.start_on_terminal(args, theirs, options["env"], options["cwd"]), ours)
        os.close(theirs)
        return child
