"""What is said of a schema that cannot be used.

Knows: the sentence, its hint and its exit code. Refuses to know: why.
"""

from collections.abc import Mapping
from typing import Any

from slmchat.errors import ExitCode, SlmError, usage_error

_HINT = "what is supported: docs/structured.md"


class Impossible(SlmError):
    """No value is right for a schema. Its message says where and why.

    Who keeps one for later keeps `why`: an error holds the frames that it went through, and in them itself and the
    whole grammar, which only the collector finds then.
    """

    def __init__(self, why: str) -> None:
        super().__init__(f"this schema cannot be used: {why}.", hint=_HINT, exit_code=ExitCode.USAGE)
        self.why = why


def unusable(what: str) -> SlmError:
    """The error for something that is not a schema, or that is too large for one."""
    return usage_error(f"this schema cannot be used: {what}.", _HINT)


def some(schema: Mapping[str, Any], keyword: str, place: str) -> list[Any]:
    """The list that a keyword has as its value. Raises `SlmError` (USAGE) where it has none, or an empty one."""
    found = schema[keyword]
    if not isinstance(found, list) or not found:
        raise unusable(f"{keyword} in {place} is not a list with something in it")
    return found
