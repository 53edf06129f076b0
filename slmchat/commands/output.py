"""Where the answer of `slm run` goes, and what of it: all or a code block, as JSON, to stdout or into a file.

Knows: `--extract`, `--extract-last`, `--json`, `-o`; that a file is replaced by a whole answer or stays as it was.
Refuses to know: how an answer is made, what is in its record.
"""

import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from slmchat import safe_json
from slmchat.conversation.code_blocks import CodeBlock, code_blocks
from slmchat.engine.results import FinishReason
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.generation.response import Completion
from slmchat.lazy_dataclasses import dataclass
from slmchat.options import OutputOptions
from slmchat.privacy.writable_paths import check_file
from slmchat.privacy.writer import FileWriter
from slmchat.private_files import replace_file, storage_error
from slmchat.terminal.console import Console
from slmchat.terminal.screen import ControlSequences
from slmchat.user_paths import user_path


@dataclass(slots=True)
class OutputFile:
    """The file of `-o`. `descriptor`: of what is no regular file (a pipe, a device) and cannot be replaced."""

    name: str
    path: Path
    descriptor: int | None = None
    _writer: FileWriter | None = None

    def keep(self) -> None:
        """Keep the right to replace the file when the seal closes. Raises `SlmError` (STORAGE)."""
        if self.descriptor is None:
            try:
                self._writer = FileWriter(self.path)
            except OSError as error:
                raise refusal_of(error, self.path) from error

    def write(self, text: str) -> None:
        """Replace the file. Raises `OSError`, and then the file is as it was."""
        data = text.encode("utf-8", "replace")
        if self.descriptor is None:
            if self._writer is None:
                replace_file(self.path, data)
                return
            try:
                self._writer.replace(data)
            finally:
                self._writer.close()
            return
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.descriptor, rest) :]


def open_target(name: str | None) -> OutputFile | None:
    """Look at the file of `-o` before anything is computed, and before the seal closes. None: stdout.

    A link stays, what it points to is replaced. Raises `SlmError`: USAGE for a directory or a file in none, STORAGE
    for what cannot be written.
    """
    if name is None or name == "-":
        return None
    path = target_of(name, "-o", "answer.txt")
    try:
        if _is_descriptor(path) or (path.exists() and not path.is_file()):
            return OutputFile(name, path, os.open(path, os.O_WRONLY | os.O_APPEND))
        path = Path(os.path.realpath(path))
        refusing = next(
            (place for place in (path.parent, path) if place.exists() and not os.access(place, os.W_OK)), None
        )
    except OSError as error:
        raise refusal_of(error, path) from error
    if refusing is not None:
        raise SlmError(f"-o: {refusing} cannot be written: permission denied.", exit_code=ExitCode.STORAGE)
    return OutputFile(name, path)


def target_of(name: str, flag: str, example: str) -> Path:
    """The path of a file that an option says is to be written. `example`: a name for it in a directory.

    Raises `SlmError`: USAGE for no name, a directory, a file in none, and where a program would run it unasked.
    """
    if not name:
        raise usage_error(f"{flag} needs the name of a file.")
    path = user_path(name)
    check_file(path, flag)
    try:
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            raise usage_error(f"{flag}: {name} is a directory.", f"{flag} {Path(name) / example}")
        folder = Path(os.path.realpath(path)).parent
        if not mode and not folder.is_dir():
            raise usage_error(f"{flag}: there is no directory {folder}.")
    except OSError as error:
        raise refusal_of(error, path) from error
    return path


def _mode(path: Path) -> int:
    """The `st_mode` of what is there, 0 for nothing. Raises `OSError` for what cannot be asked, as a name that is too
    long; `Path.exists` of Python 3.14 answers no there."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _is_descriptor(path: Path) -> bool:
    """Whether this is a descriptor by name: /dev/stdout, /dev/fd/63 (bash's `>(...)`), whatever is open there.

    A file that the shell has opened (`>> log`) is appended to; to replace it would lose what is in it.
    """
    for _ in range(8):  # links on the way: /dev/stdout, /proc/self/fd/1
        folder = os.path.realpath(path.parent)
        if folder == "/dev/fd" or re.fullmatch(r"/proc/\d+(/task/\d+)?/fd", folder):
            return path.exists()
        if not path.is_symlink():
            return False
        path = path.parent / os.readlink(path)
    return False


class OutputWriter:
    """What becomes of one answer."""

    def __init__(self, options: OutputOptions, console: Console, *, is_structured: bool, is_raw_output: bool) -> None:
        """Raises `SlmError` as `open_target` does, and USAGE for options that contradict each other."""
        given = [flag for flag, is_on in _extracting(options).items() if is_on]
        if len(given) > 1:
            raise usage_error(f"{' and '.join(given)} cannot be combined.")
        if given and is_structured:
            raise usage_error(f"{given[0]} looks for a code block, and an answer in a given format has none.")
        self.is_json = options.json
        self._flag = next(iter(given), None)
        self._console = console
        self.is_raw_output = is_raw_output
        self._target = open_target(options.output)

    def keep_target(self) -> None:
        """The seal is about to close: what is written behind it stays possible. Raises `SlmError` (STORAGE)."""
        if self._target is not None:
            self._target.keep()

    @property
    def is_streamed(self) -> bool:
        """Whether the answer goes to stdout as it comes."""
        return not self.is_json and self._flag is None and self._target is None

    def write(self, completion: Completion, record: Mapping[str, object], *, discard_partial: bool) -> None:
        """An answer that was not streamed: to where it belongs. `record` is what `--json` says of it.

        Of an interrupted answer the file never hears; `discard_partial`: nobody does.
        Raises `SlmError`: UNSATISFIED when the code block is not there or cut, STORAGE.
        """
        is_cut = completion.finish_reason is not FinishReason.STOP
        is_interrupted = completion.finish_reason is FinishReason.INTERRUPTED
        block, problem = self._block(completion.text, is_cut=is_cut) if self._flag else (None, None)
        if self.is_json:
            code = {"code": block and block.text, "language": block and block.language} if self._flag else {}
            self._put(safe_json.encode({**record, **code}), is_whole=not is_interrupted)
        elif block is not None:
            self._put(block.text, is_whole=True)
        elif problem is not None:
            self._console.note(completion.text)
        elif not (is_interrupted and discard_partial):
            self._put(completion.text + ("" if completion.text.endswith("\n") else "\n"), is_whole=not is_interrupted)
        if problem is not None and not is_interrupted:
            raise problem

    def _block(self, text: str, *, is_cut: bool) -> tuple[CodeBlock | None, SlmError | None]:
        """The code block that was asked for, or why there is none."""
        blocks = code_blocks(text)
        if not blocks:
            return None, _no_block("there is no fenced code block in the answer", "ask for one, or leave -x out")
        block = blocks[0 if self._flag == "--extract" else -1]
        if block.is_open and is_cut:
            return None, _no_block("the code block was cut off before its end", "more room: -n N, or --ctx N")
        return block, None

    def _put(self, text: str, *, is_whole: bool) -> None:
        target = self._target
        if target is None:
            self._write_here(text)
            return
        if not is_whole:
            self._write_here(text)
            self._console.note(f"{target.name} is as it was: the answer was interrupted.")
            return
        try:
            target.write(text)
        except OSError as error:
            refused = refusal_of(error, target.path)
            with suppress(OSError, SlmError):  # the other way out is closed as well
                self._write_here(text)
                self._console.note("the answer is on standard output instead.")
            raise refused from error
        self._console.note(f"written to {target.name}.")

    def _write_here(self, text: str) -> None:
        """To stdout, which may be a terminal."""
        if self.is_raw_output:
            self._console.send(ControlSequences(text))
        else:
            self._console.write(text)


def _extracting(options: OutputOptions) -> Mapping[str, bool]:
    return {"--extract": options.extract, "--extract-last": options.extract_last}


def _no_block(message: str, hint: str) -> SlmError:
    return SlmError(f"{message}.", hint=hint, exit_code=ExitCode.UNSATISFIED)


def refusal_of(error: OSError, path: Path) -> SlmError:
    """The disk's refusal; the file is not one of slm's own, so that no variable moves it."""
    refused = storage_error(error, path)
    is_full = "full" in refused.message
    hint = "make room and try again, or write elsewhere" if is_full else "write elsewhere: -o FILE"
    return SlmError(refused.message, hint=hint, exit_code=refused.exit_code)
