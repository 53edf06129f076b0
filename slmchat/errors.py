"""The one kind of error that slm shows to people, and the exit codes of its contract.

Knows: what went wrong in the user's words, the next command to try, the exit code.
Refuses to know: where it is printed (cli.py) and which library raised it (the room that owns that library
translates its exceptions into `SlmError` at its own door).
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """Exit codes of every command. Scripts rely on them. docs/commands.md has this table."""

    DONE = 0, "done"
    BUG = 1, "an error of slm's own (a bug; `SLM_DEBUG=1` shows the traceback); of `slm doctor`: something is wrong"
    WRONG = BUG  # the same number, by the name that `slm doctor` means
    USAGE = 2, "usage: an option, a name or an input that cannot be used"
    NO_MODEL = 3, "no such model, or not installed (the hint names the command that installs it)"
    NO_FIT = 4, "does not fit this device's memory"
    NETWORK = 5, "the network is needed and is sealed off or failed"
    DAMAGED = 6, "a file is damaged or not what it claims to be (checksum, GGUF structure)"
    CONTEXT = 7, "the input does not fit the context window, or the completion ran into its end"
    UNSATISFIED = 8, "the completion does not satisfy the requested schema, grammar or choice"
    UNSEALED = 9, "the seal was required and cannot be established"
    STORAGE = 10, "a file or directory cannot be read or written (permissions, full disk)"
    NO_ANSWER = 11, "the documents do not answer the question (`slm ask`)"
    ROWS_FAILED = 12, "some rows of a batch failed: their records say why (7 or 8 where all of them failed with that)"
    INTERRUPTED = 130, "interrupted"

    meaning: str

    def __new__(cls, value: int, meaning: str) -> "ExitCode":
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


class SlmError(Exception):
    """What happened, in one sentence of the user's words; `hint` says what to do next."""

    def __init__(self, message: str, *, exit_code: ExitCode, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code
        if hint:
            self.add_note(f"hint: {hint}")  # where a program lets it become a traceback

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process, which multiprocessing sends it to: by default an exception is made of its message alone,
        which this one cannot be, and a pool would wait for it for ever."""
        return _made_again, (type(self), self.args, self.__dict__)


def _made_again(kind: type[SlmError], arguments: tuple[Any, ...], state: Mapping[str, Any]) -> SlmError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


def usage_error(message: str, hint: str | None = None) -> SlmError:
    """The error for what cannot be used as it was given: an option, a name, an input."""
    return SlmError(message, hint=hint, exit_code=ExitCode.USAGE)


def is_debugged(environ: Mapping[str, str]) -> bool:
    """Whether SLM_DEBUG asks for what stands behind the one sentence; `0` and the like do not, as in other switches."""
    return environ.get("SLM_DEBUG", "").lower() not in ("", "0", "false", "no", "off")
