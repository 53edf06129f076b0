"""One file that the user has named, replaced whole or not at all, by a sealed process that may not write beside it.

To replace a file is to make another one and to rename it, and the right to do that in a directory is the right to make
any file there: one that Python or a shell runs tomorrow. So the replacing is left to a process of its own (forked.py),
which knows the file's path from before the seal, is sealed itself, and writes nothing but that file. It acts on a whole
content only: when slm is killed, the file is as it was.

Knows: the channel, what the other process may still do. Refuses to know: what is in the file, whose wish it was.
"""

import errno
import json
import os
import struct
from contextlib import suppress
from pathlib import Path

from slmchat.errors import ExitCode, SlmError
from slmchat.privacy import forked
from slmchat.private_files import replace_content, replace_file

# What stands before the bytes: the length of what the file must still hold (_ANYTHING: whatever), and of what comes.
_HEAD = struct.Struct("=QQ")
_ANYTHING = 2**64 - 1


class FileWriter:
    """The right to replace one file, kept across the seal. Made before the seal closes."""

    def __init__(self, path: Path) -> None:
        """`path`: its links followed. Raises `OSError` where no process can be started."""
        self._path = path
        self._child: int | None = None
        if not forked.is_possible():  # nothing keeps this process from the directory
            return
        asked, asking = os.pipe()
        answers, answering = os.pipe()
        self._asking, self._answers = os.fdopen(asking, "wb"), os.fdopen(answers, "rb")
        try:
            self._child = forked.start(lambda: _serve(path, asked, answering), (asked, answering))
        finally:
            os.close(asked)
            os.close(answering)

    def replace(self, content: bytes) -> None:
        """As `private_files.replace_file`: raises `OSError`, and then the file is as it was."""
        if self._child is None:
            replace_file(self._path, content)
        else:
            self._ask(None, content)

    def exchange(self, before: bytes, after: bytes) -> None:
        """As `private_files.replace_content`: raises `SlmError`, and then the file is as it was."""
        if self._child is None:
            replace_content(self._path, before, after)
        else:
            self._ask(before, after)

    def _ask(self, before: bytes | None, content: bytes) -> None:
        try:
            head = _HEAD.pack(_ANYTHING if before is None else len(before), len(content))
            self._asking.write(head + (before or b"") + content)
            self._asking.flush()
            answer = json.loads(self._answers.readline() or b"null")
        except OSError as error:
            raise _lost(self._path) from error
        if answer is None:
            raise _lost(self._path)
        if "message" in answer:
            raise SlmError(answer["message"], hint=answer["hint"], exit_code=ExitCode(answer["code"]))
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]), answer["name"])

    def close(self) -> None:
        """The other process ends."""
        child, self._child = self._child, None
        if child is not None:
            with suppress(OSError):  # it has gone, and what was not written any more has been told
                self._asking.close()
            self._answers.close()
            forked.wait(child)


def _lost(path: Path) -> OSError:
    """What to say when the other process has ended: somebody has killed it."""
    return OSError(errno.ECHILD, "the process that writes it was ended", str(path))


def _serve(path: Path, asked: int, answering: int) -> None:
    """The other process: replaces the file as often as it is asked, until the channel is closed."""
    _seal(path)
    with os.fdopen(asked, "rb") as requests, os.fdopen(answering, "wb") as answers:
        while len(head := requests.read(_HEAD.size)) == _HEAD.size:
            n_before, n_content = _HEAD.unpack(head)
            before = None if n_before == _ANYTHING else requests.read(n_before)
            content = requests.read(n_content)
            if len(content) < n_content:
                return
            answers.write(json.dumps(_done(path, before, content)).encode() + b"\n")
            answers.flush()


def _done(path: Path, before: bytes | None, content: bytes) -> dict[str, object]:
    """Write it; what has become of it, for the asking process to raise."""
    try:
        if before is None:
            replace_file(path, content)
        else:
            replace_content(path, before, content)
    except OSError as error:
        return {"errno": error.errno or 0, "name": str(error.filename or path)}
    except SlmError as error:
        return {"message": error.message, "hint": error.hint, "code": int(error.exit_code)}
    return {}


def _seal(path: Path) -> None:
    """No network, no other process, no other directory: as far as this system can."""
    from slmchat.privacy import landlock, seccomp
    from slmchat.privacy.steps import NotOffered

    with suppress(NotOffered):
        seccomp.install_writer()
        landlock.restrict((path.parent,), has_scopes=True)
