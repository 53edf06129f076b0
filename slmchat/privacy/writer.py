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
from slmchat.private_files import replace_content, replace_file, write_private

# What stands before the bytes: the length of what the file must still hold (_ANYTHING: whatever), and of what comes.
_HEAD = struct.Struct("=QQ")
_ANYTHING = 2**64 - 1


class FileWriter:
    """The right to replace one file, kept across the seal. Made before the seal closes."""

    def __init__(self, path: Path, *, is_private: bool = False) -> None:
        """`path`: its links followed. `is_private`: the file becomes the owner's alone, whatever it was.

        Raises `OSError` where no process can be started.
        """
        self._path = path
        self._is_private = is_private
        self._child: int | None = None
        if not forked.is_possible():  # nothing keeps this process from the directory
            return
        asked, asking = os.pipe()
        answers, answering = os.pipe()
        self._asking, self._answers = os.fdopen(asking, "wb"), os.fdopen(answers, "rb")
        try:
            self._child = forked.start(lambda: self._serve(asked, answering), (asked, answering))
        finally:
            os.close(asked)
            os.close(answering)

    def replace(self, content: bytes) -> None:
        """As `private_files.replace_file` or `write_private`: raises `OSError`, and then the file is as it was."""
        if self._child is None:
            self._write(None, content)
        else:
            self._ask(None, content)

    def exchange(self, before: bytes, after: bytes) -> None:
        """As `private_files.replace_content`: raises `SlmError`, and then the file is as it was."""
        if self._child is None:
            self._write(before, after)
        else:
            self._ask(before, after)

    def _write(self, before: bytes | None, content: bytes) -> None:
        if before is not None:
            replace_content(self._path, before, content)
        elif self._is_private:
            write_private(self._path, content)
        else:
            replace_file(self._path, content)

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
            raise SlmError(answer["message"], hint=answer["hint"], exit_code=ExitCode[answer["code"]])
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

    def _serve(self, asked: int, answering: int) -> None:
        """The other process: writes the file as often as it is asked, until the channel is closed."""
        _seal(self._path)
        with os.fdopen(asked, "rb") as requests, os.fdopen(answering, "wb") as answers:
            while len(head := requests.read(_HEAD.size)) == _HEAD.size:
                n_before, n_content = _HEAD.unpack(head)
                before = None if n_before == _ANYTHING else requests.read(n_before)
                content = requests.read(n_content)
                if len(content) < n_content:
                    return
                answers.write(json.dumps(self._done(before, content)).encode() + b"\n")
                answers.flush()

    def _done(self, before: bytes | None, content: bytes) -> dict[str, object]:
        """Write it; what has become of it, for the asking process to raise."""
        try:
            self._write(before, content)
        except OSError as error:
            return {"errno": error.errno or 0, "name": str(error.filename or self._path)}
        except SlmError as error:
            return {"message": error.message, "hint": error.hint, "code": error.exit_code.name}
        return {}


def _lost(path: Path) -> OSError:
    """What to say when the other process has ended: somebody has killed it."""
    return OSError(errno.ECHILD, "the process that writes it was ended", str(path))


def _seal(path: Path) -> None:
    """No network, no other process, no other directory: as far as this system can."""
    from slmchat.privacy import landlock, seccomp
    from slmchat.privacy.steps import NotOffered

    with suppress(NotOffered):
        seccomp.install_writer()
        landlock.restrict((path.parent,), has_scopes=True)
