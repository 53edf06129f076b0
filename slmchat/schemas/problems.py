"""What is wrong with a value, and what an assertion of a schema is.

Knows: the place of a problem, in the words of a path. Refuses to know: keywords (check_values.py, check_containers.py).
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

Schema = Mapping[str, Any] | bool


class Problem:
    """What is wrong with a value; `path`: the names and numbers that lead to it, the innermost first."""

    __slots__ = ("path", "what")

    def __init__(self, what: str) -> None:
        self.what = what
        self.path: list[str | int] = []

    def below(self, step: str | int) -> "Problem":
        """The same, seen from one step further out."""
        self.path.append(step)
        return self

    def __str__(self) -> str:
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in reversed(self.path))
        return f"the value{place} {self.what}"


class Checker(Protocol):
    """The check of a whole schema, as an assertion of it sees it."""

    def found(self, schema: Any, value: Any) -> Problem | None:
        """The first problem of a value with one schema of the document."""
        ...

    def holds(self, schema: Any, value: Any) -> bool:
        """Whether there is none."""
        ...

    def target(self, reference: Any) -> Any:
        """What a `$ref` leads to. Raises `SlmError` (USAGE)."""
        ...


Assertion = Callable[[Checker, Any, Any, Any], Problem | None]
"""A keyword at work: the check, what the keyword asks, the value, the schema that the keyword stands in."""
