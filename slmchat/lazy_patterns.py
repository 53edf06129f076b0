"""Regular expressions that are compiled when something is first looked for with them.

Python compiles them in Python: 0.1 to 1 ms each, and most starts of slm look for nothing with most of them. What a
module needs at every start is better left to `re`.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any


class LazyPattern:
    """Has the methods of `re.Pattern`, from their first use on. The functions of `re` do not take it."""

    search: Callable[..., re.Match[str] | None]
    match: Callable[..., re.Match[str] | None]
    fullmatch: Callable[..., re.Match[str] | None]
    finditer: Callable[..., Iterator[re.Match[str]]]
    findall: Callable[..., list[Any]]
    sub: Callable[..., str]
    split: Callable[..., list[Any]]

    def __init__(self, source: str, flags: int) -> None:
        self._source, self._flags = source, flags

    def __getattr__(self, name: str) -> Any:  # only what is not there yet
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(re.compile(self._source, self._flags), name)
        self.__dict__[name] = found
        return found


def lazy_pattern(source: str, flags: int = 0) -> LazyPattern:
    """As `re.compile`; a mistake in it shows at its first use."""
    return LazyPattern(source, flags)
